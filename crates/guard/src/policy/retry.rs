//! When and how a failed attempt is repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_most_a_year, refuse};

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

impl RetryPolicy {
    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        at_most_a_year("retry.base_delay", self.base_delay)?;
        at_most_a_year("retry.max_delay", self.max_delay)?;
        at_most_a_year("retry.max_retry_after", self.max_retry_after)?;
        if self.base_delay > self.max_delay {
            return Err(refuse(
                "retry.base_delay",
                &self.base_delay,
                "the first step is longer than `retry.max_delay`; set it to that or less",
            ));
        }
        Ok(())
    }
}
