//! The tables, the way from an older version of them to this one, and index cards from rows.

use tokio_postgres::Row;
use uuid::Uuid;

use super::address::Address;
use super::link::{Failure, Link};
use crate::{Disposition, NodeId, RunHead, RunId, StoreError, Timestamp};

/// The version that a store has after [`open`].
pub(super) const VERSION: i64 = 2;

/// `MIGRATIONS[n]` leads from version n to version n + 1. A released one never changes.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

// No index on `run` holds a column that the append of a running run changes, so that such an update
// stays in its page (a HOT update) for which the page keeps room. `rank` is the place in the line of a run
// that is ready, kept while it is held, and null otherwise. A key has an index of fixed length, however long it is.
const VERSION_1: &str = "
    CREATE TABLE run (
        run bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        tenant text NOT NULL,
        agent text NOT NULL,
        key text,
        key_hash bytea UNIQUE,
        state text NOT NULL,
        disposition smallint NOT NULL,
        wake_at bigint,
        rank bigint,
        priority integer NOT NULL,
        epoch bigint NOT NULL,
        owner text,
        claim bigint,
        head_seq bigint NOT NULL,
        created_at bigint NOT NULL,
        updated_at bigint NOT NULL,
        session text,
        tags text[],
        parent uuid,
        problem text,
        summary bytea NOT NULL
    ) WITH (
        fillfactor = 60,
        autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 1
    );
    CREATE INDEX run_ready ON run (tenant, agent, rank, run) WHERE disposition = 0;
    CREATE INDEX run_held ON run (tenant, agent, owner) WHERE disposition = 1;
    CREATE INDEX run_session ON run (session, id) WHERE session IS NOT NULL;
    CREATE INDEX run_tags ON run USING gin (tags) WHERE tags IS NOT NULL;
    CREATE INDEX run_parent ON run (parent, id) WHERE parent IS NOT NULL;
    CREATE INDEX run_problem ON run (id) WHERE problem IS NOT NULL;
    CREATE INDEX run_parked ON run (wake_at) WHERE disposition = 2 AND wake_at IS NOT NULL;
    CREATE INDEX run_tenant ON run (tenant, id);
    CREATE INDEX run_agent ON run (agent, id);
    CREATE INDEX run_state ON run (state, id);
    CREATE TABLE event (
        run bigint NOT NULL,
        seq bigint NOT NULL,
        at bigint NOT NULL,
        kind text NOT NULL,
        version integer NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (run, seq)
    );
    CREATE TABLE checkpoint (
        run bigint NOT NULL,
        seq bigint NOT NULL,
        at bigint NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (run, seq)
    );
    CREATE TABLE blob (hash bytea PRIMARY KEY, body bytea NOT NULL);
    CREATE TABLE blob_ref (run bigint NOT NULL, hash bytea NOT NULL, PRIMARY KEY (run, hash));
    CREATE INDEX blob_ref_hash ON blob_ref (hash);
    CREATE TABLE run_text (run bigint PRIMARY KEY, text text NOT NULL);
    CREATE TABLE turn (tenant text PRIMARY KEY, turn bigint NOT NULL) WITH (fillfactor = 50);
    CREATE INDEX turn_last ON turn (turn);
    CREATE TABLE letter (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run bigint NOT NULL,
        id text NOT NULL,
        kind text NOT NULL,
        body bytea NOT NULL,
        at bigint NOT NULL,
        taken boolean NOT NULL DEFAULT false,
        UNIQUE (run, id)
    );
    CREATE INDEX letter_waiting ON letter (run, number) WHERE NOT taken;
    CREATE TABLE fact (
        scope text COLLATE \"C\" NOT NULL,
        key text COLLATE \"C\" NOT NULL,
        value bytea NOT NULL,
        version bigint NOT NULL,
        at bigint NOT NULL,
        expires_at bigint,
        PRIMARY KEY (scope, key)
    );
    CREATE INDEX fact_expiry ON fact (expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE node (id text PRIMARY KEY, expires_at bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE operation (
        name bytea PRIMARY KEY,
        scope bytea NOT NULL,
        key bytea NOT NULL,
        digest bytea NOT NULL,
        owner bytea NOT NULL,
        node text NOT NULL,
        since bigint NOT NULL,
        answer bytea,
        settled_at bigint,
        expires_at bigint
    );
    CREATE INDEX operation_expiry ON operation (expires_at) WHERE expires_at IS NOT NULL;
";

const VERSION_2: &str = "
    CREATE TABLE account (
        name text COLLATE \"C\" NOT NULL,
        since bigint NOT NULL,
        spent_tokens bigint NOT NULL,
        spent_money bigint NOT NULL,
        held_tokens bigint NOT NULL,
        held_money bigint NOT NULL,
        entries bigint NOT NULL,
        at bigint NOT NULL,
        PRIMARY KEY (name, since)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
    CREATE TABLE hold (
        id uuid PRIMARY KEY,
        tokens bigint NOT NULL,
        money bigint NOT NULL,
        limited text NOT NULL,
        tallies text NOT NULL,
        charged boolean NOT NULL,
        expires_at bigint NOT NULL,
        subject text,
        body bytea NOT NULL
    );
    CREATE INDEX hold_expiry ON hold (charged, expires_at);
    CREATE TABLE entry (
        id uuid PRIMARY KEY,
        at bigint NOT NULL,
        expired boolean NOT NULL,
        subject text,
        tokens bigint NOT NULL,
        money bigint NOT NULL,
        body bytea NOT NULL
    );
    CREATE INDEX entry_subject ON entry (subject, id) WHERE subject IS NOT NULL;
";

/// The store's clock, in milliseconds: the database's, never a node's.
macro_rules! now_ms {
    () => {
        "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
pub(super) use now_ms;

/// Makes the tables, or brings them up to date, and gives the store's id. However many nodes start at
/// once, one does it and the others wait.
pub(super) async fn open(address: &Address) -> Result<String, StoreError> {
    let failed = |failure: Failure| address.unavailable(failure.problem());
    let mut link = Link::connect(address, [], None).await.map_err(failed)?;
    warn_if_volatile(address, &link).await;
    match migrate(address, &mut link).await {
        Ok(id) => Ok(id),
        Err(Migration::Refused(refusal)) => Err(refusal),
        Err(Migration::Failed(failure)) => Err(failed(failure)),
    }
}

/// The version of the store that is there, if there is one, and its id. Makes nothing.
pub(super) async fn found(address: &Address) -> Result<Option<(i64, String)>, StoreError> {
    let look = async {
        let link = Link::connect(address, [], None).await?;
        let client = link.client();
        let meta = "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = $1 \
                    AND tablename = 'meta')";
        if !client.query_one(meta, &[&address.schema]).await?.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        let values = "SELECT (SELECT value FROM meta WHERE name = 'schema_version'), \
                      (SELECT value FROM meta WHERE name = 'store_id')";
        let row = client.query_one(values, &[]).await?;
        let (version, id): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let version = version.and_then(|version| version.parse().ok());
        Ok(version.zip(id))
    };
    look.await.map_err(|failure: Failure| address.unavailable(failure.problem()))
}

enum Migration {
    Refused(StoreError),
    Failed(Failure),
}

impl From<tokio_postgres::Error> for Migration {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Begins a transaction that only one node at a time is in. The lock ends with it, also when the node dies.
pub(super) fn begin_alone(schema: &str) -> String {
    format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('steadfast/migrate/{schema}', 0));"
    )
}

async fn migrate(address: &Address, link: &mut Link) -> Result<String, Migration> {
    let (client, schema) = (link.client(), &address.schema);
    client.batch_execute(&begin_alone(schema)).await?;
    let found = client
        .query_one(
            "SELECT count(*) FILTER (WHERE tablename = 'meta'), count(*), \
             EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1) \
             FROM pg_tables WHERE schemaname = $1",
            &[schema],
        )
        .await?;
    let (has_meta, tables) = (found.try_get::<_, i64>(0)? > 0, found.try_get::<_, i64>(1)?);
    let refused = |problem: &str| {
        let (place, problem) = (address.to_string(), problem.to_owned());
        Migration::Refused(StoreError::NotAStore { place, problem })
    };
    if !has_meta && tables > 0 {
        return Err(refused("the schema holds tables of another program; name another schema"));
    }
    if !has_meta {
        // Who may use a schema that is there need not be allowed to make one.
        if !found.try_get::<_, bool>(2)? {
            client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
        }
        let meta = format!(
            "CREATE TABLE meta (name text PRIMARY KEY, value text NOT NULL);
             INSERT INTO meta VALUES ('schema_version', '0'), ('store_id', '{}');",
            Uuid::now_v7()
        );
        client.batch_execute(&meta).await?;
    }
    let value = async |name: &str| -> Result<String, Migration> {
        let row = client.query_opt("SELECT value FROM meta WHERE name = $1", &[&name]).await?;
        let value = row.map(|row| row.try_get(0)).transpose()?;
        value.ok_or_else(|| refused("its table `meta` is not complete; name another schema"))
    };
    let version = value("schema_version").await?.parse().unwrap_or(i64::MAX);
    if version > VERSION {
        let place = address.to_string();
        return Err(Migration::Refused(StoreError::Newer {
            place,
            found: version,
            known: VERSION,
        }));
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        client.batch_execute(migration).await?;
    }
    let done = format!(
        "UPDATE meta SET value = '{VERSION}' WHERE name = 'schema_version' AND value <> '{VERSION}'"
    );
    client.batch_execute(&done).await?;
    let id = value("store_id").await?;
    client.batch_execute("COMMIT").await?;
    Ok(id)
}

/// Some servers are set up to forget. That is their owner's decision, but nobody's surprise.
async fn warn_if_volatile(address: &Address, link: &Link) {
    let setting = link.client().query_one("SELECT current_setting('fsync')", &[]).await;
    if setting.is_ok_and(|row| row.try_get::<_, String>(0).is_ok_and(|fsync| fsync == "off")) {
        tracing::warn!(
            store = %address,
            "the server runs with fsync=off: what it has acknowledged may be gone after a crash"
        );
    }
}

/// What [`head`] reads, in its order.
macro_rules! head_columns {
    () => {
        "id, tenant, agent, state, disposition, wake_at, priority, epoch, owner, head_seq, \
         created_at, updated_at, summary, session, tags, parent, problem"
    };
}
pub(super) use head_columns;

/// How many columns `head_columns!` has: what is selected behind it begins here.
pub(super) const HEAD_COLUMNS: usize = 17;

/// An index card from a row of `head_columns!`.
pub(super) fn head(row: &Row) -> Result<RunHead, Failure> {
    Ok(RunHead {
        id: run_id(row, 0)?,
        tenant: row.try_get(1)?,
        agent: row.try_get(2)?,
        state: row.try_get(3)?,
        disposition: disposition(row, 4)?,
        priority: row.try_get(6)?,
        epoch: count(row, 7)?,
        owner: row.try_get::<_, Option<String>>(8)?.map(NodeId::from),
        head_seq: count(row, 9)?,
        created_at: Timestamp(row.try_get(10)?),
        updated_at: Timestamp(row.try_get(11)?),
        summary: row.try_get::<_, Vec<u8>>(12)?.into(),
        session: row.try_get(13)?,
        tags: row.try_get::<_, Option<Vec<String>>>(14)?.unwrap_or_default(),
        parent: row.try_get::<_, Option<Uuid>>(15)?.map(|id| RunId::from_bytes(id.into_bytes())),
        problem: row.try_get(16)?,
    })
}

/// A disposition from the column at `index` and the wake-up time in the one after it.
pub(super) fn disposition(row: &Row, index: usize) -> Result<Disposition, Failure> {
    match row.try_get::<_, i16>(index)? {
        0 => Ok(Disposition::Ready),
        1 => Ok(Disposition::Held),
        2 => Ok(Disposition::Parked {
            wake_at: row.try_get::<_, Option<i64>>(index + 1)?.map(Timestamp),
        }),
        3 => Ok(Disposition::Ended),
        4 => Ok(Disposition::Paused),
        other => Err(Failure::Damaged(format!("a run has the disposition {other}"))),
    }
}

/// The two columns of a disposition.
pub(super) fn disposition_columns(disposition: Disposition) -> (i16, Option<i64>) {
    match disposition {
        Disposition::Ready => (0, None),
        Disposition::Held => (1, None),
        Disposition::Parked { wake_at } => (2, wake_at.map(|at| at.0)),
        Disposition::Ended => (3, None),
        Disposition::Paused => (4, None),
    }
}

/// A number that is never below 0.
pub(super) fn count(row: &Row, index: usize) -> Result<u64, Failure> {
    let number: i64 = row.try_get(index)?;
    u64::try_from(number).map_err(|_| Failure::Damaged(format!("{number} is below 0")))
}

pub(super) fn run_id(row: &Row, index: usize) -> Result<RunId, Failure> {
    Ok(RunId::from_bytes(row.try_get::<_, Uuid>(index)?.into_bytes()))
}

pub(super) fn uuid(run: RunId) -> Uuid {
    Uuid::from_bytes(*run.as_bytes())
}

/// A number as the database keeps it.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The time in the first column of the first row.
pub(super) fn time(rows: &[Row]) -> Result<Timestamp, Failure> {
    let row = rows.first().ok_or_else(|| Failure::Damaged("the time is missing".to_owned()))?;
    Ok(Timestamp(row.try_get(0)?))
}
