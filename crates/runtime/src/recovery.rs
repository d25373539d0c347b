//! What a run is after somebody has retried it, forked it, rolled it back, or said how an interrupted call
//! had ended. Part of the fold: pure.

use serde::{Deserialize, Serialize};
use steadfast_providers::model::{Message, ToolCall};
use steadfast_store::{RunId, Timestamp};

use crate::agent::AgentSpec;
use crate::code::Steps;
use crate::event::{Changes, RunEvent, ToolOutcome, UndoCall, Verdict};
use crate::run::{CallState, Ending, FoldError, OpenCall, Run, cut_middle};
use crate::state::Status;

/// What a run uses in place of what its agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// The model, by its configured name.
    pub model: Option<String>,
    /// What the model is told above the conversation.
    pub instructions: Option<String>,
}

impl Overrides {
    /// The agent as this run uses it.
    pub(crate) fn apply(&self, agent: &AgentSpec) -> AgentSpec {
        let mut agent = agent.clone();
        if let Some(model) = &self.model {
            agent.model.clone_from(model);
        }
        if let Some(instructions) = &self.instructions {
            agent.instructions.clone_from(instructions);
        }
        agent
    }
}

/// Where a fork comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The run that it was made from.
    pub run: RunId,
    /// The last event that both have.
    pub at: u64,
    /// What is different since.
    pub changes: Changes,
}

/// From where a run's limits count. They count anew once a person has decided that it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Model answers that count no more.
    pub iterations: u32,
    /// The time from which `total_timeout` counts, if it is not the submission.
    pub from: Option<Timestamp>,
}

/// What was said about an interrupted call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Whether it had taken effect.
    pub verdict: Verdict,
    /// What it gave, as far as that is known.
    pub result: Option<String>,
    /// Who said so.
    pub by: String,
}

/// A question to a person: whether an interrupted call had taken effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The call.
    pub call_id: String,
    /// The event with which it was asked.
    pub seq: u64,
}

/// A rollback whose calls are being made, or that the model is not told of yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// The event that began it.
    pub seq: u64,
    /// The calls that undo something.
    pub undo: Vec<UndoCall>,
    /// What the model is told, line by line.
    pub told: Vec<String>,
    /// Of a run of code: the steps that it goes on with, once the others are undone. Until then
    /// [`Run::steps`] are all that it had done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Steps>,
}

/// Longest part of an undoing tool's words that the model is told, in bytes.
const SAID_BYTES_MAX: usize = 500;

impl Run {
    /// Somebody wants the run to go on. A run that failed on its closing answer (refused, cut) is asked
    /// again: the answer leaves the conversation and stays in the log. Its limits count anew.
    pub(crate) fn reopen(&mut self, at: Timestamp, again: &[String]) {
        let unmade = std::mem::take(&mut self.unmade);
        // Waking a run that waits, or was paused, is no second try.
        if self.ending.take().is_none() {
            return;
        }
        self.renew(at);
        if self.goes_back_to().is_some() {
            self.steps.undo_again();
        } else {
            self.steps.reopen(&mut self.children);
        }
        if self.queued.is_some() {
            return self.open_queued();
        }
        self.drop_closing();
        let again = unmade.into_iter().filter(|(open, _)| again.contains(&open.call.id));
        let (again, outcomes): (Vec<_>, Vec<_>) = again.unzip();
        for outcome in outcomes {
            self.flaws.made_again(outcome);
        }
        self.reopen_calls(again);
    }

    /// Takes the results of calls back: they are to be made again.
    fn reopen_calls(&mut self, calls: Vec<OpenCall>) {
        for open in calls {
            let is_result = |message: &Message| matches!(message, Message::Tool { call_id, .. } if *call_id == open.call.id);
            if let Some(place) = self.messages.iter().rposition(is_result) {
                self.messages.remove(place);
            }
            self.open_calls.push(OpenCall { state: CallState::Pending, judged: None, ..open });
        }
        let asked = self.messages.iter().rev().find_map(|message| match message {
            Message::Assistant { tool_calls, .. } => Some(tool_calls.clone()),
            Message::User { .. } | Message::Tool { .. } => None,
        });
        let asked = asked.unwrap_or_default();
        self.open_calls.sort_by_key(|open| asked.iter().position(|call| call.id == open.call.id));
    }

    fn renew(&mut self, at: Timestamp) {
        self.active_ms = 0;
        self.allowance = Allowance { iterations: self.iterations, from: Some(at) };
    }

    /// An answer that ended the conversation leaves it, so that the model is asked again.
    fn drop_closing(&mut self) {
        let closed = matches!(
            self.messages.last(),
            Some(Message::Assistant { tool_calls, .. }) if tool_calls.is_empty()
        );
        if closed {
            self.messages.pop();
        }
    }

    /// All events so far were another run's; from here on it is this one.
    pub(crate) fn forked(&mut self, at: Timestamp, origin: Origin) {
        let is_over = self.ending.take().is_some();
        self.steps.forked(is_over, &mut self.children);
        self.cancelling = None;
        self.renew(at);
        self.drop_closing();
        self.interrupt();
        // What the other run waits for and answers to is not this one's.
        (self.parent, self.wake_at, self.question) = (None, None, None);
        self.unmade.clear();
        let Changes { input, model, instructions } = origin.changes.clone();
        if let Some(input) = input {
            if let Some(Message::User { text }) = self.messages.first_mut() {
                text.clone_from(&input);
            }
            self.input = input;
        }
        let own = &mut self.overrides;
        own.model = model.or_else(|| own.model.take());
        own.instructions = instructions.or_else(|| own.instructions.take());
        self.origin = Some(origin);
    }

    /// Somebody said how an interrupted call had ended. Of a call that has a result by now nothing is said.
    pub(crate) fn judged(&mut self, call_id: &str, judged: Judgement) {
        self.question.take_if(|question| question.call_id == call_id);
        let Some(open) = self.open_calls.iter_mut().find(|open| open.call.id == call_id) else {
            return;
        };
        if judged.verdict == Verdict::DidNot {
            (open.state, open.judged) = (CallState::Pending, None);
        } else {
            if let CallState::Started { effect } = open.state {
                open.state = CallState::Interrupted { effect };
            }
            open.judged = Some(judged);
        }
    }

    /// Goes back to where the run was: `past` is the run as it was folded then. What was spent stays spent,
    /// and what was said to it from outside stays said.
    ///
    /// # Errors
    /// The event is not possible now, or is no rollback.
    pub(crate) fn go_back(
        &mut self,
        seq: u64,
        at: Timestamp,
        event: &RunEvent,
        past: Self,
    ) -> Result<(), FoldError> {
        let run = self.id;
        if seq != self.seq + 1 {
            return Err(FoldError::Hole { run, last: self.seq, found: seq });
        }
        let next = self.status.next(event);
        let status = next.map_err(|source| FoldError::Illegal { run, seq, source })?;
        let RunEvent::RolledBack { to, by, reason, undo, left } = event else {
            return Err(FoldError::NoPast { run, seq });
        };
        let before = std::mem::replace(self, past);
        let why = reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        if !before.steps.by_name.is_empty() {
            let told = vec![format!("rolled back to event {to} by {by}{why}")];
            self.take_back_steps(seq, told, before);
            (self.status, self.seq, self.updated_at) = (status, seq, at);
            (self.ending, self.wake_at) = (None, None);
            self.renew(at);
            return Ok(());
        }
        let open = std::mem::take(&mut self.open_calls);
        for call in open {
            self.rejoin(seq, call, &before, undo, |id| left.iter().any(|left| left.call_id == id));
        }
        let undoing = undo.iter().enumerate().map(|(place, undo)| OpenCall {
            call: ToolCall {
                id: undo_id(seq, place),
                name: undo.with.clone(),
                arguments: undo.arguments.clone(),
            },
            key: undo.key.clone(),
            state: CallState::Pending,
            is_notice: false,
            is_undo: true,
            judged: None,
        });
        let open = std::mem::take(&mut self.open_calls);
        self.open_calls = undoing.chain(open).collect();
        let mut told =
            vec![format!("[{by} has taken back what came after this (event {to}){why}.]")];
        told.extend(left.iter().map(|left| match left.unknown {
            false => format!("`{}` was NOT undone: it is still in effect.", left.tool),
            true => format!("`{}` may have taken effect, and was NOT undone.", left.tool),
        }));
        self.rollback = Some(Rollback { seq, undo: undo.clone(), told, kept: None });
        self.keep_spent(before);
        self.flaws.left(left.iter().filter(|left| left.unknown).count());
        (self.status, self.seq, self.updated_at) = (status, seq, at);
        (self.ending, self.wake_at, self.question) = (None, None, None);
        self.unmade.clear();
        self.renew(at);
        self.drop_closing();
        self.tell_rollback();
        Ok(())
    }

    /// The run is code: its steps stay known until those are undone that came since.
    fn take_back_steps(&mut self, seq: u64, told: Vec<String>, before: Self) {
        // Where it was going back to somewhere itself, it is where it was going.
        let aim = self.rollback.take().and_then(|rollback| rollback.kept);
        let aim = aim.unwrap_or_else(|| std::mem::take(&mut self.steps));
        let lost = |child| {
            let ended = |run: &Self| {
                let ending = run.children.get(&child);
                ending.is_some_and(|ending| !matches!(ending, Ending::Succeeded { .. }))
            };
            ended(&before) && !ended(self)
        };
        let kept = Some(aim.kept(&before.steps, lost));
        self.steps = before.steps.clone();
        self.steps.undo_again();
        self.keep_spent(before);
        self.cancelling = None;
        self.rollback = Some(Rollback { seq, undo: Vec::new(), told, kept });
    }

    /// The steps that a run of code goes on with, once the others are undone; `None` if it does not go back.
    pub(crate) fn goes_back_to(&self) -> Option<&Steps> {
        self.rollback.as_ref()?.kept.as_ref()
    }

    /// What came after the place that the run goes back to is undone, and some of what came before.
    pub(crate) fn went_back(&mut self, again: &[String]) {
        let Some(mut kept) = self.rollback.take().and_then(|rollback| rollback.kept) else {
            return;
        };
        kept.by_name.retain(|name, _| !again.contains(name));
        for (signal, said) in self.steps.go_back(kept) {
            self.signals.entry(signal).or_default().insert(0, said);
        }
    }

    /// What becomes of a call that had no result at the place that the run goes back to.
    fn rejoin(
        &mut self,
        seq: u64,
        open: OpenCall,
        before: &Self,
        undo: &[UndoCall],
        is_left: impl Fn(&str) -> bool,
    ) {
        let id = open.call.id.clone();
        let again = |open: OpenCall| OpenCall {
            key: format!("{}-r{seq}", open.key),
            state: CallState::Pending,
            judged: None,
            ..open
        };
        if undo.iter().any(|undo| undo.reopens && undo.call_id == id) {
            return self.open_calls.push(again(open));
        }
        let later = before.messages.get(self.messages.len()..).unwrap_or_default();
        let same_answer =
            later.iter().take_while(|message| !matches!(message, Message::Assistant { .. }));
        let result = same_answer
            .clone()
            .find(|message| matches!(message, Message::Tool { call_id, .. } if *call_id == id));
        match result {
            // It stays done; so does what it said.
            Some(result) if is_left(&id) => self.messages.push(result.clone()),
            Some(_) => self.open_calls.push(again(open)),
            None => {
                let now = before.open_calls.iter().find(|open| open.call.id == id);
                let mut open = now.cloned().unwrap_or(open);
                if let CallState::Started { effect } = open.state {
                    open.state = CallState::Interrupted { effect };
                }
                self.open_calls.push(open);
            }
        }
    }

    /// What does not become undone by going back.
    fn keep_spent(&mut self, before: Self) {
        self.iterations = before.iterations;
        self.usage = before.usage;
        self.model = before.model;
        self.simulated = before.simulated;
        self.calls = before.calls;
        self.degraded = before.degraded;
        self.signals = before.signals;
        self.children = before.children;
    }

    /// A call of a rollback has ended.
    pub(crate) fn undo_ended(&mut self, call_id: &str, outcome: ToolOutcome, content: &str) {
        let Some(rollback) = &mut self.rollback else { return };
        let seq = rollback.seq;
        let mut calls = rollback.undo.iter().enumerate();
        let Some((_, undo)) = calls.find(|(place, _)| undo_id(seq, *place) == call_id) else {
            return;
        };
        let (tool, with, said) = (&undo.tool, &undo.with, cut_middle(content, SAID_BYTES_MAX));
        rollback.told.push(match outcome {
            ToolOutcome::Done => format!("`{tool}` was undone by `{with}`: {said}"),
            ToolOutcome::OutcomeUnknown => {
                format!("`{tool}` may or may not have been undone by `{with}`: {said}")
            }
            _ => format!("`{tool}` was NOT undone: `{with}` failed: {said}"),
        });
        self.tell_rollback();
    }

    /// Tells the model of a rollback, once nothing stands between an answer and its results.
    pub(crate) fn tell_rollback(&mut self) {
        if self.open_calls.is_empty()
            && let Some(rollback) = self.rollback.take()
        {
            self.messages.push(Message::User { text: rollback.told.join("\n") });
        }
    }

    /// Whether a person is waited for, and over which call.
    #[must_use]
    pub fn asked(&self) -> Option<&OpenCall> {
        let question = self.question.as_ref().filter(|_| self.status == Status::Waiting)?;
        self.open_calls.iter().find(|open| open.call.id == question.call_id)
    }
}

/// The id of a call that undoes another one; no model gives such an id to a call of the same run twice.
fn undo_id(seq: u64, place: usize) -> String {
    format!("undo {seq}-{place}")
}
