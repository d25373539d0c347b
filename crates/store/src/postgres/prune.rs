//! Removing runs that are over, a bounded transaction after the other in the writer's line, and looking for
//! rows that belong to nothing.
//!
//! A run goes with its card first. What is left of it then belongs to a number without a card, which a row
//! of `meta` remembers until nothing is left; a number is never given again.
//!
//! Nothing here waits for a row. A card that somebody else has locked is being changed, and what it still
//! has is not looked at; remains that another node removes are that node's. So no two nodes wait for each
//! other in a ring, whatever the order in which they lock.
//!
//! A blob may be referred to by an append of another node at the same moment. Whoever refers to a blob
//! holds its row against deletion from before its reference is written until after that is committed: an
//! existing row is locked `FOR KEY SHARE`, which many may hold at once, and a new one, or one that came up
//! meanwhile, is locked by the insertion (`ON CONFLICT DO NOTHING` would lock nothing). A prune deletes only
//! a blob that it has locked `FOR UPDATE`, and looks for references in a later statement, which sees
//! everything that was committed before the lock was had. Also a reference is removed only under that lock:
//! of two nodes that remove the last two references one comes second and finds none. A blob that is locked
//! right now keeps the reference, and its run's remains are gone through again, at the latest by the next call.

use super::link::{Failure, Link, step};
use super::task::{Write, Written};
use super::{PostgresStore, account, archive, schema};
use crate::{BlobHash, PRUNE_BYTES, PRUNE_ROWS_MAX, Prune, Pruned, RunId, StoreError, Timestamp};

/// A run may go as far as its own card says; `$2` is before when, `$3` in which states.
macro_rules! is_over {
    () => {
        "disposition = 3 AND updated_at < $2 AND created_at < $2 \
         AND (cardinality($3::text[]) = 0 OR state = ANY($3::text[])) "
    };
}

/// The family of a run must be over, too: a parent may still want the end of its child.
macro_rules! family_is_over {
    () => {
        "NOT EXISTS (SELECT 1 FROM run AS other WHERE other.id = run.parent \
         AND other.disposition <> 3) AND NOT EXISTS (SELECT 1 FROM run AS other \
         WHERE other.parent = run.id AND other.disposition <> 3) "
    };
}

/// The runs to remove, oldest first. Read beside the writer, which looks at each again.
pub(super) const CHOOSE: &str = concat!(
    "SELECT id FROM run WHERE id < $1 AND ",
    is_over!(),
    "AND ",
    family_is_over!(),
    "ORDER BY id LIMIT $4"
);
const LOCK: &str = concat!(
    "SELECT run FROM run WHERE id = ANY($1::uuid[]) AND ",
    is_over!(),
    "AND ",
    family_is_over!(),
    "ORDER BY run FOR UPDATE OF run SKIP LOCKED"
);
const REMEMBER: &str = "INSERT INTO meta (name, value) SELECT 'pruning/' || run, '' FROM unnest($1::bigint[]) AS gone (run)";
const DROP_TEXTS: &str = "DELETE FROM run_text WHERE run = ANY($1::bigint[])";
const DROP_CARDS: &str = "DELETE FROM run WHERE run = ANY($1::bigint[])";

/// Numbers whose remains are still to be removed.
const PENDING: &str = "SELECT CASE WHEN starts_with(name, 'pruning/') \
     THEN substr(name, 9)::bigint END AS run FROM meta WHERE CASE WHEN starts_with(name, 'pruning/') \
     THEN substr(name, 9)::bigint > $1 ELSE false END ORDER BY run LIMIT $2 FOR UPDATE SKIP LOCKED";
const LETTERS: &str =
    "SELECT run, number, octet_length(body) FROM letter WHERE run = ANY($1::bigint[]) LIMIT $2";
const DROP_LETTERS: &str = "DELETE FROM letter USING unnest($1::bigint[], $2::bigint[]) \
     AS gone (run, number) WHERE letter.number = gone.number AND letter.run = gone.run";
const CHECKPOINTS: &str =
    "SELECT run, seq, octet_length(body) FROM checkpoint WHERE run = ANY($1::bigint[]) LIMIT $2";
const DROP_CHECKPOINTS: &str = "DELETE FROM checkpoint USING unnest($1::bigint[], $2::bigint[]) \
     AS gone (run, seq) WHERE checkpoint.run = gone.run AND checkpoint.seq = gone.seq";
const EVENTS: &str =
    "SELECT run, seq, octet_length(body) FROM event WHERE run = ANY($1::bigint[]) LIMIT $2";
const DROP_EVENTS: &str = "DELETE FROM event USING unnest($1::bigint[], $2::bigint[]) \
     AS gone (run, seq) WHERE event.run = gone.run AND event.seq = gone.seq";
const REFS: &str = "SELECT run, hash, EXISTS (SELECT 1 FROM blob WHERE blob.hash = blob_ref.hash) \
     FROM blob_ref WHERE run = ANY($1::bigint[]) AND ($3::bytea IS NULL OR hash > $3) \
     ORDER BY hash, run LIMIT $2";
const LOCK_BLOBS: &str = "SELECT hash, octet_length(body) FROM blob WHERE hash = ANY($1::bytea[]) \
     ORDER BY hash FOR UPDATE SKIP LOCKED";
const DROP_REFS: &str = "DELETE FROM blob_ref USING unnest($1::bigint[], $2::bytea[]) \
     AS gone (run, hash) WHERE blob_ref.run = gone.run AND blob_ref.hash = gone.hash";
const DROP_BLOBS: &str = "DELETE FROM blob WHERE hash = ANY($1::bytea[]) AND NOT EXISTS \
     (SELECT 1 FROM blob_ref WHERE blob_ref.hash = blob.hash) RETURNING octet_length(body)";
const FORGET: &str = "DELETE FROM meta USING unnest($1::bigint[]) AS gone (run) \
     WHERE name = 'pruning/' || gone.run \
     AND NOT EXISTS (SELECT 1 FROM letter WHERE letter.run = gone.run) \
     AND NOT EXISTS (SELECT 1 FROM checkpoint WHERE checkpoint.run = gone.run) \
     AND NOT EXISTS (SELECT 1 FROM blob_ref WHERE blob_ref.run = gone.run) \
     AND NOT EXISTS (SELECT 1 FROM event WHERE event.run = gone.run) RETURNING 1";

/// How far the clock that made a run's id may be from the store's.
const DAY_MS: i64 = 24 * 3_600_000;

/// Cards removed in one transaction; each is three rows.
const CARDS: usize = PRUNE_ROWS_MAX / 3;

/// Numbers whose remains one transaction looks at.
const PENDING_AT_ONCE: i64 = 100;

pub(super) async fn prune(store: &PostgresStore, prune: &Prune) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    remains(store, &mut pruned).await?;
    if prune.limit == 0 {
        return Ok(pruned);
    }
    let wanted = prune.clone();
    let chosen = store.readers.read(|link| choose(link, wanted.clone())).await?;
    for chosen in chosen.chunks(CARDS) {
        let cards = Cards { prune: prune.clone(), chosen: chosen.to_vec() };
        pruned.runs += store.writer.write(cards).await?;
        remains(store, &mut pruned).await?;
    }
    Ok(pruned)
}

fn choose(link: &Link, prune: Prune) -> super::read::Reading<'_, Vec<RunId>> {
    Box::pin(async move {
        // The id bounds what is looked through.
        let latest = Timestamp(prune.ended_before.0.saturating_add(DAY_MS));
        let latest = schema::uuid(RunId::earliest(latest));
        let limit = schema::stored(prune.limit as u64);
        let before = prune.ended_before.0;
        let [rows] = link.query([step(CHOOSE, &[&latest, &before, &prune.states, &limit])]).await?;
        rows.iter().map(|row| schema::run_id(row, 0)).collect()
    })
}

/// Goes through what is left of runs without cards until nothing is, or the rest is locked.
async fn remains(store: &PostgresStore, pruned: &mut Pruned) -> Result<(), StoreError> {
    let (mut after, mut moved, mut passed) = (0, false, false);
    loop {
        let swept = store.writer.write(Remains { after }).await?;
        *pruned = pruned.plus(swept.pruned);
        match swept.last {
            Some(_) if swept.moved => moved = true,
            Some(last) => (after, passed) = (last, true),
            // What was locked before may be free by now.
            None if moved && passed => (after, moved, passed) = (0, false, false),
            None => return Ok(()),
        }
    }
}

/// Removes the cards of runs and what these are found by; how many.
pub(super) struct Cards {
    prune: Prune,
    chosen: Vec<RunId>,
}

impl Write for Cards {
    type Answer = u64;

    const STATEMENTS: &'static [&'static str] = &[LOCK, REMEMBER, DROP_TEXTS, DROP_CARDS];
    /// What is gone is not there to be removed again.
    const REPEATABLE: bool = true;

    fn place(&self) -> Option<[u8; 32]> {
        Some([u8::MAX; 32])
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<u64>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { prune, chosen } in batch {
            let ids: Vec<_> = chosen.iter().map(|run| schema::uuid(*run)).collect();
            let before = prune.ended_before.0;
            let [found] = link.query([step(LOCK, &[&ids, &before, &prune.states])]).await?;
            let runs = found.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
            link.query([
                step(REMEMBER, &[&runs]),
                step(DROP_TEXTS, &[&runs]),
                step(DROP_CARDS, &[&runs]),
            ])
            .await?;
            answers.push(Ok(runs.len() as u64));
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}

/// Removes what is left of runs without cards, of those with higher numbers than this one.
pub(super) struct Remains {
    after: i64,
}

/// What a transaction has removed.
pub(super) struct Swept {
    pruned: Pruned,
    /// The last number that was looked at; none if nothing is left.
    last: Option<i64>,
    /// Whether anything has become less.
    moved: bool,
}

impl Write for Remains {
    type Answer = Swept;

    const STATEMENTS: &'static [&'static str] = &[
        PENDING,
        LETTERS,
        DROP_LETTERS,
        CHECKPOINTS,
        DROP_CHECKPOINTS,
        EVENTS,
        DROP_EVENTS,
        REFS,
        LOCK_BLOBS,
        DROP_REFS,
        DROP_BLOBS,
        FORGET,
    ];
    const REPEATABLE: bool = true;

    fn place(&self) -> Option<[u8; 32]> {
        Some([u8::MAX; 32])
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Swept>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { after } in batch {
            let [pending] = link.query([step(PENDING, &[after, &PENDING_AT_ONCE])]).await?;
            let runs = pending.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
            let last = runs.last().copied();
            let mut sweep = Sweep { link, runs, rows: 0, pruned: Pruned::default() };
            let moved = last.is_some() && sweep.all().await?;
            answers.push(Ok(Swept { pruned: sweep.pruned, last, moved }));
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}

/// What a transaction removes, and how much it has removed.
struct Sweep<'a> {
    link: &'a Link,
    runs: Vec<i64>,
    rows: usize,
    pruned: Pruned,
}

impl Sweep<'_> {
    /// Whether anything was removed.
    async fn all(&mut self) -> Result<bool, Failure> {
        self.bodies(LETTERS, DROP_LETTERS).await?;
        self.bodies(CHECKPOINTS, DROP_CHECKPOINTS).await?;
        self.pruned.events += self.bodies(EVENTS, DROP_EVENTS).await?;
        let mut after: Option<Vec<u8>> = None;
        while !self.is_full() {
            after = self.blobs(after).await?;
            if after.is_none() {
                break;
            }
        }
        let [forgotten] = self.link.query([step(FORGET, &[&self.runs])]).await?;
        Ok(self.rows > 0 || !forgotten.is_empty())
    }

    const fn is_full(&self) -> bool {
        self.rows >= PRUNE_ROWS_MAX || self.pruned.bytes >= PRUNE_BYTES
    }

    const fn left(&self) -> usize {
        PRUNE_ROWS_MAX.saturating_sub(self.rows)
    }

    /// Removes rows with bodies; how many.
    async fn bodies(&mut self, select: &'static str, delete: &'static str) -> Result<u64, Failure> {
        if self.is_full() {
            return Ok(0);
        }
        let limit = schema::stored(self.left() as u64);
        let [found] = self.link.query([step(select, &[&self.runs, &limit])]).await?;
        let (mut runs, mut places): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
        for row in found {
            if self.is_full() {
                break;
            }
            runs.push(row.try_get(0)?);
            places.push(row.try_get(1)?);
            self.rows += 1;
            self.pruned.bytes += size(row.try_get(2)?);
        }
        if !runs.is_empty() {
            self.link.query([step(delete, &[&runs, &places])]).await?;
        }
        Ok(runs.len() as u64)
    }

    /// Removes holds on blobs, and those that nobody else holds. After which hash there may be more.
    async fn blobs(&mut self, after: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Failure> {
        let limit = schema::stored(self.left() as u64);
        let [found] = self.link.query([step(REFS, &[&self.runs, &limit, &after])]).await?;
        let (mut uses, mut hashes) = (Vec::new(), Vec::new());
        for row in &found {
            let hash: Vec<u8> = row.try_get(1)?;
            uses.push((row.try_get::<_, i64>(0)?, hash.clone(), row.try_get::<_, bool>(2)?));
            hashes.push(hash);
        }
        hashes.dedup();
        let Some(last) = hashes.last().cloned() else { return Ok(None) };
        let [rows] = self.link.query([step(LOCK_BLOBS, &[&hashes])]).await?;
        let mut locked = std::collections::BTreeMap::new();
        for row in &rows {
            locked.insert(row.try_get::<_, Vec<u8>>(0)?, size(row.try_get(1)?));
        }
        let mut size_bytes = 0;
        let (mut runs, mut gone, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for (run, hash, is_there) in uses {
            if self.is_full() || self.pruned.bytes + size_bytes >= PRUNE_BYTES {
                break;
            }
            // What is damaged and has lost its blob has nothing to lock.
            if is_there && !locked.contains_key(&hash) {
                continue;
            }
            if dropped.last() != Some(&hash) {
                size_bytes += locked.get(&hash).copied().unwrap_or(0);
                dropped.push(hash.clone());
            }
            self.rows += 1;
            runs.push(run);
            gone.push(hash);
        }
        let [_, freed] = self
            .link
            .query([step(DROP_REFS, &[&runs, &gone]), step(DROP_BLOBS, &[&dropped])])
            .await?;
        for row in &freed {
            self.pruned.blobs += 1;
            self.pruned.bytes += size(row.try_get(0)?);
        }
        Ok(Some(last))
    }
}

fn size(bytes: i32) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

/// Most findings of one kind that are told.
const FINDINGS_MAX: i64 = 100;

/// Rows of a table that belong to a run that is not there and is not just being removed.
macro_rules! orphans {
    ($table:literal) => {
        concat!(
            "SELECT run, count(*) FROM ",
            $table,
            " AS own WHERE run <> 0 AND NOT EXISTS (SELECT 1 FROM run WHERE run.run = own.run) \
             AND NOT EXISTS (SELECT 1 FROM meta WHERE name = 'pruning/' || own.run) \
             GROUP BY run ORDER BY run LIMIT $1"
        )
    };
}

const ORPHANS: [(&str, &str); 5] = [
    (orphans!("event"), "events"),
    (orphans!("checkpoint"), "checkpoints"),
    (orphans!("letter"), "letters"),
    (orphans!("blob_ref"), "uses of blobs"),
    (orphans!("run_text"), "searched texts"),
];
const MISSING: &str = "SELECT DISTINCT hash FROM blob_ref WHERE NOT EXISTS \
     (SELECT 1 FROM blob WHERE blob.hash = blob_ref.hash) ORDER BY hash LIMIT $1";

/// Rows that belong to nothing, blobs that are missing, and accounts that do not fit their holds; of one
/// moment.
pub(super) async fn examine(store: &PostgresStore) -> Result<Vec<String>, StoreError> {
    let statements = ORPHANS.iter().map(|(sql, _)| *sql).chain([MISSING, account::UNEVEN]);
    let link = archive::snapshot(store, statements).await?;
    find(&link).await.map_err(|failure| archive::told(&store.address, &failure))
}

async fn find(link: &Link) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for (sql, what) in ORPHANS {
        let [rows] = link.query([step(sql, &[&FINDINGS_MAX])]).await?;
        for row in &rows {
            let (run, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            found.push(format!(
                "run number {run} has no card, and {what} ({count}); restore a backup"
            ));
        }
    }
    let [rows] = link.query([step(MISSING, &[&FINDINGS_MAX])]).await?;
    for row in &rows {
        let hash: BlobHash = archive::hash(row, 0)?;
        found.push(format!("blob {hash} is referred to and missing; restore a backup"));
    }
    found.extend(account::examine(link, FINDINGS_MAX).await?);
    Ok(found)
}
