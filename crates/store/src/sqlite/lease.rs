//! Who executes which run, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::row;
use super::writer::Failure;
use crate::{NodeId, RunHead, StoreError, Timestamp};

pub(super) fn renew(
    conn: &Connection,
    node: &NodeId,
    ttl_ms: i64,
    now: Timestamp,
) -> Result<(), Failure> {
    if expiry(conn, node)?.is_some_and(|expires_at| expires_at <= now.0) {
        return Err(StoreError::NodeLost { node: node.clone() }.into());
    }
    conn.prepare_cached("INSERT OR REPLACE INTO node (id, expires_at) VALUES (?1, ?2)")?
        .execute(params![node.as_str(), now.0.saturating_add(ttl_ms)])?;
    Ok(())
}

pub(super) fn retire(conn: &Connection, node: &NodeId, now: Timestamp) -> Result<(), Failure> {
    conn.prepare_cached("DELETE FROM node WHERE id = ?1")?.execute([node.as_str()])?;
    conn.prepare_cached(
        "UPDATE run SET disposition = 0, owner = NULL, updated_at = ?2 \
         WHERE owner = ?1 AND disposition = 1",
    )?
    .execute(params![node.as_str(), now.0])?;
    Ok(())
}

/// The three kinds of claimable runs, each by its own index and each with the time since when it has
/// been waiting, together in the order in which they are taken.
const CLAIMABLE: &str = "
    SELECT id FROM (
        SELECT id, priority, updated_at AS since FROM (
            SELECT id, priority, updated_at FROM run WHERE disposition = 0
            ORDER BY priority DESC, updated_at, id LIMIT ?2)
        UNION ALL
        SELECT id, priority, wake_at FROM run
        WHERE disposition = 2 AND wake_at IS NOT NULL AND wake_at <= ?1
        UNION ALL
        SELECT id, priority, updated_at FROM run
        WHERE disposition = 1 AND owner NOT IN (SELECT id FROM node WHERE expires_at > ?1)
    )
    ORDER BY priority DESC, since, id LIMIT ?2";

pub(super) fn claim(
    conn: &Connection,
    node: &NodeId,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<RunHead>, Failure> {
    if expiry(conn, node)?.is_none_or(|expires_at| expires_at <= now.0) {
        return Err(StoreError::NodeLost { node: node.clone() }.into());
    }
    let mut claimable = conn.prepare_cached(CLAIMABLE)?;
    let runs = claimable.query_map([now.0, row::limit(limit)], |found| found.get(0))?;
    let runs: Vec<i64> = runs.collect::<Result<_, _>>()?;
    let sql = format!("SELECT {} FROM run WHERE id = ?1", row::HEAD);
    let mut select = conn.prepare_cached(&sql)?;
    let heads = runs.iter().map(|run| select.query_row([run], row::head));
    let mut heads: Vec<RunHead> = heads.collect::<Result<_, _>>()?;
    let mut take = conn.prepare_cached(
        "UPDATE run SET disposition = 1, wake_at = NULL, owner = ?2, epoch = epoch + 1, \
         updated_at = ?3 WHERE id = ?1",
    )?;
    for (run, head) in runs.iter().zip(&mut heads) {
        take.execute(params![run, node.as_str(), now.0])?;
        head.disposition = crate::Disposition::Held;
        head.owner = Some(node.clone());
        head.epoch += 1;
        head.updated_at = now;
    }
    Ok(heads)
}

/// The earliest moment at which a run becomes claimable by itself.
pub(super) fn next_wake(conn: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let parked = "SELECT min(wake_at) FROM run WHERE disposition = 2 AND wake_at IS NOT NULL";
    let expiring = "SELECT min(expires_at) FROM node \
         WHERE EXISTS (SELECT 1 FROM run WHERE disposition = 1 AND owner = node.id)";
    let earliest = |sql| conn.prepare_cached(sql)?.query_row([], |found| found.get(0));
    let times: [Option<i64>; 2] = [earliest(parked)?, earliest(expiring)?];
    Ok(times.into_iter().flatten().min().map(Timestamp))
}

fn expiry(conn: &Connection, node: &NodeId) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT expires_at FROM node WHERE id = ?1")?
        .query_row([node.as_str()], |found| found.get(0))
        .optional()
}
