//! The guard from outside: what holds for whoever calls through it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected fails")]

mod adaptive;
mod budget;
mod chaos;
mod drops;
mod endings;
mod handed_on;
mod health;
mod hedging;
mod races;
mod rates;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use steadfast_guard::{
    BreakerPolicy, CallContext, Classify, Effect, ErrorClass, Guard, Policy, RetryPolicy,
};

/// An error of any class, with or without a `Retry-After`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{class:?}")]
struct Broken {
    class: ErrorClass,
    retry_after: Option<Duration>,
}

impl Classify for Broken {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

const fn broken(class: ErrorClass) -> Broken {
    Broken { class, retry_after: None }
}

const fn limited(seconds: u64) -> Broken {
    Broken { class: ErrorClass::RateLimited, retry_after: Some(secs(seconds)) }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Retries off, and a breaker that three failures open.
fn single() -> Policy {
    Policy { retry: RetryPolicy::alike(0, Duration::ZERO), ..Policy::default() }
}

/// Retries on, and a breaker that stays out of the way.
fn retrying() -> Policy {
    Policy {
        breaker: BreakerPolicy {
            consecutive_failures: u32::MAX,
            min_calls: u32::MAX,
            ..BreakerPolicy::default()
        },
        ..Policy::default()
    }
}

/// A guard whose breaker opens for exactly as long as it says.
fn guard(mut policy: Policy) -> Guard {
    policy.breaker.open_jitter = 0.0;
    Guard::new("dependency", policy).unwrap()
}

const READ: CallContext = CallContext::new(Effect::Read);
const ONCE: CallContext = CallContext::new(Effect::Once);

/// Counts the attempts that reach the dependency.
#[derive(Clone, Default)]
struct Reached(Arc<AtomicU32>);

impl Reached {
    fn hit(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Fails `n` calls, so that their guard's breaker counts them.
async fn fail(guard: &Guard, n: usize) {
    for _ in 0..n {
        let ended = guard.call(READ, |_| async { Err::<(), _>(broken(ErrorClass::Server)) }).await;
        ended.unwrap_err();
    }
}
