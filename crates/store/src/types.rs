//! What is written to a store, and what is read from it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Blob, FactWrite, KeySettlement, Mail, NodeId, RunId, Timestamp};

/// An event before it has a place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What kind of event; a stable word.
    pub kind: Cow<'static, str>,
    /// The version of the body's format, so that an old log can be read by newer code.
    pub version: u16,
    /// The body, opaque here.
    pub body: Bytes,
}

/// An event in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the run's log: 1, 2, 3, ... without holes.
    pub seq: u64,
    /// When it was committed, by the store's clock.
    pub at: Timestamp,
    /// What kind of event.
    pub kind: String,
    /// The version of the body's format.
    pub version: u16,
    /// The body.
    pub body: Bytes,
}

/// A folded prefix of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last event that is folded in. Newer means larger, as a number (SCOPE C3).
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// The snapshot, opaque here.
    pub body: Bytes,
}

/// What the scheduler may do with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Any node may claim it.
    Ready,
    /// Its owner executes it; others may claim it only once the owner's lease has expired.
    Held,
    /// Nobody executes it until the wake-up time, if there is one.
    Parked {
        /// When it becomes claimable by itself.
        wake_at: Option<Timestamp>,
    },
    /// Nobody executes it, whatever arrives for it, until an append that seizes it says otherwise.
    Paused,
    /// It is over and is never claimed again.
    Ended,
}

/// A run's index card: what lists and schedulers need without reading its log. `tenant`, `agent`,
/// `state` and `summary` are labels that the store keeps and filters by, but does not interpret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// The run.
    pub id: RunId,
    /// Whose run it is.
    pub tenant: String,
    /// What executes it.
    pub agent: String,
    /// Its state, as one word.
    pub state: String,
    /// What the scheduler may do with it.
    pub disposition: Disposition,
    /// Higher goes first. 0 is normal.
    pub priority: i32,
    /// Rises with every change of owner; an append under an older one is refused.
    pub epoch: u64,
    /// The node that holds it, while it is held.
    pub owner: Option<NodeId>,
    /// The sequence number of its last event.
    pub head_seq: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its log last grew, its card was updated or its owner changed.
    pub updated_at: Timestamp,
    /// The conversation or the like that it belongs to.
    pub session: Option<String>,
    /// Words that people find it by.
    pub tags: Vec<String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// What is wrong with it, as one word, while it goes on or after it has ended.
    pub problem: Option<String>,
    /// Whatever lists show beside it.
    pub summary: Bytes,
}

/// A run to be created. It starts with epoch 0 and no owner.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Whose run it is.
    pub tenant: String,
    /// What executes it.
    pub agent: String,
    /// Higher goes first.
    pub priority: i32,
    /// A key that makes creating it idempotent within the tenant.
    pub key: Option<String>,
    /// The conversation or the like that it belongs to.
    pub session: Option<String>,
    /// Words that people find it by.
    pub tags: Vec<String>,
    /// The run that starts it.
    pub parent: Option<RunId>,
    /// What a search looks through; of a longer one the first [`TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// Its first events.
    pub events: Vec<NewEvent>,
    /// Blobs that the events refer to.
    pub blobs: Vec<Blob>,
    /// Its first state.
    pub head: HeadUpdate,
}

/// How much of a run's text a search looks through, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;

impl NewRun {
    /// A run of an agent for a tenant, under a new id, with nothing else said of it.
    #[must_use]
    pub fn new(tenant: String, agent: String, events: Vec<NewEvent>, head: HeadUpdate) -> Self {
        Self {
            id: RunId::generate(),
            tenant,
            agent,
            priority: 0,
            key: None,
            session: None,
            tags: Vec::new(),
            parent: None,
            text: String::new(),
            events,
            blobs: Vec::new(),
            head,
        }
    }

    /// The part of the text that is searched.
    pub(crate) fn searched(&self) -> &str {
        &self.text[..self.text.floor_char_boundary(TEXT_BYTES_MAX)]
    }
}

/// What [`Journal::create`](crate::Journal::create) did.
#[derive(Clone, Debug)]
pub enum Created {
    /// The run is new and on disk.
    New(RunHead),
    /// The tenant has used the key before; this is that run.
    Existing(RunHead),
}

/// The new face of an index card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadUpdate {
    /// The state, as one word.
    pub state: String,
    /// What the scheduler may do with the run. Anything but [`Disposition::Held`] gives up ownership.
    /// A run that is parked while mail waits for it becomes ready instead, in the same transaction.
    pub disposition: Disposition,
    /// What is wrong with the run, as one word.
    pub problem: Option<String>,
    /// Whatever lists show beside it.
    pub summary: Bytes,
}

/// By what right an append is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The caller holds the run under this epoch; refused if the run has moved on.
    Holding {
        /// The epoch of the claim.
        epoch: u64,
    },
    /// The caller takes the run from whoever holds it: the epoch rises by one in the same
    /// transaction, which fences the owner. Commands (cancel, resume) use it. The append's head
    /// update must not be [`Disposition::Held`].
    Seize,
}

/// One atomic addition to a run's log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The run.
    pub run: RunId,
    /// By what right.
    pub fence: Fence,
    /// The last event that the caller knows; refused if the log has grown since.
    pub expected_seq: u64,
    /// The events, in order. May be empty if something else is to be written.
    pub events: Vec<NewEvent>,
    /// Blobs to keep; those that are there already cost nothing. A blob stays as long as a run that it
    /// was handed over with: whoever repeats a reference hands the blob over again.
    pub blobs: Vec<Blob>,
    /// A snapshot of the state after these events; the oldest beyond
    /// [`CHECKPOINTS_KEPT`](crate::CHECKPOINTS_KEPT) is dropped.
    pub checkpoint: Option<Bytes>,
    /// The new face of the index card, if it changes.
    pub head: Option<HeadUpdate>,
    /// Idempotency keys whose operation these events complete.
    pub keys: Vec<KeySettlement>,
    /// Letters to other runs, sent with these events or not at all.
    pub mail: Vec<Mail>,
    /// Letters of this run that these events have taken up, by their numbers: they are not shown again.
    pub taken: Vec<i64>,
    /// Facts that become true with these events.
    pub facts: Vec<FactWrite>,
}

impl Append {
    /// An append that writes nothing yet.
    #[must_use]
    pub const fn new(run: RunId, fence: Fence, expected_seq: u64) -> Self {
        Self {
            run,
            fence,
            expected_seq,
            events: Vec::new(),
            blobs: Vec::new(),
            checkpoint: None,
            head: None,
            keys: Vec::new(),
            mail: Vec::new(),
            taken: Vec::new(),
            facts: Vec::new(),
        }
    }
}

/// Where an append ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The last event's sequence number.
    pub head_seq: u64,
    /// The run's epoch now.
    pub epoch: u64,
    /// The time that the events carry.
    pub at: Timestamp,
}

/// Which runs a list shows.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this agent's.
    pub agent: Option<String>,
    /// Only in one of these states; empty means any.
    pub states: Vec<String>,
    /// Only of this session.
    pub session: Option<String>,
    /// Only with this tag.
    pub tag: Option<String>,
    /// Only those that this run started.
    pub parent: Option<RunId>,
    /// Only with one of these problems.
    pub problems: Vec<String>,
    /// Only with any problem at all.
    pub any_problem: bool,
    /// Only created at or after this time.
    pub since: Option<Timestamp>,
    /// Only created before this time.
    pub until: Option<Timestamp>,
    /// Only whose text holds every one of these words, anywhere and in any case of ASCII letters.
    pub text: Vec<String>,
    /// Only runs older than this one: the cursor that the page before ended with.
    pub before: Option<RunId>,
    /// Rows on a page; 0 means 50, and more than 500 means 500.
    pub limit: usize,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The rows, newest run first.
    pub runs: Vec<RunHead>,
    /// The cursor of the next page; `None` on the last.
    pub next: Option<RunId>,
}

impl RunFilter {
    /// Rows on a page, with the default and the limit applied.
    pub(crate) fn page_size(&self) -> usize {
        match self.limit {
            0 => 50,
            limit => limit.min(500),
        }
    }
}

impl Page {
    /// A page of at most `limit` of these rows; one row more tells that there is a next page.
    pub(crate) fn cut(mut runs: Vec<RunHead>, limit: usize) -> Self {
        let more = runs.len() > limit;
        runs.truncate(limit);
        let next = runs.last().filter(|_| more).map(|head| head.id);
        Self { runs, next }
    }
}

/// What other nodes have done to a store that several nodes share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// A run may have become ready to be claimed.
    pub ready: bool,
    /// Runs whose logs have grown, with the last event that was told of.
    pub grown: BTreeMap<RunId, u64>,
    /// More logs may have grown than are named here.
    pub missed: bool,
}

impl Changes {
    /// Takes others in.
    pub(crate) fn merge(&mut self, other: Self) {
        self.ready |= other.ready;
        self.missed |= other.missed;
        for (run, seq) in other.grown {
            let known = self.grown.entry(run).or_default();
            *known = seq.max(*known);
        }
    }
}
