//! Resume: lets a run go on that had failed, or wakes one that waits. What was done stays done; the
//! run goes on from its last event. Unlike a new submission it pays for nothing twice.

use steadfast_store::RunId;

use super::seize;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::shared::Shared;

/// Asks a run to go on.
#[derive(Clone, Debug)]
pub struct ResumeRun {
    /// The run.
    pub run: RunId,
    /// Who asks.
    pub by: String,
}

/// Puts a failed or waiting run back into the queue.
pub(crate) async fn resume(shared: &Shared, command: ResumeRun) -> Result<(), RuntimeError> {
    let ResumeRun { run, by } = command;
    let folded =
        seize(&shared.store, run, "resume", RunEvent::Resumed { by, again: Vec::new() }).await?;
    shared.announce(run, folded.seq);
    Ok(())
}
