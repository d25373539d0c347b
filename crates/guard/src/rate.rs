//! Requests and tokens a minute: two buckets that fill with time. Pure; time comes in as an argument.
//!
//! A call takes one request and the tokens that it expects to cost, and gives back, or owes, the
//! difference once the cost is known: a bucket may hold less than nothing. A call that wants more than a
//! bucket ever holds waits until it is full, and then borrows: no call is impossible.

use std::time::Duration;

use tokio::time::Instant;

use crate::RatePolicy;

/// No wait is told as longer: an instant further away could not be computed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// One bucket. Levels are fractions, because it fills with every nanosecond.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    capacity: f64,
    per_second: f64,
}

impl Bucket {
    fn new(per_minute: u64, burst: f64) -> Self {
        let per_minute = per_minute as f64;
        let capacity = (per_minute * burst).max(1.0);
        Self { level: capacity, capacity, per_second: per_minute / 60.0 }
    }

    fn fill(&mut self, passed: Duration) {
        let filled = self.level + passed.as_secs_f64() * self.per_second;
        self.level = filled.min(self.capacity);
    }

    /// Time until `amount` can be taken.
    fn wait(&self, amount: f64) -> Duration {
        let missing = amount.min(self.capacity) - self.level;
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        // A microsecond more: who waits that long does not come too early by a rounding.
        let seconds = missing / self.per_second + 1e-6;
        Duration::try_from_secs_f64(seconds).map_or(LONGEST, |wait| wait.min(LONGEST))
    }
}

/// The buckets of a guard.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    filled_at: Instant,
}

/// What is left in the buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLook {
    pub(crate) requests: Option<f64>,
    pub(crate) tokens: Option<f64>,
}

impl Rate {
    pub(crate) fn new(policy: &RatePolicy, now: Instant) -> Self {
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::new(limit, policy.burst));
        Self {
            requests: bucket(policy.requests_per_minute),
            tokens: bucket(policy.tokens_per_minute),
            filled_at: now,
        }
    }

    /// Takes another policy; what has been used stays used.
    pub(crate) fn fit(&mut self, policy: &RatePolicy, now: Instant) {
        self.fill(now);
        let fresh = Self::new(policy, now);
        let keep = |old: Option<Bucket>, new: Option<Bucket>| {
            new.map(|new| {
                let used = old.map_or(0.0, |old| old.capacity - old.level);
                Bucket { level: new.capacity - used, ..new }
            })
        };
        self.requests = keep(self.requests, fresh.requests);
        self.tokens = keep(self.tokens, fresh.tokens);
    }

    /// Whether anything is limited: a guard without limits pays this look only.
    pub(crate) const fn is_limited(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        for bucket in [&mut self.requests, &mut self.tokens].into_iter().flatten() {
            bucket.fill(passed);
        }
        self.filled_at = self.filled_at.max(now);
    }

    /// Time until a call that costs `tokens` may go.
    pub(crate) fn wait(&mut self, tokens: u64, now: Instant) -> Duration {
        let (requests, tokens) = self.waits(tokens, now);
        requests.max(tokens)
    }

    /// The same of each bucket: of requests and of tokens.
    pub(crate) fn waits(&mut self, tokens: u64, now: Instant) -> (Duration, Duration) {
        self.fill(now);
        let requests = self.requests.map_or(Duration::ZERO, |bucket| bucket.wait(1.0));
        let tokens = self.tokens.map_or(Duration::ZERO, |bucket| bucket.wait(tokens as f64));
        (requests, tokens)
    }

    /// Whether every bucket is full: as if nothing had ever been taken.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        [self.requests, self.tokens].iter().flatten().all(|bucket| bucket.level >= bucket.capacity)
    }

    /// Takes a request and its tokens, whether they are there or not.
    pub(crate) fn take(&mut self, tokens: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.level -= 1.0;
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.level -= tokens as f64;
        }
    }

    /// The cost is known: `reserved` were taken and `used` were needed.
    pub(crate) fn settle(&mut self, reserved: u64, used: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.level = (bucket.level + reserved as f64 - used as f64).min(bucket.capacity);
        }
    }

    /// The call never left.
    pub(crate) fn give_back(&mut self, tokens: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.level = (bucket.level + 1.0).min(bucket.capacity);
        }
        self.settle(tokens, 0);
    }

    pub(crate) fn look(&mut self, now: Instant) -> RateLook {
        self.fill(now);
        let level = |bucket: Option<Bucket>| bucket.map(|bucket| bucket.level);
        RateLook { requests: level(self.requests), tokens: level(self.tokens) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(requests: Option<u64>, tokens: Option<u64>, burst: f64) -> (Rate, Instant) {
        let now = Instant::now();
        let policy = RatePolicy { requests_per_minute: requests, tokens_per_minute: tokens, burst };
        (Rate::new(&policy, now), now)
    }

    #[test]
    fn r15_a_minutes_share_goes_at_once_and_then_one_as_each_is_earned() {
        let (mut rate, now) = rate(Some(60), None, 1.0);
        for _ in 0..60 {
            assert_eq!(rate.wait(0, now), Duration::ZERO);
            rate.take(0);
        }
        let wait = rate.wait(0, now);
        assert!(wait >= SECOND && wait < SECOND + Duration::from_millis(1), "{wait:?}");
        assert_eq!(rate.wait(0, now + wait), Duration::ZERO);
    }

    #[test]
    fn r15_what_was_not_used_is_given_back_and_what_was_used_beyond_is_owed() {
        let (mut rate, now) = rate(None, Some(600), 1.0);
        rate.take(600);
        rate.settle(600, 100);
        assert_eq!(rate.wait(500, now), Duration::ZERO);
        rate.take(500);
        rate.settle(500, 800);
        // 300 are owed: at 10 a second, 30 s to nothing and 1 s to 10
        let wait = rate.wait(10, now);
        assert!(wait >= SECOND * 31 && wait < SECOND * 32, "{wait:?}");
    }

    #[test]
    fn r15_a_call_that_wants_more_than_the_bucket_holds_waits_for_a_full_one() {
        let (mut rate, now) = rate(None, Some(600), 0.5);
        assert_eq!(rate.wait(10_000, now), Duration::ZERO, "it is full");
        rate.take(10_000);
        let wait = rate.wait(10_000, now);
        assert!(wait > SECOND * 999 && wait < SECOND * 1001, "{wait:?}");
        assert_eq!(rate.wait(10_000, now + wait), Duration::ZERO);
    }

    #[test]
    fn r16_another_limit_keeps_what_was_used() {
        let (mut rate, now) = rate(Some(60), Some(600), 1.0);
        rate.take(500);
        let wider = RatePolicy { tokens_per_minute: Some(1200), ..RatePolicy::default() };
        rate.fit(&wider, now);
        let look = rate.look(now);
        assert_eq!((look.requests, look.tokens), (None, Some(700.0)));
    }

    proptest! {
        #[test]
        fn r15_in_no_minute_more_than_a_minutes_share_and_a_burst_leaves(
            pauses in prop::collection::vec(0_u64..5_000, 1..300),
        ) {
            let (mut rate, start) = rate(Some(30), None, 0.5);
            let (mut at_ms, mut left) = (0, Vec::new());
            for pause in pauses {
                at_ms += pause;
                if rate.wait(0, start + Duration::from_millis(at_ms)).is_zero() {
                    rate.take(0);
                    left.push(at_ms);
                }
            }
            for from in &left {
                let within = left.iter().filter(|at| *at >= from && **at < from + 60_000).count();
                prop_assert!(within <= 30 + 15, "{within} from {from}");
            }
        }
    }
}
