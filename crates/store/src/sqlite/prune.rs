//! Removing runs that are over, inside the writer's transaction, a bounded piece at a time.
//!
//! A run goes with its card first. What is left of a log too long for one transaction belongs to a
//! number without a card, which `meta` remembers; that number is given to no new run meanwhile.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::account;
use super::schema::{self, head_columns};
use super::writer::{Failure, Write};
use crate::{BlobHash, PRUNE_BYTES, PRUNE_ROWS_MAX, Prune, Pruned, RunHead, RunId, Timestamp};

/// The name in `meta` of the number whose remains are still to be removed.
pub(super) const PRUNING: &str = "pruning";

/// The family of a run must be over, too: a parent may still want the end of its child.
const FAMILY_IS_OVER: &str = "NOT EXISTS (SELECT 1 FROM run AS other \
     WHERE other.id = run.parent AND other.disposition <> 3) \
     AND NOT EXISTS (SELECT 1 FROM run AS other \
     WHERE other.parent = run.id AND other.disposition <> 3)";

/// By the tag, which the table is ordered by: by the run alone, every row of it would be read for each run.
pub(super) const DELETE_TAG: &str = "DELETE FROM tag WHERE tag = ?1 AND id = ?2";

/// How far the clock that made a run's id may be from the store's.
const DAY_MS: i64 = 24 * 3_600_000;

/// The runs to remove, oldest first. Read beside the writer, which looks at each again.
pub(super) fn choose(connection: &Connection, prune: &Prune) -> Result<Vec<RunId>, Failure> {
    if prune.limit == 0 {
        return Ok(Vec::new());
    }
    // The id bounds what is looked through.
    let latest = RunId::earliest(Timestamp(prune.ended_before.0.saturating_add(DAY_MS)));
    let marks = vec!["?"; prune.states.len()].join(", ");
    let states =
        if marks.is_empty() { String::new() } else { format!("AND run.state IN ({marks}) ") };
    let sql = format!(
        "SELECT id FROM run WHERE id < ? AND disposition = 3 AND updated_at < ? \
         AND created_at < ? {states}AND {FAMILY_IS_OVER} ORDER BY id LIMIT ?"
    );
    let before = rusqlite::types::Value::Integer(prune.ended_before.0);
    let limit = i64::try_from(prune.limit).unwrap_or(i64::MAX);
    let mut values = vec![latest.as_bytes().to_vec().into(), before.clone(), before];
    values.extend(prune.states.iter().cloned().map(rusqlite::types::Value::Text));
    values.push(limit.into());
    let mut select = connection.prepare_cached(&sql)?;
    let chosen =
        select.query_map(params_from_iter(values), |row| Ok(RunId::from_bytes(row.get(0)?)))?;
    Ok(chosen.collect::<Result<_, _>>()?)
}

/// One transaction's share of a prune.
pub(super) struct Step {
    pub(super) prune: Prune,
    pub(super) chosen: Vec<RunId>,
}

/// What it has done, and what is left to do.
pub(super) struct Stepped {
    pub(super) pruned: Pruned,
    pub(super) chosen: Vec<RunId>,
    pub(super) is_done: bool,
}

impl Write for Step {
    type Answer = Stepped;

    fn write(self, connection: &Connection, _: Timestamp) -> Result<Stepped, Failure> {
        let mut sweep = Sweep { connection, rows: 0, pruned: Pruned::default() };
        if let Some(run) = pending(connection)? {
            if !sweep.remains(run)? {
                let pruned = sweep.pruned;
                return Ok(Stepped { pruned, chosen: self.chosen, is_done: false });
            }
            connection.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([PRUNING])?;
        }
        let mut chosen = self.chosen.into_iter();
        while !sweep.is_full() {
            let Some(id) = chosen.next() else {
                return Ok(Stepped { pruned: sweep.pruned, chosen: Vec::new(), is_done: true });
            };
            let Some((run, head)) = removable(connection, &self.prune, id)? else { continue };
            sweep.card(run, &head)?;
            if !sweep.remains(run)? {
                connection
                    .prepare_cached("INSERT INTO meta (name, value) VALUES (?1, ?2)")?
                    .execute(params![PRUNING, run.to_string()])?;
                break;
            }
        }
        Ok(Stepped { pruned: sweep.pruned, chosen: chosen.collect(), is_done: false })
    }
}

/// The number whose remains are still to be removed.
pub(super) fn pending(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?1")?
        .query_row([PRUNING], |row| row.get(0))
        .optional()
}

/// The number and the card of a run, if it may still be removed.
fn removable(
    connection: &Connection,
    prune: &Prune,
    id: RunId,
) -> Result<Option<(i64, RunHead)>, Failure> {
    let sql =
        format!("SELECT {}, run FROM run WHERE id = ?1 AND {FAMILY_IS_OVER}", head_columns!());
    let found = connection
        .prepare_cached(&sql)?
        .query_row([id.as_bytes()], |row| Ok((row.get("run")?, schema::head(row)?)))
        .optional()?;
    Ok(found.filter(|(_, head)| prune.wants(head)))
}

/// What a transaction removes, and how much it has removed.
struct Sweep<'a> {
    connection: &'a Connection,
    rows: usize,
    pruned: Pruned,
}

impl Sweep<'_> {
    const fn is_full(&self) -> bool {
        self.rows >= PRUNE_ROWS_MAX || self.pruned.bytes >= PRUNE_BYTES
    }

    /// Removes the card and what a run is found by.
    fn card(&mut self, run: i64, head: &RunHead) -> rusqlite::Result<()> {
        let remove = |sql: &str, run| self.connection.prepare_cached(sql)?.execute([run]).map(drop);
        for tag in &head.tags {
            self.connection
                .prepare_cached(DELETE_TAG)?
                .execute(params![tag, head.id.as_bytes()])?;
        }
        remove("DELETE FROM run_text WHERE rowid = ?1", run)?;
        remove("DELETE FROM run WHERE run = ?1", run)?;
        self.rows += 1;
        self.pruned.runs += 1;
        Ok(())
    }

    /// Removes what belongs to a number, as far as this transaction goes; whether nothing is left.
    fn remains(&mut self, run: i64) -> rusqlite::Result<bool> {
        self.bodies(
            run,
            "SELECT number, length(body) FROM letter WHERE run = ?1 LIMIT ?2",
            "DELETE FROM letter WHERE number = ?1",
        )?;
        self.bodies(
            run,
            "SELECT rowid, length(body) FROM checkpoint WHERE run = ?1 LIMIT ?2",
            "DELETE FROM checkpoint WHERE rowid = ?1",
        )?;
        self.blobs(run)?;
        let events = self.bodies(
            run,
            "SELECT pos, length(body) FROM event WHERE run = ?1 ORDER BY seq LIMIT ?2",
            "DELETE FROM event WHERE pos = ?1",
        )?;
        self.pruned.events += events;
        // Only a transaction that is not full has looked at everything and found its end.
        Ok(!self.is_full() || self.is_empty(run)?)
    }

    fn is_empty(&self, run: i64) -> rusqlite::Result<bool> {
        let left = "SELECT EXISTS (SELECT 1 FROM letter WHERE run = ?1) \
                    OR EXISTS (SELECT 1 FROM checkpoint WHERE run = ?1) \
                    OR EXISTS (SELECT 1 FROM blob_ref WHERE run = ?1) \
                    OR EXISTS (SELECT 1 FROM event WHERE run = ?1)";
        let left: bool =
            self.connection.prepare_cached(left)?.query_row([run], |row| row.get(0))?;
        Ok(!left)
    }

    fn left(&self) -> i64 {
        i64::try_from(PRUNE_ROWS_MAX.saturating_sub(self.rows)).unwrap_or(0)
    }

    /// Removes rows with bodies; how many.
    fn bodies(&mut self, run: i64, select: &str, delete: &str) -> rusqlite::Result<u64> {
        let mut select = self.connection.prepare_cached(select)?;
        let found = select.query_map([run, self.left()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let found: Vec<(i64, u64)> = found.collect::<Result<_, _>>()?;
        let mut removed = 0;
        for (row, size_bytes) in found {
            if self.is_full() {
                break;
            }
            self.connection.prepare_cached(delete)?.execute([row])?;
            self.rows += 1;
            self.pruned.bytes += size_bytes;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes a run's hold on blobs, and those that nobody else holds.
    fn blobs(&mut self, run: i64) -> rusqlite::Result<()> {
        let mut select =
            self.connection.prepare_cached("SELECT hash FROM blob_ref WHERE run = ?1 LIMIT ?2")?;
        let found = select.query_map([run, self.left()], |row| row.get(0))?;
        let found: Vec<[u8; 32]> = found.collect::<Result<_, _>>()?;
        for hash in found {
            if self.is_full() {
                break;
            }
            self.rows += 1;
            self.connection
                .prepare_cached("DELETE FROM blob_ref WHERE run = ?1 AND hash = ?2")?
                .execute(params![run, hash])?;
            let size_bytes: Option<u64> = self
                .connection
                .prepare_cached(
                    "SELECT length(body) FROM blob WHERE hash = ?1 \
                     AND NOT EXISTS (SELECT 1 FROM blob_ref WHERE hash = ?1)",
                )?
                .query_row([hash], |row| row.get(0))
                .optional()?;
            let Some(size_bytes) = size_bytes else { continue };
            self.connection.prepare_cached("DELETE FROM blob WHERE hash = ?1")?.execute([hash])?;
            self.pruned.blobs += 1;
            self.pruned.bytes += size_bytes;
        }
        Ok(())
    }
}

/// Most findings of one kind that are told.
const FINDINGS_MAX: usize = 100;

/// What SQLite finds wrong with the file, rows that belong to nothing, and what is wrong with the ledger.
pub(super) fn examine(connection: &Connection) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let check = format!("PRAGMA integrity_check({FINDINGS_MAX})");
    let mut check = connection.prepare(&check)?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        if said != "ok" {
            found.push(format!("the database file: {said}; restore it from a backup"));
        }
    }
    let pending = pending(connection)?.unwrap_or(0);
    let limit = i64::try_from(FINDINGS_MAX).unwrap_or(i64::MAX);
    for (table, what) in [
        ("event", "events"),
        ("checkpoint", "checkpoints"),
        ("letter", "letters"),
        ("blob_ref", "uses of blobs"),
    ] {
        let sql = format!(
            "SELECT run, count(*) FROM {table} WHERE run NOT IN (0, ?1) \
             AND NOT EXISTS (SELECT 1 FROM run WHERE run.run = {table}.run) GROUP BY run LIMIT ?2"
        );
        let mut select = connection.prepare(&sql)?;
        let mut rows = select.query([pending, limit])?;
        while let Some(row) = rows.next()? {
            let (run, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            found.push(format!(
                "run number {run} has no card, and {what} ({count}); restore a backup"
            ));
        }
    }
    let mut select = connection.prepare(
        "SELECT hash FROM blob_ref WHERE NOT EXISTS \
         (SELECT 1 FROM blob WHERE blob.hash = blob_ref.hash) GROUP BY hash LIMIT ?1",
    )?;
    let mut rows = select.query([limit])?;
    while let Some(row) = rows.next()? {
        let hash = BlobHash(row.get(0)?);
        found.push(format!("blob {hash} is referred to and missing; restore a backup"));
    }
    found.extend(account::examine(connection)?);
    Ok(found)
}
