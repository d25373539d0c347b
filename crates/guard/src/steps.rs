//! Time limits of a turn's steps (SCOPE R4): a critical step that is late fails the turn, an optional one is
//! skipped.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

/// The time limit of a step, and what a late one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLimit {
    /// How long it may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Whether nothing goes on without it.
    pub critical: bool,
}

impl StepLimit {
    /// Planning: 15 s, critical (SCOPE R4).
    pub const PLANNING: Self = Self { timeout: Duration::from_secs(15), critical: true };
    /// Searching for tools: 10 s, optional.
    pub const TOOL_SEARCH: Self = Self { timeout: Duration::from_secs(10), critical: false };
    /// Executing a tool: 45 s, optional.
    pub const TOOL_EXECUTION: Self = Self { timeout: Duration::from_secs(45), critical: false };
    /// Writing the response: 20 s, critical.
    pub const RESPONSE: Self = Self { timeout: Duration::from_secs(20), critical: true };

    /// Runs a step. `Ok(None)`: it was optional, late, and is skipped. It never outlives `deadline`, the
    /// limit of what it is a step of; dropping the future drops the step.
    ///
    /// # Errors
    /// [`StepLate`] if it was critical, or if the deadline passed first.
    ///
    /// ```
    /// use std::time::Duration;
    /// use steadfast_guard::StepLimit;
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let deadline = Instant::now() + Duration::from_secs(120);
    /// let search = async {
    ///     sleep(Duration::from_secs(11)).await;
    ///     vec!["a tool"]
    /// };
    /// let found = StepLimit::TOOL_SEARCH.within("tool search", deadline, search).await;
    /// assert_eq!(found, Ok(None)); // late, and one goes on without
    /// # }
    /// ```
    pub async fn within<T>(
        self,
        step: &'static str,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>, StepLate> {
        let own = Instant::now() + self.timeout;
        match timeout_at(own.min(deadline), future).await {
            Ok(value) => Ok(Some(value)),
            Err(_) if !self.critical && own <= deadline => Ok(None),
            Err(_) => Err(StepLate { step, limit: self.timeout, outer: own > deadline }),
        }
    }
}

/// A step did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the step `{step}` did not end {}",
    if *outer { "before the deadline of what it is a step of".to_owned() } else { format!("within {limit:?}") }
)]
pub struct StepLate {
    /// Which step.
    pub step: &'static str,
    /// Its limit.
    pub limit: Duration,
    /// The outer deadline came first.
    pub outer: bool,
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn r4_a_late_critical_step_fails_and_a_late_optional_one_is_skipped() {
        let far = Instant::now() + secs(600);
        let late = || sleep(secs(60));
        let planning = StepLimit::PLANNING.within("planning", far, late()).await;
        assert_eq!(planning, Err(StepLate { step: "planning", limit: secs(15), outer: false }));
        assert_eq!(StepLimit::TOOL_SEARCH.within("search", far, late()).await, Ok(None));
        assert_eq!(
            StepLimit::RESPONSE.within("response", far, sleep(secs(20))).await,
            Ok(Some(()))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn r4_no_step_outlives_the_outer_deadline_not_even_an_optional_one() {
        let (start, soon) = (Instant::now(), Instant::now() + secs(3));
        let late =
            StepLimit::TOOL_SEARCH.within("search", soon, sleep(secs(60))).await.unwrap_err();
        assert_eq!((late.outer, start.elapsed()), (true, secs(3)));
        assert!(late.to_string().contains("deadline"), "{late}");
    }
}
