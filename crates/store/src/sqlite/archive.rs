//! Everything that a file holds, read in one transaction on a connection of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::account::{
    KeptAccount, KeptHold, account_columns, account_of, entry_columns, entry_of, hold_columns,
    hold_of,
};
use super::schema::{self, head_columns};
use super::writer::Failure;
use super::{SqliteStore, at_read, open, restore, seal};
use crate::archive::{AnswerRecord, PageOfRecords};
use crate::books::Standing;
use crate::{Archive, BlobHash, Dump, Record, Restore, RunId, RunRecord, StoreError, Timestamp};

/// Where a dump stands: in which table, and at which row of it.
struct Place {
    section: usize,
    after: i64,
    /// As `after`, where rows have no number: the run and the hash of the last use of a blob.
    used: (i64, Vec<u8>),
    /// The last account.
    account: (String, i64),
    /// The id of the last hold or entry.
    id: Vec<u8>,
}

/// What is read of a section from a place on.
type Section = fn(&Connection, &mut Place, &mut PageOfRecords) -> Result<(), Failure>;

/// The sections of an archive, in their order.
const SECTIONS: [Section; 12] = [
    runs,
    events,
    checkpoints,
    blobs,
    blob_uses,
    letters,
    letters_taken,
    facts,
    operations,
    accounts,
    holds,
    entries,
];

struct SqliteDump {
    path: PathBuf,
    /// Away while it is read from.
    reading: Option<(Connection, Place)>,
}

#[async_trait]
impl Dump for SqliteDump {
    async fn next(&mut self) -> Result<Vec<Record>, StoreError> {
        let Some((connection, mut place)) = self.reading.take() else { return Ok(Vec::new()) };
        let task = tokio::task::spawn_blocking(move || {
            let page = read(&connection, &mut place);
            (page, connection, place)
        });
        let joined = task.await.map_err(|error| {
            super::unavailable(&self.path, format!("the read was given up: {error}"))
        })?;
        let (page, connection, place) = joined;
        let page = page.map_err(|failure| at_read(&self.path, failure))?;
        if !page.is_empty() {
            self.reading = Some((connection, place));
        }
        Ok(page)
    }
}

fn read(connection: &Connection, place: &mut Place) -> Result<Vec<Record>, Failure> {
    let mut page = PageOfRecords::default();
    while let Some(section) = SECTIONS.get(place.section) {
        let before = page.records.len();
        section(connection, place, &mut page)?;
        if page.is_full() {
            break;
        }
        if page.records.len() == before {
            place.section += 1;
            place.after = i64::MIN;
            place.id.clear();
        }
    }
    Ok(page.records)
}

/// Reads rows, each with its number in column 0, until the page is full.
fn rows(
    connection: &Connection,
    sql: &str,
    place: &mut Place,
    page: &mut PageOfRecords,
    record: impl Fn(&Row<'_>) -> Result<Record, Failure>,
) -> Result<(), Failure> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([place.after])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        place.after = row.get(0)?;
        page.push(record(row)?);
    }
    Ok(())
}

fn id(row: &Row<'_>, index: usize) -> rusqlite::Result<RunId> {
    Ok(RunId::from_bytes(row.get(index)?))
}

fn bytes(row: &Row<'_>, index: usize) -> rusqlite::Result<bytes::Bytes> {
    Ok(row.get::<_, Vec<u8>>(index)?.into())
}

fn runs(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    const SQL: &str = concat!(
        "SELECT ",
        head_columns!(),
        ", run, key, rank FROM run WHERE run > ?1 ORDER BY run"
    );
    let mut select = connection.prepare_cached(SQL)?;
    let mut text = connection.prepare_cached("SELECT text FROM run_text WHERE rowid = ?1")?;
    let mut rows = select.query([place.after])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        place.after = row.get("run")?;
        let text = text.query_row([place.after], |row| row.get(0)).optional()?;
        let (head, key, rank) = (schema::head(row)?, row.get("key")?, row.get("rank")?);
        let run = RunRecord::new(head, key, text.unwrap_or_default(), rank);
        page.push(Record::Run(Box::new(run)));
    }
    Ok(())
}

fn events(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT pos, run.id, seq, at, kind, version, body, seal, run.run FROM event \
               JOIN run USING (run) WHERE pos > ?1 ORDER BY pos";
    rows(connection, sql, place, page, |row| {
        let (run, seq, at) = (id(row, 1)?, row.get::<_, u64>(2)?, row.get(3)?);
        let (kind, version, body) =
            (row.get::<_, String>(4)?, row.get::<_, u16>(5)?, bytes(row, 6)?);
        let numbers = [row.get(8)?, seq.cast_signed(), at, i64::from(version)];
        if !seal::is_whole(row.get(7)?, &numbers, &[kind.as_bytes(), &body]) {
            return Err(seal::broken(&format!("event {seq} of run {run}")));
        }
        Ok(Record::Event { run, seq, at: Timestamp(at), kind, version, body })
    })
}

fn checkpoints(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT checkpoint.rowid, run.id, seq, at, body, seal, run.run FROM checkpoint \
               JOIN run USING (run) WHERE checkpoint.rowid > ?1 ORDER BY checkpoint.rowid";
    rows(connection, sql, place, page, |row| {
        let (run, seq, at) = (id(row, 1)?, row.get::<_, u64>(2)?, row.get(3)?);
        let body = bytes(row, 4)?;
        let numbers = [row.get(6)?, seq.cast_signed(), at];
        if !seal::is_whole(row.get(5)?, &numbers, &[&body]) {
            return Err(seal::broken(&format!("checkpoint {seq} of run {run}")));
        }
        Ok(Record::Checkpoint { run, seq, at: Timestamp(at), body })
    })
}

/// Blobs that somebody refers to; what only a run that is being removed refers to goes with it.
fn blobs(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT rowid, hash, body FROM blob WHERE rowid > ?1 AND EXISTS \
               (SELECT 1 FROM blob_ref WHERE blob_ref.hash = blob.hash AND (blob_ref.run = 0 \
               OR EXISTS (SELECT 1 FROM run WHERE run.run = blob_ref.run))) ORDER BY rowid";
    rows(connection, sql, place, page, |row| {
        Ok(Record::Blob { hash: BlobHash(row.get(1)?), body: bytes(row, 2)? })
    })
}

fn blob_uses(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let mut select = connection.prepare_cached(
        "SELECT blob_ref.run, run.id, hash FROM blob_ref LEFT JOIN run USING (run) \
         WHERE (blob_ref.run, hash) > (?1, ?2) AND (blob_ref.run = 0 OR run.id IS NOT NULL) \
         ORDER BY blob_ref.run, hash",
    )?;
    let mut rows = select.query(params![place.used.0, place.used.1])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        place.used = (row.get(0)?, row.get(2)?);
        let run = row.get::<_, Option<[u8; 16]>>(1)?.map(RunId::from_bytes);
        page.push(Record::BlobUse { run, hash: BlobHash(row.get(2)?) });
    }
    Ok(())
}

fn letters(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT number, run.id, letter.id, kind, at, body FROM letter JOIN run USING (run) \
               WHERE number > ?1 AND taken = 0 ORDER BY number";
    rows(connection, sql, place, page, |row| {
        let (number, run, kind) = (row.get(0)?, id(row, 1)?, row.get(3)?);
        let (at, body) = (Timestamp(row.get(4)?), bytes(row, 5)?);
        Ok(Record::Letter { run, number, id: row.get(2)?, kind, at, body })
    })
}

fn letters_taken(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT number, run.id, letter.id FROM letter JOIN run USING (run) \
               WHERE number > ?1 AND taken = 1 ORDER BY number";
    rows(connection, sql, place, page, |row| {
        Ok(Record::LetterTaken { run: id(row, 1)?, id: row.get(2)? })
    })
}

fn facts(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT rowid, scope, key, version, at, expires_at, value FROM fact \
               WHERE rowid > ?1 ORDER BY rowid";
    rows(connection, sql, place, page, |row| {
        Ok(Record::Fact {
            scope: row.get(1)?,
            key: row.get(2)?,
            version: row.get(3)?,
            at: Timestamp(row.get(4)?),
            expires_at: row.get::<_, Option<i64>>(5)?.map(Timestamp),
            value: bytes(row, 6)?,
        })
    })
}

fn operations(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let sql = "SELECT rowid, scope, key, digest, owner, node, since, answer, settled_at, expires_at \
               FROM operation WHERE rowid > ?1 ORDER BY rowid";
    rows(connection, sql, place, page, |row| {
        let answer = match row.get::<_, Option<Vec<u8>>>(7)? {
            None => None,
            Some(body) => Some(AnswerRecord {
                at: Timestamp(row.get(8)?),
                expires_at: Timestamp(row.get(9)?),
                body: body.into(),
            }),
        };
        Ok(Record::Operation {
            scope: row.get(1)?,
            key: row.get(2)?,
            digest: BlobHash(row.get(3)?),
            owner: row.get(4)?,
            node: row.get(5)?,
            since: Timestamp(row.get(6)?),
            answer,
        })
    })
}

fn accounts(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        account_columns!(),
        " FROM account WHERE (name, since) > (?1, ?2) ORDER BY name, since"
    ))?;
    let mut rows = select.query(params![place.account.0, place.account.1])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        let KeptAccount { row: _, account, standing, at } = account_of(row)?;
        let Standing { spent, held: _, entries } = standing;
        place.account = (account.name.clone(), account.since);
        page.push(Record::Account { account, spent, entries, at });
    }
    Ok(())
}

fn holds(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        hold_columns!(),
        " FROM hold WHERE id > ?1 ORDER BY id"
    ))?;
    let mut rows = select.query([&place.id])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        let KeptHold { id, open, expires_at, subject, body } = hold_of(row)?;
        place.id = id.as_bytes().to_vec();
        page.push(Record::hold(id, open, expires_at, subject, body.into()));
    }
    Ok(())
}

fn entries(
    connection: &Connection,
    place: &mut Place,
    page: &mut PageOfRecords,
) -> Result<(), Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        entry_columns!(),
        " FROM entry WHERE id > ?1 ORDER BY id"
    ))?;
    let mut rows = select.query([&place.id])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { break };
        let entry = entry_of(row)?;
        place.id = entry.id.as_bytes().to_vec();
        page.push(Record::entry(entry));
    }
    Ok(())
}

fn begin(path: &Path) -> Result<SqliteDump, StoreError> {
    let connection = open::snapshot(path)?;
    let place = Place {
        section: 0,
        after: i64::MIN,
        used: (i64::MIN, Vec::new()),
        account: (String::new(), i64::MIN),
        id: Vec::new(),
    };
    Ok(SqliteDump { path: path.to_owned(), reading: Some((connection, place)) })
}

#[async_trait]
impl Archive for SqliteStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || begin(&path));
        let begun = task.await.map_err(|error| {
            super::unavailable(&self.path, format!("the read was given up: {error}"))
        })?;
        Ok(Box::new(begun?))
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        if let Some(problem) = self.writer.refuses() {
            return Err(super::unavailable(&self.path, problem));
        }
        let begun = restore::begin(self.path.clone(), Arc::clone(&self.remembered)).await?;
        Ok(Box::new(begun))
    }
}
