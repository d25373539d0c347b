//! How holds and settlements change accounts, as pure rules: every backend loads the accounts that a
//! transaction is about, applies these, and writes back what has changed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ledger::{ACCOUNT_BYTES_MAX, AMOUNT_MAX, ENTRY_BYTES_MAX};
use crate::rules::misuse;
use crate::{
    Account, Amounts, Balance, Entry, EntryKind, Held, Hold, Settlement, StoreError, Timestamp,
};

/// What of holds can be refused without looking at the store.
pub(crate) fn check_holds(holds: &[Hold]) -> Result<(), StoreError> {
    holds.iter().try_for_each(|hold| {
        let limited = hold.limited.iter().map(|(account, _)| account);
        check_accounts(limited.chain(&hold.tallies))?;
        check_amounts(hold.amounts, hold.body.len())?;
        match &hold.subject {
            Some(subject) if subject.is_empty() || subject.len() > ACCOUNT_BYTES_MAX => {
                Err(misuse("the subject of an entry must have 1 to 512 bytes"))
            }
            _ => Ok(()),
        }
    })
}

/// What of settlements can be refused without looking at the store.
pub(crate) fn check_settlements(settlements: &[Settlement]) -> Result<(), StoreError> {
    settlements.iter().try_for_each(|settlement| {
        check_accounts(settlement.tallies.iter().flatten())?;
        check_amounts(settlement.amounts, settlement.body.as_ref().map_or(0, Bytes::len))
    })
}

fn check_accounts<'a>(accounts: impl Iterator<Item = &'a Account>) -> Result<(), StoreError> {
    for Account { name, .. } in accounts {
        if name.is_empty() || name.len() > ACCOUNT_BYTES_MAX {
            return Err(misuse("the name of an account must have 1 to 512 bytes"));
        }
        if name.contains(['\n', '\0']) {
            return Err(misuse("the name of an account must not hold a line break or a zero byte"));
        }
    }
    Ok(())
}

const fn check_amounts(amounts: Amounts, body_bytes: usize) -> Result<(), StoreError> {
    if amounts.tokens > AMOUNT_MAX || amounts.money > AMOUNT_MAX {
        return Err(misuse("an amount of the ledger is larger than any real one"));
    }
    if body_bytes > ENTRY_BYTES_MAX {
        return Err(misuse("the record of an entry is larger than the store keeps"));
    }
    Ok(())
}

/// A hold as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenHold {
    pub(crate) amounts: Amounts,
    pub(crate) limited: Vec<Account>,
    pub(crate) tallies: Vec<Account>,
    /// Whether it has expired and been charged in full.
    pub(crate) is_charged: bool,
}

impl OpenHold {
    pub(crate) fn of(hold: &Hold) -> Self {
        let limited: BTreeSet<_> = hold.limited.iter().map(|(account, _)| account).collect();
        Self {
            amounts: hold.amounts,
            limited: limited.into_iter().cloned().collect(),
            tallies: hold.tallies.clone(),
            is_charged: false,
        }
    }

    /// Every account that its end is about.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.limited.iter().chain(&self.tallies)
    }
}

/// The entry that a settlement leaves: none if nothing was done, unless its hold has left one already.
pub(crate) fn entry_of(
    settlement: Settlement,
    is_charged: bool,
    (subject, body): (Option<String>, Bytes),
    at: Timestamp,
) -> Option<Entry> {
    let Settlement { id, amounts, tallies: _, body: told } = settlement;
    let body = told.or_else(|| is_charged.then_some(body))?;
    Some(Entry { id, at, kind: EntryKind::Settled, subject, amounts, body })
}

/// Accounts as a column: a line each.
pub(crate) fn to_column(accounts: &[Account]) -> String {
    let lines = accounts.iter().map(|account| format!("{} {}", account.since, account.name));
    lines.collect::<Vec<_>>().join("\n")
}

/// The accounts in a column; `None` if it is damaged.
pub(crate) fn from_column(column: &str) -> Option<Vec<Account>> {
    let account = |line: &str| {
        let (since, name) = line.split_once(' ')?;
        Some(Account { since: since.parse().ok()?, name: name.to_owned() })
    };
    column.split('\n').filter(|line| !line.is_empty()).map(account).collect()
}

/// What an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) spent: Amounts,
    pub(crate) held: Amounts,
    pub(crate) entries: u64,
}

impl Standing {
    pub(crate) fn balance(self, account: Account) -> Balance {
        let Self { spent, held, entries } = self;
        Balance { account, spent, held, entries }
    }
}

/// The accounts that a transaction is about. One that is not there has nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) standings: BTreeMap<Account, Standing>,
    pub(crate) changed: BTreeSet<Account>,
}

impl Books {
    pub(crate) fn standing(&self, account: &Account) -> Standing {
        self.standings.get(account).copied().unwrap_or_default()
    }

    fn change(&mut self, account: &Account, change: impl FnOnce(&mut Standing)) {
        change(self.standings.entry(account.clone()).or_default());
        if !self.changed.contains(account) {
            self.changed.insert(account.clone());
        }
    }

    /// Holds, if there is room everywhere.
    pub(crate) fn hold(&mut self, hold: &Hold) -> Held {
        for (place, (account, limits)) in hold.limited.iter().enumerate() {
            let standing = self.standing(account);
            if !limits.admit(standing.spent.plus(standing.held).plus(hold.amounts)) {
                return Held::Refused { place, balance: standing.balance(account.clone()) };
            }
        }
        for account in &OpenHold::of(hold).limited {
            self.change(account, |standing| standing.held = standing.held.plus(hold.amounts));
        }
        self.granted(hold)
    }

    /// How the limited accounts of a hold stand.
    pub(crate) fn granted(&self, hold: &Hold) -> Held {
        let balances = hold.limited.iter().map(|(account, _)| {
            let standing = self.standing(account);
            standing.balance(account.clone())
        });
        Held::Granted(balances.collect())
    }

    /// Charges a hold in full, because its time is over.
    pub(crate) fn expire(&mut self, open: &OpenHold) {
        self.end(open, open.amounts, &open.tallies, 1);
    }

    /// Charges what was used, and takes back what was charged or held before.
    pub(crate) fn settle(&mut self, open: &OpenHold, settlement: &Settlement) {
        let tallies = settlement.tallies.as_ref().unwrap_or(&open.tallies);
        if open.is_charged {
            for account in open.accounts() {
                self.change(account, |standing| {
                    standing.spent = standing.spent.minus(open.amounts);
                    standing.entries = standing.entries.saturating_sub(1);
                });
            }
            let nothing = OpenHold { amounts: Amounts::default(), ..open.clone() };
            self.end(&nothing, settlement.amounts, tallies, 1);
        } else {
            self.end(open, settlement.amounts, tallies, u64::from(settlement.body.is_some()));
        }
    }

    fn end(&mut self, open: &OpenHold, used: Amounts, tallies: &[Account], entries: u64) {
        for account in &open.limited {
            self.change(account, |standing| standing.held = standing.held.minus(open.amounts));
        }
        let charged: BTreeSet<&Account> = open.limited.iter().chain(tallies).collect();
        for account in charged {
            self.change(account, |standing| {
                standing.spent = standing.spent.plus(used);
                standing.entries = standing.entries.saturating_add(entries);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_survive_their_column() {
        let account = |name: &str, since| Account { name: name.to_owned(), since };
        let accounts = vec![account("tenant:a b/day", 86_400_000), account("é", -5)];
        assert_eq!(from_column(&to_column(&accounts)), Some(accounts));
        assert_eq!(from_column(""), Some(Vec::new()));
        assert_eq!(from_column("x y"), None);
    }
}
