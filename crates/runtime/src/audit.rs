//! Looking at stored runs with the eyes of the code that would execute them: does the log fold, do the
//! checkpoints agree with it, does the index card.

use std::collections::BTreeMap;

use steadfast_guard::counted;
use steadfast_store::{Checkpoint, Disposition, RunHead, RunId, Store, StoreError, StoredEvent};

use crate::call::chain;
use crate::error::RuntimeError;
use crate::folding::{self, fold};
use crate::run::Run;
use crate::stored;

/// Events read at once.
const PAGE: usize = 256;

/// What is wrong with a run, as sentences with what to do: its log is read and folded as a whole, every
/// checkpoint is compared with the fold up to it, and so is the card. Empty if nothing is.
///
/// # Errors
/// The medium failed.
pub async fn audit(store: &dyn Store, head: &RunHead) -> Result<Vec<String>, StoreError> {
    let kept = store.checkpoints(head.id).await?;
    let mut audit = Audit {
        store,
        run: None,
        checkpoints: kept.into_iter().map(|checkpoint| (checkpoint.seq, checkpoint)).collect(),
        flaws: Vec::new(),
    };
    let whole = audit.log(head.id).await?;
    for seq in audit.checkpoints.keys() {
        let beyond = format!("checkpoint {seq} is of an event that could not be folded");
        audit.flaws.push(format!("{beyond}; it is passed over when the run is resumed"));
    }
    if let Some(run) = audit.run.as_ref().filter(|_| whole) {
        audit.flaws.extend(card_flaw(run, head));
    } else if whole {
        audit.flaws.push("its log is empty; restore a backup".to_owned());
    }
    Ok(audit.flaws)
}

struct Audit<'a> {
    store: &'a dyn Store,
    run: Option<Run>,
    /// Those not yet met.
    checkpoints: BTreeMap<u64, Checkpoint>,
    flaws: Vec<String>,
}

impl Audit<'_> {
    /// Folds the whole log; whether all of it could be.
    async fn log(&mut self, id: RunId) -> Result<bool, StoreError> {
        loop {
            let after = self.run.as_ref().map_or(0, |run| run.seq);
            let page = self.store.read(id, after, PAGE).await?;
            if page.is_empty() {
                return Ok(true);
            }
            for stored in page {
                if let Err(problem) = self.event(id, &stored).await? {
                    let seq = stored.seq;
                    self.flaws.push(remedied(&format!("event {seq}: {problem}")));
                    return Ok(false);
                }
                if let Some(checkpoint) = self.checkpoints.remove(&stored.seq) {
                    self.checkpoint(&checkpoint).await?;
                }
            }
        }
    }

    async fn event(
        &mut self,
        id: RunId,
        stored: &StoredEvent,
    ) -> Result<Result<(), String>, StoreError> {
        let event = match readable(stored::unpack_event(self.store, stored).await)? {
            Ok(event) => event,
            Err(problem) => return Ok(Err(problem)),
        };
        let folded = match self.run.as_mut() {
            Some(run) => folding::next(self.store, run, stored.seq, stored.at, event).await,
            None if stored.seq == 1 => {
                let begun = Run::begin(id, stored.at, &event);
                begun.map(|run| self.run = Some(run)).map_err(RuntimeError::from)
            }
            None => return Ok(Err(format!("it is the first, and not event 1 of run {id}"))),
        };
        match folded {
            Ok(()) => Ok(Ok(())),
            Err(RuntimeError::Store(error @ StoreError::Unavailable { .. })) => Err(error),
            Err(error) => Ok(Err(chain(&error))),
        }
    }

    async fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let Checkpoint { seq, at, body } = checkpoint;
        let unpacked = stored::unpack::<Run>(self.store, "a checkpoint", body).await;
        let problem = match (readable(unpacked)?, &self.run) {
            (Ok(mut snapshot), folded) => {
                snapshot.settle(*at);
                if folded.as_ref().is_some_and(|run| alike(&snapshot, run)) {
                    return Ok(());
                }
                "it is not what the log folds to".to_owned()
            }
            (Err(problem), _) => problem,
        };
        self.flaws.push(remedied(&format!("checkpoint {seq}: {problem}")));
        Ok(())
    }
}

/// A flaw with what to do about it, said once: many errors of a store say it themselves.
#[must_use]
pub fn remedied(flaw: &str) -> String {
    let says = ["restore a backup", "from a backup"].iter().any(|words| flaw.contains(words));
    if says { flaw.to_owned() } else { format!("{flaw}; restore a backup") }
}

/// Tells a value that cannot be read from a medium that fails.
fn readable<T>(read: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(error @ StoreError::Unavailable { .. }) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Whether two folds are of the same run. Early releases gave a checkpoint the time before its commit: the
/// time of the last event, and what is counted from it, may differ by as long as that took.
fn alike(one: &Run, other: &Run) -> bool {
    let (updated_at, active_ms) = (other.updated_at, other.active_ms);
    Run { updated_at, active_ms, ..one.clone() } == *other
}

fn card_flaw(run: &Run, head: &RunHead) -> Option<String> {
    let problem = if head.head_seq != run.seq {
        let told = counted(head.head_seq, "event");
        format!("its card says {told}, and its log has {}", run.seq)
    } else if head.state != run.status.as_str() {
        format!("its card says `{}`, and its log `{}`", head.state, run.status)
    } else if (head.disposition == Disposition::Ended) != run.status.is_over() {
        let over = if head.disposition == Disposition::Ended { "is over" } else { "is not over" };
        format!("its card says that it {over}, and its log that it is {}", run.status)
    } else {
        return None;
    };
    Some(remedied(&problem))
}

/// A run as resuming it would find it: folded from the newest checkpoint that can be read, and the events
/// after it. Nothing is written.
///
/// # Errors
/// The store failed, there is no such run, or its log is damaged.
pub async fn folded(store: &dyn Store, run: RunId) -> Result<Run, RuntimeError> {
    Ok(fold(store, run).await?.run)
}

/// Whether a run folds in two stores to the same, as resuming it would; what differs, if anything.
///
/// # Errors
/// A store failed, or a log is damaged.
pub async fn compare(
    one: &dyn Store,
    other: &dyn Store,
    run: RunId,
) -> Result<Option<&'static str>, RuntimeError> {
    if folded(one, run).await? != folded(other, run).await? {
        return Ok(Some("its log folds to something else"));
    }
    let (one, other) = (one.head(run).await?, other.head(run).await?);
    let card = |head: &RunHead| {
        (head.state.clone(), head.head_seq, head.epoch, head.created_at, head.summary.clone())
    };
    Ok((one.as_ref().map(card) != other.as_ref().map(card)).then_some("its card is another"))
}
