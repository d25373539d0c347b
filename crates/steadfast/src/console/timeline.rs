//! What happened in a run, as steps: pure, event by event, so that the page and its live updates show
//! the same.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_providers::model::ToolCall;
use steadfast_runtime::event::{Degraded, RunEvent, ToolOutcome};
use steadfast_runtime::{Ending, EventView};
use steadfast_store::Timestamp;

use super::commanded::commanded;
use super::time::{exact, took};

/// Text that is shown without being unfolded, in bytes.
const OPEN_TEXT_BYTES: usize = 2000;

/// One step as the page shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// The element's id.
    pub(super) id: String,
    /// Its first event.
    pub(super) seq: u64,
    /// Its last event.
    pub(super) last: u64,
    /// When it began.
    pub(super) at: Timestamp,
    /// The kind, a class of the style sheet.
    pub(super) kind: &'static str,
    pub(super) title: String,
    /// The outcome, as one word.
    pub(super) badge: &'static str,
    /// Facts, each a label and a value.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) texts: Vec<Text>,
}

/// A text of a step that folds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text {
    pub(super) label: &'static str,
    pub(super) text: String,
    pub(super) open: bool,
}

/// The steps so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    steps: Vec<Step>,
    /// Where the steps of calls without a result are.
    open: BTreeMap<String, usize>,
    changed: BTreeSet<usize>,
    seq: u64,
}

impl Timeline {
    /// A timeline of what comes after an event.
    pub(super) fn after(seq: u64) -> Self {
        Self { seq, ..Self::default() }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps that are new or changed since the last time this was asked.
    pub(super) fn take_changed(&mut self) -> Vec<&Step> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|index| self.steps.get(index)).collect()
    }

    pub(super) fn push(&mut self, view: EventView) {
        let EventView { seq, at, event } = view;
        self.seq = seq;
        let step = |kind, title: String, badge| Step::new((seq, at), kind, title, badge);
        match event {
            RunEvent::Submitted { agent, input, call, parent, .. } => {
                let made = step("submitted", format!("Submitted to {agent}"), "accepted");
                let made = match call {
                    Some(call) => made
                        .fact("makes one call of", call.tool)
                        .fact("for run", call.from.to_string())
                        .fact("gives up at", exact(call.until)),
                    None => made,
                };
                let made = match parent {
                    Some(parent) => made.fact("started by run", parent.to_string()),
                    None => made,
                };
                self.add(made.text("Input", input, true));
            }
            RunEvent::Claimed { node, epoch } => {
                self.interrupt();
                let hands = if epoch > 1 { "changed hands" } else { "started" };
                let made = step("claimed", "Taken by a node".to_owned(), hands);
                self.add(made.fact("node", node).fact("epoch", epoch.to_string()));
            }
            answered @ RunEvent::ModelAnswered { .. } => self.answer(answered, &step),
            RunEvent::ToolStarted { call_id, tool, effect, .. } => {
                let index = self.call(&call_id, || step("tool", format!("Tool {tool}"), ""));
                let effect = effect.as_str().to_owned();
                self.change(index, |step| {
                    step.badge = "under way";
                    step.facts.push(("effect", effect));
                });
            }
            RunEvent::ToolFinished {
                call_id,
                tool,
                outcome,
                content,
                attempts,
                took_ms,
                recorded_at,
                degraded,
            } => {
                let index = self.call(&call_id, || step("tool", format!("Tool {tool}"), ""));
                self.open.remove(&call_id);
                self.change(index, |step| {
                    step.badge = outcome.words();
                    step.facts.push(("took", took(took_ms)));
                    step.facts.push(("attempts", attempts.to_string()));
                    step.facts.extend(recorded_at.map(|at| ("recorded", exact(at))));
                    step.texts.push(Text::new("Result", content, outcome != ToolOutcome::Done));
                    step.degrade(degraded);
                });
            }
            other => {
                let step = step("", String::new(), "");
                self.add(plain(other, step));
            }
        }
    }

    fn answer(
        &mut self,
        event: RunEvent,
        step: &impl Fn(&'static str, String, &'static str) -> Step,
    ) {
        let RunEvent::ModelAnswered {
            model,
            simulated,
            text,
            tool_calls,
            finish,
            usage,
            attempts,
            took_ms,
            degraded,
            ..
        } = event
        else {
            return;
        };
        let badge = if simulated { "simulated" } else { "answered" };
        let mut made = step("model", format!("Model {model}"), badge)
            .fact("took", took(took_ms))
            .fact("attempts", attempts.to_string())
            .fact("tokens in", usage.input_total().to_string())
            .fact("tokens out", usage.output.unwrap_or(0).to_string());
        if let Ok(serde_json::Value::String(finish)) = serde_json::to_value(finish) {
            made = made.fact("finish", finish.replace('_', " "));
        }
        made = if text.is_empty() { made } else { made.text("Message", text, true) };
        made.degrade(degraded);
        self.add(made);
        for (index, call) in tool_calls.into_iter().enumerate() {
            self.ask(step("tool", String::new(), "pending"), index, call);
        }
    }

    fn add(&mut self, step: Step) -> usize {
        let index = self.steps.len();
        self.steps.push(step);
        self.changed.insert(index);
        index
    }

    fn ask(&mut self, mut step: Step, index: usize, call: ToolCall) {
        step.id = format!("{}-{index}", step.id);
        step.title = format!("Tool {}", call.name);
        let arguments = pretty(&call.arguments);
        let index = self.add(step.text("Arguments", arguments, false));
        self.open.insert(call.id, index);
    }

    /// Where a call's step is; a new one if its beginning lies before what is shown.
    fn call(&mut self, call_id: &str, make: impl FnOnce() -> Step) -> usize {
        match self.open.get(call_id) {
            Some(index) => *index,
            None => {
                let index = self.add(make());
                self.open.insert(call_id.to_owned(), index);
                index
            }
        }
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Step)) {
        let seq = self.seq;
        if let Some(step) = self.steps.get_mut(index) {
            step.last = seq;
            change(step);
            self.changed.insert(index);
        }
    }

    /// The node that had the run is gone: what it had begun was interrupted.
    fn interrupt(&mut self) {
        let open: Vec<usize> = self.open.values().copied().collect();
        for index in open {
            let begun = self.steps.get(index).is_some_and(|step| step.badge == "under way");
            if begun {
                self.change(index, |step| step.badge = "interrupted");
            }
        }
    }
}

impl Step {
    fn new(
        (seq, at): (u64, Timestamp),
        kind: &'static str,
        title: String,
        badge: &'static str,
    ) -> Self {
        let (id, facts, texts) = (format!("step-{seq}"), Vec::new(), Vec::new());
        Self { id, seq, last: seq, at, kind, title, badge, facts, texts }
    }

    pub(super) fn fact(mut self, label: &'static str, value: String) -> Self {
        self.facts.push((label, value));
        self
    }

    pub(super) fn text(mut self, label: &'static str, text: String, open: bool) -> Self {
        self.texts.push(Text::new(label, text, open));
        self
    }

    /// Says what stood in for whom, and why.
    fn degrade(&mut self, degraded: Option<Degraded>) {
        let Some(Degraded { way, reason }) = degraded else { return };
        self.badge = "degraded";
        self.facts.push(("stood in", way));
        self.texts.push(Text::new("Why", reason, true));
    }

    pub(super) fn named(mut self, kind: &'static str, title: &str, badge: &'static str) -> Self {
        (self.kind, self.badge) = (kind, badge);
        title.clone_into(&mut self.title);
        self
    }
}

impl Text {
    pub(super) fn new(label: &'static str, text: String, open: bool) -> Self {
        let open = open && text.len() <= OPEN_TEXT_BYTES;
        Self { label, text, open }
    }
}

/// The steps that are one event.
fn plain(event: RunEvent, step: Step) -> Step {
    match event {
        RunEvent::Progressed { progress } => {
            let title =
                format!("{} of {}: {}", progress.step, progress.total, progress.description);
            step.named("progressed", &title, "progress")
        }
        RunEvent::StepStarted { step: name, effect, .. } => {
            let effect = effect.as_str().to_owned();
            step.named("step", &format!("Step {name}"), "under way").fact("effect", effect)
        }
        RunEvent::StepFinished { step: name, output, failure, .. } => {
            let title = format!("Step {name}");
            match failure {
                Some(failure) => step
                    .named("failed", &title, "failed")
                    .fact("class", failure.class.as_str().to_owned())
                    .text("What happened", failure.message, true),
                None => {
                    let output =
                        output.map_or_else(String::new, |output| pretty(&output.to_string()));
                    step.named("step", &title, "done").text("Result", output, false)
                }
            }
        }
        RunEvent::Parked { wake_at, detail, .. } => {
            let step = step.named("parked", "Put aside", "waiting").text("Why", detail, true);
            match wake_at {
                Some(at) => step.fact("goes on at", exact(at)),
                None => step,
            }
        }
        event @ (RunEvent::Signalled { .. }
        | RunEvent::Heard { .. }
        | RunEvent::ChildEnded { .. }
        | RunEvent::StepsUnmet { .. }
        | RunEvent::Undone { .. }
        | RunEvent::Cancelling { .. }) => of_code(event, step),
        event @ (RunEvent::Paused { .. }
        | RunEvent::Resumed { .. }
        | RunEvent::Cancelled { .. }
        | RunEvent::Forked { .. }
        | RunEvent::RolledBack { .. }
        | RunEvent::CheckpointPassedOver { .. }
        | RunEvent::CallJudged { .. }) => commanded(event, step),
        RunEvent::Succeeded { output } => {
            let mut step = step.named("succeeded", "Succeeded", "succeeded");
            // The answer is what the page is for: never folded.
            step.texts.push(Text { label: "Answer", text: output, open: true });
            step
        }
        RunEvent::Failed { stop, message } => {
            let step = step.named("failed", "Failed", "failed");
            step.fact("stop", stop.as_str().to_owned()).text("What happened", message, true)
        }
        other => step.named("other", other.kind(), ""),
    }
}

/// What happens to runs that are code.
fn of_code(event: RunEvent, step: Step) -> Step {
    match event {
        RunEvent::Signalled { name, payload, by } => step
            .named("signalled", &format!("Signal {name}"), "said")
            .fact("by", by)
            .text("What was said", pretty(&payload.to_string()), false),
        RunEvent::ChildEnded { child, ending } => {
            let (badge, text) = match ending {
                Ending::Succeeded { output } => ("succeeded", output),
                Ending::Failed { message, .. } => ("failed", message),
                Ending::Cancelled { by, .. } => ("cancelled", format!("cancelled by {by}")),
            };
            let step = step.named("child", "A child is over", badge);
            step.fact("run", child.to_string()).text("How", text, false)
        }
        RunEvent::Heard { signal, timed_out, .. } => {
            let badge = if timed_out { "not in time" } else { "heard" };
            step.named("signalled", &format!("Waited for signal {signal}"), badge)
        }
        RunEvent::StepsUnmet { steps } => step
            .named("unmet", "Steps that the code no longer comes to", "left over")
            .text("Which", steps.join("\n"), true),
        RunEvent::Undone { again, left } => {
            let mut step = step.named("undone", "What came since is undone", "goes on");
            let lists = [("To be done again", again), ("Was not undone", left)];
            for (label, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
                step.texts.push(Text { label, text: names.join("\n"), open: true });
            }
            step
        }
        RunEvent::Cancelling { by, reason } => {
            let step = step.named("cancelling", "To be cancelled", "undoing").fact("by", by);
            match reason {
                Some(reason) => step.text("Reason", reason, true),
                None => step,
            }
        }
        other => step.named("other", other.kind(), ""),
    }
}

/// Arguments laid out for reading, if they are JSON; as the model wrote them otherwise.
fn pretty(arguments: &str) -> String {
    serde_json::from_str::<serde_json::Value>(arguments)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| arguments.to_owned())
}

#[cfg(test)]
mod tests {
    use steadfast_guard::Effect;
    use steadfast_providers::model::{FinishReason, Usage};

    use super::*;

    fn push(timeline: &mut Timeline, event: RunEvent) {
        let seq = timeline.seq() + 1;
        timeline.push(EventView { seq, at: Timestamp(0), event });
    }

    fn asked() -> RunEvent {
        let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: "{\"a\":1}".into() };
        RunEvent::ModelAnswered {
            key: String::new(),
            model: "m".into(),
            simulated: false,
            text: String::new(),
            tool_calls: vec![call],
            finish: FinishReason::ToolCalls,
            usage: Usage::default(),
            attempts: 1,
            took_ms: 1,
            degraded: None,
        }
    }

    fn started() -> RunEvent {
        RunEvent::ToolStarted {
            call_id: "c1".into(),
            tool: "add".into(),
            effect: Effect::Once,
            key: String::new(),
        }
    }

    #[test]
    fn a_tool_call_is_one_step_from_the_wish_to_the_result() {
        let mut timeline = Timeline::default();
        push(&mut timeline, asked());
        push(&mut timeline, started());
        assert_eq!(timeline.steps()[1].badge, "under way");
        let finished = RunEvent::ToolFinished {
            call_id: "c1".into(),
            tool: "add".into(),
            outcome: ToolOutcome::Done,
            content: "2".into(),
            attempts: 2,
            took_ms: 1200,
            recorded_at: None,
            degraded: None,
        };
        push(&mut timeline, finished);
        assert_eq!(timeline.steps().len(), 2);
        let step = &timeline.steps()[1];
        assert_eq!((step.badge, step.title.as_str()), ("done", "Tool add"));
        assert_eq!(step.texts[0].text, "{\n  \"a\": 1\n}");
        assert!(step.facts.contains(&("attempts", "2".into())));
    }

    #[test]
    fn r14_a_degraded_answer_is_shown_as_such_with_what_stood_in_and_why() {
        let mut timeline = Timeline::default();
        let way = Degraded { way: "model:backup".into(), reason: "model:m: down".into() };
        let RunEvent::ModelAnswered { key, model, simulated, finish, usage, .. } = asked() else {
            return;
        };
        push(
            &mut timeline,
            RunEvent::ModelAnswered {
                key,
                model,
                simulated,
                text: "yes".into(),
                tool_calls: Vec::new(),
                finish,
                usage,
                attempts: 1,
                took_ms: 1,
                degraded: Some(way),
            },
        );
        let step = &timeline.steps()[0];
        assert_eq!(step.badge, "degraded");
        assert!(step.facts.contains(&("stood in", "model:backup".into())));
        assert_eq!(step.texts[1].text, "model:m: down");
    }

    #[test]
    fn a_call_under_way_when_the_run_changes_hands_is_shown_as_interrupted() {
        let mut timeline = Timeline::default();
        push(&mut timeline, asked());
        push(&mut timeline, started());
        timeline.take_changed();
        push(&mut timeline, RunEvent::Claimed { node: "n2".into(), epoch: 2 });
        assert_eq!(timeline.steps()[1].badge, "interrupted");
        let changed: Vec<_> = timeline.take_changed().iter().map(|step| step.badge).collect();
        assert_eq!(changed, ["interrupted", "changed hands"]);
        assert!(timeline.take_changed().is_empty());
    }
}
