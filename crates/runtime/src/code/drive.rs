//! Executes the code of one claimed run: to its end, to where it waits, or to where the node drains.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use serde_json::Value;

use super::board::{Blocked, Board};
use super::context::RunContext;
use super::step::StepError;
use super::{Code, Running};
use crate::driver::Outcome;
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason, WaitReason};

/// Runs the code from its beginning; what it has done already is remembered.
///
/// # Errors
/// The store refused or failed: the run is no longer this node's to execute.
pub(crate) async fn drive(code: &Code, board: Board) -> Result<Outcome, RuntimeError> {
    let board = Arc::new(board);
    let (id, input) = {
        let journal = board.journal.lock().await;
        (journal.run().id, journal.run().input.as_str().into())
    };
    let undos = Arc::new(Mutex::new(Vec::new()));
    let context = RunContext { board: Arc::clone(&board), undos: Arc::clone(&undos), id, input };
    let event = match execute(&board, code(context.clone())).await {
        Reached::Blocked(blocked) => return settle(&board, blocked).await,
        Reached::End(Ok(output)) => RunEvent::Succeeded { output: output.to_string() },
        Reached::End(Err(error)) => {
            let undone = async move { Ok(Value::String(undo(&context, &undos).await)) };
            match execute(&board, Box::pin(undone)).await {
                Reached::Blocked(blocked) => return settle(&board, blocked).await,
                Reached::End(told) => failed(&error, told.unwrap_or_default().as_str()),
            }
        }
    };
    board.journal.lock().await.append(vec![event]).await?;
    Ok(Outcome::Settled)
}

enum Reached {
    End(Result<Value, StepError>),
    Blocked(Blocked),
}

/// Runs until the end, or until every branch stands still.
async fn execute(board: &Board, mut running: Running) -> Reached {
    poll_fn(|context| match running.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(Reached::End(ended)),
        Poll::Pending => match board.blocked() {
            Some(blocked) => Poll::Ready(Reached::Blocked(blocked)),
            None => Poll::Pending,
        },
    })
    .await
}

async fn settle(board: &Board, blocked: Blocked) -> Result<Outcome, RuntimeError> {
    let until = match blocked {
        Blocked::Drained => return Ok(Outcome::Drained),
        Blocked::Pausing => {
            board.journal.lock().await.take_letters(true).await?;
            return Ok(Outcome::Settled);
        }
        Blocked::Until(until) => until,
        Blocked::Unwritten => return board.take_problem().map_or(Ok(Outcome::Drained), Err),
    };
    let detail = "the code waits for this time".to_owned();
    let parked = RunEvent::Parked { reason: WaitReason::Timer, wake_at: Some(until), detail };
    board.journal.lock().await.append(vec![parked]).await?;
    Ok(Outcome::Settled)
}

/// Undoes what was done, the last first; what cannot be undone does not stop the others. Says what came of
/// it.
async fn undo(context: &RunContext, undos: &Mutex<Vec<super::context::Undo>>) -> String {
    let mut told = String::new();
    let undos = std::mem::take(&mut *undos.lock());
    for undo in undos.into_iter().rev() {
        let name = undo.name;
        let line = match (undo.run)(context.clone()).await {
            Ok(()) => format!("; {name}: done"),
            Err(error) => format!("; {name}: FAILED: {}", error.message),
        };
        told.push_str(&line);
    }
    told
}

fn failed(error: &StepError, undone: Option<&str>) -> RunEvent {
    let message = format!("{error}{}", undone.unwrap_or_default());
    RunEvent::Failed { stop: StopReason::Error { class: error.class }, message }
}
