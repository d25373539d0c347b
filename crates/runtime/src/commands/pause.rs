//! Pause: puts a run aside until it is resumed. Unlike a cancelled one it goes on then from where it was.

use steadfast_store::{RunId, Sent};

use super::seize;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::letters::{self, Word};
use crate::shared::Shared;
use crate::state::Status;

/// Asks to put a run aside.
#[derive(Clone, Debug)]
pub struct PauseRun {
    /// The run.
    pub run: RunId,
    /// Who asks.
    pub by: String,
    /// Why, if they say so.
    pub reason: Option<String>,
    /// Do not wait for the end of the step under way: it is interrupted. Of a `once` call nobody knows
    /// then whether it took effect.
    pub now: bool,
}

/// What asking did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pausing {
    /// The run is paused.
    Done,
    /// The run is being executed and pauses once its step under way has ended, or is paused by the next
    /// node that takes it. The wish is on disk.
    Asked,
}

/// Puts a run aside.
pub(crate) async fn pause(shared: &Shared, command: PauseRun) -> Result<Pausing, RuntimeError> {
    let PauseRun { run, by, reason, now } = command;
    let head = shared.store.head(run).await?.ok_or(RuntimeError::UnknownRun { run })?;
    if !now && Status::parse(&head.state) == Some(Status::Running) {
        let word = Word::Pause { by, reason };
        let id = format!("pause {}", RunId::generate());
        return match letters::send(shared, run, id, &word).await? {
            Sent::Kept | Sent::Known => Ok(Pausing::Asked),
            Sent::Ended => {
                let status = super::status(shared, run).await?;
                Err(RuntimeError::WrongState { run, command: "pause", status })
            }
        };
    }
    let folded = seize(&shared.store, run, "pause", RunEvent::Paused { by, reason }).await?;
    shared.interrupt(run);
    shared.announce(run, folded.seq);
    Ok(Pausing::Done)
}
