//! Everything that a store holds, as records that no backend is to be seen in: to be kept elsewhere, or
//! to be taken up by another store.
//!
//! What is not in it: leases and nodes (a run that was held becomes ready), whose turn it is among the
//! tenants, and the store's own name: two stores of one name would take each other's child processes for
//! their own.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::books::{self, OpenHold};
use crate::{
    Account, Amounts, BlobHash, Disposition, Entry, EntryId, EntryKind, RunHead, RunId, StoreError,
    Timestamp, VALUE_BYTES_MAX, rules,
};

/// Records that [`Dump::next`] gives at once, at most.
pub(crate) const PAGE_RECORDS: usize = 512;

/// Bytes of bodies from which [`Dump::next`] gives no further record (4 MiB).
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// One thing that a store holds. In this order in an archive, so that whatever a record refers to has
/// come before it. As JSON a body is a string if it is UTF-8, and `{"base64": "..."}` if it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A run's card, its key and its text.
    Run(Box<RunRecord>),
    /// An event in its place; those of one run in order.
    Event {
        /// The run.
        run: RunId,
        /// Its place in the log.
        seq: u64,
        /// When it was committed.
        at: Timestamp,
        /// What kind of event.
        kind: String,
        /// The version of the body's format.
        version: u16,
        /// The body.
        #[serde(with = "body")]
        body: Bytes,
    },
    /// A folded prefix of a log.
    Checkpoint {
        /// The run.
        run: RunId,
        /// The last event that is folded in.
        seq: u64,
        /// When it was taken.
        at: Timestamp,
        /// The snapshot.
        #[serde(with = "body")]
        body: Bytes,
    },
    /// Bytes that are stored once.
    Blob {
        /// Their hash.
        #[serde(with = "text")]
        hash: BlobHash,
        /// The bytes.
        #[serde(with = "body")]
        body: Bytes,
    },
    /// A run refers to a blob.
    BlobUse {
        /// The run; none for a blob that is kept for good, because a store of an early release held it.
        run: Option<RunId>,
        /// The blob.
        #[serde(with = "text")]
        hash: BlobHash,
    },
    /// A letter that waits.
    Letter {
        /// The run that it is for.
        run: RunId,
        /// Its number in the store; those of one run in order.
        number: i64,
        /// Its name.
        id: String,
        /// What kind of letter.
        kind: String,
        /// When it was sent.
        at: Timestamp,
        /// What it says.
        #[serde(with = "body")]
        body: Bytes,
    },
    /// A letter that was taken up: its name stays known.
    LetterTaken {
        /// The run that it was for.
        run: RunId,
        /// Its name.
        id: String,
    },
    /// A fact.
    Fact {
        /// Whose it is.
        scope: String,
        /// Its key.
        key: String,
        /// How often it was written.
        version: u64,
        /// When it was last written.
        at: Timestamp,
        /// When it ends to hold.
        expires_at: Option<Timestamp>,
        /// Its value.
        #[serde(with = "body")]
        value: Bytes,
    },
    /// An operation that is done once.
    Operation {
        /// Within what the key is unique.
        scope: String,
        /// The key.
        key: String,
        /// The hash of what it is done with.
        #[serde(with = "text")]
        digest: BlobHash,
        /// Who claimed it.
        owner: String,
        /// On which node.
        node: String,
        /// Since when.
        since: Timestamp,
        /// The recorded answer; none while it is not settled.
        answer: Option<AnswerRecord>,
    },
    /// An account. What it holds is not in it: that is the sum of the holds that follow.
    Account {
        /// Its name and period.
        account: Account,
        /// What has been settled.
        spent: Amounts,
        /// How many settlements it has.
        entries: u64,
        /// When it was last changed.
        at: Timestamp,
    },
    /// An amount that is held, or was charged in full and may still be put right.
    Hold {
        /// Its name.
        id: EntryId,
        /// How much.
        amounts: Amounts,
        /// The accounts that it is held on.
        limited: Vec<Account>,
        /// Accounts that are charged, too.
        tallies: Vec<Account>,
        /// Whether it has been charged in full.
        charged: bool,
        /// When it is charged in full; once it has been, when it is forgotten.
        expires_at: Timestamp,
        /// What its entry is found by.
        subject: Option<String>,
        /// The record of its entry.
        #[serde(with = "body")]
        body: Bytes,
    },
    /// What was charged once.
    Entry {
        /// Its name.
        id: EntryId,
        /// When it was charged, or last put right.
        at: Timestamp,
        /// How it came to be.
        kind: EntryKind,
        /// What it is found by.
        subject: Option<String>,
        /// How much.
        amounts: Amounts,
        /// Its record.
        #[serde(with = "body")]
        body: Bytes,
    },
}

/// A recorded answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// When it was recorded.
    pub at: Timestamp,
    /// When the key is free again.
    pub expires_at: Timestamp,
    /// The answer.
    #[serde(with = "body")]
    pub body: Bytes,
}

/// A run, without its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// Whose run it is.
    pub tenant: String,
    /// What executes it.
    pub agent: String,
    /// The key of its submission.
    pub key: Option<String>,
    /// Its state.
    pub state: String,
    /// What the scheduler may do with it; never [`Disposition::Held`].
    pub disposition: Disposition,
    /// Its place in the line, if it is ready: the smallest goes first.
    pub rank: Option<i64>,
    /// Higher goes first.
    pub priority: i32,
    /// Its epoch.
    pub epoch: u64,
    /// The sequence number of its last event.
    pub head_seq: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its card last changed.
    pub updated_at: Timestamp,
    /// The conversation or the like that it belongs to.
    pub session: Option<String>,
    /// Words that people find it by.
    pub tags: Vec<String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What a search looks through.
    pub text: String,
    /// Whatever lists show beside it.
    #[serde(with = "body")]
    pub summary: Bytes,
}

impl RunRecord {
    /// A run from its card: one that was held becomes ready, at the place that it had.
    pub(crate) fn new(head: RunHead, key: Option<String>, text: String, rank: Option<i64>) -> Self {
        let (disposition, rank) = match head.disposition {
            Disposition::Held | Disposition::Ready => (Disposition::Ready, rank),
            other => (other, None),
        };
        Self {
            id: head.id,
            tenant: head.tenant,
            agent: head.agent,
            key,
            state: head.state,
            disposition,
            rank,
            priority: head.priority,
            epoch: head.epoch,
            head_seq: head.head_seq,
            created_at: head.created_at,
            updated_at: head.updated_at,
            session: head.session,
            tags: head.tags,
            parent: head.parent,
            problem: head.problem,
            text,
            summary: head.summary,
        }
    }

    /// The card, the key, the text and the place in the line.
    pub(crate) fn into_parts(self) -> (RunHead, Option<String>, String, i64) {
        let rank = self.rank.unwrap_or_else(|| crate::turns::rank(self.updated_at, self.priority));
        let head = RunHead {
            id: self.id,
            tenant: self.tenant,
            agent: self.agent,
            state: self.state,
            disposition: self.disposition,
            priority: self.priority,
            epoch: self.epoch,
            owner: None,
            head_seq: self.head_seq,
            created_at: self.created_at,
            updated_at: self.updated_at,
            session: self.session,
            tags: self.tags,
            parent: self.parent,
            problem: self.problem,
            summary: self.summary,
        };
        (head, self.key, self.text, rank)
    }
}

/// A hold that names an account which has not come before it.
pub(crate) const NO_ACCOUNT: StoreError =
    rules::misuse("a hold of the archive is on an account that has not come before it");

impl Record {
    /// A hold as a record.
    pub(crate) fn hold(
        id: EntryId,
        open: OpenHold,
        expires_at: Timestamp,
        subject: Option<String>,
        body: Bytes,
    ) -> Self {
        let OpenHold { amounts, limited, tallies, is_charged: charged } = open;
        Self::Hold { id, amounts, limited, tallies, charged, expires_at, subject, body }
    }

    /// An entry as a record.
    pub(crate) fn entry(entry: Entry) -> Self {
        let Entry { id, at, kind, subject, amounts, body } = entry;
        Self::Entry { id, at, kind, subject, amounts, body }
    }

    /// What kind of record, as the word that its JSON has.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Event { .. } => "event",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Blob { .. } => "blob",
            Self::BlobUse { .. } => "blob_use",
            Self::Letter { .. } => "letter",
            Self::LetterTaken { .. } => "letter_taken",
            Self::Fact { .. } => "fact",
            Self::Operation { .. } => "operation",
            Self::Account { .. } => "account",
            Self::Hold { .. } => "hold",
            Self::Entry { .. } => "entry",
        }
    }

    /// The bytes of its body.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Run(run) => run.summary.len() + run.text.len(),
            Self::Event { body, .. }
            | Self::Checkpoint { body, .. }
            | Self::Blob { body, .. }
            | Self::Letter { body, .. }
            | Self::Entry { body, .. } => body.len(),
            Self::Hold { limited, tallies, body, .. } => {
                let names = limited.iter().chain(tallies).map(|account| account.name.len());
                body.len() + names.sum::<usize>()
            }
            Self::Fact { value, .. } => value.len(),
            Self::Operation { answer, .. } => answer.as_ref().map_or(0, |answer| answer.body.len()),
            Self::BlobUse { .. } | Self::LetterTaken { .. } | Self::Account { .. } => 0,
        }
    }

    /// What of a record can be refused without looking at the store.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.size_bytes() > VALUE_BYTES_MAX {
            return Err(rules::misuse("a record is larger than the store keeps (64 MiB)"));
        }
        match self {
            Self::Blob { hash, body } if BlobHash::of(body) != *hash => {
                Err(StoreError::Corrupt { hash: *hash })
            }
            Self::Run(run) if run.disposition == Disposition::Held => {
                Err(rules::misuse("a run of an archive has no owner"))
            }
            Self::Account { account, .. } => books::check_accounts([account].into_iter()),
            Self::Hold { amounts, limited, tallies, body, .. } => {
                books::check_accounts(limited.iter().chain(tallies))?;
                books::check_amounts(*amounts, body.len())
            }
            Self::Entry { amounts, body, .. } => books::check_amounts(*amounts, body.len()),
            _ => Ok(()),
        }
    }
}

/// Giving everything out, and taking everything in.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Begins to read everything as it is at this moment; what is written later is not in it. While it is
    /// read, others write; a store in a file cannot tidy its log away until the dump is dropped.
    ///
    /// # Errors
    /// The medium failed.
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError>;

    /// Begins to take records into this store, which must hold nothing. Nobody else may write to it until
    /// that has ended. If it is dropped before [`Restore::finish`], or the process dies, the store still
    /// holds nothing.
    ///
    /// # Errors
    /// [`StoreError::Occupied`] if there is anything in it; or the medium failed.
    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError>;
}

/// Everything in a store, piece by piece.
#[async_trait]
pub trait Dump: Send {
    /// The next records: at most a few hundred, and a few MiB beyond the last one. Empty at the end.
    ///
    /// # Errors
    /// The medium failed, or a row cannot be read.
    async fn next(&mut self) -> Result<Vec<Record>, StoreError>;
}

/// A store that is being filled.
#[async_trait]
pub trait Restore: Send {
    /// Takes records in. After an error nothing of this restore is kept.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Misuse`] or [`StoreError::NotFound`] if a record does not
    /// fit those before it; or the medium failed.
    async fn write(&mut self, records: Vec<Record>) -> Result<(), StoreError>;

    /// Ends it. Once it has returned, everything is on disk, and runs can be claimed.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] if a log has a hole or is shorter than its card says: nothing is kept. Or
    /// the medium failed.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// Takes records until a page is full.
#[derive(Default)]
pub(crate) struct PageOfRecords {
    pub(crate) records: Vec<Record>,
    size_bytes: usize,
}

impl PageOfRecords {
    pub(crate) fn push(&mut self, record: Record) {
        self.size_bytes = self.size_bytes.saturating_add(record.size_bytes());
        self.records.push(record);
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.records.len() >= PAGE_RECORDS || self.size_bytes >= PAGE_BYTES
    }
}

/// A body as JSON.
mod body {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error as _};

    #[derive(serde::Serialize, Deserialize)]
    #[serde(untagged)]
    enum Body {
        Text(String),
        Bytes { base64: String },
    }

    pub(super) fn serialize<S: Serializer>(body: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(body) {
            Ok(text) => to.serialize_str(text),
            Err(_) => Body::Bytes { base64: STANDARD.encode(body) }.serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        match Body::deserialize(from)? {
            Body::Text(text) => Ok(text.into()),
            Body::Bytes { base64 } => {
                STANDARD.decode(base64).map(Bytes::from).map_err(D::Error::custom)
            }
        }
    }
}

/// A hash as its hexadecimal digits.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::BlobHash;

    pub(super) fn serialize<S: Serializer>(hash: &BlobHash, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BlobHash, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}
