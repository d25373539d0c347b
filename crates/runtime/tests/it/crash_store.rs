//! A store in front of which a process can die: at one chosen write, before or after it is on disk, whoever
//! writes hears nothing any more. It can also be away for a while, as a database is that restarts; and the
//! process can be stopped as it stands behind a write, and go on later.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use steadfast_store::{
    Account, AccountFilter, Append, Appended, Archive, Balance, BlobHash, Caps, Catalog,
    Checkpoint, Created, Dump, Entry, EntryFilter, Fact, FactFilter, FactName, FactWrite, Facts,
    Held, Hold, Journal, KeyClaim, KeySettlement, KeyStanding, Keys, Leases, Ledger, Letter, Mail,
    Mailbox, MemoryStore, NewRun, NodeId, Page, Prune, Pruned, Restore, RunFilter, RunHead, RunId,
    Sent, Settled, Settlement, Store, StoreError, StoredEvent, Timestamp, Upkeep,
};
use tokio::sync::Notify;
use tokio::time::advance;

use crate::still::Still;

/// When the process dies, relative to the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dies {
    Before,
    After,
    /// Not at all: once the write is on disk, the process is stopped for longer than its lease, and goes on in
    /// the middle of what it did.
    Sleeps,
    /// Not at all: it waits before the write until it is let go on.
    Waits,
}

/// For how long a process is stopped: longer than its lease, shorter than any limit of a run.
const SLEEP: Duration = Duration::from_secs(20);

pub(crate) struct CrashStore {
    inner: Arc<dyn Store>,
    /// Whether time must be kept from running ahead while it works.
    is_threaded: bool,
    /// Writes until the one at which it dies, and when.
    left: AtomicUsize,
    /// It dies at the first append that has an event of this kind.
    kind: Option<&'static str>,
    dies: Dies,
    pub(crate) dead: Notify,
    pub(crate) go_on: Notify,
    away: AtomicBool,
    /// Whether it gives runs to those who claim them.
    is_giving: bool,
}

impl CrashStore {
    /// Dies at the write of this number, from 0.
    pub(crate) fn new(inner: &Arc<MemoryStore>, write: usize, dies: Dies) -> Arc<Self> {
        Arc::new(Self::on(Arc::<MemoryStore>::clone(inner), write + 1, dies))
    }

    fn on(inner: Arc<dyn Store>, writes: usize, dies: Dies) -> Self {
        Self {
            inner,
            is_threaded: false,
            left: AtomicUsize::new(writes),
            kind: None,
            dies,
            dead: Notify::new(),
            go_on: Notify::new(),
            away: AtomicBool::new(false),
            is_giving: true,
        }
    }

    /// Dies at the first append that has an event of this kind.
    pub(crate) fn at_event(inner: &Arc<MemoryStore>, kind: &'static str, dies: Dies) -> Arc<Self> {
        let inner = Arc::<MemoryStore>::clone(inner);
        Arc::new(Self { kind: Some(kind), ..Self::on(inner, usize::MAX, dies) })
    }

    /// Never dies, and gives nobody a run.
    pub(crate) fn miser(inner: &Arc<MemoryStore>) -> Arc<Self> {
        let inner = Arc::<MemoryStore>::clone(inner);
        Arc::new(Self { is_giving: false, ..Self::on(inner, usize::MAX, Dies::Before) })
    }

    /// Never dies, and has threads of its own: while they work, paused time stands still.
    pub(crate) fn threaded(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { is_threaded: true, ..Self::on(inner, usize::MAX, Dies::Before) })
    }

    /// Does not die, but may be away.
    pub(crate) fn steady(inner: &Arc<MemoryStore>) -> Arc<Self> {
        Self::new(inner, usize::MAX - 1, Dies::Before)
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// What an absent store answers. Held until the work is done.
    fn present(&self) -> Result<Option<Still>, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            let (place, problem) = (self.inner.describe(), "it is away".to_owned());
            return Err(StoreError::Unavailable { place, problem });
        }
        Ok(self.is_threaded.then(Still::begin))
    }

    /// Whether it has died.
    pub(crate) fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Whether it has slept; then it writes on.
    pub(crate) fn has_slept(&self) -> bool {
        self.dies == Dies::Sleeps && self.left.load(Ordering::SeqCst) > usize::MAX / 2
    }

    /// Writes through, unless the process dies here. Once it is dead, nothing is written any more.
    async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _still = self.present()?;
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        {
            Ok(2..) => return write.await,
            Ok(_) if self.dies == Dies::After => drop(write.await),
            Ok(_) if self.dies == Dies::Sleeps => {
                let written = write.await;
                // Nobody else gets to run: the clock is moved on, and what comes of that is not waited for.
                advance(SLEEP).now_or_never().unwrap_or_default();
                self.left.store(usize::MAX, Ordering::SeqCst);
                return written;
            }
            Ok(_) if self.dies == Dies::Waits => {
                self.left.store(usize::MAX, Ordering::SeqCst);
                self.dead.notify_one();
                self.go_on.notified().await;
                return write.await;
            }
            Ok(_) | Err(_) => {}
        }
        self.dead.notify_one();
        pending().await
    }
}

#[async_trait]
impl Journal for CrashStore {
    async fn create(&self, run: NewRun) -> Result<Created, StoreError> {
        self.write(self.inner.create(run)).await
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        if self.kind.is_some_and(|kind| append.events.iter().any(|event| event.kind == kind)) {
            self.left.fetch_min(1, Ordering::SeqCst);
        }
        self.write(self.inner.append(append)).await
    }

    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let _still = self.present()?;
        self.inner.read(run, after, limit).await
    }

    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError> {
        let _still = self.present()?;
        self.inner.checkpoints(run).await
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError> {
        let _still = self.present()?;
        self.inner.blob(hash).await
    }
}

#[async_trait]
impl Catalog for CrashStore {
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError> {
        let _still = self.present()?;
        self.inner.head(run).await
    }

    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError> {
        let _still = self.present()?;
        self.inner.list(filter).await
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        let _still = self.present()?;
        self.inner.count_by_state(cap).await
    }

    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError> {
        let _still = self.present()?;
        self.inner.flag(run, problem).await
    }
}

#[async_trait]
impl Mailbox for CrashStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        self.write(self.inner.send(mail)).await
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let _still = self.present()?;
        self.inner.letters(run, limit).await
    }
}

#[async_trait]
impl Facts for CrashStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        let _still = self.present()?;
        self.inner.fact(name).await
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        let _still = self.present()?;
        self.inner.facts(filter).await
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        self.write(self.inner.write_facts(facts)).await
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        let _still = self.present()?;
        self.inner.purge_facts(limit).await
    }
}

#[async_trait]
impl Leases for CrashStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        let _still = self.present()?;
        self.inner.renew(node, ttl).await
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        let _still = self.present()?;
        self.inner.retire(node).await
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        let _still = self.present()?;
        self.inner.release(run, epoch).await
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        let _still = self.present()?;
        if !self.is_giving {
            return Ok(Vec::new());
        }
        self.inner.claim(node, limit, caps).await
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let _still = self.present()?;
        self.inner.next_wake().await
    }
}

#[async_trait]
impl Keys for CrashStore {
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError> {
        self.write(self.inner.claim_key(claim)).await
    }

    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        self.write(self.inner.settle_key(settlement)).await
    }

    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError> {
        let _still = self.present()?;
        self.inner.purge_keys(limit).await
    }
}

#[async_trait]
impl Ledger for CrashStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        self.write(self.inner.hold(holds)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        self.present()?;
        self.inner.settle(settlements).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.present()?;
        self.inner.expire_holds(limit).await
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        self.present()?;
        self.inner.balances(accounts).await
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError> {
        self.present()?;
        self.inner.accounts(filter).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        self.present()?;
        self.inner.entries(filter).await
    }

    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.present()?;
        self.inner.prune_ledger(before, limit).await
    }
}

#[async_trait]
impl Upkeep for CrashStore {
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        let _still = self.present()?;
        self.inner.prune(prune).await
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        let _still = self.present()?;
        self.inner.examine().await
    }
}

#[async_trait]
impl Archive for CrashStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        let _still = self.present()?;
        self.inner.dump().await
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        let _still = self.present()?;
        self.inner.restore().await
    }
}

#[async_trait]
impl Store for CrashStore {
    fn id(&self) -> String {
        self.inner.id()
    }

    fn describe(&self) -> String {
        // What stands in a log that is kept names no folder of this machine.
        if self.is_threaded { "a store in a file".to_owned() } else { self.inner.describe() }
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    async fn close(&self) -> Result<(), StoreError> {
        let _still = self.present()?;
        self.inner.close().await
    }
}
