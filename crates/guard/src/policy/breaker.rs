//! When the dependency is left alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_least_one, at_most_a_year, refuse};

/// When the dependency is left alone (SCOPE R10).
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use steadfast_guard::{BreakerPolicy, BreakerState, CallContext, Effect, Guard, Policy, RetryPolicy};
/// # use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let breaker = BreakerPolicy { consecutive_failures: 2, open_jitter: 0.0, ..Default::default() };
/// let retry = RetryPolicy::alike(0, Duration::ZERO);
/// let guard = Guard::new("search", Policy { breaker, retry, ..Policy::default() })?;
/// for _ in 0..2 {
///     let down = |_| async { Err::<(), _>(Error::from(ErrorKind::ConnectionRefused)) };
///     guard.call(CallContext::new(Effect::Read), down).await.unwrap_err();
/// }
/// assert_eq!(guard.snapshot().breaker, BreakerState::Open);
/// assert!(guard.explain().contains("the breaker is open, next probe in 30s"));
///
/// tokio::time::sleep(Duration::from_secs(30)).await;
/// let up = |_| async { Ok::<_, Error>("found") };
/// guard.call(CallContext::new(Effect::Read), up).await?; // the probe
/// assert_eq!(guard.snapshot().breaker, BreakerState::Closed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Failures in a row that open the breaker. At least 1. Default 3.
    pub consecutive_failures: u32,
    /// Share of failures among the calls in the window that opens it: above 0, at most 1. Default 0.5.
    pub failure_ratio: f64,
    /// Calls that the window must hold before a share of them counts. At least 1. Default 10.
    pub min_calls: u32,
    /// The window's length. Default 60 s: calls to models are few.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// The window as a number of calls, instead of a length: 1 to 10 000. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_calls: Option<u32>,
    /// A call that takes this long is slow. Default: none, and no call is. A model's answer takes as long
    /// as it is long: use it for tools.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub slow_call: Option<Duration>,
    /// Share of slow calls in the window that opens the breaker: above 0, at most 1. Default 1.
    pub slow_ratio: f64,
    /// How long it stays open before a probe; 0: a probe goes at once, and half-open still refuses
    /// everything else. Doubles each time it opens again before it has been closed for as long as the
    /// window. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// The longest that it stays open, jitter aside. At least `open_for`. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub max_open_for: Duration,
    /// It stays open for up to this share longer, at random, so that many do not probe at once: 0 to 1.
    /// Default 0.1.
    pub open_jitter: f64,
    /// Probes admitted at once while half-open. At least 1. Default 1.
    pub half_open_probes: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            failure_ratio: 0.5,
            min_calls: 10,
            window: Duration::from_secs(60),
            window_calls: None,
            slow_call: None,
            slow_ratio: 1.0,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_secs(300),
            open_jitter: 0.1,
            half_open_probes: 1,
        }
    }
}

/// More ends than this would be a history, not a window.
const WINDOW_CALLS_MAX: u32 = 10_000;

impl BreakerPolicy {
    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        at_least_one("breaker.consecutive_failures", &self.consecutive_failures)?;
        at_least_one("breaker.min_calls", &self.min_calls)?;
        at_least_one("breaker.half_open_probes", &self.half_open_probes)?;
        for (key, length) in [
            ("breaker.open_for", self.open_for),
            ("breaker.max_open_for", self.max_open_for),
            ("breaker.window", self.window),
            ("breaker.slow_call", self.slow_call.unwrap_or_default()),
        ] {
            at_most_a_year(key, length)?;
        }
        for (key, share) in
            [("breaker.failure_ratio", self.failure_ratio), ("breaker.slow_ratio", self.slow_ratio)]
        {
            if !(share > 0.0 && share <= 1.0) {
                return Err(refuse(key, &share, "a share of calls is above 0 and at most 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.open_jitter) {
            let problem = "a share of the time is from 0 to 1";
            return Err(refuse("breaker.open_jitter", &self.open_jitter, problem));
        }
        if self.window < Duration::from_millis(10) {
            let problem = "too short to hold a call; set it to 10 ms or more";
            return Err(refuse("breaker.window", &self.window, problem));
        }
        if self.slow_call.is_some_and(|limit| limit.is_zero()) {
            let problem = "every call would be slow; set it above 0, or leave it out";
            return Err(refuse("breaker.slow_call", &self.slow_call, problem));
        }
        if self.max_open_for < self.open_for {
            let problem = "shorter than `breaker.open_for`; set it to that or more";
            return Err(refuse("breaker.max_open_for", &self.max_open_for, problem));
        }
        self.check_window_calls()
    }

    fn check_window_calls(&self) -> Result<(), PolicyError> {
        let Some(calls) = self.window_calls else { return Ok(()) };
        if !(1..=WINDOW_CALLS_MAX).contains(&calls) {
            let problem = "a window holds 1 to 10000 calls; leave it out for a window by time";
            return Err(refuse("breaker.window_calls", &calls, problem));
        }
        if calls < self.min_calls {
            let problem = "fewer than `breaker.min_calls`, so no share would ever count; set it to \
                           that or more";
            return Err(refuse("breaker.window_calls", &calls, problem));
        }
        Ok(())
    }
}
