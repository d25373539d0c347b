//! The tables, and how a file comes to have them: forward, one version after the other, in one
//! transaction.
//!
//! The event table only ever grows at its end, and one index finds a run's tail; a key of (run, seq)
//! as the table's own order would scatter the appends of many runs over as many pages. Runs have a
//! small integer beside their public id, so that no index of events carries sixteen bytes of it. The
//! indexes for the scheduler are partial: a run that is held and grows touches none of them.

use rusqlite::Connection;

/// Marks the file as ours: "Stdf".
pub(super) const APPLICATION_ID: i64 = 0x5374_6466;

/// The step at index `n` leads from schema version `n` to `n + 1`.
pub(super) const MIGRATIONS: &[&str] = &[
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE run (
        id INTEGER PRIMARY KEY,
        public_id BLOB NOT NULL UNIQUE,
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
    CREATE INDEX run_ready ON run (priority DESC, updated_at, id) WHERE disposition = 0;
    CREATE INDEX run_held ON run (owner) WHERE disposition = 1;
    CREATE INDEX run_parked ON run (wake_at) WHERE disposition = 2 AND wake_at IS NOT NULL;
    CREATE INDEX run_by_state ON run (state, public_id);
    CREATE INDEX run_by_tenant ON run (tenant, public_id);

    CREATE TABLE event (
        pos INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        version INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX event_place ON event (run, seq);

    CREATE TABLE checkpoint (
        run INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX checkpoint_place ON checkpoint (run, seq);

    CREATE TABLE blob (hash BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

    CREATE TABLE node (id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
];

/// The newest schema version that this release knows.
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Leads a file forward from the version it has; all steps happen or none.
pub(super) fn migrate(conn: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    let steps = MIGRATIONS.get(done..).unwrap_or_default();
    if steps.is_empty() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    for step in steps {
        tx.execute_batch(step)?;
    }
    tx.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES ('store_id', ?1)",
        [uuid::Uuid::now_v7().to_string()],
    )?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", NEWEST)?;
    tx.commit()
}
