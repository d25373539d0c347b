//! One protected call to one dependency.
//!
//! A [`Guard`] stands in front of one dependency (a model, a tool, a server) and decides, for every
//! call: may it go now, how long may it take, is it tried again, and what does its end say about the
//! dependency's health. Policies are data ([`Policy`]) and may be replaced while calls are in flight.
//!
//! ```text
//! deadline -> retry loop -> cooldown, breaker (a look) -> joint admission -> attempt timer -> the call -> verdict
//!                ^  no permit held while it sleeps                                                     |
//!                +-------------------------------------------------------------------------------------+
//! ```
//!
//! This crate knows time (tokio's, so that paused time tests it), memory and randomness. It knows no
//! HTTP, SQL, JSON or models.

mod adaptive;
mod admission;
mod breaker;
mod call;
mod context;
mod cooldown;
mod drill;
mod ending;
mod error;
mod expense;
mod explain;
mod fallback;
mod gather;
mod hedge;
mod histogram;
mod limiter;
mod policy;
mod rate;
mod retry;
mod run;
mod shared;
mod stats;
mod steps;
mod stream;
mod sync;

pub use breaker::BreakerState;
pub use call::{FallingBack, Guard};
pub use context::{Answer, Attempt, CallContext, CallReport, Effect, Priority};
pub use cooldown::Cooldown;
pub use error::{CallError, Classify, ErrorClass, Recovery, Rejection, TimeoutLayer, Verdict};
pub use expense::{
    Alert, AlertCause, AlertEvent, AlertMeasure, Anomaly, AnomalyLevel, AnomalyPolicy,
    AnomalySnapshot, BudgetLimit, BudgetPolicy, BudgetSnapshot, CallBudget, CheckAnswer,
    CheckPassed, CheckRefused, ExpenseError, OnCheckError, OverBudget, PreCheck, PreCheckPolicy,
    Reservation,
};
pub use explain::{GuardSnapshot, counted};
pub use fallback::{Fallback, FallbackAnswer, NoAnswer, Skipped, checks};
pub use histogram::Latency;
pub use limiter::{Admitted, Limiter, LimiterPolicy, OverLimit};
pub use policy::{
    AdaptiveConcurrency, AdaptiveTimeout, BreakerPolicy, ChaosPolicy, ClassRetry, HedgePolicy,
    Policy, PolicyError, RatePolicy, RetryBudget, RetryClasses, RetryPolicy,
};
pub use stats::{Counters, Refusals};
pub use steps::{StepLate, StepLimit};
pub use stream::GuardedStream;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
