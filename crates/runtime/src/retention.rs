//! How long runs are kept that are over. By default for ever.
//!
//! Each node looks from time to time and removes a few at once; that several do it at the same time does
//! no harm.

use std::sync::Arc;
use std::time::Duration;

use steadfast_store::{Prune, Pruned, StoreError, Timestamp};
use tracing::{info, warn};

use crate::call::chain;
use crate::shared::Shared;
use crate::state::Status;

/// Runs that are removed at once.
const RUNS: usize = 100;

/// The pause before more are removed.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest and the shortest time between two looks.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// For how long a run is kept after it has ended, by how it ended; `None` is for ever, the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// With an answer.
    pub succeeded: Option<Duration>,
    /// Without one. A run that was removed can be neither resumed nor forked.
    pub failed: Option<Duration>,
    /// By somebody.
    pub cancelled: Option<Duration>,
}

impl Retention {
    fn rules(&self) -> impl Iterator<Item = (Status, Duration)> {
        let rules = [
            (Status::Succeeded, self.succeeded),
            (Status::Failed, self.failed),
            (Status::Cancelled, self.cancelled),
        ];
        rules.into_iter().filter_map(|(status, keep)| keep.map(|keep| (status, keep)))
    }

    /// How long to wait between two looks; `None` if nothing is ever removed.
    fn look(&self) -> Option<Duration> {
        let shortest = self.rules().map(|(_, keep)| keep).min()?;
        Some(shortest.clamp(LOOK.0, LOOK.1))
    }
}

/// Removes what is over and has been kept long enough, until the node drains.
pub(crate) async fn run(shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    tokio::select! {
        () = drain.cancelled() => {}
        () = keep(&shared) => {}
    }
}

async fn keep(shared: &Shared) {
    // What an earlier node was interrupted in goes first.
    let rest = Prune { states: Vec::new(), ended_before: Timestamp::default(), limit: 0 };
    if let Err(error) = shared.store.prune(&rest).await {
        warn!(error = chain(&error), "cannot finish removing what an earlier node began to remove");
    }
    let Some(look) = shared.options.retention.look() else { return };
    loop {
        tokio::time::sleep(look).await;
        match round(shared).await {
            Ok(pruned) if pruned.is_nothing() => {}
            Ok(Pruned { runs, events, blobs, bytes }) => {
                info!(runs, events, blobs, bytes, "removed runs that were kept long enough");
            }
            Err(error) => warn!(error = chain(&error), "cannot remove old runs"),
        }
    }
}

async fn round(shared: &Shared) -> Result<Pruned, StoreError> {
    let mut all = Pruned::default();
    for (status, keep) in shared.options.retention.rules() {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let prune = Prune {
            states: vec![status.as_str().to_owned()],
            ended_before: Timestamp(shared.store.now().0.saturating_sub(keep_ms)),
            limit: RUNS,
        };
        loop {
            let pruned = shared.store.prune(&prune).await?;
            all = all.plus(pruned);
            if pruned.runs < RUNS as u64 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(all)
}
