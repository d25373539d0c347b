//! The one place through which every outside call goes, in this order: deadline, idempotency key,
//! fallback, protection of what is expensive, guard, lease, call. What must be written ahead has been written by
//! the driver before it comes here ([`crate::event::RunEvent::ToolStarted`]).

mod model;
mod tool;

use std::time::Duration;

use steadfast_guard::{
    CallContext, CallError, Classify, Effect, ErrorClass, Guard, Priority, Skipped,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::lease::Lease;
use crate::ledger::{Cashier, Payer};

pub(crate) use self::model::{Answered, Unanswered, ask_model};
pub(crate) use self::tool::{OUTCOME_UNKNOWN, ToolRequest, ToolResult, not_run, run_tool};

/// What is left after a deadline for an answer that needs no time.
const GRACE: Duration = Duration::from_secs(1);

/// Whose call it is.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) payer: &'a Payer,
    pub(crate) cashier: &'a Cashier,
    /// The run's: higher goes first, 0 is normal.
    pub(crate) priority: i32,
    /// What the run was claimed by: without it nothing is sent.
    pub(crate) lease: &'a Lease,
}

impl Caller<'_> {
    fn context(self, effect: Effect, deadline: Instant) -> CallContext {
        let priority = match self.priority {
            ..=-1 => Priority::Batch,
            0 => Priority::Interactive,
            1.. => Priority::Critical,
        };
        CallContext::new(effect)
            .with_deadline(deadline)
            .with_tenant(&self.payer.tenant)
            .with_priority(priority)
    }
}

/// An error of one way to an answer, as far as the next way and the reader need it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Trouble {
    class: ErrorClass,
    text: String,
    attempts: u32,
}

impl Classify for Trouble {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

impl Trouble {
    /// Before anything left.
    const fn ahead(class: ErrorClass, text: String) -> Self {
        Self { class, text, attempts: 0 }
    }
}

impl<E: Classify + std::error::Error + 'static> From<&CallError<E>> for Trouble {
    fn from(error: &CallError<E>) -> Self {
        Self { class: error.class(), text: chain(error), attempts: error.attempts() }
    }
}

/// Says in the log why a call has no answer, and what its guard does now. A refusal is said more quietly:
/// there may be many, and what brought them about has been said.
fn log_failure<E: Classify + std::error::Error + 'static>(guard: &Guard, error: &CallError<E>) {
    let (dependency, class) = (guard.name(), error.class().as_str());
    if matches!(error, CallError::Rejected { .. }) {
        debug!(dependency, class, error = chain(error), "refused");
    } else {
        warn!(dependency, class, error = chain(error), guard = guard.explain(), "call failed");
    }
}

/// The ways that gave no answer, in one line.
fn told(skipped: &[Skipped<'_>]) -> String {
    let each = skipped.iter().map(|Skipped { way, reason, .. }| format!("{way}: {reason}"));
    each.collect::<Vec<_>>().join("; ")
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
