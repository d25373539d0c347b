//! When and how a failed attempt is repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_most_a_year, refuse};
use crate::ErrorClass;

/// When and how a failed attempt is repeated (SCOPE R7).
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, ClassRetry, Effect, Guard, Policy, RetryPolicy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut retry = RetryPolicy::alike(2, Duration::from_millis(100));
/// retry.classes.timeout = ClassRetry { max_retries: Some(0), base_delay: None };
/// # let breaker = steadfast_guard::BreakerPolicy { consecutive_failures: 9, ..Default::default() };
/// # let policy = Policy { breaker, ..Policy::default() };
/// let guard = Guard::new("search", Policy { retry, ..policy })?;
/// let failing = |kind: ErrorKind| move |_| async move { Err::<(), _>(Error::from(kind)) };
///
/// // a write that may have taken effect is never repeated
/// let write = CallContext::new(Effect::Once);
/// let error = guard.call(write, failing(ErrorKind::BrokenPipe)).await.unwrap_err();
/// assert_eq!((error.attempts(), error.class().as_str()), (1, "outcome_unknown"));
///
/// let call = CallContext::new(Effect::Read);
/// let error = guard.call(call, failing(ErrorKind::ConnectionRefused)).await.unwrap_err();
/// assert_eq!(error.attempts(), 3);
/// let error = guard.call(call, failing(ErrorKind::TimedOut)).await.unwrap_err();
/// assert_eq!(error.attempts(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts after the first, for every class that says nothing else; 0 switches retries off. Default:
    /// after a failed connection 5, an unavailable server 4, any other transient error 3 (SCOPE R7, R8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The backoff's first step, for every class that says nothing else. Default: after a failed connection
    /// 0.5 s, an unavailable server 2 s, a 429 10 s, any other transient error 1 s (SCOPE R7, R8).
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub base_delay: Option<Duration>,
    /// No wait between attempts is longer, jitter included. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// The longest `Retry-After` that is slept through; longer ones end the call with
    /// [`CallError::RetryLater`](crate::CallError::RetryLater). Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_retry_after: Duration,
    /// No attempt begins later than this after the call began. Default: none but `total_timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub max_elapsed: Option<Duration>,
    /// What is different for a class of errors.
    pub classes: RetryClasses,
    /// How many calls may be retrying at once.
    pub budget: RetryBudget,
}

/// What is different for each class of errors that may be retried at all (SCOPE R8). The class of the
/// last failure decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryClasses {
    /// No connection.
    pub connection: ClassRetry,
    /// A 429.
    pub rate_limited: ClassRetry,
    /// A 503 or 529.
    pub unavailable: ClassRetry,
    /// No answer in time.
    pub timeout: ClassRetry,
    /// Another failure of the server.
    pub server: ClassRetry,
    /// An answer that could not be read.
    pub malformed: ClassRetry,
}

/// What is different for a class; what it does not say is as for every class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassRetry {
    /// Attempts after the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The backoff's first step; `retry.max_delay` cuts it like every other one.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub base_delay: Option<Duration>,
}

/// How many calls may be retrying at once, those that sleep before a retry included: a dependency that
/// fails is not asked much more often than one that works. Retries, hedges and fallbacks share it. It
/// refills with nothing but the end of calls, so no burst can use it up for later ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryBudget {
    /// Share of all calls under way that may be retrying: 0 to 1. Default 0.2 (Finagle, Envoy).
    pub ratio: f64,
    /// As many may at least. 0 with a `ratio` of 0: no retries. Default 3 (Envoy).
    pub floor: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: None,
            base_delay: None,
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(30),
            max_elapsed: None,
            classes: RetryClasses::default(),
            budget: RetryBudget::default(),
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, floor: 3 }
    }
}

impl RetryPolicy {
    /// The same number of retries and first step for every class.
    #[must_use]
    pub fn alike(max_retries: u32, base_delay: Duration) -> Self {
        let (max_retries, base_delay) = (Some(max_retries), Some(base_delay));
        Self { max_retries, base_delay, ..Self::default() }
    }

    /// Retries allowed after a failure of a class, and the backoff's first step.
    pub(crate) fn of(&self, class: ErrorClass) -> (u32, Duration) {
        let classes = &self.classes;
        let (said, retries, base_ms) = match class {
            ErrorClass::Connection => (classes.connection, 5, 500),
            ErrorClass::RateLimited => (classes.rate_limited, 3, 10_000),
            ErrorClass::Unavailable => (classes.unavailable, 4, 2_000),
            ErrorClass::Timeout => (classes.timeout, 3, 1_000),
            ErrorClass::Server => (classes.server, 3, 1_000),
            ErrorClass::Malformed => (classes.malformed, 3, 1_000),
            _ => return (0, Duration::ZERO),
        };
        let base_delay = said.base_delay.or(self.base_delay);
        (
            said.max_retries.or(self.max_retries).unwrap_or(retries),
            base_delay.unwrap_or_else(|| Duration::from_millis(base_ms)),
        )
    }

    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        at_most_a_year("retry.base_delay", self.base_delay.unwrap_or_default())?;
        at_most_a_year("retry.max_delay", self.max_delay)?;
        at_most_a_year("retry.max_retry_after", self.max_retry_after)?;
        at_most_a_year("retry.max_elapsed", self.max_elapsed.unwrap_or_default())?;
        if let Some(base_delay) = self.base_delay.filter(|base| *base > self.max_delay) {
            let problem = "the first step is longer than `retry.max_delay`; set it to that or less";
            return Err(refuse("retry.base_delay", &base_delay, problem));
        }
        if !(0.0..=1.0).contains(&self.budget.ratio) {
            let problem = "a share of the calls under way is from 0 to 1";
            return Err(refuse("retry.budget.ratio", &self.budget.ratio, problem));
        }
        Ok(())
    }
}
