//! Reads, on a few connections of their own; each is one round trip, or a few. A read whose connection
//! is lost is made again on another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::address::Address;
use super::archive::PATIENT;
use super::ledger;
use super::link::{Failure, Link, step};
use super::prune::CHOOSE;
use super::schema::{self, head_columns, now_ms};
use super::silence::exchange;
use crate::patience::limited;
use crate::{
    BlobHash, Checkpoint, Fact, FactFilter, FactName, Letter, Page, RunFilter, RunHead, RunId,
    StoreError, StoredEvent, Timestamp,
};

const RUN: &str = "SELECT run FROM run WHERE id = $1";
const EVENTS: &str = "SELECT seq, at, kind, version, body FROM event \
     WHERE run = (SELECT run FROM run WHERE id = $1) AND seq > $2 ORDER BY seq LIMIT $3";
const CHECKPOINTS: &str = "SELECT seq, at, body FROM checkpoint \
     WHERE run = (SELECT run FROM run WHERE id = $1) ORDER BY seq DESC";
const BLOB: &str = "SELECT body FROM blob WHERE hash = $1";
const HEAD: &str = concat!("SELECT ", head_columns!(), " FROM run WHERE id = $1");
/// From each state to the next one in the index, instead of over every run.
const STATES: &str = "WITH RECURSIVE states AS ((SELECT state FROM run ORDER BY state LIMIT 1) \
     UNION ALL SELECT (SELECT state FROM run WHERE state > states.state ORDER BY state LIMIT 1) \
     FROM states WHERE states.state IS NOT NULL) \
     SELECT state, (SELECT count(*) FROM (SELECT 1 FROM run WHERE run.state = states.state \
     LIMIT $1) AS counted) FROM states WHERE state IS NOT NULL ORDER BY state COLLATE \"C\"";
const NEXT_WAKE: &str = "SELECT min(at) FROM (\
     SELECT min(wake_at) AS at FROM run WHERE disposition = 2 AND wake_at IS NOT NULL \
     UNION ALL SELECT min(coalesce(node.expires_at, run.updated_at)) \
     FROM run LEFT JOIN node ON node.id = run.owner WHERE run.disposition = 1) AS times";

const NOW: &str = concat!("SELECT ", now_ms!());

const LETTERS: &str = "SELECT number, id, kind, body, at FROM letter \
     WHERE run = (SELECT run FROM run WHERE id = $1) AND NOT taken ORDER BY number LIMIT $2";
const FACT: &str = concat!(
    "SELECT key, value, version, at, expires_at FROM fact \
     WHERE scope = $1 AND key = $2 AND (expires_at IS NULL OR expires_at > ",
    now_ms!(),
    ")"
);
const FACTS: &str = concat!(
    "SELECT key, value, version, at, expires_at FROM fact \
     WHERE scope = $1 AND key >= $2 AND starts_with(key, $2) \
     AND ($3::text IS NULL OR key > $3) AND (expires_at IS NULL OR expires_at > ",
    now_ms!(),
    ") ORDER BY key LIMIT $4"
);

/// Nodes whose leases hold.
pub(super) const NODES: &str = concat!("SELECT count(*) FROM node WHERE expires_at > ", now_ms!());

const STATEMENTS: [&str; 17] = [
    RUN,
    EVENTS,
    CHECKPOINTS,
    BLOB,
    HEAD,
    STATES,
    NEXT_WAKE,
    NOW,
    LETTERS,
    FACT,
    FACTS,
    CHOOSE,
    NODES,
    ledger::BALANCES,
    ledger::ACCOUNTS,
    ledger::ENTRIES,
    ledger::ENTRIES_OF,
];

/// How long after a lost connection the next is tried.
const PAUSE: Duration = Duration::from_millis(100);
/// What an attempt to connect is given at least, so that it can succeed at all.
const MOMENT: Duration = Duration::from_secs(1);

const CLOSED: &str = "it has been closed";

/// The connections that read.
pub(super) struct Readers {
    address: Arc<Address>,
    patience: Duration,
    /// With how often the writer had connected anew when they were made.
    free: Mutex<Vec<(u64, Link)>>,
    /// Rises when the writer connects anew: the server that wrote is perhaps not the one that is read.
    renewals: watch::Receiver<u64>,
    /// Why the last attempt has failed; none if the database was reached since.
    trouble: Mutex<Option<String>>,
    places: Semaphore,
    /// The moment that every read sees, if they all see one.
    moment: Option<String>,
}

/// A connection in use; it is put back also when the read is dropped.
struct Borrowed<'a> {
    readers: &'a Readers,
    renewal: u64,
    link: Option<Link>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let open = !self.readers.places.is_closed();
        if let Some(link) = self.link.take().filter(|link| open && !link.is_closed()) {
            self.readers.free.lock().push((self.renewal, link));
        }
    }
}

/// A read under way.
pub(super) type Reading<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

impl Readers {
    pub(super) fn new(
        address: Arc<Address>,
        patience: Duration,
        count: usize,
        renewals: watch::Receiver<u64>,
    ) -> Self {
        let places = Semaphore::new(count.max(1));
        let (free, trouble) = (Mutex::new(Vec::new()), Mutex::new(None));
        Self { address, patience, free, renewals, trouble, places, moment: None }
    }

    /// Beside no writer; every read sees an exported moment.
    pub(super) fn at(
        moment: String,
        address: Arc<Address>,
        patience: Duration,
        count: usize,
    ) -> Self {
        let (_, renewals) = watch::channel(0);
        Self { moment: Some(moment), ..Self::new(address, patience, count, renewals) }
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let link = Link::connect(&self.address, STATEMENTS, None).await?;
        if let Some(moment) = &self.moment {
            link.client().batch_execute(&see(moment)).await?;
        }
        Ok(link)
    }

    /// Makes a read, and makes it again while its connection gets lost, until the patience is over; if it
    /// was one that had been made before, at least once.
    pub(super) async fn read<T: Send>(
        &self,
        read: impl for<'a> Fn(&'a Link) -> Reading<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let (began, patience) = (Instant::now(), limited(self.patience));
        let deadline = began + patience;
        let away = |problem: &str| self.address.away(problem, patience);
        let _place = self.place(deadline, began + self.patience).await?;
        let mut tried_anew = false;
        loop {
            let (link, was_free) = match self.link(deadline).await {
                Ok(link) => link,
                Err(problem) if Instant::now() + PAUSE >= deadline => {
                    return Err(away(&problem));
                }
                Err(_) => {
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let problem = match self.attempt(link, &read).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Damaged(problem)) => return Err(self.address.damaged(&problem)),
                Err(Failure::Failed(problem) | Failure::Refused(problem)) => {
                    return Err(self.address.unavailable(&problem));
                }
                Err(
                    Failure::Lost(problem) | Failure::Doubtful(problem) | Failure::Again(problem),
                ) => problem,
            };
            if was_free && !tried_anew {
                tried_anew = true;
                continue;
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(away(&problem));
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for a place. If the others are only busy, it is waited for as long as the store's own
    /// patience says.
    async fn place(
        &self,
        deadline: Instant,
        latest: Instant,
    ) -> Result<SemaphorePermit<'_>, StoreError> {
        let mut acquire = std::pin::pin!(self.places.acquire());
        let mut place = timeout_at(deadline, &mut acquire).await;
        if place.is_err() {
            if let Some(problem) = &*self.trouble.lock() {
                return Err(self.address.away(problem, limited(self.patience)));
            }
            place = timeout_at(latest, acquire).await;
        }
        match place {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(self.address.unavailable(CLOSED)),
            Err(_) => Err(self.address.unavailable("its connections for reading are all busy")),
        }
    }

    /// A connection, and whether it had been made before; or why there is none.
    async fn link(&self, deadline: Instant) -> Result<(Borrowed<'_>, bool), String> {
        let renewal = *self.renewals.borrow();
        let free = {
            let mut free = self.free.lock();
            free.retain(|(made, link)| *made == renewal && !link.is_closed());
            free.pop()
        };
        if let Some((_, link)) = free {
            return Ok((Borrowed { readers: self, renewal, link: Some(link) }, true));
        }
        let connected = timeout_at(deadline.max(Instant::now() + MOMENT), self.connect()).await;
        let connected = match connected {
            Ok(Ok(link)) => Ok((Borrowed { readers: self, renewal, link: Some(link) }, false)),
            Ok(Err(failure)) => Err(failure.problem().to_owned()),
            Err(_) => Err("it does not answer".to_owned()),
        };
        self.trouble.lock().clone_from(&connected.as_ref().err().cloned());
        connected
    }

    async fn attempt<T: Send>(
        &self,
        mut borrowed: Borrowed<'_>,
        read: &(impl for<'a> Fn(&'a Link) -> Reading<'a, T> + Send + Sync),
    ) -> Result<T, Failure> {
        let Some(link) = &borrowed.link else { return Err(Failure::Lost(String::new())) };
        let answer = exchange(link, &self.address, read(link)).await;
        let lost = matches!(answer, Err(Failure::Lost(_) | Failure::Doubtful(_)));
        // After an error a transaction is of no more use.
        if lost || (self.moment.is_some() && answer.is_err()) {
            drop(borrowed.link.take());
        }
        if lost {
            // What befell this one has probably befallen the others.
            self.free.lock().clear();
        }
        answer
    }

    /// Ends the connections; reads under way keep theirs until they are done.
    pub(super) fn close(&self) {
        self.places.close();
        self.free.lock().clear();
    }
}

/// Begins a transaction that sees an exported moment.
pub(super) fn see(moment: &str) -> String {
    format!(
        "{PATIENT} BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT '{moment}';"
    )
}

/// How many nodes are at work.
pub(super) fn nodes(link: &Link) -> Reading<'_, u64> {
    Box::pin(async move {
        let [rows] = link.query([step(NODES, &[])]).await?;
        rows.first().map_or(Ok(0), |row| schema::count(row, 0))
    })
}

/// Events, or `None` if there is no such run.
pub(super) fn events(
    link: &Link,
    run: RunId,
    after: u64,
    limit: usize,
) -> Reading<'_, Option<Vec<StoredEvent>>> {
    Box::pin(async move {
        let (id, after) = (schema::uuid(run), schema::stored(after));
        let limit = schema::stored(limit as u64);
        let [found, rows] =
            link.query([step(RUN, &[&id]), step(EVENTS, &[&id, &after, &limit])]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let events = rows.iter().map(|row| {
            let version: i32 = row.try_get(3)?;
            let beyond = |_| Failure::Damaged(format!("an event has the version {version}"));
            Ok(StoredEvent {
                seq: schema::count(row, 0)?,
                at: Timestamp(row.try_get(1)?),
                kind: row.try_get(2)?,
                version: u16::try_from(version).map_err(beyond)?,
                body: row.try_get::<_, Vec<u8>>(4)?.into(),
            })
        });
        events.collect::<Result<_, Failure>>().map(Some)
    })
}

/// Checkpoints, or `None` if there is no such run.
pub(super) fn checkpoints(link: &Link, run: RunId) -> Reading<'_, Option<Vec<Checkpoint>>> {
    Box::pin(async move {
        let id = schema::uuid(run);
        let [found, rows] = link.query([step(RUN, &[&id]), step(CHECKPOINTS, &[&id])]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let checkpoints = rows.iter().map(|row| {
            Ok(Checkpoint {
                seq: schema::count(row, 0)?,
                at: Timestamp(row.try_get(1)?),
                body: row.try_get::<_, Vec<u8>>(2)?.into(),
            })
        });
        checkpoints.collect::<Result<_, Failure>>().map(Some)
    })
}

pub(super) fn blob(link: &Link, hash: BlobHash) -> Reading<'_, Option<Bytes>> {
    Box::pin(async move {
        let [rows] = link.query([step(BLOB, &[&&hash.0[..]])]).await?;
        let body = rows.first().map(|row| row.try_get::<_, Vec<u8>>(0)).transpose()?;
        Ok(body.map(Bytes::from))
    })
}

pub(super) fn head(link: &Link, run: RunId) -> Reading<'_, Option<RunHead>> {
    Box::pin(async move {
        let [rows] = link.query([step(HEAD, &[&schema::uuid(run)])]).await?;
        rows.first().map(schema::head).transpose()
    })
}

/// Only the conditions that are there are asked, so that each list finds its index.
pub(super) fn list(link: &Link, filter: RunFilter) -> Reading<'_, Page> {
    Box::pin(async move {
        let limit = filter.page_size();
        let mut query = Query::default();
        query.and("id < ", filter.before.map(schema::uuid), "");
        query.and("tenant = ", filter.tenant, "");
        query.and("agent = ", filter.agent, "");
        query.and("session = ", filter.session, "");
        query.and("parent = ", filter.parent.map(schema::uuid), "");
        query.and("tags @> ARRAY[", filter.tag, "::text]");
        // The id bounds what is looked through, and the database's clock decides.
        let earliest = |at: i64| schema::uuid(RunId::earliest(Timestamp(at)));
        query.and("id >= ", filter.since.map(|at| earliest(at.0.saturating_sub(DAY_MS))), "");
        query.and("created_at >= ", filter.since.map(|at| at.0), "");
        query.and("id < ", filter.until.map(|at| earliest(at.0.saturating_add(DAY_MS))), "");
        query.and("created_at < ", filter.until.map(|at| at.0), "");
        let any_of = |words: Vec<String>| (!words.is_empty()).then_some(words);
        query.and("state = ANY(", any_of(filter.states), ")");
        query.and("problem = ANY(", any_of(filter.problems), ")");
        if filter.any_problem {
            query.sql.push_str(" AND problem IS NOT NULL");
        }
        for word in filter.text {
            let find = "EXISTS (SELECT 1 FROM run_text WHERE run_text.run = run.run \
                        AND position(lower(";
            query.and(find, Some(word), "::text) IN lower(run_text.text)) > 0)");
        }
        let sql = format!(
            "SELECT {} FROM run WHERE TRUE{} ORDER BY id DESC LIMIT {}",
            head_columns!(),
            query.sql,
            limit + 1
        );
        let values: Vec<&(dyn ToSql + Sync)> =
            query.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
        let rows = link.client().query(&sql, &values).await?;
        let heads = rows.iter().map(schema::head).collect::<Result<_, _>>()?;
        Ok(Page::cut(heads, limit))
    })
}

/// How far the clock that made a run's id may be from the database's.
const DAY_MS: i64 = 24 * 3_600_000;

/// Conditions, and what stands for their numbers.
#[derive(Default)]
struct Query {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Query {
    fn and<T: ToSql + Sync + Send + 'static>(
        &mut self,
        before: &str,
        value: Option<T>,
        after: &str,
    ) {
        if let Some(value) = value {
            self.values.push(Box::new(value));
            let number = self.values.len();
            self.sql.push_str(&format!(" AND {before}${number}{after}"));
        }
    }
}

/// Letters that wait, or `None` if there is no such run.
pub(super) fn letters(link: &Link, run: RunId, limit: usize) -> Reading<'_, Option<Vec<Letter>>> {
    Box::pin(async move {
        let (id, limit) = (schema::uuid(run), schema::stored(limit as u64));
        let [found, rows] = link.query([step(RUN, &[&id]), step(LETTERS, &[&id, &limit])]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let letters = rows.iter().map(|row| {
            Ok(Letter {
                number: row.try_get(0)?,
                id: row.try_get(1)?,
                kind: row.try_get(2)?,
                body: row.try_get::<_, Vec<u8>>(3)?.into(),
                at: Timestamp(row.try_get(4)?),
            })
        });
        letters.collect::<Result<_, Failure>>().map(Some)
    })
}

pub(super) fn fact(link: &Link, name: FactName) -> Reading<'_, Option<Fact>> {
    Box::pin(async move {
        let [rows] = link.query([step(FACT, &[&name.scope, &name.key])]).await?;
        rows.first().map(fact_of).transpose()
    })
}

pub(super) fn facts(link: &Link, filter: FactFilter) -> Reading<'_, Vec<Fact>> {
    Box::pin(async move {
        let limit = schema::stored(filter.page_size() as u64);
        let FactFilter { scope, prefix, after, limit: _ } = filter;
        let [rows] = link.query([step(FACTS, &[&scope, &prefix, &after, &limit])]).await?;
        rows.iter().map(fact_of).collect()
    })
}

fn fact_of(row: &Row) -> Result<Fact, Failure> {
    Ok(Fact {
        key: row.try_get(0)?,
        value: row.try_get::<_, Vec<u8>>(1)?.into(),
        version: schema::count(row, 2)?,
        at: Timestamp(row.try_get(3)?),
        expires_at: row.try_get::<_, Option<i64>>(4)?.map(Timestamp),
    })
}

pub(super) fn count_by_state(link: &Link, cap: u64) -> Reading<'_, Vec<(String, u64)>> {
    Box::pin(async move {
        let [rows] = link.query([step(STATES, &[&schema::stored(cap)])]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, schema::count(row, 1)?))).collect()
    })
}

pub(super) fn next_wake(link: &Link) -> Reading<'_, Option<Timestamp>> {
    Box::pin(async move {
        let [rows] = link.query([step(NEXT_WAKE, &[])]).await?;
        let at = rows.first().map(|row| row.try_get::<_, Option<i64>>(0)).transpose()?;
        Ok(at.flatten().map(Timestamp))
    })
}

pub(super) fn now(link: &Link) -> Reading<'_, Timestamp> {
    Box::pin(async move {
        let [rows] = link.query([step(NOW, &[])]).await?;
        schema::time(&rows)
    })
}
