//! One run's log, held by the node that executes the run: the fold in memory and the appends that
//! move both together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_providers::tool::Progress;
use steadfast_store::{
    Append, Appended, Blob, Disposition, FactWrite, Fence, HeadUpdate, KeySettlement, NewEvent,
    RunHead, RunId, Store, StoreError,
};

use crate::checkpoint::{CheckpointPolicy, LastCheckpoint};
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::folding::{Folded, fold_until};
use crate::letters;
use crate::problems::{Note, Pulse, RunCheck};
use crate::run::{Ending, Run};
use crate::state::Status;
use crate::stored;
use crate::watch::Notices;

/// Letters taken up at once.
pub(crate) const LETTERS_TAKEN: usize = 256;

/// What goes along with events in one transaction.
#[derive(Default)]
pub(crate) struct Along {
    /// Operations that they complete.
    pub(crate) keys: Vec<KeySettlement>,
    /// Letters that they take up.
    pub(crate) taken: Vec<i64>,
}

/// How often an append is tried of which nobody knows whether it has happened.
const APPENDS_TRIED: u32 = 3;

/// A run and the right to append to it.
pub(crate) struct RunJournal {
    store: Arc<dyn Store>,
    notices: Notices,
    policy: CheckpointPolicy,
    last_checkpoint: LastCheckpoint,
    epoch: u64,
    tenant: String,
    session: Option<String>,
    priority: i32,
    run: Run,
    check: RunCheck,
    /// Checkpoints that could not be read and that the log does not know of yet.
    passed_over: Vec<RunEvent>,
    /// Facts that the next append makes true.
    staged: Vec<FactWrite>,
}

impl RunJournal {
    /// Folds the log of a run that was claimed: from the newest checkpoint that can be read, then the
    /// tail.
    ///
    /// # Errors
    /// The store failed, or the log is damaged.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        notices: Notices,
        policy: CheckpointPolicy,
        head: &RunHead,
        check: RunCheck,
    ) -> Result<Self, RuntimeError> {
        let folded = fold_until(store.as_ref(), head.id, u64::MAX).await?;
        let Folded { run, last: last_checkpoint, passed_over } = folded;
        let (epoch, tenant, priority) = (head.epoch, head.tenant.clone(), head.priority);
        let session = head.session.clone();
        Ok(Self {
            store,
            notices,
            policy,
            last_checkpoint,
            epoch,
            tenant,
            session,
            priority,
            run,
            check,
            passed_over,
            staged: Vec::new(),
        })
    }

    /// When something must have happened, for those who look from outside.
    pub(crate) const fn pulse(&self) -> &Arc<Pulse> {
        self.check.pulse()
    }

    /// Says that the run is executed from here on, and which checkpoints could not be read; a new one takes
    /// their place (SCOPE C4).
    ///
    /// # Errors
    /// As [`RunJournal::append_with`].
    pub(crate) async fn begin(&mut self, claimed: RunEvent) -> Result<(), RuntimeError> {
        let told = std::mem::take(&mut self.passed_over);
        self.append(std::iter::once(claimed).chain(told).collect()).await
    }

    /// The store that the log is in.
    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The same, to keep.
    pub(crate) const fn shared_store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Lets facts become true with the next append, in its transaction.
    pub(crate) fn stage(&mut self, facts: Vec<FactWrite>) {
        self.staged.extend(facts);
    }

    /// The run as it is.
    pub(crate) const fn run(&self) -> &Run {
        &self.run
    }

    /// Whose run it is.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The conversation or the like that it belongs to.
    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Higher goes first; 0 is normal.
    pub(crate) const fn priority(&self) -> i32 {
        self.priority
    }

    /// [`RunJournal::append_settling`], with nothing to settle.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn append(&mut self, events: Vec<RunEvent>) -> Result<(), RuntimeError> {
        self.append_settling(events, Vec::new()).await
    }

    /// [`RunJournal::append_with`], and settles the operations that the events complete.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn append_settling(
        &mut self,
        events: Vec<RunEvent>,
        keys: Vec<KeySettlement>,
    ) -> Result<(), RuntimeError> {
        self.append_with(events, Along { keys, ..Along::default() }).await
    }

    /// Takes up the letters that wait for the run: what they say is appended and they are gone, in one
    /// transaction. Whether somebody wants it paused; only with `pausing` is that taken up, too, and the
    /// run is paused.
    ///
    /// # Errors
    /// As [`RunJournal::append_with`].
    pub(crate) async fn take_letters(&mut self, pausing: bool) -> Result<bool, RuntimeError> {
        loop {
            let letters = self.store.letters(self.run.id, LETTERS_TAKEN).await?;
            let full = letters.len() == LETTERS_TAKEN;
            let read = letters::read(self.store.as_ref(), letters).await?;
            let asked = read.pause.is_some();
            let (mut events, mut taken) = (read.events, read.taken);
            if let Some((event, numbers)) = read.pause.filter(|_| pausing) {
                events.push(event);
                taken.extend(numbers);
            }
            let progresses = !taken.is_empty();
            if progresses {
                self.append_with(events, Along { taken, ..Along::default() }).await?;
            }
            if asked || !full || !progresses {
                return Ok(asked);
            }
        }
    }

    /// Takes a checkpoint of the run as it is, unless the last one is that.
    ///
    /// # Errors
    /// As [`RunJournal::append_with`].
    pub(crate) async fn checkpoint(&mut self) -> Result<(), RuntimeError> {
        let seq = self.run.seq;
        if self.last_checkpoint.seq == seq {
            return Ok(());
        }
        let snapshot = stored::pack(&self.run).map_err(unwritable)?;
        let append = Append {
            blobs: snapshot.blobs,
            checkpoint: Some(snapshot.body),
            ..Append::new(self.run.id, Fence::Holding { epoch: self.epoch }, seq)
        };
        let at = self.store.append(append).await?.at;
        self.last_checkpoint = LastCheckpoint { seq, at };
        Ok(())
    }

    /// Folds events in and appends them, with what goes along in the same transaction. Once it has
    /// returned `Ok`, they are on disk. After an error the journal no longer matches the log and must be
    /// dropped; the next claim folds anew.
    ///
    /// # Errors
    /// The store refused: the run was taken over, or has grown by somebody else's hand. Or an event is
    /// not possible now, and nothing was written.
    pub(crate) async fn append_with(
        &mut self,
        events: Vec<RunEvent>,
        along: Along,
    ) -> Result<(), RuntimeError> {
        let Along { keys, taken } = along;
        let expected_seq = self.run.seq;
        let provisional = self.store.now();
        let has_result = events.iter().any(brings_result);
        let mut face_changes = events.iter().any(changes_face);
        let step_ended = events.iter().any(|event| {
            matches!(event, RunEvent::Progressed { .. } | RunEvent::CheckpointPassedOver { .. })
        });
        let mut largest = Largest::default();
        let mut packed = Vec::with_capacity(events.len());
        let mut blobs = Vec::new();
        for (seq, event) in (expected_seq + 1..).zip(&events) {
            let (stored, more) = stored::pack_event(event).map_err(unwritable)?;
            largest.meet(seq, event, &stored, &more);
            packed.push(stored);
            blobs.extend(more);
        }
        self.run.apply_ahead(provisional, events)?;
        let due = self.policy.due(self.last_checkpoint, self.run.seq, provisional, step_ended);
        let mut checkpoint = None;
        if due {
            let snapshot = stored::pack(&self.run).map_err(unwritable)?;
            blobs.extend(snapshot.blobs);
            checkpoint = Some(snapshot.body);
        }
        let found = self.check.look(&self.run, provisional, has_result);
        face_changes |= self.check.is_news(found.as_ref());
        let head = if face_changes { Some(face_with(&self.run, found.as_ref())?) } else { None };
        let facts = std::mem::take(&mut self.staged);
        let appended = self
            .append_surely(Append {
                events: packed,
                blobs,
                checkpoint,
                head,
                keys,
                taken,
                mail: letters::farewell_of(&self.run).into_iter().collect(),
                facts,
                ..Append::new(self.run.id, Fence::Holding { epoch: self.epoch }, expected_seq)
            })
            .await
            .map_err(|error| largest.named(error))?;
        if due {
            self.last_checkpoint = LastCheckpoint { seq: appended.head_seq, at: appended.at };
        }
        self.run.settle(appended.at);
        self.check.appended(face_changes.then_some(found));
        self.notices.publish(self.run.id, appended.head_seq);
        Ok(())
    }
}

/// The largest of the events that are appended together, for the message if it is too large.
#[derive(Default)]
struct Largest {
    seq: u64,
    what: String,
    size_bytes: usize,
}

impl Largest {
    fn meet(&mut self, seq: u64, event: &RunEvent, stored: &NewEvent, blobs: &[Blob]) {
        let blobs = blobs.iter().map(|blob| blob.bytes.len()).max().unwrap_or(0);
        let size_bytes = stored.body.len().max(blobs);
        if size_bytes >= self.size_bytes {
            let what = match event {
                RunEvent::ToolFinished { tool, .. } => format!("the result of tool `{tool}`"),
                RunEvent::StepFinished { step, .. } => format!("the result of step `{step}`"),
                RunEvent::ModelAnswered { model, .. } => format!("the answer of model `{model}`"),
                other => format!("`{}`", other.kind()),
            };
            *self = Self { seq, what, size_bytes };
        }
    }

    /// The store's refusal, with the name of the step.
    fn named(self, error: StoreError) -> RuntimeError {
        match error {
            StoreError::TooLarge { run, what, size_bytes, limit_bytes } => {
                let what = match what {
                    "checkpoint" | "summary" => format!("the {what} of the run"),
                    _ => self.what,
                };
                RuntimeError::TooLarge { run, seq: self.seq, what, size_bytes, limit_bytes }
            }
            error => error.into(),
        }
    }
}

impl RunJournal {
    /// Appends; when the store was away and nobody knows what came of it, looks and goes on from there.
    /// Under this epoch only this journal appends: the log has grown by this append, or not at all.
    async fn append_surely(&self, append: Append) -> Result<Appended, StoreError> {
        let (before, after) =
            (append.expected_seq, append.expected_seq + append.events.len() as u64);
        let mut attempts = 1;
        loop {
            let error = match self.store.append(append.clone()).await {
                Err(error @ StoreError::Unavailable { .. }) if attempts < APPENDS_TRIED => error,
                outcome => return outcome,
            };
            attempts += 1;
            let head = self.store.head(append.run).await?;
            let Some(head) = head.filter(|head| head.epoch == self.epoch) else {
                return Err(error);
            };
            if head.head_seq == after && after > before {
                let last = self.store.read(append.run, after - 1, 1).await?;
                let at = last.first().map_or(head.updated_at, |event| event.at);
                return Ok(Appended { head_seq: after, epoch: self.epoch, at });
            }
        }
    }
}

/// What lists show of a run beside its state. Stored with the index card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The beginning of the input.
    pub input: String,
    /// Where it stands, if a tool reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Model answers so far.
    pub iterations: u32,
    /// Input tokens so far.
    pub input_tokens: u64,
    /// Output tokens so far.
    pub output_tokens: u64,
    /// The last model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether any answer was scripted.
    #[serde(default)]
    pub simulated: bool,
    /// Answers and results that something else stood in for.
    #[serde(default)]
    pub degraded: u32,
    /// The beginning of the answer, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
    /// Why it stopped, as one word, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// What is wrong with it, if its own log shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Note>,
    /// The run that it is a fork of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<RunId>,
}

/// Longest excerpt on an index card, in bytes.
const EXCERPT_BYTES_MAX: usize = 240;

/// The summary of a run that was just submitted.
pub(crate) fn first_summary(input: &str) -> Result<bytes::Bytes, RuntimeError> {
    let summary = Summary { input: excerpt(input), ..Summary::default() };
    Ok(serde_json::to_vec(&summary).map_err(unwritable)?.into())
}

/// The index card of a run as it is after a command: whatever was wrong with it, a person has seen to it.
pub(crate) fn face(run: &Run) -> Result<HeadUpdate, RuntimeError> {
    face_with(run, None)
}

/// The index card of a run as it is, and what is wrong with it.
fn face_with(run: &Run, problem: Option<&Note>) -> Result<HeadUpdate, RuntimeError> {
    let (ending, stop) = match &run.ending {
        None => (None, None),
        Some(Ending::Succeeded { output }) => (Some(excerpt(output)), None),
        Some(Ending::Failed { stop, message }) => {
            (Some(excerpt(message)), Some(stop.as_str().to_owned()))
        }
        Some(Ending::Cancelled { by, reason }) => {
            let reason = reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            (Some(excerpt(&format!("cancelled by {by}{reason}"))), None)
        }
    };
    let summary = Summary {
        input: excerpt(&run.input),
        progress: run.progress.clone(),
        iterations: run.iterations,
        input_tokens: run.usage.input_total(),
        output_tokens: run.usage.output.unwrap_or(0),
        model: run.model.clone(),
        simulated: run.simulated,
        degraded: run.degraded,
        ending,
        stop,
        problem: problem.cloned(),
        forked_from: run.origin.as_ref().map(|origin| origin.run),
    };
    let disposition = match run.status {
        Status::Queued => Disposition::Ready,
        Status::Running => Disposition::Held,
        Status::Waiting => Disposition::Parked { wake_at: run.wake_at },
        Status::Paused => Disposition::Paused,
        Status::Succeeded | Status::Failed | Status::Cancelled => Disposition::Ended,
    };
    Ok(HeadUpdate {
        state: run.status.as_str().to_owned(),
        disposition,
        problem: problem.map(|note| note.problem.clone()),
        summary: serde_json::to_vec(&summary).map_err(unwritable)?.into(),
    })
}

fn excerpt(text: &str) -> String {
    if text.len() <= EXCERPT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)])
}

/// Whether an event changes what lists show. Answers and results do not: their counts are brought up
/// to date by the next event that does, so that most appends touch no more than they must.
const fn changes_face(event: &RunEvent) -> bool {
    match event {
        RunEvent::Submitted { .. }
        | RunEvent::Claimed { .. }
        | RunEvent::Progressed { .. }
        | RunEvent::Parked { .. }
        | RunEvent::Paused { .. }
        | RunEvent::Resumed { .. }
        | RunEvent::Cancelling { .. }
        | RunEvent::Forked { .. }
        | RunEvent::RolledBack { .. }
        | RunEvent::Cancelled { .. }
        | RunEvent::Succeeded { .. }
        | RunEvent::Failed { .. } => true,
        RunEvent::ModelAnswered { .. }
        | RunEvent::ToolStarted { .. }
        | RunEvent::ToolFinished { .. }
        | RunEvent::StepStarted { .. }
        | RunEvent::StepFinished { .. }
        | RunEvent::Signalled { .. }
        | RunEvent::Heard { .. }
        | RunEvent::StepsUnmet { .. }
        | RunEvent::Undone { .. }
        | RunEvent::ChildEnded { .. }
        | RunEvent::CheckpointPassedOver { .. }
        | RunEvent::CallJudged { .. } => false,
    }
}

/// Whether calls may repeat from here on, or no more; a claim finds out anew.
const fn brings_result(event: &RunEvent) -> bool {
    matches!(event, RunEvent::ToolFinished { .. } | RunEvent::Claimed { .. })
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
pub(crate) fn unwritable(error: serde_json::Error) -> RuntimeError {
    RuntimeError::InvalidInput { problem: format!("cannot be written as JSON: {error}") }
}
