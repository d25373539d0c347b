//! Takes a run of code back to where it was: what it has done since is undone, the last first, and it goes on
//! from there.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use steadfast_guard::ErrorClass;
use steadfast_store::RunId;

use super::Code;
use super::board::{Blocked, Board};
use super::child::end_children;
use super::compensate::{UNDO, Undo, Undone, undo_all};
use super::context::RunContext;
use super::drive::{Reached, execute, settle};
use super::record::{StepRecord, StepState, Steps};
use super::step::StepError;
use crate::driver::Outcome;
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::run::Run;

/// If the run goes back: runs its code to where it had come, so that it says what undoes what, and undoes what
/// is not kept. `None` once that is done, or if there was nothing of the kind to do; a run that is to be
/// cancelled is undone as a whole.
///
/// # Errors
/// The store refused or failed: the run is no longer this node's to execute.
pub(super) async fn go_back(
    code: &Code,
    board: &Arc<Board>,
) -> Result<Option<Outcome>, RuntimeError> {
    let (id, input, told, kept) = {
        let journal = board.journal.lock().await;
        let run = journal.run();
        let Some(kept) = run.goes_back_to().filter(|_| run.cancelling.is_none()) else {
            return Ok(None);
        };
        let told = run.rollback.as_ref().map(|rollback| rollback.told.join("; "));
        (run.id, run.input.as_str().into(), told.unwrap_or_default(), kept.clone())
    };
    let undos = Arc::new(Mutex::new(Vec::new()));
    let context = RunContext { board: Arc::clone(board), undos: Arc::clone(&undos), id, input };
    match execute(board, code(context.clone())).await {
        Reached::End(_) | Reached::Blocked(Blocked::Replayed) => {}
        Reached::Blocked(blocked) => return settle(board, blocked).await.map(Some),
    }
    board.begin_undoing();
    let said = std::mem::take(&mut *undos.lock());
    let (said, due) = {
        let journal = board.journal.lock().await;
        split(board, journal.run(), &kept, said)
    };
    let spared: Vec<RunId> = kept.children().map(|(_, child)| child).collect();
    let undone = Arc::new(Mutex::new(Undone::default()));
    let undoing = undo_since(context, spared, due, Arc::clone(&undone));
    if let Reached::Blocked(blocked) = execute(board, Box::pin(undoing)).await {
        return settle(board, blocked).await.map(Some);
    }
    let Undone { told: how, failed } = std::mem::take(&mut *undone.lock());
    let mut journal = board.journal.lock().await;
    if let Some(class) = failed {
        journal.append(vec![not_undone(&told, &how, class)]).await?;
        return Ok(Some(Outcome::Settled));
    }
    let event = outcome(board, journal.run(), &kept, &said);
    journal.append(vec![event]).await?;
    board.start_over();
    Ok(None)
}

/// What the code has said, each with the steps that it belongs to, and what of it is to be done.
fn split(
    board: &Board,
    run: &Run,
    kept: &Steps,
    said: Vec<Undo>,
) -> (Vec<(String, Vec<String>)>, Vec<Undo>) {
    let is_since = |step: &String| run.steps.get(step).is_some() && kept.get(step).is_none();
    let named: Vec<_> = said.iter().map(|undo| board.steps_named(run, bare(&undo.name))).collect();
    let claimed: BTreeSet<String> = named.iter().flatten().cloned().collect();
    let (mut known, mut due) = (Vec::new(), Vec::new());
    for (undo, named) in said.into_iter().zip(named) {
        let of = if named.is_empty() { by_place(board, &undo.met_since, &claimed) } else { named };
        let is_due = of.iter().any(is_since);
        known.push((undo.name.clone(), of));
        if is_due {
            due.push(undo);
        }
    }
    (known, due)
}

/// The steps that a compensation belongs to by where it was said, when none has its name: those that no other
/// one has the name of.
fn by_place(board: &Board, met_since: &[String], claimed: &BTreeSet<String>) -> Vec<String> {
    let free: Vec<_> = met_since.iter().filter(|step| !claimed.contains(*step)).cloned().collect();
    if !free.is_empty() {
        return free;
    }
    if met_since.is_empty() {
        return board.first_met().into_iter().collect();
    }
    met_since.to_vec()
}

fn bare(undo: &str) -> &str {
    undo.strip_prefix(UNDO).unwrap_or(undo)
}

async fn undo_since(
    context: RunContext,
    spared: Vec<RunId>,
    due: Vec<Undo>,
    into: Arc<Mutex<Undone>>,
) -> Result<Value, StepError> {
    let mut undone = Undone::default();
    end_children(&context, "its parent is rolled back", &spared, &mut undone).await;
    undo_all(&context, due, &mut undone).await;
    *into.lock() = undone;
    Ok(Value::Null)
}

/// What is undone by now, whether by this or by an earlier failure, is done again; the rest stays.
fn outcome(board: &Board, run: &Run, kept: &Steps, said: &[(String, Vec<String>)]) -> RunEvent {
    let done =
        |record: &StepRecord| record.undoes && matches!(record.state, StepState::Done { .. });
    let mut undone = BTreeSet::new();
    for (undo, _) in run.steps.by_name.iter().filter(|(_, record)| done(record)) {
        match said.iter().find(|(name, _)| name == undo) {
            Some((_, of)) => undone.extend(of.iter().cloned()),
            // Changed code says it no more.
            None => undone.extend(board.steps_named(run, bare(undo))),
        }
    }
    let again = undone.iter().filter(|step| kept.get(step).is_some()).cloned().collect();
    let children: BTreeSet<&str> = run.steps.children().map(|(step, _)| step).collect();
    let stays = |name: &String, record: &StepRecord| {
        let may_be = match &record.state {
            StepState::Failed { failure } => failure.class == ErrorClass::OutcomeUnknown,
            StepState::Started { .. } | StepState::Interrupted { .. } | StepState::Done { .. } => {
                true
            }
        };
        let is_other = record.undoes || children.contains(name.as_str());
        record.changes && may_be && !is_other && kept.get(name).is_none() && !undone.contains(name)
    };
    let left = run.steps.by_name.iter().filter(|(name, record)| stays(name, record));
    RunEvent::Undone { again, left: left.map(|(name, _)| name.clone()).collect() }
}

fn not_undone(told: &str, how: &str, class: ErrorClass) -> RunEvent {
    let message = format!(
        "{told}, and not everything could be undone{how}; resume the run to try again what failed"
    );
    RunEvent::Failed { stop: StopReason::Error { class }, message }
}
