//! From the store to a run in memory: the newest checkpoint that can be read, then the tail.

use std::future::Future;
use std::pin::Pin;

use steadfast_store::{Checkpoint, RunId, Store, StoreError, Timestamp};
use tracing::warn;

use crate::checkpoint::LastCheckpoint;
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::run::{FoldError, Run};
use crate::stored;

/// Events read from the store at once while folding.
pub(crate) const READ_PAGE: usize = 512;

/// A run, and what folding it has met.
pub(crate) struct Folded {
    pub(crate) run: Run,
    pub(crate) last: LastCheckpoint,
    /// The checkpoints that could not be read, each as the event that tells it.
    pub(crate) passed_over: Vec<RunEvent>,
}

/// Folds a run's log. A damaged checkpoint is passed over for the one before it, and for the log itself in
/// the end (SCOPE C4).
///
/// # Errors
/// The store failed, there is no such run, or its log is damaged.
pub(crate) async fn fold(store: &dyn Store, id: RunId) -> Result<Folded, RuntimeError> {
    fold_until(store, id, u64::MAX).await
}

/// Folds a run's log up to an event.
///
/// # Errors
/// As [`fold`].
pub(crate) async fn fold_until(
    store: &dyn Store,
    id: RunId,
    until: u64,
) -> Result<Folded, RuntimeError> {
    let Start { mut run, last, passed_over } = start(store, id, until).await?;
    loop {
        let after = run.as_ref().map_or(0, |run: &Run| run.seq);
        let limit = usize::try_from(until.saturating_sub(after)).unwrap_or(usize::MAX);
        let limit = limit.min(READ_PAGE);
        let page = if limit == 0 { Vec::new() } else { store.read(id, after, limit).await? };
        let full = page.len() == READ_PAGE;
        for stored in page {
            let event = stored::unpack_event(store, &stored).await?;
            match run.as_mut() {
                Some(run) => next(store, run, stored.seq, stored.at, event).await?,
                None => run = Some(Run::begin(id, stored.at, &event)?),
            }
        }
        if !full {
            break;
        }
    }
    let run = run.ok_or(RuntimeError::UnknownRun { run: id })?;
    // Without a checkpoint the 300 s count from the submission.
    let last = last.unwrap_or(LastCheckpoint { seq: 0, at: run.submitted_at });
    Ok(Folded { run, last, passed_over })
}

/// Folds one event in; one that goes back finds what it goes back to in the log.
///
/// # Errors
/// As [`fold`].
pub(crate) async fn next(
    store: &dyn Store,
    run: &mut Run,
    seq: u64,
    at: Timestamp,
    event: RunEvent,
) -> Result<(), RuntimeError> {
    let RunEvent::RolledBack { to, .. } = &event else { return Ok(run.apply(seq, at, event)?) };
    if *to >= seq {
        return Err(FoldError::NoPast { run: run.id, seq }.into());
    }
    // Each goes back further, so this ends.
    let past = fold_past(store, run.id, *to).await?;
    Ok(run.go_back(seq, at, &event, past.run)?)
}

type Folding<'s> = Pin<Box<dyn Future<Output = Result<Folded, RuntimeError>> + Send + 's>>;

fn fold_past(store: &dyn Store, id: RunId, until: u64) -> Folding<'_> {
    Box::pin(fold_until(store, id, until))
}

struct Start {
    run: Option<Run>,
    last: Option<LastCheckpoint>,
    passed_over: Vec<RunEvent>,
}

async fn start(store: &dyn Store, id: RunId, until: u64) -> Result<Start, RuntimeError> {
    let mut passed_over = Vec::new();
    let kept = match store.checkpoints(id).await {
        Err(error @ StoreError::Damaged { .. }) => {
            warn!(run = %id, %error, "no checkpoint can be read: folding the whole log");
            let problem = error.to_string();
            passed_over.push(RunEvent::CheckpointPassedOver { checkpoint: 0, problem });
            Vec::new()
        }
        kept => kept?,
    };
    let usable = kept.into_iter().filter(|taken| taken.seq <= until);
    for checkpoint in usable {
        let Checkpoint { seq, at, body } = checkpoint;
        let problem = match stored::unpack::<Run>(store, "a checkpoint", &body).await {
            Ok(mut run) if run.seq == seq && run.id == id => {
                run.settle(at);
                let last = Some(LastCheckpoint { seq, at });
                return Ok(Start { run: Some(run), last, passed_over });
            }
            Ok(run) => format!("it holds event {} of run {}", run.seq, run.id),
            Err(StoreError::Unavailable { place, problem }) => {
                return Err(StoreError::Unavailable { place, problem }.into());
            }
            Err(error) => error.to_string(),
        };
        warn!(run = %id, seq, problem, "a checkpoint is damaged: trying the one before");
        passed_over.push(RunEvent::CheckpointPassedOver { checkpoint: seq, problem });
    }
    Ok(Start { run: None, last: None, passed_over })
}
