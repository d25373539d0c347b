//! One node's share of the work: it keeps its lease alive, claims runs while it has room, and drives
//! each in a task of its own. Woken by the doorbell, by what other nodes tell and by the store's next
//! wake-up time; the slow poll is only a safety net.
//!
//! A store may be away and come back. A run whose driver could not write is given back then, and any node
//! claims it. A node that could not renew its lease in time lets go of everything and registers anew.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use steadfast_guard::Anomaly;
use steadfast_store::{
    Append, Changes, Disposition, Fence, HeadUpdate, NodeId, RunHead, StoreError,
};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::call::chain;
use crate::code;
use crate::driver::{Driven, Driver};
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::journal::RunJournal;
use crate::shared::Shared;
use crate::state::Status;
use crate::stored;

/// The safety net under the doorbell.
const POLL: Duration = Duration::from_secs(5);

/// Share of the lease that is left when a node that could not renew stops its drivers.
const LEASE_MARGIN: u32 = 4;

/// How long after a failed attempt to register anew the next is made.
const REGISTER: Duration = Duration::from_secs(1);

/// How long after a failed attempt to give a run back the next is made: first, and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Recorded answers forgotten at each renewal, at most: a transaction stays short.
const KEYS_PURGED: usize = 1000;

pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    node: NodeId,
    drivers: TaskTracker,
    /// The lease holds at least until then; `None` while the node has to register anew.
    lease_until: Option<Instant>,
}

impl Scheduler {
    pub(crate) async fn register(shared: Arc<Shared>, node: NodeId) -> Result<Self, RuntimeError> {
        let began = Instant::now();
        shared.store.renew(&node, shared.options.lease_ttl).await?;
        let lease_until = Some(began + shared.options.lease_ttl);
        Ok(Self { shared, node, drivers: TaskTracker::new(), lease_until })
    }

    /// Runs until the node drains; returns when every driver has ended and the node has retired.
    pub(crate) async fn run(mut self) -> Result<(), RuntimeError> {
        info!(node = %self.node, store = self.shared.store.describe(), "executing runs");
        let mut renewal = tokio::time::interval(self.shared.options.lease_ttl / 3);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let drain = self.shared.drain.clone();
        while !drain.is_cancelled() {
            let nap = tokio::select! {
                nap = self.claim() => nap,
                () = drain.cancelled() => break,
            };
            if self.lease_until.is_none() {
                renewal.reset_after(REGISTER);
            }
            tokio::select! {
                () = drain.cancelled() => break,
                _ = renewal.tick() => self.renew().await,
                () = self.shared.doorbell.notified() => {}
                changes = self.shared.store.changed() => {
                    // Heard too late it is no more than lost, and the renewal does not wait for it.
                    let until = self.stop_at().unwrap_or_else(|| Instant::now() + POLL);
                    drop(timeout_at(until, self.hear(changes)).await);
                }
                () = self.lease_runs_out() => self.let_go("it was not renewed in time"),
                () = sleep(nap) => {}
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
    async fn claim(&mut self) -> Duration {
        let Some(stop_at) = self.stop_at() else { return POLL };
        let free = self.shared.options.concurrency.saturating_sub(self.shared.driven.lock().len());
        if free == 0 {
            return POLL;
        }
        let Ok(claimed) = timeout_at(stop_at, self.shared.store.claim(&self.node, free)).await
        else {
            self.let_go("the store gives no answer");
            return POLL;
        };
        match claimed {
            Ok(heads) => {
                let full = heads.len() == free;
                for head in heads {
                    self.drive(head);
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

    async fn renew(&mut self) {
        // an episode whose calls have all stopped is over, too, and nobody else would see it
        self.shared.catalog.anomalies().for_each(Anomaly::check);
        let began = Instant::now();
        let ttl = self.shared.options.lease_ttl;
        let renewing = self.shared.store.renew(&self.node, ttl);
        let renewed = match self.stop_at() {
            Some(stop_at) => timeout_at(stop_at, renewing).await,
            None => Ok(renewing.await),
        };
        match renewed {
            Ok(Ok(())) => {
                self.lease_until = Some(began + ttl);
                if let Err(error) = self.shared.store.purge_keys(KEYS_PURGED).await {
                    warn!(node = %self.node, error = chain(&error), "cannot forget old answers");
                }
            }
            Ok(Err(StoreError::NodeLost { .. })) => self.let_go("it had expired"),
            // Whoever takes over must not find us still calling out.
            Err(_) => self.let_go("the store gives no answer"),
            Ok(Err(error)) => {
                error!(node = %self.node, error = chain(&error), "cannot renew the lease");
            }
        }
    }

    /// When a node that has not renewed its lease stops its drivers.
    fn stop_at(&self) -> Option<Instant> {
        let margin = self.shared.options.lease_ttl / LEASE_MARGIN;
        self.lease_until.map(|until| until.checked_sub(margin).unwrap_or(until))
    }

    async fn lease_runs_out(&self) {
        match self.stop_at() {
            Some(stop_at) => tokio::time::sleep_until(stop_at).await,
            None => std::future::pending().await,
        }
    }

    /// Stops every driver. What they held is taken over by whoever claims it once the lease has expired;
    /// this node goes on under another name.
    fn let_go(&mut self, why: &str) {
        warn!(node = %self.node, why, "lease lost: dropping all runs and registering anew");
        for token in self.shared.driven.lock().values() {
            token.cancel();
        }
        self.node = NodeId::generate();
        self.shared.operations.set_node(self.node.clone());
        self.lease_until = None;
    }

    /// Passes on what other nodes have done, and stops drivers whose runs they have taken.
    async fn hear(&self, changes: Changes) {
        let driven: Vec<_> = self.shared.driven.lock().keys().map(|(run, _)| *run).collect();
        let touched =
            driven.into_iter().filter(|run| changes.missed || changes.grown.contains_key(run));
        for run in touched {
            let Some((epoch, token)) = self.shared.driven_under(run) else { continue };
            if let Ok(Some(head)) = self.shared.store.head(run).await
                && head.epoch > epoch
            {
                token.cancel();
            }
        }
        if changes.missed {
            self.shared.notices.publish_missed();
        }
        for (run, seq) in changes.grown {
            self.shared.notices.publish(run, seq);
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
        Ok(Err(RuntimeError::Store(error @ StoreError::Unavailable { .. }))) => {
            give_back(shared, &head, &stop, error).await;
        }
        Ok(Err(error)) => give_up(shared, &head, &chain(&error)).await,
        Err(_) => give_up(shared, &head, "a defect in Steadfast: the driver panicked").await,
    }
}

/// A store that is away is not the run's fault: it is given back, as soon as that can be written. If the
/// node drains or has let go, somebody else does it.
async fn give_back(
    shared: &Shared,
    head: &RunHead,
    stop: &CancellationToken,
    mut error: StoreError,
) {
    let mut pause = RETRY;
    loop {
        warn!(run = %head.id, error = chain(&error), "the store is away: giving the run back");
        let released = async {
            sleep(pause).await;
            shared.store.release(head.id, head.epoch).await
        };
        let released = tokio::select! {
            released = released => released,
            () = stop.cancelled() => return,
            () = shared.drain.cancelled() => return,
        };
        match released {
            Ok(()) => return,
            Err(again @ StoreError::Unavailable { .. }) => error = again,
            Err(other) => {
                return error!(run = %head.id, error = chain(&other), "cannot give the run back");
            }
        }
        pause = (pause * 2).min(RETRY_MAX);
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
        run: head.id,
        fence: Fence::Holding { epoch: head.epoch },
        expected_seq: now.head_seq,
        events: vec![packed],
        blobs,
        checkpoint: None,
        head: Some(HeadUpdate {
            state: Status::Failed.as_str().to_owned(),
            disposition: Disposition::Ended,
            summary: now.summary,
        }),
        keys: Vec::new(),
    };
    match shared.store.append(append).await {
        Ok(appended) => shared.notices.publish(head.id, appended.head_seq),
        Err(error) => error!(run = %head.id, error = chain(&error), "cannot record the failure"),
    }
}
