//! The tables, and the way from an older version of them to this one.

use rusqlite::{Connection, Row};

use crate::{Disposition, NodeId, RunHead, RunId, Timestamp};

/// "STDF": marks a SQLite file as a Steadfast store.
pub(super) const APPLICATION_ID: i64 = 0x5354_4446;

/// The version that a store has after [`migrate`].
pub(super) const VERSION: i64 = 1;

/// `MIGRATIONS[n]` leads from version n to version n + 1. A released one never changes.
const MIGRATIONS: [&str; 1] = [VERSION_1];

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
         created_at, updated_at, summary"
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
    })
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
    }
}
