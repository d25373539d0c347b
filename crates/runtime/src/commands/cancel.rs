//! Cancel: ends a run for good. Unlike a failure it cannot be resumed.

use steadfast_store::RunId;

use super::seize_with;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::folding::fold;
use crate::run::Run;
use crate::shared::Shared;
use crate::state::Status;

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
///
/// Code that has done something is claimed once more: its children are cancelled, what it did is undone, and
/// then it is over. Cancelled again meanwhile, it goes on with that.
pub(crate) async fn cancel(shared: &Shared, command: CancelRun) -> Result<(), RuntimeError> {
    let CancelRun { run, by, reason } = command;
    let folded = fold(shared.store.as_ref(), run).await?.run;
    let is_under_way = !folded.status.is_over() && folded.status != Status::Paused;
    if folded.cancelling.is_some() && is_under_way {
        return Ok(());
    }
    let event = |run: &Run| wish(shared, run, by.clone(), reason.clone());
    let folded = seize_with(&shared.store, run, "cancel", event).await?;
    shared.interrupt(run);
    shared.announce(run, folded.seq);
    if let Some(parent) = folded.parent.filter(|_| folded.status.is_over()) {
        shared.ring(parent);
    }
    Ok(())
}

/// How a run is ended: at once, or by ending what it has begun.
fn wish(shared: &Shared, run: &Run, by: String, reason: Option<String>) -> RunEvent {
    let has_begun = !run.steps.by_name.is_empty();
    if has_begun && shared.catalog.code(&run.agent).is_some() {
        RunEvent::Cancelling { by, reason }
    } else {
        RunEvent::Cancelled { by, reason }
    }
}

/// The end of a child whose parent is cancelled: it was started while the parent was being cancelled, by a
/// node that did not know.
pub(crate) async fn orphaned(
    shared: &Shared,
    parent: RunId,
    run: &Run,
) -> Result<Option<RunEvent>, RuntimeError> {
    if run.cancelling.is_some() || super::status(shared, parent).await? != Status::Cancelled {
        return Ok(None);
    }
    let reason = Some("its parent is cancelled".to_owned());
    Ok(Some(wish(shared, run, format!("run {parent}"), reason)))
}
