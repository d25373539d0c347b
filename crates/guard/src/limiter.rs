//! Limits of somebody who calls, not of what is called: refuses at once and says how long to wait.
//!
//! A [`Guard`](crate::Guard) stands in front of a dependency and lets calls wait. A limiter stands behind a
//! door and lets nobody wait: whoever asks too often is told when to come again. Requests and tokens are
//! counted by the same buckets (`rate.rs`), calls under way by their [`Admitted`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::check::refuse;
use crate::rate::Rate;
use crate::sync::Mutex;
use crate::{PolicyError, RatePolicy, counted};

/// What one caller may do. Local: each process counts its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimiterPolicy {
    /// Requests and tokens a minute. Default: no limit.
    pub rate: RatePolicy,
    /// Calls under way at once, 1 or more. Default: no limit.
    pub at_once: Option<u32>,
}

impl LimiterPolicy {
    /// Whether anything is limited.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.rate.requests_per_minute.is_some()
            || self.rate.tokens_per_minute.is_some()
            || self.at_once.is_some()
    }

    fn validate(&self) -> Result<(), PolicyError> {
        self.rate.validate()?;
        if self.at_once == Some(0) {
            let problem =
                "nothing could ever be called; set it to 1 or more, or leave it out for no limit";
            return Err(refuse("at_once", &0, problem));
        }
        Ok(())
    }
}

/// A limit that was met, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// Requests a minute.
    #[error("the limit is {} a minute: try again in {} s", counted(*.limit, "request"), seconds(*.retry_after))]
    Requests {
        /// The limit.
        limit: u64,
        /// Time until a request may go, if nothing else goes before it.
        retry_after: Duration,
    },
    /// Tokens a minute.
    #[error("the limit is {} a minute: try again in {} s", counted(*.limit, "token"), seconds(*.retry_after))]
    Tokens {
        /// The limit.
        limit: u64,
        /// Time until a request with these tokens may go, if nothing else goes before it.
        retry_after: Duration,
    },
    /// Calls at once: nobody knows when one ends, so the wait is a guess of one second.
    #[error(
        "the limit is {} at once, and as many are under way: try again when one has ended",
        counted((*.limit).into(), "call")
    )]
    AtOnce {
        /// The limit.
        limit: u32,
    },
}

impl OverLimit {
    /// How long to wait before trying again. Of calls at once a second, by convention.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Requests { retry_after, .. } | Self::Tokens { retry_after, .. } => *retry_after,
            Self::AtOnce { .. } => Duration::from_secs(1),
        }
    }
}

/// Whole seconds, rounded up: who waits that long does not come too early.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Limits of one caller. Shared by reference; what it admits keeps it alive.
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    policy: LimiterPolicy,
    rate: Rate,
    under_way: u32,
}

impl Limiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    /// A limit is 0 or beyond what can be counted.
    pub fn new(policy: LimiterPolicy) -> Result<Self, PolicyError> {
        policy.validate()?;
        let rate = Rate::new(&policy.rate, Instant::now());
        Ok(Self { state: Mutex::new(State { policy, rate, under_way: 0 }) })
    }

    /// Takes other limits; what has been used stays used, and what is under way stays so.
    ///
    /// # Errors
    /// A limit is 0 or beyond what can be counted; the limits before stay.
    pub fn fit(&self, policy: LimiterPolicy) -> Result<(), PolicyError> {
        let mut state = self.state.lock();
        if state.policy != policy {
            policy.validate()?;
            state.rate.fit(&policy.rate, Instant::now());
            state.policy = policy;
        }
        Ok(())
    }

    /// Lets one call go that expects to cost so many tokens, or says when to come again. What more is
    /// expected than a bucket ever holds waits for a full bucket, and is owed.
    ///
    /// # Errors
    /// The limit that was met; of several the one that takes longest. Nothing has been taken then.
    pub fn admit(self: &Arc<Self>, tokens: u64) -> Result<Admitted, OverLimit> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.rate.is_limited() {
            let (requests, of_tokens) = state.rate.waits(tokens, now);
            let rate = state.policy.rate;
            if !requests.is_zero() && requests >= of_tokens {
                let limit = rate.requests_per_minute.unwrap_or_default();
                return Err(OverLimit::Requests { limit, retry_after: requests });
            }
            if !of_tokens.is_zero() {
                let limit = rate.tokens_per_minute.unwrap_or_default();
                return Err(OverLimit::Tokens { limit, retry_after: of_tokens });
            }
        }
        if let Some(limit) = state.policy.at_once.filter(|limit| state.under_way >= *limit) {
            return Err(OverLimit::AtOnce { limit });
        }
        state.rate.take(tokens);
        state.under_way += 1;
        Ok(Admitted { limiter: Arc::clone(self), tokens })
    }

    /// Whether it is as a new one would be: nothing is under way and every bucket is full.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let mut state = self.state.lock();
        state.under_way == 0 && state.rate.is_full(Instant::now())
    }
}

/// A call that was let go. Dropping it ends the call and leaves its tokens as they were expected.
#[derive(Debug)]
#[must_use = "dropping it says that the call is over"]
pub struct Admitted {
    limiter: Arc<Limiter>,
    tokens: u64,
}

impl Admitted {
    /// The call took so many tokens: the rest is given back, or what is missing is owed.
    pub fn settle(mut self, used: u64) {
        self.limiter.state.lock().rate.settle(self.tokens, used);
        self.tokens = used;
    }

    /// The call never left: it counts for nothing.
    pub fn give_back(self) {
        self.limiter.state.lock().rate.give_back(self.tokens);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.limiter.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn limiter(requests: Option<u64>, tokens: Option<u64>, at_once: Option<u32>) -> Arc<Limiter> {
        let rate = RatePolicy {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            ..RatePolicy::default()
        };
        Arc::new(Limiter::new(LimiterPolicy { rate, at_once }).expect("can be kept"))
    }

    #[tokio::test(start_paused = true)]
    async fn r15_who_asks_too_often_is_told_when_to_come_again_and_is_let_in_then() {
        let limiter = limiter(Some(2), None, None);
        drop(limiter.admit(0).expect("the first"));
        drop(limiter.admit(0).expect("the second"));
        let refused = limiter.admit(0).expect_err("no third");
        assert!(matches!(refused, OverLimit::Requests { limit: 2, .. }), "{refused}");
        assert!(
            refused.to_string().contains("2 requests a minute: try again in 31 s"),
            "{refused}"
        );
        advance(Duration::from_secs(29)).await;
        assert!(limiter.admit(0).is_err(), "a refused one took nothing, and none was earned");
        advance(refused.retry_after() - Duration::from_secs(29)).await;
        drop(limiter.admit(0).expect("it was earned"));
    }

    #[tokio::test(start_paused = true)]
    async fn r15_tokens_are_reserved_settled_and_owed() {
        let limiter = limiter(None, Some(600), None);
        limiter.admit(600).expect("a full bucket").settle(100);
        limiter.admit(500).expect("the rest was given back").settle(800);
        let refused = limiter.admit(10).expect_err("300 are owed");
        assert!(matches!(refused, OverLimit::Tokens { limit: 600, .. }), "{refused}");
        let wait = refused.retry_after();
        assert!((31..32).contains(&wait.as_secs()), "{wait:?}");
        advance(wait).await;
        limiter.admit(10).expect("paid off").give_back();
        limiter.admit(10).expect("the same again").settle(10);
    }

    #[tokio::test(start_paused = true)]
    async fn r15_a_place_is_free_again_once_its_call_is_over_however_it_ends() {
        let limiter = limiter(Some(100), None, Some(2));
        let (one, two) = (limiter.admit(0).expect("one"), limiter.admit(0).expect("two"));
        let refused = limiter.admit(0).expect_err("no third at once");
        assert_eq!(refused, OverLimit::AtOnce { limit: 2 });
        assert_eq!(refused.retry_after(), Duration::from_secs(1));
        drop(one);
        let three = limiter.admit(0).expect("a place is free");
        two.settle(0);
        three.give_back();
        limiter.fit(LimiterPolicy { at_once: Some(1), ..LimiterPolicy::default() }).expect("fits");
        let four = limiter.admit(0).expect("one under the other limit");
        assert_eq!(limiter.admit(0).expect_err("no second"), OverLimit::AtOnce { limit: 1 });
        drop(four);
    }

    #[tokio::test(start_paused = true)]
    async fn r15_a_limiter_is_idle_only_once_it_is_as_a_new_one() {
        let limiter = limiter(Some(60), Some(60), None);
        assert!(limiter.is_idle());
        let call = limiter.admit(30).expect("goes");
        advance(Duration::from_secs(60)).await;
        assert!(!limiter.is_idle(), "a call is under way");
        drop(call);
        assert!(limiter.is_idle());
        drop(limiter.admit(0).expect("goes"));
        assert!(!limiter.is_idle(), "a request is missing in the bucket");
        advance(Duration::from_millis(1_001)).await;
        assert!(limiter.is_idle());
    }

    #[test]
    fn r15_limits_that_nothing_could_pass_are_refused() {
        for (requests, tokens, at_once) in
            [(Some(0), None, None), (None, Some(0), None), (None, None, Some(0))]
        {
            let rate = RatePolicy {
                requests_per_minute: requests,
                tokens_per_minute: tokens,
                ..RatePolicy::default()
            };
            let policy = LimiterPolicy { rate, at_once };
            assert!(policy.is_limited() && Limiter::new(policy).is_err(), "{policy:?}");
        }
        assert!(!LimiterPolicy::default().is_limited());
    }
}
