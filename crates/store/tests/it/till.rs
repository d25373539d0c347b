//! What the tests of power cuts and of damage write into a ledger, and what they must find there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Account, Amounts, Archive as _, EntryId, EntryKind, Held, Hold, Ledger as _, Limits, Record,
    Settled, Settlement, SqliteStore, StoreError,
};

use crate::power::{Wrong, say};

/// Who holds and settles; their numbers are none of a run's.
const TELLERS: std::ops::Range<u8> = 200..203;
/// Holds of each in a session.
const HOLDS: u64 = 8;
/// On what everybody holds.
const TILL: &str = "till";

fn id(teller: u8, number: u64) -> EntryId {
    let mut bytes = [teller; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    EntryId::from_bytes(bytes)
}

fn account(name: &str) -> Account {
    Account { name: name.to_owned(), since: 0 }
}

fn own(teller: u8) -> Account {
    account(&format!("teller {teller}"))
}

fn estimated(number: u64) -> Amounts {
    Amounts { tokens: 100 + number, money: 3 }
}

fn used(teller: u8, number: u64) -> Amounts {
    Amounts { tokens: number + u64::from(teller), money: 2 }
}

/// Some holds are never settled.
const fn stays_open(number: u64) -> bool {
    number.is_multiple_of(4)
}

fn body(what: &str, teller: u8, number: u64) -> Bytes {
    format!("{what} {teller} {number} {}", "y".repeat(300)).into()
}

/// Each teller goes on after so many sessions. What is acknowledged is told as if it were the events of a run: two
/// for each hold, the second one once it is settled or needs no settlement.
pub(crate) fn write(
    store: &Arc<SqliteStore>,
    sessions: u64,
    writers: &mut tokio::task::JoinSet<()>,
) {
    for teller in TELLERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for number in sessions * HOLDS + 1..=(sessions + 1) * HOLDS {
                hold_and_settle(&store, teller, number).await;
            }
        });
    }
}

async fn hold_and_settle(store: &SqliteStore, teller: u8, number: u64) {
    let hold = Hold {
        id: id(teller, number),
        amounts: estimated(number),
        limited: vec![(account(TILL), Limits { tokens: Some(1 << 40), money: None })],
        tallies: vec![own(teller)],
        keep: Duration::from_hours(1000),
        subject: Some(format!("{teller}")),
        body: body("estimated", teller, number),
    };
    let held = store.hold(vec![hold]).await.unwrap();
    assert!(matches!(held[..], [Held::Granted(_)]), "{held:?}");
    if !stays_open(number) {
        say(&format!("event {teller} {}", 2 * number - 1));
        let (id, amounts) = (id(teller, number), used(teller, number));
        let body = body("measured", teller, number);
        let settlement = Settlement { id, amounts, tallies: None, body: Some(body), unheld: None };
        assert_eq!(store.settle(vec![settlement]).await.unwrap(), [Settled::Charged]);
    }
    say(&format!("event {teller} {}", 2 * number));
}

/// How far each teller is after so many sessions.
pub(crate) fn everything(sessions: u64) -> impl Iterator<Item = (u8, u64)> {
    TELLERS.map(move |teller| (teller, 2 * sessions * HOLDS))
}

#[derive(Default)]
struct Found {
    open: BTreeSet<EntryId>,
    settled: BTreeSet<EntryId>,
}

/// How far each teller is. What each has done must be there, from the first to the last, and the accounts must
/// be the sums of it.
pub(crate) async fn check(store: &SqliteStore) -> Result<BTreeMap<u8, u64>, Wrong> {
    let not_read = |error: StoreError| Wrong::NotRead(error.to_string());
    let mut found = Found::default();
    let mut dump = store.dump().await.map_err(not_read)?;
    loop {
        let records = dump.next().await.map_err(not_read)?;
        if records.is_empty() {
            break;
        }
        records.into_iter().try_for_each(|record| found.take(record))?;
    }
    let (mut progress, mut till) = (BTreeMap::new(), [Amounts::default(); 2]);
    let mut entries = 0;
    for teller in TELLERS {
        let (last, own_spent, own_entries) = found.follow(teller, &mut till)?;
        entries += own_entries;
        same(store, own(teller), [own_spent, Amounts::default()], own_entries).await?;
        progress.insert(teller, last);
    }
    same(store, account(TILL), till, entries).await?;
    Ok(progress)
}

impl Found {
    /// Notes a hold or an entry; it must be one that was written.
    fn take(&mut self, record: Record) -> Result<(), Wrong> {
        let wrong = |id: EntryId| Wrong::Another(format!("the ledger has another {id}"));
        match record {
            Record::Hold { id, amounts, charged, body: found, .. } => {
                let (teller, number) = written(id).ok_or_else(|| wrong(id))?;
                if amounts != estimated(number)
                    || charged
                    || found != body("estimated", teller, number)
                {
                    return Err(wrong(id));
                }
                self.open.insert(id);
            }
            Record::Entry { id, amounts, kind, body: found, .. } => {
                let (teller, number) = written(id).ok_or_else(|| wrong(id))?;
                if amounts != used(teller, number)
                    || kind != EntryKind::Settled
                    || found != body("measured", teller, number)
                {
                    return Err(wrong(id));
                }
                self.settled.insert(id);
            }
            _ => {}
        }
        Ok(())
    }

    /// How far a teller is, what it has spent and how often. `till` is what all have spent and hold.
    fn follow(&self, teller: u8, till: &mut [Amounts; 2]) -> Result<(u64, Amounts, u64), Wrong> {
        let (mut last, mut spent, mut entries) = (0, Amounts::default(), 0);
        let mut number = 1;
        loop {
            let id = id(teller, number);
            match (self.open.contains(&id), self.settled.contains(&id)) {
                (true, false) => {
                    till[1] = till[1].plus(estimated(number));
                    last = if stays_open(number) { 2 * number } else { 2 * number - 1 };
                }
                (false, true) => {
                    let used = used(teller, number);
                    (till[0], spent) = (till[0].plus(used), spent.plus(used));
                    entries += 1;
                    last = 2 * number;
                }
                (true, true) => return Err(Wrong::Another(format!("{id} is open and settled"))),
                (false, false) => break,
            }
            number += 1;
        }
        let known = self.open.iter().chain(&self.settled).filter_map(|id| written(*id));
        match known.filter(|(of, other)| *of == teller && *other > number).count() {
            0 => Ok((last, spent, entries)),
            more => Err(Wrong::Lost(format!("hold {number} of {teller}, and {more} after it"))),
        }
    }
}

/// Whose hold it is, and the how-manieth.
fn written(of: EntryId) -> Option<(u8, u64)> {
    let bytes = of.as_bytes();
    let number = u64::from_be_bytes(bytes[8..].try_into().ok()?);
    (TELLERS.contains(&bytes[0]) && of == id(bytes[0], number)).then_some((bytes[0], number))
}

async fn same(
    store: &SqliteStore,
    account: Account,
    [spent, held]: [Amounts; 2],
    entries: u64,
) -> Result<(), Wrong> {
    let balances = store.balances(vec![account]).await;
    let balances = balances.map_err(|error| Wrong::NotRead(error.to_string()))?;
    let found = (balances[0].spent, balances[0].held, balances[0].entries);
    if found == (spent, held, entries) {
        return Ok(());
    }
    let name = &balances[0].account.name;
    Err(Wrong::Another(format!("`{name}`: {found:?}, but {spent:?}, {held:?}, {entries} are")))
}
