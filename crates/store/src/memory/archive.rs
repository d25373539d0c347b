//! Everything out, everything in: the reference for the stores that last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{MemoryStore, Run, Shelves};
use crate::archive::{AnswerRecord, PageOfRecords};
use crate::rules::{SettledKey, StoredKey, misuse};
use crate::{
    Archive, BlobHash, Checkpoint, Dump, Fact, FactName, KeyName, Letter, NodeId, Record, Restore,
    RunId, RunRecord, StoreError, StoredEvent,
};

struct MemoryDump(VecDeque<Record>);

#[async_trait]
impl Dump for MemoryDump {
    async fn next(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut page = PageOfRecords::default();
        while !page.is_full() {
            let Some(record) = self.0.pop_front() else { break };
            page.push(record);
        }
        Ok(page.records)
    }
}

impl Shelves {
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.blobs.is_empty()
            && self.facts.is_empty()
            && self.operations.is_empty()
            && self.ledger.is_empty()
    }

    fn records(&self) -> VecDeque<Record> {
        let keys: BTreeMap<_, _> = self.keys.iter().map(|((_, key), run)| (*run, key)).collect();
        let mut runs: Vec<&Run> = self.runs.values().collect();
        runs.sort_by_key(|run| run.number);
        let cards = runs.iter().map(|run| {
            let key = keys.get(&run.head.id).map(|key| (*key).clone());
            let (head, text) = (run.head.clone(), run.text.clone());
            Record::Run(Box::new(RunRecord::new(head, key, text, Some(run.rank))))
        });
        let mut records: VecDeque<Record> = cards.collect();
        for run in &runs {
            records.extend(run.events.iter().cloned().map(|event| event_record(run, event)));
        }
        for run in &runs {
            records.extend(run.checkpoints.values().cloned().map(|checkpoint| {
                let Checkpoint { seq, at, body } = checkpoint;
                Record::Checkpoint { run: run.head.id, seq, at, body }
            }));
        }
        records.extend(self.blobs.iter().map(|(hash, body)| {
            let (hash, body) = (BlobHash(*hash), body.clone());
            Record::Blob { hash, body }
        }));
        let kept = self.kept.iter().map(|hash| (None, *hash));
        let used =
            runs.iter().flat_map(|run| run.blobs.iter().map(|hash| (Some(run.head.id), *hash)));
        let uses =
            kept.chain(used).map(|(run, hash)| Record::BlobUse { run, hash: BlobHash(hash) });
        records.extend(uses);
        let mut letters: Vec<Record> = runs.iter().flat_map(|run| letter_records(run)).collect();
        letters.sort_by_key(|letter| match letter {
            Record::Letter { number, .. } => *number,
            _ => i64::MAX,
        });
        records.extend(letters);
        records.extend(self.facts.iter().map(|(name, fact)| fact_record(name, fact)));
        records.extend(self.operations.iter().map(|(name, key)| operation_record(name, key)));
        records.extend(self.ledger.records());
        records
    }
}

fn event_record(run: &Run, event: StoredEvent) -> Record {
    let StoredEvent { seq, at, kind, version, body } = event;
    Record::Event { run: run.head.id, seq, at, kind, version, body }
}

fn letter_records(run: &Run) -> Vec<Record> {
    let id = run.head.id;
    let waiting: BTreeSet<_> = run.letters.iter().map(|letter| letter.id.clone()).collect();
    let taken = run.known.difference(&waiting);
    let taken = taken.map(|name| Record::LetterTaken { run: id, id: name.clone() });
    let letters = run.letters.iter().cloned().map(|letter| {
        let Letter { number, id: name, kind, body, at } = letter;
        Record::Letter { run: id, number, id: name, kind, at, body }
    });
    letters.chain(taken).collect()
}

fn fact_record(name: &FactName, fact: &Fact) -> Record {
    let (FactName { scope, key }, fact) = (name.clone(), fact.clone());
    let Fact { key: _, value, version, at, expires_at } = fact;
    Record::Fact { scope, key, version, at, expires_at, value }
}

fn operation_record(name: &KeyName, stored: &StoredKey) -> Record {
    let (KeyName { scope, key }, stored) = (name.clone(), stored.clone());
    let answer = stored.settled.map(|settled| {
        let SettledKey { answer: body, at, expires_at } = settled;
        AnswerRecord { at, expires_at, body }
    });
    let StoredKey { digest, owner, node, since, settled: _ } = stored;
    Record::Operation { scope, key, digest, owner, node: node.to_string(), since, answer }
}

struct MemoryRestore {
    shelves: Shelves,
    target: Arc<Mutex<Option<Shelves>>>,
}

impl MemoryRestore {
    fn run(&mut self, run: RunId) -> Result<&mut Run, StoreError> {
        self.shelves.runs.get_mut(&run).ok_or(StoreError::NotFound { run })
    }

    fn take_run(&mut self, record: RunRecord) -> Result<(), StoreError> {
        let (head, key, text, rank) = record.into_parts();
        let shelves = &mut self.shelves;
        let id = head.id;
        let known = shelves.runs.contains_key(&id);
        let key = key.map(|key| (head.tenant.clone(), key));
        if known || key.as_ref().is_some_and(|key| shelves.keys.contains_key(key)) {
            return Err(StoreError::Exists { run: id });
        }
        let run = Run {
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
        shelves.keys.extend(key.map(|key| (key, id)));
        shelves.runs.insert(id, run);
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<(), StoreError> {
        record.check()?;
        match record {
            Record::Run(run) => self.take_run(*run)?,
            Record::Event { run, seq, at, kind, version, body } => {
                self.run(run)?.events.push(StoredEvent { seq, at, kind, version, body });
            }
            Record::Checkpoint { run, seq, at, body } => {
                self.run(run)?.checkpoints.insert(seq, Checkpoint { seq, at, body });
            }
            Record::Blob { hash, body } => drop(self.shelves.blobs.insert(hash.0, body)),
            Record::BlobUse { run: None, hash } => drop(self.shelves.kept.insert(hash.0)),
            Record::BlobUse { run: Some(run), hash } => drop(self.run(run)?.blobs.insert(hash.0)),
            Record::Letter { run, number, id, kind, at, body } => {
                self.shelves.letters = self.shelves.letters.max(number);
                let run = self.run(run)?;
                run.known.insert(id.clone());
                run.letters.push(Letter { number, id, kind, body, at });
            }
            Record::LetterTaken { run, id } => drop(self.run(run)?.known.insert(id)),
            Record::Fact { scope, key, version, at, expires_at, value } => {
                let fact = Fact { key: key.clone(), value, version, at, expires_at };
                self.shelves.facts.insert(FactName { scope, key }, fact);
            }
            Record::Operation { scope, key, digest, owner, node, since, answer } => {
                let settled = answer.map(|answer| {
                    let AnswerRecord { at, expires_at, body } = answer;
                    SettledKey { answer: body, at, expires_at }
                });
                let node = NodeId::from(node);
                let stored = StoredKey { digest, owner, node, since, settled };
                self.shelves.operations.insert(KeyName { scope, key }, stored);
            }
            other => self.shelves.ledger.take(other)?,
        }
        Ok(())
    }
}

#[async_trait]
impl Restore for MemoryRestore {
    async fn write(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        records.into_iter().try_for_each(|record| self.take(record))
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let whole = self.shelves.runs.values().all(|run| {
            let seqs = run.events.iter().map(|event| event.seq);
            seqs.eq(1..=run.head.head_seq)
        });
        if !whole {
            return Err(misuse("a log of the archive has a hole, or its card says another length"));
        }
        match self.target.lock().as_mut() {
            Some(target) if target.is_empty() => drop(mem::replace(target, self.shelves)),
            Some(_) => {
                return Err(StoreError::Occupied { place: "the store in memory".to_owned() });
            }
            None => return Err(misuse("the store has been closed")),
        }
        Ok(())
    }
}

#[async_trait]
impl Archive for MemoryStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        Ok(Box::new(MemoryDump(self.open()?.records())))
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        if !self.open()?.is_empty() {
            return Err(StoreError::Occupied { place: "the store in memory".to_owned() });
        }
        let (shelves, target) = (Shelves::default(), Arc::clone(&self.shelves));
        Ok(Box::new(MemoryRestore { shelves, target }))
    }
}
