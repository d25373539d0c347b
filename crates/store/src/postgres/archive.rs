//! Everything that the database holds, read in one transaction on a connection of its own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::account::{
    account_record, balance_columns, entry_columns, entry_record, hold_columns, hold_record,
};
use super::address::Address;
use super::link::{Failure, Link, step};
use super::read::see;
use super::schema::{self, HEAD_COLUMNS, head_columns};
use super::{PostgresStore, prune, restore};
use crate::archive::AnswerRecord;
use crate::{
    Archive, BlobHash, Dump, Prune, Pruned, Record, Restore, RunId, RunRecord, StoreError,
    Timestamp, Upkeep,
};

/// A page of rows: the limits of [`crate::archive`] stand in here, and the server keeps them, so that no
/// more than that is ever on its way. What `$inner` selects has its size in `size`.
macro_rules! page {
    ($columns:expr, $order:literal, $inner:expr) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM (SELECT found.*, sum(size) OVER (ORDER BY ",
            $order,
            " ROWS UNBOUNDED PRECEDING) - size AS before FROM (",
            $inner,
            " ORDER BY ",
            $order,
            " LIMIT 512) AS found) AS counted WHERE before < 4194304 ORDER BY ",
            $order
        )
    };
}

const RUNS: &str = page!(
    concat!(head_columns!(), ", key, text, rank, place"),
    "place",
    concat!(
        "SELECT ",
        head_columns!(),
        ", key, text, rank, run.run AS place, octet_length(summary) AS size \
         FROM run LEFT JOIN run_text ON run_text.run = run.run WHERE run.run > $1"
    )
);
const EVENTS: &str = page!(
    "run, seq, id, at, kind, version, body",
    "run, seq",
    "SELECT event.run, seq, id, at, kind, version, body, octet_length(body) AS size \
     FROM event JOIN run ON run.run = event.run WHERE (event.run, seq) > ($1, $2)"
);
const CHECKPOINTS: &str = page!(
    "run, seq, id, at, body",
    "run, seq",
    "SELECT checkpoint.run, seq, id, at, body, octet_length(body) AS size \
     FROM checkpoint JOIN run ON run.run = checkpoint.run WHERE (checkpoint.run, seq) > ($1, $2)"
);
/// Blobs that somebody refers to; what only a run that is being removed refers to goes with it.
const BLOBS: &str = page!(
    "hash, body",
    "hash",
    "SELECT hash, body, octet_length(body) AS size FROM blob WHERE hash > $1 AND EXISTS \
     (SELECT 1 FROM blob_ref WHERE blob_ref.hash = blob.hash AND (blob_ref.run = 0 \
     OR EXISTS (SELECT 1 FROM run WHERE run.run = blob_ref.run)))"
);
const BLOB_USES: &str = "SELECT blob_ref.run, hash, id FROM blob_ref \
     LEFT JOIN run ON run.run = blob_ref.run WHERE (blob_ref.run, hash) > ($1, $2) \
     AND (blob_ref.run = 0 OR id IS NOT NULL) ORDER BY blob_ref.run, hash LIMIT 512";
const LETTERS: &str = page!(
    "number, run_id, id, kind, at, body",
    "number",
    "SELECT number, run.id AS run_id, letter.id, kind, at, body, octet_length(body) AS size \
     FROM letter JOIN run ON run.run = letter.run WHERE number > $1 AND NOT taken"
);
const LETTERS_TAKEN: &str = "SELECT number, run.id, letter.id FROM letter \
     JOIN run ON run.run = letter.run WHERE number > $1 AND taken ORDER BY number LIMIT 512";
const FACTS: &str = page!(
    "scope, key, version, at, expires_at, value",
    "scope, key",
    "SELECT scope, key, version, at, expires_at, value, octet_length(value) AS size FROM fact \
     WHERE ($1::text IS NULL OR (scope, key) > ($1, $2::text))"
);
const OPERATIONS: &str = page!(
    "name, scope, key, digest, owner, node, since, answer, settled_at, expires_at",
    "name",
    "SELECT name, scope, key, digest, owner, node, since, answer, settled_at, expires_at, \
     coalesce(octet_length(answer), 0) AS size FROM operation WHERE name > $1"
);

/// An account that was opened for a hold which was then refused has no time, and nothing in it.
const ACCOUNTS: &str = concat!(
    "SELECT ",
    balance_columns!(),
    ", at FROM account WHERE at > 0 AND (name, since) > ($1::text, $2) \
     ORDER BY name, since LIMIT 512"
);
const HOLDS: &str = page!(
    hold_columns!(),
    "id",
    concat!("SELECT ", hold_columns!(), ", octet_length(body) AS size FROM hold WHERE id > $1")
);
const ENTRIES: &str = page!(
    entry_columns!(),
    "id",
    concat!("SELECT ", entry_columns!(), ", octet_length(body) AS size FROM entry WHERE id > $1")
);

const STATEMENTS: [&str; 12] = [
    RUNS,
    EVENTS,
    CHECKPOINTS,
    BLOBS,
    BLOB_USES,
    LETTERS,
    LETTERS_TAKEN,
    FACTS,
    OPERATIONS,
    ACCOUNTS,
    HOLDS,
    ENTRIES,
];

/// How a connection for one long transaction differs from the others: its statements take the time that they
/// take, and it may stand still while the other side is slow.
pub(super) const PATIENT: &str = "SET statement_timeout TO 0; \
     SET idle_in_transaction_session_timeout TO '10min';";

/// A failure in the words of the store.
pub(super) fn told(address: &Address, failure: &Failure) -> StoreError {
    match failure {
        Failure::Damaged(problem) => address.damaged(problem),
        other => address.unavailable(other.problem()),
    }
}

/// A connection of its own that sees the database as it is now, or at the store's moment.
pub(super) async fn snapshot(
    store: &PostgresStore,
    statements: impl IntoIterator<Item = &'static str>,
) -> Result<Link, StoreError> {
    let begin = async {
        let link = Link::connect(&store.address, statements, None).await?;
        if let Some((_, moment)) = &store.moment {
            link.client().batch_execute(&see(moment)).await?;
            return Ok(link);
        }
        // The first statement decides what the transaction sees.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1 FROM meta LIMIT 1;";
        link.client().batch_execute(&format!("{PATIENT} {begin}")).await?;
        Ok(link)
    };
    begin.await.map_err(|failure: Failure| told(&store.address, &failure))
}

/// Where a dump stands: in which section, and behind which row of it.
struct Place {
    section: usize,
    numbers: (i64, i64),
    bytes: Vec<u8>,
    name: Option<(String, String)>,
    account: (String, i64),
    id: Uuid,
}

impl Place {
    const fn at(section: usize) -> Self {
        Self {
            section,
            numbers: (i64::MIN, i64::MIN),
            bytes: Vec::new(),
            name: None,
            account: (String::new(), i64::MIN),
            id: Uuid::nil(),
        }
    }
}

struct PostgresDump {
    address: Arc<Address>,
    /// Away while it is read from, at the end, and after an error.
    reading: Option<(Link, Place)>,
}

#[async_trait]
impl Dump for PostgresDump {
    async fn next(&mut self) -> Result<Vec<Record>, StoreError> {
        let Some((link, mut place)) = self.reading.take() else { return Ok(Vec::new()) };
        let page =
            read(&link, &mut place).await.map_err(|failure| told(&self.address, &failure))?;
        if !page.is_empty() {
            self.reading = Some((link, place));
        }
        Ok(page)
    }
}

/// The next page of the first section that has one.
async fn read(link: &Link, place: &mut Place) -> Result<Vec<Record>, Failure> {
    while place.section < STATEMENTS.len() {
        let page = section(link, place).await?;
        if !page.is_empty() {
            return Ok(page);
        }
        *place = Place::at(place.section + 1);
    }
    Ok(Vec::new())
}

/// Reads on in a section of an archive; these are in their order.
async fn section(link: &Link, place: &mut Place) -> Result<Vec<Record>, Failure> {
    let Place { section, numbers: (first, second), bytes, name, account: (of, since), id } =
        &*place;
    let (scope, key) = name.as_ref().map(|(scope, key)| (&**scope, &**key)).unzip();
    let [rows] = match section {
        0 => link.query([step(RUNS, &[first])]).await?,
        1 => link.query([step(EVENTS, &[first, second])]).await?,
        2 => link.query([step(CHECKPOINTS, &[first, second])]).await?,
        3 => link.query([step(BLOBS, &[bytes])]).await?,
        4 => link.query([step(BLOB_USES, &[first, bytes])]).await?,
        5 => link.query([step(LETTERS, &[first])]).await?,
        6 => link.query([step(LETTERS_TAKEN, &[first])]).await?,
        7 => link.query([step(FACTS, &[&scope, &key])]).await?,
        8 => link.query([step(OPERATIONS, &[bytes])]).await?,
        9 => link.query([step(ACCOUNTS, &[of, since])]).await?,
        10 => link.query([step(HOLDS, &[id])]).await?,
        _ => link.query([step(ENTRIES, &[id])]).await?,
    };
    let Some(last) = rows.last() else { return Ok(Vec::new()) };
    match section {
        0 => place.numbers.0 = last.try_get(HEAD_COLUMNS + 3)?,
        1 | 2 => place.numbers = (last.try_get(0)?, last.try_get(1)?),
        3 => place.bytes = last.try_get(0)?,
        4 => (place.numbers.0, place.bytes) = (last.try_get(0)?, last.try_get(1)?),
        5 | 6 => place.numbers.0 = last.try_get(0)?,
        7 => place.name = Some((last.try_get(0)?, last.try_get(1)?)),
        8 => place.bytes = last.try_get(0)?,
        9 => place.account = (last.try_get(0)?, last.try_get(1)?),
        _ => place.id = last.try_get(0)?,
    }
    let record = match place.section {
        0 => run,
        1 => event,
        2 => checkpoint,
        3 => blob,
        4 => blob_use,
        5 => letter,
        6 => letter_taken,
        7 => fact,
        8 => operation,
        9 => account_record,
        10 => hold_record,
        _ => entry_record,
    };
    rows.iter().map(record).collect()
}

fn run(row: &Row) -> Result<Record, Failure> {
    let text: Option<String> = row.try_get(HEAD_COLUMNS + 1)?;
    let (key, rank) = (row.try_get(HEAD_COLUMNS)?, row.try_get(HEAD_COLUMNS + 2)?);
    let run = RunRecord::new(schema::head(row)?, key, text.unwrap_or_default(), rank);
    Ok(Record::Run(Box::new(run)))
}

fn event(row: &Row) -> Result<Record, Failure> {
    let version: i32 = row.try_get(5)?;
    let beyond = |_| Failure::Damaged(format!("an event has the version {version}"));
    Ok(Record::Event {
        run: schema::run_id(row, 2)?,
        seq: schema::count(row, 1)?,
        at: Timestamp(row.try_get(3)?),
        kind: row.try_get(4)?,
        version: u16::try_from(version).map_err(beyond)?,
        body: row.try_get::<_, Vec<u8>>(6)?.into(),
    })
}

fn checkpoint(row: &Row) -> Result<Record, Failure> {
    Ok(Record::Checkpoint {
        run: schema::run_id(row, 2)?,
        seq: schema::count(row, 1)?,
        at: Timestamp(row.try_get(3)?),
        body: row.try_get::<_, Vec<u8>>(4)?.into(),
    })
}

fn blob(row: &Row) -> Result<Record, Failure> {
    Ok(Record::Blob { hash: hash(row, 0)?, body: row.try_get::<_, Vec<u8>>(1)?.into() })
}

fn blob_use(row: &Row) -> Result<Record, Failure> {
    let run = row.try_get::<_, Option<Uuid>>(2)?;
    let run = run.map(|id| RunId::from_bytes(id.into_bytes()));
    Ok(Record::BlobUse { run, hash: hash(row, 1)? })
}

fn letter(row: &Row) -> Result<Record, Failure> {
    Ok(Record::Letter {
        run: schema::run_id(row, 1)?,
        number: row.try_get(0)?,
        id: row.try_get(2)?,
        kind: row.try_get(3)?,
        at: Timestamp(row.try_get(4)?),
        body: row.try_get::<_, Vec<u8>>(5)?.into(),
    })
}

fn letter_taken(row: &Row) -> Result<Record, Failure> {
    Ok(Record::LetterTaken { run: schema::run_id(row, 1)?, id: row.try_get(2)? })
}

fn fact(row: &Row) -> Result<Record, Failure> {
    Ok(Record::Fact {
        scope: row.try_get(0)?,
        key: row.try_get(1)?,
        version: schema::count(row, 2)?,
        at: Timestamp(row.try_get(3)?),
        expires_at: row.try_get::<_, Option<i64>>(4)?.map(Timestamp),
        value: row.try_get::<_, Vec<u8>>(5)?.into(),
    })
}

fn operation(row: &Row) -> Result<Record, Failure> {
    let answer = match row.try_get::<_, Option<Vec<u8>>>(7)? {
        None => None,
        Some(body) => Some(AnswerRecord {
            at: Timestamp(row.try_get(8)?),
            expires_at: Timestamp(row.try_get(9)?),
            body: body.into(),
        }),
    };
    Ok(Record::Operation {
        scope: text(row, 1)?,
        key: text(row, 2)?,
        digest: hash(row, 3)?,
        owner: text(row, 4)?,
        node: row.try_get(5)?,
        since: Timestamp(row.try_get(6)?),
        answer,
    })
}

pub(super) fn hash(row: &Row, index: usize) -> Result<BlobHash, Failure> {
    let bytes: Vec<u8> = row.try_get(index)?;
    let damaged = |_| Failure::Damaged("a hash does not have 32 bytes".to_owned());
    bytes.try_into().map(BlobHash).map_err(damaged)
}

fn text(row: &Row, index: usize) -> Result<String, Failure> {
    String::from_utf8(row.try_get(index)?)
        .map_err(|_| Failure::Damaged("a name of an operation is not UTF-8".to_owned()))
}

#[async_trait]
impl Upkeep for PostgresStore {
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        prune::prune(self, prune).await
    }

    async fn examine(&self) -> Result<Vec<String>, StoreError> {
        prune::examine(self).await
    }
}

#[async_trait]
impl Archive for PostgresStore {
    async fn dump(&self) -> Result<Box<dyn Dump>, StoreError> {
        let link = snapshot(self, STATEMENTS).await?;
        let reading = Some((link, Place::at(0)));
        Ok(Box::new(PostgresDump { address: Arc::clone(&self.address), reading }))
    }

    async fn restore(&self) -> Result<Box<dyn Restore>, StoreError> {
        if self.moment.is_some() {
            return Err(self.address.unavailable(super::LOOKED_AT));
        }
        Ok(Box::new(restore::begin(Arc::clone(&self.address)).await?))
    }
}
