//! One run's log, held by the node that executes the run: the fold in memory and the appends that
//! move both together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_providers::tool::Progress;
use steadfast_store::{
    Append, Disposition, FactWrite, Fence, HeadUpdate, KeySettlement, RunHead, RunId, Store,
};

use crate::checkpoint::{CheckpointPolicy, LastCheckpoint};
use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::folding::{Folded, fold_until};
use crate::letters;
use crate::run::{Ending, Run};
use crate::state::Status;
use crate::stored;
use crate::watch::Notices;

/// Letters taken up at once.
const LETTERS_TAKEN: usize = 256;

/// What goes along with events in one transaction.
#[derive(Default)]
pub(crate) struct Along {
    /// Operations that they complete.
    pub(crate) keys: Vec<KeySettlement>,
    /// Letters that they take up.
    pub(crate) taken: Vec<i64>,
    /// Facts that become true with them.
    pub(crate) facts: Vec<FactWrite>,
}

/// A run and the right to append to it.
pub(crate) struct RunJournal {
    store: Arc<dyn Store>,
    notices: Notices,
    policy: CheckpointPolicy,
    last_checkpoint: LastCheckpoint,
    epoch: u64,
    tenant: String,
    priority: i32,
    run: Run,
    /// Checkpoints that could not be read and that the log does not know of yet.
    passed_over: Vec<RunEvent>,
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
    ) -> Result<Self, RuntimeError> {
        let folded = fold_until(store.as_ref(), head.id, u64::MAX).await?;
        let Folded { run, last: last_checkpoint, passed_over } = folded;
        let (epoch, tenant, priority) = (head.epoch, head.tenant.clone(), head.priority);
        Ok(Self {
            store,
            notices,
            policy,
            last_checkpoint,
            epoch,
            tenant,
            priority,
            run,
            passed_over,
        })
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

    /// The run as it is.
    pub(crate) const fn run(&self) -> &Run {
        &self.run
    }

    /// Whose run it is.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
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
        let letters = self.store.letters(self.run.id, LETTERS_TAKEN).await?;
        let read = letters::read(self.store.as_ref(), letters).await?;
        let asked = read.pause.is_some();
        let (mut events, mut taken) = (read.events, read.taken);
        if let Some((event, numbers)) = read.pause.filter(|_| pausing) {
            events.push(event);
            taken.extend(numbers);
        }
        if !taken.is_empty() {
            self.append_with(events, Along { taken, ..Along::default() }).await?;
        }
        Ok(asked)
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
        let Along { keys, taken, facts } = along;
        let expected_seq = self.run.seq;
        let provisional = self.store.now();
        let face_changes = events.iter().any(changes_face);
        let step_ended = events.iter().any(|event| {
            matches!(event, RunEvent::Progressed { .. } | RunEvent::CheckpointPassedOver { .. })
        });
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
        let head = if face_changes { Some(face(&self.run)?) } else { None };
        let appended = self
            .store
            .append(Append {
                events: packed,
                blobs,
                checkpoint,
                head,
                keys,
                taken,
                facts,
                mail: letters::farewell_of(&self.run).into_iter().collect(),
                ..Append::new(self.run.id, Fence::Holding { epoch: self.epoch }, expected_seq)
            })
            .await?;
        if due {
            self.last_checkpoint = LastCheckpoint { seq: appended.head_seq, at: appended.at };
        }
        self.run.updated_at = appended.at;
        self.notices.publish(self.run.id, appended.head_seq);
        Ok(())
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

/// The index card of a run as it is.
pub(crate) fn face(run: &Run) -> Result<HeadUpdate, RuntimeError> {
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
        problem: None,
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
        | RunEvent::ChildEnded { .. }
        | RunEvent::CheckpointPassedOver { .. }
        | RunEvent::CallJudged { .. } => false,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
pub(crate) fn unwritable(error: serde_json::Error) -> RuntimeError {
    RuntimeError::InvalidInput { problem: format!("cannot be written as JSON: {error}") }
}
