//! The store's wall clock: the one place of this crate that reads time.
//!
//! It is anchored to the machine's wall clock once and then follows tokio's monotonic clock, so that
//! it never goes back, and so that a test that pauses or advances tokio's time moves leases and
//! wake-up times with it. A monotonic clock stands still while a machine sleeps; therefore a lead of
//! the wall clock of a second or more is added, in whole seconds, once it is seen. A wall clock that
//! is set back is not followed before the store is opened again.
//!
//! Only the caller's side reads it: a thread of its own is outside the runtime whose time is paused.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::Timestamp;

pub(crate) struct Clock {
    wall: std::time::SystemTime,
    machine: std::time::Instant,
    tokio: tokio::time::Instant,
    lead_ms: AtomicI64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this file is the crate's clock")]
    pub(crate) fn start() -> Self {
        Self {
            wall: std::time::SystemTime::now(),
            machine: std::time::Instant::now(),
            tokio: tokio::time::Instant::now(),
            lead_ms: AtomicI64::new(0),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this file is the crate's clock")]
    pub(crate) fn now(&self) -> Timestamp {
        let wall_ms = millis(std::time::SystemTime::now().duration_since(self.wall).ok());
        let machine_ms = millis(Some(std::time::Instant::now().duration_since(self.machine)));
        let lead_ms = lead(wall_ms, machine_ms);
        let lead_ms = self.lead_ms.fetch_max(lead_ms, Ordering::AcqRel).max(lead_ms);
        let anchor_ms = millis(self.wall.duration_since(UNIX_EPOCH).ok());
        let elapsed_ms = millis(Some(self.tokio.elapsed()));
        Timestamp(anchor_ms.saturating_add(elapsed_ms).saturating_add(lead_ms))
    }
}

/// How far the wall clock has run ahead of the monotonic one, in milliseconds, in whole seconds.
fn lead(wall_ms: i64, machine_ms: i64) -> i64 {
    wall_ms.saturating_sub(machine_ms).max(0) / 1000 * 1000
}

pub(crate) fn millis(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_moves_with_paused_time_to_the_millisecond() {
        let clock = Clock::start();
        let before = clock.now();
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert_eq!(clock.now().0 - before.0, 4_999);
    }

    #[test]
    fn a_machine_that_slept_is_caught_up_with_and_one_set_back_is_not_followed() {
        assert_eq!(lead(10_000, 10_000), 0);
        assert_eq!(lead(10_999, 10_000), 0);
        assert_eq!(lead(3_610_400, 10_000), 3_600_000);
        assert_eq!(lead(0, 10_000), 0);
    }
}
