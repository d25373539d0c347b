//! What grows a run's log, inside the writer's transaction: checked first, then written, so that a
//! refusal leaves nothing to undo.

use rusqlite::{Connection, OptionalExtension, params};

use super::row::{self, signed};
use super::writer::Failure;
use crate::{
    Append, Appended, Blob, CHECKPOINTS_KEPT, Created, HeadUpdate, NewEvent, NewRun, RunHead,
    RunId, StoreError, Timestamp, rules,
};

pub(super) fn create(
    conn: &Connection,
    new: NewRun,
    at: Timestamp,
) -> Result<Created, Failure> {
    if let Some(key) = &new.key
        && let Some(head) = by_key(conn, &new.tenant, key)?
    {
        return Ok(Created::Existing(head));
    }
    if is_taken(conn, new.id)? {
        return Err(StoreError::Exists { run: new.id }.into());
    }
    let (disposition, wake_at) = row::encode(new.head.disposition);
    let head_seq = new.events.len() as u64;
    conn.prepare_cached(
        "INSERT INTO run (public_id, tenant, agent, key, state, disposition, wake_at, priority, \
         epoch, owner, head_seq, created_at, updated_at, summary) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, NULL, ?9, ?10, ?10, ?11)",
    )?
    .execute(params![
        new.id.as_bytes(),
        new.tenant,
        new.agent,
        new.key,
        new.head.state,
        disposition,
        wake_at,
        new.priority,
        signed(head_seq),
        at.0,
        &*new.head.summary,
    ])?;
    insert_events(conn, conn.last_insert_rowid(), 0, &new.events, at)?;
    insert_blobs(conn, &new.blobs)?;
    Ok(Created::New(RunHead {
        id: new.id,
        tenant: new.tenant,
        agent: new.agent,
        state: new.head.state,
        disposition: new.head.disposition,
        priority: new.priority,
        epoch: 0,
        owner: None,
        head_seq,
        created_at: at,
        updated_at: at,
        summary: new.head.summary,
    }))
}

pub(super) fn append(
    conn: &Connection,
    append: &Append,
    at: Timestamp,
) -> Result<Appended, Failure> {
    let (run, standing) =
        standing(conn, append.run)?.ok_or(StoreError::NotFound { run: append.run })?;
    let epoch = rules::admit(append, &standing)?;
    let head_seq = standing.head_seq + append.events.len() as u64;
    insert_events(conn, run, standing.head_seq, &append.events, at)?;
    insert_blobs(conn, &append.blobs)?;
    if let Some(head) = &append.head {
        turn(conn, run, epoch, head_seq, head, at)?;
    } else if !append.events.is_empty() {
        conn.prepare_cached("UPDATE run SET head_seq = ?2, updated_at = ?3 WHERE id = ?1")?
            .execute(params![run, signed(head_seq), at.0])?;
    }
    if let Some(body) = &append.checkpoint {
        keep_checkpoint(conn, run, head_seq, body, at)?;
    }
    Ok(Appended { head_seq, epoch, at })
}

fn by_key(conn: &Connection, tenant: &str, key: &str) -> rusqlite::Result<Option<RunHead>> {
    let sql = format!("SELECT {} FROM run WHERE tenant = ?1 AND key = ?2", row::HEAD);
    conn.prepare_cached(&sql)?.query_row([tenant, key], row::head).optional()
}

fn is_taken(conn: &Connection, run: RunId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM run WHERE public_id = ?1")?.exists([run.as_bytes()])
}

fn standing(
    conn: &Connection,
    run: RunId,
) -> rusqlite::Result<Option<(i64, rules::Standing)>> {
    conn.prepare_cached(
        "SELECT id, epoch, head_seq, disposition FROM run WHERE public_id = ?1",
    )?
    .query_row([run.as_bytes()], |found| {
        let disposition: i64 = found.get(3)?;
        let standing = rules::Standing {
            epoch: row::unsigned(found, 1)?,
            head_seq: row::unsigned(found, 2)?,
            held: disposition == row::HELD,
            ended: disposition == row::ENDED,
        };
        Ok((found.get(0)?, standing))
    })
    .optional()
}

fn insert_events(
    conn: &Connection,
    run: i64,
    after: u64,
    events: &[NewEvent],
    at: Timestamp,
) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO event (run, seq, at, kind, version, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (seq, event) in (after + 1..).zip(events) {
        insert.execute(params![
            run,
            signed(seq),
            at.0,
            &*event.kind,
            event.version,
            &*event.body
        ])?;
    }
    Ok(())
}

fn insert_blobs(conn: &Connection, blobs: &[Blob]) -> rusqlite::Result<()> {
    for blob in blobs {
        conn.prepare_cached("INSERT OR IGNORE INTO blob (hash, body) VALUES (?1, ?2)")?
            .execute(params![blob.hash.0, &*blob.bytes])?;
    }
    Ok(())
}

/// Gives the card its new face; unless it stays held, nobody owns the run afterwards.
fn turn(
    conn: &Connection,
    run: i64,
    epoch: u64,
    head_seq: u64,
    head: &HeadUpdate,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let (disposition, wake_at) = row::encode(head.disposition);
    conn.prepare_cached(
        "UPDATE run SET epoch = ?2, head_seq = ?3, updated_at = ?4, state = ?5, disposition = ?6, \
         wake_at = ?7, summary = ?8, owner = iif(?6 = 1, owner, NULL) WHERE id = ?1",
    )?
    .execute(params![
        run,
        signed(epoch),
        signed(head_seq),
        at.0,
        head.state,
        disposition,
        wake_at,
        &*head.summary
    ])?;
    Ok(())
}

fn keep_checkpoint(
    conn: &Connection,
    run: i64,
    seq: u64,
    body: &[u8],
    at: Timestamp,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO checkpoint (run, seq, at, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![run, signed(seq), at.0, body])?;
    conn.prepare_cached(
        "DELETE FROM checkpoint WHERE run = ?1 AND seq <= \
         (SELECT seq FROM checkpoint WHERE run = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![run, row::limit(CHECKPOINTS_KEPT)])?;
    Ok(())
}
