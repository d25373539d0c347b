//! What a guard finds out by itself: how long an attempt may take, and how many may be in flight.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_least_one, at_most_a_year, refuse};

/// The limit of an attempt by how long the last ones took, instead of `attempt_timeout` (SCOPE R5). Defaults:
/// the seed's.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use steadfast_guard::{AdaptiveTimeout, CallContext, Effect, Guard, Policy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let adaptive_timeout = AdaptiveTimeout { enabled: true, ..AdaptiveTimeout::default() };
/// let guard = Guard::new("tool", Policy { adaptive_timeout, ..Policy::default() })?;
/// assert_eq!(guard.snapshot().attempt_timeout_ms, 30_000); // `base`
/// for _ in 0..5 {
///     let call = |_| async {
///         tokio::time::sleep(Duration::from_secs(12)).await;
///         Ok::<_, Infallible>(())
///     };
///     guard.call(CallContext::new(Effect::Read), call).await?;
/// }
/// assert_eq!(guard.snapshot().attempt_timeout_ms, 18_000); // 1.5 times what they took
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveTimeout {
    /// Off by default.
    pub enabled: bool,
    /// Attempts that are remembered: 1 to 1000. Default 100.
    pub samples: u32,
    /// From how many on they count; fewer give `base`. At least 1. Default 5.
    pub min_samples: u32,
    /// The share of them that took no longer: above 0, at most 1. Default 0.95.
    pub percentile: f64,
    /// The limit is so many times that. At least 1. Default 1.5.
    pub factor: f64,
    /// No limit is shorter. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub min: Duration,
    /// No limit is longer. Default 120 s.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// The limit until there are enough samples. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
}

impl Default for AdaptiveTimeout {
    fn default() -> Self {
        Self {
            enabled: false,
            samples: 100,
            min_samples: 5,
            percentile: 0.95,
            factor: 1.5,
            min: Duration::from_secs(10),
            max: Duration::from_secs(120),
            base: Duration::from_secs(30),
        }
    }
}

/// How many calls may be in flight, found by asking for more until it hurts: additive increase,
/// multiplicative decrease (Chiu, Jain, 1989). By failures and not by latency, because a model's answer takes
/// as long as it is long.
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use std::time::Duration;
/// use steadfast_guard::{AdaptiveConcurrency, CallContext, Effect, Guard, Policy, RetryPolicy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let adaptive_concurrency = AdaptiveConcurrency { enabled: true, ..Default::default() };
/// let retry = RetryPolicy::alike(0, Duration::ZERO);
/// let guard = Guard::new("tool", Policy { adaptive_concurrency, retry, ..Policy::default() })?;
/// assert_eq!(guard.snapshot().concurrency, 8); // `start`
/// let overloaded = |_| async { Err::<(), _>(Error::from(ErrorKind::ResourceBusy)) };
/// guard.call(CallContext::new(Effect::Read), overloaded).await.unwrap_err();
/// assert_eq!(guard.snapshot().concurrency, 5); // `decrease` is what is left of it
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Off by default: `concurrency` holds.
    pub enabled: bool,
    /// Never fewer. At least 1. Default 1.
    pub min: usize,
    /// To begin with. Default 8.
    pub start: usize,
    /// What is left of the limit after an overload: above 0, below 1. Default 0.7.
    pub decrease: f64,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self { enabled: false, min: 1, start: 8, decrease: 0.7 }
    }
}

impl AdaptiveTimeout {
    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        at_least_one("adaptive_timeout.samples", &self.samples)?;
        at_least_one("adaptive_timeout.min_samples", &self.min_samples)?;
        for (key, length) in [
            ("adaptive_timeout.min", self.min),
            ("adaptive_timeout.max", self.max),
            ("adaptive_timeout.base", self.base),
        ] {
            at_most_a_year(key, length)?;
            if length.is_zero() {
                return Err(refuse(
                    key,
                    &length,
                    "a limit of zero refuses every call; set it above 0",
                ));
            }
        }
        if self.samples > 1000 {
            let problem = "more than 1000 would be a history; set it to 1000 or less";
            return Err(refuse("adaptive_timeout.samples", &self.samples, problem));
        }
        if self.min_samples > self.samples {
            let problem = "more than `adaptive_timeout.samples`, so it would never count; set it to \
                           that or less";
            return Err(refuse("adaptive_timeout.min_samples", &self.min_samples, problem));
        }
        if !(self.percentile > 0.0 && self.percentile <= 1.0) {
            let problem = "a share of the samples is above 0 and at most 1";
            return Err(refuse("adaptive_timeout.percentile", &self.percentile, problem));
        }
        if !(self.factor >= 1.0 && self.factor <= 100.0) {
            let problem = "below 1 it would cut what usually succeeds; set it from 1 to 100";
            return Err(refuse("adaptive_timeout.factor", &self.factor, problem));
        }
        if self.min > self.max {
            let problem = "longer than `adaptive_timeout.max`; set it to that or less";
            return Err(refuse("adaptive_timeout.min", &self.min, problem));
        }
        Ok(())
    }
}

impl AdaptiveConcurrency {
    pub(super) fn validate(&self, concurrency: usize) -> Result<(), PolicyError> {
        at_least_one("adaptive_concurrency.min", &self.min)?;
        at_least_one("adaptive_concurrency.start", &self.start)?;
        if self.enabled && self.min > concurrency {
            let problem =
                "more than `concurrency`, which is never exceeded; set it to that or less";
            return Err(refuse("adaptive_concurrency.min", &self.min, problem));
        }
        if !(self.decrease > 0.0 && self.decrease < 1.0) {
            let problem = "what is left of a limit is above 0 and below 1 of it";
            return Err(refuse("adaptive_concurrency.decrease", &self.decrease, problem));
        }
        Ok(())
    }
}
