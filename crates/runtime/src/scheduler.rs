//! One node's share of the work: it keeps its lease alive, claims runs while it has room, and drives
//! each in a task of its own. Woken by the doorbell and by the store's next wake-up time; the slow
//! poll is only a safety net.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
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
use crate::problems::Monitor;
use crate::shared::Shared;
use crate::state::Status;
use crate::stored;

/// The safety net under the doorbell.
const POLL: Duration = Duration::from_secs(5);

/// Share of the lease that is left when a node that could not renew stops its drivers.
const LEASE_MARGIN: u32 = 4;

/// Recorded answers forgotten at each renewal, at most: a transaction stays short.
const KEYS_PURGED: usize = 1000;

/// Facts that no longer hold and are removed at each renewal, at most.
const FACTS_PURGED: usize = 1000;

pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    node: NodeId,
    drivers: TaskTracker,
    /// The lease holds at least until then.
    lease_until: Instant,
}

impl Scheduler {
    pub(crate) async fn register(shared: Arc<Shared>, node: NodeId) -> Result<Self, RuntimeError> {
        let began = Instant::now();
        shared.store.renew(&node, shared.options.lease_ttl).await?;
        let lease_until = began + shared.options.lease_ttl;
        Ok(Self { shared, node, drivers: TaskTracker::new(), lease_until })
    }

    /// Runs until the node drains; returns when every driver has ended and the node has retired.
    pub(crate) async fn run(mut self) -> Result<(), RuntimeError> {
        info!(node = %self.node, store = self.shared.store.describe(), "executing runs");
        let mut renewal = tokio::time::interval(self.shared.options.lease_ttl / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.drivers.spawn(Monitor::new(Arc::clone(&self.shared)).run());
        let drain = self.shared.drain.clone();
        loop {
            if drain.is_cancelled() {
                break;
            }
            let nap = self.claim().await;
            tokio::select! {
                () = drain.cancelled() => break,
                _ = renewal.tick() => self.renew().await,
                () = self.shared.doorbell.notified() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
        self.drivers.close();
        // The lease is kept while the last steps end: nobody may take their runs meanwhile.
        loop {
            tokio::select! {
                () = self.drivers.wait() => break,
                _ = renewal.tick() => self.renew().await,
            }
        }
        self.shared.operations.drain().await;
        self.shared.store.retire(&self.node).await?;
        info!(node = %self.node, "no longer executing runs");
        Ok(())
    }

    /// Fills the free places with runs; returns how long nothing can be due.
    async fn claim(&self) -> Duration {
        let free = self.shared.options.concurrency.saturating_sub(self.shared.driven.lock().len());
        if free == 0 {
            return POLL;
        }
        match self.shared.store.claim(&self.node, free, &self.shared.options.caps).await {
            Ok(heads) => {
                let full = heads.len() == free;
                for head in heads {
                    self.drive(head);
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

    async fn renew(&mut self) {
        // an episode whose calls have all stopped is over, too, and nobody else would see it
        self.shared.catalog.anomalies().for_each(Anomaly::check);
        let began = Instant::now();
        let ttl = self.shared.options.lease_ttl;
        match self.shared.store.renew(&self.node, ttl).await {
            Ok(()) => {
                self.lease_until = began + ttl;
                if let Err(error) = self.shared.store.purge_keys(KEYS_PURGED).await {
                    warn!(node = %self.node, error = chain(&error), "cannot forget old answers");
                }
                if let Err(error) = self.shared.store.purge_facts(FACTS_PURGED).await {
                    warn!(node = %self.node, error = chain(&error), "cannot forget old facts");
                }
            }
            Err(StoreError::NodeLost { .. }) => {
                warn!(node = %self.node, "lease lost: dropping all runs and registering anew");
                self.stop_drivers();
                self.node = NodeId::generate();
                self.shared.operations.set_node(self.node.clone());
            }
            Err(error) => {
                error!(node = %self.node, error = chain(&error), "cannot renew the lease");
                // Whoever takes over must not find us still calling out.
                if began + ttl / LEASE_MARGIN >= self.lease_until {
                    self.stop_drivers();
                }
            }
        }
    }

    fn stop_drivers(&self) {
        for token in self.shared.driven.lock().values() {
            token.cancel();
        }
    }

    fn drive(&self, head: RunHead) {
        let stop = self.shared.halt.child_token();
        let place = (head.id, head.epoch);
        self.shared.driven.lock().insert(place, stop.clone());
        let shared = Arc::clone(&self.shared);
        let node = self.node.clone();
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
        let check = shared.checks.enter(&head, &shared.catalog);
        let notices = shared.notices.clone();
        let mut journal = RunJournal::open(store, notices, policy, &head, check).await?;
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
