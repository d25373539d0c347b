//! Nodes, their leases, and what they take: inside the writer's transaction.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{self, head_columns};
use super::writer::{Failure, Write};
use crate::clock::millis;
use crate::turns::{AGEING, Caps, Line, Place, Turns};
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
                "UPDATE run SET disposition = 0, owner = NULL, updated_at = ?2, \
                 rank = coalesce(rank, updated_at - ?3 * priority) \
                 WHERE disposition = 1 AND owner = ?1",
            )?
            .execute(params![node, at.0, millis(Some(AGEING))])?;
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
                "UPDATE run SET disposition = 0, owner = NULL, updated_at = ?3, \
                 rank = coalesce(rank, updated_at - ?4 * priority) \
                 WHERE id = ?1 AND epoch = ?2 AND disposition = 1",
            )?
            .execute(params![self.run.as_bytes(), epoch, at.0, millis(Some(AGEING))])?;
        Ok(())
    }
}

pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) limit: usize,
    pub(super) caps: Caps,
}

impl Write for Claim {
    type Answer = Vec<RunHead>;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<RunHead>, Failure> {
        if expires_at(connection, &self.node)?.is_none_or(|expires_at| expires_at <= at.0) {
            return Err(lost(self.node));
        }
        make_ready(connection, at)?;
        let mut claim = connection.prepare_cached(concat!(
            "UPDATE run SET disposition = 1, wake_at = NULL, owner = ?2, \
             epoch = epoch + 1, updated_at = ?3 WHERE run = ?1 RETURNING ",
            head_columns!()
        ))?;
        let mut claimed = Vec::new();
        for run in choose(connection, self.limit, &self.caps)? {
            claimed.push(claim.query_row(params![run, self.node.as_str(), at.0], schema::head)?);
        }
        Ok(claimed)
    }
}

/// Runs whose wake-up time has come, or whose owner's lease has expired, become ready; the latter at the
/// place that they had. One that an earlier release has claimed has none: its waiting begins with what its
/// card tells last.
fn make_ready(connection: &Connection, at: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE run SET disposition = 0, rank = wake_at - ?2 * priority, wake_at = NULL, \
             updated_at = ?1 WHERE disposition = 2 AND wake_at <= ?1",
        )?
        .execute(params![at.0, millis(Some(AGEING))])?;
    // From now on the owner that lives no more, or believes that it still does, writes nothing.
    connection
        .prepare_cached(
            "UPDATE run SET disposition = 0, rank = coalesce(rank, updated_at - ?2 * priority), \
             owner = NULL, updated_at = ?1 WHERE disposition = 1 AND NOT EXISTS \
             (SELECT 1 FROM node WHERE node.id = run.owner AND node.expires_at > ?1)",
        )?
        .execute(params![at.0, millis(Some(AGEING))])?;
    Ok(())
}

/// The runs to serve, by their numbers.
fn choose(connection: &Connection, limit: usize, caps: &Caps) -> rusqlite::Result<Vec<i64>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut lines = lines(connection)?;
    let mut first = connection.prepare_cached(
        "SELECT rank, run FROM run WHERE disposition = 0 AND tenant = ?1 AND agent = ?2 \
         AND (rank, run) > (?3, ?4) ORDER BY rank, run LIMIT 1",
    )?;
    let mut next = |line: &Line, (rank, run): Place| {
        first
            .query_row(params![line.tenant, line.agent, rank, run], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
    };
    for line in &mut lines {
        line.first = next(line, (i64::MIN, i64::MIN))?;
    }
    let (chosen, served) = turns(connection, &lines)?.choose(lines, limit, caps, next)?;
    let mut remember =
        connection.prepare_cached("INSERT OR REPLACE INTO turn (tenant, turn) VALUES (?1, ?2)")?;
    for (tenant, turn) in served {
        remember.execute(params![tenant, turn])?;
    }
    Ok(chosen)
}

/// Tenants and agents with runs that are ready: from each to the next one in the index, instead of over
/// every run.
fn lines(connection: &Connection) -> rusqlite::Result<Vec<Line>> {
    let mut following = connection.prepare_cached(
        "SELECT tenant, agent FROM run WHERE disposition = 0 AND (tenant, agent) > (?1, ?2) \
         ORDER BY tenant, agent LIMIT 1",
    )?;
    let mut lines = Vec::new();
    let (mut tenant, mut agent) = (String::new(), String::new());
    loop {
        let found = following
            .query_row([&tenant, &agent], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some(found) = found else { return Ok(lines) };
        (tenant, agent) = found;
        lines.push(Line { tenant: tenant.clone(), agent: agent.clone(), first: None });
    }
}

/// What is under way, and when those who wait were served.
fn turns(connection: &Connection, lines: &[Line]) -> rusqlite::Result<Turns> {
    let mut turns = Turns::default();
    let mut held = connection.prepare_cached(
        "SELECT tenant, agent, count(*) FROM run WHERE disposition = 1 GROUP BY tenant, agent",
    )?;
    let mut rows = held.query([])?;
    while let Some(row) = rows.next()? {
        turns.held(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?, row.get(2)?);
    }
    let mut served = connection.prepare_cached(
        "SELECT tenant, turn FROM turn WHERE tenant = ?1 \
         UNION ALL SELECT * FROM (SELECT tenant, turn FROM turn ORDER BY turn DESC LIMIT 1)",
    )?;
    for line in lines {
        let mut rows = served.query([&line.tenant])?;
        while let Some(row) = rows.next()? {
            turns.served(row.get(0)?, row.get(1)?);
        }
    }
    Ok(turns)
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
