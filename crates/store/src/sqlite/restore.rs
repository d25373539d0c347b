//! Taking an archive into an empty file: one transaction on a connection of its own, so that a crash
//! leaves it empty. The file's log grows to the size of the archive until it is committed.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::account::{
    HoldRow, INSERT_ENTRY, INSERT_HOLD, account, insert_account, insert_entry, save,
};
use super::append::{insert_finds, insert_run};
use super::ledger::Remembered;
use super::seal::seal;
use super::writer::Failure;
use super::{at_read, open, unavailable};
use crate::archive::NO_ACCOUNT;
use crate::books::{Books, OpenHold, Standing, to_column};
use crate::rules::misuse;
use crate::{Disposition, Entry, Record, Restore, RunId, RunRecord, StoreError};

/// A file that is being filled.
pub(super) struct SqliteRestore {
    path: PathBuf,
    /// What the writer remembers of the ledger, which is over once this is committed.
    remembered: Arc<Remembered>,
    /// Away while it is written to, and after an error.
    writing: Option<Filling>,
}

struct Filling {
    connection: Connection,
    /// The run that was looked up last: the records of one run mostly follow one another.
    last: Option<(RunId, i64)>,
}

pub(super) async fn begin(
    path: PathBuf,
    remembered: Arc<Remembered>,
) -> Result<SqliteRestore, StoreError> {
    let place = path.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let connection = open::filling(&place)?;
        let is_empty = "SELECT NOT (EXISTS (SELECT 1 FROM run) OR EXISTS (SELECT 1 FROM blob) \
                        OR EXISTS (SELECT 1 FROM fact) OR EXISTS (SELECT 1 FROM operation) \
                        OR EXISTS (SELECT 1 FROM account) OR EXISTS (SELECT 1 FROM hold) \
                        OR EXISTS (SELECT 1 FROM entry))";
        let is_empty: bool = connection
            .query_row(is_empty, [], |row| row.get(0))
            .map_err(|error| at_read(&place, error.into()))?;
        if !is_empty {
            let place = format!("the SQLite store {}", place.display());
            return Err(StoreError::Occupied { place });
        }
        Ok(Filling { connection, last: None })
    });
    let begun = begun.await.map_err(|error| unavailable(&path, error.to_string()))?;
    Ok(SqliteRestore { path, remembered, writing: Some(begun?) })
}

impl SqliteRestore {
    /// Does something on the connection, on a thread that may block; rolls everything back if it fails.
    async fn with(
        &mut self,
        work: impl FnOnce(&mut Filling) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), StoreError> {
        let Some(mut filling) = self.writing.take() else {
            return Err(misuse("the import has failed before: begin anew"));
        };
        let task = tokio::task::spawn_blocking(move || work(&mut filling).map(|()| filling));
        match task.await {
            Ok(Ok(filling)) => {
                self.writing = Some(filling);
                Ok(())
            }
            Ok(Err(failure)) => Err(at_read(&self.path, failure)),
            Err(error) => Err(unavailable(&self.path, error.to_string())),
        }
    }
}

#[async_trait]
impl Restore for SqliteRestore {
    async fn write(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        self.with(move |filling| records.into_iter().try_for_each(|record| filling.take(record)))
            .await
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.with(|filling| {
            let broken: bool = filling.connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM run LEFT JOIN (SELECT run, count(*) AS events, \
                 min(seq) AS first, max(seq) AS last FROM event GROUP BY run) USING (run) \
                 WHERE head_seq <> coalesce(events, 0) OR head_seq <> coalesce(last, 0) \
                 OR coalesce(first, 1) <> 1)",
                [],
                |row| row.get(0),
            )?;
            if broken {
                return Err(Failure::Refused(misuse(
                    "a log of the archive has a hole, or its card says another length",
                )));
            }
            Ok(filling.connection.execute_batch("COMMIT")?)
        })
        .await?;
        self.remembered.forget();
        Ok(())
    }
}

impl Filling {
    fn number(&mut self, run: RunId) -> Result<i64, Failure> {
        if let Some((_, number)) = self.last.filter(|(last, _)| *last == run) {
            return Ok(number);
        }
        let found = self
            .connection
            .prepare_cached("SELECT run FROM run WHERE id = ?1")?
            .query_row([run.as_bytes()], |row| row.get(0))
            .optional()?;
        let number = found.ok_or(Failure::Refused(StoreError::NotFound { run }))?;
        self.last = Some((run, number));
        Ok(number)
    }

    fn take_run(&mut self, record: RunRecord) -> Result<(), Failure> {
        let (head, key, text, rank) = record.into_parts();
        let taken = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM run WHERE id = ?1 OR (tenant = ?2 AND key IS NOT NULL AND key = ?3)",
            )?
            .exists(params![head.id.as_bytes(), head.tenant, key])?;
        if taken {
            return Err(Failure::Refused(StoreError::Exists { run: head.id }));
        }
        let rank = (head.disposition == Disposition::Ready).then_some(rank);
        let number = insert_run(&self.connection, &head, key.as_deref(), rank)?;
        insert_finds(&self.connection, number, &head, &text)?;
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<(), Failure> {
        record.check().map_err(Failure::Refused)?;
        match record {
            Record::Run(run) => self.take_run(*run)?,
            Record::Event { run, seq, at, kind, version, body } => {
                let numbers = [self.number(run)?, seq.cast_signed(), at.0, i64::from(version)];
                let seal = seal(&numbers, &[kind.as_bytes(), &body]);
                self.insert(
                    Some(run),
                    "INSERT INTO event (run, seq, at, kind, version, body, seal) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    &[&seq, &at.0, &kind, &version, &body.as_ref(), &seal],
                )?;
            }
            Record::Checkpoint { run, seq, at, body } => {
                let seal = seal(&[self.number(run)?, seq.cast_signed(), at.0], &[&body]);
                self.insert(
                    Some(run),
                    "INSERT INTO checkpoint (run, seq, at, body, seal) VALUES (?1, ?2, ?3, ?4, ?5)",
                    &[&seq, &at.0, &body.as_ref(), &seal],
                )?;
            }
            Record::Blob { hash, body } => drop(
                self.connection
                    .prepare_cached("INSERT INTO blob (hash, body) VALUES (?1, ?2)")?
                    .execute(params![hash.0, body.as_ref()])?,
            ),
            Record::BlobUse { run, hash } => {
                self.insert(run, "INSERT INTO blob_ref (run, hash) VALUES (?1, ?2)", &[&hash.0])?;
            }
            Record::Letter { run, number, id, kind, at, body } => self.insert(
                Some(run),
                "INSERT INTO letter (run, number, id, kind, at, body, taken) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
                &[&number, &id, &kind, &at.0, &body.as_ref()],
            )?,
            Record::LetterTaken { run, id } => self.insert(
                Some(run),
                "INSERT INTO letter (run, id, kind, at, body, taken) \
                 VALUES (?1, ?2, '', 0, x'', 1)",
                &[&id],
            )?,
            Record::Fact { .. } | Record::Operation { .. } => self.take_named(record)?,
            other => self.take_ledger(other)?,
        }
        Ok(())
    }

    fn take_ledger(&self, record: Record) -> Result<(), Failure> {
        let connection = &self.connection;
        match record {
            Record::Account { account, spent, entries, at } => {
                let standing = Standing { spent, entries, ..Standing::default() };
                insert_account(connection, &account, &standing, at)?;
            }
            Record::Hold { id, amounts, limited, tallies, charged, expires_at, subject, body } => {
                let row = HoldRow {
                    id,
                    amounts,
                    limited: &to_column(&limited),
                    tallies: &to_column(&tallies),
                    is_charged: charged,
                    expires_at: expires_at.0,
                    subject: subject.as_deref(),
                    body: &body,
                };
                row.insert(&mut connection.prepare_cached(INSERT_HOLD)?)?;
                let open = OpenHold { amounts, limited, tallies, is_charged: charged };
                for named in &open.limited {
                    let found = account(connection, named)?.ok_or(Failure::Refused(NO_ACCOUNT))?;
                    let mut books = Books::default();
                    books.open_row(found.account, found.standing, Some(found.row));
                    books.hold_on(named, open.held());
                    save(connection, &mut books, found.at)?;
                }
            }
            Record::Entry { id, at, kind, subject, amounts, body } => {
                let entry = Entry { id, at, kind, subject, amounts, body };
                insert_entry(&mut connection.prepare_cached(INSERT_ENTRY)?, &entry)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes in what belongs to no run.
    fn take_named(&self, record: Record) -> rusqlite::Result<()> {
        match record {
            Record::Fact { scope, key, version, at, expires_at, value } => {
                self.connection
                    .prepare_cached(
                        "INSERT INTO fact (scope, key, version, at, expires_at, value) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        scope,
                        key,
                        version,
                        at.0,
                        expires_at.map(|at| at.0),
                        value.as_ref()
                    ])?;
            }
            Record::Operation { scope, key, digest, owner, node, since, answer } => {
                let (at, expires_at) =
                    answer.as_ref().map(|answer| (answer.at.0, answer.expires_at.0)).unzip();
                let answer = answer.as_ref().map(|answer| answer.body.as_ref());
                self.connection
                    .prepare_cached(
                        "INSERT INTO operation (scope, key, digest, owner, node, since, answer, \
                         settled_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    )?
                    .execute(params![
                        scope, key, digest.0, owner, node, since.0, answer, at, expires_at
                    ])?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Inserts a row that belongs to a run, or to the number 0; its number is the first value.
    fn insert(
        &mut self,
        run: Option<RunId>,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<(), Failure> {
        let number = run.map_or(Ok(0), |run| self.number(run))?;
        let mut all: Vec<&dyn rusqlite::ToSql> = vec![&number];
        all.extend(values);
        self.connection.prepare_cached(sql)?.execute(&all[..])?;
        Ok(())
    }
}
