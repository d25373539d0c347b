//! A store in one SQLite file.
//!
//! `open` finds out whether the file may be used, `schema` holds its tables, `writer` owns the one
//! connection that writes, `append`, `mail`, `keys`, `facts`, `flag`, `lease`, `ledger` and `prune`
//! are what it writes, `read` is what the others read, `account` and `seal` say what rows of the ledger are
//! and whether they are what was written. `inspect` looks at a file that another process may have open and
//! copies it, `archive` gives everything out, `restore` takes everything in.

mod account;
mod append;
mod archive;
mod facts;
mod flag;
mod inspect;
mod keys;
mod lease;
mod ledger;
mod mail;
mod open;
mod prune;
mod read;
mod restore;
mod schema;
mod seal;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use self::ledger::Remembered;
use self::open::Opened;
use self::writer::{Failure, Handle};
use crate::clock::Clock;
use crate::{
    Append, Appended, BlobHash, Caps, Catalog, Checkpoint, Created, Fact, FactFilter, FactName,
    FactWrite, Facts, Journal, KeyClaim, KeySettlement, KeyStanding, Keys, Leases, Letter, Mail,
    Mailbox, NewRun, NodeId, Page, Prune, Pruned, RunFilter, RunHead, RunId, Sent, Store,
    StoreError, StoredEvent, Timestamp, Upkeep, rules,
};

/// How a [`SqliteStore`] uses its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The size of the write-ahead log, in bytes, from which it is moved into the database between
    /// two transactions. Larger is less often, with a longer pause each time. 32 MiB, by default.
    pub checkpoint_wal_bytes: u64,
    /// Reads that may run side by side; each has a connection of its own. 4, by default; at least 1.
    pub readers: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { checkpoint_wal_bytes: 32 * 1024 * 1024, readers: 4 }
    }
}

/// A store in one SQLite file, for one process at a time.
///
/// Beside the file stand SQLite's `-wal` and `-shm`, and a `-lock` that holds the id of the process
/// that has it open. Every transaction is synced to the disk before it is acknowledged.
///
/// Dropping it without [`Store::close`] finishes what was accepted and waits for it.
pub struct SqliteStore {
    id: String,
    path: PathBuf,
    clock: Clock,
    readers: Arc<Readers>,
    remembered: Arc<Remembered>,
    writer: Handle,
}

struct Readers {
    free: Mutex<Vec<Connection>>,
    count: u32,
    places: Semaphore,
}

impl SqliteStore {
    /// Opens the store in the file at `path`, and makes it if there is none. Blocks.
    ///
    /// Nodes that were registered before are forgotten: the process lock proves that they live no
    /// more. What they held can be claimed at once.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotAStore`], [`StoreError::Newer`],
    /// [`StoreError::UnsafeEngine`]; [`StoreError::Damaged`] if the file is not whole;
    /// [`StoreError::Unavailable`] if its directory is missing or may not be written.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let opened = open::open(&path, &options)?;
        Self::start(path, opened, options)
    }

    fn start(path: PathBuf, opened: Opened, options: SqliteOptions) -> Result<Self, StoreError> {
        let count = u32::try_from(opened.readers.len()).unwrap_or(u32::MAX);
        let readers = Arc::new(Readers {
            places: Semaphore::new(opened.readers.len()),
            free: Mutex::new(opened.readers),
            count,
        });
        let SqliteOptions { checkpoint_wal_bytes, readers: _ } = options;
        let writer = Handle::start(path.clone(), opened.writer, opened.lock, checkpoint_wal_bytes)?;
        let remembered = Arc::default();
        Ok(Self { id: opened.id, path, clock: Clock::start(), readers, remembered, writer })
    }

    /// Runs a read on a free connection, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || unavailable(&self.path, "it has been closed".to_owned());
        let place = self.readers.places.acquire().await.map_err(|_| closed())?;
        // The connection, not the caller, holds the place: a dropped future does not free it early.
        place.forget();
        let readers = Arc::clone(&self.readers);
        let task = tokio::task::spawn_blocking(move || {
            let connection = readers.free.lock().pop();
            let answer = connection.as_ref().map(read);
            readers.free.lock().extend(connection);
            readers.places.add_permits(1);
            answer
        });
        match task.await {
            Ok(Some(answer)) => answer.map_err(|failure| at_read(&self.path, failure)),
            Ok(None) => Err(closed()),
            Err(error) => Err(unavailable(&self.path, format!("the read was given up: {error}"))),
        }
    }
}

#[async_trait]
impl Journal for SqliteStore {
    async fn create(&self, run: NewRun) -> Result<Created, StoreError> {
        rules::check_new_run(&run)?;
        self.writer.write(run, self.clock.now()).await
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        rules::check_append(&append)?;
        self.writer.write(append, self.clock.now()).await
    }

    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(move |connection| read::events(connection, run, after, limit)).await
    }

    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(move |connection| read::checkpoints(connection, run)).await
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError> {
        self.read(move |connection| read::blob(connection, hash)).await
    }
}

#[async_trait]
impl Catalog for SqliteStore {
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError> {
        self.read(move |connection| read::head(connection, run)).await
    }

    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError> {
        self.read(move |connection| read::list(connection, filter)).await
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        self.read(move |connection| read::count_by_state(connection, cap)).await
    }

    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError> {
        self.writer.write(flag::Flag { run, problem }, self.clock.now()).await
    }
}

#[async_trait]
impl Mailbox for SqliteStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        rules::check_mail(&mail)?;
        self.writer.write(mail, self.clock.now()).await
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        self.read(move |connection| read::letters(connection, run, limit)).await
    }
}

#[async_trait]
impl Facts for SqliteStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        let (name, now) = (name.clone(), self.clock.now());
        self.read(move |connection| read::fact(connection, &name, now)).await
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        let now = self.clock.now();
        self.read(move |connection| read::facts(connection, &filter, now)).await
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        rules::check_facts(&facts)?;
        self.writer.write(facts::WriteFacts(facts), self.clock.now()).await
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(facts::Purge { limit }, self.clock.now()).await
    }
}

#[async_trait]
impl Leases for SqliteStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        self.writer.write(lease::Renew { node: node.clone(), ttl }, self.clock.now()).await
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        self.writer.write(lease::Retire { node: node.clone() }, self.clock.now()).await
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        self.writer.write(lease::Release { run, epoch }, self.clock.now()).await
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        let claim = lease::Claim { node: node.clone(), limit, caps: caps.clone() };
        self.writer.write(claim, self.clock.now()).await
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(read::next_wake).await
    }
}

#[async_trait]
impl Keys for SqliteStore {
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError> {
        self.writer.write(claim, self.clock.now()).await
    }

    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        rules::check_settlement(&settlement)?;
        self.writer.write(settlement, self.clock.now()).await
    }

    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(keys::Purge { limit }, self.clock.now()).await
    }
}

#[async_trait]
impl Upkeep for SqliteStore {
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        let wanted = prune.clone();
        let mut chosen = self.read(move |connection| prune::choose(connection, &wanted)).await?;
        let mut pruned = Pruned::default();
        loop {
            let step = prune::Step { prune: prune.clone(), chosen };
            let stepped = self.writer.write(step, self.clock.now()).await?;
            pruned = pruned.plus(stepped.pruned);
            if stepped.is_done {
                return Ok(pruned);
            }
            chosen = stepped.chosen;
        }
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        // A connection that has searched before would judge the search index by what it remembers of it.
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = open::snapshot(&path)?;
            prune::examine(&connection).map_err(|failure| at_read(&path, failure))
        });
        task.await
            .map_err(|error| unavailable(&self.path, format!("the read was given up: {error}")))?
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn id(&self) -> String {
        self.id.clone()
    }

    fn describe(&self) -> String {
        format!("the SQLite store {}", self.path.display())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn writable(&self) -> Result<(), StoreError> {
        self.writer.writable()
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Once every connection is back, nobody reads; the last to close tidies the log away.
        if let Ok(places) = self.readers.places.acquire_many(self.readers.count).await {
            self.readers.places.close();
            self.readers.free.lock().clear();
            drop(places);
        }
        self.writer.close().await
    }
}

/// A failure beside the writer, in the words of the store.
fn at_read(path: &Path, failure: Failure) -> StoreError {
    match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Damaged(problem) | Failure::Torn(problem) => damaged(path, problem),
        Failure::Broken(problem) => unavailable(path, problem),
    }
}

fn unavailable(path: &Path, problem: String) -> StoreError {
    StoreError::Unavailable { place: path.display().to_string(), problem }
}

fn damaged(path: &Path, problem: String) -> StoreError {
    let place = path.display().to_string();
    StoreError::Damaged { what: "a stored value", place, problem }
}
