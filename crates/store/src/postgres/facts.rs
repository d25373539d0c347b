//! Facts. Their rows are locked in the order of their names, after everything else.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;

use super::link::{Failure, Link, step};
use super::schema::{self, now_ms};
use super::task::{Write, Written};
use crate::clock::millis;
use crate::{FactName, FactWrite, Timestamp};

pub(super) const LOCK: &str = "SELECT 1 FROM fact JOIN unnest($1::text[], $2::text[]) \
     AS named (scope, key) ON fact.scope = named.scope AND fact.key = named.key \
     ORDER BY fact.scope, fact.key FOR UPDATE OF fact";
/// What is to be forgotten, and what no longer holds: what is written in its place is a new one.
pub(super) const FORGET: &str = "DELETE FROM fact USING unnest($1::text[], $2::text[], $3::boolean[]) \
     AS named (scope, key, forget) WHERE fact.scope = named.scope AND fact.key = named.key \
     AND (named.forget OR fact.expires_at <= $4)";
pub(super) const WRITE: &str = "INSERT INTO fact (scope, key, value, version, at, expires_at) \
     SELECT scope, key, value, 1, $4, expires_at FROM unnest($1::text[], $2::text[], $3::bytea[], \
     $5::bigint[]) AS new (scope, key, value, expires_at) ORDER BY scope, key \
     ON CONFLICT (scope, key) DO UPDATE SET value = excluded.value, version = fact.version + 1, \
     at = excluded.at, expires_at = excluded.expires_at";
const NOW: &str = concat!("SELECT ", now_ms!());

/// Facts to be written, a column each. Of several about one name in one transaction the last counts.
#[derive(Default)]
pub(super) struct Facts<'a> {
    by_name: BTreeMap<&'a FactName, &'a FactWrite>,
    columns: Columns<'a>,
    at: i64,
}

#[derive(Default)]
struct Columns<'a> {
    scopes: Vec<&'a str>,
    keys: Vec<&'a str>,
    forget: Vec<bool>,
    new_scopes: Vec<&'a str>,
    new_keys: Vec<&'a str>,
    values: Vec<&'a [u8]>,
    expiries: Vec<Option<i64>>,
}

impl<'a> Facts<'a> {
    pub(super) fn extend(&mut self, facts: &'a [FactWrite], at: Timestamp) {
        if facts.is_empty() {
            return;
        }
        self.at = self.at.max(at.0);
        self.by_name.extend(facts.iter().map(|fact| (&fact.name, fact)));
        let mut columns = Columns::default();
        for (FactName { scope, key }, FactWrite { value, keep, .. }) in &self.by_name {
            columns.scopes.push(scope);
            columns.keys.push(key);
            columns.forget.push(value.is_none());
            if let Some(value) = value {
                columns.new_scopes.push(scope);
                columns.new_keys.push(key);
                columns.values.push(value);
                let expiry = keep.map(|keep| self.at.saturating_add(millis(Some(keep))));
                columns.expiries.push(expiry);
            }
        }
        self.columns = columns;
    }

    pub(super) fn any(&self) -> bool {
        !self.columns.scopes.is_empty()
    }

    pub(super) fn any_written(&self) -> bool {
        !self.columns.values.is_empty()
    }

    pub(super) fn names(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.columns.scopes, &self.columns.keys]
    }

    pub(super) fn forgotten(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.columns.scopes, &self.columns.keys, &self.columns.forget, &self.at]
    }

    pub(super) fn written(&self) -> [&(dyn ToSql + Sync); 5] {
        let Columns { new_scopes, new_keys, values, expiries, .. } = &self.columns;
        [new_scopes, new_keys, values, &self.at, expiries]
    }
}

pub(super) struct WriteFacts(pub(super) Vec<FactWrite>);

impl Write for WriteFacts {
    type Answer = ();

    const STATEMENTS: &'static [&'static str] = &[NOW, LOCK, FORGET, WRITE];
    /// The value is the same; the version may count the repetition.
    const REPEATABLE: bool = true;

    fn size_bytes(&self) -> usize {
        self.0.iter().filter_map(|fact| fact.value.as_ref()).map(bytes::Bytes::len).sum()
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<()>, Failure> {
        let [now] = link.begin([step(NOW, &[])]).await?;
        let now = schema::time(&now)?;
        let mut facts = Facts::default();
        batch.iter().for_each(|write| facts.extend(&write.0, now));
        let (names, forgotten, written) = (facts.names(), facts.forgotten(), facts.written());
        link.commit(&[step(LOCK, &names), step(FORGET, &forgotten), step(WRITE, &written)]).await?;
        Ok(Written::quietly(batch.iter().map(|_| Ok(())).collect()))
    }
}

const PURGE: &str = concat!(
    "DELETE FROM fact WHERE (scope, key) IN (SELECT scope, key FROM fact WHERE expires_at <= ",
    now_ms!(),
    " ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING 1"
);

pub(super) struct Purge {
    pub(super) limit: usize,
}

impl Write for Purge {
    type Answer = usize;

    const STATEMENTS: &'static [&'static str] = &[PURGE];
    const REPEATABLE: bool = true;

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<usize>, Failure> {
        link.begin([]).await?;
        let mut answers = Vec::with_capacity(batch.len());
        for Self { limit } in batch {
            let limit = schema::stored(*limit as u64);
            let [purged] = link.query([step(PURGE, &[&limit])]).await?;
            answers.push(Ok(purged.len()));
        }
        link.commit(&[]).await?;
        Ok(Written::quietly(answers))
    }
}
