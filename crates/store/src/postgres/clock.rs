//! The database's clock, as a node knows it between two looks: tokio's monotonic clock, moved by what
//! was last seen. A node's own wall clock is never read.
//!
//! A look takes a round trip, and the clock was read somewhere within it: what is shown counts from its
//! end, and so is late by no more than the round trip and never early.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Timestamp;
use crate::clock::millis;

/// A step back that is shorter is the noise of round trips and is not shown.
const NOISE_MS: i64 = 1000;

pub(super) struct DatabaseClock {
    seen: Mutex<Seen>,
}

struct Seen {
    database: Timestamp,
    /// The end of the look.
    here: Instant,
    shown: Timestamp,
}

impl DatabaseClock {
    /// A clock that was just looked at.
    pub(super) fn new(database: Timestamp) -> Self {
        Self { seen: Mutex::new(Seen { database, here: Instant::now(), shown: database }) }
    }

    /// Follows a look that has just ended.
    pub(super) fn follow(&self, database: Timestamp) {
        let mut seen = self.seen.lock();
        (seen.database, seen.here) = (database, Instant::now());
    }

    pub(super) fn now(&self) -> Timestamp {
        let mut seen = self.seen.lock();
        let elapsed = millis(Some(seen.here.elapsed()));
        let now = Timestamp(seen.database.0.saturating_add(elapsed));
        if now > seen.shown || seen.shown.0 - now.0 > NOISE_MS {
            seen.shown = now;
        }
        seen.shown
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_between_two_looks_and_follows_each() {
        let clock = DatabaseClock::new(Timestamp(5000));
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(clock.now(), Timestamp(5700));
        clock.follow(Timestamp(5690));
        assert_eq!(clock.now(), Timestamp(5700), "noise is not shown");
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(clock.now(), Timestamp(5710));
        clock.follow(Timestamp(3_600_000));
        assert_eq!(clock.now(), Timestamp(3_600_000));
        clock.follow(Timestamp(6000));
        assert_eq!(clock.now(), Timestamp(6000), "a clock that was set back is followed");
    }
}
