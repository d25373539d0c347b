//! When the dependency is left alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_least_one, at_most_a_year};

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

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { consecutive_failures: 3, open_for: Duration::from_secs(30), half_open_probes: 1 }
    }
}

impl BreakerPolicy {
    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        at_most_a_year("breaker.open_for", self.open_for)?;
        at_least_one("breaker.consecutive_failures", &self.consecutive_failures)?;
        at_least_one("breaker.half_open_probes", &self.half_open_probes)
    }
}
