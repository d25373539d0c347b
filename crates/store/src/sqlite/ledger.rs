//! The ledger, inside the writer's transaction: an account that several holds of one transaction are about
//! is read and written once.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::SqliteStore;
use super::seal::{broken, seal};
use super::writer::{Failure, Write};
use crate::books::{self, Books, OpenHold, Standing, from_column, to_column};
use crate::clock::millis;
use crate::{
    Account, AccountFilter, Amounts, Balance, Entry, EntryFilter, EntryId, EntryKind, Held, Hold,
    LATE, Ledger, Settled, Settlement, StoreError, Timestamp,
};

/// A number as it is stored; what does not fit was refused before.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn account_seal(account: &Account, standing: &Standing, at: i64) -> i64 {
    let Standing { spent, held, entries } = standing;
    let numbers = [spent.tokens, spent.money, held.tokens, held.money, *entries].map(stored);
    let [spent_tokens, spent_money, held_tokens, held_money, entries] = numbers;
    seal(
        &[account.since, spent_tokens, spent_money, held_tokens, held_money, entries, at],
        &[account.name.as_bytes()],
    )
}

fn hold_seal(id: EntryId, open: &OpenHold, (limited, tallies): (&str, &str), at: i64) -> i64 {
    let numbers =
        [stored(open.amounts.tokens), stored(open.amounts.money), i64::from(open.is_charged), at];
    seal(&numbers, &[id.as_bytes(), limited.as_bytes(), tallies.as_bytes()])
}

fn entry_seal(entry: &Entry) -> i64 {
    let numbers = [
        entry.at.0,
        i64::from(entry.kind == EntryKind::Expired),
        stored(entry.amounts.tokens),
        stored(entry.amounts.money),
    ];
    seal(&numbers, &[entry.id.as_bytes(), &entry.body])
}

/// Columns that [`balance_of`] reads, in its order.
macro_rules! balance_columns {
    () => {
        "name, since, spent_tokens, spent_money, held_tokens, held_money, entries, at, seal"
    };
}

fn balance_of(row: &Row<'_>) -> Result<(Account, Standing), Failure> {
    let account = Account { name: row.get(0)?, since: row.get(1)? };
    let standing = Standing {
        spent: Amounts { tokens: row.get(2)?, money: row.get(3)? },
        held: Amounts { tokens: row.get(4)?, money: row.get(5)? },
        entries: row.get(6)?,
    };
    if row.get::<_, i64>(8)? == account_seal(&account, &standing, row.get(7)?) {
        return Ok((account, standing));
    }
    Err(broken(&format!("the account `{}`", account.name)))
}

fn standing(connection: &Connection, account: &Account) -> Result<Option<Standing>, Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        balance_columns!(),
        " FROM account WHERE name = ?1 AND since = ?2"
    ))?;
    let mut rows = select.query(params![account.name, account.since])?;
    Ok(rows.next()?.map(balance_of).transpose()?.map(|(_, standing)| standing))
}

/// The accounts of a transaction, read when they are first needed.
fn load<'a>(
    connection: &Connection,
    books: &mut Books,
    accounts: impl Iterator<Item = &'a Account>,
) -> Result<(), Failure> {
    for account in accounts {
        if !books.standings.contains_key(account) {
            let found = standing(connection, account)?.unwrap_or_default();
            books.standings.insert(account.clone(), found);
        }
    }
    Ok(())
}

fn save(connection: &Connection, books: &Books, at: Timestamp) -> Result<(), Failure> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO account (name, since, spent_tokens, spent_money, held_tokens, held_money, \
         entries, at, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (name, since) DO UPDATE SET spent_tokens = excluded.spent_tokens, \
         spent_money = excluded.spent_money, held_tokens = excluded.held_tokens, \
         held_money = excluded.held_money, entries = excluded.entries, at = excluded.at, \
         seal = excluded.seal",
    )?;
    for account in &books.changed {
        let standing = books.standing(account);
        insert.execute(params![
            account.name,
            account.since,
            stored(standing.spent.tokens),
            stored(standing.spent.money),
            stored(standing.held.tokens),
            stored(standing.held.money),
            stored(standing.entries),
            at.0,
            account_seal(account, &standing, at.0),
        ])?;
    }
    Ok(())
}

/// A hold, and what its entry would be.
struct KeptHold {
    open: OpenHold,
    subject: Option<String>,
    body: Vec<u8>,
}

/// Columns that [`hold_of`] reads, in its order.
macro_rules! hold_columns {
    () => {
        "id, tokens, money, limited, tallies, charged, expires_at, subject, body, seal"
    };
}

fn hold_of(row: &Row<'_>) -> Result<(EntryId, KeptHold), Failure> {
    let id = EntryId::from_bytes(row.get(0)?);
    let damaged = || broken(&format!("the hold {id}"));
    let (limited, tallies): (String, String) = (row.get(3)?, row.get(4)?);
    let open = OpenHold {
        amounts: Amounts { tokens: row.get(1)?, money: row.get(2)? },
        limited: from_column(&limited).ok_or_else(damaged)?,
        tallies: from_column(&tallies).ok_or_else(damaged)?,
        is_charged: row.get(5)?,
    };
    if row.get::<_, i64>(9)? != hold_seal(id, &open, (&limited, &tallies), row.get(6)?) {
        return Err(damaged());
    }
    Ok((id, KeptHold { open, subject: row.get(7)?, body: row.get(8)? }))
}

fn is_known(connection: &Connection, id: EntryId) -> Result<bool, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT 1 FROM hold WHERE id = ?1 UNION ALL SELECT 1 FROM entry WHERE id = ?1",
    )?;
    Ok(select.exists([id.as_bytes()])?)
}

pub(super) struct TakeHolds(pub(super) Vec<Hold>);

impl Write for TakeHolds {
    type Answer = Vec<Held>;

    fn size_bytes(&self) -> usize {
        self.0.iter().map(|hold| hold.body.len() + 256).sum()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Held>, Failure> {
        let mut books = Books::default();
        let accounts = self.0.iter().flat_map(|hold| &hold.limited);
        load(connection, &mut books, accounts.map(|(account, _)| account))?;
        let mut answers = Vec::with_capacity(self.0.len());
        for hold in &self.0 {
            if is_known(connection, hold.id)? {
                answers.push(books.granted(hold));
                continue;
            }
            let held = books.hold(hold);
            if matches!(held, Held::Granted(_)) {
                insert_hold(connection, hold, at)?;
            }
            answers.push(held);
        }
        save(connection, &books, at)?;
        Ok(answers)
    }
}

fn insert_hold(connection: &Connection, hold: &Hold, at: Timestamp) -> Result<(), Failure> {
    let open = OpenHold::of(hold);
    let (limited, tallies) = (to_column(&open.limited), to_column(&open.tallies));
    let expires_at = at.0.saturating_add(millis(Some(hold.keep)));
    connection
        .prepare_cached(
            "INSERT INTO hold (id, tokens, money, limited, tallies, charged, expires_at, subject, \
             body, seal) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            hold.id.as_bytes(),
            stored(hold.amounts.tokens),
            stored(hold.amounts.money),
            limited,
            tallies,
            expires_at,
            hold.subject,
            hold.body.as_ref(),
            hold_seal(hold.id, &open, (&limited, &tallies), expires_at),
        ])?;
    Ok(())
}

fn insert_entry(connection: &Connection, entry: &Entry) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO entry (id, at, kind, subject, tokens, money, body, seal) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET \
             at = excluded.at, kind = excluded.kind, tokens = excluded.tokens, \
             money = excluded.money, body = excluded.body, seal = excluded.seal",
        )?
        .execute(params![
            entry.id.as_bytes(),
            entry.at.0,
            entry.kind == EntryKind::Expired,
            entry.subject,
            stored(entry.amounts.tokens),
            stored(entry.amounts.money),
            entry.body.as_ref(),
            entry_seal(entry),
        ])?;
    Ok(())
}

pub(super) struct SettleHolds(pub(super) Vec<Settlement>);

impl Write for SettleHolds {
    type Answer = Vec<Settled>;

    fn size_bytes(&self) -> usize {
        self.0
            .iter()
            .map(|settlement| settlement.body.as_ref().map_or(0, bytes::Bytes::len) + 256)
            .sum()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Settled>, Failure> {
        let mut books = Books::default();
        let mut answers = Vec::with_capacity(self.0.len());
        for settlement in self.0 {
            let found = {
                let mut select = connection.prepare_cached(concat!(
                    "SELECT ",
                    hold_columns!(),
                    " FROM hold WHERE id = ?1"
                ))?;
                let mut rows = select.query([settlement.id.as_bytes()])?;
                rows.next()?.map(hold_of).transpose()?
            };
            let Some((id, kept)) = found else {
                answers.push(Settled::Unknown);
                continue;
            };
            let accounts = kept.open.accounts().chain(settlement.tallies.iter().flatten());
            load(connection, &mut books, accounts)?;
            books.settle(&kept.open, &settlement);
            connection
                .prepare_cached("DELETE FROM hold WHERE id = ?1")?
                .execute([id.as_bytes()])?;
            let KeptHold { open, subject, body } = kept;
            let of_hold = (subject, body.into());
            if let Some(entry) = books::entry_of(settlement, open.is_charged, of_hold, at) {
                insert_entry(connection, &entry)?;
            }
            answers.push(if open.is_charged { Settled::Corrected } else { Settled::Charged });
        }
        save(connection, &books, at)?;
        Ok(answers)
    }
}

pub(super) struct Expire {
    pub(super) limit: usize,
}

impl Write for Expire {
    type Answer = Vec<Entry>;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Entry>, Failure> {
        // Nobody settles these any more.
        connection
            .prepare_cached("DELETE FROM hold WHERE charged = 1 AND expires_at <= ?1")?
            .execute([at.0])?;
        let over = {
            let mut select = connection.prepare_cached(concat!(
                "SELECT ",
                hold_columns!(),
                " FROM hold WHERE charged = 0 AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2"
            ))?;
            let mut rows = select.query(params![at.0, stored(self.limit as u64)])?;
            let mut over = Vec::new();
            while let Some(row) = rows.next()? {
                over.push(hold_of(row)?);
            }
            over
        };
        let (mut books, mut expired) = (Books::default(), Vec::with_capacity(over.len()));
        for (id, KeptHold { mut open, subject, body }) in over {
            load(connection, &mut books, open.accounts())?;
            books.expire(&open);
            open.is_charged = true;
            let (limited, tallies) = (to_column(&open.limited), to_column(&open.tallies));
            let expires_at = at.0.saturating_add(millis(Some(LATE)));
            connection
                .prepare_cached(
                    "UPDATE hold SET charged = 1, expires_at = ?2, seal = ?3 WHERE id = ?1",
                )?
                .execute(params![
                    id.as_bytes(),
                    expires_at,
                    hold_seal(id, &open, (&limited, &tallies), expires_at)
                ])?;
            let (amounts, body) = (open.amounts, body.into());
            let entry = Entry { id, at, kind: EntryKind::Expired, subject, amounts, body };
            insert_entry(connection, &entry)?;
            expired.push(entry);
        }
        save(connection, &books, at)?;
        Ok(expired)
    }
}

pub(super) struct Prune {
    pub(super) before: Timestamp,
    pub(super) limit: usize,
}

impl Write for Prune {
    type Answer = usize;

    fn write(self, connection: &Connection, _: Timestamp) -> Result<usize, Failure> {
        let (before, limit) = (self.before.0, stored(self.limit as u64));
        // Ids sort by time: the oldest entries come first, and the search ends at the first that is young.
        let latest = EntryId::earliest(Timestamp(before.saturating_add(DAY_MS)));
        let entries = connection
            .prepare_cached(
                "DELETE FROM entry WHERE pos IN (SELECT pos FROM entry \
                 WHERE id < ?2 AND at < ?1 ORDER BY id LIMIT ?3)",
            )?
            .execute(params![before, latest.as_bytes(), limit])?;
        let accounts = connection
            .prepare_cached(
                "DELETE FROM account WHERE (name, since) IN (SELECT name, since FROM account \
                 WHERE at < ?1 AND held_tokens = 0 AND held_money = 0 LIMIT ?2)",
            )?
            .execute(params![before, limit])?;
        Ok(entries + accounts)
    }
}

/// How long after its id was made an entry may have been charged.
const DAY_MS: i64 = 24 * 3_600_000;

fn accounts(connection: &Connection, filter: &AccountFilter) -> Result<Vec<Balance>, Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        balance_columns!(),
        " FROM account WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 \
         AND (?2 IS NULL OR since >= ?2) AND (?3 IS NULL OR (name, since) > (?3, ?4)) \
         ORDER BY name, since LIMIT ?5"
    ))?;
    let (name, since) = match &filter.after {
        Some(after) => (Some(&after.name), after.since),
        None => (None, 0),
    };
    let limit = stored(filter.page_size() as u64);
    let mut rows = select.query(params![filter.prefix, filter.since, name, since, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (account, standing) = balance_of(row)?;
        found.push(standing.balance(account));
    }
    Ok(found)
}

fn entries(connection: &Connection, filter: &EntryFilter) -> Result<Vec<Entry>, Failure> {
    const ALL: &str = "SELECT id, at, kind, subject, tokens, money, body, seal FROM entry \
        WHERE id >= ?1 AND (?2 IS NULL OR id < ?2) AND ?3 IS NULL ORDER BY id DESC LIMIT ?4";
    const OF_SUBJECT: &str = "SELECT id, at, kind, subject, tokens, money, body, seal FROM entry \
        WHERE id >= ?1 AND (?2 IS NULL OR id < ?2) AND subject = ?3 ORDER BY id DESC LIMIT ?4";
    let mut select =
        connection.prepare_cached(if filter.subject.is_some() { OF_SUBJECT } else { ALL })?;
    let mut rows = select.query(params![
        filter.from().as_bytes(),
        filter.before.as_ref().map(EntryId::as_bytes),
        filter.subject,
        stored(filter.page_size() as u64)
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(entry_of(row)?);
    }
    Ok(found)
}

fn entry_of(row: &Row<'_>) -> Result<Entry, Failure> {
    let entry = Entry {
        id: EntryId::from_bytes(row.get(0)?),
        at: Timestamp(row.get(1)?),
        kind: if row.get(2)? { EntryKind::Expired } else { EntryKind::Settled },
        subject: row.get(3)?,
        amounts: Amounts { tokens: row.get(4)?, money: row.get(5)? },
        body: row.get::<_, Vec<u8>>(6)?.into(),
    };
    if row.get::<_, i64>(7)? == entry_seal(&entry) {
        return Ok(entry);
    }
    Err(broken(&format!("the entry {}", entry.id)))
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        books::check_holds(&holds)?;
        self.writer.write(TakeHolds(holds), self.clock.now()).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        books::check_settlements(&settlements)?;
        self.writer.write(SettleHolds(settlements), self.clock.now()).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.writer.write(Expire { limit }, self.clock.now()).await
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        self.read(move |connection| {
            let balance = |account: Account| {
                let standing = standing(connection, &account)?.unwrap_or_default();
                Ok(standing.balance(account))
            };
            accounts.into_iter().map(balance).collect()
        })
        .await
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError> {
        self.read(move |connection| accounts(connection, &filter)).await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        self.read(move |connection| entries(connection, &filter)).await
    }

    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(Prune { before, limit }, self.clock.now()).await
    }
}
