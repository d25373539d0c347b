//! What happened, durably, in order.
//!
//! A store keeps, per run, an append-only log of events; beside it checkpoints that fold a prefix of
//! the log, blobs by hash, one index card ([`RunHead`]) per run, and the leases of the nodes that
//! execute runs. Events, checkpoints and summaries are opaque bytes here: this crate does not know
//! what a model, a budget or an agent loop is.
//!
//! **Acknowledged means durable.** When a method that writes has returned `Ok`, its effect has reached
//! the disk and survives a crash of the process and of the machine. When it has returned an error
//! other than [`StoreError::Unavailable`], nothing was written. When its future was dropped, the write
//! may or may not have happened; the caller finds out by reading the head.
//!
//! Every backend passes the one suite in `contract`.

mod archive;
mod books;
mod clock;
#[doc(hidden)]
pub mod contract;
mod error;
mod facts;
mod ids;
mod key;
mod ledger;
mod mail;
mod memory;
mod patience;
mod postgres;
mod rules;
mod sqlite;
mod turns;
mod types;
mod upkeep;

pub use archive::{AnswerRecord, Archive, Dump, Record, Restore, RunRecord};
pub use error::StoreError;
pub use facts::{FACT_BYTES_MAX, Fact, FactFilter, FactName, FactWrite};
pub use ids::{Blob, BlobHash, NodeId, RunId, Timestamp};
pub use key::{KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding};
pub use ledger::{
    ACCOUNT_BYTES_MAX, AMOUNT_MAX, Account, AccountFilter, Amounts, Balance, ENTRY_BYTES_MAX,
    Entry, EntryFilter, EntryId, EntryKind, HOLD_ACCOUNTS_MAX, Held, Hold, LATE, Limits, Settled,
    Settlement, Unheld,
};
pub use mail::{Letter, MAIL_BYTES_MAX, MAIL_WAITING_MAX, Mail, Sent};
pub use memory::MemoryStore;
pub use patience::with_patience;
pub use postgres::{PostgresOptions, PostgresStore};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use turns::{AGEING, Caps};
pub use types::{
    Append, Appended, Changes, Checkpoint, Created, Disposition, Fence, HeadUpdate, NewEvent,
    NewRun, Page, RunFilter, RunHead, StoredEvent, TEXT_BYTES_MAX,
};
pub use upkeep::{PRUNE_BYTES, PRUNE_ROWS_MAX, Prune, Pruned, Upkeep};

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// The append-only log of each run, and what is stored in its transactions.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Starts a run's log with its first events and its index card.
    ///
    /// Once it has returned [`Created::New`], run, events and card are on disk. With a `key` that the
    /// tenant has used before, nothing is written and [`Created::Existing`] carries that run's card.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the id is taken; [`StoreError::Misuse`] if its first disposition is
    /// [`Disposition::Held`]; otherwise as [`Journal::append`].
    async fn create(&self, run: NewRun) -> Result<Created, StoreError>;

    /// Appends events, and with them, in one transaction, blobs, a checkpoint and the index card.
    ///
    /// Once it has returned, all of it is on disk. The fence and `expected_seq` are checked in the
    /// same transaction: a caller that lost its lease, or that folded an older log, writes nothing.
    /// One caller's refusal never affects another caller's append.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`], [`StoreError::NotFound`],
    /// [`StoreError::TooLarge`]: nothing was written. [`StoreError::Misuse`], nothing was written
    /// either: nothing to write; a seizure without a head update, or one that leaves the run held; an
    /// append under [`Fence::Holding`] to a run that has ended; [`Disposition::Held`] for a run that
    /// nobody holds; a blob under another hash than its own. [`StoreError::Unavailable`]: the medium
    /// failed. A file accepts no further writes until it is opened again; a database comes back.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;

    /// Events of a run with `seq > after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such run.
    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// The checkpoints kept for a run, newest (by sequence number) first; at most
    /// [`CHECKPOINTS_KEPT`]. The body of one that is found not to be what was written is empty, so that
    /// whoever reads it goes on to the one before.
    ///
    /// # Errors
    /// As [`Journal::read`], except that a run without checkpoints gives an empty list.
    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError>;

    /// The bytes of a blob, or `None`. What is returned has been checked against its hash.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the stored bytes do not have that hash.
    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError>;
}

/// The index cards of runs.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// A run's index card, or `None`.
    ///
    /// # Errors
    /// The medium failed.
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError>;

    /// Index cards, newest run first, one page; the cursor of the next page stays valid while runs
    /// are added.
    ///
    /// # Errors
    /// The medium failed.
    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError>;

    /// How many runs are in each state, at most `cap` counted per state (so that a console page never
    /// scans a million rows).
    ///
    /// # Errors
    /// The medium failed.
    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError>;

    /// Says what is wrong with a run, as one word, or that nothing is, whoever holds it. The next head
    /// update says it anew.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such run.
    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError>;
}

/// Letters to runs from those who do not hold them.
#[async_trait]
pub trait Mailbox: Send + Sync {
    /// Sends a letter. Once it has returned [`Sent::Kept`], the letter is on disk, and its run, if it
    /// was parked, is ready. A run that is paused stays paused and finds the letter later.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such run; [`StoreError::TooLarge`] beyond
    /// [`MAIL_BYTES_MAX`]; [`StoreError::Misuse`] if [`MAIL_WAITING_MAX`] letters wait already.
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError>;

    /// The letters that wait for a run, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such run.
    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError>;
}

/// Values by name that outlive the run that found them (SCOPE C13).
#[async_trait]
pub trait Facts: Send + Sync {
    /// A fact, or `None` if it is not known or no longer holds.
    ///
    /// # Errors
    /// The medium failed.
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError>;

    /// Facts of a scope that hold, by key.
    ///
    /// # Errors
    /// The medium failed.
    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError>;

    /// Makes facts true, or forgets them, all together. [`Append::facts`] does it together with events.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] if a value is larger than [`FACT_BYTES_MAX`]; or the medium failed.
    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError>;

    /// Removes facts that no longer hold, at most `limit`; how many it were. Without it they take
    /// space but are not shown.
    ///
    /// # Errors
    /// The medium failed.
    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError>;
}

/// Who executes which run. Expiry is decided by the store's clock, never by a node's.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Registers a node, or renews its lease for another `ttl`.
    ///
    /// # Errors
    /// [`StoreError::NodeLost`] if this node's lease had expired and another node may have taken its
    /// runs: it must drop them and register anew under another id.
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError>;

    /// Gives back everything a node holds, and its lease: its running runs become ready at once, at the
    /// places in the line that they had.
    ///
    /// # Errors
    /// The medium failed.
    async fn retire(&self, node: &NodeId) -> Result<(), StoreError>;

    /// Gives back one held run: it becomes ready at once, at the place that it had. Without effect if it is not held under this
    /// epoch any more.
    ///
    /// # Errors
    /// The medium failed.
    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError>;

    /// Takes up to `limit` runs for a node, as far as `caps` allow: those that are ready, whose wake-up
    /// time has come, or whose owner's lease has expired; the latter two become ready first. Each that is
    /// taken gets a new epoch, which fences every earlier owner, as does the expiry of a lease.
    ///
    /// Tenants take turns: the one with the fewest held runs goes first, of those with equally many the
    /// one that was served longest ago. Within a tenant a step of priority is worth [`AGEING`] of
    /// waiting. A ready run has waited since its card last changed, a parked one since its wake-up time; one
    /// that was interrupted keeps the place that it had when it was taken, before whatever came later. Of
    /// two that have waited alike, the one created first goes first.
    ///
    /// # Errors
    /// [`StoreError::NodeLost`] if the node holds no lease.
    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError>;

    /// The earliest wake-up time of a parked run, or the earliest expiry of a lease that holds runs.
    ///
    /// # Errors
    /// The medium failed.
    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError>;
}

/// Operations that are to be done once, whoever asks and however often (SCOPE R11).
///
/// A claim says who does it; a settlement records the answer, in a transaction of its own or in the
/// one that appends the completing event ([`Append::keys`]). A claim outlives a crash of its owner:
/// only the owner, or somebody who knows that the owner is gone and seizes it, goes on.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Claims an operation, or says how it stands. Once it has returned [`KeyStanding::Claimed`], the
    /// claim is on disk.
    ///
    /// # Errors
    /// The medium failed.
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError>;

    /// Settles an operation. Once it has returned, the end is on disk. A settlement of an operation
    /// that is not (any more) this owner's changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] if the answer is larger than [`VALUE_BYTES_MAX`]; or the medium failed.
    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError>;

    /// Forgets recorded answers whose time is over, at most `limit`; how many it were. Without it they
    /// take space but are not answered with.
    ///
    /// # Errors
    /// The medium failed.
    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError>;
}

/// Amounts that are held before something is done and settled afterwards (SCOPE G9).
///
/// What is spent and held together never passes the limits that a hold names: holds are decided one
/// after the other, over all nodes. Holding and settling take several at once, because a transaction
/// costs the same for one and for a hundred.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Holds amounts, each on all of its accounts or on none; one answer for each, in their order. Once
    /// it has returned, what was granted is on disk: after a crash it is settled, or charged in full when
    /// its time is over.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for an amount beyond [`AMOUNT_MAX`], a record beyond [`ENTRY_BYTES_MAX`] or
    /// more accounts than [`HOLD_ACCOUNTS_MAX`] or the name of one that cannot be kept: nothing is held
    /// then. Or the medium failed.
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError>;

    /// Settles holds; one answer for each, in their order. Once it has returned, it is on disk. Doing it
    /// again changes nothing.
    ///
    /// # Errors
    /// As [`Ledger::hold`].
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError>;

    /// Charges holds whose time is over in full, at most `limit`; those.
    ///
    /// # Errors
    /// The medium failed.
    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// How accounts stand, in their order. One that was never used has nothing.
    ///
    /// # Errors
    /// The medium failed.
    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError>;

    /// Accounts by name and period.
    ///
    /// # Errors
    /// The medium failed.
    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError>;

    /// Entries, newest first.
    ///
    /// # Errors
    /// The medium failed.
    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError>;

    /// Forgets entries that are older than a time, and accounts that hold nothing and were last changed
    /// before it; at most `limit` of each, and how many it were.
    ///
    /// # Errors
    /// The medium failed.
    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
}

/// Everything a runtime needs from a store.
#[async_trait]
pub trait Store:
    Journal + Catalog + Mailbox + Leases + Keys + Facts + Ledger + Upkeep + Archive + 'static
{
    /// Names this store: made at random once, when it is created, and kept in it.
    fn id(&self) -> String;

    /// A short name for messages: what it is and where, without secrets.
    fn describe(&self) -> String;

    /// The store's wall clock.
    fn now(&self) -> Timestamp;

    /// Waits until another node has changed something, or may have, and says what. A store that no other
    /// node can change waits for ever. For one caller at a time; cancel-safe. It is a hint that comes soon
    /// but may get lost: whoever depends on it also looks from time to time.
    async fn changed(&self) -> Changes {
        std::future::pending().await
    }

    /// Whether it takes writes. Once it has said no, it says no until it is closed and opened again:
    /// its medium failed. A store that comes back by itself never says no.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what happened and what to do.
    fn writable(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Finishes what was accepted, then closes; every later call is [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// The medium failed while closing.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Checkpoints kept per run (SCOPE C3).
pub const CHECKPOINTS_KEPT: usize = 5;

/// Largest event body, checkpoint or blob that is accepted, in bytes (64 MiB).
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
