//! Nodes, their leases, and what they take: inside the writer's transaction.

use std::cmp::Reverse;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::schema::{self, head_columns};
use super::writer::{Failure, Write};
use crate::clock::millis;
use crate::{NodeId, RunHead, RunId, StoreError, Timestamp};

pub(super) struct Renew {
    pub(super) node: NodeId,
    pub(super) ttl: Duration,
}

impl Write for Renew {
    type Answer = ();

    fn write(self, connection: &Connection, at: Timestamp) -> Result<(), Failure> {
        if expires_at(connection, &self.node)?.is_some_and(|expires_at| expires_at <= at.0) {
            return Err(lost(self.node));
        }
        let expires_at = at.0.saturating_add(millis(Some(self.ttl)));
        connection
            .prepare_cached("INSERT OR REPLACE INTO node (id, expires_at) VALUES (?1, ?2)")?
            .execute(params![self.node.as_str(), expires_at])?;
        Ok(())
    }
}

pub(super) struct Retire {
    pub(super) node: NodeId,
}

impl Write for Retire {
    type Answer = ();

    fn write(self, connection: &Connection, at: Timestamp) -> Result<(), Failure> {
        let node = self.node.as_str();
        connection.prepare_cached("DELETE FROM node WHERE id = ?1")?.execute([node])?;
        connection
            .prepare_cached(
                "UPDATE run SET disposition = 0, owner = NULL, updated_at = ?2 \
                 WHERE disposition = 1 AND owner = ?1",
            )?
            .execute(params![node, at.0])?;
        Ok(())
    }
}

pub(super) struct Release {
    pub(super) run: RunId,
    pub(super) epoch: u64,
}

impl Write for Release {
    type Answer = ();

    fn write(self, connection: &Connection, at: Timestamp) -> Result<(), Failure> {
        // A number that SQLite cannot hold is no epoch of it.
        let Ok(epoch) = i64::try_from(self.epoch) else { return Ok(()) };
        connection
            .prepare_cached(
                "UPDATE run SET disposition = 0, owner = NULL, updated_at = ?3 \
                 WHERE id = ?1 AND epoch = ?2 AND disposition = 1",
            )?
            .execute(params![self.run.as_bytes(), epoch, at.0])?;
        Ok(())
    }
}

pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) limit: usize,
}

/// A run that waits for a node; the order of the tuple is the order of service.
type Waiting = (Reverse<i32>, i64, i64);

impl Write for Claim {
    type Answer = Vec<RunHead>;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<RunHead>, Failure> {
        if expires_at(connection, &self.node)?.is_none_or(|expires_at| expires_at <= at.0) {
            return Err(lost(self.node));
        }
        let mut claim = connection.prepare_cached(concat!(
            "UPDATE run SET disposition = 1, wake_at = NULL, owner = ?2, epoch = epoch + 1, \
             updated_at = ?3 WHERE run = ?1 RETURNING ",
            head_columns!()
        ))?;
        let mut claimed = Vec::new();
        for (.., run) in waiting(connection, at, self.limit)? {
            claimed.push(claim.query_row(params![run, self.node.as_str(), at.0], schema::head)?);
        }
        Ok(claimed)
    }
}

/// The first `limit` runs to serve. Each of the three ways to wait has an index of its own, so the
/// first of each are merged.
fn waiting(connection: &Connection, at: Timestamp, limit: usize) -> rusqlite::Result<Vec<Waiting>> {
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut waiting = select(
        connection,
        "SELECT priority, updated_at, run FROM run WHERE disposition = 0 \
         ORDER BY priority DESC, updated_at, run LIMIT ?1",
        [rows],
    )?;
    waiting.extend(select(
        connection,
        "SELECT priority, wake_at, run FROM run WHERE disposition = 2 AND wake_at <= ?2 \
         ORDER BY priority DESC, wake_at, run LIMIT ?1",
        [rows, at.0],
    )?);
    waiting.extend(select(
        connection,
        "SELECT priority, updated_at, run FROM run WHERE disposition = 1 AND NOT EXISTS \
         (SELECT 1 FROM node WHERE node.id = run.owner AND node.expires_at > ?2) \
         ORDER BY priority DESC, updated_at, run LIMIT ?1",
        [rows, at.0],
    )?);
    waiting.sort_unstable();
    waiting.truncate(limit);
    Ok(waiting)
}

fn select(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<Waiting>> {
    connection
        .prepare_cached(sql)?
        .query_map(params, |row| Ok((Reverse(row.get(0)?), row.get(1)?, row.get(2)?)))?
        .collect()
}

pub(super) fn expires_at(connection: &Connection, node: &NodeId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT expires_at FROM node WHERE id = ?1")?
        .query_row([node.as_str()], |row| row.get(0))
        .optional()
}

fn lost(node: NodeId) -> Failure {
    Failure::Refused(StoreError::NodeLost { node })
}
