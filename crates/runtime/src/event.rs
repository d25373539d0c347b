//! What can happen to a run. A run is a fold over these, and over nothing else.
//!
//! The stored form is JSON, one object per event, tagged `type`. Its version stands beside it in the
//! store ([`EVENT_VERSION`]); a change that older code could not read raises the version and adds a
//! branch to `stored.rs`.

mod commanded;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::{FinishReason, ToolCall, Usage};
use steadfast_providers::tool::Progress;
use steadfast_store::{RunId, Timestamp};

pub use commanded::{Changes, LeftCall, UndoCall, Verdict};

use crate::code::StepFailure;
use crate::run::Ending;

/// The version of the stored form that this code writes.
pub const EVENT_VERSION: u16 = 1;

/// One thing that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RunEvent {
    /// The run was accepted.
    Submitted {
        /// The agent that is to do it.
        agent: String,
        /// What it is to do.
        input: String,
        /// The run makes this one call, and nothing else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<QueuedCall>,
        /// The run that started this one; it is told how this one ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<RunId>,
        /// The conversation or the like that it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        /// Words that people find it by, sorted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
    },
    /// A node took the run and begins, or goes on, executing it. Calls that were under way when the
    /// run was last left are interrupted from here on.
    Claimed {
        /// The node.
        node: String,
        /// The epoch of its claim.
        epoch: u64,
    },
    /// The model answered. Only what the answer added is recorded, never what was sent.
    ModelAnswered {
        /// The key of the logical call; the same for all its attempts, before and after a crash.
        key: String,
        /// The model that answered, as the provider named it.
        model: String,
        /// Whether the answer was scripted.
        simulated: bool,
        /// The text.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
        /// The tools it calls, ids made unique.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
        /// Why the answer ended.
        finish: FinishReason,
        /// Tokens.
        usage: Usage,
        /// Attempts that reached the provider.
        attempts: u32,
        /// Time from the first attempt to the whole answer, in milliseconds.
        took_ms: u64,
        /// What stood in for the model, or for the whole conversation (SCOPE R13, R14).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        degraded: Option<Degraded>,
    },
    /// A tool call that changes something is about to leave. Written before it leaves.
    ToolStarted {
        /// The call, as in the model's answer.
        call_id: String,
        /// The tool.
        tool: String,
        /// What it does outside.
        effect: Effect,
        /// The key handed to the tool; the same for all attempts.
        key: String,
    },
    /// A tool call has its result: the one that the model is shown.
    ToolFinished {
        /// The call, as in the model's answer.
        call_id: String,
        /// The tool.
        tool: String,
        /// How it ended.
        outcome: ToolOutcome,
        /// What the tool said, or what the model is told instead.
        content: String,
        /// Attempts that reached the tool.
        attempts: u32,
        /// Time from the first attempt to the result, in milliseconds.
        took_ms: u64,
        /// When the result was recorded, if another call with the same key had brought it about and
        /// the tool was not called (SCOPE R11).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recorded_at: Option<Timestamp>,
        /// What stood in for the tool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        degraded: Option<Degraded>,
    },
    /// A step of a run that is code, and that changes something, is about to be done.
    StepStarted {
        /// Its name.
        step: String,
        /// What it does outside.
        effect: Effect,
        /// Whether it undoes another one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undoes: bool,
    },
    /// A step of a run that is code is done, or failed for good.
    StepFinished {
        /// Its name.
        step: String,
        /// What it returned, unless it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// How it failed, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<StepFailure>,
        /// Whether it undoes another one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undoes: bool,
    },
    /// A tool reported where the run stands.
    Progressed {
        /// Where it stands.
        progress: Progress,
    },
    /// The run is put aside; no task, permit or connection is held for it meanwhile.
    Parked {
        /// What it waits for.
        reason: WaitReason,
        /// When it goes on by itself.
        wake_at: Option<Timestamp>,
        /// What happened, for people.
        detail: String,
    },
    /// Something was said to the run from outside.
    Signalled {
        /// What it is called.
        name: String,
        /// What was said.
        payload: Value,
        /// Who said it.
        by: String,
    },
    /// The code has heard the oldest thing said under a name that it had not heard, or waits for it no
    /// longer.
    Heard {
        /// The wait, remembered as a step.
        step: String,
        /// What is called so.
        signal: String,
        /// Nothing had been said by the time.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        timed_out: bool,
    },
    /// A run that this one had started is over.
    ChildEnded {
        /// The child.
        child: RunId,
        /// How it ended.
        ending: Ending,
    },
    /// Somebody put the run aside until it is resumed.
    Paused {
        /// Who.
        by: String,
        /// Why, if they said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Somebody asked for a run that had failed, waited or was paused to go on.
    Resumed {
        /// Who.
        by: String,
        /// Calls that gave no result and are made again with their keys, as they are in the model's answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<String>,
    },
    /// The run goes on, in a way of its own, from where another one had been: all events before this one are
    /// that run's.
    Forked {
        /// That run.
        from: RunId,
        /// Its last event that is in this log, too.
        last: u64,
        /// What is different from here on.
        #[serde(default, skip_serializing_if = "Changes::is_empty")]
        changes: Changes,
        /// Who asked for it.
        by: String,
    },
    /// The run goes on from where it had been: what came after that is undone as far as it can be.
    RolledBack {
        /// The last event that still counts.
        to: u64,
        /// Who asked for it.
        by: String,
        /// Why, if they said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The calls that undo something, in the order in which they are made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        undo: Vec<UndoCall>,
        /// The changes that stay, as nothing says how they are undone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<LeftCall>,
    },
    /// What a run of code had done since the place that it was rolled back to is undone, as far as it can
    /// be: it goes on from there.
    Undone {
        /// Steps from before that place that had been undone, too; they are done again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<String>,
        /// Steps that changed something and stay in effect, as the code did not say how they are undone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<String>,
    },
    /// A checkpoint could not be read; the run was folded from the one before it, or from its beginning.
    CheckpointPassedOver {
        /// The last event that it should have held; 0 if none of the run's checkpoints could be read.
        checkpoint: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody, or a tool, said whether an interrupted call had taken effect.
    CallJudged {
        /// The call, as in the model's answer.
        call_id: String,
        /// Whether it had.
        verdict: Verdict,
        /// What it gave, as far as that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<String>,
        /// Who said so.
        by: String,
    },
    /// The code has come to its end, and never to these steps, which an earlier execution did: it has been
    /// changed.
    StepsUnmet {
        /// Their names.
        steps: Vec<String>,
    },
    /// Somebody wants the run to end; what it has begun is ended and undone first.
    Cancelling {
        /// Who.
        by: String,
        /// Why, if they said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Somebody ended the run.
    Cancelled {
        /// Who.
        by: String,
        /// Why, if they said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The run reached its end.
    Succeeded {
        /// The closing answer.
        output: String,
    },
    /// The run stopped without reaching its end.
    Failed {
        /// Why, as a type.
        stop: StopReason,
        /// What happened and what to do, for people.
        message: String,
    },
}

impl RunEvent {
    /// Every kind, in the order in which they usually come.
    pub const KINDS: [&str; 24] = [
        "submitted",
        "claimed",
        "model_answered",
        "tool_started",
        "tool_finished",
        "step_started",
        "step_finished",
        "progressed",
        "parked",
        "signalled",
        "heard",
        "child_ended",
        "paused",
        "resumed",
        "steps_unmet",
        "cancelling",
        "forked",
        "rolled_back",
        "undone",
        "checkpoint_passed_over",
        "call_judged",
        "cancelled",
        "succeeded",
        "failed",
    ];

    /// The event's kind, as it stands in the store.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "submitted",
            Self::Claimed { .. } => "claimed",
            Self::ModelAnswered { .. } => "model_answered",
            Self::ToolStarted { .. } => "tool_started",
            Self::ToolFinished { .. } => "tool_finished",
            Self::StepStarted { .. } => "step_started",
            Self::StepFinished { .. } => "step_finished",
            Self::Progressed { .. } => "progressed",
            Self::Parked { .. } => "parked",
            Self::Signalled { .. } => "signalled",
            Self::Heard { .. } => "heard",
            Self::ChildEnded { .. } => "child_ended",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::StepsUnmet { .. } => "steps_unmet",
            Self::Cancelling { .. } => "cancelling",
            Self::Forked { .. } => "forked",
            Self::RolledBack { .. } => "rolled_back",
            Self::Undone { .. } => "undone",
            Self::CheckpointPassedOver { .. } => "checkpoint_passed_over",
            Self::CallJudged { .. } => "call_judged",
            Self::Cancelled { .. } => "cancelled",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What stood in for a dependency that gave no answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// The way that gave the answer: a dependency, a cached result and its age, a prepared answer, a queue.
    pub way: String,
    /// Why the ways before it gave none.
    pub reason: String,
}

/// A tool call that could not be made when a run asked for it, and is to be made later (SCOPE R14).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedCall {
    /// The tool.
    pub tool: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
    /// The key handed to the tool: that of the first call.
    pub key: String,
    /// The run that asked for it.
    pub from: RunId,
    /// When it is given up.
    pub until: Timestamp,
    /// The tool that is told how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It did what it was asked.
    Done,
    /// It ran and reports a failure.
    Failed,
    /// It was not run: no such tool, or arguments that do not fit.
    Invalid,
    /// It was not run, or did not take effect: refused by its guard, unreachable, timed out as a read.
    Unavailable,
    /// It may or may not have taken effect, and is not run again (SCOPE R11).
    OutcomeUnknown,
    /// It has not taken effect, and a run of its own tries it later (SCOPE R14).
    Queued,
}

impl ToolOutcome {
    /// As people say it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome unknown",
            Self::Queued => "queued",
        }
    }
}

/// What a parked run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// A dependency asked for quiet, or its breaker is open.
    Cooldown,
    /// A time.
    Timer,
    /// Something that is to be said to it.
    Signal,
    /// The end of a run that it has started.
    Child,
    /// Somebody who says whether an interrupted call had taken effect.
    Person,
}

/// Why a run stopped without reaching its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StopReason {
    /// The agent's `max_iterations` was reached (SCOPE G2).
    IterationLimit,
    /// A time limit of the run passed.
    Timeout {
        /// Which one.
        limit: TimeLimit,
    },
    /// The model or its provider refused.
    Refused,
    /// The conversation no longer fits the model.
    Context,
    /// The answer was cut at the output limit and holds nothing to go on with.
    OutputLimit,
    /// A call did not fit into a budget.
    Budget,
    /// A call outside failed for good.
    Error {
        /// What kind of error.
        class: ErrorClass,
    },
}

/// A time limit of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeLimit {
    /// From the user's message to the answer, counting only the time in which the run was executed.
    Turn,
    /// From submission on, queueing and waiting included.
    Total,
}

impl StopReason {
    /// The reason as one stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IterationLimit => "iteration_limit",
            Self::Timeout { limit: TimeLimit::Turn } => "turn_timeout",
            Self::Timeout { limit: TimeLimit::Total } => "total_timeout",
            Self::Refused => "refused",
            Self::Context => "context",
            Self::OutputLimit => "output_limit",
            Self::Budget => "budget",
            Self::Error { class } => class.as_str(),
        }
    }
}
