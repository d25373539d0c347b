//! The ledger.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::archive::NO_ACCOUNT;
use crate::books::{self, Books, OpenHold, Standing};
use crate::clock::millis;
use crate::{
    Account, AccountFilter, Balance, Entry, EntryFilter, EntryId, EntryKind, Held, Hold, LATE,
    Ledger, Record, Settled, Settlement, StoreError, Timestamp,
};

/// The ledger's part of the shelves.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) books: Books,
    pub(super) changed_at: BTreeMap<Account, Timestamp>,
    pub(super) holds: BTreeMap<EntryId, KeptHold>,
    pub(super) entries: BTreeMap<EntryId, Entry>,
}

/// A hold, and what its entry would be.
pub(super) struct KeptHold {
    pub(super) open: OpenHold,
    pub(super) expires_at: Timestamp,
    pub(super) entry: Entry,
}

impl Accounts {
    pub(super) fn is_empty(&self) -> bool {
        self.books.is_empty() && self.holds.is_empty() && self.entries.is_empty()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        let accounts = self.books.all().map(|(account, standing)| Record::Account {
            account: account.clone(),
            spent: standing.spent,
            entries: standing.entries,
            at: self.changed_at.get(account).copied().unwrap_or_default(),
        });
        let holds = self.holds.iter().map(|(id, kept)| {
            let KeptHold { open, expires_at, entry } = kept;
            let (open, subject) = (open.clone(), entry.subject.clone());
            Record::hold(*id, open, *expires_at, subject, entry.body.clone())
        });
        let entries = self.entries.values().map(|entry| Record::entry(entry.clone()));
        accounts.chain(holds).chain(entries)
    }

    /// Takes in a record of the ledger.
    pub(super) fn take(&mut self, record: Record) -> Result<(), StoreError> {
        match record {
            Record::Account { account, spent, entries, at } => {
                self.changed_at.insert(account.clone(), at);
                self.books.open(account, Standing { spent, entries, ..Standing::default() });
            }
            Record::Hold { id, amounts, limited, tallies, charged, expires_at, subject, body } => {
                if !limited.iter().all(|account| self.books.has(account)) {
                    return Err(NO_ACCOUNT);
                }
                let open = OpenHold { amounts, limited, tallies, is_charged: charged };
                self.books.take_up(&open);
                self.books.take_changed();
                let (at, kind) = (Timestamp::default(), EntryKind::Expired);
                let entry = Entry { id, at, kind, subject, amounts, body };
                self.holds.insert(id, KeptHold { open, expires_at, entry });
            }
            Record::Entry { id, at, kind, subject, amounts, body } => {
                self.entries.insert(id, Entry { id, at, kind, subject, amounts, body });
            }
            _ => {}
        }
        Ok(())
    }

    /// Accounts that hold something else than what their holds make together.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut sums = Books::default();
        self.holds.values().for_each(|kept| sums.take_up(&kept.open));
        let held = self.books.all().map(|(account, standing)| (account.clone(), standing.held));
        books::findings(held, sums)
    }

    fn note_changes(&mut self, now: Timestamp) {
        for account in self.books.take_changed() {
            self.changed_at.insert(account, now);
        }
    }

    fn hold(&mut self, hold: Hold, now: Timestamp) -> Held {
        if self.holds.contains_key(&hold.id) || self.entries.contains_key(&hold.id) {
            return self.books.granted(&hold);
        }
        let held = self.books.hold(&hold);
        if matches!(held, Held::Granted(_)) {
            let expires_at = Timestamp(now.0.saturating_add(millis(Some(hold.keep))));
            let Hold { id, amounts, limited, tallies, keep: _, subject, body } = hold;
            let open = OpenHold::new(amounts, limited, tallies);
            let entry = Entry { id, at: now, kind: EntryKind::Expired, subject, amounts, body };
            self.holds.insert(id, KeptHold { open, expires_at, entry });
        }
        held
    }

    fn settle(&mut self, settlement: Settlement, now: Timestamp) -> Settled {
        let (open, subject) = match (self.holds.remove(&settlement.id), &settlement.unheld) {
            (Some(kept), _) => (kept.open, kept.entry.subject),
            (None, Some(unheld)) if !self.entries.contains_key(&settlement.id) => {
                (OpenHold::nothing(), unheld.subject.clone())
            }
            (None, _) => return Settled::Unknown,
        };
        self.books.settle(&open, &settlement);
        let is_charged = open.is_charged;
        if let Some(entry) = books::entry_of(settlement, is_charged, subject, now) {
            self.entries.insert(entry.id, entry);
        }
        if is_charged { Settled::Corrected } else { Settled::Charged }
    }

    fn expire(&mut self, limit: usize, now: Timestamp) -> Vec<Entry> {
        self.holds.retain(|_, kept| !kept.open.is_charged || kept.expires_at > now);
        let mut expired = Vec::new();
        let over = self.holds.values_mut();
        for kept in over.filter(|kept| !kept.open.is_charged && kept.expires_at <= now).take(limit)
        {
            self.books.expire(&kept.open);
            kept.open.is_charged = true;
            kept.expires_at = Timestamp(now.0.saturating_add(millis(Some(LATE))));
            let entry = Entry { at: now, ..kept.entry.clone() };
            self.entries.insert(entry.id, entry.clone());
            expired.push(entry);
        }
        expired
    }

    fn prune(&mut self, before: Timestamp, limit: usize) -> usize {
        let old = self.entries.values().filter(|entry| entry.at < before).map(|entry| entry.id);
        let old: Vec<EntryId> = old.take(limit).collect();
        for id in &old {
            self.entries.remove(id);
        }
        let held = |account: &Account| self.books.standing(account).held;
        let idle = self
            .changed_at
            .iter()
            .filter(|(account, at)| **at < before && held(account) == crate::Amounts::default());
        let idle: Vec<Account> = idle.map(|(account, _)| account.clone()).take(limit).collect();
        for account in &idle {
            self.changed_at.remove(account);
            self.books.remove(account);
        }
        old.len() + idle.len()
    }
}

#[async_trait]
impl Ledger for MemoryStore {
    async fn hold(&self, holds: Vec<Hold>) -> Result<Vec<Held>, StoreError> {
        books::check_holds(&holds)?;
        let (mut shelves, now) = (self.open()?, self.clock.now());
        let held = holds.into_iter().map(|hold| shelves.ledger.hold(hold, now)).collect();
        shelves.ledger.note_changes(now);
        Ok(held)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, StoreError> {
        books::check_settlements(&settlements)?;
        let (mut shelves, now) = (self.open()?, self.clock.now());
        let settle = |settlement| shelves.ledger.settle(settlement, now);
        let settled = settlements.into_iter().map(settle).collect();
        shelves.ledger.note_changes(now);
        Ok(settled)
    }

    async fn expire_holds(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (mut shelves, now) = (self.open()?, self.clock.now());
        let expired = shelves.ledger.expire(limit, now);
        shelves.ledger.note_changes(now);
        Ok(expired)
    }

    async fn balances(&self, accounts: Vec<Account>) -> Result<Vec<Balance>, StoreError> {
        let shelves = self.open()?;
        let balance = |account| shelves.ledger.books.standing(&account).balance(account);
        Ok(accounts.into_iter().map(balance).collect())
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Vec<Balance>, StoreError> {
        let shelves = self.open()?;
        let shown = shelves.ledger.books.all().filter(|(account, _)| {
            account.name.starts_with(&filter.prefix)
                && filter.since.is_none_or(|since| account.since >= since)
                && filter.after.as_ref().is_none_or(|after| *account > after)
        });
        let balances = shown.map(|(account, standing)| standing.balance(account.clone()));
        Ok(balances.take(filter.page_size()).collect())
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        let shelves = self.open()?;
        let shown = shelves.ledger.entries.values().rev().filter(|entry| {
            entry.id >= filter.from()
                && filter.before.is_none_or(|before| entry.id < before)
                && (filter.subject.is_none() || entry.subject == filter.subject)
        });
        Ok(shown.take(filter.page_size()).cloned().collect())
    }

    async fn prune_ledger(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.open()?.ledger.prune(before, limit))
    }
}
