//! Runs that are Rust code: each step is remembered under its name, so that the code can be run again from
//! its beginning after a crash, a wait or an upgrade, and goes on where it was.
//!
//! The code is an async function of a [`RunContext`]. What it does outside it does in steps
//! ([`RunContext::step`]); what a step has returned is on disk before the code sees it, and is returned from
//! there ever after. Between steps the code must not reach outside: that would be repeated.
//!
//! Steps are found by name and not by place: code that has been changed goes on with runs that the old code
//! began, as long as a step's name still means the same thing and its result can still be read. One that
//! cannot be read is reported with the step's name, and the run can be resumed once the code fits.

mod back;
mod board;
mod child;
mod compensate;
mod context;
mod drive;
mod facts;
mod policy;
mod record;
mod signal;
mod step;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

pub(crate) use self::board::Board;
pub use self::child::Child;
pub use self::compensate::Compensation;
pub use self::context::RunContext;
pub(crate) use self::drive::drive;
pub use self::facts::RunFacts;
pub use self::policy::CodePolicy;
pub use self::record::{ChildTries, StepFailure, StepRecord, StepState, Steps};
pub use self::signal::{WaitFor, WaitWithin};
pub use self::step::{ChildEnd, Step, StepCall, StepError};

/// Code that runs can be of.
pub(crate) type Code = Arc<dyn Fn(RunContext) -> Running + Send + Sync>;

/// One execution of it.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send>>;

/// Makes a function into code that runs can be of.
pub(crate) fn code<F, Fut, T>(function: F) -> Code
where
    F: Fn(RunContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    T: Serialize,
{
    Arc::new(move |context| {
        let running = function(context);
        Box::pin(async move {
            let value = running.await?;
            serde_json::to_value(value).map_err(|error| {
                StepError::failed(format!(
                    "what the run returns cannot be written as JSON: {error}"
                ))
            })
        })
    })
}
