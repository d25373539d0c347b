//! What the parts of a runtime share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_store::{Caps, RunId, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::checkpoint::CheckpointPolicy;
use crate::operations::Operations;
use crate::retention::Retention;
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
    /// For how long runs are kept that are over. Default: for ever.
    pub retention: Retention,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            concurrency: 10,
            lease_ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            checkpoints: CheckpointPolicy::default(),
            caps: Caps::default(),
            retention: Retention::default(),
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
    /// Rung when a run may be ready to be claimed.
    pub(crate) doorbell: Notify,
    /// The claims (run, epoch) that this node executes, each with what stops it at once.
    pub(crate) driven: Mutex<BTreeMap<(RunId, u64), CancellationToken>>,
    /// Cancelled when the node drains.
    pub(crate) drain: CancellationToken,
    /// Cancelled when the drain's time is up.
    pub(crate) halt: CancellationToken,
}

impl Shared {
    /// A run's log has grown, and it may be ready to be claimed.
    pub(crate) fn announce(&self, run: RunId, seq: u64) {
        self.notices.publish(run, seq);
        self.doorbell.notify_one();
    }

    /// Drops what this node does for a run, if it does anything.
    pub(crate) fn interrupt(&self, run: RunId) {
        for token in self.driven.lock().range((run, 0)..=(run, u64::MAX)) {
            token.1.cancel();
        }
    }
}
