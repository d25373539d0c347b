//! When a run is checkpointed (SCOPE C3): at the end of each step that a tool reports, every 300 s,
//! and before the tail to be folded on resuming grows long.

use std::time::Duration;

use steadfast_store::Timestamp;

/// When a checkpoint is due.
#[derive(Clone, Debug)]
pub struct CheckpointPolicy {
    /// Longest time between checkpoints of a run that makes progress. Default 300 s (SCOPE C3).
    pub interval: Duration,
    /// Longest tail of events since the last checkpoint. Default 64.
    pub events: u64,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { interval: Duration::from_secs(300), events: 64 }
    }
}

/// Where the last checkpoint of a run stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastCheckpoint {
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
}

impl CheckpointPolicy {
    /// Whether the append that ends with event `seq` should carry a checkpoint. The tail allowed grows
    /// with the log, so that all checkpoints of a long run together stay in proportion to it.
    pub(crate) fn due(
        &self,
        last: LastCheckpoint,
        seq: u64,
        now: Timestamp,
        step_ended: bool,
    ) -> bool {
        let interval_ms = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX);
        let tail_allowed = self.events.max(last.seq / 4);
        step_ended || now.0 - last.at.0 >= interval_ms || seq - last.seq >= tail_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(last: (u64, i64), seq: u64, now: i64, step_ended: bool) -> bool {
        let last = LastCheckpoint { seq: last.0, at: Timestamp(last.1) };
        CheckpointPolicy::default().due(last, seq, Timestamp(now), step_ended)
    }

    #[test]
    fn c3_a_checkpoint_is_due_at_step_ends_every_300_s_and_after_a_long_tail() {
        assert!(due((1, 0), 2, 0, true));
        assert!(!due((1, 0), 2, 299_999, false));
        assert!(due((1, 0), 2, 300_000, false));
        assert!(!due((1, 0), 64, 0, false));
        assert!(due((1, 0), 65, 0, false));
    }

    #[test]
    fn the_tail_allowed_grows_with_the_log() {
        assert!(!due((4_000, 0), 4_999, 0, false));
        assert!(due((4_000, 0), 5_000, 0, false));
    }
}
