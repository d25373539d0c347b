//! What a run is made of: its open calls, its end, and why a log cannot be folded into one.

use serde::{Deserialize, Serialize};
use steadfast_guard::Effect;
use steadfast_providers::model::ToolCall;
use steadfast_store::RunId;

use crate::event::{QueuedCall, StopReason, ToolOutcome};
use crate::recovery::Judgement;
use crate::state::IllegalTransition;

/// The wish that a run end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelling {
    /// Whose.
    pub by: String,
    /// Why, if they said so.
    pub reason: Option<String>,
}

/// A run that makes one call for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedRun {
    /// The call.
    pub call: QueuedCall,
    /// How the call ended, and what it said; `None` before.
    pub result: Option<(ToolOutcome, String)>,
}

/// A tool call without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// As the model asked for it.
    pub call: ToolCall,
    /// The key handed to the tool.
    pub key: String,
    /// How far it got.
    pub state: CallState,
    /// It tells how a queued call ended: the configuration asked for it, and no model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_notice: bool,
    /// It undoes another one: a rollback asked for it, and no model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_undo: bool,
    /// What was said about it, after it was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judgement>,
}

impl OpenCall {
    /// A call of which nothing has left.
    pub(crate) const fn pending(call: ToolCall, key: String) -> Self {
        let state = CallState::Pending;
        Self { call, key, state, is_notice: false, is_undo: false, judged: None }
    }

    /// Whether no model asked for it, so that it may be of any tool.
    pub(crate) const fn is_own(&self) -> bool {
        self.is_notice || self.is_undo
    }
}

/// How far a tool call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CallState {
    /// Nothing has left.
    Pending,
    /// It was written ahead and may be under way.
    Started {
        /// What it does outside.
        effect: Effect,
    },
    /// It was under way when the run was last left: whether it took effect is not known.
    Interrupted {
        /// What it does outside.
        effect: Effect,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Ending {
    /// With an answer.
    Succeeded {
        /// The answer.
        output: String,
    },
    /// Without one.
    Failed {
        /// Why, as a type.
        stop: StopReason,
        /// Why, for people.
        message: String,
    },
    /// By somebody.
    Cancelled {
        /// Who.
        by: String,
        /// Why, if they said so.
        reason: Option<String>,
    },
}

/// A log that cannot be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// The first event is not a submission.
    #[error("the log of run {run} begins with `{kind}` instead of `submitted`")]
    NoBeginning {
        /// The run.
        run: RunId,
        /// What it begins with.
        kind: &'static str,
    },
    /// An event is missing.
    #[error("event {found} of run {run} follows event {last}")]
    Hole {
        /// The run.
        run: RunId,
        /// The event before.
        last: u64,
        /// The event found.
        found: u64,
    },
    /// An event that is not possible in the state.
    #[error("event {seq} of run {run}: {source}")]
    Illegal {
        /// The run.
        run: RunId,
        /// The event.
        seq: u64,
        /// Why.
        source: IllegalTransition,
    },
    /// The code heard what nobody had said.
    #[error("event {seq} of run {run} hears signal `{signal}`, which was not said before")]
    Unsaid {
        /// The run.
        run: RunId,
        /// The event.
        seq: u64,
        /// The signal.
        signal: String,
    },
    /// An event that goes back, folded without what it goes back to.
    #[error("event {seq} of run {run} goes back to an earlier one, which is not at hand")]
    NoPast {
        /// The run.
        run: RunId,
        /// The event.
        seq: u64,
    },
    /// A result or a start of a call that the last answer did not ask for.
    #[error("event {seq} of run {run} is about call `{call_id}`, which is not open")]
    UnknownCall {
        /// The run.
        run: RunId,
        /// The event.
        seq: u64,
        /// The call.
        call_id: String,
    },
}
