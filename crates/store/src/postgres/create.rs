//! Creating runs.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::append::{Events, INSERT_BLOBS, INSERT_EVENTS, INSERT_REFS, blobs, refs, size};
use super::link::{Failure, Link, step};
use super::schema::{self, disposition_columns, head_columns, now_ms};
use super::task::{Refusal, Write, Written};
use crate::{Blob, Changes, Created, Disposition, NewRun, RunHead, StoreError, Timestamp};

/// A row that meets another's id or key is simply missing in what comes back.
const INSERT_RUNS: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_ms!(),
    " AS at) INSERT INTO run (id, tenant, agent, key, key_hash, state, disposition, wake_at, \
     rank, priority, epoch, head_seq, created_at, updated_at, summary, session, tags, parent, \
     problem) \
     SELECT id, tenant, agent, key, key_hash, state, disposition, wake_at, \
     CASE disposition WHEN 0 THEN at - 60000 * priority::bigint END, priority, 0, head_seq, at, at, \
     summary, session, string_to_array(tags, E'\\n'), parent, problem \
     FROM clock, unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], \
     $7::smallint[], $8::bigint[], $9::integer[], $10::bigint[], $11::bytea[], $12::text[], \
     $13::text[], $14::uuid[], $15::text[]) WITH ORDINALITY \
     AS new (id, tenant, agent, key, key_hash, state, disposition, wake_at, priority, head_seq, \
     summary, session, tags, parent, problem, place) ORDER BY place ON CONFLICT DO NOTHING RETURNING run, id, created_at"
);
const SELECT_BY_KEY: &str =
    concat!("SELECT ", head_columns!(), ", key_hash FROM run WHERE key_hash = ANY($1::bytea[])");

const INSERT_TEXTS: &str =
    "INSERT INTO run_text (run, text) SELECT * FROM unnest($1::bigint[], $2::text[])";

/// A key of a tenant, in a fixed number of bytes.
pub(super) fn key_hash(tenant: &str, key: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(tenant.len() as u64).to_le_bytes());
    hasher.update(tenant.as_bytes()).update(key.as_bytes());
    *hasher.finalize().as_bytes()
}

impl Write for NewRun {
    type Answer = Created;

    const STATEMENTS: &'static [&'static str] =
        &[INSERT_RUNS, SELECT_BY_KEY, INSERT_EVENTS, INSERT_TEXTS, INSERT_BLOBS, INSERT_REFS];
    const REPEATABLE: bool = false;

    fn size_bytes(&self) -> usize {
        size(&self.events, &self.blobs) + self.head.summary.len()
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Created>, Failure> {
        let keys: Vec<Option<[u8; 32]>> = batch
            .iter()
            .map(|run| run.key.as_ref().map(|key| key_hash(&run.tenant, key)))
            .collect();
        let mut inserted = insert(batch, &keys, link).await?;
        // One batch may hold the same run twice: the first of them is the one that was inserted.
        let numbers: Vec<Option<(i64, Timestamp)>> =
            batch.iter().map(|run| inserted.remove(run.id.as_bytes())).collect();
        let (mut events, mut all_blobs) = (Events::default(), Vec::<(i64, &Blob)>::new());
        let (mut texts, mut text_runs) = (Vec::new(), Vec::new());
        for (run, number) in batch.iter().zip(&numbers) {
            if let Some((number, at)) = number {
                events.push(*number, 0, *at, &run.events);
                all_blobs.extend(run.blobs.iter().map(|blob| (*number, blob)));
                if !run.text.is_empty() {
                    texts.push(run.searched());
                    text_runs.push(*number);
                }
            }
        }
        let missing: Vec<&[u8]> = keys
            .iter()
            .zip(&numbers)
            .filter(|(_, number)| number.is_none())
            .filter_map(|(key, _)| key.as_ref().map(|key| &key[..]))
            .collect();
        let refs = refs(&all_blobs);
        let (hashes, bodies) = blobs(all_blobs);
        let mut steps = Vec::new();
        let event_values = events.values();
        steps.push(step(INSERT_EVENTS, &event_values));
        let blob_values: [&(dyn ToSql + Sync); 2] = [&hashes, &bodies];
        let ref_values: [&(dyn ToSql + Sync); 2] = [&refs.0, &refs.1];
        if !hashes.is_empty() {
            steps.push(step(INSERT_BLOBS, &blob_values));
            steps.push(step(INSERT_REFS, &ref_values));
        }
        let text_values: [&(dyn ToSql + Sync); 2] = [&text_runs, &texts];
        if !texts.is_empty() {
            steps.push(step(INSERT_TEXTS, &text_values));
        }
        let key_values: [&(dyn ToSql + Sync); 1] = [&missing];
        if !missing.is_empty() {
            steps.push(step(SELECT_BY_KEY, &key_values));
        }
        let mut rows = link.commit(&steps).await?;
        let mut existing = BTreeMap::new();
        for row in rows.pop().filter(|_| !missing.is_empty()).unwrap_or_default() {
            let key: Vec<u8> = row.try_get(schema::HEAD_COLUMNS)?;
            existing
                .insert(key, schema::head(&row).map_err(|failure| failure.problem().to_owned()));
        }
        let mut changes = Changes::default();
        let answers = batch.iter().zip(numbers).zip(&keys).map(|((run, number), key)| {
            if let Some((_, at)) = number {
                changes.ready |= run.head.disposition == Disposition::Ready;
                changes.grown.insert(run.id, run.events.len() as u64);
                return Ok(Created::New(head(run, at)));
            }
            match key.as_ref().and_then(|key| existing.get(&key[..])) {
                Some(Ok(head)) => Ok(Created::Existing(head.clone())),
                Some(Err(problem)) => Err(Refusal::Damaged(problem.clone())),
                None => Err(StoreError::Exists { run: run.id }.into()),
            }
        });
        let answers = answers.collect();
        Ok(Written { answers, changes })
    }
}

/// Numbers and times of the runs that were inserted.
async fn insert(
    batch: &[&NewRun],
    keys: &[Option<[u8; 32]>],
    link: &Link,
) -> Result<BTreeMap<[u8; 16], (i64, Timestamp)>, Failure> {
    let ids: Vec<Uuid> = batch.iter().map(|run| schema::uuid(run.id)).collect();
    let tenants: Vec<&str> = batch.iter().map(|run| &*run.tenant).collect();
    let agents: Vec<&str> = batch.iter().map(|run| &*run.agent).collect();
    let names: Vec<Option<&str>> = batch.iter().map(|run| run.key.as_deref()).collect();
    let hashes: Vec<Option<&[u8]>> = keys.iter().map(|key| key.as_ref().map(|k| &k[..])).collect();
    let states: Vec<&str> = batch.iter().map(|run| &*run.head.state).collect();
    let (dispositions, wakes): (Vec<i16>, Vec<Option<i64>>) =
        batch.iter().map(|run| disposition_columns(run.head.disposition)).unzip();
    let priorities: Vec<i32> = batch.iter().map(|run| run.priority).collect();
    let seqs: Vec<i64> = batch.iter().map(|run| schema::stored(run.events.len() as u64)).collect();
    let summaries: Vec<&[u8]> = batch.iter().map(|run| run.head.summary.as_ref()).collect();
    let sessions: Vec<Option<&str>> = batch.iter().map(|run| run.session.as_deref()).collect();
    let tags: Vec<Option<String>> =
        batch.iter().map(|run| (!run.tags.is_empty()).then(|| run.tags.join("\n"))).collect();
    let parents: Vec<Option<Uuid>> = batch.iter().map(|run| run.parent.map(schema::uuid)).collect();
    let problems: Vec<Option<&str>> = batch.iter().map(|run| run.head.problem.as_deref()).collect();
    let values: [&(dyn ToSql + Sync); 15] = [
        &ids,
        &tenants,
        &agents,
        &names,
        &hashes,
        &states,
        &dispositions,
        &wakes,
        &priorities,
        &seqs,
        &summaries,
        &sessions,
        &tags,
        &parents,
        &problems,
    ];
    let [rows] = link.begin([step(INSERT_RUNS, &values)]).await?;
    rows.iter()
        .map(|row| {
            let id = *schema::run_id(row, 1)?.as_bytes();
            Ok((id, (row.try_get(0)?, Timestamp(row.try_get(2)?))))
        })
        .collect()
}

fn head(run: &NewRun, at: Timestamp) -> RunHead {
    RunHead {
        id: run.id,
        tenant: run.tenant.clone(),
        agent: run.agent.clone(),
        state: run.head.state.clone(),
        disposition: run.head.disposition,
        priority: run.priority,
        epoch: 0,
        owner: None,
        head_seq: run.events.len() as u64,
        created_at: at,
        updated_at: at,
        session: run.session.clone(),
        tags: run.tags.clone(),
        parent: run.parent,
        problem: run.head.problem.clone(),
        summary: run.head.summary.clone(),
    }
}
