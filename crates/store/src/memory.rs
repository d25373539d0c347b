//! A store in memory: the reference that the others are compared with. Nothing survives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use uuid::Uuid;

use crate::clock::{Clock, millis};
use crate::rules::{SettledKey, StoredKey};
use crate::{
    Append, Appended, Blob, BlobHash, CHECKPOINTS_KEPT, Catalog, Checkpoint, Created, Disposition,
    HeadUpdate, Journal, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, Keys, Leases,
    NewEvent, NewRun, NodeId, Page, RunFilter, RunHead, RunId, Store, StoreError, StoredEvent,
    Timestamp, rules,
};

/// A store that keeps everything in memory, behind one lock. For tests and for throw-away runs: it
/// honours every rule of the traits but the one that gives a store its name.
pub struct MemoryStore {
    id: Uuid,
    clock: Clock,
    shelves: Mutex<Option<Shelves>>,
}

#[derive(Default)]
struct Shelves {
    runs: BTreeMap<RunId, Run>,
    keys: BTreeMap<(String, String), RunId>,
    blobs: BTreeMap<[u8; 32], Bytes>,
    nodes: BTreeMap<NodeId, Timestamp>,
    operations: BTreeMap<KeyName, StoredKey>,
}

struct Run {
    /// The how-manieth run of the store it is: breaks ties between equally old ones.
    number: usize,
    head: RunHead,
    events: Vec<StoredEvent>,
    checkpoints: BTreeMap<u64, Checkpoint>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: Uuid::now_v7(),
            clock: Clock::start(),
            shelves: Mutex::new(Some(Shelves::default())),
        }
    }

    fn open(&self) -> Result<MappedMutexGuard<'_, Shelves>, StoreError> {
        MutexGuard::try_map(self.shelves.lock(), Option::as_mut).map_err(|_| {
            StoreError::Unavailable {
                place: self.describe(),
                problem: "it has been closed".to_owned(),
            }
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shelves {
    fn run(&self, run: RunId) -> Result<&Run, StoreError> {
        self.runs.get(&run).ok_or(StoreError::NotFound { run })
    }

    fn keep_blobs(&mut self, blobs: Vec<Blob>) {
        for blob in blobs {
            self.blobs.entry(blob.hash.0).or_insert(blob.bytes);
        }
    }

    fn settle(&mut self, settlement: KeySettlement, now: Timestamp) {
        let KeySettlement { name, owner, end } = settlement;
        let Some(stored) = self.operations.get_mut(&name) else { return };
        if stored.owner != owner || stored.settled.is_some() {
            return;
        }
        match end {
            KeyEnd::Released => drop(self.operations.remove(&name)),
            KeyEnd::Recorded { answer, keep } => {
                let expires_at = Timestamp(now.0.saturating_add(millis(Some(keep))));
                stored.settled = Some(SettledKey { answer, at: now, expires_at });
            }
        }
    }

    fn lives(&self, node: &NodeId, now: Timestamp) -> bool {
        self.nodes.get(node).is_some_and(|expires_at| *expires_at > now)
    }

    /// Since when a run has been waiting for a node, if it is.
    fn waiting_since(&self, head: &RunHead, now: Timestamp) -> Option<Timestamp> {
        match head.disposition {
            Disposition::Ready => Some(head.updated_at),
            Disposition::Parked { wake_at } => wake_at.filter(|wake_at| *wake_at <= now),
            Disposition::Held => {
                let lives = head.owner.as_ref().is_some_and(|owner| self.lives(owner, now));
                (!lives).then_some(head.updated_at)
            }
            Disposition::Ended => None,
        }
    }
}

impl Run {
    fn push(&mut self, events: Vec<NewEvent>, at: Timestamp) {
        for NewEvent { kind, version, body } in events {
            self.head.head_seq += 1;
            let (seq, kind) = (self.head.head_seq, kind.into_owned());
            self.events.push(StoredEvent { seq, at, kind, version, body });
            self.head.updated_at = at;
        }
    }

    fn turn(&mut self, update: HeadUpdate, at: Timestamp) {
        if update.disposition != Disposition::Held {
            self.head.owner = None;
        }
        self.head.state = update.state;
        self.head.disposition = update.disposition;
        self.head.summary = update.summary;
        self.head.updated_at = at;
    }
}

#[async_trait]
impl Journal for MemoryStore {
    async fn create(&self, new: NewRun) -> Result<Created, StoreError> {
        let mut shelves = self.open()?;
        rules::check_new_run(&new)?;
        let key = new.key.map(|key| (new.tenant.clone(), key));
        if let Some(run) = key.as_ref().and_then(|key| shelves.keys.get(key)) {
            return Ok(Created::Existing(shelves.run(*run)?.head.clone()));
        }
        if shelves.runs.contains_key(&new.id) {
            return Err(StoreError::Exists { run: new.id });
        }
        let at = self.clock.now();
        let head = RunHead {
            id: new.id,
            tenant: new.tenant,
            agent: new.agent,
            state: new.head.state,
            disposition: new.head.disposition,
            priority: new.priority,
            epoch: 0,
            owner: None,
            head_seq: 0,
            created_at: at,
            updated_at: at,
            summary: new.head.summary,
        };
        let number = shelves.runs.len();
        let mut run = Run { number, head, events: Vec::new(), checkpoints: BTreeMap::new() };
        run.push(new.events, at);
        let head = run.head.clone();
        shelves.runs.insert(new.id, run);
        shelves.keys.extend(key.map(|key| (key, new.id)));
        shelves.keep_blobs(new.blobs);
        Ok(Created::New(head))
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        let mut shelves = self.open()?;
        rules::check_append(&append)?;
        let at = self.clock.now();
        let run =
            shelves.runs.get_mut(&append.run).ok_or(StoreError::NotFound { run: append.run })?;
        let standing = rules::Standing {
            epoch: run.head.epoch,
            head_seq: run.head.head_seq,
            held: run.head.disposition == Disposition::Held,
            ended: run.head.disposition == Disposition::Ended,
        };
        run.head.epoch = rules::admit(&append, &standing)?;
        run.push(append.events, at);
        if let Some(update) = append.head {
            run.turn(update, at);
        }
        if let Some(body) = append.checkpoint {
            let seq = run.head.head_seq;
            run.checkpoints.insert(seq, Checkpoint { seq, at, body });
            while run.checkpoints.len() > CHECKPOINTS_KEPT {
                run.checkpoints.pop_first();
            }
        }
        let appended = Appended { head_seq: run.head.head_seq, epoch: run.head.epoch, at };
        shelves.keep_blobs(append.blobs);
        for settlement in append.keys {
            shelves.settle(settlement, at);
        }
        Ok(appended)
    }

    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let shelves = self.open()?;
        let events = &shelves.run(run)?.events;
        Ok(events.iter().filter(|event| event.seq > after).take(limit).cloned().collect())
    }

    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError> {
        let shelves = self.open()?;
        Ok(shelves.run(run)?.checkpoints.values().rev().cloned().collect())
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError> {
        match self.open()?.blobs.get(&hash.0) {
            Some(bytes) if BlobHash::of(bytes) != hash => Err(StoreError::Corrupt { hash }),
            found => Ok(found.cloned()),
        }
    }
}

#[async_trait]
impl Catalog for MemoryStore {
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError> {
        Ok(self.open()?.runs.get(&run).map(|run| run.head.clone()))
    }

    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError> {
        let shelves = self.open()?;
        let limit = filter.page_size();
        let shown = |head: &&RunHead| {
            filter.before.is_none_or(|before| head.id < before)
                && filter.tenant.as_ref().is_none_or(|tenant| *tenant == head.tenant)
                && filter.agent.as_ref().is_none_or(|agent| *agent == head.agent)
                && (filter.states.is_empty() || filter.states.contains(&head.state))
        };
        let heads = shelves.runs.values().rev().map(|run| &run.head).filter(shown);
        Ok(Page::cut(heads.take(limit + 1).cloned().collect(), limit))
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        let mut counts = BTreeMap::<String, u64>::new();
        for run in self.open()?.runs.values() {
            let count = counts.entry(run.head.state.clone()).or_default();
            *count = (*count + 1).min(cap);
        }
        Ok(counts.into_iter().collect())
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if shelves.nodes.contains_key(node) && !shelves.lives(node, now) {
            return Err(StoreError::NodeLost { node: node.clone() });
        }
        let expires_at = Timestamp(now.0.saturating_add(millis(Some(ttl))));
        shelves.nodes.insert(node.clone(), expires_at);
        Ok(())
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        shelves.nodes.remove(node);
        let held = shelves.runs.values_mut().filter(|run| run.head.owner.as_ref() == Some(node));
        for run in held {
            run.head.owner = None;
            run.head.disposition = Disposition::Ready;
            run.head.updated_at = now;
        }
        Ok(())
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if let Some(run) = shelves.runs.get_mut(&run)
            && run.head.epoch == epoch
            && run.head.disposition == Disposition::Held
        {
            run.head.owner = None;
            run.head.disposition = Disposition::Ready;
            run.head.updated_at = now;
        }
        Ok(())
    }

    async fn claim(&self, node: &NodeId, limit: usize) -> Result<Vec<RunHead>, StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if !shelves.lives(node, now) {
            return Err(StoreError::NodeLost { node: node.clone() });
        }
        let mut waiting: Vec<_> = shelves
            .runs
            .values()
            .filter_map(|run| {
                let since = shelves.waiting_since(&run.head, now)?;
                Some((std::cmp::Reverse(run.head.priority), since, run.number, run.head.id))
            })
            .collect();
        waiting.sort();
        let mut claimed = Vec::new();
        for (.., id) in waiting.into_iter().take(limit) {
            if let Some(run) = shelves.runs.get_mut(&id) {
                run.head.disposition = Disposition::Held;
                run.head.owner = Some(node.clone());
                run.head.epoch += 1;
                run.head.updated_at = now;
                claimed.push(run.head.clone());
            }
        }
        Ok(claimed)
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let shelves = self.open()?;
        let heads = || shelves.runs.values().map(|run| &run.head);
        let parked = heads().filter_map(|head| match head.disposition {
            Disposition::Parked { wake_at } => wake_at,
            Disposition::Ready | Disposition::Held | Disposition::Ended => None,
        });
        let owners: BTreeSet<_> = heads().filter_map(|head| head.owner.as_ref()).collect();
        let expiring = owners.into_iter().filter_map(|owner| shelves.nodes.get(owner).copied());
        Ok(parked.chain(expiring).min())
    }
}

#[async_trait]
impl Keys for MemoryStore {
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        let stored = shelves.operations.get(&claim.name).cloned();
        let standing = rules::claim_key(&claim, stored, now, |node| shelves.lives(node, now));
        if standing == KeyStanding::Claimed {
            let KeyClaim { name, digest, owner, node, seize: _ } = claim;
            let stored = StoredKey { digest, owner, node, since: now, settled: None };
            shelves.operations.insert(name, stored);
        }
        Ok(standing)
    }

    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        rules::check_settlement(&settlement)?;
        shelves.settle(settlement, self.clock.now());
        Ok(())
    }

    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        let over = |stored: &StoredKey| {
            stored.settled.as_ref().is_some_and(|settled| settled.expires_at <= now)
        };
        let names = shelves.operations.iter().filter(|(_, stored)| over(stored));
        let names: Vec<_> = names.map(|(name, _)| name.clone()).take(limit).collect();
        for name in &names {
            shelves.operations.remove(name);
        }
        Ok(names.len())
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn id(&self) -> String {
        self.id.to_string()
    }

    fn describe(&self) -> String {
        "the store in memory".to_owned()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn close(&self) -> Result<(), StoreError> {
        *self.shelves.lock() = None;
        Ok(())
    }
}
