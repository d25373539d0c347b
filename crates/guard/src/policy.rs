//! Every knob of a guard, its default, and where the default comes from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// Limit between two items of a stream, within `attempt_timeout`. Default 45 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// When and how a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// When the dependency is left alone.
    pub breaker: BreakerPolicy,
}

/// When and how a failed attempt is repeated (SCOPE R7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts after the first. 0 switches retries off. Default 3.
    pub max_retries: u32,
    /// The backoff's first step. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub base_delay: Duration,
    /// No wait between attempts is longer, jitter included. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// The longest `Retry-After` that is slept through; longer ones end the call with
    /// [`CallError::RetryLater`](crate::CallError::RetryLater). Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_retry_after: Duration,
}

/// When the dependency is left alone (SCOPE R10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Failures in a row that open the breaker. At least 1. Default 3.
    pub consecutive_failures: u32,
    /// How long it stays open before a probe; 0: a probe goes at once, and half-open still refuses
    /// everything else. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// Probes admitted at once while half-open. At least 1. Default 1.
    pub half_open_probes: u32,
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
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(30),
        }
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { consecutive_failures: 3, open_for: Duration::from_secs(30), half_open_probes: 1 }
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

/// No duration may be longer: a year is a slip of the unit, and would overflow a clock sooner or later.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Policy {
    /// Checks that the policy can be kept.
    ///
    /// # Errors
    /// Names the first key whose value contradicts itself or another one.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let (retry, breaker) = (&self.retry, &self.breaker);
        at_least_one("concurrency", &self.concurrency)?;
        for (key, value) in [
            ("queue_timeout", self.queue_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("total_timeout", self.total_timeout),
            ("first_item_timeout", self.first_item_timeout),
            ("idle_timeout", self.idle_timeout),
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
        for (key, value) in [
            ("retry.base_delay", retry.base_delay),
            ("retry.max_delay", retry.max_delay),
            ("retry.max_retry_after", retry.max_retry_after),
            ("breaker.open_for", breaker.open_for),
        ] {
            at_most_a_year(key, value)?;
        }
        if retry.base_delay > retry.max_delay {
            return Err(refuse(
                "retry.base_delay",
                &retry.base_delay,
                "the first step is longer than `retry.max_delay`; set it to that or less",
            ));
        }
        at_least_one("breaker.consecutive_failures", &breaker.consecutive_failures)?;
        at_least_one("breaker.half_open_probes", &breaker.half_open_probes)?;
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

fn refuse(key: &'static str, value: &impl std::fmt::Debug, problem: &'static str) -> PolicyError {
    PolicyError { key, value: format!("{value:?}"), problem }
}

fn at_least_one<N: Default + PartialEq + std::fmt::Debug>(
    key: &'static str,
    value: &N,
) -> Result<(), PolicyError> {
    if *value == N::default() {
        return Err(refuse(
            key,
            value,
            "nothing would ever be called or counted; set it to 1 or more",
        ));
    }
    Ok(())
}

fn at_most_a_year(key: &'static str, value: Duration) -> Result<(), PolicyError> {
    if value > LONGEST {
        return Err(refuse(key, &value, "longer than a year; set it to 365 days or less"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(change: impl FnOnce(&mut Policy)) -> &'static str {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.validate().expect_err("must be refused").key
    }

    #[test]
    fn r16_the_default_policy_is_valid() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn r16_validate_names_the_key_that_cannot_be_kept() {
        const ZERO: Duration = Duration::ZERO;
        let long = LONGEST + Duration::from_secs(1);
        assert_eq!(key_of(|p| p.concurrency = 0), "concurrency");
        assert_eq!(key_of(|p| p.queue_timeout = ZERO), "queue_timeout");
        assert_eq!(key_of(|p| p.attempt_timeout = ZERO), "attempt_timeout");
        assert_eq!(key_of(|p| p.total_timeout = ZERO), "total_timeout");
        assert_eq!(key_of(|p| p.first_item_timeout = ZERO), "first_item_timeout");
        assert_eq!(key_of(|p| p.idle_timeout = ZERO), "idle_timeout");
        assert_eq!(key_of(|p| p.retry.base_delay = p.retry.max_delay * 2), "retry.base_delay");
        assert_eq!(key_of(|p| p.breaker.consecutive_failures = 0), "breaker.consecutive_failures");
        assert_eq!(key_of(|p| p.breaker.half_open_probes = 0), "breaker.half_open_probes");
        assert_eq!(key_of(|p| p.breaker.half_open_probes = 33), "breaker.half_open_probes");
        assert_eq!(key_of(|p| p.total_timeout = long), "total_timeout");
        assert_eq!(key_of(|p| p.retry.max_delay = long), "retry.max_delay");
        assert_eq!(key_of(|p| p.retry.max_retry_after = long), "retry.max_retry_after");
        assert_eq!(key_of(|p| p.breaker.open_for = long), "breaker.open_for");
    }

    #[test]
    fn r16_a_policy_is_read_from_text_with_units() {
        let text =
            "total_timeout = \"5m\"\nretry.base_delay = \"500ms\"\nbreaker.open_for = \"1m 30s\"";
        let policy: Policy = toml::from_str(text).unwrap();
        assert_eq!(policy.total_timeout, Duration::from_secs(300));
        assert_eq!(policy.retry.base_delay, Duration::from_millis(500));
        assert_eq!(policy.breaker.open_for, Duration::from_secs(90));
        assert_eq!(policy.attempt_timeout, Policy::default().attempt_timeout);
        let written = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<Policy>(&written).unwrap(), policy);
    }

    #[test]
    fn r16_unknown_keys_and_bare_numbers_are_refused() {
        for text in [
            "totl_timeout = \"5m\"",
            "retry.tries = 3",
            "breaker.open = \"1s\"",
            "total_timeout = 5",
        ] {
            assert!(toml::from_str::<Policy>(text).is_err(), "{text}");
        }
    }
}
