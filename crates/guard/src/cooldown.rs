//! Until when a dependency asked for quiet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A cooldown after a rate limit. Guards of deployments that share a quota share one: a 429 that one of
/// them meets quiets them all. The latest end that was ever told wins, in whatever order they are told.
///
/// ```
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, Classify, Cooldown, Effect, ErrorClass, Guard, Policy};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("429")]
/// struct TooMany;
/// impl Classify for TooMany {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::RateLimited
///     }
///     fn retry_after(&self) -> Option<Duration> {
///         Some(Duration::from_secs(300)) // longer than `retry.max_retry_after`: not slept through
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let quota = Cooldown::new();
/// let large = Guard::with_cooldown("large", Policy::default(), quota.clone())?;
/// let small = Guard::with_cooldown("small", Policy::default(), quota)?;
/// large.call(CallContext::new(Effect::Read), |_| async { Err::<(), _>(TooMany) }).await.unwrap_err();
/// assert_eq!(small.snapshot().cooldown_ms, Some(300_000));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cooldown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    anchor: Instant,
    /// Nanoseconds after the anchor; 0: never.
    until: AtomicU64,
}

impl Cooldown {
    /// A cooldown that is over.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { anchor: Instant::now(), until: AtomicU64::new(0) }) }
    }

    /// Asks for quiet until then, if that is later than what is known.
    pub(crate) fn extend(&self, until: Instant) {
        let nanos = until.saturating_duration_since(self.shared.anchor).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.shared.until.fetch_max(nanos, Ordering::AcqRel);
    }

    /// What is left of it.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let until = self.shared.until.load(Ordering::Acquire);
        if until == 0 {
            return None;
        }
        let until = self.shared.anchor + Duration::from_nanos(until);
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

impl Default for Cooldown {
    fn default() -> Self {
        Self::new()
    }
}
