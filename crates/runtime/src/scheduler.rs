//! One node's share of the work: it keeps its lease alive, claims runs while it has room, and drives
//! each in a task of its own. Woken by the doorbell and by the store's next wake-up time; the slow
//! poll is only a safety net.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use steadfast_guard::Anomaly;
use steadfast_store::{Append, Disposition, Fence, HeadUpdate, NodeId, RunHead, StoreError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::call::chain;
use crate::code;
use crate::driver::{Driven, Driver};
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::journal::RunJournal;
use crate::schedule;
use crate::shared::Shared;
use crate::state::Status;
use crate::stored;

/// The safety net under the doorbell.
const POLL: Duration = Duration::from_secs(5);

/// Share of the lease that is left when a node that could not renew it lets go of its runs.
const LEASE_MARGIN: u32 = 4;

/// Recorded answers forgotten at each renewal, at most: a transaction stays short.
const KEYS_PURGED: usize = 1000;

pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    lease: Mutex<Lease>,
    drivers: TaskTracker,
}

/// A node's right to its runs.
#[derive(Clone)]
struct Lease {
    node: NodeId,
    /// It holds at least until then; `None` while the node is not registered.
    until: Option<Instant>,
}

impl Scheduler {
    pub(crate) async fn register(shared: Arc<Shared>, node: NodeId) -> Result<Self, RuntimeError> {
        let began = Instant::now();
        shared.store.renew(&node, shared.options.lease_ttl).await?;
        let lease = Lease { node, until: Some(began + shared.options.lease_ttl) };
        Ok(Self { shared, lease: Mutex::new(lease), drivers: TaskTracker::new() })
    }

    /// Runs until the node drains; returns when every driver has ended and the node has retired.
    pub(crate) async fn run(self) -> Result<(), RuntimeError> {
        let store = &self.shared.store;
        info!(node = %self.lease.lock().node, store = store.describe(), "executing runs");
        // Side by side: a claim that gets no answer must not keep the lease from being renewed, or let
        // go of. It is kept while the last steps end: nobody may take their runs meanwhile.
        tokio::select! {
            () = self.work() => {}
            () = self.keep_lease() => {}
            () = schedule::keep(&self.shared) => {}
        }
        self.shared.operations.drain().await;
        let node = self.lease.lock().node.clone();
        store.retire(&node).await?;
        info!(%node, "no longer executing runs");
        Ok(())
    }

    async fn work(&self) {
        let drain = &self.shared.drain;
        while !drain.is_cancelled() {
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
        let Lease { node, until } = self.lease.lock().clone();
        let free = self.shared.options.concurrency.saturating_sub(self.shared.driven.lock().len());
        if free == 0 || until.is_none() {
            return POLL;
        }
        match self.shared.store.claim(&node, free, &self.shared.options.caps).await {
            // The answer came too late: the lease that it was made under has been let go of, and with
            // it these runs.
            Ok(_) if self.lease.lock().node != node => Duration::ZERO,
            Ok(heads) => {
                let full = heads.len() == free;
                for head in heads {
                    self.drive(&node, head);
                }
                if full { POLL } else { self.until_next_wake().await }
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
            let until = self.lease.lock().until;
            let margin = ttl / LEASE_MARGIN;
            let end = until.map_or_else(|| Instant::now() + ttl, |until| until - margin);
            let renewed = async {
                renewal.tick().await;
                self.renew().await;
            };
            let in_time = tokio::time::timeout_at(end, renewed).await.is_ok();
            // It may be renewed, and what was begun after it hang.
            if !in_time && until.is_some() && self.lease.lock().until == until {
                self.let_go("it could not be renewed in time");
            }
        }
    }

    async fn renew(&self) {
        // an episode whose calls have all stopped is over, too, and nobody else would see it
        self.shared.catalog.anomalies().for_each(Anomaly::check);
        let (began, ttl) = (Instant::now(), self.shared.options.lease_ttl);
        let node = self.lease.lock().node.clone();
        match self.shared.store.renew(&node, ttl).await {
            Ok(()) => {
                let before = self.lease.lock().until.replace(began + ttl);
                if before.is_none() {
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
    }

    /// Whoever takes the runs over must not find us still calling out. What was held stays held under the
    /// old name until its lease has expired; under the new one nothing is held.
    fn let_go(&self, why: &str) {
        let node = NodeId::generate();
        self.shared.operations.set_node(node.clone());
        let old = std::mem::replace(&mut *self.lease.lock(), Lease { node, until: None });
        warn!(node = %old.node, "letting go of the lease and of all runs: {why}");
        self.stop_drivers();
    }

    fn stop_drivers(&self) {
        for token in self.shared.driven.lock().values() {
            token.cancel();
        }
    }

    fn drive(&self, node: &NodeId, head: RunHead) {
        let stop = self.shared.halt.child_token();
        let place = (head.id, head.epoch);
        self.shared.driven.lock().insert(place, stop.clone());
        let shared = Arc::clone(&self.shared);
        let node = node.clone();
        self.drivers.spawn(async move {
            drive_one(&shared, &node, head, stop).await;
            shared.driven.lock().remove(&place);
            shared.doorbell.notify_one();
        });
    }
}

async fn drive_one(shared: &Arc<Shared>, node: &NodeId, head: RunHead, stop: CancellationToken) {
    let run = head.id;
    let driving = async {
        let policy = shared.options.checkpoints.clone();
        let store = Arc::clone(&shared.store);
        let mut journal = RunJournal::open(store, shared.notices.clone(), policy, &head).await?;
        let claimed = RunEvent::Claimed { node: node.to_string(), epoch: head.epoch };
        journal.append(vec![claimed]).await?;
        let clock = Arc::clone(&shared.store);
        let now = Box::new(move || clock.now());
        if let Some(code) = shared.catalog.code(&head.agent) {
            let (catalog, drain) = (Arc::clone(&shared.catalog), shared.drain.clone());
            return match code::drive(code, journal, catalog, now, drain).await? {
                code::Ended::Settled => Ok(Driven::Settled),
                code::Ended::Drained => Ok(Driven::Drained),
            };
        }
        let driver = Driver {
            catalog: Arc::clone(&shared.catalog),
            journal,
            operations: Arc::clone(&shared.operations),
            drain: shared.drain.clone(),
            now,
        };
        driver.drive().await
    };
    let ended = tokio::select! {
        ended = AssertUnwindSafe(driving).catch_unwind() => ended,
        // Dropping the future is the interruption: what was under way is settled by the next claim.
        () = stop.cancelled() => return debug!(%run, "interrupted"),
    };
    match ended {
        Ok(Ok(driven)) => debug!(%run, ?driven, "driven"),
        Ok(Err(RuntimeError::Store(StoreError::Fenced { .. } | StoreError::Conflict { .. }))) => {
            debug!(%run, "somebody else has the run now");
        }
        Ok(Err(error)) => give_up(shared, &head, &chain(&error)).await,
        Err(_) => give_up(shared, &head, "a defect in Steadfast: the driver panicked").await,
    }
}

/// A run that cannot be driven (its log is damaged, its state contradicts an event) must not be
/// claimed again and again: it fails, visibly.
async fn give_up(shared: &Shared, head: &RunHead, problem: &str) {
    let message = format!("cannot be executed: {problem}");
    error!(run = %head.id, error = message, "giving up on the run");
    let stop = StopReason::Error { class: steadfast_guard::ErrorClass::Internal };
    let event = RunEvent::Failed { stop, message };
    let (Ok((packed, blobs)), Ok(Some(now))) =
        (stored::pack_event(&event), shared.store.head(head.id).await)
    else {
        return;
    };
    let append = Append {
        events: vec![packed],
        blobs,
        head: Some(HeadUpdate {
            state: Status::Failed.as_str().to_owned(),
            disposition: Disposition::Ended,
            problem: now.problem,
            summary: now.summary,
        }),
        ..Append::new(head.id, Fence::Holding { epoch: head.epoch }, now.head_seq)
    };
    match shared.store.append(append).await {
        Ok(appended) => shared.notices.publish(head.id, appended.head_seq),
        Err(error) => error!(run = %head.id, error = chain(&error), "cannot record the failure"),
    }
}
