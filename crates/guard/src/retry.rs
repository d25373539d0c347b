//! What a failed attempt means, and whether there is another one. Pure: the random draw and the time come
//! in as arguments, and so does what this side knows of the dependency ([`Outlook`]).
//!
//! The backoff is "full jitter": uniform in `[0, min(cap, base * 2^n)]` for the n-th retry, counted from 0
//! (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A `Retry-After` replaces it, and
//! a cooldown that lasts longer, whoever's call set it, is slept out in the same sleep.

use std::time::Duration;

use tokio::time::Instant;

use crate::admission::{Cost, Outlook};
use crate::{Effect, ErrorClass, RetryPolicy, Verdict};

/// What happens after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Sleep until then, and try again.
    Again(Instant),
    /// The dependency asks for a longer wait than the policy sleeps.
    Later(Duration),
    /// The call is over with this error.
    Stop,
    /// The same, because too many calls are retrying already.
    NoBudget,
}

/// A failed attempt, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) class: ErrorClass,
    pub(crate) effect: Effect,
    pub(crate) retry_after: Option<Duration>,
    /// Attempts made so far, this one included; at least 1.
    pub(crate) attempts: u32,
    /// When the call began.
    pub(crate) began: Instant,
}

/// No instant further away is computed: a `Retry-After` of any size cannot overflow the clock.
const FURTHEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Ended {
    /// Whether this was a write, after dispatch, that may or may not have taken effect.
    pub(crate) const fn outcome_unknown(&self) -> bool {
        match self.class {
            ErrorClass::OutcomeUnknown => true,
            ErrorClass::Timeout | ErrorClass::Server | ErrorClass::Malformed => {
                matches!(self.effect, Effect::Once)
            }
            _ => false,
        }
    }

    /// What this end says about the dependency's health.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        if self.outcome_unknown() {
            return Verdict::Unknown;
        }
        match self.class {
            ErrorClass::Connection
            | ErrorClass::Timeout
            | ErrorClass::Unavailable
            | ErrorClass::Server
            | ErrorClass::Malformed
            | ErrorClass::OutcomeUnknown => Verdict::Failure,
            ErrorClass::RateLimited | ErrorClass::QuotaExhausted => {
                Verdict::Throttled { until: self.retry_after.map(|wait| now + wait.min(FURTHEST)) }
            }
            ErrorClass::InvalidRequest
            | ErrorClass::NotFound
            | ErrorClass::Authentication
            | ErrorClass::Permission
            | ErrorClass::Conflict
            | ErrorClass::ContextTooLong
            | ErrorClass::Refused
            | ErrorClass::Cancelled
            | ErrorClass::Internal => Verdict::Neutral,
        }
    }

    /// What it can have cost.
    pub(crate) const fn cost(&self) -> Cost {
        match self.class {
            ErrorClass::Timeout
            | ErrorClass::Server
            | ErrorClass::Malformed
            | ErrorClass::OutcomeUnknown
            | ErrorClass::Cancelled => Cost::AsReserved,
            _ => Cost::Nothing,
        }
    }

    /// Whether the class and the effect allow another attempt at all.
    pub(crate) const fn retryable(&self) -> bool {
        match self.class {
            ErrorClass::Connection | ErrorClass::RateLimited | ErrorClass::Unavailable => true,
            ErrorClass::Timeout | ErrorClass::Server | ErrorClass::Malformed => {
                !matches!(self.effect, Effect::Once)
            }
            _ => false,
        }
    }

    /// Decides what happens next; never [`Decision::Again`] at the deadline or past it. `draw(max)` returns
    /// a number in `[0, max]`, uniformly.
    pub(crate) fn decide(
        &self,
        policy: &RetryPolicy,
        outlook: &Outlook,
        now: Instant,
        deadline: Instant,
        draw: impl FnOnce(u64) -> u64,
    ) -> Decision {
        if !self.retryable() {
            return Decision::Stop;
        }
        if let Some(wait) = self.retry_after.filter(|wait| *wait > policy.max_retry_after) {
            return Decision::Later(wait.max(outlook.quiet));
        }
        let (max_retries, base_delay) = policy.of(self.class);
        if self.attempts > max_retries {
            return Decision::Stop;
        }
        if outlook.quiet > policy.max_retry_after {
            return Decision::Later(outlook.quiet);
        }
        let wait = self.retry_after.unwrap_or_else(|| {
            let longest =
                longest_backoff(base_delay, policy.max_delay, self.attempts.saturating_sub(1));
            Duration::from_nanos(draw(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX)))
        });
        let again = now + wait.max(outlook.quiet).min(FURTHEST);
        let too_late = policy.max_elapsed.is_some_and(|longest| again > self.began + longest);
        // nobody sleeps towards a deadline that will have passed, or a breaker that will still be open
        if again < deadline && !too_late && !outlook.closure.holds_at(again) {
            Decision::Again(again)
        } else {
            Decision::Stop
        }
    }
}

/// The upper end of the n-th retry's backoff, n counted from 0.
pub(crate) fn longest_backoff(base_delay: Duration, max_delay: Duration, n: u32) -> Duration {
    base_delay.saturating_mul(1 << n.min(31)).min(max_delay)
}

#[cfg(test)]
mod tests;
