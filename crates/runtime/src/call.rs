//! The one place through which every outside call goes, in this order: deadline, idempotency key,
//! guard, call. What must be written ahead has been written by the driver before it comes here
//! ([`crate::event::RunEvent::ToolStarted`]); cache and ledger will stand between key and guard.

use std::sync::Arc;
use std::time::Duration;

use steadfast_guard::{CallContext, CallError, Classify, Effect, ErrorClass, Priority};
use steadfast_providers::model::{ModelAnswer, ModelDelta, ModelError, ModelRequest};
use steadfast_providers::tool::{Progress, ToolInvocation};
use tokio::time::Instant;

use crate::agent::AgentSpec;
use crate::catalog::{Catalog, ModelEntry};
use crate::event::ToolOutcome;
use crate::run::OpenCall;

/// A model's answer and how it came about.
pub(crate) struct Answered {
    pub(crate) answer: ModelAnswer,
    pub(crate) attempts: u32,
    pub(crate) took_ms: u64,
}

/// A tool's result: whatever happened, the model is told.
pub(crate) struct ToolResult {
    pub(crate) outcome: ToolOutcome,
    pub(crate) content: String,
    pub(crate) progress: Option<Progress>,
    pub(crate) attempts: u32,
    pub(crate) took_ms: u64,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) tenant: &'a str,
    /// The run's: higher goes first, 0 is normal.
    pub(crate) priority: i32,
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
            .with_tenant(self.tenant)
            .with_priority(priority)
    }
}

/// Asks a model. Asking again is harmless for the world, so the call is a read.
///
/// # Errors
/// What the guard says.
pub(crate) async fn ask_model(
    entry: &ModelEntry,
    request: &ModelRequest,
    caller: Caller<'_>,
    within: Duration,
) -> Result<Answered, CallError<ModelError>> {
    let began = Instant::now();
    let model = entry.model.as_ref();
    let mut context = caller.context(Effect::Read, began + within);
    if entry.guard.policy().rate.tokens_per_minute.is_some() {
        // What goes in is counted; what comes out is at most what was asked for.
        let input = model.count_tokens(request).tokens;
        context.tokens = input + u64::from(request.max_output_tokens.unwrap_or(0));
    }
    let cost = |answer: &ModelAnswer| answer.usage.total();
    let answer = if entry.stream {
        let take = |delta| match delta {
            ModelDelta::Done(answer) => Some(*answer),
            ModelDelta::Text(_) | ModelDelta::ToolCall { .. } | ModelDelta::Activity => None,
        };
        entry.guard.gather_metered(context, |_| model.stream(request), take, cost).await?
    } else {
        entry.guard.call_metered(context, |_| model.complete(request), cost).await?
    };
    let took_ms = millis(began.elapsed());
    Ok(Answered { answer: answer.value, attempts: answer.report.attempts, took_ms })
}

/// Runs a tool call of the model's. Never fails: what went wrong becomes the result.
pub(crate) async fn run_tool(
    catalog: &Catalog,
    agent: &AgentSpec,
    open: &OpenCall,
    caller: Caller<'_>,
    within: Duration,
) -> ToolResult {
    let began = Instant::now();
    let name = &open.call.name;
    let Some(entry) = catalog.tool(agent, name) else {
        return not_run(ToolOutcome::Invalid, unknown_tool(catalog, agent, name));
    };
    // A violation goes back to the model, so that it mends the arguments (SCOPE R9).
    let arguments = match entry.arguments.parse(&open.call.arguments) {
        Ok(arguments) => arguments,
        Err(error) => return not_run(ToolOutcome::Invalid, error.to_string()),
    };
    let tool = Arc::clone(&entry.tool);
    let context = caller.context(tool.spec().effect, began + within);
    let called = entry.guard.call(context, |attempt| {
        tool.call(ToolInvocation {
            arguments: arguments.clone(),
            idempotency_key: open.key.clone(),
            deadline: attempt.deadline,
        })
    });
    match called.await {
        Ok(answer) => ToolResult {
            outcome: if answer.value.is_error { ToolOutcome::Failed } else { ToolOutcome::Done },
            content: answer.value.content,
            progress: answer.value.progress,
            attempts: answer.report.attempts,
            took_ms: millis(began.elapsed()),
        },
        Err(error) => {
            let attempts = error.attempts();
            let (outcome, content) = explain_failure(&error);
            let took_ms = millis(began.elapsed());
            ToolResult { outcome, content, progress: None, attempts, took_ms }
        }
    }
}

/// What the model is told about a call that may or may not have taken effect.
pub(crate) const OUTCOME_UNKNOWN: &str = "outcome unknown: the call was interrupted and may or may \
    not have taken effect. It is not run again by itself. Verify its effect first, then decide.";

fn explain_failure<E: Classify + std::error::Error + 'static>(
    error: &CallError<E>,
) -> (ToolOutcome, String) {
    let cause = chain(error);
    match error.class() {
        ErrorClass::OutcomeUnknown => {
            (ToolOutcome::OutcomeUnknown, format!("{OUTCOME_UNKNOWN} ({cause})"))
        }
        ErrorClass::InvalidRequest | ErrorClass::NotFound | ErrorClass::Conflict => {
            (ToolOutcome::Failed, cause)
        }
        ErrorClass::Authentication | ErrorClass::Permission => (
            ToolOutcome::Failed,
            format!("{cause}. Do not call it again as it is: it needs a person to allow it."),
        ),
        _ => (ToolOutcome::Unavailable, cause),
    }
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

pub(crate) const fn not_run(outcome: ToolOutcome, content: String) -> ToolResult {
    ToolResult { outcome, content, progress: None, attempts: 0, took_ms: 0 }
}

fn unknown_tool(catalog: &Catalog, agent: &AgentSpec, name: &str) -> String {
    let known: Vec<_> = catalog.definitions(agent).into_iter().map(|tool| tool.name).collect();
    format!("there is no tool `{name}`; there are: {}", known.join(", "))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
