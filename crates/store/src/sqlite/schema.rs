//! The tables, and the way from an older version of them to this one.

use rusqlite::{Connection, Row};

use crate::{Disposition, NodeId, RunHead, RunId, Timestamp};

/// "STDF": marks a SQLite file as a Steadfast store.
pub(super) const APPLICATION_ID: i64 = 0x5354_4446;

/// The version that a store has after [`migrate`].
pub(super) const VERSION: i64 = 5;

/// `MIGRATIONS[n]` leads from version n to version n + 1. A released one never changes.
const MIGRATIONS: [&str; 5] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5];

// The indexes on `run` hold no column that an ordinary append changes, or are partial and do not
// cover a held run: an append rewrites one row of `run` and no index of it.
const VERSION_1: &str = "
    CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE run (
        run INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        agent TEXT NOT NULL,
        key TEXT,
        state TEXT NOT NULL,
        disposition INTEGER NOT NULL,
        wake_at INTEGER,
        priority INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        owner TEXT,
        head_seq INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        summary BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX run_key ON run (tenant, key) WHERE key IS NOT NULL;
    CREATE INDEX run_ready ON run (priority DESC, updated_at) WHERE disposition = 0;
    CREATE INDEX run_held ON run (owner) WHERE disposition = 1;
    CREATE INDEX run_parked ON run (wake_at) WHERE disposition = 2 AND wake_at IS NOT NULL;
    CREATE INDEX run_tenant ON run (tenant, id);
    CREATE INDEX run_agent ON run (agent, id);
    CREATE INDEX run_state ON run (state, id);
    CREATE TABLE event (
        pos INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        version INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX event_run ON event (run, seq);
    CREATE TABLE checkpoint (
        run INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (run, seq)
    ) STRICT;
    CREATE TABLE blob (hash BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;
    CREATE TABLE node (id TEXT NOT NULL PRIMARY KEY, expires_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
";

const VERSION_2: &str = "
    CREATE TABLE operation (
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,
        owner TEXT NOT NULL,
        node TEXT NOT NULL,
        since INTEGER NOT NULL,
        answer BLOB,
        settled_at INTEGER,
        expires_at INTEGER,
        UNIQUE (scope, key)
    ) STRICT;
    CREATE INDEX operation_expiry ON operation (expires_at) WHERE expires_at IS NOT NULL;
";

// `rank` is set whenever a run becomes ready, kept while it is held, and says nothing otherwise. Runs of older stores are found by
// everything but their text, and their blobs are kept for good.
const VERSION_3: &str = "
    ALTER TABLE run ADD COLUMN rank INTEGER;
    ALTER TABLE run ADD COLUMN session TEXT;
    ALTER TABLE run ADD COLUMN tags TEXT;
    ALTER TABLE run ADD COLUMN parent BLOB;
    ALTER TABLE run ADD COLUMN problem TEXT;
    UPDATE run SET rank = updated_at - 60000 * priority WHERE disposition = 0;
    DROP INDEX run_ready;
    DROP INDEX run_held;
    CREATE INDEX run_ready ON run (tenant, agent, rank) WHERE disposition = 0;
    CREATE INDEX run_held ON run (tenant, agent, owner) WHERE disposition = 1;
    CREATE INDEX run_session ON run (session, id) WHERE session IS NOT NULL;
    CREATE INDEX run_parent ON run (parent, id) WHERE parent IS NOT NULL;
    CREATE INDEX run_problem ON run (id) WHERE problem IS NOT NULL;
    CREATE TABLE tag (tag TEXT NOT NULL, id BLOB NOT NULL, PRIMARY KEY (tag, id)) STRICT, WITHOUT ROWID;
    CREATE VIRTUAL TABLE run_text USING fts5 (text, tokenize = 'trigram');
    CREATE TABLE turn (tenant TEXT NOT NULL PRIMARY KEY, turn INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX turn_last ON turn (turn);
    CREATE TABLE letter (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        body BLOB NOT NULL,
        at INTEGER NOT NULL,
        taken INTEGER NOT NULL,
        UNIQUE (run, id)
    ) STRICT;
    CREATE INDEX letter_waiting ON letter (run, number) WHERE taken = 0;
    CREATE TABLE fact (
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        expires_at INTEGER,
        UNIQUE (scope, key)
    ) STRICT;
    CREATE INDEX fact_expiry ON fact (expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE blob_ref (run INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (run, hash))
        STRICT, WITHOUT ROWID;
    CREATE INDEX blob_ref_hash ON blob_ref (hash);
    INSERT INTO blob_ref (run, hash) SELECT 0, hash FROM blob;
";

// What was written before has no seal.
const VERSION_4: &str = "
    ALTER TABLE event ADD COLUMN seal INTEGER;
    ALTER TABLE checkpoint ADD COLUMN seal INTEGER;
    ALTER TABLE operation ADD COLUMN seal INTEGER;
    ALTER TABLE operation ADD COLUMN answer_seal INTEGER;
";

// What is written for every call is kept to as few trees as can be: a hold has no index before it has been
// charged, since those that are open are few and short-lived.
const VERSION_5: &str = "
    CREATE TABLE account (
        pos INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        since INTEGER NOT NULL,
        spent_tokens INTEGER NOT NULL,
        spent_money INTEGER NOT NULL,
        held_tokens INTEGER NOT NULL,
        held_money INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        at INTEGER NOT NULL,
        seal INTEGER NOT NULL,
        UNIQUE (name, since)
    ) STRICT;
    CREATE TABLE hold (
        id BLOB NOT NULL PRIMARY KEY,
        charged INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        money INTEGER NOT NULL,
        limited TEXT NOT NULL,
        tallies TEXT NOT NULL,
        subject TEXT,
        body BLOB NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX hold_charged ON hold (expires_at) WHERE charged = 1;
    CREATE TABLE entry (
        id BLOB NOT NULL PRIMARY KEY,
        at INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        subject TEXT,
        tokens INTEGER NOT NULL,
        money INTEGER NOT NULL,
        body BLOB NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entry_subject ON entry (subject, id) WHERE subject IS NOT NULL;
";

/// Brings a store from version `found` to [`VERSION`], in one transaction: a crash leaves the old
/// version or the new one.
pub(super) fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    if found == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    let done = usize::try_from(found).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    if found == 0 {
        transaction.execute(
            "INSERT INTO meta (name, value) VALUES ('store_id', ?1)",
            [uuid::Uuid::now_v7().to_string()],
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// What [`head`] reads, in its order.
macro_rules! head_columns {
    () => {
        "id, tenant, agent, state, disposition, wake_at, priority, epoch, owner, head_seq, \
         created_at, updated_at, summary, session, tags, parent, problem"
    };
}
pub(super) use head_columns;

/// An index card from a row of `head_columns!`.
pub(super) fn head(row: &Row<'_>) -> rusqlite::Result<RunHead> {
    Ok(RunHead {
        id: RunId::from_bytes(row.get(0)?),
        tenant: row.get(1)?,
        agent: row.get(2)?,
        state: row.get(3)?,
        disposition: disposition(row, 4)?,
        priority: row.get(6)?,
        epoch: row.get(7)?,
        owner: row.get::<_, Option<String>>(8)?.map(NodeId::from),
        head_seq: row.get(9)?,
        created_at: Timestamp(row.get(10)?),
        updated_at: Timestamp(row.get(11)?),
        summary: row.get::<_, Vec<u8>>(12)?.into(),
        session: row.get(13)?,
        tags: row.get::<_, Option<String>>(14)?.as_deref().map(tags).unwrap_or_default(),
        parent: row.get::<_, Option<[u8; 16]>>(15)?.map(RunId::from_bytes),
        problem: row.get(16)?,
    })
}

/// What lies between two tags of a run; no tag may hold it.
const BETWEEN_TAGS: char = '\n';

fn tags(column: &str) -> Vec<String> {
    column.split(BETWEEN_TAGS).map(str::to_owned).collect()
}

/// The column of a run's tags.
pub(super) fn tags_column(tags: &[String]) -> Option<String> {
    (!tags.is_empty()).then(|| tags.join(&BETWEEN_TAGS.to_string()))
}

/// A disposition from the column at `index` and the wake-up time in the one after it.
pub(super) fn disposition(row: &Row<'_>, index: usize) -> rusqlite::Result<Disposition> {
    match row.get(index)? {
        0 => Ok(Disposition::Ready),
        1 => Ok(Disposition::Held),
        2 => Ok(Disposition::Parked {
            wake_at: row.get::<_, Option<i64>>(index + 1)?.map(Timestamp),
        }),
        3 => Ok(Disposition::Ended),
        4 => Ok(Disposition::Paused),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(index, other)),
    }
}

/// The two columns of a disposition.
pub(super) fn disposition_columns(disposition: Disposition) -> (i64, Option<i64>) {
    match disposition {
        Disposition::Ready => (0, None),
        Disposition::Held => (1, None),
        Disposition::Parked { wake_at } => (2, wake_at.map(|at| at.0)),
        Disposition::Ended => (3, None),
        Disposition::Paused => (4, None),
    }
}
