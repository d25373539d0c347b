//! Creating runs and appending to them, inside the writer's transaction. Each checks first and
//! writes then, so that a refusal leaves nothing behind for the others in the transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{self, disposition_columns, head_columns};
use super::seal::seal;
use super::writer::{Failure, Write};
use super::{facts, keys, mail};
use crate::rules::{self, Standing};
use crate::turns;
use crate::{
    Append, Appended, Blob, CHECKPOINTS_KEPT, Created, Disposition, HeadUpdate, NewEvent, NewRun,
    RunHead, RunId, StoreError, Timestamp,
};

/// What a row costs beside its body, roughly: for the size of a transaction.
const ROW_BYTES: usize = 100;

impl Write for NewRun {
    type Answer = Created;

    fn size_bytes(&self) -> usize {
        size(&self.events, &self.blobs) + self.head.summary.len()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Created, Failure> {
        if let Some(key) = &self.key {
            let existing = connection
                .prepare_cached(concat!(
                    "SELECT ",
                    head_columns!(),
                    " FROM run WHERE tenant = ?1 AND key = ?2"
                ))?
                .query_row(params![self.tenant, key], schema::head)
                .optional()?;
            if let Some(head) = existing {
                return Ok(Created::Existing(head));
            }
        }
        let taken = connection
            .prepare_cached("SELECT 1 FROM run WHERE id = ?1")?
            .exists([self.id.as_bytes()])?;
        if taken {
            return Err(Failure::Refused(StoreError::Exists { run: self.id }));
        }
        let text = self.searched().to_owned();
        let head = RunHead {
            id: self.id,
            tenant: self.tenant,
            agent: self.agent,
            state: self.head.state,
            disposition: self.head.disposition,
            priority: self.priority,
            epoch: 0,
            owner: None,
            head_seq: self.events.len() as u64,
            created_at: at,
            updated_at: at,
            session: self.session,
            tags: self.tags,
            parent: self.parent,
            problem: self.head.problem,
            summary: self.head.summary,
        };
        let rank = rank(head.disposition, head.updated_at, head.priority);
        let run = insert_run(connection, &head, self.key.as_deref(), rank)?;
        insert_finds(connection, run, &head, &text)?;
        insert_events(connection, run, 0, &self.events, at)?;
        insert_blobs(connection, run, &self.blobs)?;
        Ok(Created::New(head))
    }
}

impl Write for Append {
    type Answer = Appended;

    fn size_bytes(&self) -> usize {
        size(&self.events, &self.blobs)
            + self.checkpoint.as_ref().map_or(0, bytes::Bytes::len)
            + self.head.as_ref().map_or(0, |head| head.summary.len())
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Appended, Failure> {
        let card = Card::read(connection, &self)?;
        let epoch = rules::admit(&self, &card.standing()).map_err(Failure::Refused)?;
        let head_seq = card.head_seq + self.events.len() as u64;
        let updated_at =
            if self.events.is_empty() && self.head.is_none() { card.updated_at } else { at };
        mail::take(connection, card.run, &self.taken)?;
        let mut head = self.head;
        if let Some(head) = &mut head {
            let has_mail = || mail::waits(connection, card.run);
            let parks = matches!(head.disposition, Disposition::Parked { .. });
            head.disposition = rules::disposition(head.disposition, parks && has_mail()?);
        }
        card.update(connection, &Turn { epoch, head_seq, updated_at, head: head.as_ref() })?;
        insert_events(connection, card.run, card.head_seq, &self.events, at)?;
        insert_blobs(connection, card.run, &self.blobs)?;
        if let Some(body) = &self.checkpoint {
            insert_checkpoint(connection, card.run, head_seq, at, body)?;
        }
        for settlement in &self.keys {
            keys::settle(connection, settlement, at)?;
        }
        for letter in &self.mail {
            // Whom a letter cannot reach any more is no reason to refuse what its sender has done.
            mail::send(connection, letter, at).map(drop).or_else(Failure::spare)?;
        }
        facts::write(connection, &self.facts, at)?;
        Ok(Appended { head_seq, epoch, at })
    }
}

/// The part of a row of `run` that an append decides by.
struct Card {
    run: i64,
    epoch: u64,
    head_seq: u64,
    updated_at: Timestamp,
    state: String,
    disposition: Disposition,
    priority: i32,
    problem: Option<String>,
}

/// What an append makes of a row of `run`.
struct Turn<'a> {
    epoch: u64,
    head_seq: u64,
    updated_at: Timestamp,
    head: Option<&'a HeadUpdate>,
}

impl Card {
    fn read(connection: &Connection, append: &Append) -> Result<Self, Failure> {
        connection
            .prepare_cached(
                "SELECT run, epoch, head_seq, updated_at, state, disposition, wake_at, priority, \
                 problem FROM run WHERE id = ?1",
            )?
            .query_row([append.run.as_bytes()], |row| {
                Ok(Self {
                    run: row.get(0)?,
                    epoch: row.get(1)?,
                    head_seq: row.get(2)?,
                    updated_at: Timestamp(row.get(3)?),
                    state: row.get(4)?,
                    disposition: schema::disposition(row, 5)?,
                    priority: row.get(7)?,
                    problem: row.get(8)?,
                })
            })
            .optional()?
            .ok_or(Failure::Refused(StoreError::NotFound { run: append.run }))
    }

    fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            head_seq: self.head_seq,
            held: self.disposition == Disposition::Held,
            ended: self.disposition == Disposition::Ended,
        }
    }

    /// SQLite rewrites an index entry whenever its column is named, even with the same value:
    /// columns that stay are therefore not named.
    fn update(&self, connection: &Connection, turn: &Turn<'_>) -> rusqlite::Result<()> {
        let Turn { epoch, head_seq, updated_at, head } = turn;
        match head {
            None => connection
                .prepare_cached(
                    "UPDATE run SET epoch = ?2, head_seq = ?3, updated_at = ?4 WHERE run = ?1",
                )?
                .execute(params![self.run, epoch, head_seq, updated_at.0])?,
            Some(head)
                if head.state == self.state
                    && head.disposition == self.disposition
                    && head.disposition != Disposition::Ready
                    && head.problem == self.problem =>
            {
                let summary = head.summary.as_ref();
                connection
                    .prepare_cached(
                        "UPDATE run SET epoch = ?2, head_seq = ?3, updated_at = ?4, summary = ?5 \
                         WHERE run = ?1",
                    )?
                    .execute(params![self.run, epoch, head_seq, updated_at.0, summary])?
            }
            Some(head) => {
                let (disposition, wake_at) = disposition_columns(head.disposition);
                let summary = head.summary.as_ref();
                connection
                    .prepare_cached(
                        "UPDATE run SET epoch = ?2, head_seq = ?3, updated_at = ?4, summary = ?5, \
                         state = ?6, disposition = ?7, wake_at = ?8, problem = ?10, \
                         rank = CASE WHEN ?7 = 1 THEN rank ELSE ?9 END, \
                         owner = CASE WHEN ?7 = 1 THEN owner END WHERE run = ?1",
                    )?
                    .execute(params![
                        self.run,
                        epoch,
                        head_seq,
                        updated_at.0,
                        summary,
                        head.state,
                        disposition,
                        wake_at,
                        rank(head.disposition, *updated_at, self.priority),
                        head.problem
                    ])?
            }
        };
        Ok(())
    }
}

/// The place in the line of a run that becomes ready.
fn rank(disposition: Disposition, since: Timestamp, priority: i32) -> Option<i64> {
    (disposition == Disposition::Ready).then(|| turns::rank(since, priority))
}

fn size(events: &[NewEvent], blobs: &[Blob]) -> usize {
    let events = events.iter().map(|event| event.body.len());
    let blobs = blobs.iter().map(|blob| blob.bytes.len());
    events.chain(blobs).map(|body| body + ROW_BYTES).sum()
}

/// Writes a new card; its number.
pub(super) fn insert_run(
    connection: &Connection,
    head: &RunHead,
    key: Option<&str>,
    rank: Option<i64>,
) -> rusqlite::Result<i64> {
    let (disposition, wake_at) = disposition_columns(head.disposition);
    connection
        .prepare_cached(
            // A number whose log is still being removed is given to nobody.
            "INSERT INTO run (run, id, tenant, agent, key, state, disposition, wake_at, priority, \
             epoch, head_seq, created_at, updated_at, summary, rank, session, tags, parent, problem) \
             VALUES ((SELECT 1 + max(CAST(value AS INTEGER), (SELECT coalesce(max(run), 0) FROM run)) \
             FROM meta WHERE name = 'pruning'), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .insert(params![
            head.id.as_bytes(),
            head.tenant,
            head.agent,
            key,
            head.state,
            disposition,
            wake_at,
            head.priority,
            head.epoch,
            head.head_seq,
            head.created_at.0,
            head.updated_at.0,
            head.summary.as_ref(),
            rank,
            head.session,
            schema::tags_column(&head.tags),
            head.parent.as_ref().map(RunId::as_bytes),
            head.problem
        ])
}

/// What a run is found by beside its card.
pub(super) fn insert_finds(
    connection: &Connection,
    run: i64,
    head: &RunHead,
    text: &str,
) -> rusqlite::Result<()> {
    for tag in &head.tags {
        connection
            .prepare_cached("INSERT OR IGNORE INTO tag (tag, id) VALUES (?1, ?2)")?
            .execute(params![tag, head.id.as_bytes()])?;
    }
    if !text.is_empty() {
        connection
            .prepare_cached("INSERT INTO run_text (rowid, text) VALUES (?1, ?2)")?
            .execute(params![run, text])?;
    }
    Ok(())
}

fn insert_events(
    connection: &Connection,
    run: i64,
    after: u64,
    events: &[NewEvent],
    at: Timestamp,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO event (run, seq, at, kind, version, body, seal) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (seq, event) in (after + 1..).zip(events) {
        let NewEvent { kind, version, body } = event;
        let numbers = [run, seq.cast_signed(), at.0, i64::from(*version)];
        let seal = seal(&numbers, &[kind.as_bytes(), body]);
        insert.execute(params![run, seq, at.0, kind, version, body.as_ref(), seal])?;
    }
    Ok(())
}

fn insert_blobs(connection: &Connection, run: i64, blobs: &[Blob]) -> rusqlite::Result<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let mut insert =
        connection.prepare_cached("INSERT OR IGNORE INTO blob (hash, body) VALUES (?1, ?2)")?;
    let mut refer =
        connection.prepare_cached("INSERT OR IGNORE INTO blob_ref (run, hash) VALUES (?1, ?2)")?;
    for blob in blobs {
        insert.execute(params![blob.hash.0, blob.bytes.as_ref()])?;
        refer.execute(params![run, blob.hash.0])?;
    }
    Ok(())
}

fn insert_checkpoint(
    connection: &Connection,
    run: i64,
    seq: u64,
    at: Timestamp,
    body: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO checkpoint (run, seq, at, body, seal) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![run, seq, at.0, body, seal(&[run, seq.cast_signed(), at.0], &[body])])?;
    connection
        .prepare_cached(
            "DELETE FROM checkpoint WHERE run = ?1 AND seq <= (SELECT seq FROM checkpoint \
             WHERE run = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![run, CHECKPOINTS_KEPT])?;
    Ok(())
}
