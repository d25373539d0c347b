//! Cancel: ends a run for good. Unlike a failure it cannot be resumed.

use steadfast_store::RunId;

use super::seize;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::shared::Shared;

/// Asks to end a run.
#[derive(Clone, Debug)]
pub struct CancelRun {
    /// The run.
    pub run: RunId,
    /// Who asks.
    pub by: String,
    /// Why, if they say so.
    pub reason: Option<String>,
}

/// Ends a run. Once it has returned, no step of the run begins any more: the log is closed to its
/// owner, and if that is this node, the call under way is dropped, which ends its child processes. A
/// call that had left may still take effect outside.
pub(crate) async fn cancel(shared: &Shared, command: CancelRun) -> Result<(), RuntimeError> {
    let CancelRun { run, by, reason } = command;
    let event = RunEvent::Cancelled { by, reason };
    let folded = seize(&shared.store, run, "cancel", event).await?;
    shared.interrupt(run);
    shared.announce(run, folded.seq);
    if let Some(parent) = folded.parent {
        shared.ring(parent);
    }
    Ok(())
}
