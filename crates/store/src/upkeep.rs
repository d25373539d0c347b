//! Upkeep: what is over is removed in the end, and what the medium can say of itself.

use async_trait::async_trait;

use crate::{RunHead, StoreError, Timestamp};

/// Rows that one transaction of [`Upkeep::prune`] removes, at most: so long do others wait for it.
pub const PRUNE_ROWS_MAX: usize = 1000;

/// Bytes of bodies that one transaction of [`Upkeep::prune`] removes, about (8 MiB).
pub const PRUNE_BYTES: u64 = 8 * 1024 * 1024;

/// Which runs are removed. Only runs that have ended ever are.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Only in one of these states; empty means any.
    pub states: Vec<String>,
    /// Only those whose card was last changed, and which were created, before this time. A run that
    /// has ended changes no more, so this is when it ended.
    pub ended_before: Timestamp,
    /// Runs, at most, oldest first; 0 only finishes what an interrupted call has left.
    pub limit: usize,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Runs.
    pub runs: u64,
    /// Their events.
    pub events: u64,
    /// Blobs that no other run refers to.
    pub blobs: u64,
    /// The bytes of these events and blobs, and of the runs' checkpoints and letters.
    pub bytes: u64,
}

impl Pruned {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            events: self.events + other.events,
            blobs: self.blobs + other.blobs,
            bytes: self.bytes + other.bytes,
        }
    }

    /// Whether nothing was removed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Prune {
    /// Whether a run may go, as far as its own card says.
    pub(crate) fn wants(&self, head: &RunHead) -> bool {
        head.disposition == crate::Disposition::Ended
            && head.updated_at < self.ended_before
            && head.created_at < self.ended_before
            && (self.states.is_empty() || self.states.contains(&head.state))
    }
}

/// Removing what is over, and looking for damage.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Removes runs that have ended, with their logs, checkpoints, letters, labels, their submissions'
    /// keys (which are free again), and the blobs that nobody else refers to. A run stays while the run
    /// that started it, or one that it started, has not ended. Recorded answers of operations and facts
    /// have times of their own and stay.
    ///
    /// It works in transactions of at most [`PRUNE_ROWS_MAX`] rows, between which others write. A crash,
    /// or a dropped future, leaves each run there as a whole or gone; what of a large log is still to be
    /// removed then is seen by nobody, and the next call goes on with it. Calling it twice, also from
    /// two nodes at once, does no harm.
    ///
    /// # Errors
    /// The medium failed.
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError>;

    /// What the medium finds wrong with itself, and rows that belong to nothing, as sentences; at most a
    /// few hundred. It reads everything.
    ///
    /// # Errors
    /// The medium failed.
    async fn examine(&self) -> Result<Vec<String>, StoreError>;
}
