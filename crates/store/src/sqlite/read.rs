//! Reads, each in one statement on a read-only connection: a read never holds the log back for long.

use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::schema::{self, head_columns};
use super::writer::Failure;
use crate::{
    BlobHash, Checkpoint, Page, RunFilter, RunHead, RunId, StoreError, StoredEvent, Timestamp,
};

fn number(connection: &Connection, run: RunId) -> Result<i64, Failure> {
    connection
        .prepare_cached("SELECT run FROM run WHERE id = ?1")?
        .query_row([run.as_bytes()], |row| row.get(0))
        .optional()?
        .ok_or(Failure::Refused(StoreError::NotFound { run }))
}

pub(super) fn events(
    connection: &Connection,
    run: RunId,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredEvent>, Failure> {
    let number = number(connection, run)?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut select = connection.prepare_cached(
        "SELECT seq, at, kind, version, body FROM event WHERE run = ?1 AND seq > ?2 \
         ORDER BY seq LIMIT ?3",
    )?;
    let events = select.query_map(params![number, after, limit], |row| {
        Ok(StoredEvent {
            seq: row.get(0)?,
            at: Timestamp(row.get(1)?),
            kind: row.get(2)?,
            version: row.get(3)?,
            body: row.get::<_, Vec<u8>>(4)?.into(),
        })
    })?;
    Ok(events.collect::<Result<_, _>>()?)
}

pub(super) fn checkpoints(connection: &Connection, run: RunId) -> Result<Vec<Checkpoint>, Failure> {
    let number = number(connection, run)?;
    let mut select = connection
        .prepare_cached("SELECT seq, at, body FROM checkpoint WHERE run = ?1 ORDER BY seq DESC")?;
    let checkpoints = select.query_map([number], |row| {
        Ok(Checkpoint {
            seq: row.get(0)?,
            at: Timestamp(row.get(1)?),
            body: row.get::<_, Vec<u8>>(2)?.into(),
        })
    })?;
    Ok(checkpoints.collect::<Result<_, _>>()?)
}

pub(super) fn blob(connection: &Connection, hash: BlobHash) -> Result<Option<Bytes>, Failure> {
    let found: Option<Vec<u8>> = connection
        .prepare_cached("SELECT body FROM blob WHERE hash = ?1")?
        .query_row([hash.0], |row| row.get(0))
        .optional()?;
    match found {
        Some(bytes) if BlobHash::of(&bytes) != hash => {
            Err(Failure::Refused(StoreError::Corrupt { hash }))
        }
        found => Ok(found.map(Bytes::from)),
    }
}

pub(super) fn head(connection: &Connection, run: RunId) -> Result<Option<RunHead>, Failure> {
    Ok(connection
        .prepare_cached(concat!("SELECT ", head_columns!(), " FROM run WHERE id = ?1"))?
        .query_row([run.as_bytes()], schema::head)
        .optional()?)
}

pub(super) fn list(connection: &Connection, filter: RunFilter) -> Result<Page, Failure> {
    let limit = filter.page_size();
    let mut sql = concat!("SELECT ", head_columns!(), " FROM run WHERE TRUE").to_owned();
    let mut values = Vec::new();
    for (condition, value) in [
        (" AND id < ?", filter.before.map(|before| Value::Blob(before.as_bytes().to_vec()))),
        (" AND tenant = ?", filter.tenant.map(Value::Text)),
        (" AND agent = ?", filter.agent.map(Value::Text)),
    ] {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    }
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(", ");
        sql.push_str(&format!(" AND state IN ({marks})"));
        values.extend(filter.states.into_iter().map(Value::Text));
    }
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", limit + 1));
    let mut select = connection.prepare_cached(&sql)?;
    let heads = select.query_map(params_from_iter(values), schema::head)?;
    Ok(Page::cut(heads.collect::<Result<_, _>>()?, limit))
}

pub(super) fn count_by_state(
    connection: &Connection,
    cap: u64,
) -> Result<Vec<(String, u64)>, Failure> {
    let cap = i64::try_from(cap).unwrap_or(i64::MAX);
    // From each state to the next one in the index, instead of over every run.
    let mut following = connection.prepare_cached("SELECT min(state) FROM run WHERE state > ?1")?;
    let mut count = connection
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM run WHERE state = ?1 LIMIT ?2)")?;
    let mut state: Option<String> =
        connection.query_row("SELECT min(state) FROM run", [], |row| row.get(0))?;
    let mut counts = Vec::new();
    while let Some(current) = state {
        let counted = count.query_row(params![current, cap], |row| row.get(0))?;
        state = following.query_row([&current], |row| row.get(0))?;
        counts.push((current, counted));
    }
    Ok(counts)
}

pub(super) fn next_wake(connection: &Connection) -> Result<Option<Timestamp>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT min(at) FROM (\
           SELECT min(wake_at) AS at FROM run WHERE disposition = 2 AND wake_at IS NOT NULL \
           UNION ALL \
           SELECT min(coalesce(node.expires_at, run.updated_at)) \
           FROM run LEFT JOIN node ON node.id = run.owner WHERE run.disposition = 1)",
    )?;
    Ok(select.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Timestamp))
}
