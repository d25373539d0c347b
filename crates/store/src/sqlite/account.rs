//! The rows of the ledger, each under a seal: accounts, holds and entries.

use rusqlite::{CachedStatement, Connection, Row, params};

use super::seal::{broken, seal};
use super::writer::Failure;
use crate::books::{self, Books, OpenHold, Standing, from_column};
use crate::{Account, Amounts, Entry, EntryId, EntryKind, Timestamp};

/// A number as it is stored; what does not fit was refused before.
pub(super) fn stored(number: u64) -> i64 {
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

/// Columns that [`account_of`] reads, in its order.
macro_rules! account_columns {
    () => {
        "pos, name, since, spent_tokens, spent_money, held_tokens, held_money, entries, at, seal"
    };
}
pub(super) use account_columns;

/// An account, how it stands, and when it was last changed.
pub(super) struct KeptAccount {
    pub(super) row: i64,
    pub(super) account: Account,
    pub(super) standing: Standing,
    pub(super) at: Timestamp,
}

pub(super) fn account_of(row: &Row<'_>) -> Result<KeptAccount, Failure> {
    let account = Account { name: row.get(1)?, since: row.get(2)? };
    let standing = Standing {
        spent: Amounts { tokens: row.get(3)?, money: row.get(4)? },
        held: Amounts { tokens: row.get(5)?, money: row.get(6)? },
        entries: row.get(7)?,
    };
    let at = row.get(8)?;
    if row.get::<_, i64>(9)? == account_seal(&account, &standing, at) {
        return Ok(KeptAccount { row: row.get(0)?, account, standing, at: Timestamp(at) });
    }
    Err(broken(&format!("the account `{}`", account.name)))
}

/// An account, if it was ever used.
pub(super) fn account(
    connection: &Connection,
    account: &Account,
) -> Result<Option<KeptAccount>, Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        account_columns!(),
        " FROM account WHERE name = ?1 AND since = ?2"
    ))?;
    let mut rows = select.query(params![account.name, account.since])?;
    rows.next()?.map(account_of).transpose()
}

/// Reads accounts that are not in the books yet.
pub(super) fn load<'a>(
    connection: &Connection,
    books: &mut Books,
    accounts: impl Iterator<Item = &'a Account>,
) -> Result<(), Failure> {
    for named in accounts {
        if !books.has(named) {
            let (standing, row) = account(connection, named)?
                .map(|found| (found.standing, Some(found.row)))
                .unwrap_or_default();
            books.open_row(named.clone(), standing, row);
        }
    }
    Ok(())
}

/// Writes the accounts that have changed.
pub(super) fn save(
    connection: &Connection,
    books: &mut Books,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE account SET spent_tokens = ?2, spent_money = ?3, held_tokens = ?4, \
         held_money = ?5, entries = ?6, at = ?7, seal = ?8 WHERE pos = ?1",
    )?;
    for account in books.take_changed() {
        let standing = books.standing(&account);
        let Some(row) = books.row(&account) else {
            books.has_row(&account, insert_account(connection, &account, &standing, at)?);
            continue;
        };
        update.execute(params![
            row,
            stored(standing.spent.tokens),
            stored(standing.spent.money),
            stored(standing.held.tokens),
            stored(standing.held.money),
            stored(standing.entries),
            at.0,
            account_seal(&account, &standing, at.0),
        ])?;
    }
    Ok(())
}

/// Writes an account that is not there; the number of its row.
pub(super) fn insert_account(
    connection: &Connection,
    account: &Account,
    standing: &Standing,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO account (name, since, spent_tokens, spent_money, held_tokens, \
             held_money, entries, at, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .insert(params![
            account.name,
            account.since,
            stored(standing.spent.tokens),
            stored(standing.spent.money),
            stored(standing.held.tokens),
            stored(standing.held.money),
            stored(standing.entries),
            at.0,
            account_seal(account, standing, at.0),
        ])
}

/// A hold in the columns of its row.
pub(super) struct HoldRow<'a> {
    pub(super) id: EntryId,
    pub(super) amounts: Amounts,
    pub(super) limited: &'a str,
    pub(super) tallies: &'a str,
    pub(super) is_charged: bool,
    pub(super) expires_at: i64,
    pub(super) subject: Option<&'a str>,
    pub(super) body: &'a [u8],
}

impl HoldRow<'_> {
    pub(super) fn seal(&self) -> i64 {
        let Amounts { tokens, money } = self.amounts;
        let numbers = [stored(tokens), stored(money), i64::from(self.is_charged), self.expires_at];
        // No subject is empty.
        let subject = self.subject.unwrap_or_default();
        let (limited, tallies) = (self.limited.as_bytes(), self.tallies.as_bytes());
        seal(&numbers, &[self.id.as_bytes(), limited, tallies, subject.as_bytes(), self.body])
    }

    pub(super) fn insert(&self, insert: &mut CachedStatement<'_>) -> rusqlite::Result<()> {
        insert.execute(params![
            self.id.as_bytes(),
            stored(self.amounts.tokens),
            stored(self.amounts.money),
            self.limited,
            self.tallies,
            self.is_charged,
            self.expires_at,
            self.subject,
            self.body,
            self.seal(),
        ])?;
        Ok(())
    }
}

/// What [`HoldRow::insert`] takes.
pub(super) const INSERT_HOLD: &str = "INSERT INTO hold (id, tokens, money, limited, tallies, \
     charged, expires_at, subject, body, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// A hold, and what its entry would be.
pub(super) struct KeptHold {
    pub(super) id: EntryId,
    pub(super) open: OpenHold,
    pub(super) expires_at: Timestamp,
    pub(super) subject: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Columns that [`hold_of`] reads, in its order.
macro_rules! hold_columns {
    () => {
        "id, tokens, money, limited, tallies, charged, expires_at, subject, body, seal"
    };
}
pub(super) use hold_columns;

pub(super) fn hold_of(row: &Row<'_>) -> Result<KeptHold, Failure> {
    let found = HoldRow {
        id: EntryId::from_bytes(row.get(0)?),
        amounts: Amounts { tokens: row.get(1)?, money: row.get(2)? },
        limited: text(row, 3)?.unwrap_or_default(),
        tallies: text(row, 4)?.unwrap_or_default(),
        is_charged: row.get(5)?,
        expires_at: row.get(6)?,
        subject: text(row, 7)?,
        body: row.get_ref(8)?.as_blob().map_err(rusqlite::Error::from)?,
    };
    let HoldRow { id, amounts, is_charged, .. } = found;
    let accounts = from_column(found.limited).zip(from_column(found.tallies));
    let (Some((limited, tallies)), true) = (accounts, row.get::<_, i64>(9)? == found.seal()) else {
        return Err(broken(&format!("the hold {id}")));
    };
    let open = OpenHold { amounts, limited, tallies, is_charged };
    let (subject, body) = (found.subject.map(str::to_owned), found.body.to_owned());
    Ok(KeptHold { id, open, expires_at: Timestamp(found.expires_at), subject, body })
}

fn text<'a>(row: &'a Row<'_>, index: usize) -> Result<Option<&'a str>, Failure> {
    let value = row.get_ref(index)?;
    Ok(value.as_str_or_null().map_err(rusqlite::Error::from)?)
}

fn entry_seal(entry: &Entry) -> i64 {
    let numbers = [
        entry.at.0,
        i64::from(entry.kind == EntryKind::Expired),
        stored(entry.amounts.tokens),
        stored(entry.amounts.money),
    ];
    let subject = entry.subject.as_deref().unwrap_or_default();
    seal(&numbers, &[entry.id.as_bytes(), subject.as_bytes(), &entry.body])
}

/// What [`insert_entry`] takes. A late settlement puts right what is there.
pub(super) const INSERT_ENTRY: &str = "INSERT INTO entry (id, at, kind, subject, tokens, money, body, seal) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET \
     at = excluded.at, kind = excluded.kind, tokens = excluded.tokens, \
     money = excluded.money, body = excluded.body, seal = excluded.seal";

pub(super) fn insert_entry(
    insert: &mut CachedStatement<'_>,
    entry: &Entry,
) -> rusqlite::Result<()> {
    insert.execute(params![
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

/// Columns that [`entry_of`] reads, in its order.
macro_rules! entry_columns {
    () => {
        "id, at, kind, subject, tokens, money, body, seal"
    };
}
pub(super) use entry_columns;

pub(super) fn entry_of(row: &Row<'_>) -> Result<Entry, Failure> {
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

/// What is wrong with the ledger: rows that are not what was written, and accounts that hold something else
/// than their holds make together.
pub(super) fn examine(connection: &Connection) -> Result<Vec<String>, Failure> {
    let (mut found, mut sums, mut held) = (Vec::new(), Books::default(), Vec::new());
    each(connection, concat!("SELECT ", hold_columns!(), " FROM hold"), &mut found, |row| {
        sums.take_up(&hold_of(row)?.open);
        Ok(())
    })?;
    let accounts = concat!("SELECT ", account_columns!(), " FROM account");
    each(connection, accounts, &mut found, |row| {
        let KeptAccount { account, standing, .. } = account_of(row)?;
        if standing.held != Amounts::default() || sums.has(&account) {
            held.push((account, standing.held));
        }
        Ok(())
    })?;
    let entries = concat!("SELECT ", entry_columns!(), " FROM entry");
    each(connection, entries, &mut found, |row| entry_of(row).map(drop))?;
    // What a damaged row holds is not known.
    if found.is_empty() {
        found.extend(books::findings(held.into_iter(), sums));
    }
    Ok(found)
}

/// Reads every row; those that are damaged are findings.
fn each(
    connection: &Connection,
    sql: &str,
    found: &mut Vec<String>,
    mut read: impl FnMut(&Row<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut select = connection.prepare(sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Err(Failure::Damaged(problem)) if found.len() < books::FINDINGS_MAX => {
                found.push(problem);
            }
            Ok(()) | Err(Failure::Damaged(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
