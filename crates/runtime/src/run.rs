//! A run in memory: the fold over its events.
//!
//! Pure: no clock, no store. `apply` is the only way in which a run changes, whether the event was
//! just appended or is read back after a crash, so both give the same run.

mod parts;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::Effect;
use steadfast_providers::model::{FinishReason, Message, ToolCall, Usage};
use steadfast_providers::tool::Progress;
use steadfast_store::{RunId, Timestamp};

use crate::code::Steps;
use crate::event::{QueuedCall, RunEvent, ToolOutcome, WaitReason};
use crate::problems::Flaws;
use crate::recovery::{Allowance, Judgement, Origin, Overrides, Question, Rollback};
use crate::state::Status;

pub use parts::{CallState, Cancelling, Ending, FoldError, OpenCall, QueuedRun};

/// A run, folded up to event `seq`. Its serialized form is a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The run.
    pub id: RunId,
    /// What executes it.
    pub agent: String,
    /// What it is to do.
    pub input: String,
    /// Where it is in its life.
    pub status: Status,
    /// The last event folded in.
    pub seq: u64,
    /// The conversation as it happened.
    pub messages: Vec<Message>,
    /// Tool calls of the last answer that have no result yet, in the order the model gave them.
    pub open_calls: Vec<OpenCall>,
    /// Why the last answer ended; `None` before the first.
    pub last_finish: Option<FinishReason>,
    /// Model answers so far.
    pub iterations: u32,
    /// Tokens so far.
    pub usage: Usage,
    /// The last model that answered.
    pub model: Option<String>,
    /// Whether any answer was scripted.
    pub simulated: bool,
    /// Where it stands, if a tool reported it.
    pub progress: Option<Progress>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When the last event was committed.
    pub updated_at: Timestamp,
    /// Milliseconds in which it was executed; queueing, waiting and being dead do not count.
    pub active_ms: i64,
    /// When it goes on by itself, while it waits for a time.
    pub wake_at: Option<Timestamp>,
    /// How it ended, if it did.
    pub ending: Option<Ending>,
    /// Calls that reached a tool, by the tool's name.
    #[serde(default)]
    pub calls: BTreeMap<String, u32>,
    /// Answers and results that something else stood in for.
    #[serde(default)]
    pub degraded: u32,
    /// The steps of a run that is code.
    #[serde(default)]
    pub steps: Steps,
    /// The one call that the run makes, if it was queued by another run.
    #[serde(default)]
    pub queued: Option<QueuedRun>,
    /// The run that started this one.
    #[serde(default)]
    pub parent: Option<RunId>,
    /// What was said to it and nobody has listened to yet, oldest first, by name.
    #[serde(default)]
    pub signals: BTreeMap<String, Vec<Value>>,
    /// How the runs ended that it had started.
    #[serde(default)]
    pub children: BTreeMap<RunId, Ending>,
    /// Somebody wants it to end: what it has begun is ended and undone, and nothing else is begun.
    #[serde(default)]
    pub cancelling: Option<Cancelling>,
    /// What went wrong and has not been made good.
    #[serde(default)]
    pub flaws: Flaws,
    /// Where it comes from, if it is a fork.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// What it uses in place of what its agent says.
    #[serde(default)]
    pub overrides: Overrides,
    /// From where its limits count.
    #[serde(default)]
    pub allowance: Allowance,
    /// Calls of the last answer that gave no result; they can be made again.
    #[serde(default)]
    pub unmade: Vec<(OpenCall, ToolOutcome)>,
    /// What a person is asked.
    #[serde(default)]
    pub question: Option<Question>,
    /// A rollback that is under way.
    #[serde(default)]
    pub rollback: Option<Rollback>,
    /// Set while the last events have no time yet: see [`Run::settle`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) untimed: Option<Untimed>,
}

/// How a run stood before events that are applied ahead of their commit, which gives them their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Untimed {
    updated_at: Timestamp,
    active_ms: i64,
    /// Whether the run was executed until then.
    executed: bool,
    /// Whether its limits count anew from these events on.
    renewed: bool,
}

/// The id of the call that a run makes for another one.
const QUEUED_CALL: &str = "queued";

impl Run {
    /// A run from its first event.
    ///
    /// # Errors
    /// [`FoldError::NoBeginning`].
    pub fn begin(id: RunId, at: Timestamp, event: &RunEvent) -> Result<Self, FoldError> {
        let RunEvent::Submitted { agent, input, call, parent, .. } = event else {
            return Err(FoldError::NoBeginning { run: id, kind: event.kind() });
        };
        let mut run = Self {
            id,
            agent: agent.clone(),
            input: input.clone(),
            status: Status::Queued,
            seq: 1,
            messages: vec![Message::User { text: input.clone() }],
            open_calls: Vec::new(),
            last_finish: None,
            iterations: 0,
            usage: Usage::default(),
            model: None,
            simulated: false,
            progress: None,
            submitted_at: at,
            updated_at: at,
            active_ms: 0,
            wake_at: None,
            ending: None,
            calls: BTreeMap::new(),
            degraded: 0,
            steps: Steps::default(),
            queued: call.clone().map(|call| QueuedRun { call, result: None }),
            parent: *parent,
            signals: BTreeMap::new(),
            children: BTreeMap::new(),
            cancelling: None,
            flaws: Flaws::default(),
            origin: None,
            overrides: Overrides::default(),
            allowance: Allowance::default(),
            unmade: Vec::new(),
            question: None,
            rollback: None,
            untimed: None,
        };
        run.open_queued();
        Ok(run)
    }

    /// The call that the run makes for another one is open.
    pub(crate) fn open_queued(&mut self) {
        let Some(QueuedRun { call, result }) = &mut self.queued else { return };
        *result = None;
        let open = ToolCall {
            id: QUEUED_CALL.to_owned(),
            name: call.tool.clone(),
            arguments: call.arguments.clone(),
        };
        self.open_calls = vec![OpenCall::pending(open, call.key.clone())];
    }

    /// Folds the next event in. After an error the run is unchanged.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn apply(&mut self, seq: u64, at: Timestamp, event: RunEvent) -> Result<(), FoldError> {
        if seq != self.seq + 1 {
            return Err(FoldError::Hole { run: self.id, last: self.seq, found: seq });
        }
        let next = self.status.next(&event);
        let next = next.map_err(|source| FoldError::Illegal { run: self.id, seq, source })?;
        // Time counts from a claim to the last event under it; what lies before a claim does not.
        let executed = self.executes(&event);
        self.change(seq, at, event)?;
        if executed {
            self.active_ms += (at.0 - self.updated_at.0).max(0);
        }
        self.status = next;
        self.seq = seq;
        self.updated_at = at;
        Ok(())
    }

    fn executes(&self, event: &RunEvent) -> bool {
        let begins = matches!(event, RunEvent::Claimed { .. } | RunEvent::Forked { .. });
        self.status == Status::Running && !begins
    }

    /// Folds in events that are about to be committed together, at about `at`. A checkpoint that is
    /// committed with them is taken now; [`Run::settle`] then gives both the same times.
    ///
    /// # Errors
    /// As [`Run::apply`].
    pub(crate) fn apply_ahead(
        &mut self,
        at: Timestamp,
        events: Vec<RunEvent>,
    ) -> Result<(), FoldError> {
        let Some(first) = events.first() else { return Ok(()) };
        let (updated_at, active_ms) = (self.updated_at, self.active_ms);
        let executed = self.executes(first);
        for event in events {
            self.apply(self.seq + 1, at, event)?;
        }
        self.untimed = Some(Untimed { updated_at, active_ms, executed, renewed: false });
        Ok(())
    }

    /// Says that the last events, after which the limits count anew, are about to be committed.
    pub(crate) fn renewed_ahead(&mut self) {
        let (updated_at, active_ms) = (self.updated_at, self.active_ms);
        self.untimed = Some(Untimed { updated_at, active_ms, executed: false, renewed: true });
    }

    /// Gives the events that were applied ahead the time that they were committed at, so that the run is
    /// the same as when they are read back.
    pub(crate) fn settle(&mut self, at: Timestamp) {
        let Some(Untimed { updated_at, active_ms, executed, renewed }) = self.untimed.take() else {
            return;
        };
        let executed_ms = if executed { (at.0 - updated_at.0).max(0) } else { 0 };
        (self.updated_at, self.active_ms) = (at, active_ms + executed_ms);
        if renewed {
            self.allowance.from = Some(at);
        }
    }

    fn change(&mut self, seq: u64, at: Timestamp, event: RunEvent) -> Result<(), FoldError> {
        match event {
            RunEvent::Claimed { .. } => self.interrupt(),
            answered @ RunEvent::ModelAnswered { .. } => self.model_answered(seq, answered),
            RunEvent::ToolStarted { call_id, effect, .. } => {
                let open = self.open_call(seq, &call_id)?;
                open.state = CallState::Started { effect };
            }
            finished @ RunEvent::ToolFinished { .. } => self.tool_finished(seq, finished)?,
            event @ (RunEvent::StepStarted { .. }
            | RunEvent::StepFinished { .. }
            | RunEvent::Heard { .. }) => self.step(seq, event)?,
            RunEvent::Progressed { progress } => self.progress = Some(progress),
            RunEvent::Signalled { name, payload, .. } => {
                self.signals.entry(name).or_default().push(payload);
            }
            RunEvent::ChildEnded { child, ending } => drop(self.children.insert(child, ending)),
            RunEvent::Paused { .. } => self.wake_at = None,
            RunEvent::Resumed { again, .. } => self.reopen(at, &again),
            RunEvent::Forked { from, last, changes, .. } => {
                self.forked(at, Origin { run: from, at: last, changes });
            }
            RunEvent::RolledBack { .. } => {
                return Err(FoldError::NoPast { run: self.id, seq });
            }
            RunEvent::CallJudged { call_id, verdict, result, by } => {
                self.judged(&call_id, Judgement { verdict, result, by });
            }
            RunEvent::CheckpointPassedOver { .. } | RunEvent::StepsUnmet { .. } => {}
            RunEvent::Succeeded { output } => self.ending = Some(Ending::Succeeded { output }),
            RunEvent::Failed { stop, message } => {
                self.ending = Some(Ending::Failed { stop, message });
            }
            RunEvent::Cancelling { by, reason } => {
                self.wake_at = None;
                self.cancelling = Some(Cancelling { by, reason });
            }
            RunEvent::Undone { again, .. } => self.went_back(&again),
            RunEvent::Cancelled { by, reason } => {
                self.ending = Some(Ending::Cancelled { by, reason });
            }
            RunEvent::Parked { reason: WaitReason::Person, .. } => self.ask(seq),
            RunEvent::Parked { wake_at, .. } => {
                self.wake_at = wake_at;
                // A run is put aside only with nothing under way: what had been written ahead did not leave.
                for open in &mut self.open_calls {
                    open.state = CallState::Pending;
                }
            }
            // Refused by the state machine before it comes here.
            RunEvent::Submitted { .. } => {}
        }
        Ok(())
    }

    /// What happens to a step of code.
    fn step(&mut self, seq: u64, event: RunEvent) -> Result<(), FoldError> {
        match event {
            RunEvent::StepStarted { step, effect, undoes } => {
                self.steps.started(step, effect, undoes);
            }
            RunEvent::StepFinished { step, output, failure, undoes } => {
                self.flaws.step(&step, failure.is_some());
                let result = failure.map_or_else(|| Ok(output.unwrap_or_default()), Err);
                self.steps.finished(seq, step, result, undoes);
            }
            RunEvent::Heard { step, signal, timed_out } => {
                let said = if timed_out { None } else { Some(self.hear(seq, signal.clone())?) };
                self.steps.heard(seq, step, signal, said);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the oldest thing said under a name.
    fn hear(&mut self, seq: u64, signal: String) -> Result<Value, FoldError> {
        let run = self.id;
        match self.signals.entry(signal) {
            Entry::Occupied(mut said) if !said.get().is_empty() => {
                let oldest = said.get_mut().remove(0);
                if said.get().is_empty() {
                    said.remove();
                }
                Ok(oldest)
            }
            Entry::Occupied(said) => {
                Err(FoldError::Unsaid { run, seq, signal: said.key().clone() })
            }
            Entry::Vacant(said) => Err(FoldError::Unsaid { run, seq, signal: said.into_key() }),
        }
    }

    fn tool_finished(&mut self, seq: u64, event: RunEvent) -> Result<(), FoldError> {
        let RunEvent::ToolFinished { call_id, tool, outcome, content, attempts, degraded, .. } =
            event
        else {
            return Ok(());
        };
        let open = self.open_call(seq, &call_id)?.clone();
        self.open_calls.retain(|open| open.call.id != call_id);
        self.degraded += u32::from(degraded.is_some());
        if attempts > 0 && degraded.is_none() {
            *self.calls.entry(tool.clone()).or_default() += 1;
        }
        self.flaws.tool(&tool, outcome);
        if open.is_undo {
            self.undo_ended(&call_id, outcome, &content);
            return Ok(());
        }
        if matches!(outcome, ToolOutcome::Unavailable | ToolOutcome::OutcomeUnknown) {
            self.unmade.push((open, outcome));
        }
        self.queued_ended(&call_id, outcome, &content);
        self.messages.push(Message::Tool {
            call_id,
            name: tool,
            content: cut_middle(&content, TOOL_CONTENT_BYTES_MAX),
            is_error: !matches!(outcome, ToolOutcome::Done | ToolOutcome::Queued),
        });
        self.tell_rollback();
        Ok(())
    }

    /// The call that the run makes for another one has ended: whoever is to be told is told next.
    fn queued_ended(&mut self, call_id: &str, outcome: ToolOutcome, content: &str) {
        let Some(queued) = self.queued.as_mut().filter(|_| call_id == QUEUED_CALL) else { return };
        queued.result = Some((outcome, content.to_owned()));
        let QueuedCall { tool, key, from, notify, .. } = &queued.call;
        let Some(notify) = notify else { return };
        let message = match outcome {
            ToolOutcome::Done => format!("`{tool}`, queued by run {from}, is done: {content}"),
            _ => format!("`{tool}`, queued by run {from}, was NOT done: {content}"),
        };
        let call = ToolCall {
            id: "notice".to_owned(),
            name: notify.clone(),
            arguments: serde_json::json!({ "message": message }).to_string(),
        };
        let key = format!("{key}-notice");
        self.open_calls.push(OpenCall { is_notice: true, ..OpenCall::pending(call, key) });
    }

    fn model_answered(&mut self, seq: u64, event: RunEvent) {
        let RunEvent::ModelAnswered {
            text,
            tool_calls,
            finish,
            usage,
            model,
            simulated,
            degraded,
            ..
        } = event
        else {
            return;
        };
        self.degraded += u32::from(degraded.is_some());
        self.answered(seq, text, tool_calls);
        self.last_finish = Some(finish);
        self.usage.add(&usage);
        self.model = Some(model);
        self.simulated |= simulated;
    }

    fn answered(&mut self, seq: u64, text: String, tool_calls: Vec<ToolCall>) {
        self.iterations += 1;
        self.unmade.clear();
        for (index, call) in tool_calls.iter().enumerate() {
            let key = format!("{}-{seq}-{index}", self.id);
            self.open_calls.push(OpenCall::pending(call.clone(), key));
        }
        self.messages.push(Message::Assistant { text, tool_calls });
    }

    /// A person is asked about the first call of which nobody knows whether it took effect.
    fn ask(&mut self, seq: u64) {
        self.interrupt();
        let unknown = |open: &&OpenCall| {
            matches!(open.state, CallState::Interrupted { effect: Effect::Once })
        };
        let Some(open) = self.open_calls.iter().find(unknown) else { return };
        let is_same = |question: &Question| question.call_id == open.call.id;
        if !self.question.as_ref().is_some_and(is_same) {
            self.question = Some(Question { call_id: open.call.id.clone(), seq });
        }
    }

    pub(crate) fn interrupt(&mut self) {
        self.steps.interrupt();
        for open in &mut self.open_calls {
            if let CallState::Started { effect } = open.state {
                open.state = CallState::Interrupted { effect };
            }
        }
    }

    fn open_call(&mut self, seq: u64, call_id: &str) -> Result<&mut OpenCall, FoldError> {
        let run = self.id;
        self.open_calls
            .iter_mut()
            .find(|open| open.call.id == call_id)
            .ok_or_else(|| FoldError::UnknownCall { run, seq, call_id: call_id.to_owned() })
    }
}

/// Longest tool result that a model is shown, in bytes (40 000: what other agents settled on). The
/// whole result stays in the event.
pub const TOOL_CONTENT_BYTES_MAX: usize = 40_000;

/// Keeps the head and the tail of a text and says how much is missing between them.
pub(crate) fn cut_middle(text: &str, limit_bytes: usize) -> String {
    if text.len() <= limit_bytes {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(limit_bytes / 2);
    let tail = text.ceil_char_boundary(text.len() - limit_bytes / 2);
    format!("{}\n[... {} bytes left out ...]\n{}", &text[..head], tail - head, &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_applied_ahead_of_their_commit_fold_as_they_do_when_read_back() {
        let submitted = RunEvent::Submitted {
            agent: "a".into(),
            input: "i".into(),
            call: None,
            parent: None,
            session: None,
            tags: Vec::new(),
        };
        let started =
            RunEvent::StepStarted { step: "s".into(), effect: Effect::Once, undoes: false };
        let ended = RunEvent::Succeeded { output: "o".to_owned() };
        let mut ahead = Run::begin(RunId::generate(), Timestamp(0), &submitted).unwrap();
        let mut read_back = ahead.clone();
        let claimed = RunEvent::Claimed { node: "n".into(), epoch: 1 };
        // Each batch is committed a little later than it was folded.
        let batches = [(9, 10, vec![claimed]), (15, 17, vec![started]), (20, 40, vec![ended])];
        for (about, at, events) in batches {
            ahead.apply_ahead(Timestamp(about), events.clone()).unwrap();
            let checkpoint = serde_json::to_string(&ahead).unwrap();
            for event in events {
                read_back.apply(read_back.seq + 1, Timestamp(at), event).unwrap();
            }
            let mut resumed: Run = serde_json::from_str(&checkpoint).unwrap();
            ahead.settle(Timestamp(at));
            resumed.settle(Timestamp(at));
            assert_eq!((&ahead, &resumed), (&read_back, &read_back));
        }
        assert_eq!(read_back.active_ms, 30);
    }
}
