//! How holds and settlements change accounts, as pure rules: every backend loads the accounts that a
//! transaction is about, applies these, and writes back what has changed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ledger::{ACCOUNT_BYTES_MAX, AMOUNT_MAX, ENTRY_BYTES_MAX, HOLD_ACCOUNTS_MAX};
use crate::rules::misuse;
use crate::{
    Account, Amounts, Balance, Entry, EntryKind, Held, Hold, Limits, Settlement, StoreError,
    Timestamp,
};

/// What of holds can be refused without looking at the store.
pub(crate) fn check_holds(holds: &[Hold]) -> Result<(), StoreError> {
    holds.iter().try_for_each(|hold| {
        let limited = hold.limited.iter().map(|(account, _)| account);
        check_accounts(limited.chain(&hold.tallies))?;
        if hold.limited.len() + hold.tallies.len() > HOLD_ACCOUNTS_MAX {
            return Err(misuse("a hold names more accounts than the store takes (64)"));
        }
        check_amounts(hold.amounts, hold.body.len())?;
        check_subject(hold.subject.as_ref())
    })
}

/// What of settlements can be refused without looking at the store.
pub(crate) fn check_settlements(settlements: &[Settlement]) -> Result<(), StoreError> {
    settlements.iter().try_for_each(|settlement| {
        check_accounts(settlement.tallies.iter().flatten())?;
        if settlement.tallies.as_ref().is_some_and(|tallies| tallies.len() > HOLD_ACCOUNTS_MAX) {
            return Err(misuse("a settlement names more accounts than the store takes (64)"));
        }
        check_subject(settlement.unheld.as_ref().and_then(|unheld| unheld.subject.as_ref()))?;
        check_amounts(settlement.amounts, settlement.body.as_ref().map_or(0, Bytes::len))
    })
}

fn check_subject(subject: Option<&String>) -> Result<(), StoreError> {
    match subject {
        Some(subject) if subject.is_empty() || subject.len() > ACCOUNT_BYTES_MAX => {
            Err(misuse("the subject of an entry must have 1 to 512 bytes"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_accounts<'a>(
    accounts: impl Iterator<Item = &'a Account>,
) -> Result<(), StoreError> {
    for Account { name, .. } in accounts {
        if name.is_empty() || name.len() > ACCOUNT_BYTES_MAX {
            return Err(misuse("the name of an account must have 1 to 512 bytes"));
        }
        if name.bytes().any(|byte| byte == b'\n' || byte == 0) {
            return Err(misuse("the name of an account must not hold a line break or a zero byte"));
        }
    }
    Ok(())
}

pub(crate) const fn check_amounts(amounts: Amounts, body_bytes: usize) -> Result<(), StoreError> {
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
    pub(crate) fn new(
        amounts: Amounts,
        named: Vec<(Account, Limits)>,
        tallies: Vec<Account>,
    ) -> Self {
        let mut limited = Vec::with_capacity(named.len());
        for (account, _) in named {
            if !limited.contains(&account) {
                limited.push(account);
            }
        }
        Self { amounts, limited, tallies, is_charged: false }
    }

    /// What is settled without having been held.
    pub(crate) fn nothing() -> Self {
        Self::new(Amounts::default(), Vec::new(), Vec::new())
    }

    /// Every account that its end is about; one may come twice.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> + Clone {
        self.limited.iter().chain(&self.tallies)
    }

    /// What it holds on each of its limited accounts: nothing any more once it has been charged.
    pub(crate) fn held(&self) -> Amounts {
        if self.is_charged { Amounts::default() } else { self.amounts }
    }
}

/// Each account once. They are few.
fn once<'a>(
    accounts: impl Iterator<Item = &'a Account> + Clone,
) -> impl Iterator<Item = &'a Account> {
    let all = accounts.clone();
    let is_first = move |(place, account): &(usize, &Account)| {
        !all.clone().take(*place).any(|earlier| earlier == *account)
    };
    accounts.enumerate().filter(is_first).map(|(_, account)| account)
}

/// The accounts with limits of a hold, each once.
pub(crate) fn limited(hold: &Hold) -> impl Iterator<Item = &Account> {
    once(hold.limited.iter().map(|(account, _)| account))
}

/// The entry that a settlement leaves: none if nothing was done, unless its hold has left one already, whose
/// record is empty then.
pub(crate) fn entry_of(
    settlement: Settlement,
    is_charged: bool,
    subject: Option<String>,
    at: Timestamp,
) -> Option<Entry> {
    let Settlement { id, amounts, tallies: _, body, unheld: _ } = settlement;
    let body = body.or_else(|| is_charged.then(Bytes::new))?;
    Some(Entry { id, at, kind: EntryKind::Settled, subject, amounts, body })
}

/// Accounts as a column: a line each.
pub(crate) fn to_column<'a>(accounts: impl IntoIterator<Item = &'a Account>) -> String {
    let mut column = String::new();
    for Account { name, since } in accounts {
        if !column.is_empty() {
            column.push('\n');
        }
        column.push_str(&since.to_string());
        column.push(' ');
        column.push_str(name);
    }
    column
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

#[derive(Debug, Default)]
struct Line {
    standing: Standing,
    is_changed: bool,
    /// The number of its row, in a store that numbers them; none if it has no row yet.
    row: Option<i64>,
}

/// The accounts that a transaction is about. One that is not there has nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Books {
    lines: BTreeMap<Account, Line>,
    changed: Vec<Account>,
}

impl Books {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn has(&self, account: &Account) -> bool {
        self.lines.contains_key(account)
    }

    /// Takes an account in as it has been read.
    pub(crate) fn open(&mut self, account: Account, standing: Standing) {
        self.open_row(account, standing, None);
    }

    pub(crate) fn open_row(&mut self, account: Account, standing: Standing, row: Option<i64>) {
        self.lines.insert(account, Line { standing, is_changed: false, row });
    }

    pub(crate) fn row(&self, account: &Account) -> Option<i64> {
        self.lines.get(account)?.row
    }

    pub(crate) fn has_row(&mut self, account: &Account, row: i64) {
        if let Some(line) = self.lines.get_mut(account) {
            line.row = Some(row);
        }
    }

    pub(crate) fn remove(&mut self, account: &Account) {
        self.lines.remove(account);
    }

    pub(crate) fn standing(&self, account: &Account) -> Standing {
        self.lines.get(account).map(|line| line.standing).unwrap_or_default()
    }

    /// By name and period.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Account, Standing)> {
        self.lines.iter().map(|(account, line)| (account, line.standing))
    }

    /// What is to be written back.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&Account, Standing)> {
        self.changed.iter().map(|account| (account, self.standing(account)))
    }

    /// The accounts that have changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Vec<Account> {
        let changed = std::mem::take(&mut self.changed);
        for account in &changed {
            if let Some(line) = self.lines.get_mut(account) {
                line.is_changed = false;
            }
        }
        changed
    }

    fn change(&mut self, account: &Account, change: impl FnOnce(&mut Standing)) {
        let line = match self.lines.get_mut(account) {
            Some(line) => line,
            None => self.lines.entry(account.clone()).or_default(),
        };
        change(&mut line.standing);
        if !line.is_changed {
            line.is_changed = true;
            self.changed.push(account.clone());
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
        for account in limited(hold) {
            self.hold_on(account, hold.amounts);
        }
        self.granted(hold)
    }

    /// Takes up a hold that was granted before.
    pub(crate) fn take_up(&mut self, open: &OpenHold) {
        for account in once(open.limited.iter()) {
            self.hold_on(account, open.held());
        }
    }

    /// Holds on one account, whatever there is.
    pub(crate) fn hold_on(&mut self, account: &Account, amounts: Amounts) {
        self.change(account, |standing| standing.held = standing.held.plus(amounts));
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
            for account in once(open.accounts()) {
                self.change(account, |standing| {
                    standing.spent = standing.spent.minus(open.amounts);
                    standing.entries = standing.entries.saturating_sub(1);
                });
            }
        }
        // A hold that has been charged left an entry, which stays.
        let entries = u64::from(open.is_charged || settlement.body.is_some());
        self.end(open, settlement.amounts, tallies, entries);
    }

    fn end(&mut self, open: &OpenHold, used: Amounts, tallies: &[Account], entries: u64) {
        let (limited, held) = (once(open.limited.iter()).count(), open.held());
        for (place, account) in once(open.limited.iter().chain(tallies)).enumerate() {
            self.change(account, |standing| {
                if place < limited {
                    standing.held = standing.held.minus(held);
                }
                standing.spent = standing.spent.plus(used);
                standing.entries = standing.entries.saturating_add(entries);
            });
        }
    }
}

/// Most accounts that are told about.
pub(crate) const FINDINGS_MAX: usize = 100;

/// What is said about an account that holds something else than its holds make together.
pub(crate) fn finding(account: &Account, held: Amounts, sum: Amounts) -> String {
    format!(
        "the account `{}` of the period {} holds {} and {}, and its open holds make {} and {}: export \
         the store and import it into a new one, which adds them up anew",
        account.name, account.since, held.tokens, held.money, sum.tokens, sum.money
    )
}

/// Compares what accounts hold with the sums of their holds.
pub(crate) fn findings(
    held: impl Iterator<Item = (Account, Amounts)>,
    mut sums: Books,
) -> Vec<String> {
    let mut found = Vec::new();
    for (account, held) in held {
        let sum = sums.standing(&account).held;
        sums.remove(&account);
        if sum != held && found.len() < FINDINGS_MAX {
            found.push(finding(&account, held, sum));
        }
    }
    let missing = sums.all().filter(|(_, standing)| standing.held != Amounts::default());
    let missing = missing.map(|(account, sum)| finding(account, Amounts::default(), sum.held));
    found.extend(missing.take(FINDINGS_MAX));
    found
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
