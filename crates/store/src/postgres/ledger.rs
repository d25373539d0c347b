//! The ledger. Rows are locked in the order of holds and accounts, and of their names within each, so that
//! nodes never wait for each other in a ring. An account that several holds of one transaction are about is
//! read and written once.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::PostgresStore;
use super::account::{
    KeptHold, balance_columns, balance_of, entry_columns, entry_id, entry_of, hold_columns,
    hold_of, uuid,
};
use super::link::{Failure, Link, step};
use super::overdue::{Expire, Prune};
use super::read::Reading;
use super::schema::{self, now_ms, stored};
use super::task::{Write, Written};
use crate::books::{self, Books, OpenHold, to_column};
use crate::clock::millis;
use crate::{
    Account, AccountFilter, Balance, Entry, EntryFilter, EntryId, EntryKind, Held, Hold, Ledger,
    Settled, Settlement, StoreError, Timestamp,
};

pub(super) const NOW: &str = concat!("SELECT ", now_ms!());
/// Only what exists can be locked.
pub(super) const OPEN: &str = "INSERT INTO account (name, since, spent_tokens, spent_money, held_tokens, \
     held_money, entries, at) SELECT name, since, 0, 0, 0, 0, 0, $3 \
     FROM unnest($1::text[], $2::bigint[]) AS named (name, since) \
     ORDER BY name COLLATE \"C\", since ON CONFLICT DO NOTHING";
pub(super) const LOCK: &str = concat!(
    "SELECT ",
    balance_columns!(),
    " FROM account JOIN unnest($1::text[], $2::bigint[]) AS named (name, since) \
     ON account.name = named.name AND account.since = named.since \
     ORDER BY account.name, account.since FOR UPDATE OF account"
);
pub(super) const SAVE: &str = "UPDATE account SET spent_tokens = new.spent_tokens, \
     spent_money = new.spent_money, held_tokens = new.held_tokens, held_money = new.held_money, \
     entries = new.entries, at = $8 FROM unnest($1::text[], $2::bigint[], $3::bigint[], \
     $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS new (name, since, spent_tokens, \
     spent_money, held_tokens, held_money, entries) \
     WHERE account.name = new.name AND account.since = new.since";
const KNOWN: &str = "SELECT id FROM hold WHERE id = ANY($1::uuid[]) \
     UNION ALL SELECT id FROM entry WHERE id = ANY($1::uuid[])";
const ENTERED: &str = "SELECT id FROM entry WHERE id = ANY($1::uuid[])";
const INSERT_HOLDS: &str = "INSERT INTO hold (id, tokens, money, limited, tallies, charged, \
     expires_at, subject, body) SELECT id, tokens, money, limited, tallies, false, expires_at, \
     subject, body FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], \
     $6::bigint[], $7::text[], $8::bytea[]) AS new (id, tokens, money, limited, tallies, \
     expires_at, subject, body)";
const LOCK_HOLDS: &str = concat!(
    "SELECT ",
    hold_columns!(),
    " FROM hold WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
);
const DROP_HOLDS: &str = "DELETE FROM hold WHERE id = ANY($1::uuid[])";
pub(super) const INSERT_ENTRIES: &str = "INSERT INTO entry (id, at, expired, subject, tokens, money, body) \
     SELECT id, $7, expired, subject, tokens, money, body FROM unnest($1::uuid[], $2::boolean[], \
     $3::text[], $4::bigint[], $5::bigint[], $6::bytea[]) \
     AS new (id, expired, subject, tokens, money, body) ON CONFLICT (id) DO UPDATE SET \
     at = excluded.at, expired = excluded.expired, tokens = excluded.tokens, \
     money = excluded.money, body = excluded.body";

pub(super) const BALANCES: &str = concat!(
    "SELECT ",
    balance_columns!(),
    " FROM account JOIN unnest($1::text[], $2::bigint[]) AS named (name, since) \
     ON account.name = named.name AND account.since = named.since"
);
pub(super) const ACCOUNTS: &str = concat!(
    "SELECT ",
    balance_columns!(),
    " FROM account WHERE name >= $1 AND starts_with(name, $1) \
     AND at > 0 AND ($2::bigint IS NULL OR since >= $2) \
     AND ($3::text IS NULL OR (name, since) > ($3, $4)) ORDER BY name, since LIMIT $5"
);
pub(super) const ENTRIES: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM entry WHERE id >= $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
);
pub(super) const ENTRIES_OF: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM entry WHERE id >= $1 AND ($2::uuid IS NULL OR id < $2) \
     AND subject = $4 ORDER BY id DESC LIMIT $3"
);

/// Accounts, a column each.
fn columns<'a>(accounts: impl IntoIterator<Item = &'a Account>) -> (Vec<&'a str>, Vec<i64>) {
    let accounts: BTreeSet<&Account> = accounts.into_iter().collect();
    accounts.into_iter().map(|account| (&*account.name, account.since)).unzip()
}

fn load(books: &mut Books, rows: &[Row]) -> Result<(), Failure> {
    for row in rows {
        let (account, standing) = balance_of(row)?;
        books.open(account, standing);
    }
    Ok(())
}

/// Accounts that have been locked; all of those that were to be.
fn load_locked(books: &mut Books, rows: &[Row], expected: usize) -> Result<(), Failure> {
    if rows.len() < expected {
        return Err(Failure::Again("an account was pruned in the same moment".to_owned()));
    }
    load(books, rows)
}

/// What has changed, a column each.
#[derive(Default)]
struct Saving<'a> {
    names: Vec<&'a str>,
    since: Vec<i64>,
    spent: (Vec<i64>, Vec<i64>),
    held: (Vec<i64>, Vec<i64>),
    entries: Vec<i64>,
}

impl<'a> Saving<'a> {
    fn of(books: &'a Books) -> Self {
        let mut saving = Self::default();
        for (account, standing) in books.changes() {
            saving.names.push(&account.name);
            saving.since.push(account.since);
            saving.spent.0.push(stored(standing.spent.tokens));
            saving.spent.1.push(stored(standing.spent.money));
            saving.held.0.push(stored(standing.held.tokens));
            saving.held.1.push(stored(standing.held.money));
            saving.entries.push(stored(standing.entries));
        }
        saving
    }
}

/// Entries, a column each. Of several about one id the last counts.
#[derive(Default)]
struct Entries {
    ids: Vec<Uuid>,
    expired: Vec<bool>,
    subjects: Vec<Option<String>>,
    tokens: Vec<i64>,
    money: Vec<i64>,
    bodies: Vec<Vec<u8>>,
}

impl Entries {
    fn of(entries: &[Entry]) -> Self {
        let by_id: BTreeMap<EntryId, &Entry> =
            entries.iter().map(|entry| (entry.id, entry)).collect();
        let mut columns = Self::default();
        for (id, entry) in by_id {
            columns.ids.push(uuid(id));
            columns.expired.push(entry.kind == EntryKind::Expired);
            columns.subjects.push(entry.subject.clone());
            columns.tokens.push(stored(entry.amounts.tokens));
            columns.money.push(stored(entry.amounts.money));
            columns.bodies.push(entry.body.to_vec());
        }
        columns
    }
}

pub(super) struct TakeHolds(pub(super) Vec<Hold>);

impl Write for TakeHolds {
    type Answer = Vec<Held>;

    const STATEMENTS: &'static [&'static str] = &[OPEN, LOCK, KNOWN, NOW, INSERT_HOLDS, SAVE];
    const REPEATABLE: bool = true;

    fn size_bytes(&self) -> usize {
        self.0.iter().map(|hold| hold.body.len() + 256).sum()
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Vec<Held>>, Failure> {
        let holds = || batch.iter().flat_map(|write| &write.0);
        let accounts = holds().flat_map(|hold| &hold.limited).map(|(account, _)| account);
        let (names, since) = columns(accounts);
        let ids: Vec<Uuid> = holds().map(|hold| uuid(hold.id)).collect();
        let [_, rows, known, now] = link
            .begin([
                step(OPEN, &[&names, &since, &0_i64]),
                step(LOCK, &[&names, &since]),
                step(KNOWN, &[&ids]),
                step(NOW, &[]),
            ])
            .await?;
        let now = schema::time(&now)?;
        let mut known =
            known.iter().map(|row| entry_id(row, 0)).collect::<Result<BTreeSet<_>, _>>()?;
        let mut books = Books::default();
        load_locked(&mut books, &rows, names.len())?;
        let (mut granted, mut answers) = (Vec::new(), Vec::with_capacity(batch.len()));
        for write in batch {
            let mut held = Vec::with_capacity(write.0.len());
            for hold in &write.0 {
                if known.contains(&hold.id) {
                    held.push(books.granted(hold));
                    continue;
                }
                held.push(books.hold(hold));
                if matches!(held.last(), Some(Held::Granted(_))) {
                    known.insert(hold.id);
                    granted.push(hold);
                }
            }
            answers.push(Ok(held));
        }
        commit_holds(&granted, &books, now, link).await?;
        Ok(Written::quietly(answers))
    }
}

async fn commit_holds(
    granted: &[&Hold],
    books: &Books,
    now: Timestamp,
    link: &Link,
) -> Result<(), Failure> {
    let ids: Vec<Uuid> = granted.iter().map(|hold| uuid(hold.id)).collect();
    let tokens: Vec<i64> = granted.iter().map(|hold| stored(hold.amounts.tokens)).collect();
    let money: Vec<i64> = granted.iter().map(|hold| stored(hold.amounts.money)).collect();
    let limited: Vec<String> = granted.iter().map(|hold| to_column(books::limited(hold))).collect();
    let tallies: Vec<String> = granted.iter().map(|hold| to_column(&hold.tallies)).collect();
    let expiry = |hold: &&Hold| now.0.saturating_add(millis(Some(hold.keep)));
    let expiries: Vec<i64> = granted.iter().map(expiry).collect();
    let subjects: Vec<Option<&str>> = granted.iter().map(|hold| hold.subject.as_deref()).collect();
    let bodies: Vec<&[u8]> = granted.iter().map(|hold| &hold.body[..]).collect();
    let saving = Saving::of(books);
    let Saving { names, since, spent, held, entries } = &saving;
    link.commit(&[
        step(
            INSERT_HOLDS,
            &[&ids, &tokens, &money, &limited, &tallies, &expiries, &subjects, &bodies],
        ),
        step(SAVE, &[names, since, &spent.0, &spent.1, &held.0, &held.1, entries, &now.0]),
    ])
    .await
    .map(drop)
}

pub(super) struct SettleHolds(pub(super) Vec<Settlement>);

impl Write for SettleHolds {
    type Answer = Vec<Settled>;

    const STATEMENTS: &'static [&'static str] =
        &[LOCK_HOLDS, ENTERED, NOW, OPEN, LOCK, DROP_HOLDS, INSERT_ENTRIES, SAVE];
    const REPEATABLE: bool = true;

    fn size_bytes(&self) -> usize {
        self.0
            .iter()
            .map(|settlement| settlement.body.as_ref().map_or(0, bytes::Bytes::len) + 256)
            .sum()
    }

    async fn write(batch: &[&Self], link: &Link) -> Result<Written<Vec<Settled>>, Failure> {
        let settlements = || batch.iter().flat_map(|write| &write.0);
        let ids: Vec<Uuid> = settlements().map(|settlement| uuid(settlement.id)).collect();
        let unheld = || settlements().filter(|settlement| settlement.unheld.is_some());
        let unheld_ids: Vec<Uuid> = unheld().map(|settlement| uuid(settlement.id)).collect();
        let [rows, entered, now] = link
            .begin([step(LOCK_HOLDS, &[&ids]), step(ENTERED, &[&unheld_ids]), step(NOW, &[])])
            .await?;
        let now = schema::time(&now)?;
        let mut kept = rows.iter().map(hold_of).collect::<Result<BTreeMap<_, _>, _>>()?;
        let entered =
            entered.iter().map(|row| entry_id(row, 0)).collect::<Result<BTreeSet<_>, _>>()?;
        for Settlement { id, unheld, .. } in unheld() {
            if !entered.contains(id) {
                let subject = unheld.as_ref().and_then(|unheld| unheld.subject.clone());
                let nothing = KeptHold { open: OpenHold::nothing(), subject, body: Vec::new() };
                kept.entry(*id).or_insert(nothing);
            }
        }
        let accounts = kept.values().flat_map(|kept| kept.open.accounts());
        let known = settlements().filter(|settlement| kept.contains_key(&settlement.id));
        let accounts = accounts.chain(known.flat_map(|known| known.tallies.iter().flatten()));
        let mut books = lock(accounts, now, link).await?;
        let (mut entries, mut dropped) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(batch.len());
        for write in batch {
            let settle = |settlement: &Settlement| {
                let Some(kept) = kept.remove(&settlement.id) else { return Settled::Unknown };
                books.settle(&kept.open, settlement);
                dropped.push(uuid(settlement.id));
                let KeptHold { open, subject, .. } = kept;
                entries.extend(books::entry_of(settlement.clone(), open.is_charged, subject, now));
                if open.is_charged { Settled::Corrected } else { Settled::Charged }
            };
            answers.push(Ok(write.0.iter().map(settle).collect()));
        }
        commit_entries(&entries, &books, now, (DROP_HOLDS, dropped, None), link).await?;
        Ok(Written::quietly(answers))
    }
}

/// Locks accounts, and reads them.
pub(super) async fn lock(
    accounts: impl Iterator<Item = &Account>,
    now: Timestamp,
    link: &Link,
) -> Result<Books, Failure> {
    let (names, since) = columns(accounts);
    let mut books = Books::default();
    if !names.is_empty() {
        let [_, rows] = link
            .query([step(OPEN, &[&names, &since, &now.0]), step(LOCK, &[&names, &since])])
            .await?;
        load_locked(&mut books, &rows, names.len())?;
    }
    Ok(books)
}

/// Writes entries and what they change, and commits.
pub(super) async fn commit_entries(
    entries: &[Entry],
    books: &Books,
    now: Timestamp,
    (ended, ids, expires_at): (&'static str, Vec<Uuid>, Option<i64>),
    link: &Link,
) -> Result<(), Failure> {
    if ids.is_empty() {
        return link.commit(&[]).await.map(drop);
    }
    let columns = Entries::of(entries);
    let saving = Saving::of(books);
    let Saving { names, since, spent, held, entries } = &saving;
    let (of_ids, of_ids_and_time): ([&(dyn ToSql + Sync); 1], [_; 2]) =
        ([&ids], [&ids as &(dyn ToSql + Sync), &expires_at]);
    let ending = if expires_at.is_some() { &of_ids_and_time[..] } else { &of_ids[..] };
    link.commit(&[
        step(ended, ending),
        step(
            INSERT_ENTRIES,
            &[
                &columns.ids,
                &columns.expired,
                &columns.subjects,
                &columns.tokens,
                &columns.money,
                &columns.bodies,
                &now.0,
            ],
        ),
        step(SAVE, &[names, since, &spent.0, &spent.1, &held.0, &held.1, entries, &now.0]),
    ])
    .await
    .map(drop)
}

fn balances(link: &Link, accounts: Vec<Account>) -> Reading<'_, Vec<Balance>> {
    Box::pin(async move {
        let (names, since) = columns(&accounts);
        let [rows] = link.query([step(BALANCES, &[&names, &since])]).await?;
        let mut books = Books::default();
        load(&mut books, &rows)?;
        Ok(accounts.into_iter().map(|account| books.standing(&account).balance(account)).collect())
    })
}

fn accounts(link: &Link, filter: AccountFilter) -> Reading<'_, Vec<Balance>> {
    Box::pin(async move {
        let limit = stored(filter.page_size() as u64);
        let AccountFilter { prefix, since, after, limit: _ } = filter;
        let (name, of) = after.map(|after| (after.name, after.since)).unzip();
        let values: [&(dyn ToSql + Sync); 5] = [&prefix, &since, &name, &of, &limit];
        let [rows] = link.query([step(ACCOUNTS, &values)]).await?;
        let balance = |row| balance_of(row).map(|(account, standing)| standing.balance(account));
        rows.iter().map(balance).collect()
    })
}

fn entries(link: &Link, filter: EntryFilter) -> Reading<'_, Vec<Entry>> {
    Box::pin(async move {
        let (from, before) = (uuid(filter.from()), filter.before.map(uuid));
        let limit = stored(filter.page_size() as u64);
        let [rows] = match &filter.subject {
            None => link.query([step(ENTRIES, &[&from, &before, &limit])]).await?,
            Some(subject) => {
                link.query([step(ENTRIES_OF, &[&from, &before, &limit, subject])]).await?
            }
        };
        rows.iter().map(entry_of).collect()
    })
}

#[async_trait]
impl Ledger for PostgresStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        books::check_holds(&holds)?;
        self.writer.write(TakeHolds(holds)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        books::check_settlements(&settlements)?;
        self.writer.write(SettleHolds(settlements)).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.writer.write(Expire { limit }).await
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        self.readers.read(|link| balances(link, accounts.clone())).await
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError> {
        self.readers.read(|link| accounts(link, filter.clone())).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        self.readers.read(|link| entries(link, filter.clone())).await
    }

    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(Prune { before, limit }).await
    }
}
