//! One node's share of the work: it keeps its lease alive, claims runs while it has room, and drives
//! each in a task of its own. Woken by the doorbell, by what other nodes tell and by the store's next
//! wake-up time; the slow poll is only a safety net.
//!
//! A store may be away and come back. A run whose driver could not write is given back then, and any node
//! claims it. A node that could not renew its lease in time lets go of everything and registers anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::Anomaly;
use steadfast_store::{Changes, NodeId, RunHead, StoreError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::call::chain;
use crate::claimed::drive;
use crate::error::RuntimeError;
use crate::lease::Lease;
use crate::problems::Monitor;
use crate::schedule;
use crate::shared::{Driven, Mailbell, Shared};

/// The safety net under the doorbell.
const POLL: Duration = Duration::from_secs(5);

/// Recorded answers forgotten at each renewal, at most: a transaction stays short.
const KEYS_PURGED: usize = 1000;

/// Facts that no longer hold and are removed at each renewal, at most.
const FACTS_PURGED: usize = 1000;

pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    /// Under the node's present name.
    lease: Mutex<Arc<Lease>>,
    drivers: TaskTracker,
}

impl Scheduler {
    pub(crate) async fn register(shared: Arc<Shared>, node: NodeId) -> Result<Self, RuntimeError> {
        let began = Instant::now();
        shared.store.renew(&node, shared.options.lease_ttl).await?;
        let lease = Lease::new(node);
        lease.renewed(began, shared.options.lease_ttl);
        Ok(Self { shared, lease: Mutex::new(Arc::new(lease)), drivers: TaskTracker::new() })
    }

    /// Runs until the node drains; returns when every driver has ended and the node has retired.
    pub(crate) async fn run(self) -> Result<(), RuntimeError> {
        let store = &self.shared.store;
        info!(node = %self.lease().node, store = store.describe(), "executing runs");
        // Side by side: a claim that gets no answer must not keep the lease from being renewed, or let
        // go of. It is kept while the last steps end: nobody may take their runs meanwhile.
        self.drivers.spawn(Monitor::new(Arc::clone(&self.shared)).run());
        tokio::select! {
            () = self.work() => {}
            () = self.keep_lease() => {}
            () = self.listen() => {}
            () = schedule::keep(&self.shared) => {}
        }
        self.shared.operations.drain().await;
        let node = &self.lease().node;
        store.retire(node).await?;
        info!(%node, "no longer executing runs");
        Ok(())
    }

    fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.lease.lock())
    }

    async fn work(&self) {
        let drain = &self.shared.drain;
        while !drain.is_cancelled() {
            if let Err(error) = self.shared.store.writable() {
                // Nothing that a step brings about could be recorded: none may go on.
                error!(error = chain(&error), "executing nothing until this is mended");
                self.shared.halt.cancel();
                break;
            }
            tokio::select! {
                () = drain.cancelled() => {}
                () = self.claim_and_rest() => {}
            }
        }
        self.drivers.close();
        self.drivers.wait().await;
    }

    async fn claim_and_rest(&self) {
        let nap = self.claim().await;
        tokio::select! {
            () = self.shared.doorbell.notified() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }

    /// Fills the free places with runs; returns how long nothing can be due.
    async fn claim(&self) -> Duration {
        let lease = self.lease();
        let free = self.shared.options.concurrency.saturating_sub(self.shared.driven.lock().len());
        if free == 0 || lease.until().is_none() {
            return POLL;
        }
        match self.shared.store.claim(&lease.node, free, &self.shared.options.caps).await {
            // The answer came too late: the lease that it was made under has been let go of, and with
            // it these runs.
            Ok(_) if !Arc::ptr_eq(&self.lease(), &lease) => Duration::ZERO,
            Ok(heads) => {
                let full = heads.len() == free;
                for head in heads {
                    self.drive(&lease, head);
                }
                if full { POLL } else { self.until_next_wake().await }
            }
            Err(StoreError::NodeLost { .. }) => {
                self.let_go("it had expired");
                POLL
            }
            Err(error) => {
                error!(error = chain(&error), "cannot claim runs");
                POLL
            }
        }
    }

    async fn until_next_wake(&self) -> Duration {
        let next = self.shared.store.next_wake().await.ok().flatten();
        let left_ms = next.map(|at| at.0.saturating_sub(self.shared.store.now().0).max(1));
        let left = left_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        left.map_or(POLL, |left| left.min(POLL))
    }

    /// Renews the lease in time, or lets go of it in time.
    async fn keep_lease(&self) {
        let ttl = self.shared.options.lease_ttl;
        let mut renewal = tokio::time::interval(ttl / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let lease = self.lease();
            let until = lease.until();
            let end = until.unwrap_or_else(|| Instant::now() + ttl);
            let renewed = async {
                renewal.tick().await;
                self.renew().await;
            };
            let in_time = tokio::time::timeout_at(end, renewed).await.is_ok();
            // It may be renewed, and what was begun after it hang.
            if !in_time && until.is_some() && self.lease().until() == until {
                self.let_go("it could not be renewed in time");
            }
        }
    }

    async fn renew(&self) {
        // an episode whose calls have all stopped is over, too, and nobody else would see it
        self.shared.catalog.anomalies().for_each(Anomaly::check);
        let (began, ttl) = (Instant::now(), self.shared.options.lease_ttl);
        let lease = self.lease();
        let node = &lease.node;
        match self.shared.store.renew(node, ttl).await {
            Ok(()) => {
                let was_held = lease.renewed(began, ttl);
                self.shared.leased.store(true, Ordering::Relaxed);
                // The net under the bell: another node may have sent a letter to a run of ours.
                self.shared.driven.lock().values().for_each(|driven| driven.mail.ring());
                if !was_held {
                    info!(%node, "executing runs again");
                    self.shared.doorbell.notify_one();
                }
            }
            Err(StoreError::NodeLost { .. }) => return self.let_go("it has expired"),
            Err(error) => return error!(%node, error = chain(&error), "cannot renew the lease"),
        }
        if let Err(error) = self.shared.store.purge_keys(KEYS_PURGED).await {
            warn!(%node, error = chain(&error), "cannot forget old answers");
        }
        if let Err(error) = self.shared.store.purge_facts(FACTS_PURGED).await {
            warn!(%node, error = chain(&error), "cannot forget old facts");
        }
        if let Err(error) = self.shared.keys.write_uses().await {
            warn!(%node, error = chain(&error), "cannot note which access keys were used");
        }
    }

    /// Whoever takes the runs over must not find us still calling out. What was held stays held under the
    /// old name until its lease has expired; under the new one nothing is held.
    fn let_go(&self, why: &str) {
        let node = NodeId::generate();
        self.shared.operations.set_node(node.clone());
        self.shared.leased.store(false, Ordering::Relaxed);
        let new = Arc::new(Lease::new(node));
        let old = std::mem::replace(&mut *self.lease.lock(), new);
        old.give_up();
        warn!(node = %old.node, "letting go of the lease and of all runs: {why}");
        self.stop_drivers();
    }

    fn stop_drivers(&self) {
        for driven in self.shared.driven.lock().values() {
            driven.stop.cancel();
        }
    }

    /// Passes on what other nodes have done.
    async fn listen(&self) {
        loop {
            let changes = self.shared.store.changed().await;
            self.hear(changes).await;
            self.shared.doorbell.notify_one();
        }
    }

    /// Tells those who watch and those who execute, and stops drivers whose runs others have taken.
    async fn hear(&self, changes: Changes) {
        let driven: Vec<_> = self.shared.driven.lock().keys().map(|(run, _)| *run).collect();
        let touched =
            driven.into_iter().filter(|run| changes.missed || changes.grown.contains_key(run));
        for run in touched {
            let Some((epoch, driven)) = self.shared.driven_under(run) else { continue };
            match self.shared.store.head(run).await {
                Ok(Some(head)) if head.epoch > epoch => driven.stop.cancel(),
                // It may have been a letter.
                _ => driven.mail.ring(),
            }
        }
        if changes.missed {
            self.shared.notices.publish_missed();
        }
        for (run, seq) in changes.grown {
            self.shared.notices.publish(run, seq);
        }
    }

    fn drive(&self, lease: &Arc<Lease>, head: RunHead) {
        let place = (head.id, head.epoch);
        let stop = self.shared.halt.child_token();
        let driven = Driven { stop, mail: Arc::new(Mailbell::default()) };
        self.shared.driven.lock().insert(place, driven.clone());
        let (shared, lease) = (Arc::clone(&self.shared), Arc::clone(lease));
        let parent = head.parent;
        self.drivers.spawn(async move {
            drive(&shared, &lease, head, driven).await;
            shared.driven.lock().remove(&place);
            match parent {
                // It may have been told that this one is over.
                Some(parent) => shared.ring(parent),
                None => shared.doorbell.notify_one(),
            }
        });
    }
}
