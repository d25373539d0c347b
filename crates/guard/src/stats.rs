//! Counters of how calls ended (SCOPE R17). A dropped call is in none of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Rejection;
use crate::histogram::{Histogram, Latency};

#[derive(Debug, Default)]
pub(crate) struct Stats {
    timeout: AtomicU64,
    error: AtomicU64,
    refusals: [AtomicU64; REASONS],
    retry: AtomicU64,
    no_budget: AtomicU64,
    hedge: AtomicU64,
}

/// The answers of a guard. They come with a permit's return, and so are counted under admission's lock.
#[derive(Debug)]
pub(crate) struct Answers {
    count: u64,
    sum_micros: u64,
    max_micros: u64,
    histogram: Histogram,
}

/// Answers at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswersLook {
    count: u64,
    sum_micros: u64,
    max_micros: u64,
    pub(crate) latency: Latency,
}

impl Answers {
    pub(crate) fn new(now: Instant) -> Self {
        Self { count: 0, sum_micros: 0, max_micros: 0, histogram: Histogram::new(now) }
    }

    pub(crate) fn record(&mut self, took: Duration, now: Instant) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
        self.max_micros = self.max_micros.max(micros);
        self.histogram.record(micros, now);
    }

    pub(crate) fn look(&mut self, now: Instant) -> AnswersLook {
        let Self { count, sum_micros, max_micros, .. } = *self;
        AnswersLook { count, sum_micros, max_micros, latency: self.histogram.read(now) }
    }
}

/// The reasons of a [`Rejection`].
const REASONS: usize = 7;

/// How a guard's calls ended, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counters {
    /// Calls that ended: the sum of the next four. A call that was dropped is not counted.
    pub total: u64,
    /// Calls that returned an answer.
    pub success: u64,
    /// Calls that ended with [`CallError::TimedOut`](crate::CallError::TimedOut).
    pub timeout: u64,
    /// Calls that ended with another error of the dependency.
    pub error: u64,
    /// Calls that ended with [`CallError::Rejected`](crate::CallError::Rejected).
    pub rejected: u64,
    /// The same by reason.
    pub refusals: Refusals,
    /// Attempts after the first, of all calls; hedges are not among them.
    pub retry: u64,
    /// Attempts that went beside one that was slow.
    #[serde(default)]
    pub hedge: u64,
    /// Calls that were not retried because too many calls were retrying already.
    pub no_budget: u64,
    /// Sum of the durations of the attempts that returned an answer, in microseconds. Divided by
    /// `success` it is the average latency.
    pub latency_sum_micros: u64,
    /// The longest of these durations, in microseconds.
    pub latency_max_micros: u64,
}

/// Calls that were refused on this side, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refusals {
    /// The breaker was open.
    pub breaker: u64,
    /// The dependency had asked for quiet.
    pub cooldown: u64,
    /// The queue was full.
    pub queue_full: u64,
    /// The queue filled, and higher priorities needed the places.
    pub shed: u64,
    /// This minute's requests or tokens were used up.
    pub rate: u64,
    /// The longest wait had passed.
    pub queue_timeout: u64,
    /// The caller's deadline had passed.
    pub deadline: u64,
}

impl Counters {
    /// Share of the calls that returned an answer; `None` before the first has ended.
    #[must_use]
    pub fn success_ratio(&self) -> Option<f64> {
        self.share(self.success)
    }

    /// Share of the calls that timed out.
    #[must_use]
    pub fn timeout_ratio(&self) -> Option<f64> {
        self.share(self.timeout)
    }

    /// Attempts after the first for each call; above 1 if calls were repeated more than once on average.
    #[must_use]
    pub fn retry_ratio(&self) -> Option<f64> {
        self.share(self.retry)
    }

    fn share(&self, part: u64) -> Option<f64> {
        (self.total > 0).then(|| part as f64 / self.total as f64)
    }
}

impl Stats {
    pub(crate) fn timed_out(&self) {
        self.timeout.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.error.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, reason: &Rejection) {
        self.refusals[place(reason)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retry.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn hedged(&self) {
        self.hedge.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn no_budget(&self) {
        self.no_budget.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, answers: AnswersLook) -> Counters {
        let success = answers.count;
        let timeout = self.timeout.load(Ordering::Relaxed);
        let error = self.error.load(Ordering::Relaxed);
        let refused = self.refusals.each_ref().map(|count| count.load(Ordering::Relaxed));
        let rejected = refused.iter().sum();
        let [breaker, cooldown, queue_full, shed, rate, queue_timeout, deadline] = refused;
        Counters {
            total: success + timeout + error + rejected,
            success,
            timeout,
            error,
            rejected,
            refusals: Refusals {
                breaker,
                cooldown,
                queue_full,
                shed,
                rate,
                queue_timeout,
                deadline,
            },
            retry: self.retry.load(Ordering::Relaxed),
            hedge: self.hedge.load(Ordering::Relaxed),
            no_budget: self.no_budget.load(Ordering::Relaxed),
            latency_sum_micros: answers.sum_micros,
            latency_max_micros: answers.max_micros,
        }
    }
}

/// The place of a reason among the refusals.
const fn place(reason: &Rejection) -> usize {
    match reason {
        Rejection::BreakerOpen { .. } => 0,
        Rejection::Cooldown { .. } => 1,
        Rejection::QueueFull { .. } => 2,
        Rejection::Shed { .. } => 3,
        Rejection::RateLimited { .. } => 4,
        Rejection::QueueTimeout { .. } => 5,
        Rejection::Deadline => 6,
    }
}
