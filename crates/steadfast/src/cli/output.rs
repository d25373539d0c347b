//! How things look on a terminal.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use steadfast_guard::{Effect, counted};
use steadfast_runtime::event::{Degraded, LeftCall, UndoCall};
use steadfast_runtime::{CheckpointView, Ending, EventView, Problem, RunEvent, RunView};

/// Standard output took no more data: its reader is gone, or its disk is full.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct Unprinted(std::io::Error);

impl Unprinted {
    /// Whether whoever read it has seen enough, as `head` has.
    pub(super) fn is_unread(&self) -> bool {
        self.0.kind() == std::io::ErrorKind::BrokenPipe
    }
}

/// Data: to standard output, safe to look at. Nothing of it is kept back.
///
/// # Errors
/// [`Unprinted`], with which a command ends: what nobody can read is not worth going on for.
pub(super) fn data(text: &str) -> Result<(), Unprinted> {
    print(&safe(text))
}

/// What an agent answered or has stored: to the byte into a file or a pipe, safe to look at on a terminal.
///
/// # Errors
/// As [`data`].
pub(super) fn exact(text: &str) -> Result<(), Unprinted> {
    if std::io::stdout().is_terminal() { data(text) } else { print(text) }
}

/// Talk: to standard error, safe to look at. Whether anybody listens is of no matter to what is done.
pub(super) fn talk(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{}", safe(text)));
}

/// A JSON document on one line.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string(value)?)?)
}

fn print(text: &str) -> Result<(), Unprinted> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Unprinted)
}

/// A text in which nothing steers a terminal: inputs, labels and what tools say come from anybody, and could
/// clear the screen, hide a line, or write one that looks like ours.
fn safe(text: &str) -> Cow<'_, str> {
    let steers = |char: char| match char {
        '\n' | '\t' => false,
        // They change in which direction the rest of the line is shown.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => char.is_control(),
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if steers(char) { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    Cow::Owned(shown)
}

/// A label on one line, whatever is in it.
fn on_one_line(label: &str) -> String {
    label.replace('\n', "\\n")
}

/// A table of runs.
pub(super) fn runs(runs: &[RunView]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["RUN", "AGENT", "STATE", "PROBLEM", "PROGRESS", "MODEL", "INPUT"]);
    for run in runs {
        let progress = run.progress.as_ref();
        let progress = progress.map(|p| format!("{}/{}", p.step, p.total)).unwrap_or_default();
        let input: String = run.input.lines().next().unwrap_or_default().chars().take(40).collect();
        table.add_row([
            run.id.to_string(),
            run.agent.clone(),
            run.state.clone(),
            run.problem.clone().unwrap_or_default(),
            progress,
            run.model.clone().unwrap_or_default(),
            safe(&input).into_owned(),
        ]);
    }
    table.trim_fmt()
}

/// A table of checkpoints.
pub(super) fn checkpoints(kept: &[CheckpointView]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["EVENT", "ANSWERS", "PROGRESS", "STATE"]);
    for checkpoint in kept {
        let progress = checkpoint.progress.as_ref();
        let progress = progress.map(|p| format!("{}/{} {}", p.step, p.total, p.description));
        let problem = checkpoint.problem.as_ref();
        table.add_row([
            checkpoint.seq.to_string(),
            checkpoint.iterations.map(|count| count.to_string()).unwrap_or_default(),
            progress.unwrap_or_default(),
            problem.map_or_else(|| "whole".to_owned(), |problem| format!("DAMAGED: {problem}")),
        ]);
    }
    table.trim_fmt()
}

/// One run, for people.
pub(super) fn run(run: &RunView) -> String {
    let mut lines = vec![
        format!("run      {}", run.id),
        format!("agent    {} (tenant {})", run.agent, on_one_line(&run.tenant)),
        format!("state    {}", run.state),
        format!("input    {}", first_line(&run.input)),
    ];
    if let Some(session) = &run.session {
        lines.push(format!("session  {}", on_one_line(session)));
    }
    if !run.tags.is_empty() {
        lines.push(format!("tags     {}", run.tags.join(", ")));
    }
    if let Some(parent) = &run.parent {
        lines.push(format!("parent   {parent}"));
    }
    lines.extend(problem(run));
    if let Some(source) = &run.forked_from {
        lines.push(format!("fork of  {source}"));
    }
    if let Some(progress) = &run.progress {
        lines.push(format!(
            "progress {}/{}: {}",
            progress.step, progress.total, progress.description
        ));
    }
    if let Some(model) = &run.model {
        let label = if run.simulated { " (simulated)" } else { "" };
        lines.push(format!("model    {model}{label}"));
    }
    lines.push(format!(
        "tokens   {} in, {} out, {}",
        run.input_tokens,
        run.output_tokens,
        counted(run.iterations.into(), "answer")
    ));
    if run.degraded > 0 {
        let times = counted(run.degraded.into(), "time");
        lines.push(format!("degraded {times}, by an answer or a result of something else"));
    }
    lines.push(format!("events   {}, epoch {}", run.events, run.epoch));
    if let Some(stop) = &run.stop {
        lines.push(format!("stopped  {stop}"));
    }
    lines.join("\n")
}

/// What is wrong with a run, what that means and what to do.
fn problem(run: &RunView) -> Vec<String> {
    let Some(word) = &run.problem else { return Vec::new() };
    let since = run.problem_since.and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok());
    let since = since.map(|at| format!(" since {at}")).unwrap_or_default();
    let mut lines = vec![format!("problem  {word}{since}")];
    lines.extend(run.problem_detail.iter().map(|detail| format!("         {detail}")));
    if let Some(problem) = Problem::parse(word) {
        lines.push(format!("         {} {}", problem.meaning(), problem.remedy()));
    }
    lines
}

/// A checkpoint that could not be read; 0 stands for all of them.
fn passed_over(checkpoint: u64, problem: &str) -> String {
    match checkpoint {
        0 => format!("every checkpoint is DAMAGED, the whole log was used: {problem}"),
        _ => format!("checkpoint {checkpoint} is DAMAGED, the one before was used: {problem}"),
    }
}

/// One event, on one line.
pub(super) fn event(view: &EventView) -> String {
    let text = match &view.event {
        RunEvent::Submitted { agent, .. } => format!("submitted to {agent}"),
        RunEvent::Claimed { epoch, .. } => format!("claimed, epoch {epoch}"),
        RunEvent::ModelAnswered {
            model, tool_calls, text, took_ms, simulated, degraded, ..
        } => {
            let label = if *simulated { " (simulated)" } else { "" };
            let calls: Vec<&str> = tool_calls.iter().map(|call| call.name.as_str()).collect();
            let said = if calls.is_empty() {
                first_line(text)
            } else {
                format!("calls {}", calls.join(", "))
            };
            format!("{model}{label}: {said} [{took_ms} ms]{}", stood_in(degraded.as_ref()))
        }
        RunEvent::ToolStarted { tool, effect, .. } => {
            format!("{tool} leaves ({})", effect.as_str())
        }
        RunEvent::ToolFinished { tool, outcome, content, took_ms, degraded, .. } => {
            let (said, degraded) = (first_line(content), stood_in(degraded.as_ref()));
            format!("{tool}: {}: {said} [{took_ms} ms]{degraded}", outcome.words())
        }
        RunEvent::StepStarted { step, effect, .. } => begun(step, *effect),
        RunEvent::StepFinished { step, failure: Some(failure), .. } => {
            format!("step {step} failed ({}): {}", failure.class.as_str(), failure.message)
        }
        RunEvent::StepFinished { step, .. } => format!("step {step} done"),
        RunEvent::Progressed { progress } => {
            format!("step {}/{}: {}", progress.step, progress.total, progress.description)
        }
        RunEvent::Parked { detail, .. } => format!("waits: {detail}"),
        RunEvent::Signalled { name, by, .. } => format!("signal {name} by {by}"),
        RunEvent::Heard { signal, timed_out: false, .. } => format!("heard `{signal}`"),
        RunEvent::Heard { signal, timed_out: true, .. } => {
            format!("`{signal}` was not said in time")
        }
        RunEvent::StepsUnmet { steps } => {
            format!("the code never came to these steps of the log: {}", steps.join(", "))
        }
        RunEvent::Cancelling { by, reason } => {
            format!("{by} wants it to end: what it has begun is undone{}", why(reason.as_deref()))
        }
        RunEvent::ChildEnded { child, ending } => format!("child {child} {}", ended(ending)),
        RunEvent::Paused { by, reason } => {
            format!("paused by {by}{}", why(reason.as_deref()))
        }
        RunEvent::Resumed { by, again } if again.is_empty() => format!("resumed by {by}"),
        RunEvent::Resumed { by, again } => {
            format!("resumed by {by}, makes again: {}", again.join(", "))
        }
        RunEvent::Forked { from, last, by, .. } => {
            format!("forked from {from} at event {last} by {by}")
        }
        RunEvent::RolledBack { to, by, reason, undo, left } => {
            format!("rolled back to {to} by {by}{}{}", why(reason.as_deref()), undone(undo, left))
        }
        RunEvent::Undone { again, left } => went_back(again, left),
        RunEvent::CheckpointPassedOver { checkpoint, problem } => passed_over(*checkpoint, problem),
        RunEvent::CallJudged { call_id, verdict, by, .. } => {
            format!("call {call_id}: {}, says {by}", verdict.words())
        }
        RunEvent::Cancelled { by, reason } => {
            format!("cancelled by {by}{}", why(reason.as_deref()))
        }
        RunEvent::Succeeded { .. } => "succeeded".to_owned(),
        RunEvent::Failed { stop, message } => format!("failed ({}): {message}", stop.as_str()),
    };
    format!("{:>5}  {}", view.seq, safe(&text))
}

/// A step of code that begins.
fn begun(step: &str, effect: Effect) -> String {
    format!("step {step} begins ({})", effect.as_str())
}

/// How undoing the steps of a rollback has ended.
fn went_back(again: &[String], left: &[String]) -> String {
    let (again, left) = (listed("; done again: ", again), listed("; NOT undone: ", left));
    format!("undone: goes on from there{again}{left}")
}

/// Names behind what they are, if there are any.
fn listed(what: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{what}{}", names.join(", ")) }
}

/// What a rollback undoes, and what it leaves.
pub(super) fn undone(undo: &[UndoCall], left: &[LeftCall]) -> String {
    let undo = undo.iter().map(|undo| format!("; undoes {} by {}", undo.tool, undo.with));
    let left: Vec<&str> = left.iter().map(|left| left.tool.as_str()).collect();
    let left = (!left.is_empty()).then(|| format!("; was not undone: {}", left.join(", ")));
    undo.chain(left).collect()
}

/// The reason that somebody gave, if they gave one.
fn why(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({})", on_one_line(reason))).unwrap_or_default()
}

fn ended(ending: &Ending) -> String {
    match ending {
        Ending::Succeeded { output } => format!("succeeded: {}", first_line(output)),
        Ending::Failed { message, .. } => format!("failed: {}", first_line(message)),
        Ending::Cancelled { by, .. } => format!("cancelled by {by}"),
    }
}

/// What stood in for a dependency, if anything did.
fn stood_in(degraded: Option<&Degraded>) -> String {
    degraded.map(|Degraded { way, .. }| format!(" DEGRADED: {way}")).unwrap_or_default()
}

fn first_line(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(100).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}
