//! The rows of the ledger: accounts, holds and entries.

use tokio_postgres::Row;
use uuid::Uuid;

use super::link::{Failure, Link, step};
use super::schema;
use crate::books::{self, OpenHold, Standing, from_column};
use crate::{Account, Amounts, Entry, EntryId, EntryKind, Record, Timestamp};

/// Columns that [`balance_of`] reads, in its order.
macro_rules! balance_columns {
    () => {
        "account.name, account.since, spent_tokens, spent_money, held_tokens, held_money, entries"
    };
}
pub(super) use balance_columns;

/// Columns that [`hold_of`] reads, in its order.
macro_rules! hold_columns {
    () => {
        "id, tokens, money, limited, tallies, charged, subject, body, expires_at"
    };
}
pub(super) use hold_columns;

/// Columns that [`entry_of`] reads, in its order.
macro_rules! entry_columns {
    () => {
        "id, at, expired, subject, tokens, money, body"
    };
}
pub(super) use entry_columns;

/// What the holds that have not been charged make together on each account, as a subquery with a name.
macro_rules! sums {
    () => {
        "(SELECT substr(line, strpos(line, ' ') + 1) AS name, \
         split_part(line, ' ', 1)::bigint AS since, sum(tokens) AS tokens, sum(money) AS money \
         FROM (SELECT DISTINCT id, tokens, money, line FROM hold, \
         unnest(string_to_array(limited, chr(10))) AS line WHERE NOT charged AND limited <> '') AS named \
         GROUP BY 1, 2) AS sums"
    };
}

/// Accounts that hold something else than their holds make together.
pub(super) const UNEVEN: &str = concat!(
    "SELECT coalesce(account.name, sums.name), coalesce(account.since, sums.since), \
     coalesce(held_tokens, 0), coalesce(held_money, 0), \
     least(coalesce(tokens, 0), 9223372036854775807)::bigint, \
     least(coalesce(money, 0), 9223372036854775807)::bigint FROM account FULL JOIN ",
    sums!(),
    " ON account.name = sums.name AND account.since = sums.since \
     WHERE coalesce(held_tokens, 0) <> coalesce(tokens, 0) \
     OR coalesce(held_money, 0) <> coalesce(money, 0) ORDER BY 1, 2 LIMIT $1"
);

/// Adds the holds up that an import has brought.
pub(super) const ADD_UP: &str = concat!(
    "UPDATE account SET held_tokens = least(tokens, 9223372036854775807)::bigint, \
     held_money = least(money, 9223372036854775807)::bigint FROM ",
    sums!(),
    " WHERE account.name = sums.name AND account.since = sums.since"
);

/// Whether a hold is on an account that is not there.
pub(super) const IS_ASTRAY: &str = "SELECT EXISTS (SELECT 1 FROM hold, \
     unnest(string_to_array(limited, chr(10))) AS line WHERE limited <> '' AND NOT EXISTS \
     (SELECT 1 FROM account WHERE name = substr(line, strpos(line, ' ') + 1) \
     AND since = split_part(line, ' ', 1)::bigint))";

pub(super) const fn uuid(id: EntryId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn entry_id(row: &Row, index: usize) -> Result<EntryId, Failure> {
    Ok(EntryId::from_bytes(row.try_get::<_, Uuid>(index)?.into_bytes()))
}

fn amounts(row: &Row, first: usize) -> Result<Amounts, Failure> {
    Ok(Amounts { tokens: schema::count(row, first)?, money: schema::count(row, first + 1)? })
}

pub(super) fn balance_of(row: &Row) -> Result<(Account, Standing), Failure> {
    let account = Account { name: row.try_get(0)?, since: row.try_get(1)? };
    let (spent, held) = (amounts(row, 2)?, amounts(row, 4)?);
    Ok((account, Standing { spent, held, entries: schema::count(row, 6)? }))
}

/// A hold, and what its entry would be.
pub(super) struct KeptHold {
    pub(super) open: OpenHold,
    pub(super) subject: Option<String>,
    pub(super) body: Vec<u8>,
}

pub(super) fn hold_of(row: &Row) -> Result<(EntryId, KeptHold), Failure> {
    let id = entry_id(row, 0)?;
    let accounts = |index| {
        let column: String = row.try_get(index)?;
        from_column(&column).ok_or_else(|| {
            Failure::Damaged(format!("the accounts of the hold {id} are unreadable"))
        })
    };
    let (limited, tallies) = (accounts(3)?, accounts(4)?);
    let open =
        OpenHold { amounts: amounts(row, 1)?, limited, tallies, is_charged: row.try_get(5)? };
    Ok((id, KeptHold { open, subject: row.try_get(6)?, body: row.try_get(7)? }))
}

pub(super) fn entry_of(row: &Row) -> Result<Entry, Failure> {
    Ok(Entry {
        id: entry_id(row, 0)?,
        at: Timestamp(row.try_get(1)?),
        kind: if row.try_get(2)? { EntryKind::Expired } else { EntryKind::Settled },
        subject: row.try_get(3)?,
        amounts: amounts(row, 4)?,
        body: row.try_get::<_, Vec<u8>>(6)?.into(),
    })
}

/// A row of `balance_columns!`, and behind them when it was last changed, for an archive.
pub(super) fn account_record(row: &Row) -> Result<Record, Failure> {
    let (account, Standing { spent, held: _, entries }) = balance_of(row)?;
    Ok(Record::Account { account, spent, entries, at: Timestamp(row.try_get(7)?) })
}

pub(super) fn hold_record(row: &Row) -> Result<Record, Failure> {
    let (id, KeptHold { open, subject, body }) = hold_of(row)?;
    Ok(Record::hold(id, open, Timestamp(row.try_get(8)?), subject, body.into()))
}

pub(super) fn entry_record(row: &Row) -> Result<Record, Failure> {
    entry_of(row).map(Record::entry)
}

/// What is wrong with the ledger.
pub(super) async fn examine(link: &Link, limit: i64) -> Result<Vec<String>, Failure> {
    let [rows] = link.query([step(UNEVEN, &[&limit])]).await?;
    let finding = |row: &Row| {
        let account = Account { name: row.try_get(0)?, since: row.try_get(1)? };
        Ok(books::finding(&account, amounts(row, 2)?, amounts(row, 4)?))
    };
    rows.iter().map(finding).collect()
}
