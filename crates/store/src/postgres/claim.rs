//! Taking runs. Claims of all nodes stand in one line, so that each sees what the one before has left;
//! they wait for no other write: a row that somebody is just changing is passed over.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokio_postgres::Row;

use super::link::{Failure, Link, step};
use super::schema::{self, head_columns, now_ms};
use super::task::{Write, Written};
use crate::{NodeId, RunHead, StoreError, Timestamp};

const LINE: &str = "SELECT pg_advisory_xact_lock(hashtextextended('steadfast/claim/' || \
     current_schema(), 0))";
const LEASE: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_ms!(),
    " AS at) SELECT at, EXISTS (SELECT 1 FROM node WHERE id = $1 AND expires_at > at) FROM clock"
);

/// What a claim took whose answer never arrived: it is marked with the ticket of that claim.
const UNHEARD: &str = "SELECT run FROM run WHERE disposition = 1 AND owner = $1 AND claim = $2 \
     ORDER BY run FOR UPDATE SKIP LOCKED";
const READY: &str = "SELECT priority, ready_at, run FROM run WHERE disposition = 0 \
     ORDER BY priority DESC, ready_at, run LIMIT $1";
const WOKEN: &str = "SELECT priority, wake_at, run FROM run WHERE disposition = 2 AND wake_at <= $2 \
     ORDER BY priority DESC, wake_at, run LIMIT $1";
const ORPHANED: &str = "SELECT priority, updated_at, run FROM run WHERE disposition = 1 AND NOT \
     EXISTS (SELECT 1 FROM node WHERE node.id = run.owner AND node.expires_at > $2) \
     ORDER BY priority DESC, updated_at, run LIMIT $1";

/// Takes those of the chosen that nobody is changing and that still wait.
const TAKE: &str = concat!(
    "WITH free AS MATERIALIZED (SELECT run FROM run WHERE run = ANY($1::bigint[]) AND \
     (disposition = 0 OR (disposition = 2 AND wake_at <= $2) OR (disposition = 1 AND NOT EXISTS \
     (SELECT 1 FROM node WHERE node.id = run.owner AND node.expires_at > $2))) \
     FOR UPDATE SKIP LOCKED) \
     UPDATE run SET disposition = 1, wake_at = NULL, ready_at = NULL, owner = $3, claim = $4, \
     epoch = epoch + 1, updated_at = greatest($2, updated_at) WHERE run IN (SELECT run FROM free) \
     RETURNING ",
    head_columns!(),
    ", run"
);
const SHOW: &str = concat!("SELECT ", head_columns!(), " FROM run WHERE run = ANY($1::bigint[])");

pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) limit: usize,
    /// Marks what this claim takes. A claim whose answer was not heard is repeated with its ticket and
    /// gets the same runs.
    pub(super) ticket: i64,
}

/// A run that waits for a node; the order of the tuple is the order of service.
type Waiting = (Reverse<i32>, i64, i64);

impl Write for Claim {
    type Answer = Vec<RunHead>;

    const STATEMENTS: &'static [&'static str] =
        &[LINE, LEASE, UNHEARD, READY, WOKEN, ORPHANED, TAKE, SHOW];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Vec<RunHead>>, Failure> {
        link.begin([step(LINE, &[])]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for claim in batch {
            answers.push(match claim.take(link).await? {
                Some(heads) => Ok(heads),
                None => Err(StoreError::NodeLost { node: claim.node.clone() }.into()),
            });
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}

impl Claim {
    /// The runs taken, in the order of service; `None` if the node holds no lease.
    async fn take(&self, link: &Link) -> Result<Option<Vec<RunHead>>, Failure> {
        let node = self.node.as_str();
        let limit = schema::stored(self.limit as u64);
        let [lease, unheard] =
            link.query([step(LEASE, &[&node]), step(UNHEARD, &[&node, &self.ticket])]).await?;
        let now = schema::time(&lease)?;
        let lives = lease.first().map(|row| row.try_get::<_, bool>(1)).transpose()?;
        if lives != Some(true) {
            return Ok(None);
        }
        let mut heads = Vec::new();
        if !unheard.is_empty() {
            let runs = unheard.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
            let [rows] = link.query([step(SHOW, &[&runs])]).await?;
            heads = rows.iter().map(schema::head).collect::<Result<Vec<_>, _>>()?;
        }
        let room = self.limit.saturating_sub(heads.len());
        if room == 0 {
            return Ok(Some(heads));
        }
        let [ready, woken, orphaned] = link
            .query([
                step(READY, &[&limit]),
                step(WOKEN, &[&limit, &now.0]),
                step(ORPHANED, &[&limit, &now.0]),
            ])
            .await?;
        let mut waiting = ready
            .iter()
            .chain(&woken)
            .chain(&orphaned)
            .map(waiting)
            .collect::<Result<Vec<_>, _>>()?;
        waiting.sort_unstable();
        waiting.truncate(room);
        heads.extend(self.take_these(&waiting, now, link).await?);
        Ok(Some(heads))
    }

    async fn take_these(
        &self,
        chosen: &[Waiting],
        now: Timestamp,
        link: &Link,
    ) -> Result<Vec<RunHead>, Failure> {
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let runs: Vec<i64> = chosen.iter().map(|(.., run)| *run).collect();
        let node = self.node.as_str();
        let [rows] = link.query([step(TAKE, &[&runs, &now.0, &node, &self.ticket])]).await?;
        let mut taken = HashMap::new();
        for row in &rows {
            taken.insert(row.try_get::<_, i64>(13)?, schema::head(row)?);
        }
        Ok(runs.iter().filter_map(|run| taken.remove(run)).collect())
    }
}

fn waiting(row: &Row) -> Result<Waiting, Failure> {
    Ok((Reverse(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?))
}
