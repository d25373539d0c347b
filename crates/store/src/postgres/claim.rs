//! Taking runs. Claims of all nodes stand in one line, so that each sees what the one before has left;
//! they wait for no other write: a row that somebody is just changing is passed over.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use tokio_postgres::Row;

use super::link::{Failure, Link, step};
use super::schema::{self, head_columns, now_ms};
use super::task::{Write, Written};
use crate::turns::{Caps, Line, Place, Turns};
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
/// Runs whose wake-up time has come become ready.
const WAKE: &str = "WITH due AS MATERIALIZED (SELECT run FROM run WHERE disposition = 2 \
     AND wake_at <= $1 ORDER BY run FOR UPDATE SKIP LOCKED) UPDATE run SET disposition = 0, \
     rank = wake_at - 60000 * priority::bigint, wake_at = NULL, \
     updated_at = greatest($1, updated_at) FROM due WHERE run.run = due.run";
/// So do those whose owner's lease has expired, at the place that they had.
const ORPHANED: &str = "WITH orphan AS MATERIALIZED (SELECT run FROM run WHERE disposition = 1 \
     AND NOT EXISTS (SELECT 1 FROM node WHERE node.id = run.owner AND node.expires_at > $1) \
     ORDER BY run FOR UPDATE SKIP LOCKED) UPDATE run SET disposition = 0, owner = NULL, \
     rank = coalesce(rank, updated_at - 60000 * priority::bigint), \
     updated_at = greatest($1, updated_at) FROM orphan WHERE run.run = orphan.run";
/// The first runs of each line, found from each line to the next one in the index.
const LINES: &str = "WITH RECURSIVE line AS ((SELECT tenant, agent FROM run WHERE disposition = 0 \
     ORDER BY tenant, agent LIMIT 1) UNION ALL SELECT following.tenant, following.agent FROM line, \
     LATERAL (SELECT tenant, agent FROM run WHERE disposition = 0 \
     AND (tenant, agent) > (line.tenant, line.agent) ORDER BY tenant, agent LIMIT 1) AS following) \
     SELECT line.tenant, line.agent, first.rank, first.run FROM line, LATERAL (SELECT rank, run \
     FROM run WHERE disposition = 0 AND tenant = line.tenant AND agent = line.agent \
     ORDER BY rank, run LIMIT $1) AS first";
const HELD: &str = "SELECT tenant, agent, count(*) FROM run WHERE disposition = 1 \
     GROUP BY tenant, agent";
const SERVED: &str = "SELECT tenant, turn FROM turn WHERE tenant IN (SELECT tenant FROM run \
     WHERE disposition = 0) UNION ALL (SELECT tenant, turn FROM turn ORDER BY turn DESC LIMIT 1)";
const REMEMBER: &str = "INSERT INTO turn (tenant, turn) SELECT * FROM unnest($1::text[], $2::bigint[]) \
     ON CONFLICT (tenant) DO UPDATE SET turn = excluded.turn";

/// Takes those of the chosen that nobody is changing and that still wait.
const TAKE: &str = concat!(
    "WITH free AS MATERIALIZED (SELECT run FROM run WHERE run = ANY($1::bigint[]) \
     AND disposition = 0 FOR UPDATE SKIP LOCKED) \
     UPDATE run SET disposition = 1, owner = $3, claim = $4, \
     epoch = epoch + 1, updated_at = greatest($2, updated_at) WHERE run IN (SELECT run FROM free) \
     RETURNING ",
    head_columns!(),
    ", run"
);
const SHOW: &str = concat!("SELECT ", head_columns!(), " FROM run WHERE run = ANY($1::bigint[])");

/// Runs of one line that are looked at together.
const LINE_ROWS: usize = 128;

pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) limit: usize,
    pub(super) caps: Caps,
    /// Marks what this claim takes. A claim whose answer was not heard is repeated with its ticket and
    /// gets the same runs.
    pub(super) ticket: i64,
}

impl Write for Claim {
    type Answer = Vec<RunHead>;

    const STATEMENTS: &'static [&'static str] =
        &[LINE, LEASE, UNHEARD, WAKE, ORPHANED, LINES, HELD, SERVED, REMEMBER, TAKE, SHOW];
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
        let _ready: [Vec<Row>; 2] =
            link.query([step(WAKE, &[&now.0]), step(ORPHANED, &[&now.0])]).await?;
        loop {
            let room = self.limit.saturating_sub(heads.len());
            let (chosen, all) = self.choose(room, link).await?;
            let taken = self.take_these(&chosen, now, link).await?;
            let (hoped, got) = (chosen.len(), taken.len());
            heads.extend(taken);
            // Of a line that was not seen to its end more may be taken, unless somebody is changing it.
            if all || got < hoped || got == 0 {
                return Ok(Some(heads));
            }
        }
    }

    /// The runs to serve, by their numbers, and whether every line was seen to its end, or there is no
    /// more room.
    async fn choose(&self, room: usize, link: &Link) -> Result<(Vec<i64>, bool), Failure> {
        if room == 0 {
            return Ok((Vec::new(), true));
        }
        let rows = room.min(LINE_ROWS);
        let limit = schema::stored(rows as u64);
        let [waiting, held, served] =
            link.query([step(LINES, &[&limit]), step(HELD, &[]), step(SERVED, &[])]).await?;
        let mut lines = BTreeMap::<(String, String), Vec<Place>>::new();
        for row in &waiting {
            let line = lines.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
            line.push((row.try_get(2)?, row.try_get(3)?));
        }
        let mut turns = Turns::default();
        for row in &held {
            let count = usize::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0);
            turns.held(row.try_get(0)?, row.try_get(1)?, count);
        }
        for row in &served {
            turns.served(row.try_get(0)?, row.try_get(1)?);
        }
        let firsts = lines.iter().map(|((tenant, agent), places)| Line {
            tenant: tenant.clone(),
            agent: agent.clone(),
            first: places.first().copied(),
        });
        let next = |line: &Line, place: Place| {
            let places = lines.get(&(line.tenant.clone(), line.agent.clone()));
            let behind = places.and_then(|places| places.iter().find(|next| **next > place));
            Ok::<_, Infallible>(behind.copied())
        };
        let Ok((chosen, served)) = turns.choose(firsts.collect(), room, &self.caps, next);
        let (tenants, numbers): (Vec<String>, Vec<i64>) = served.into_iter().unzip();
        if !tenants.is_empty() {
            let _remembered: [Vec<Row>; 1] =
                link.query([step(REMEMBER, &[&tenants, &numbers])]).await?;
        }
        let all = chosen.len() == room || lines.values().all(|places| places.len() < rows);
        Ok((chosen, all))
    }

    async fn take_these(
        &self,
        runs: &[i64],
        now: Timestamp,
        link: &Link,
    ) -> Result<Vec<RunHead>, Failure> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let node = self.node.as_str();
        let [rows] = link.query([step(TAKE, &[&runs, &now.0, &node, &self.ticket])]).await?;
        let mut taken = HashMap::new();
        for row in &rows {
            taken.insert(row.try_get::<_, i64>(schema::HEAD_COLUMNS)?, schema::head(row)?);
        }
        Ok(runs.iter().filter_map(|run| taken.remove(run)).collect())
    }
}
