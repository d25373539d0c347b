//! One run's log, held by the node that executes the run: the fold in memory and the appends that
//! move both together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_providers::tool::Progress;
use steadfast_store::{
    Append, Disposition, FactWrite, Fence, HeadUpdate, KeySettlement, RunHead, RunId, Store,
    StoreError, Timestamp,
};
use tracing::warn;

use crate::checkpoint::{CheckpointPolicy, LastCheckpoint};
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::problems::{Note, Pulse, RunCheck};
use crate::run::{Ending, Run};
use crate::state::Status;
use crate::stored;
use crate::watch::Notices;

/// Events read from the store at once while folding.
const READ_PAGE: usize = 512;

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
        let (run, last_checkpoint) = fold(store.as_ref(), head.id).await?;
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
            staged: Vec::new(),
        })
    }

    /// When something must have happened, for those who look from outside.
    pub(crate) const fn pulse(&self) -> &Arc<Pulse> {
        self.check.pulse()
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

    /// The conversation or the like that the run belongs to.
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

    /// Folds events in and appends them, and settles the operations that they complete, together. Once it has returned `Ok`, they are on disk. After an error
    /// the journal no longer matches the log and must be dropped; the next claim folds anew.
    ///
    /// # Errors
    /// The store refused: the run was taken over, or has grown by somebody else's hand. Or an event is
    /// not possible now, and nothing was written.
    pub(crate) async fn append_settling(
        &mut self,
        events: Vec<RunEvent>,
        keys: Vec<KeySettlement>,
    ) -> Result<(), RuntimeError> {
        let expected_seq = self.run.seq;
        let provisional = self.store.now();
        let has_result = events.iter().any(brings_result);
        let mut face_changes = events.iter().any(changes_face);
        let step_ended = events.iter().any(|event| matches!(event, RunEvent::Progressed { .. }));
        let mut packed = Vec::with_capacity(events.len());
        let mut blobs = Vec::new();
        for event in events {
            let (stored, more) = stored::pack_event(&event).map_err(unwritable)?;
            packed.push(stored);
            blobs.extend(more);
            self.run.apply(self.run.seq + 1, provisional, event)?;
        }
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
        let appended = self
            .store
            .append(Append {
                events: packed,
                blobs,
                checkpoint,
                head,
                keys,
                facts: std::mem::take(&mut self.staged),
                ..Append::new(self.run.id, Fence::Holding { epoch: self.epoch }, expected_seq)
            })
            .await?;
        if due {
            self.last_checkpoint = LastCheckpoint { seq: appended.head_seq, at: appended.at };
        }
        self.run.updated_at = appended.at;
        self.check.appended(face_changes.then_some(found));
        self.notices.publish(self.run.id, appended.head_seq);
        Ok(())
    }
}

/// Folds a run's log, beginning with the newest checkpoint that can be read. A damaged checkpoint is
/// passed over for the one before it, and said so in the log (SCOPE C4).
///
/// # Errors
/// The store failed, there is no such run, or its log is damaged.
pub(crate) async fn fold(
    store: &dyn Store,
    id: RunId,
) -> Result<(Run, LastCheckpoint), RuntimeError> {
    let mut start = None;
    for checkpoint in store.checkpoints(id).await? {
        match stored::unpack::<Run>(store, "a checkpoint", &checkpoint.body).await {
            Ok(run) if run.seq == checkpoint.seq && run.id == id => {
                start = Some((run, LastCheckpoint { seq: checkpoint.seq, at: checkpoint.at }));
                break;
            }
            Ok(_) => {
                warn!(run = %id, seq = checkpoint.seq, "checkpoint is misplaced; trying the one before");
            }
            Err(StoreError::Unavailable { place, problem }) => {
                return Err(StoreError::Unavailable { place, problem }.into());
            }
            Err(error) => {
                warn!(run = %id, seq = checkpoint.seq, %error, "checkpoint is damaged; trying the one before");
            }
        }
    }
    let (mut run, last) = match start {
        Some((run, last)) => (Some(run), last),
        None => (None, LastCheckpoint { seq: 0, at: Timestamp::default() }),
    };
    loop {
        let after = run.as_ref().map_or(0, |run: &Run| run.seq);
        let page = store.read(id, after, READ_PAGE).await?;
        let full = page.len() == READ_PAGE;
        for stored in page {
            let event = stored::unpack_event(store, &stored).await?;
            match run.as_mut() {
                Some(run) => run.apply(stored.seq, stored.at, event)?,
                None => run = Some(Run::begin(id, stored.at, &event)?),
            }
        }
        if !full {
            break;
        }
    }
    let run = run.ok_or(RuntimeError::UnknownRun { run: id })?;
    // Without a checkpoint the 300 s count from the submission.
    let last = if last.seq == 0 { LastCheckpoint { seq: 0, at: run.submitted_at } } else { last };
    Ok((run, last))
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
    };
    let disposition = match run.status {
        Status::Queued => Disposition::Ready,
        Status::Running => Disposition::Held,
        Status::Waiting => Disposition::Parked { wake_at: run.wake_at },
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
        | RunEvent::Resumed { .. }
        | RunEvent::Cancelled { .. }
        | RunEvent::Succeeded { .. }
        | RunEvent::Failed { .. } => true,
        RunEvent::ModelAnswered { .. }
        | RunEvent::ToolStarted { .. }
        | RunEvent::ToolFinished { .. }
        | RunEvent::StepStarted { .. }
        | RunEvent::StepFinished { .. } => false,
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
