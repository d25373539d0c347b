//! Executes the code of one claimed run: to its end, to where it waits, or to where the node drains.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use serde_json::Value;

use super::back;
use super::board::{Blocked, Board, parked};
use super::child::end_children;
use super::compensate::{Undo, Undone, undo};
use super::context::RunContext;
use super::step::StepError;
use super::{Code, Running};
use crate::driver::Outcome;
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason};
use crate::run::Cancelling;

/// Runs the code from its beginning; what it has done already is remembered.
///
/// Of a run that is to be cancelled the code is run to where it had come, so that it says what undoes what;
/// nothing that it has not begun begins.
///
/// # Errors
/// The store refused or failed: the run is no longer this node's to execute.
pub(crate) async fn drive(code: &Code, board: Board) -> Result<Outcome, RuntimeError> {
    let board = Arc::new(board);
    if let Some(outcome) = back::go_back(code, &board).await? {
        return Ok(outcome);
    }
    let (id, input, cancelling) = {
        let journal = board.journal.lock().await;
        let run = journal.run();
        (run.id, run.input.as_str().into(), run.cancelling.clone())
    };
    let undos = Arc::new(Mutex::new(Vec::new()));
    let context = RunContext { board: Arc::clone(&board), undos: Arc::clone(&undos), id, input };
    let is_left = cancelling.is_some() && !board.policy.compensate_on_cancel;
    let reached = if is_left {
        Reached::Blocked(Blocked::Replayed)
    } else {
        execute(&board, code(context.clone())).await
    };
    let unmet = if is_left { Vec::new() } else { board.unmet(board.journal.lock().await.run()) };
    let why = match (reached, cancelling) {
        (Reached::End(_) | Reached::Blocked(Blocked::Replayed), Some(wish)) => Why::Wish(wish),
        (Reached::Blocked(blocked), _) => return settle(&board, blocked).await,
        (Reached::End(Err(error)), None) => Why::Failure(error),
        (Reached::End(Ok(output)), None) => {
            let succeeded = RunEvent::Succeeded { output: output.to_string() };
            return end(&board, unmet, succeeded).await;
        }
    };
    board.begin_undoing();
    let undone = Arc::new(Mutex::new(Undone::default()));
    let undoing = give_up(context, why.clone(), undos, Arc::clone(&undone));
    if let Reached::Blocked(blocked) = execute(&board, Box::pin(undoing)).await {
        return settle(&board, blocked).await;
    }
    let undone = std::mem::take(&mut *undone.lock());
    end(&board, unmet.clone(), ending(why, &undone, &unmet)).await
}

/// Why a run does not reach its end.
#[derive(Clone)]
enum Why {
    Failure(StepError),
    Wish(Cancelling),
}

/// Ends what the run has begun, and undoes what it has done.
async fn give_up(
    context: RunContext,
    why: Why,
    undos: Arc<Mutex<Vec<Undo>>>,
    into: Arc<Mutex<Undone>>,
) -> Result<Value, StepError> {
    let mut undone = Undone::default();
    let policy = context.board.policy;
    match why {
        Why::Wish(_) => end_children(&context, "its parent is cancelled", &[], &mut undone).await,
        Why::Failure(_) if policy.cancel_children_on_failure => {
            end_children(&context, "its parent failed", &[], &mut undone).await;
        }
        Why::Failure(_) => {}
    }
    // Without the wish to undo, the code was not run and nothing was said.
    undo(&context, &undos, &mut undone).await;
    *into.lock() = undone;
    Ok(Value::Null)
}

fn ending(why: Why, undone: &Undone, unmet: &[String]) -> RunEvent {
    let mut told = undone.told.clone();
    if !unmet.is_empty() {
        told.push_str(&format!(
            "; the code never came to these steps of the log, and what undoes them was not said: {}",
            unmet.join(", ")
        ));
    }
    match (why, undone.failed) {
        (Why::Failure(error), _) => RunEvent::Failed {
            stop: StopReason::Error { class: error.class },
            message: format!("{error}{told}"),
        },
        (Why::Wish(Cancelling { by, reason }), None) => {
            let reason = match (reason, told.strip_prefix("; ")) {
                (reason, None) => reason,
                (None, Some(told)) => Some(told.to_owned()),
                (Some(reason), Some(_)) => Some(format!("{reason}{told}")),
            };
            RunEvent::Cancelled { by, reason }
        }
        (Why::Wish(Cancelling { by, reason }), Some(class)) => {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let message = format!(
                "cancelled by {by}{reason}, and not everything could be undone{told}; resume the run to try \
                 again what failed"
            );
            RunEvent::Failed { stop: StopReason::Error { class }, message }
        }
    }
}

async fn end(board: &Board, unmet: Vec<String>, event: RunEvent) -> Result<Outcome, RuntimeError> {
    let unmet = Some(RunEvent::StepsUnmet { steps: unmet.clone() }).filter(|_| !unmet.is_empty());
    board.journal.lock().await.append(unmet.into_iter().chain([event]).collect()).await?;
    Ok(Outcome::Settled)
}

pub(super) enum Reached {
    End(Result<Value, StepError>),
    Blocked(Blocked),
}

/// Runs until the end, or until every branch stands still.
pub(super) async fn execute(board: &Board, mut running: Running) -> Reached {
    poll_fn(|context| match running.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(Reached::End(ended)),
        Poll::Pending => match board.blocked() {
            Some(blocked) => Poll::Ready(Reached::Blocked(blocked)),
            None => Poll::Pending,
        },
    })
    .await
}

pub(super) async fn settle(board: &Board, blocked: Blocked) -> Result<Outcome, RuntimeError> {
    let waits = match blocked {
        // Only the code of a run that is to be cancelled, or to go back, blocks so, and that is gone on with.
        Blocked::Drained | Blocked::Replayed => return Ok(Outcome::Drained),
        Blocked::Pausing => {
            board.journal.lock().await.take_letters(true).await?;
            return Ok(Outcome::Settled);
        }
        Blocked::Waiting(waits) => waits,
        Blocked::Unwritten => return board.take_problem().map_or(Ok(Outcome::Drained), Err),
    };
    board.journal.lock().await.append(vec![parked(&waits)]).await?;
    Ok(Outcome::Settled)
}
