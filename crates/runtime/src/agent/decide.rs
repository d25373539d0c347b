//! What should happen next with a run: pure, from the fold and the agent's definition.

use std::time::Duration;

use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::{FinishReason, Message};
use steadfast_store::Timestamp;

use crate::agent::AgentSpec;
use crate::event::{RunEvent, StopReason, TimeLimit, ToolOutcome};
use crate::run::{CallState, OpenCall, QueuedRun, Run};
use crate::state::Status;

/// What should happen next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Ask the model, within this time.
    AskModel { within: Duration },
    /// Run these open calls, all reads, side by side.
    ReadTools { calls: Vec<OpenCall>, within: Duration },
    /// Run this open call, alone.
    RunTool { call: OpenCall, within: Duration },
    /// This call was interrupted and may not be run again: tell the model so.
    AdmitUnknown { call: OpenCall },
    /// This call was cut off with the answer that made it: tell the model so.
    RefuseCut { call: OpenCall },
    /// This call was to be made later, and its time is over.
    GiveUp { call: OpenCall },
    /// The run is over.
    End { event: RunEvent },
    /// Nothing: it is not running.
    Nothing,
}

/// Decides what should happen next. `effect_of` gives the effect class of a tool, `None` if there is
/// no such tool (such a call changes nothing: it is answered with an error).
pub(crate) fn decide(
    run: &Run,
    agent: &AgentSpec,
    now: Timestamp,
    effect_of: &dyn Fn(&str) -> Option<Effect>,
) -> Decision {
    if run.status != Status::Running {
        return Decision::Nothing;
    }
    // What was interrupted is settled first, even if time is up: the journal must be honest.
    let interrupted_once = run
        .open_calls
        .iter()
        .find(|open| matches!(open.state, CallState::Interrupted { effect: Effect::Once }));
    if let Some(call) = interrupted_once {
        return Decision::AdmitUnknown { call: call.clone() };
    }
    if let Some(call) = run.open_calls.iter().find(|open| open.is_undo) {
        return Decision::RunTool { call: call.clone(), within: agent.turn_timeout };
    }
    if let Some(queued) = &run.queued {
        return one_call(run, queued, agent, now);
    }
    let within = match time_left(run, agent, now) {
        Ok(within) => within,
        Err(limit) => return end(StopReason::Timeout { limit }, timeout_message(agent, limit)),
    };
    if run.open_calls.is_empty() {
        after_answer(run, agent, within)
    } else {
        next_tools(run, within, effect_of)
    }
}

/// A run that makes one call for another one.
fn one_call(run: &Run, queued: &QueuedRun, agent: &AgentSpec, now: Timestamp) -> Decision {
    let (tool, from) = (&queued.call.tool, queued.call.from);
    let failed = |class, what: String| {
        let message = format!(
            "`{tool}`, queued by run {from}: {what}. Resume this run to make the call again"
        );
        end(StopReason::Error { class }, message)
    };
    if let Some(notice) = run.open_calls.iter().find(|open| open.is_notice) {
        return Decision::RunTool { call: notice.clone(), within: agent.turn_timeout };
    }
    match &queued.result {
        Some((ToolOutcome::Done, said)) => {
            Decision::End { event: RunEvent::Succeeded { output: said.clone() } }
        }
        Some((ToolOutcome::OutcomeUnknown, said)) => {
            failed(ErrorClass::OutcomeUnknown, said.clone())
        }
        Some((ToolOutcome::Unavailable, said)) => failed(ErrorClass::Timeout, said.clone()),
        Some((_, said)) => failed(ErrorClass::InvalidRequest, said.clone()),
        None => {
            let left = millis(queued.call.until.0 - now.0);
            match run.open_calls.first() {
                Some(call) if !left.is_zero() => {
                    Decision::RunTool { call: call.clone(), within: left.min(agent.turn_timeout) }
                }
                Some(call) => Decision::GiveUp { call: call.clone() },
                None => failed(ErrorClass::Internal, "its call is lost".to_owned()),
            }
        }
    }
}

fn next_tools(run: &Run, within: Duration, effect_of: &dyn Fn(&str) -> Option<Effect>) -> Decision {
    let cut = run.last_finish == Some(FinishReason::Length);
    if let (true, Some(call)) = (cut, run.open_calls.first()) {
        return Decision::RefuseCut { call: call.clone() };
    }
    let reads_only = run
        .open_calls
        .iter()
        .all(|open| matches!(effect_of(&open.call.name), None | Some(Effect::Read)));
    match run.open_calls.first() {
        Some(_) if reads_only => Decision::ReadTools { calls: run.open_calls.clone(), within },
        Some(call) => Decision::RunTool { call: call.clone(), within },
        None => Decision::Nothing,
    }
}

fn after_answer(run: &Run, agent: &AgentSpec, within: Duration) -> Decision {
    let answered = matches!(
        run.messages.last(),
        Some(Message::Assistant { tool_calls, .. }) if tool_calls.is_empty()
    );
    if answered {
        return closing(run);
    }
    let counted = run.iterations.saturating_sub(run.allowance.iterations);
    if counted >= agent.max_iterations {
        let message = format!(
            "stopped after {counted} model answers, the agent's `max_iterations`: retry the run to let \
             it go on for as many again, raise the limit, or give the agent a smaller task"
        );
        return end(StopReason::IterationLimit, message);
    }
    Decision::AskModel { within }
}

/// The last answer calls no tool: what does it mean for the run?
fn closing(run: &Run) -> Decision {
    let text = match run.messages.last() {
        Some(Message::Assistant { text, .. }) => text.clone(),
        _ => String::new(),
    };
    match run.last_finish {
        Some(FinishReason::Refused) => {
            end(StopReason::Refused, format!("the model refused: {text}"))
        }
        Some(FinishReason::Length) => end(
            StopReason::OutputLimit,
            "the closing answer was cut at the output limit: raise the agent's \
             `max_output_tokens` and resume the run"
                .to_owned(),
        ),
        // `ToolCalls` without calls and `Other` are ends that providers really send.
        Some(FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other) | None => {
            Decision::End { event: RunEvent::Succeeded { output: text } }
        }
    }
}

fn end(stop: StopReason, message: String) -> Decision {
    Decision::End { event: RunEvent::Failed { stop, message } }
}

/// Time that the run may still be executed, or the limit that has passed.
fn time_left(run: &Run, agent: &AgentSpec, now: Timestamp) -> Result<Duration, TimeLimit> {
    let since_event = (now.0 - run.updated_at.0).max(0);
    let active = millis(run.active_ms + since_event);
    let total = millis(now.0 - run.allowance.from.unwrap_or(run.submitted_at).0);
    let turn_left = agent.turn_timeout.checked_sub(active).filter(|left| !left.is_zero());
    let total_left = agent.total_timeout.checked_sub(total).filter(|left| !left.is_zero());
    let turn_left = turn_left.ok_or(TimeLimit::Turn)?;
    let total_left = total_left.ok_or(TimeLimit::Total)?;
    Ok(turn_left.min(total_left))
}

fn timeout_message(agent: &AgentSpec, limit: TimeLimit) -> String {
    let (key, value) = match limit {
        TimeLimit::Turn => ("turn_timeout", agent.turn_timeout),
        TimeLimit::Total => ("total_timeout", agent.total_timeout),
    };
    format!(
        "the agent's `{key}` of {value:?} has passed: retry the run to give it as long again, or raise \
         the limit"
    )
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The key of the run's next model call: the same before and after a crash, so that a provider that
/// knows idempotency keys bills it once.
pub(crate) fn model_key(run: &Run) -> String {
    format!("{}-model-{}", run.id, run.iterations + 1)
}

/// The end that an error of a model call makes.
pub(crate) fn failure(class: ErrorClass, message: String) -> RunEvent {
    let stop = match class {
        ErrorClass::ContextTooLong => StopReason::Context,
        ErrorClass::Refused => StopReason::Refused,
        class => StopReason::Error { class },
    };
    RunEvent::Failed { stop, message }
}
