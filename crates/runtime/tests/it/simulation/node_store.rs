//! The store as one node meets it: it can be cut off, and it can be broken on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use steadfast_store::{
    Account, AccountFilter, Append, Appended, Archive, Balance, BlobHash, Caps, Catalog,
    Checkpoint, Created, Disposition, Dump, Entry, EntryFilter, Fact, FactFilter, FactName,
    FactWrite, Facts, Fence, HeadUpdate, Held, Hold, Journal, KeyClaim, KeySettlement, KeyStanding,
    Keys, Leases, Ledger, Letter, Mail, Mailbox, NewRun, NodeId, Page, Prune, Pruned, Restore,
    RunFilter, RunHead, RunId, Sent, Settled, Settlement, Store, StoreError, StoredEvent,
    Timestamp, Upkeep,
};
use tokio::time::{Instant, sleep_until};

use super::observer::Observer;

/// A defect that is built in, to see whether it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    None,
    /// Appends count whatever their epoch.
    Epochs,
    /// The tenant with the longest line is served.
    Turns,
    /// All runs are equally urgent.
    Priorities,
    Caps,
    /// A run is handed out although its owner lives.
    Expiry,
    /// A renewal says that it is done, and is not.
    Renewals,
}

/// What a node meets until a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// Its lease is not renewed.
    NotRenewed,
    /// Nothing comes through in either direction; what it has sent arrives in the end.
    CutOff,
}

/// The store of one node.
pub(super) struct NodeStore {
    observer: Arc<Observer>,
    defect: Defect,
    trouble: Mutex<Option<(Trouble, Instant)>>,
    /// How many runs it has handed out that were somebody else's.
    stolen: AtomicUsize,
}

/// Two nodes that take a run from each other without end would never get on.
const STOLEN_MAX: usize = 3;

impl NodeStore {
    pub(super) fn new(observer: &Arc<Observer>, defect: Defect) -> Arc<Self> {
        let (observer, trouble) = (Arc::clone(observer), Mutex::new(None));
        Arc::new(Self { observer, defect, trouble, stolen: AtomicUsize::new(0) })
    }

    pub(super) fn trouble(&self, trouble: Trouble, lasts: Duration) {
        *self.trouble.lock() = Some((trouble, Instant::now() + lasts));
    }

    pub(super) fn is_well(&self) -> bool {
        self.trouble.lock().is_none_or(|(_, until)| until <= Instant::now())
    }

    /// Returns once the node is not cut off.
    async fn reach(&self) {
        let trouble = *self.trouble.lock();
        if let Some((Trouble::CutOff, until)) = trouble {
            sleep_until(until).await;
        }
    }

    fn inner(&self) -> &Arc<dyn Store> {
        &self.observer.store
    }

    /// Hands out one run more: one that somebody holds.
    async fn steal(&self, node: &NodeId, claimed: &mut Vec<RunHead>) -> Result<(), StoreError> {
        let states = vec!["running".to_owned()];
        let page = self.inner().list(RunFilter { states, ..RunFilter::default() }).await?;
        let others = |head: &RunHead| {
            head.disposition == Disposition::Held && head.owner.as_ref() != Some(node)
        };
        let Some(head) = page.runs.into_iter().find(others) else { return Ok(()) };
        if self.stolen.fetch_add(1, Ordering::Relaxed) >= STOLEN_MAX {
            return Ok(());
        }
        let update = HeadUpdate {
            state: head.state,
            disposition: Disposition::Ready,
            problem: None,
            summary: head.summary,
        };
        let seize = Append::new(head.id, Fence::Seize, head.head_seq);
        self.inner().append(Append { head: Some(update), ..seize }).await?;
        claimed.extend(self.inner().claim(node, 1, &self.observer.caps).await?);
        Ok(())
    }

    /// Caps with which only the tenant with the longest line is served.
    async fn longest(&self) -> Result<Caps, StoreError> {
        let page = self.inner().list(RunFilter { limit: 500, ..RunFilter::default() }).await?;
        let ready = |tenant: &str| {
            let of = page.runs.iter().filter(|head| head.tenant == tenant);
            of.filter(|head| head.disposition == Disposition::Ready).count()
        };
        let longest = page.runs.iter().map(|head| &head.tenant).max_by_key(|name| ready(name));
        let caps = &self.observer.caps;
        let longest =
            longest.map(|name| (name.clone(), caps.of_tenant(name).unwrap_or(usize::MAX)));
        let tenants = longest.into_iter().collect();
        Ok(Caps { per_tenant: Some(0), tenants, agents: caps.agents.clone() })
    }

    async fn hand_out(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        let inner = self.inner();
        match self.defect {
            Defect::Turns => inner.claim(node, limit, &self.longest().await?).await,
            Defect::Caps => inner.claim(node, limit, &Caps::default()).await,
            Defect::Expiry => {
                let mut claimed = inner.claim(node, limit, caps).await?;
                if claimed.len() < limit {
                    self.steal(node, &mut claimed).await?;
                }
                Ok(claimed)
            }
            Defect::None | Defect::Epochs | Defect::Priorities | Defect::Renewals => {
                inner.claim(node, limit, caps).await
            }
        }
    }
}

/// Appends, and lets the observer see it; in a task of its own, it is done even if nobody waits for it.
async fn append(
    observer: Arc<Observer>,
    defect: Defect,
    append: Append,
) -> Result<Appended, StoreError> {
    let _turn = observer.turn.lock().await;
    let (run, fence) = (append.run, append.fence.clone());
    let mut done = observer.store.append(append.clone()).await;
    if defect == Defect::Epochs && matches!(done, Err(StoreError::Fenced { .. })) {
        let head = observer.store.head(run).await?.ok_or(StoreError::NotFound { run })?;
        let fence = Fence::Holding { epoch: head.epoch };
        let anyway = Append { fence, expected_seq: head.head_seq, ..append };
        done = observer.store.append(anyway).await;
    }
    if let Fence::Holding { epoch } = fence {
        observer.appended(run, epoch, done.is_ok());
    }
    done
}

#[async_trait]
impl Journal for NodeStore {
    async fn create(&self, run: NewRun) -> Result<Created, StoreError> {
        self.reach().await;
        let asked = run.priority;
        let priority = if self.defect == Defect::Priorities { 0 } else { asked };
        // Nobody may see it before it is known how it was asked for.
        let _turn = self.observer.turn.lock().await;
        let created = self.inner().create(NewRun { priority, ..run }).await?;
        if let Created::New(head) = &created {
            self.observer.asked(head, asked);
        }
        Ok(created)
    }

    async fn append(&self, new: Append) -> Result<Appended, StoreError> {
        let trouble = *self.trouble.lock();
        let (observer, defect) = (Arc::clone(&self.observer), self.defect);
        let Some((Trouble::CutOff, until)) = trouble else {
            return append(observer, defect, new).await;
        };
        #[expect(clippy::disallowed_methods, reason = "a message that is on its way has no owner")]
        let sent = tokio::spawn(async move {
            sleep_until(until).await;
            append(observer, defect, new).await
        });
        sent.await.expect("appends do not panic")
    }

    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.reach().await;
        self.inner().read(run, after, limit).await
    }

    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError> {
        self.reach().await;
        self.inner().checkpoints(run).await
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError> {
        self.reach().await;
        self.inner().blob(hash).await
    }
}

#[async_trait]
impl Catalog for NodeStore {
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError> {
        self.reach().await;
        self.inner().head(run).await
    }

    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError> {
        self.reach().await;
        self.inner().list(filter).await
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        self.reach().await;
        self.inner().count_by_state(cap).await
    }

    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError> {
        self.reach().await;
        self.inner().flag(run, problem).await
    }
}

#[async_trait]
impl Mailbox for NodeStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        self.reach().await;
        self.inner().send(mail).await
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        self.reach().await;
        self.inner().letters(run, limit).await
    }
}

#[async_trait]
impl Facts for NodeStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        self.reach().await;
        self.inner().fact(name).await
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        self.reach().await;
        self.inner().facts(filter).await
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        self.reach().await;
        self.inner().write_facts(facts).await
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        self.reach().await;
        self.inner().purge_facts(limit).await
    }
}

#[async_trait]
impl Leases for NodeStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        self.reach().await;
        let trouble = *self.trouble.lock();
        match trouble {
            Some((Trouble::NotRenewed, until)) if until > Instant::now() => {
                if self.defect == Defect::Renewals {
                    return Ok(());
                }
                let problem = "it is cut off".to_owned();
                Err(StoreError::Unavailable { place: self.describe(), problem })
            }
            _ => self.inner().renew(node, ttl).await,
        }
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        self.reach().await;
        self.inner().retire(node).await
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        self.reach().await;
        self.inner().release(run, epoch).await
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        self.reach().await;
        let _turn = self.observer.turn.lock().await;
        // What is due becomes ready first, and is then seen.
        self.inner().claim(node, 0, caps).await?;
        let before = self.observer.standing().await;
        let claimed = self.hand_out(node, limit, caps).await?;
        self.observer.claimed(&before, &claimed, limit, node).await;
        Ok(claimed)
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        self.reach().await;
        self.inner().next_wake().await
    }
}

#[async_trait]
impl Keys for NodeStore {
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError> {
        self.reach().await;
        self.inner().claim_key(claim).await
    }

    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        self.reach().await;
        self.inner().settle_key(settlement).await
    }

    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.reach().await;
        self.inner().purge_keys(limit).await
    }
}

#[async_trait]
impl Ledger for NodeStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        self.reach().await;
        self.inner().hold(holds).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        self.reach().await;
        self.inner().settle(settlements).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.reach().await;
        self.inner().expire_holds(limit).await
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        self.reach().await;
        self.inner().balances(accounts).await
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError> {
        self.reach().await;
        self.inner().accounts(filter).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        self.reach().await;
        self.inner().entries(filter).await
    }

    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.reach().await;
        self.inner().prune_ledger(before, limit).await
    }
}

#[async_trait]
impl Upkeep for NodeStore {
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        self.reach().await;
        self.inner().prune(prune).await
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        self.inner().examine().await
    }
}

#[async_trait]
impl Archive for NodeStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        self.inner().dump().await
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        self.inner().restore().await
    }
}

#[async_trait]
impl Store for NodeStore {
    fn id(&self) -> String {
        self.inner().id()
    }

    fn describe(&self) -> String {
        self.inner().describe()
    }

    fn now(&self) -> Timestamp {
        self.inner().now()
    }

    async fn close(&self) -> Result<(), StoreError> {
        // The others still use it.
        Ok(())
    }
}
