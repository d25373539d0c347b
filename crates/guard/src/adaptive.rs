//! Limits that follow what is seen: how long an attempt may take (SCOPE R5), and how many may be in flight.
//! Pure; both live under admission's lock.

use std::time::Duration;

use tokio::time::Instant;

use crate::{AdaptiveConcurrency, AdaptiveTimeout};

/// The durations of the last attempts, and the limit that follows from them.
///
/// An attempt that timed out is remembered at its limit. If only answers were, a dependency that becomes
/// slower than the limit would time out for ever: no answer comes, and so nothing raises the limit.
#[derive(Clone, Debug)]
pub(crate) struct Estimator {
    durations: Vec<Duration>,
    next: usize,
    /// Sorted here, so that nothing is allocated.
    scratch: Vec<Duration>,
    limit: Duration,
}

impl Estimator {
    pub(crate) fn new(policy: &AdaptiveTimeout) -> Self {
        let samples = if policy.enabled { policy.samples as usize } else { 0 };
        Self {
            durations: Vec::with_capacity(samples),
            next: 0,
            scratch: Vec::with_capacity(samples),
            limit: policy.base.clamp(policy.min, policy.max),
        }
    }

    /// Takes another policy; what was learned stays, unless another number of samples is wanted.
    pub(crate) fn fit(&mut self, policy: &AdaptiveTimeout) {
        let samples = if policy.enabled { policy.samples as usize } else { 0 };
        if self.durations.capacity() != samples {
            *self = Self::new(policy);
        }
        self.estimate(policy);
    }

    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Remembers how long an attempt took: until its answer, or until its limit.
    pub(crate) fn record(&mut self, policy: &AdaptiveTimeout, took: Duration) {
        let samples = policy.samples as usize;
        if self.durations.len() < samples {
            self.durations.push(took);
        } else {
            self.durations[self.next] = took;
            self.next = (self.next + 1) % samples;
        }
        self.estimate(policy);
    }

    fn estimate(&mut self, policy: &AdaptiveTimeout) {
        let count = self.durations.len();
        let limit = if count < policy.min_samples as usize {
            policy.base
        } else {
            // The smallest of those that at least the wanted share did not exceed.
            let rank = share_of(count, policy.percentile).clamp(1, count) - 1;
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.durations);
            let (_, found, _) = self.scratch.select_nth_unstable(rank);
            found.mul_f64(policy.factor)
        };
        self.limit = limit.clamp(policy.min, policy.max);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is between 0 and the count"
)]
fn share_of(count: usize, share: f64) -> usize {
    (count as f64 * share).ceil() as usize
}

/// How many calls may be in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limiter {
    /// Fractions add up to the next whole call.
    limit: f64,
    decreased_at: Option<Instant>,
}

impl Limiter {
    pub(crate) fn new(policy: &AdaptiveConcurrency, concurrency: usize) -> Self {
        let start = policy.start.clamp(policy.min.min(concurrency), concurrency);
        Self { limit: start as f64, decreased_at: None }
    }

    /// The limit, within the policy's.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 1 and the policy's limit"
    )]
    pub(crate) fn limit(&self, policy: &AdaptiveConcurrency, concurrency: usize) -> usize {
        (self.limit as usize).clamp(policy.min.min(concurrency), concurrency)
    }

    /// A call succeeded while so many were in flight: one more for each round of calls, but only if the
    /// limit was used. An idle dependency proves nothing.
    pub(crate) fn succeeded(&mut self, in_flight: usize, concurrency: usize) {
        if in_flight as f64 * 2.0 >= self.limit {
            self.limit = (self.limit + 1.0 / self.limit).min(concurrency as f64);
        }
    }

    /// The dependency was overloaded. Calls that leave together fail together: they are one overload.
    pub(crate) fn overloaded(
        &mut self,
        policy: &AdaptiveConcurrency,
        began: Instant,
        now: Instant,
    ) {
        if self.decreased_at.is_some_and(|at| began < at) {
            return;
        }
        self.limit = (self.limit * policy.decrease).max(policy.min as f64).max(1.0);
        self.decreased_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: AdaptiveTimeout = AdaptiveTimeout {
        enabled: true,
        samples: 100,
        min_samples: 5,
        percentile: 0.95,
        factor: 1.5,
        min: Duration::from_secs(1),
        max: Duration::from_secs(60),
        base: Duration::from_secs(30),
    };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn r5_the_limit_is_the_base_until_five_and_then_half_more_than_the_95th_of_100() {
        let mut estimator = Estimator::new(&ON);
        for _ in 0..4 {
            estimator.record(&ON, secs(2));
            assert_eq!(estimator.limit(), secs(30));
        }
        estimator.record(&ON, secs(2));
        assert_eq!(estimator.limit(), secs(3));
        for second in 1..=100 {
            estimator.record(&ON, Duration::from_millis(second * 100));
        }
        assert_eq!(estimator.limit(), Duration::from_millis(9500).mul_f64(1.5));
    }

    #[test]
    fn r5_the_limit_stays_within_its_bounds() {
        let mut estimator = Estimator::new(&ON);
        for (took, expected) in [(Duration::from_millis(1), secs(1)), (secs(500), secs(60))] {
            (0..100).for_each(|_| estimator.record(&ON, took));
            assert_eq!(estimator.limit(), expected);
        }
    }

    /// Attempts of a dependency that becomes `slower` times as slow after 200; how many of the last 200 of
    /// 600 timed out. The naive way remembers answers only.
    fn late_timeouts(slower: f64, naive: bool) -> usize {
        let mut estimator = Estimator::new(&ON);
        let mut timed_out = 0;
        for number in 0..600_u32 {
            // A tenth up and down around two seconds, by a sequence that repeats nothing nearby.
            let wobble = f64::from(number * 37 % 101) / 101.0 * 0.2 + 0.9;
            let took =
                Duration::from_secs_f64(2.0 * wobble * if number < 200 { 1.0 } else { slower });
            let limit = estimator.limit();
            match took <= limit {
                true => estimator.record(&ON, took),
                false if naive => {}
                false => estimator.record(&ON, limit),
            }
            timed_out += usize::from(took > limit && number >= 400);
        }
        timed_out
    }

    /// The defect of an estimator that sees answers only: it locks in.
    #[test]
    fn r5_a_dependency_that_becomes_slower_is_waited_for_again() {
        for slower in [3.0, 5.0] {
            assert_eq!(late_timeouts(slower, true), 200, "the naive way times out for ever");
            assert_eq!(late_timeouts(slower, false), 0, "{slower} times slower");
        }
    }

    #[test]
    fn r1_a_burst_of_failures_is_one_decrease_and_only_a_used_limit_grows() {
        let policy = AdaptiveConcurrency { enabled: true, decrease: 0.5, ..Default::default() };
        let (mut limiter, start) = (Limiter::new(&policy, 100), Instant::now());
        let limit = |limiter: &Limiter| limiter.limit(&policy, 100);
        assert_eq!(limit(&limiter), 8);
        for _ in 0..8 {
            limiter.overloaded(&policy, start, start + secs(1));
        }
        assert_eq!(limit(&limiter), 4);
        limiter.overloaded(&policy, start + secs(1), start + secs(2));
        assert_eq!(limit(&limiter), 2);
        for _ in 0..100 {
            limiter.succeeded(0, 100);
        }
        assert_eq!(limit(&limiter), 2, "unused");
        for _ in 0..10_000 {
            limiter.succeeded(limit(&limiter), 100);
        }
        assert_eq!(limit(&limiter), 100, "never more than the policy's");
        for second in 3..90 {
            limiter.overloaded(&policy, start + secs(second), start + secs(second));
        }
        assert_eq!(limit(&limiter), 1, "never none");
    }
}
