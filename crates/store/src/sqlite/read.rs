//! Reads, each in one statement on a read-only connection: a read never holds the log back for long.

use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::schema::{self, head_columns};
use super::seal;
use super::writer::Failure;
use crate::{
    BlobHash, Checkpoint, Fact, FactFilter, FactName, Letter, Page, RunFilter, RunHead, RunId,
    StoreError, StoredEvent, Timestamp,
};

fn number(connection: &Connection, run: RunId) -> Result<i64, Failure> {
    connection
        .prepare_cached("SELECT run FROM run WHERE id = ?1")?
        .query_row([run.as_bytes()], |row| row.get(0))
        .optional()?
        .ok_or(Failure::Refused(StoreError::NotFound { run }))
}

pub(super) fn events(
    connection: &Connection,
    run: RunId,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredEvent>, Failure> {
    // One snapshot: the card says how many events there are. A store that is looked at has one already.
    let snapshot =
        connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose()?;
    let (number, head_seq): (i64, u64) = connection
        .prepare_cached("SELECT run, head_seq FROM run WHERE id = ?1")?
        .query_row([run.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or(Failure::Refused(StoreError::NotFound { run }))?;
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut select = connection.prepare_cached(
        "SELECT seq, at, kind, version, body, seal FROM event WHERE run = ?1 AND seq > ?2 \
         ORDER BY seq LIMIT ?3",
    )?;
    let first = i64::try_from(after).unwrap_or(i64::MAX);
    let sealed = select.query_map(params![number, first, rows], |row| {
        let event = StoredEvent {
            seq: row.get(0)?,
            at: Timestamp(row.get(1)?),
            kind: row.get(2)?,
            version: row.get(3)?,
            body: row.get::<_, Vec<u8>>(4)?.into(),
        };
        Ok((event, row.get(5)?))
    })?;
    let mut events = Vec::new();
    for sealed in sealed {
        let (event, seal) = sealed?;
        let StoredEvent { seq, at, kind, version, body } = &event;
        let numbers = [number, seq.cast_signed(), at.0, i64::from(*version)];
        if !seal::is_whole(seal, &numbers, &[kind.as_bytes(), body]) {
            return Err(seal::broken(&format!("event {seq} of run {run}")));
        }
        events.push(event);
    }
    drop(snapshot);
    check_count(run, after, limit, head_seq, &events)?;
    Ok(events)
}

/// An index that lost an entry would hide an event.
fn check_count(
    run: RunId,
    after: u64,
    limit: usize,
    head_seq: u64,
    events: &[StoredEvent],
) -> Result<(), Failure> {
    let end = events.last().map_or(after, |last| last.seq);
    let mut numbered = (1..).zip(events);
    let is_gapless = numbered.all(|(n, event)| after.checked_add(n) == Some(event.seq));
    let is_cut = events.len() < limit && end < head_seq;
    if is_gapless && !is_cut && (end <= head_seq || events.is_empty()) {
        return Ok(());
    }
    let problem = format!(
        "run {run} should have events {} to {head_seq} here, and some are missing; restore it from a \
         backup",
        after.saturating_add(1)
    );
    Err(Failure::Damaged(problem))
}

pub(super) fn checkpoints(connection: &Connection, run: RunId) -> Result<Vec<Checkpoint>, Failure> {
    let number = number(connection, run)?;
    let mut select = connection.prepare_cached(
        "SELECT seq, at, body, seal FROM checkpoint WHERE run = ?1 ORDER BY seq DESC",
    )?;
    let checkpoints = select.query_map([number], |row| {
        let (seq, at): (u64, i64) = (row.get(0)?, row.get(1)?);
        let body: Vec<u8> = row.get(2)?;
        let is_whole = seal::is_whole(row.get(3)?, &[number, seq.cast_signed(), at], &[&body]);
        let body = if is_whole { Bytes::from(body) } else { Bytes::new() };
        Ok(Checkpoint { seq, at: Timestamp(at), body })
    })?;
    Ok(checkpoints.collect::<Result<_, _>>()?)
}

pub(super) fn blob(connection: &Connection, hash: BlobHash) -> Result<Option<Bytes>, Failure> {
    let found: Option<Vec<u8>> = connection
        .prepare_cached("SELECT body FROM blob WHERE hash = ?1")?
        .query_row([hash.0], |row| row.get(0))
        .optional()?;
    match found {
        Some(bytes) if BlobHash::of(&bytes) != hash => {
            Err(Failure::Refused(StoreError::Corrupt { hash }))
        }
        found => Ok(found.map(Bytes::from)),
    }
}

pub(super) fn head(connection: &Connection, run: RunId) -> Result<Option<RunHead>, Failure> {
    Ok(connection
        .prepare_cached(concat!("SELECT ", head_columns!(), " FROM run WHERE id = ?1"))?
        .query_row([run.as_bytes()], schema::head)
        .optional()?)
}

pub(super) fn list(connection: &Connection, filter: RunFilter) -> Result<Page, Failure> {
    let limit = filter.page_size();
    let (sql, values) = list_statement(filter);
    let mut select = connection.prepare_cached(&sql)?;
    let heads = select.query_map(params_from_iter(values), schema::head)?;
    Ok(Page::cut(heads.collect::<Result<_, _>>()?, limit))
}

/// The statement that finds a page, and what stands for its question marks.
pub(super) fn list_statement(filter: RunFilter) -> (String, Vec<Value>) {
    let limit = filter.page_size();
    let mut query = Query::default();
    let id = |id: RunId| Value::Blob(id.as_bytes().to_vec());
    query.and("id < ?", filter.before.map(id));
    query.and("tenant = ?", filter.tenant.map(Value::Text));
    query.and("agent = ?", filter.agent.map(Value::Text));
    query.and("session = ?", filter.session.map(Value::Text));
    query.and("parent = ?", filter.parent.map(id));
    let tagged = filter.tag.is_some();
    query.and("id IN (SELECT id FROM tag WHERE tag = ?)", filter.tag.map(Value::Text));
    // The id bounds what is looked through, and the store's own clock decides.
    let since = filter.since.map(|at| RunId::earliest(Timestamp(at.0.saturating_sub(DAY_MS))));
    query.and("id >= ?", since.map(id));
    query.and("created_at >= ?", filter.since.map(|at| Value::Integer(at.0)));
    let until = filter.until.map(|at| RunId::earliest(Timestamp(at.0.saturating_add(DAY_MS))));
    query.and("id < ?", until.map(id));
    query.and("created_at < ?", filter.until.map(|at| Value::Integer(at.0)));
    query.and_one_of("state", filter.states);
    query.and_one_of("problem", filter.problems);
    if filter.any_problem {
        query.sql.push_str(" AND problem IS NOT NULL");
    }
    query.and_text(filter.text, tagged);
    let sql = format!(
        "SELECT {} FROM run WHERE TRUE{} ORDER BY id DESC LIMIT {}",
        head_columns!(),
        query.sql,
        limit + 1
    );
    (sql, query.values)
}

/// How far the clock that made a run's id may be from the store's.
const DAY_MS: i64 = 24 * 3_600_000;

/// Conditions, and what stands for their question marks.
#[derive(Default)]
struct Query {
    sql: String,
    values: Vec<Value>,
}

impl Query {
    fn and(&mut self, condition: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
            self.values.push(value);
        }
    }

    /// Trigrams find what has three characters, all such words at once; of the runs found so far, the text
    /// itself decides. The runs with a tag are looked through for the text: were they looked for by both,
    /// each that has the tag would be tried with each that has the text (hence the `+`).
    fn and_text(&mut self, words: Vec<String>, tagged: bool) {
        let long = words.iter().filter(|word| word.chars().nth(2).is_some());
        let phrases: Vec<_> =
            long.map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
        let find = if tagged {
            "+run IN (SELECT rowid FROM run_text WHERE run_text MATCH ?)"
        } else {
            "run IN (SELECT rowid FROM run_text WHERE run_text MATCH ?)"
        };
        self.and(find, (!phrases.is_empty()).then(|| Value::Text(phrases.join(" AND "))));
        for word in words {
            let hold = "EXISTS (SELECT 1 FROM run_text WHERE run_text.rowid = run.run \
                        AND instr(lower(run_text.text), lower(?)) > 0)";
            self.and(hold, Some(Value::Text(word)));
        }
    }

    fn and_one_of(&mut self, column: &str, values: Vec<String>) {
        if !values.is_empty() {
            let marks = vec!["?"; values.len()].join(", ");
            self.sql.push_str(&format!(" AND {column} IN ({marks})"));
            self.values.extend(values.into_iter().map(Value::Text));
        }
    }
}

pub(super) fn count_by_state(
    connection: &Connection,
    cap: u64,
) -> Result<Vec<(String, u64)>, Failure> {
    let cap = i64::try_from(cap).unwrap_or(i64::MAX);
    // From each state to the next one in the index, instead of over every run.
    let mut following = connection.prepare_cached("SELECT min(state) FROM run WHERE state > ?1")?;
    let mut count = connection
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM run WHERE state = ?1 LIMIT ?2)")?;
    let mut state: Option<String> =
        connection.query_row("SELECT min(state) FROM run", [], |row| row.get(0))?;
    let mut counts = Vec::new();
    while let Some(current) = state {
        let counted = count.query_row(params![current, cap], |row| row.get(0))?;
        state = following.query_row([&current], |row| row.get(0))?;
        counts.push((current, counted));
    }
    Ok(counts)
}

pub(super) fn next_wake(connection: &Connection) -> Result<Option<Timestamp>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT min(at) FROM (\
           SELECT min(wake_at) AS at FROM run WHERE disposition = 2 AND wake_at IS NOT NULL \
           UNION ALL \
           SELECT min(coalesce(node.expires_at, run.updated_at)) \
           FROM run LEFT JOIN node ON node.id = run.owner WHERE run.disposition = 1)",
    )?;
    Ok(select.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Timestamp))
}

pub(super) fn letters(
    connection: &Connection,
    run: RunId,
    limit: usize,
) -> Result<Vec<Letter>, Failure> {
    let number = number(connection, run)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut select = connection.prepare_cached(
        "SELECT number, id, kind, body, at FROM letter WHERE run = ?1 AND taken = 0 \
         ORDER BY number LIMIT ?2",
    )?;
    let letters = select.query_map([number, limit], |row| {
        Ok(Letter {
            number: row.get(0)?,
            id: row.get(1)?,
            kind: row.get(2)?,
            body: row.get::<_, Vec<u8>>(3)?.into(),
            at: Timestamp(row.get(4)?),
        })
    })?;
    Ok(letters.collect::<Result<_, _>>()?)
}

pub(super) fn fact(
    connection: &Connection,
    name: &FactName,
    now: Timestamp,
) -> Result<Option<Fact>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT key, value, version, at, expires_at FROM fact \
         WHERE scope = ?1 AND key = ?2 AND (expires_at IS NULL OR expires_at > ?3)",
    )?;
    Ok(select.query_row(params![name.scope, name.key, now.0], fact_of).optional()?)
}

pub(super) fn facts(
    connection: &Connection,
    filter: &FactFilter,
    now: Timestamp,
) -> Result<Vec<Fact>, Failure> {
    let limit = i64::try_from(filter.page_size()).unwrap_or(i64::MAX);
    let mut select = connection.prepare_cached(
        "SELECT key, value, version, at, expires_at FROM fact \
         WHERE scope = ?1 AND key >= ?2 AND substr(key, 1, length(?2)) = ?2 \
         AND (?3 IS NULL OR key > ?3) AND (expires_at IS NULL OR expires_at > ?4) \
         ORDER BY key LIMIT ?5",
    )?;
    let facts = select
        .query_map(params![filter.scope, filter.prefix, filter.after, now.0, limit], fact_of)?;
    Ok(facts.collect::<Result<_, _>>()?)
}

fn fact_of(row: &Row<'_>) -> rusqlite::Result<Fact> {
    Ok(Fact {
        key: row.get(0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        version: row.get(2)?,
        at: Timestamp(row.get(3)?),
        expires_at: row.get::<_, Option<i64>>(4)?.map(Timestamp),
    })
}
