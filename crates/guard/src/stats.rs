//! Counters of how calls ended (SCOPE R17). A dropped call is in none of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Default)]
pub(crate) struct Stats {
    success: AtomicU64,
    timeout: AtomicU64,
    error: AtomicU64,
    rejected: AtomicU64,
    retry: AtomicU64,
    no_budget: AtomicU64,
    latency_sum_micros: AtomicU64,
    latency_max_micros: AtomicU64,
}

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
    /// Attempts after the first, of all calls.
    pub retry: u64,
    /// Calls that were not retried because too many calls were retrying already.
    pub no_budget: u64,
    /// Sum of the durations of the attempts that returned an answer, in microseconds. Divided by
    /// `success` it is the average latency.
    pub latency_sum_micros: u64,
    /// The longest of these durations, in microseconds.
    pub latency_max_micros: u64,
}

impl Stats {
    pub(crate) fn succeeded(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_sum_micros.fetch_add(micros, Ordering::Relaxed);
        // a new maximum is rare: the look costs less than the exchange
        if micros > self.latency_max_micros.load(Ordering::Relaxed) {
            self.latency_max_micros.fetch_max(micros, Ordering::Relaxed);
        }
        self.success.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn timed_out(&self) {
        self.timeout.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.error.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retry.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn no_budget(&self) {
        self.no_budget.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let success = self.success.load(Ordering::Relaxed);
        let timeout = self.timeout.load(Ordering::Relaxed);
        let error = self.error.load(Ordering::Relaxed);
        let rejected = self.rejected.load(Ordering::Relaxed);
        Counters {
            total: success + timeout + error + rejected,
            success,
            timeout,
            error,
            rejected,
            retry: self.retry.load(Ordering::Relaxed),
            no_budget: self.no_budget.load(Ordering::Relaxed),
            latency_sum_micros: self.latency_sum_micros.load(Ordering::Relaxed),
            latency_max_micros: self.latency_max_micros.load(Ordering::Relaxed),
        }
    }
}
