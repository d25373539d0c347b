//! Amounts that are held before something is done and settled afterwards, over accounts with limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

/// Longest name of an account, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 512;

/// Most accounts that one hold, or one settlement, may name.
pub const HOLD_ACCOUNTS_MAX: usize = 64;

/// Largest record of an entry, in bytes (64 KiB).
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// Largest amount of one hold or settlement: no sum of a thousand of them overflows.
pub const AMOUNT_MAX: u64 = i64::MAX as u64 / 1024;

/// For how long after its hold has expired a late settlement still corrects the books.
pub const LATE: Duration = Duration::from_hours(24);

/// Two amounts kept side by side. This crate only adds them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// The first: tokens.
    pub tokens: u64,
    /// The second: money, in whatever small unit the caller counts.
    pub money: u64,
}

impl Amounts {
    /// Both added; what does not fit stays at the most that is kept.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            money: self.money.saturating_add(other.money),
        }
    }

    /// Both taken away; nothing is below nothing.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            money: self.money.saturating_sub(other.money),
        }
    }
}

/// The most that an account may have spent and held together; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the first amount.
    pub tokens: Option<u64>,
    /// Of the second.
    pub money: Option<u64>,
}

impl Limits {
    /// Whether an amount is within both.
    #[must_use]
    pub fn admit(&self, amounts: Amounts) -> bool {
        self.tokens.is_none_or(|limit| amounts.tokens <= limit)
            && self.money.is_none_or(|limit| amounts.money <= limit)
    }
}

/// An account of one period. Accounts come to be when they are first used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Account {
    /// Its name: without line breaks and zero bytes, at most [`ACCOUNT_BYTES_MAX`].
    pub name: String,
    /// When its period began, in milliseconds since 1970; 0 for one without periods.
    pub since: i64,
}

/// How an account stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The account.
    pub account: Account,
    /// What has been settled.
    pub spent: Amounts,
    /// What is held.
    pub held: Amounts,
    /// How many settlements it has.
    pub entries: u64,
}

/// Names a hold, and the entry that it becomes. UUID version 7: sorts by the time it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(Uuid);

impl EntryId {
    /// A new id, later than every id made before on this machine.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The smallest id that can have been made at a time.
    pub(crate) fn earliest(at: Timestamp) -> Self {
        Self::from_bytes(*crate::RunId::earliest(at).as_bytes())
    }

    /// The id as 16 bytes, in sort order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for EntryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// Asks to hold an amount on accounts: on all of them or on none.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Its name. Holding again under a name that is held already changes nothing.
    pub id: EntryId,
    /// How much.
    pub amounts: Amounts,
    /// The accounts that it must fit into, each with its limits.
    pub limited: Vec<(Account, Limits)>,
    /// Accounts that are charged with what is settled, whatever they hold.
    pub tallies: Vec<Account>,
    /// After how long it is charged in full, unless it has been settled by then.
    pub keep: Duration,
    /// What its entry is found by.
    pub subject: Option<String>,
    /// The record of its entry, should it never be settled. Opaque here.
    pub body: Bytes,
}

/// What became of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is held: how its limited accounts stand with it, in their order.
    Granted(Vec<Balance>),
    /// Nothing is held.
    Refused {
        /// Which of the limited accounts has no room.
        place: usize,
        /// How that account stands.
        balance: Balance,
    },
}

/// Ends a hold with what was really used. It may be more than was held, and is charged all the same.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The hold.
    pub id: EntryId,
    /// What was used.
    pub amounts: Amounts,
    /// The accounts to be charged beside the limited ones, if others than the hold named.
    pub tallies: Option<Vec<Account>>,
    /// The record of its entry, opaque here. `None` if nothing was done after all: there is no entry then.
    pub body: Option<Bytes>,
    /// Charges also if nothing was ever held under this name, because there is no limit to keep.
    pub unheld: Option<Unheld>,
}

/// What is charged though nothing was held for it.
#[derive(Clone, Debug, Default)]
pub struct Unheld {
    /// What its entry is found by.
    pub subject: Option<String>,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The accounts are charged.
    Charged,
    /// The hold had expired and been charged in full; that has been put right.
    Corrected,
    /// There is no such hold (any more): it has been settled before, or expired more than [`LATE`] ago.
    Unknown,
}

/// How an entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// By a settlement.
    Settled,
    /// Its hold expired.
    Expired,
}

/// What was charged once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// When it was charged, or last put right.
    pub at: Timestamp,
    /// How it came to be.
    pub kind: EntryKind,
    /// What it is found by.
    pub subject: Option<String>,
    /// How much.
    pub amounts: Amounts,
    /// Its record, opaque here.
    pub body: Bytes,
}

/// Which entries a list shows, newest first.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Only those found by this.
    pub subject: Option<String>,
    /// Only those before this one: the cursor that the page before ended with.
    pub before: Option<EntryId>,
    /// Only those held at this time or later.
    pub since: Option<Timestamp>,
    /// Rows on a page; 0 means 100, and more than 1000 means 1000.
    pub limit: usize,
}

/// Which accounts a list shows, by name and period.
#[derive(Clone, Debug, Default)]
pub struct AccountFilter {
    /// Only names that begin so.
    pub prefix: String,
    /// Only periods that began at this time or later.
    pub since: Option<i64>,
    /// Only accounts after this one: the cursor that the page before ended with.
    pub after: Option<Account>,
    /// Rows on a page; 0 means 100, and more than 1000 means 1000.
    pub limit: usize,
}

/// Rows on a page, with the default and the limit applied.
const fn page_size(limit: usize) -> usize {
    match limit {
        0 => 100,
        1..=1000 => limit,
        _ => 1000,
    }
}

impl EntryFilter {
    /// Rows on a page, with the default and the limit applied.
    pub(crate) const fn page_size(&self) -> usize {
        page_size(self.limit)
    }

    /// The smallest id that is shown.
    pub(crate) fn from(&self) -> EntryId {
        EntryId::earliest(self.since.unwrap_or_default())
    }
}

impl AccountFilter {
    /// Rows on a page, with the default and the limit applied.
    pub(crate) const fn page_size(&self) -> usize {
        page_size(self.limit)
    }
}
