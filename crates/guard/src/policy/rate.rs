//! How much a minute.

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::check::refuse;

/// How much may leave a minute, as the dependency's own limits say. Local: each process counts its own.
///
/// ```
/// use std::convert::Infallible;
/// use steadfast_guard::{CallContext, Effect, Guard, Policy, RatePolicy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rate = RatePolicy { tokens_per_minute: Some(10_000), ..RatePolicy::default() };
/// let guard = Guard::new("model", Policy { rate, ..Policy::default() })?;
/// // 4 000 are reserved before the call; the answer says that it took 1 500
/// let call = CallContext::new(Effect::Read).with_tokens(4_000);
/// let answer = |_| async { Ok::<_, Infallible>("the answer") };
/// guard.call_metered(call, answer, |_| Some(1_500)).await?;
/// assert_eq!(guard.snapshot().tokens_left, Some(8_500));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatePolicy {
    /// Attempts a minute. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, reserved before and settled after the call. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Share of a minute's amount that may leave at once: above 0, at most 1. Default 1.
    pub burst: f64,
}

impl Default for RatePolicy {
    fn default() -> Self {
        Self { requests_per_minute: None, tokens_per_minute: None, burst: 1.0 }
    }
}

/// More than this is a slip, and beyond what a bucket counts exactly.
const PER_MINUTE_MAX: u64 = 1 << 50;

impl RatePolicy {
    pub(crate) fn validate(&self) -> Result<(), PolicyError> {
        for (key, limit) in [
            ("rate.requests_per_minute", self.requests_per_minute),
            ("rate.tokens_per_minute", self.tokens_per_minute),
        ] {
            if limit.is_some_and(|limit| !(1..=PER_MINUTE_MAX).contains(&limit)) {
                let problem = "nothing could ever leave, or everything; set it to 1 or more, or \
                               leave it out for no limit";
                return Err(refuse(key, &limit.unwrap_or_default(), problem));
            }
        }
        if !(self.burst > 0.0 && self.burst <= 1.0) {
            let problem = "a share of a minute's amount is above 0 and at most 1";
            return Err(refuse("rate.burst", &self.burst, problem));
        }
        Ok(())
    }
}
