//! Every knob of a guard, its default, and where the default comes from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod adaptive;
mod breaker;
mod chaos;
pub(crate) mod check;
mod hedge;
mod rate;
mod retry;

pub use adaptive::{AdaptiveConcurrency, AdaptiveTimeout};
pub use breaker::BreakerPolicy;
pub use chaos::ChaosPolicy;
use check::{at_least_one, at_most_a_year, refuse};
pub use hedge::HedgePolicy;
pub use rate::RatePolicy;
pub use retry::{ClassRetry, RetryBudget, RetryClasses, RetryPolicy};

/// How one dependency is protected. Plain data: built from configuration, replaced while calls run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Calls in flight at once (the bulkhead, SCOPE R1). At least 1. Default 32.
    pub concurrency: usize,
    /// Calls that may wait for a permit (SCOPE R2). 0: nobody waits. Default 256.
    pub queue: usize,
    /// Longest wait for a permit. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// Limit of one attempt. May be longer than `total_timeout`, which then cuts the attempt: whatever is
    /// left of the call's time is the limit. Default 60 s (SCOPE R3, model calls).
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// Limit of the whole call, attempts and waits together. Default 120 s (SCOPE R3, turn).
    #[serde(with = "humantime_serde")]
    pub total_timeout: Duration,
    /// Limit from the start of an attempt to the first item of its stream, within `attempt_timeout`.
    /// Default 60 s.
    #[serde(with = "humantime_serde")]
    pub first_item_timeout: Duration,
    /// Limit between two items of a stream. Default 45 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Limit of a stream that is handed on ([`Guard::stream`](crate::Guard::stream)), from the start of its
    /// attempt to its end; `attempt_timeout` and `total_timeout` are over with its first item. Default 10 min,
    /// which is how long the SDKs of providers wait.
    #[serde(with = "humantime_serde")]
    pub stream_timeout: Duration,
    /// When and how a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// When the dependency is left alone.
    pub breaker: BreakerPolicy,
    /// How much may leave a minute.
    pub rate: RatePolicy,
    /// The limit of an attempt by how long the last ones took, instead of `attempt_timeout`.
    pub adaptive_timeout: AdaptiveTimeout,
    /// How many may be in flight, up to `concurrency`, by when the dependency is overloaded.
    pub adaptive_concurrency: AdaptiveConcurrency,
    /// A second attempt beside one that is slow.
    pub hedge: HedgePolicy,
    /// Faults made on purpose, for drills.
    pub chaos: ChaosPolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            concurrency: 32,
            queue: 256,
            queue_timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(120),
            first_item_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(45),
            stream_timeout: Duration::from_secs(600),
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            rate: RatePolicy::default(),
            adaptive_timeout: AdaptiveTimeout::default(),
            adaptive_concurrency: AdaptiveConcurrency::default(),
            hedge: HedgePolicy::default(),
            chaos: ChaosPolicy::default(),
        }
    }
}

/// A policy that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}: {problem}")]
pub struct PolicyError {
    /// The key, dotted from the policy's root.
    pub key: &'static str,
    /// The value found.
    pub value: String,
    /// What is wrong with it and what is allowed.
    pub problem: &'static str,
}

impl Policy {
    /// Checks that the policy can be kept.
    ///
    /// # Errors
    /// Names the first key whose value contradicts itself or another one.
    pub fn validate(&self) -> Result<(), PolicyError> {
        at_least_one("concurrency", &self.concurrency)?;
        for (key, value) in [
            ("queue_timeout", self.queue_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("total_timeout", self.total_timeout),
            ("first_item_timeout", self.first_item_timeout),
            ("idle_timeout", self.idle_timeout),
            ("stream_timeout", self.stream_timeout),
        ] {
            if value.is_zero() {
                return Err(refuse(
                    key,
                    &value,
                    "a limit of zero refuses every call; set it above 0",
                ));
            }
            at_most_a_year(key, value)?;
        }
        self.retry.validate()?;
        self.breaker.validate()?;
        self.rate.validate()?;
        self.adaptive_timeout.validate()?;
        self.adaptive_concurrency.validate(self.concurrency)?;
        self.hedge.validate(self.attempt_timeout)?;
        self.chaos.validate()?;
        let breaker = &self.breaker;
        if usize::try_from(breaker.half_open_probes).map_or(true, |n| n > self.concurrency) {
            return Err(refuse(
                "breaker.half_open_probes",
                &breaker.half_open_probes,
                "more probes than `concurrency` can never be in flight; set it to that or less",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
