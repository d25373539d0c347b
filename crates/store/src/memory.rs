//! A store in memory: the reference that the others are compared with. Nothing survives the process.

mod archive;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use uuid::Uuid;

use crate::clock::{Clock, millis};
use crate::rules::{SettledKey, StoredKey};
use crate::turns::{self, Caps, Line, Place, Turns};
use crate::{
    Append, Appended, Blob, BlobHash, CHECKPOINTS_KEPT, Catalog, Checkpoint, Created, Disposition,
    Fact, FactFilter, FactName, FactWrite, Facts, HeadUpdate, Journal, KeyClaim, KeyEnd, KeyName,
    KeySettlement, KeyStanding, Keys, Leases, Letter, Mail, Mailbox, NewEvent, NewRun, NodeId,
    Page, RunFilter, RunHead, RunId, Sent, Store, StoreError, StoredEvent, Timestamp, rules,
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
}

struct Run {
    /// The how-manieth run of the store it is: breaks ties between equally old ones.
    number: usize,
    head: RunHead,
    /// Its place in the line, while it is ready.
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

    fn send(&mut self, mail: Mail, now: Timestamp) -> Result<Sent, StoreError> {
        let number = self.letters + 1;
        let run = self.runs.get_mut(&mail.to).ok_or(StoreError::NotFound { run: mail.to })?;
        let (is_over, is_known) =
            (run.head.disposition == Disposition::Ended, run.known.contains(&mail.id));
        let sent = rules::admit_mail(is_over, is_known, run.letters.len())?;
        if sent == Sent::Kept {
            self.letters = number;
            run.known.insert(mail.id.clone());
            let Mail { to: _, id, kind, body } = mail;
            run.letters.push(Letter { number, id, kind, body, at: now });
            let disposition = rules::disposition(run.head.disposition, true);
            if disposition != run.head.disposition {
                run.make_ready(now, now);
            }
        }
        Ok(sent)
    }

    fn write_facts(&mut self, facts: Vec<FactWrite>, now: Timestamp) {
        for FactWrite { name, value, keep } in facts {
            let version = self.facts.get(&name).filter(|fact| holds(fact, now));
            let version = version.map_or(0, |fact| fact.version) + 1;
            let Some(value) = value else {
                self.facts.remove(&name);
                continue;
            };
            let expires_at = keep.map(|keep| Timestamp(now.0.saturating_add(millis(Some(keep)))));
            let fact = Fact { key: name.key.clone(), value, version, at: now, expires_at };
            self.facts.insert(name, fact);
        }
    }

    /// Runs whose wake-up time has come, or whose owner's lease has expired, become ready.
    fn make_ready(&mut self, now: Timestamp) {
        let nodes = &self.nodes;
        for run in self.runs.values_mut() {
            let head = &mut run.head;
            let lives = |owner: &NodeId| nodes.get(owner).is_some_and(|expires| *expires > now);
            match head.disposition {
                Disposition::Parked { wake_at: Some(wake_at) } if wake_at <= now => {
                    run.make_ready(wake_at, now);
                }
                Disposition::Held if !head.owner.as_ref().is_some_and(lives) => {
                    let since = head.updated_at;
                    run.make_ready(since, now);
                }
                _ => {}
            }
        }
    }

    /// The runs to serve.
    fn choose(&mut self, limit: usize, caps: &Caps) -> Vec<RunId> {
        let mut turns = Turns::default();
        let mut waiting = BTreeMap::<(String, String), BTreeMap<Place, RunId>>::new();
        for run in self.runs.values() {
            let RunHead { tenant, agent, disposition, id, .. } = &run.head;
            let place = (run.rank, i64::try_from(run.number).unwrap_or(i64::MAX));
            match disposition {
                Disposition::Held => turns.held(tenant, agent, 1),
                Disposition::Ready => {
                    let line = waiting.entry((tenant.clone(), agent.clone())).or_default();
                    line.insert(place, *id);
                }
                _ => {}
            }
        }
        for (tenant, turn) in &self.turns {
            turns.served(tenant.clone(), *turn);
        }
        let lines = waiting.iter().map(|((tenant, agent), runs)| Line {
            tenant: tenant.clone(),
            agent: agent.clone(),
            first: runs.keys().next().copied(),
        });
        let next = |line: &Line, place: Place| {
            let runs = waiting.get(&(line.tenant.clone(), line.agent.clone()));
            let behind = (Bound::Excluded(place), Bound::Unbounded);
            Ok::<_, Infallible>(runs.and_then(|runs| runs.range(behind).next()).map(|run| *run.0))
        };
        let Ok((chosen, served)) = turns.choose(lines.collect(), limit, caps, next);
        self.turns.extend(served);
        let places = waiting.values().flatten().map(|((_, number), run)| (*number, *run));
        let by_number: BTreeMap<i64, RunId> = places.collect();
        chosen.iter().filter_map(|number| by_number.get(number).copied()).collect()
    }
}

fn holds(fact: &Fact, now: Timestamp) -> bool {
    fact.expires_at.is_none_or(|expires_at| expires_at > now)
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
        }
        self.head.state = update.state;
        self.head.disposition = rules::disposition(update.disposition, !self.letters.is_empty());
        self.head.problem = update.problem;
        self.head.summary = update.summary;
        self.head.updated_at = at;
        self.rank = turns::rank(at, self.head.priority);
    }

    fn make_ready(&mut self, since: Timestamp, now: Timestamp) {
        self.head.disposition = Disposition::Ready;
        self.head.owner = None;
        self.head.updated_at = now;
        self.rank = turns::rank(since, self.head.priority);
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
impl Mailbox for MemoryStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        rules::check_mail(&mail)?;
        self.open()?.send(mail, self.clock.now())
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let shelves = self.open()?;
        Ok(shelves.run(run)?.letters.iter().take(limit).cloned().collect())
    }
}

#[async_trait]
impl Facts for MemoryStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        let now = self.clock.now();
        Ok(self.open()?.facts.get(name).filter(|fact| holds(fact, now)).cloned())
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        let (shelves, now) = (self.open()?, self.clock.now());
        let shown = shelves.facts.iter().filter(|(name, fact)| {
            name.scope == filter.scope
                && name.key.starts_with(&filter.prefix)
                && filter.after.as_ref().is_none_or(|after| name.key > *after)
                && holds(fact, now)
        });
        Ok(shown.map(|(_, fact)| fact.clone()).take(filter.page_size()).collect())
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        rules::check_facts(&facts)?;
        self.open()?.write_facts(facts, self.clock.now());
        Ok(())
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut shelves, now) = (self.open()?, self.clock.now());
        let over = shelves.facts.iter().filter(|(_, fact)| !holds(fact, now));
        let names: Vec<_> = over.map(|(name, _)| name.clone()).take(limit).collect();
        for name in &names {
            shelves.facts.remove(name);
        }
        Ok(names.len())
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
            run.make_ready(now, now);
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
            run.make_ready(now, now);
        }
        Ok(())
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        let mut shelves = self.open()?;
        let now = self.clock.now();
        if !shelves.lives(node, now) {
            return Err(StoreError::NodeLost { node: node.clone() });
        }
        shelves.make_ready(now);
        let mut claimed = Vec::new();
        for id in shelves.choose(limit, caps) {
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
            Disposition::Ready | Disposition::Held | Disposition::Paused | Disposition::Ended => {
                None
            }
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
