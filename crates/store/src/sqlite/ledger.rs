//! The ledger, inside the writer's transaction: an account that several holds of one transaction are about
//! is read and written once.
//!
//! Everything is read before anything is written: a row that is damaged refuses its request, and what is
//! committed beside it is whole.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::account::{
    HoldRow, INSERT_ENTRY, INSERT_HOLD, KeptAccount, KeptHold, account as row_of, account_columns,
    account_of, entry_columns, entry_of, hold_columns, hold_of, insert_entry, load, save, stored,
};
use super::writer::{Failure, Write};
use crate::books::{self, Books, OpenHold, to_column};
use crate::clock::millis;
use crate::{
    Account, AccountFilter, Balance, Entry, EntryFilter, EntryId, EntryKind, Held, Hold, LATE,
    Ledger, Settled, Settlement, StoreError, Timestamp,
};

/// Most accounts, and most holds, that are remembered.
const REMEMBERED_MAX: usize = 8192;

/// Accounts and open holds as the last transaction has left them, so that those in use are not read again and
/// again. Only the writer changes them, and after a transaction that failed it writes nothing any more.
#[derive(Default)]
pub(super) struct Remembered(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    books: Books,
    holds: HashMap<EntryId, Open>,
}

/// What a settlement must know of its hold.
struct Open {
    open: OpenHold,
    subject: Option<String>,
}

impl Remembered {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.0.lock();
        if memory.books.len() > REMEMBERED_MAX {
            memory.books = Books::default();
        }
        memory
    }

    /// Something was removed, or came in by another way.
    pub(super) fn forget(&self) {
        *self.0.lock() = Memory::default();
    }
}

struct TakeHolds {
    holds: Vec<Hold>,
    remembered: Arc<Remembered>,
}

impl Write for TakeHolds {
    type Answer = Vec<Held>;

    fn size_bytes(&self) -> usize {
        self.holds.iter().map(|hold| hold.body.len() + 256).sum()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Held>, Failure> {
        let Memory { books, holds } = &mut *self.remembered.memory();
        let accounts = self.holds.iter().flat_map(|hold| &hold.limited);
        load(connection, books, accounts.map(|(account, _)| account))?;
        let mut known = connection.prepare_cached(
            "SELECT 1 FROM hold WHERE id = ?1 UNION ALL SELECT 1 FROM entry WHERE id = ?1",
        )?;
        let mut insert = connection.prepare_cached(INSERT_HOLD)?;
        let mut answers = Vec::with_capacity(self.holds.len());
        for hold in self.holds {
            if known.exists([hold.id.as_bytes()])? {
                answers.push(books.granted(&hold));
                continue;
            }
            let held = books.hold(&hold);
            if matches!(held, Held::Granted(_)) {
                let Hold { id, amounts, limited, tallies, keep, subject, body } = hold;
                let open = OpenHold::new(amounts, limited, tallies);
                let row = HoldRow {
                    id,
                    amounts,
                    limited: &to_column(&open.limited),
                    tallies: &to_column(&open.tallies),
                    is_charged: false,
                    expires_at: at.0.saturating_add(millis(Some(keep))),
                    subject: subject.as_deref(),
                    body: &body,
                };
                row.insert(&mut insert)?;
                if holds.len() < REMEMBERED_MAX {
                    holds.insert(id, Open { open, subject });
                }
            }
            answers.push(held);
        }
        save(connection, books, at)?;
        Ok(answers)
    }
}

fn hold(connection: &Connection, id: EntryId) -> Result<Option<KeptHold>, Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        hold_columns!(),
        " FROM hold WHERE id = ?1"
    ))?;
    let mut rows = select.query([id.as_bytes()])?;
    rows.next()?.map(hold_of).transpose()
}

fn is_entered(connection: &Connection, id: EntryId) -> Result<bool, Failure> {
    let mut select = connection.prepare_cached("SELECT 1 FROM entry WHERE id = ?1")?;
    Ok(select.exists([id.as_bytes()])?)
}

struct SettleHolds {
    settlements: Vec<Settlement>,
    remembered: Arc<Remembered>,
}

impl SettleHolds {
    /// The holds that are there.
    fn open(
        &self,
        connection: &Connection,
        remembered: &mut HashMap<EntryId, Open>,
    ) -> Result<HashMap<EntryId, Open>, Failure> {
        let mut found = HashMap::with_capacity(self.settlements.len());
        for Settlement { id, unheld, .. } in &self.settlements {
            if let Some(open) = remembered.remove(id) {
                found.insert(*id, open);
            } else if found.contains_key(id) {
            } else if let Some(KeptHold { open, subject, .. }) = hold(connection, *id)? {
                found.insert(*id, Open { open, subject });
            } else if let Some(unheld) = unheld
                && !is_entered(connection, *id)?
            {
                let subject = unheld.subject.clone();
                found.insert(*id, Open { open: OpenHold::nothing(), subject });
            }
        }
        Ok(found)
    }
}

impl Write for SettleHolds {
    type Answer = Vec<Settled>;

    fn size_bytes(&self) -> usize {
        let size = |settlement: &Settlement| settlement.body.as_ref().map_or(0, bytes::Bytes::len);
        self.settlements.iter().map(|settlement| size(settlement) + 256).sum()
    }

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Settled>, Failure> {
        let Memory { books, holds } = &mut *self.remembered.memory();
        let mut found = self.open(connection, holds)?;
        load(connection, books, found.values().flat_map(|found| found.open.accounts()))?;
        let settled = self.settlements.iter().filter(|one| found.contains_key(&one.id));
        load(connection, books, settled.flat_map(|one| one.tallies.iter().flatten()))?;
        let mut delete = connection.prepare_cached("DELETE FROM hold WHERE id = ?1")?;
        let mut insert = connection.prepare_cached(INSERT_ENTRY)?;
        let mut answers = Vec::with_capacity(self.settlements.len());
        for settlement in self.settlements {
            let Some(Open { open, subject }) = found.remove(&settlement.id) else {
                answers.push(Settled::Unknown);
                continue;
            };
            books.settle(&open, &settlement);
            delete.execute([settlement.id.as_bytes()])?;
            if let Some(entry) = books::entry_of(settlement, open.is_charged, subject, at) {
                insert_entry(&mut insert, &entry)?;
            }
            answers.push(if open.is_charged { Settled::Corrected } else { Settled::Charged });
        }
        save(connection, books, at)?;
        Ok(answers)
    }
}

/// Holds whose time is over: to be charged, and to be forgotten. One that cannot be read is left to whoever
/// examines the store: the others do not wait for it.
fn overdue(
    connection: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<EntryId>, Vec<EntryId>), Failure> {
    let ids = |sql| {
        let mut select = connection.prepare_cached(sql)?;
        let (mut rows, mut found) = (select.query([now.0])?, Vec::new());
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            match hold_of(row) {
                Ok(kept) => found.push(kept.id),
                Err(Failure::Damaged(problem)) => {
                    tracing::error!(problem, "a hold whose time is over is not charged");
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    };
    let charge = ids(concat!(
        "SELECT ",
        hold_columns!(),
        " FROM hold WHERE charged = 0 AND expires_at <= ?1 ORDER BY expires_at"
    ))?;
    let forget = ids(concat!(
        "SELECT ",
        hold_columns!(),
        " FROM hold WHERE charged = 1 AND expires_at <= ?1 ORDER BY expires_at"
    ))?;
    Ok((charge, forget))
}

struct Expire {
    charge: Vec<EntryId>,
    /// Nobody settles these any more.
    forget: Vec<EntryId>,
    remembered: Arc<Remembered>,
}

impl Write for Expire {
    type Answer = Vec<Entry>;

    fn write(self, connection: &Connection, at: Timestamp) -> Result<Vec<Entry>, Failure> {
        let Memory { books, holds } = &mut *self.remembered.memory();
        let mut over = Vec::with_capacity(self.charge.len());
        for id in &self.charge {
            holds.remove(id);
            // It may have been settled meanwhile.
            let Some(kept) = hold(connection, *id)?.filter(|kept| !kept.open.is_charged) else {
                continue;
            };
            match load(connection, books, kept.open.accounts()) {
                Ok(()) => over.push(kept),
                Err(Failure::Damaged(problem)) => {
                    tracing::error!(problem, "a hold whose time is over is not charged");
                }
                Err(failure) => return Err(failure),
            }
        }
        let mut forget = connection.prepare_cached(
            "DELETE FROM hold WHERE id = ?1 AND charged = 1 AND expires_at <= ?2",
        )?;
        for id in &self.forget {
            forget.execute(params![id.as_bytes(), at.0])?;
        }
        let mut charge = connection.prepare_cached(
            "UPDATE hold SET charged = 1, expires_at = ?2, seal = ?3 WHERE id = ?1",
        )?;
        let mut insert = connection.prepare_cached(INSERT_ENTRY)?;
        let mut expired = Vec::with_capacity(over.len());
        for KeptHold { id, open, expires_at: _, subject, body } in over {
            books.expire(&open);
            let charged = HoldRow {
                id,
                amounts: open.amounts,
                limited: &to_column(&open.limited),
                tallies: &to_column(&open.tallies),
                is_charged: true,
                expires_at: at.0.saturating_add(millis(Some(LATE))),
                subject: subject.as_deref(),
                body: &body,
            };
            charge.execute(params![id.as_bytes(), charged.expires_at, charged.seal()])?;
            let (kind, amounts, body) = (EntryKind::Expired, open.amounts, body.into());
            let entry = Entry { id, at, kind, subject, amounts, body };
            insert_entry(&mut insert, &entry)?;
            expired.push(entry);
        }
        save(connection, books, at)?;
        Ok(expired)
    }
}

struct Prune {
    before: Timestamp,
    limit: usize,
    remembered: Arc<Remembered>,
}

impl Write for Prune {
    type Answer = usize;

    fn write(self, connection: &Connection, _: Timestamp) -> Result<usize, Failure> {
        let (before, limit) = (self.before.0, stored(self.limit as u64));
        // Ids sort by time: the oldest entries come first, and the search ends at the first that is young.
        let latest = EntryId::earliest(Timestamp(before.saturating_add(DAY_MS)));
        let entries = connection
            .prepare_cached(
                "DELETE FROM entry WHERE id IN (SELECT id FROM entry \
                 WHERE id < ?2 AND at < ?1 ORDER BY id LIMIT ?3)",
            )?
            .execute(params![before, latest.as_bytes(), limit])?;
        let accounts = connection
            .prepare_cached(
                "DELETE FROM account WHERE pos IN (SELECT pos FROM account \
                 WHERE at < ?1 AND held_tokens = 0 AND held_money = 0 LIMIT ?2)",
            )?
            .execute(params![before, limit])?;
        self.remembered.forget();
        Ok(entries + accounts)
    }
}

/// How long after its id was made an entry may have been charged.
const DAY_MS: i64 = 24 * 3_600_000;

fn accounts(connection: &Connection, filter: &AccountFilter) -> Result<Vec<Balance>, Failure> {
    let mut select = connection.prepare_cached(concat!(
        "SELECT ",
        account_columns!(),
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
        let KeptAccount { account, standing, .. } = account_of(row)?;
        found.push(standing.balance(account));
    }
    Ok(found)
}

fn entries(connection: &Connection, filter: &EntryFilter) -> Result<Vec<Entry>, Failure> {
    const ALL: &str = concat!(
        "SELECT ",
        entry_columns!(),
        " FROM entry WHERE id >= ?1 AND (?2 IS NULL OR id < ?2) AND ?3 IS NULL \
         ORDER BY id DESC LIMIT ?4"
    );
    const OF_SUBJECT: &str = concat!(
        "SELECT ",
        entry_columns!(),
        " FROM entry WHERE id >= ?1 AND (?2 IS NULL OR id < ?2) AND subject = ?3 \
         ORDER BY id DESC LIMIT ?4"
    );
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

#[async_trait]
impl Ledger for SqliteStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        books::check_holds(&holds)?;
        let remembered = Arc::clone(&self.remembered);
        self.writer.write(TakeHolds { holds, remembered }, self.clock.now()).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        books::check_settlements(&settlements)?;
        let remembered = Arc::clone(&self.remembered);
        self.writer.write(SettleHolds { settlements, remembered }, self.clock.now()).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (now, remembered) = (self.clock.now(), Arc::clone(&self.remembered));
        let over = self.read(move |connection| overdue(connection, now, limit)).await?;
        let (charge, forget) = over;
        if charge.is_empty() && forget.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(Expire { charge, forget, remembered }, self.clock.now()).await
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        self.read(move |connection| {
            let balance = |account: Account| {
                let found = row_of(connection, &account)?;
                let standing = found.map(|found| found.standing).unwrap_or_default();
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
        let remembered = Arc::clone(&self.remembered);
        self.writer.write(Prune { before, limit, remembered }, self.clock.now()).await
    }
}
