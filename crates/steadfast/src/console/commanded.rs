//! What people did with a run, as steps of its timeline.

use steadfast_runtime::event::{Changes, LeftCall, RunEvent};

use super::timeline::{Step, Text};

/// The step that such an event is.
pub(super) fn commanded(event: RunEvent, step: Step) -> Step {
    match event {
        RunEvent::Paused { by, reason } => {
            for_a_reason(step.named("paused", "Paused", "paused").fact("by", by), reason)
        }
        RunEvent::Resumed { by, again } => {
            let step = step.named("resumed", "Resumed", "queued").fact("by", by);
            if again.is_empty() { step } else { step.fact("made again", again.join(", ")) }
        }
        RunEvent::Cancelled { by, reason } => {
            for_a_reason(step.named("cancelled", "Cancelled", "cancelled").fact("by", by), reason)
        }
        RunEvent::Forked { from, last, changes, by } => {
            let Changes { input, model, instructions } = changes;
            let step = step.named("forked", "Forked: what comes before is another run's", "queued");
            let mut step =
                step.fact("from run", from.to_string()).fact("at event", last.to_string());
            step.facts.extend(model.map(|model| ("model", model)));
            step.facts.push(("by", by));
            let texts = [("Input", input), ("Prompt", instructions)].into_iter();
            let texts = texts.filter_map(|(label, text)| Some(Text::new(label, text?, true)));
            step.texts.extend(texts);
            step
        }
        RunEvent::RolledBack { to, by, reason, undo, left } => {
            let step = step.named("rolled_back", &format!("Rolled back to event {to}"), "queued");
            let mut step = step.fact("by", by);
            step.texts.extend(reason.map(|reason| Text::new("Reason", reason, true)));
            let undo = undo.iter().map(|undo| format!("{} by {}", undo.tool, undo.with));
            let left = left.iter().map(stays);
            let lists = [
                ("To be undone", undo.collect::<Vec<_>>()),
                ("Was not undone", left.collect::<Vec<_>>()),
            ];
            for (label, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
                step.texts.push(Text::new(label, lines.join("\n"), true));
            }
            step
        }
        RunEvent::CheckpointPassedOver { checkpoint, problem } => {
            let title = match checkpoint {
                0 => "Every checkpoint is damaged: the whole log was used".to_owned(),
                _ => format!("Checkpoint {checkpoint} is damaged: the one before was used"),
            };
            step.named("checkpoint", &title, "passed over").text("What is wrong", problem, true)
        }
        RunEvent::CallJudged { call_id, verdict, result, by } => {
            let step = step.named("judged", "An interrupted call was judged", verdict.words());
            let step = step.fact("call", call_id).fact("by", by);
            match result {
                Some(result) => step.text("What was said", result, false),
                None => step,
            }
        }
        other => step.named("other", other.kind(), ""),
    }
}

fn for_a_reason(step: Step, reason: Option<String>) -> Step {
    match reason {
        Some(reason) => step.text("Reason", reason, true),
        None => step,
    }
}

fn stays(left: &LeftCall) -> String {
    match left.unknown {
        true => format!("{} (it may have taken effect)", left.tool),
        false => left.tool.clone(),
    }
}
