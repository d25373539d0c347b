//! What people and programs ask of a run. One command, one file.

mod answer;
mod cancel;
mod fork;
mod pause;
mod resume;
mod retry;
mod rollback;
mod signal;
mod submit;

use std::sync::Arc;

use steadfast_store::{Append, Fence, RunId, Store, StoreError};

pub use answer::AnswerCall;
pub(crate) use answer::answer;
pub use cancel::CancelRun;
pub(crate) use cancel::{cancel, orphaned};
pub use fork::ForkRun;
pub(crate) use fork::fork;
pub(crate) use pause::pause;
pub use pause::{PauseRun, Pausing};
pub use resume::ResumeRun;
pub(crate) use resume::resume;
pub use retry::RetryRun;
pub(crate) use retry::retry;
pub(crate) use rollback::rollback;
pub use rollback::{RollbackRun, RolledBackTo};
pub use signal::SignalRun;
pub(crate) use signal::{check_name as check_signal_name, signal};
pub use submit::{INPUT_BYTES_MAX, SubmitRun, Submitted};
pub(crate) use submit::{Labels, create, submit};

use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::folding::fold;
use crate::journal::{face, unwritable};
use crate::letters;
use crate::run::Run;
use crate::shared::Shared;
use crate::state::Status;
use crate::stored;

/// How often a command is tried against a run that grows meanwhile. A driver appends a few times a
/// second at most; sixteen losses in a row mean that something is wrong.
const ATTEMPTS_MAX: u32 = 16;

/// Where a run is in its life, by its card.
pub(crate) async fn status(shared: &Shared, run: RunId) -> Result<Status, RuntimeError> {
    let head = shared.store.head(run).await?.ok_or(RuntimeError::UnknownRun { run })?;
    Status::parse(&head.state).ok_or_else(|| {
        RuntimeError::Store(StoreError::Damaged {
            what: "the state of a run",
            place: shared.store.describe(),
            problem: format!("`{}` is no state; a newer release may have written it", head.state),
        })
    })
}

/// Takes a run from whoever holds it and appends one event, in one transaction: from then on an append
/// of the old owner is refused.
///
/// # Errors
/// [`RuntimeError::WrongState`] if the event is not possible in the run's state.
pub(crate) async fn seize(
    store: &Arc<dyn Store>,
    run: RunId,
    command: &'static str,
    event: RunEvent,
) -> Result<Run, RuntimeError> {
    seize_with(store, run, command, |_| event.clone()).await
}

/// The same, with an event that depends on what the run has done.
///
/// # Errors
/// As [`seize`].
pub(crate) async fn seize_with(
    store: &Arc<dyn Store>,
    run: RunId,
    command: &'static str,
    event: impl Fn(&Run) -> RunEvent,
) -> Result<Run, RuntimeError> {
    for _ in 0..ATTEMPTS_MAX {
        let mut folded = fold(store.as_ref(), run).await?.run;
        let event = event(&folded);
        if folded.status.next(&event).is_err() {
            return Err(RuntimeError::WrongState { run, command, status: folded.status });
        }
        let expected_seq = folded.seq;
        folded.apply(expected_seq + 1, store.now(), event.clone())?;
        if write(store, &folded, expected_seq, &[event], false).await? {
            return Ok(folded);
        }
    }
    Err(RuntimeError::Contended { run, command, attempts: ATTEMPTS_MAX })
}

/// Appends the events that have made a run what it is, and takes it from whoever holds it; `false` if the
/// owner appended in between.
async fn write(
    store: &Arc<dyn Store>,
    run: &Run,
    expected_seq: u64,
    events: &[RunEvent],
    checkpoint: bool,
) -> Result<bool, RuntimeError> {
    // Whoever lets a run go on knows that it stands still: an older wish that it pause is fulfilled.
    let goes_on = events.iter().any(|event| matches!(event, RunEvent::Resumed { .. }));
    let taken = if goes_on { letters::pauses(store.as_ref(), run.id).await? } else { Vec::new() };
    let mut append = Append {
        head: Some(face(run)?),
        taken,
        mail: letters::farewell_of(run).into_iter().collect(),
        ..Append::new(run.id, Fence::Seize, expected_seq)
    };
    for event in events {
        let (packed, blobs) = stored::pack_event(event).map_err(unwritable)?;
        append.events.push(packed);
        append.blobs.extend(blobs);
    }
    if checkpoint {
        let snapshot = stored::pack(run).map_err(unwritable)?;
        append.blobs.extend(snapshot.blobs);
        append.checkpoint = Some(snapshot.body);
    }
    match store.append(append).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
