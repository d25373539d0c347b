//! What the parts of a runtime share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_store::{Caps, RunId, Store};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use crate::access::KeyRing;
use crate::catalog::Catalog;
use crate::checkpoint::CheckpointPolicy;
use crate::ledger::{Cashier, Terms};
use crate::operations::Operations;
use crate::problems::{Checks, ProblemHook, ProblemRules};
use crate::relay::Relay;
use crate::retention::Retention;
use crate::schedule::Timetable;
use crate::watch::Notices;

/// How a runtime executes runs.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Runs executed at once. Default 10 (SCOPE C5).
    pub concurrency: usize,
    /// Life of the node's lease; a dead node's runs are taken over after it. Default 15 s.
    pub lease_ttl: Duration,
    /// How long shutting down waits for steps under way. Default 30 s.
    pub drain_timeout: Duration,
    /// When runs are checkpointed.
    pub checkpoints: CheckpointPolicy,
    /// Runs executed at once of each tenant and agent, over all nodes. Default: no limit of its own.
    pub caps: Caps,
    /// When a run has a problem.
    pub problems: ProblemRules,
    /// Who is told of it, beside the log.
    pub on_problem: Option<ProblemHook>,
    /// For how long runs are kept that are over. Default: for ever.
    pub retention: Retention,
    /// What calls of models cost, and the budgets that they fall under. Default: [`Terms::built_in`].
    pub terms: Option<Terms>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            concurrency: 10,
            lease_ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            checkpoints: CheckpointPolicy::default(),
            caps: Caps::default(),
            problems: ProblemRules::default(),
            on_problem: None,
            retention: Retention::default(),
            terms: None,
        }
    }
}

/// What the parts of a runtime share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) options: RuntimeOptions,
    pub(crate) notices: Notices,
    pub(crate) operations: Arc<Operations>,
    pub(crate) keys: KeyRing,
    pub(crate) timetable: Timetable,
    pub(crate) checks: Arc<Checks>,
    pub(crate) cashier: Arc<Cashier>,
    pub(crate) relay: Relay,
    /// Rung when a run may be ready to be claimed.
    pub(crate) doorbell: Notify,
    /// The claims (run, epoch) that this node executes.
    pub(crate) driven: Mutex<BTreeMap<(RunId, u64), Driven>>,
    /// Set while the node holds a lease. Without one it executes nothing.
    pub(crate) leased: AtomicBool,
    /// Cancelled when the node drains.
    pub(crate) drain: CancellationToken,
    /// Cancelled when the drain's time is up, or the store takes no writes any more.
    pub(crate) halt: CancellationToken,
}

/// A claim that this node executes.
#[derive(Clone)]
pub(crate) struct Driven {
    /// Stops it at once.
    pub(crate) stop: CancellationToken,
    pub(crate) mail: Arc<Mailbell>,
}

/// Tells whoever executes a run that letters may wait for it.
#[derive(Default)]
pub(crate) struct Mailbell {
    rung: AtomicBool,
    /// Woken at each ring.
    sleepers: Notify,
}

impl Mailbell {
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends every wait for a ring: what a letter said is known.
    pub(crate) fn wake(&self) {
        self.sleepers.notify_waiters();
    }

    /// The next ring after this call.
    pub(crate) fn next(&self) -> Notified<'_> {
        self.sleepers.notified()
    }

    /// Whether it has been rung since it was last asked.
    pub(crate) fn take(&self) -> bool {
        // A plain look first: this is asked before each step.
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }
}

impl Shared {
    /// A run's log has grown, and it may be ready to be claimed.
    pub(crate) fn announce(&self, run: RunId, seq: u64) {
        self.notices.publish(run, seq);
        self.doorbell.notify_one();
    }

    /// The newest claim of a run that this node executes: its epoch, and how to reach it.
    pub(crate) fn driven_under(&self, run: RunId) -> Option<(u64, Driven)> {
        let driven = self.driven.lock();
        let newest = driven.range((run, 0)..=(run, u64::MAX)).next_back();
        newest.map(|((_, epoch), driven)| (*epoch, driven.clone()))
    }

    /// Drops what this node does for a run, if it does anything.
    pub(crate) fn interrupt(&self, run: RunId) {
        for (_, driven) in self.driven.lock().range((run, 0)..=(run, u64::MAX)) {
            driven.stop.cancel();
        }
    }

    /// Letters may wait for a run: whoever executes it here looks, or it is claimed if it was parked.
    pub(crate) fn ring(&self, run: RunId) {
        for (_, driven) in self.driven.lock().range((run, 0)..=(run, u64::MAX)) {
            driven.mail.ring();
        }
        self.doorbell.notify_one();
    }
}
