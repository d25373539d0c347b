//! Appending to runs. The rows of a batch are locked first, in one order for all nodes; then the rules
//! are applied to them as they are, and what is admitted is written with one statement for each table.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::link::{Failure, Link, Step, step};
use super::schema::{self, disposition_columns, now_ms};
use super::task::{Refusal, Write, Written};
use super::{facts, keys, mail};
use crate::rules::{self, Standing};
use crate::{
    Append, Appended, Blob, BlobHash, Changes, Disposition, KeySettlement, NewEvent, StoreError,
    Timestamp, turns,
};

/// What a row costs beside its body, roughly: for the size of a transaction.
const ROW_BYTES: usize = 100;

/// The rows of the runs themselves, and of those that they send letters to.
pub(super) const LOCK: &str = "SELECT id, run, epoch, head_seq, updated_at, disposition, wake_at, \
     priority FROM run WHERE id = ANY($1::uuid[]) ORDER BY run FOR UPDATE";
const NOW: &str = concat!("SELECT ", now_ms!());
const UPDATE: &str = "UPDATE run SET epoch = turn.epoch, head_seq = turn.head_seq, \
     updated_at = turn.updated_at, summary = coalesce(turn.summary, run.summary), \
     state = coalesce(turn.state, run.state), disposition = turn.disposition, \
     wake_at = turn.wake_at, \
     rank = CASE WHEN turn.state IS NULL OR turn.disposition = 1 THEN run.rank ELSE turn.rank END, \
     problem = CASE WHEN turn.state IS NULL THEN run.problem ELSE turn.problem END, \
     owner = CASE turn.disposition WHEN 1 THEN run.owner END \
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[], \
     $7::smallint[], $8::bigint[], $9::bigint[], $10::text[]) AS turn (run, epoch, head_seq, \
     updated_at, summary, state, disposition, wake_at, rank, problem) WHERE run.run = turn.run";
pub(super) const INSERT_EVENTS: &str = "INSERT INTO event (run, seq, at, kind, version, body) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[], \
     $6::bytea[])";
/// Locks every blob, so that none of them is removed before what refers to it is committed (see `prune`).
/// What is there is locked for sharing; what is not, or came up meanwhile, by its insertion.
pub(super) const INSERT_BLOBS: &str = "WITH known AS MATERIALIZED (SELECT hash FROM blob \
     WHERE hash = ANY($1::bytea[]) ORDER BY hash FOR KEY SHARE) INSERT INTO blob (hash, body) \
     SELECT hash, body FROM unnest($1::bytea[], $2::bytea[]) AS new (hash, body) \
     WHERE hash NOT IN (SELECT hash FROM known) ORDER BY hash \
     ON CONFLICT (hash) DO UPDATE SET body = blob.body WHERE false";
pub(super) const INSERT_REFS: &str = "INSERT INTO blob_ref (run, hash) \
     SELECT DISTINCT run, hash FROM unnest($1::bigint[], $2::bytea[]) AS new (run, hash) \
     ON CONFLICT DO NOTHING";
const INSERT_CHECKPOINTS: &str = "INSERT INTO checkpoint (run, seq, at, body) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) \
     ON CONFLICT (run, seq) DO UPDATE SET at = excluded.at, body = excluded.body";
const DROP_CHECKPOINTS: &str = "DELETE FROM checkpoint USING (SELECT run, seq, \
     row_number() OVER (PARTITION BY run ORDER BY seq DESC) AS age FROM checkpoint \
     WHERE run = ANY($1::bigint[])) AS kept WHERE kept.age > $2 \
     AND checkpoint.run = kept.run AND checkpoint.seq = kept.seq";

/// An append that waits to be written.
pub(super) struct Appending(pub(super) Append);

impl Write for Appending {
    type Answer = Appended;

    const STATEMENTS: &'static [&'static str] = &[
        LOCK,
        NOW,
        UPDATE,
        INSERT_EVENTS,
        INSERT_BLOBS,
        INSERT_REFS,
        INSERT_CHECKPOINTS,
        DROP_CHECKPOINTS,
        keys::LOCK_NAMES,
        keys::RECORD,
        keys::FREE,
        mail::TAKE,
        mail::SEND,
        mail::WAKE,
        facts::LOCK,
        facts::FORGET,
        facts::WRITE,
    ];
    const REPEATABLE: bool = false;

    fn size_bytes(&self) -> usize {
        size(&self.0.events, &self.0.blobs)
            + self.0.checkpoint.as_ref().map_or(0, bytes::Bytes::len)
            + self.0.head.as_ref().map_or(0, |head| head.summary.len())
    }

    fn place(&self) -> Option<[u8; 32]> {
        let mut place = [0; 32];
        place[..16].copy_from_slice(self.0.run.as_bytes());
        Some(place)
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Appended>, Failure> {
        let own = batch.iter().map(|append| schema::uuid(append.0.run));
        let others = batch.iter().flat_map(|append| &append.0.mail);
        let ids: Vec<_> = own.chain(others.map(|mail| schema::uuid(mail.to))).collect();
        let [rows, now] = link.begin([step(LOCK, &[&ids]), step(NOW, &[])]).await?;
        let now = schema::time(&now)?;
        let mut cards = HashMap::new();
        for row in &rows {
            let card = Card::read(row).map_err(|failure| failure.problem().to_owned());
            cards.insert(schema::run_id(row, 0)?, card);
        }
        let mut turns = Turns::default();
        let mut answers = Vec::with_capacity(batch.len());
        for Self(append) in batch {
            answers.push(admit(append, cards.get(&append.run), now, &mut turns));
        }
        turns.mail.find(&cards);
        let woken = turns.commit(link).await?;
        let mut changes = turns.changes;
        changes.ready |= woken;
        Ok(Written { answers, changes })
    }
}

/// Applies the rules, and notes what is to be written.
fn admit<'a>(
    append: &'a Append,
    card: Option<&Result<Card, String>>,
    now: Timestamp,
    turns: &mut Turns<'a>,
) -> Result<Appended, Refusal> {
    let card = match card {
        None => return Err(StoreError::NotFound { run: append.run }.into()),
        Some(Err(problem)) => return Err(Refusal::Damaged(problem.clone())),
        Some(Ok(card)) => card,
    };
    let epoch = rules::admit(append, &card.standing())?;
    // The clock of a database may be set back; what a log says never goes back.
    let at = now.max(card.updated_at);
    let head_seq = card.head_seq + append.events.len() as u64;
    turns.push(append, card, Appended { head_seq, epoch, at });
    Ok(Appended { head_seq, epoch, at })
}

/// The part of a row of `run` that an append decides by.
pub(super) struct Card {
    pub(super) run: i64,
    epoch: u64,
    head_seq: u64,
    updated_at: Timestamp,
    pub(super) disposition: Disposition,
    priority: i32,
}

impl Card {
    pub(super) fn read(row: &Row) -> Result<Self, Failure> {
        Ok(Self {
            run: row.try_get(1)?,
            epoch: schema::count(row, 2)?,
            head_seq: schema::count(row, 3)?,
            updated_at: Timestamp(row.try_get(4)?),
            disposition: schema::disposition(row, 5)?,
            priority: row.try_get(7)?,
        })
    }

    fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            head_seq: self.head_seq,
            held: self.disposition == Disposition::Held,
            ended: self.disposition == Disposition::Ended,
        }
    }
}

/// What the admitted appends of a batch write, a column each.
#[derive(Default)]
struct Turns<'a> {
    runs: Vec<i64>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
    updated: Vec<i64>,
    summaries: Vec<Option<&'a [u8]>>,
    states: Vec<Option<&'a str>>,
    dispositions: Vec<i16>,
    wakes: Vec<Option<i64>>,
    ranks: Vec<Option<i64>>,
    problems: Vec<Option<&'a str>>,
    events: Events<'a>,
    blobs: Vec<(i64, &'a Blob)>,
    mail: mail::Post<'a>,
    facts: facts::Facts<'a>,
    checkpoints: Checkpoints<'a>,
    keys: Vec<&'a KeySettlement>,
    keys_at: Timestamp,
    changes: Changes,
}

#[derive(Default)]
struct Checkpoints<'a> {
    runs: Vec<i64>,
    seqs: Vec<i64>,
    ats: Vec<i64>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Turns<'a> {
    fn push(&mut self, append: &'a Append, card: &Card, appended: Appended) {
        let Appended { head_seq, epoch, at } = appended;
        let head = append.head.as_ref();
        let unchanged = append.events.is_empty() && head.is_none();
        let disposition = head.map_or(card.disposition, |head| head.disposition);
        let (number, wake_at) = disposition_columns(disposition);
        self.runs.push(card.run);
        self.epochs.push(schema::stored(epoch));
        self.seqs.push(schema::stored(head_seq));
        self.updated.push(if unchanged { card.updated_at.0 } else { at.0 });
        self.summaries.push(head.map(|head| head.summary.as_ref()));
        self.states.push(head.map(|head| &*head.state));
        self.dispositions.push(number);
        self.wakes.push(wake_at);
        self.events.push(card.run, card.head_seq, at, &append.events);
        // A card that is not touched keeps its place in the line.
        let ready = disposition == Disposition::Ready;
        self.ranks.push(ready.then(|| turns::rank(at, card.priority)));
        self.problems.push(head.and_then(|head| head.problem.as_deref()));
        self.blobs.extend(append.blobs.iter().map(|blob| (card.run, blob)));
        self.mail.push(append, card.run, at);
        if matches!(disposition, Disposition::Parked { .. }) {
            self.mail.wake.push(card.run);
        }
        self.facts.extend(&append.facts, at);
        if let Some(body) = &append.checkpoint {
            self.checkpoints.runs.push(card.run);
            self.checkpoints.seqs.push(schema::stored(head_seq));
            self.checkpoints.ats.push(at.0);
            self.checkpoints.bodies.push(body);
        }
        self.keys.extend(&append.keys);
        self.keys_at = self.keys_at.max(at);
        self.changes.ready |= disposition == Disposition::Ready;
        if !append.events.is_empty() {
            self.changes.grown.insert(append.run, head_seq);
        }
    }

    /// Whether a letter has made a run ready.
    async fn commit(&self, link: &Link) -> Result<bool, Failure> {
        let refs = refs(&self.blobs);
        let (hashes, bodies) = blobs(self.blobs.clone());
        let settling = keys::Settling::of(&self.keys, self.keys_at);
        let turns: [&(dyn ToSql + Sync); 10] = [
            &self.runs,
            &self.epochs,
            &self.seqs,
            &self.updated,
            &self.summaries,
            &self.states,
            &self.dispositions,
            &self.wakes,
            &self.ranks,
            &self.problems,
        ];
        let events = self.events.values();
        let blobs: [&(dyn ToSql + Sync); 2] = [&hashes, &bodies];
        let kept = schema::stored(crate::CHECKPOINTS_KEPT as u64);
        let Checkpoints { runs, seqs, ats, bodies } = &self.checkpoints;
        let checkpoints: [&(dyn ToSql + Sync); 4] = [runs, seqs, ats, bodies];
        let drop: [&(dyn ToSql + Sync); 2] = [runs, &kept];
        let (lock, record, free) = (settling.names(), settling.recorded(), settling.freed());
        let refs: [&(dyn ToSql + Sync); 2] = [&refs.0, &refs.1];
        let (take, send, wake) = (self.mail.taken(), self.mail.sent(), self.mail.woken());
        let (known, forgotten, facts) =
            (self.facts.names(), self.facts.forgotten(), self.facts.written());
        let wakes = !self.mail.wake.is_empty();
        let has_blobs = !hashes.is_empty();
        let has_checkpoints = !runs.is_empty();
        let steps: [(bool, Step<'_>); 15] = [
            (!self.runs.is_empty(), step(UPDATE, &turns)),
            (!self.events.is_empty(), step(INSERT_EVENTS, &events)),
            (has_checkpoints, step(INSERT_CHECKPOINTS, &checkpoints)),
            (has_checkpoints, step(DROP_CHECKPOINTS, &drop)),
            (self.mail.takes(), step(mail::TAKE, &take)),
            (self.mail.sends(), step(mail::SEND, &send)),
            (has_blobs, step(INSERT_BLOBS, &blobs)),
            (has_blobs, step(INSERT_REFS, &refs)),
            (settling.any(), step(keys::LOCK_NAMES, &lock)),
            (settling.any_recorded(), step(keys::RECORD, &record)),
            (settling.any_freed(), step(keys::FREE, &free)),
            (self.facts.any(), step(facts::LOCK, &known)),
            (self.facts.any(), step(facts::FORGET, &forgotten)),
            (self.facts.any_written(), step(facts::WRITE, &facts)),
            // Last: what it gives is asked for.
            (wakes, step(mail::WAKE, &wake)),
        ];
        let steps: Vec<Step<'_>> =
            steps.into_iter().filter(|(needed, _)| *needed).map(|(_, step)| step).collect();
        let rows = link.commit(&steps).await?;
        Ok(wakes && rows.last().is_some_and(|woken| !woken.is_empty()))
    }
}

/// Rows of `event`, a column each.
#[derive(Default)]
pub(super) struct Events<'a> {
    runs: Vec<i64>,
    seqs: Vec<i64>,
    ats: Vec<i64>,
    kinds: Vec<&'a str>,
    versions: Vec<i32>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Events<'a> {
    pub(super) fn push(&mut self, run: i64, after: u64, at: Timestamp, events: &'a [NewEvent]) {
        for (seq, event) in (after + 1..).zip(events) {
            self.runs.push(run);
            self.seqs.push(schema::stored(seq));
            self.ats.push(at.0);
            self.kinds.push(&event.kind);
            self.versions.push(i32::from(event.version));
            self.bodies.push(&event.body);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn values(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.runs, &self.seqs, &self.ats, &self.kinds, &self.versions, &self.bodies]
    }
}

/// Hashes and bodies of blobs, each once.
pub(super) fn blobs(blobs: Vec<(i64, &Blob)>) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let mut blobs: Vec<&Blob> = blobs.into_iter().map(|(_, blob)| blob).collect();
    let hash = |blob: &&Blob| -> [u8; 32] {
        let BlobHash(hash) = blob.hash;
        hash
    };
    blobs.sort_unstable_by_key(hash);
    blobs.dedup_by_key(|blob| hash(blob));
    blobs.into_iter().map(|blob| (&blob.hash.0[..], blob.bytes.as_ref())).unzip()
}

/// Which run refers to which blob.
pub(super) fn refs<'a>(blobs: &[(i64, &'a Blob)]) -> (Vec<i64>, Vec<&'a [u8]>) {
    blobs.iter().map(|(run, blob)| (*run, &blob.hash.0[..])).unzip()
}

pub(super) fn size(events: &[NewEvent], blobs: &[Blob]) -> usize {
    let events = events.iter().map(|event| event.body.len());
    let blobs = blobs.iter().map(|blob| blob.bytes.len());
    events.chain(blobs).map(|body| body + ROW_BYTES).sum()
}
