//! Nodes and their leases, and runs that are given back. Expiry is decided by the database's clock alone.

use std::time::Duration;

use tokio_postgres::Row;

use super::link::{Failure, Link, step};
use super::schema::{self, now_ms};
use super::task::{Write, Written};
use crate::clock::millis;
use crate::{Changes, NodeId, RunId, StoreError, Timestamp};

/// How long after its expiry a lease is still remembered, so that its node is told that it lost it.
const REMEMBERED_MS: i64 = 7 * 24 * 3600 * 1000;

/// The lease is left alone if it has expired, and then nothing comes back.
const RENEW: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_ms!(),
    " AS at) INSERT INTO node (id, expires_at) SELECT $1, at + $2 FROM clock \
     ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at \
     WHERE node.expires_at > excluded.expires_at - $2 RETURNING expires_at - $2"
);
const FORGET: &str = concat!("DELETE FROM node WHERE expires_at < ", now_ms!(), " - $1");

pub(super) struct Renew {
    pub(super) node: NodeId,
    pub(super) ttl: Duration,
}

impl Write for Renew {
    /// The database's time when it was done.
    type Answer = Timestamp;

    const STATEMENTS: &'static [&'static str] = &[RENEW, FORGET];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Timestamp>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { node, ttl } in batch {
            // No lease is so long that its end has no place in a number.
            let ttl_ms = millis(Some(*ttl)).min(i64::MAX / 4);
            let [rows] = link.query([step(RENEW, &[&node.as_str(), &ttl_ms])]).await?;
            let lost = || StoreError::NodeLost { node: node.clone() };
            answers.push(match rows.is_empty() {
                true => Err(lost().into()),
                false => Ok(schema::time(&rows)?),
            });
        }
        link.commit(&[step(FORGET, &[&REMEMBERED_MS])]).await?;
        Ok(Written::quietly(answers))
    }
}

const END_LEASE: &str = "DELETE FROM node WHERE id = $1";
const GIVE_ALL_BACK: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_ms!(),
    " AS at), held AS MATERIALIZED (SELECT run FROM run WHERE disposition = 1 AND owner = $1 \
     ORDER BY run FOR UPDATE) UPDATE run SET disposition = 0, owner = NULL, \
     rank = coalesce(rank, updated_at - 60000 * priority::bigint), updated_at = at FROM clock, held \
     WHERE run.run = held.run RETURNING run.run"
);

pub(super) struct Retire {
    pub(super) node: NodeId,
}

impl Write for Retire {
    type Answer = ();

    const STATEMENTS: &'static [&'static str] = &[END_LEASE, GIVE_ALL_BACK];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<()>, Failure> {
        link.begin([]).await?;
        let mut ready = false;
        for Self { node } in batch {
            let node = node.as_str();
            let [_, given] =
                link.query([step(END_LEASE, &[&node]), step(GIVE_ALL_BACK, &[&node])]).await?;
            ready |= !given.is_empty();
        }
        link.commit(&[]).await?;
        let changes = Changes { ready, ..Changes::default() };
        Ok(Written { answers: batch.iter().map(|_| Ok(())).collect(), changes })
    }
}

/// Only what is still held under that epoch is given back.
const GIVE_BACK: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_ms!(),
    " AS at), held AS MATERIALIZED (SELECT run.run FROM run JOIN \
     unnest($1::uuid[], $2::bigint[]) AS given (id, epoch) ON run.id = given.id \
     AND run.epoch = given.epoch WHERE run.disposition = 1 ORDER BY run.run FOR UPDATE OF run) \
     UPDATE run SET disposition = 0, owner = NULL, \
     rank = coalesce(rank, updated_at - 60000 * priority::bigint), updated_at = at FROM clock, held \
     WHERE run.run = held.run RETURNING run.run"
);

pub(super) struct Release {
    pub(super) run: RunId,
    pub(super) epoch: u64,
}

impl Write for Release {
    type Answer = ();

    const STATEMENTS: &'static [&'static str] = &[GIVE_BACK];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<()>, Failure> {
        let runs: Vec<_> = batch.iter().map(|release| schema::uuid(release.run)).collect();
        let epochs: Vec<i64> = batch.iter().map(|release| schema::stored(release.epoch)).collect();
        let [given]: [Vec<Row>; 1] = link.begin([step(GIVE_BACK, &[&runs, &epochs])]).await?;
        link.commit(&[]).await?;
        let changes = Changes { ready: !given.is_empty(), ..Changes::default() };
        Ok(Written { answers: batch.iter().map(|_| Ok(())).collect(), changes })
    }
}
