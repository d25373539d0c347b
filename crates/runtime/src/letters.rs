//! What letters to runs say, and what becomes of it in their logs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_store::{Letter, Mail, RunId, Sent, Store, StoreError};
use tracing::warn;

use crate::error::RuntimeError;
use crate::event::{RunEvent, Verdict};
use crate::journal::{LETTERS_TAKEN, unwritable};
use crate::run::{Ending, Run};
use crate::shared::Shared;
use crate::stored;

/// The kind of the letters that ask a run to pause.
const PAUSE: &str = "pause";

/// What a letter says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    /// Something was said to the run.
    Signal { name: String, payload: Value, by: String },
    /// A child is over; its log says how, in its event `seq`.
    ChildEnded { child: RunId, seq: u64 },
    /// Somebody wants the run to be put aside once the step under way has ended.
    Pause { by: String, reason: Option<String> },
    /// Somebody says how an interrupted call ended.
    Answer { call_id: String, verdict: Verdict, result: Option<String>, by: String },
}

impl Word {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Signal { .. } => "signal",
            Self::ChildEnded { .. } => "child_ended",
            Self::Pause { .. } => PAUSE,
            Self::Answer { .. } => "answer",
        }
    }

    /// The letter that says it. Of the same `id` only the first is kept.
    pub(crate) fn mail(&self, to: RunId, id: String) -> Result<Mail, serde_json::Error> {
        let body = Bytes::from(serde_json::to_vec(self)?);
        Ok(Mail { to, id, kind: self.kind().to_owned(), body })
    }
}

/// Sends a letter. Once it has returned [`Sent::Kept`], it is on disk and its run is woken.
///
/// # Errors
/// No such run, or the store failed.
pub(crate) async fn send(
    shared: &Shared,
    to: RunId,
    id: String,
    word: &Word,
) -> Result<Sent, RuntimeError> {
    let mail = word.mail(to, id).map_err(unwritable)?;
    let sent = shared.store.send(mail).await?;
    shared.ring(to);
    Ok(sent)
}

/// What the letters to a run come to.
pub(crate) struct Read {
    pub(crate) events: Vec<RunEvent>,
    pub(crate) taken: Vec<i64>,
    /// The last wish that it pause, and all letters that ask for it.
    pub(crate) pause: Option<(RunEvent, Vec<i64>)>,
}

/// Reads letters. One that this release does not understand is taken and told in the log: left lying, it
/// would wake the run for ever.
///
/// # Errors
/// The store failed.
pub(crate) async fn read(store: &dyn Store, letters: Vec<Letter>) -> Result<Read, RuntimeError> {
    let mut read = Read { events: Vec::new(), taken: Vec::new(), pause: None };
    for letter in letters {
        let word = match serde_json::from_slice(&letter.body) {
            Ok(word) => word,
            Err(error) => {
                warn!(id = letter.id, kind = letter.kind, %error, "a letter cannot be read: dropped");
                read.taken.push(letter.number);
                continue;
            }
        };
        match word {
            Word::Signal { name, payload, by } => {
                read.events.push(RunEvent::Signalled { name, payload, by });
                read.taken.push(letter.number);
            }
            Word::ChildEnded { child, seq } => {
                let ending = ending(store, child, seq).await?;
                read.events.push(RunEvent::ChildEnded { child, ending });
                read.taken.push(letter.number);
            }
            Word::Answer { call_id, verdict, result, by } => {
                read.events.push(RunEvent::CallJudged { call_id, verdict, result, by });
                read.taken.push(letter.number);
            }
            Word::Pause { by, reason } => {
                let mut numbers = read.pause.take().map(|pause| pause.1).unwrap_or_default();
                numbers.push(letter.number);
                read.pause = Some((RunEvent::Paused { by, reason }, numbers));
            }
        }
    }
    Ok(read)
}

/// The letters that ask a run to pause, by their numbers.
///
/// # Errors
/// The store failed.
pub(crate) async fn pauses(store: &dyn Store, run: RunId) -> Result<Vec<i64>, RuntimeError> {
    let letters = store.letters(run, LETTERS_TAKEN).await?;
    let asks = letters.into_iter().filter(|letter| letter.kind == PAUSE);
    Ok(asks.map(|letter| letter.number).collect())
}

/// How a run ended, by the event that ended it.
async fn ending(store: &dyn Store, run: RunId, seq: u64) -> Result<Ending, RuntimeError> {
    let last = store.read(run, seq.saturating_sub(1), 1).await?;
    let last = last.first().ok_or(RuntimeError::UnknownRun { run })?;
    match stored::unpack_event(store, last).await? {
        RunEvent::Succeeded { output } => Ok(Ending::Succeeded { output }),
        RunEvent::Failed { stop, message } => Ok(Ending::Failed { stop, message }),
        RunEvent::Cancelled { by, reason } => Ok(Ending::Cancelled { by, reason }),
        other => Err(RuntimeError::Store(StoreError::Damaged {
            what: "the end of a child",
            place: store.describe(),
            problem: format!("event {seq} of run {run} is `{}`", other.kind()),
        })),
    }
}

/// The letter by which a run that is over tells the one that had started it; its event `seq` says how it
/// ended.
pub(crate) fn farewell(run: RunId, seq: u64, parent: RunId) -> Option<Mail> {
    // Its parts are ids and numbers: it can always be written.
    Word::ChildEnded { child: run, seq }.mail(parent, format!("child {run} {seq}")).ok()
}

/// The same, if it is over and has a parent.
pub(crate) fn farewell_of(run: &Run) -> Option<Mail> {
    let parent = run.parent.filter(|_| run.ending.is_some())?;
    farewell(run.id, run.seq, parent)
}
