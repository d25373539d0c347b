//! Faults that the guard makes itself, for drills.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::{at_most_a_year, refuse};
use crate::ErrorClass;

/// Faults put into a share of the attempts, to see what the policy and those behind it make of them.
///
/// They lie inside the attempt's timers and count like real ones, so they can open the breaker. Each share
/// is from 0 to 1; an attempt meets at most one of `error`, `stall` and `cut`, so these three together are
/// at most 1. Default: none.
///
/// ```
/// use std::convert::Infallible;
/// use steadfast_guard::{CallContext, CallError, ChaosPolicy, Effect, Guard, Policy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let chaos = ChaosPolicy { cut: 1.0, ..ChaosPolicy::default() };
/// let guard = Guard::new("pay", Policy { chaos, ..Policy::default() })?;
/// // the payment takes place and its answer is lost: what does the caller make of it?
/// let pay = |_| async { Ok::<_, Infallible>("paid") };
/// let error = guard.call(CallContext::new(Effect::Once), pay).await.unwrap_err();
/// assert!(matches!(error, CallError::Injected { outcome_unknown: true, .. }));
/// assert!(guard.explain().ends_with("FAULTS ARE INJECTED (chaos)"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChaosPolicy {
    /// Share of attempts that leave later, by `latency_for`.
    pub latency: f64,
    /// How much later. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub latency_for: Duration,
    /// Share of attempts that fail with `error_class` and do not reach the dependency.
    pub error: f64,
    /// Default `unavailable`.
    pub error_class: ErrorClass,
    /// Share of attempts that never answer and do not reach the dependency.
    pub stall: f64,
    /// Share of attempts whose answer is lost after the dependency has given it; a stream breaks after its
    /// first item.
    pub cut: f64,
}

impl Default for ChaosPolicy {
    fn default() -> Self {
        Self {
            latency: 0.0,
            latency_for: Duration::from_secs(1),
            error: 0.0,
            error_class: ErrorClass::Unavailable,
            stall: 0.0,
            cut: 0.0,
        }
    }
}

impl ChaosPolicy {
    /// Whether it does anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.latency > 0.0 || self.error > 0.0 || self.stall > 0.0 || self.cut > 0.0
    }

    pub(super) fn validate(&self) -> Result<(), PolicyError> {
        for (key, share) in [
            ("chaos.latency", self.latency),
            ("chaos.error", self.error),
            ("chaos.stall", self.stall),
            ("chaos.cut", self.cut),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(refuse(key, &share, "a share of the attempts is from 0 to 1"));
            }
        }
        at_most_a_year("chaos.latency_for", self.latency_for)?;
        let together = self.error + self.stall + self.cut;
        if together > 1.0 {
            let problem = "`error`, `stall` and `cut` together are more than every attempt";
            return Err(refuse("chaos.error", &together, problem));
        }
        Ok(())
    }
}
