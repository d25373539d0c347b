//! A store in memory: the reference that the others are compared with. Nothing survives the process.

mod archive;
mod beside;
mod lease;
mod ledger;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use uuid::Uuid;

use crate::clock::{Clock, millis};
use crate::rules::{SettledKey, StoredKey};
use crate::turns;
use crate::{
    Append, Appended, Blob, BlobHash, CHECKPOINTS_KEPT, Catalog, Checkpoint, Created, Disposition,
    Fact, FactName, HeadUpdate, Journal, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding,
    Keys, Letter, NewEvent, NewRun, NodeId, Page, RunFilter, RunHead, RunId, Store, StoreError,
    StoredEvent, Timestamp, rules,
};

/// A store that keeps everything in memory, behind one lock. For tests and for throw-away runs: it
/// honours every rule of the traits but the one that gives a store its name.
pub struct MemoryStore {
    id: Uuid,
    clock: Clock,
    shelves: Arc<Mutex<Option<Shelves>>>,
}

#[derive(Default)]
struct Shelves {
    runs: BTreeMap<RunId, Run>,
    keys: BTreeMap<(String, String), RunId>,
    blobs: BTreeMap<[u8; 32], Bytes>,
    /// Blobs that stay whoever refers to them.
    kept: BTreeSet<[u8; 32]>,
    /// Runs that ever were.
    numbers: usize,
    nodes: BTreeMap<NodeId, Timestamp>,
    /// When which tenant was served.
    turns: BTreeMap<String, i64>,
    letters: i64,
    facts: BTreeMap<FactName, Fact>,
    operations: BTreeMap<KeyName, StoredKey>,
    ledger: ledger::Accounts,
}

struct Run {
    /// The how-manieth run of the store it is: breaks ties between equally old ones.
    number: usize,
    head: RunHead,
    /// Its place in the line, while it is ready or held.
    rank: i64,
    text: String,
    events: Vec<StoredEvent>,
    checkpoints: BTreeMap<u64, Checkpoint>,
    letters: Vec<Letter>,
    /// Letters that ever came, by name.
    known: BTreeSet<String>,
    /// Blobs that it refers to.
    blobs: BTreeSet<[u8; 32]>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: Uuid::now_v7(),
            clock: Clock::start(),
            shelves: Arc::new(Mutex::new(Some(Shelves::default()))),
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

    fn keep_blobs(&mut self, run: RunId, blobs: Vec<Blob>) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.blobs.extend(blobs.iter().map(|blob| blob.hash.0));
        }
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
}

/// Whether a list shows a run.
fn is_shown(filter: &RunFilter, run: &Run) -> bool {
    let head = &run.head;
    let text = run.text.to_ascii_lowercase();
    let one_of = |wanted: &[String], found: Option<&String>| {
        wanted.is_empty() || found.is_some_and(|found| wanted.contains(found))
    };
    filter.before.is_none_or(|before| head.id < before)
        && filter.tenant.as_ref().is_none_or(|tenant| *tenant == head.tenant)
        && filter.agent.as_ref().is_none_or(|agent| *agent == head.agent)
        && one_of(&filter.states, Some(&head.state))
        && filter.session.as_ref().is_none_or(|session| Some(session) == head.session.as_ref())
        && filter.tag.as_ref().is_none_or(|tag| head.tags.contains(tag))
        && filter.parent.is_none_or(|parent| Some(parent) == head.parent)
        && one_of(&filter.problems, head.problem.as_ref())
        && (!filter.any_problem || head.problem.is_some())
        && filter.since.is_none_or(|since| head.created_at >= since)
        && filter.until.is_none_or(|until| head.created_at < until)
        && filter.text.iter().all(|word| text.contains(&word.to_ascii_lowercase()))
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
            self.rank = turns::rank(at, self.head.priority);
        }
        self.head.state = update.state;
        self.head.disposition = rules::disposition(update.disposition, !self.letters.is_empty());
        self.head.problem = update.problem;
        self.head.summary = update.summary;
        self.head.updated_at = at;
    }

    /// It was parked, and has waited since then.
    fn wake(&mut self, since: Timestamp, now: Timestamp) {
        self.rank = turns::rank(since, self.head.priority);
        self.give_back(now);
    }

    /// It is ready, at the place that it had.
    fn give_back(&mut self, now: Timestamp) {
        self.head.disposition = Disposition::Ready;
        self.head.owner = None;
        self.head.updated_at = now;
    }
}

#[async_trait]
impl Journal for MemoryStore {
    async fn create(&self, new: NewRun) -> Result<Created, StoreError> {
        let mut shelves = self.open()?;
        rules::check_new_run(&new)?;
        let key = new.key.clone().map(|key| (new.tenant.clone(), key));
        if let Some(run) = key.as_ref().and_then(|key| shelves.keys.get(key)) {
            return Ok(Created::Existing(shelves.run(*run)?.head.clone()));
        }
        if shelves.runs.contains_key(&new.id) {
            return Err(StoreError::Exists { run: new.id });
        }
        let at = self.clock.now();
        let (rank, text) = (turns::rank(at, new.priority), new.searched().to_owned());
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
            session: new.session,
            tags: new.tags,
            parent: new.parent,
            problem: new.head.problem,
            summary: new.head.summary,
        };
        let mut run = Run {
            number: shelves.numbers,
            head,
            rank,
            text,
            events: Vec::new(),
            checkpoints: BTreeMap::new(),
            letters: Vec::new(),
            known: BTreeSet::new(),
            blobs: BTreeSet::new(),
        };
        shelves.numbers += 1;
        run.push(new.events, at);
        let head = run.head.clone();
        shelves.runs.insert(new.id, run);
        shelves.keys.extend(key.map(|key| (key, new.id)));
        shelves.keep_blobs(new.id, new.blobs);
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
        run.letters.retain(|letter| !append.taken.contains(&letter.number));
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
        shelves.keep_blobs(append.run, append.blobs);
        for settlement in append.keys {
            shelves.settle(settlement, at);
        }
        for letter in append.mail {
            // Whom it cannot reach any more is no reason to refuse what its sender has done.
            drop(shelves.send(letter, at));
        }
        shelves.write_facts(append.facts, at);
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
        let shown = shelves.runs.values().rev().filter(|run| is_shown(&filter, run));
        let heads = shown.map(|run| run.head.clone());
        Ok(Page::cut(heads.take(limit + 1).collect(), limit))
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        let mut counts = BTreeMap::<String, u64>::new();
        for run in self.open()?.runs.values() {
            let count = counts.entry(run.head.state.clone()).or_default();
            *count = (*count + 1).min(cap);
        }
        Ok(counts.into_iter().collect())
    }

    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError> {
        let mut shelves = self.open()?;
        shelves.runs.get_mut(&run).ok_or(StoreError::NotFound { run })?.head.problem = problem;
        Ok(())
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
