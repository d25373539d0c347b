//! Taking an archive into an empty store: one transaction on a connection of its own, so that a crash leaves
//! it empty. Meanwhile no node opens the store, and none that has it open writes to it.
//!
//! Runs and letters get their numbers here, and the sequences go on behind them.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::ToSql;

use super::account::{self, ADD_UP, IS_ASTRAY};
use super::address::Address;
use super::archive::{PATIENT, told};
use super::link::{Failure, Link, step};
use super::read::NODES;
use super::schema::{self, disposition_columns};
use super::tables::{
    ACCOUNT, BLOB, BLOB_REF, CHECKPOINT, ENTRY, EVENT, FACT, HOLD, LETTER, OPERATION, RUN,
    RUN_TEXT, Table,
};
use super::{create, keys};
use crate::archive::NO_ACCOUNT;
use crate::books::to_column;
use crate::rules::misuse;
use crate::{Disposition, EntryKind, KeyName, Record, Restore, RunId, RunRecord, StoreError};

/// Whoever writes to a store writes to one of these first.
const LOCK: &str =
    "LOCK TABLE run, blob, fact, operation, account, hold IN SHARE ROW EXCLUSIVE MODE;";
const IS_EMPTY: &str = "SELECT NOT (EXISTS (SELECT 1 FROM run) OR EXISTS (SELECT 1 FROM blob) \
     OR EXISTS (SELECT 1 FROM fact) OR EXISTS (SELECT 1 FROM operation) \
     OR EXISTS (SELECT 1 FROM event) OR EXISTS (SELECT 1 FROM letter) \
     OR EXISTS (SELECT 1 FROM checkpoint) OR EXISTS (SELECT 1 FROM blob_ref) \
     OR EXISTS (SELECT 1 FROM account WHERE at > 0) OR EXISTS (SELECT 1 FROM hold) \
     OR EXISTS (SELECT 1 FROM entry))";
/// What holds that were refused have left.
const TIDY: &str = "DELETE FROM account WHERE at = 0";
const FIND: &str = "SELECT id, run FROM run WHERE id = ANY($1::uuid[])";
const TAKEN: &str = "SELECT id, key_hash FROM run WHERE id = ANY($1::uuid[]) \
     OR key_hash = ANY($2::bytea[])";
const IS_BROKEN: &str = "SELECT EXISTS (SELECT 1 FROM run LEFT JOIN (SELECT run, \
     count(*) AS events, min(seq) AS first, max(seq) AS last FROM event GROUP BY run) AS log \
     ON log.run = run.run WHERE head_seq <> coalesce(events, 0) OR head_seq <> coalesce(last, 0) \
     OR coalesce(first, 1) <> 1)";
const GO_ON: &str = "SELECT setval(pg_get_serial_sequence('run', 'run'), $1), \
     setval(pg_get_serial_sequence('letter', 'number'), $2)";

const STATEMENTS: [&str; 9] =
    [IS_EMPTY, TIDY, NODES, FIND, TAKEN, IS_BROKEN, IS_ASTRAY, ADD_UP, GO_ON];

type Cell<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// A row, of whatever can be stored.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as Cell<'_>),*]
    };
}

/// Runs whose numbers are remembered; the records of one run mostly follow one another.
const KNOWN_MAX: usize = 4096;

/// A store that is being filled.
pub(super) struct PostgresRestore {
    address: Arc<Address>,
    /// Away while it is written to, and after an error: then the server rolls everything back.
    writing: Option<Filling>,
}

struct Filling {
    link: Link,
    known: HashMap<RunId, i64>,
    /// The last number that was given.
    last_run: i64,
    last_letter: i64,
}

/// Why a record is not taken in.
enum Problem {
    Refused(StoreError),
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Problem {
    fn from(failure: F) -> Self {
        Self::Failed(failure.into())
    }
}

impl Problem {
    fn told(self, address: &Address) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Failed(Failure::Refused(problem)) => {
                tracing::debug!(store = %address, problem, "the database refuses a record");
                misuse(
                    "the database refuses a record: it is there twice, or holds a text with a NUL \
                     character, which PostgreSQL does not keep",
                )
            }
            Self::Failed(Failure::Doubtful(problem)) => address.unavailable(&format!(
                "the connection was lost while it committed, so everything is in it, or nothing \
                 ({problem})"
            )),
            Self::Failed(Failure::Again(problem)) => address.unavailable(&format!(
                "another process opens, fills or changes it ({problem}); stop it and try again"
            )),
            Self::Failed(failure) => told(address, &failure),
        }
    }
}

pub(super) async fn begin(address: Arc<Address>) -> Result<PostgresRestore, StoreError> {
    match Filling::begin(&address).await {
        Ok(filling) => Ok(PostgresRestore { address, writing: Some(filling) }),
        Err(problem) => Err(problem.told(&address)),
    }
}

#[async_trait]
impl Restore for PostgresRestore {
    async fn write(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let Some(mut filling) = self.writing.take() else {
            return Err(misuse("the import has failed before: begin anew"));
        };
        filling.take(&records).await.map_err(|problem| problem.told(&self.address))?;
        self.writing = Some(filling);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let Some(filling) = self.writing.take() else {
            return Err(misuse("the import has failed before: begin anew"));
        };
        filling.finish().await.map_err(|problem| problem.told(&self.address))
    }
}

impl Filling {
    async fn begin(address: &Address) -> Result<Self, Problem> {
        let link = Link::connect(address, STATEMENTS, None).await?;
        let begin = schema::begin_alone(&address.schema);
        link.client().batch_execute(&format!("{PATIENT} {begin} {LOCK}")).await?;
        let [empty, nodes] = link.query([step(IS_EMPTY, &[]), step(NODES, &[])]).await?;
        let is_empty = empty.first().map(|row| row.try_get(0)).transpose()?;
        if is_empty != Some(true) {
            return Err(Problem::Refused(StoreError::Occupied { place: address.to_string() }));
        }
        let nodes: Option<i64> = nodes.first().map(|row| row.try_get(0)).transpose()?;
        if nodes != Some(0) {
            let problem = "a node is at work in it: stop it, or wait until its lease is over";
            return Err(Problem::Refused(address.unavailable(problem)));
        }
        link.query([step(TIDY, &[])]).await?;
        Ok(Self { link, known: HashMap::new(), last_run: 0, last_letter: 0 })
    }

    async fn take(&mut self, records: &[Record]) -> Result<(), Problem> {
        records.iter().try_for_each(Record::check).map_err(Problem::Refused)?;
        for group in records.chunk_by(|one, other| one.kind() == other.kind()) {
            self.find(group).await?;
            match group.first() {
                Some(Record::Run(_)) => self.take_runs(group).await?,
                Some(Record::Letter { .. }) => self.take_letters(group).await?,
                Some(Record::LetterTaken { .. }) => self.take_letters_taken(group).await?,
                Some(Record::Fact { .. } | Record::Operation { .. } | Record::Blob { .. }) => {
                    self.take_named(group).await?;
                }
                Some(Record::Account { .. } | Record::Hold { .. } | Record::Entry { .. }) => {
                    self.take_ledger(group).await?;
                }
                _ => self.take_parts(group).await?,
            }
        }
        Ok(())
    }

    /// Looks up the numbers of the runs that records belong to.
    async fn find(&mut self, group: &[Record]) -> Result<(), Problem> {
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        let runs = group.iter().filter_map(owner);
        let unknown = runs.filter(|run| !self.known.contains_key(run));
        let mut ids: Vec<_> = unknown.map(schema::uuid).collect();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let [rows] = self.link.query([step(FIND, &[&ids])]).await?;
        for row in &rows {
            self.known.insert(schema::run_id(row, 0)?, row.try_get(1)?);
        }
        Ok(())
    }

    fn number(&self, run: RunId) -> Result<i64, Problem> {
        let number = self.known.get(&run).copied();
        number.ok_or(Problem::Refused(StoreError::NotFound { run }))
    }

    async fn take_runs(&mut self, group: &[Record]) -> Result<(), Problem> {
        let runs = group.iter().filter_map(|record| match record {
            Record::Run(run) => Some(&**run),
            _ => None,
        });
        let hash = |run: &RunRecord| {
            run.key.as_ref().map(|key| create::key_hash(&run.tenant, key).to_vec())
        };
        let runs: Vec<(&RunRecord, Option<Vec<u8>>)> = runs.map(|run| (run, hash(run))).collect();
        self.refuse_known(&runs).await?;
        let (mut cards, mut texts) = (Vec::new(), Vec::new());
        for (record, key_hash) in runs {
            self.last_run += 1;
            cards.push(card(self.last_run, record, key_hash));
            if !record.text.is_empty() {
                texts.push(row![self.last_run, &*record.text]);
            }
            self.known.insert(record.id, self.last_run);
        }
        copy(&self.link, &RUN, cards).await?;
        copy(&self.link, &RUN_TEXT, texts).await
    }

    /// Refuses runs whose ids or keys others have, in the store or among themselves.
    async fn refuse_known(&self, runs: &[(&RunRecord, Option<Vec<u8>>)]) -> Result<(), Problem> {
        let ids: Vec<_> = runs.iter().map(|(run, _)| schema::uuid(run.id)).collect();
        let keys: Vec<_> = runs.iter().filter_map(|(_, key)| key.as_deref()).collect();
        let [rows] = self.link.query([step(TAKEN, &[&ids, &keys])]).await?;
        let (mut seen_ids, mut seen_keys) = (HashMap::new(), HashMap::new());
        for row in &rows {
            seen_ids.insert(schema::run_id(row, 0)?, ());
            if let Some(key) = row.try_get::<_, Option<Vec<u8>>>(1)? {
                seen_keys.insert(key, ());
            }
        }
        for (run, key) in runs {
            let known_id = seen_ids.insert(run.id, ()).is_some();
            let known_key = key.clone().is_some_and(|key| seen_keys.insert(key, ()).is_some());
            if known_id || known_key {
                return Err(Problem::Refused(StoreError::Exists { run: run.id }));
            }
        }
        Ok(())
    }

    /// Takes in what belongs to a run, or to the number 0, and is not numbered.
    async fn take_parts(&self, group: &[Record]) -> Result<(), Problem> {
        let mut rows = Vec::new();
        let mut table = &EVENT;
        for record in group {
            rows.push(match record {
                Record::Event { run, seq, at, kind, version, body } => {
                    let seq = schema::stored(*seq);
                    row![self.number(*run)?, seq, at.0, &**kind, i32::from(*version), &**body]
                }
                Record::Checkpoint { run, seq, at, body } => {
                    table = &CHECKPOINT;
                    row![self.number(*run)?, schema::stored(*seq), at.0, &**body]
                }
                Record::BlobUse { run, hash } => {
                    table = &BLOB_REF;
                    let run = run.map_or(Ok(0), |run| self.number(run))?;
                    row![run, &hash.0[..]]
                }
                _ => continue,
            });
        }
        copy(&self.link, table, rows).await
    }

    async fn take_letters(&mut self, group: &[Record]) -> Result<(), Problem> {
        let mut rows = Vec::new();
        for record in group {
            if let Record::Letter { run, number, id, kind, at, body } = record {
                self.last_letter = self.last_letter.max(*number);
                let run = self.number(*run)?;
                rows.push(row![*number, run, &**id, &**kind, &**body, at.0, false]);
            }
        }
        copy(&self.link, &LETTER, rows).await
    }

    async fn take_letters_taken(&mut self, group: &[Record]) -> Result<(), Problem> {
        let mut rows = Vec::new();
        for record in group {
            if let Record::LetterTaken { run, id } = record {
                self.last_letter = self.last_letter.saturating_add(1);
                let run = self.number(*run)?;
                rows.push(row![self.last_letter, run, &**id, "", &b""[..], 0_i64, true]);
            }
        }
        copy(&self.link, &LETTER, rows).await
    }

    /// Takes in what belongs to no run.
    async fn take_named(&self, group: &[Record]) -> Result<(), Problem> {
        let mut rows = Vec::new();
        let mut table = &BLOB;
        for record in group {
            rows.push(match record {
                Record::Blob { hash, body } => row![&hash.0[..], &**body],
                Record::Fact { scope, key, version, at, expires_at, value } => {
                    table = &FACT;
                    let (version, expires_at) =
                        (schema::stored(*version), expires_at.map(|at| at.0));
                    row![&**scope, &**key, &**value, version, at.0, expires_at]
                }
                Record::Operation { scope, key, digest, owner, node, since, answer } => {
                    table = &OPERATION;
                    let name = KeyName { scope: scope.clone(), key: key.clone() };
                    let answered = answer.as_ref();
                    row![
                        keys::name_hash(&name).to_vec(),
                        scope.as_bytes(),
                        key.as_bytes(),
                        &digest.0[..],
                        owner.as_bytes(),
                        &**node,
                        since.0,
                        answered.map(|answer| &*answer.body),
                        answered.map(|answer| answer.at.0),
                        answered.map(|answer| answer.expires_at.0),
                    ]
                }
                _ => continue,
            });
        }
        copy(&self.link, table, rows).await
    }

    async fn take_ledger(&self, group: &[Record]) -> Result<(), Problem> {
        let mut rows = Vec::new();
        let mut table = &ACCOUNT;
        for record in group {
            rows.push(match record {
                Record::Account { account, spent, entries, at } => {
                    let numbers = [spent.tokens, spent.money, *entries].map(schema::stored);
                    let [tokens, money, entries] = numbers;
                    let name = &*account.name;
                    row![name, account.since, tokens, money, 0_i64, 0_i64, entries, at.0]
                }
                Record::Hold {
                    id,
                    amounts,
                    limited,
                    tallies,
                    charged,
                    expires_at,
                    subject,
                    body,
                } => {
                    table = &HOLD;
                    row![
                        account::uuid(*id),
                        schema::stored(amounts.tokens),
                        schema::stored(amounts.money),
                        to_column(limited),
                        to_column(tallies),
                        *charged,
                        expires_at.0,
                        subject.as_deref(),
                        &**body,
                    ]
                }
                Record::Entry { id, at, kind, subject, amounts, body } => {
                    table = &ENTRY;
                    row![
                        account::uuid(*id),
                        at.0,
                        *kind == EntryKind::Expired,
                        subject.as_deref(),
                        schema::stored(amounts.tokens),
                        schema::stored(amounts.money),
                        &**body,
                    ]
                }
                _ => continue,
            });
        }
        copy(&self.link, table, rows).await
    }

    async fn finish(self) -> Result<(), Problem> {
        let (run, letter) = (self.last_run.max(1), self.last_letter.max(1));
        let [broken, astray, _, _] = self
            .link
            .query([
                step(IS_BROKEN, &[]),
                step(IS_ASTRAY, &[]),
                step(ADD_UP, &[]),
                step(GO_ON, &[&run, &letter]),
            ])
            .await?;
        if astray.first().map(|row| row.try_get(0)).transpose()? != Some(false) {
            return Err(Problem::Refused(NO_ACCOUNT));
        }
        if broken.first().map(|row| row.try_get(0)).transpose()? != Some(false) {
            return Err(Problem::Refused(misuse(
                "a log of the archive has a hole, or its card says another length",
            )));
        }
        Ok(self.link.commit(&[]).await.map(drop)?)
    }
}

/// The run that a record belongs to, beside its own.
const fn owner(record: &Record) -> Option<RunId> {
    match record {
        Record::Event { run, .. }
        | Record::Checkpoint { run, .. }
        | Record::Letter { run, .. }
        | Record::LetterTaken { run, .. } => Some(*run),
        Record::BlobUse { run, .. } => *run,
        Record::Run(_)
        | Record::Blob { .. }
        | Record::Fact { .. }
        | Record::Operation { .. }
        | Record::Account { .. }
        | Record::Hold { .. }
        | Record::Entry { .. } => None,
    }
}

fn card(number: i64, run: &RunRecord, key_hash: Option<Vec<u8>>) -> Vec<Cell<'_>> {
    let (disposition, wake_at) = disposition_columns(run.disposition);
    let rank = run.rank.unwrap_or_else(|| crate::turns::rank(run.updated_at, run.priority));
    let rank = (run.disposition == Disposition::Ready).then_some(rank);
    row![
        number,
        schema::uuid(run.id),
        &*run.tenant,
        &*run.agent,
        run.key.as_deref(),
        key_hash,
        &*run.state,
        disposition,
        wake_at,
        rank,
        run.priority,
        schema::stored(run.epoch),
        schema::stored(run.head_seq),
        run.created_at.0,
        run.updated_at.0,
        run.session.as_deref(),
        (!run.tags.is_empty()).then_some(&*run.tags),
        run.parent.map(schema::uuid),
        run.problem.as_deref(),
        &*run.summary,
    ]
}

async fn copy(link: &Link, table: &Table, rows: Vec<Vec<Cell<'_>>>) -> Result<(), Problem> {
    if rows.is_empty() {
        return Ok(());
    }
    let sink = link.client().copy_in(table.sql).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, table.types));
    for row in rows {
        writer.as_mut().write_raw(row).await?;
    }
    writer.finish().await?;
    Ok(())
}
