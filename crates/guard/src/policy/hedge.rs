//! Whether a slow read is asked for a second time while the first is still out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_most_a_year, refuse};

/// A second attempt beside one that is slow; whichever answers first counts, the other is dropped.
///
/// Only for [`Effect::Read`](crate::Effect::Read), and of a stream only up to its first item. A hedge needs
/// a permit that is free at once, a breaker that is closed, and a place in `retry.budget`; it never waits in
/// the queue. What the dropped one had reserved stays taken: it may have cost that.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, Effect, Guard, HedgePolicy, Policy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hedge = HedgePolicy { enabled: true, after: Duration::from_secs(2) };
/// let guard = Guard::new("search", Policy { hedge, ..Policy::default() })?;
/// let first_is_slow = |attempt: steadfast_guard::Attempt| async move {
///     let seconds = if attempt.number == 1 { 50 } else { 1 };
///     tokio::time::sleep(Duration::from_secs(seconds)).await;
///     Ok::<_, Infallible>(attempt.number)
/// };
/// let start = tokio::time::Instant::now();
/// let answer = guard.call(CallContext::new(Effect::Read), first_is_slow).await?;
/// assert_eq!((answer.value, start.elapsed()), (2, Duration::from_secs(3)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HedgePolicy {
    /// Default: no. A hedged model call may be paid for twice.
    pub enabled: bool,
    /// How long the first attempt has to itself. Set it near the dependency's p95, so that about every
    /// twentieth call is hedged. Default 2 s (Polly).
    #[serde(with = "humantime_serde")]
    pub after: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { enabled: false, after: Duration::from_secs(2) }
    }
}

impl HedgePolicy {
    pub(super) fn validate(&self, attempt_timeout: Duration) -> Result<(), PolicyError> {
        at_most_a_year("hedge.after", self.after)?;
        if self.enabled && self.after >= attempt_timeout {
            let problem = "the attempt is over by then; set it below `attempt_timeout`";
            return Err(refuse("hedge.after", &self.after, problem));
        }
        Ok(())
    }
}
