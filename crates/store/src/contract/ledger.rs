//! Checks of [`Ledger`](crate::Ledger).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Outcome, assert_refused};
use crate::{
    AMOUNT_MAX, Account, AccountFilter, Amounts, Balance, ENTRY_BYTES_MAX, EntryFilter, EntryId,
    EntryKind, HOLD_ACCOUNTS_MAX, Held, Hold, Limits, Settled, Settlement, Store, StoreError,
    Timestamp, Unheld,
};

const HOUR: Duration = Duration::from_hours(1);

fn account(name: &str) -> Account {
    Account { name: name.to_owned(), since: 0 }
}

const fn both(tokens: u64, money: u64) -> Amounts {
    Amounts { tokens, money }
}

fn tokens(limit: u64) -> Limits {
    Limits { tokens: Some(limit), money: None }
}

/// A hold of some tokens on an account with a limit.
fn hold(name: &str, amount: u64, limit: u64) -> Hold {
    Hold {
        id: EntryId::generate(),
        amounts: both(amount, 10 * amount),
        limited: vec![(account(name), tokens(limit))],
        tallies: Vec::new(),
        keep: HOUR,
        subject: None,
        body: Bytes::from_static(b"estimated"),
    }
}

fn settlement(id: EntryId, amount: u64) -> Settlement {
    let body = Some(Bytes::from_static(b"measured"));
    Settlement { id, amounts: both(amount, 10 * amount), tallies: None, body, unheld: None }
}

/// What an account has spent and holds, in tokens.
async fn standing(store: &dyn Store, name: &str) -> Result<(u64, u64), StoreError> {
    let balances = store.balances(vec![account(name)]).await?;
    assert_eq!(balances[0].spent.money, 10 * balances[0].spent.tokens);
    assert_eq!(balances[0].held.money, 10 * balances[0].held.tokens);
    Ok((balances[0].spent.tokens, balances[0].held.tokens))
}

async fn is_granted(store: &dyn Store, hold: Hold) -> Result<bool, StoreError> {
    let held = store.hold(vec![hold]).await?;
    Ok(matches!(held[..], [Held::Granted(_)]))
}

pub async fn g9_what_is_held_and_spent_stays_within_the_limit(store: Arc<dyn Store>) -> Outcome {
    let first = hold("acme", 60, 100);
    let with =
        Balance { account: account("acme"), spent: both(0, 0), held: both(60, 600), entries: 0 };
    assert_eq!(store.hold(vec![first.clone()]).await?, [Held::Granted(vec![with.clone()])]);
    let refused = store.hold(vec![hold("acme", 41, 100)]).await?;
    assert_eq!(refused, [Held::Refused { place: 0, balance: with }]);
    assert!(is_granted(&*store, hold("acme", 40, 100)).await?);
    assert_eq!(store.settle(vec![settlement(first.id, 20)]).await?, [Settled::Charged]);
    assert_eq!(standing(&*store, "acme").await?, (20, 40));
    assert!(!is_granted(&*store, hold("acme", 41, 100)).await?);
    assert!(is_granted(&*store, hold("acme", 40, 100)).await?);
    Ok(())
}

pub async fn g9_a_hold_is_on_all_of_its_accounts_or_on_none(store: Arc<dyn Store>) -> Outcome {
    let of = |amount, agent_limit| Hold {
        limited: vec![
            (account("tenant"), Limits { tokens: Some(100), money: Some(1000) }),
            (account("agent"), tokens(agent_limit)),
        ],
        ..hold("", amount, 0)
    };
    assert!(is_granted(&*store, of(30, 50)).await?);
    let refused = store.hold(vec![of(30, 50), of(10, 50), of(1, 10)]).await?;
    assert!(matches!(&refused[0], Held::Refused { place: 1, .. }), "{refused:?}");
    assert!(matches!(&refused[1], Held::Granted(balances) if balances.len() == 2), "{refused:?}");
    assert!(matches!(&refused[2], Held::Refused { place: 1, .. }), "{refused:?}");
    assert_eq!(standing(&*store, "tenant").await?, (0, 40));
    assert_eq!(standing(&*store, "agent").await?, (0, 40));
    // The other amount has a limit, too.
    let dear = Hold { amounts: both(1, 601), ..of(1, 50) };
    assert!(!is_granted(&*store, dear).await?);
    Ok(())
}

pub async fn g9_holding_and_settling_again_changes_nothing(store: Arc<dyn Store>) -> Outcome {
    let once = hold("acme", 30, 100);
    assert!(is_granted(&*store, once.clone()).await?);
    assert!(is_granted(&*store, once.clone()).await?);
    assert_eq!(standing(&*store, "acme").await?, (0, 30));
    let twice = vec![settlement(once.id, 20), settlement(once.id, 25)];
    assert_eq!(store.settle(twice).await?, [Settled::Charged, Settled::Unknown]);
    assert!(is_granted(&*store, once.clone()).await?);
    assert_eq!(store.settle(vec![settlement(once.id, 20)]).await?, [Settled::Unknown]);
    assert_eq!(store.settle(vec![settlement(EntryId::generate(), 1)]).await?, [Settled::Unknown]);
    assert_eq!(standing(&*store, "acme").await?, (20, 0));
    Ok(())
}

pub async fn g9_a_hold_that_nothing_was_done_under_leaves_nothing(
    store: Arc<dyn Store>,
) -> Outcome {
    let unused = Hold { tallies: vec![account("model")], ..hold("acme", 30, 100) };
    store.hold(vec![unused.clone()]).await?;
    let released = Settlement { body: None, ..settlement(unused.id, 0) };
    assert_eq!(store.settle(vec![released.clone()]).await?, [Settled::Charged]);
    assert_eq!(store.settle(vec![released]).await?, [Settled::Unknown]);
    assert_eq!(standing(&*store, "acme").await?, (0, 0));
    let balances = store.balances(vec![account("acme"), account("model")]).await?;
    assert_eq!((balances[0].entries, balances[1].entries), (0, 0));
    assert_eq!(store.entries(EntryFilter::default()).await?, []);
    Ok(())
}

pub async fn p10_what_no_limit_is_on_is_charged_once_without_a_hold(
    store: Arc<dyn Store>,
) -> Outcome {
    let unheld = |amount| Settlement {
        tallies: Some(vec![account("model")]),
        unheld: Some(Unheld { subject: Some("run 1".to_owned()) }),
        ..settlement(EntryId::generate(), amount)
    };
    let (one, two) = (unheld(7), unheld(5));
    let settled = store.settle(vec![one.clone(), two, one.clone()]).await?;
    assert_eq!(settled, [Settled::Charged, Settled::Charged, Settled::Unknown]);
    assert_eq!(store.settle(vec![one]).await?, [Settled::Unknown]);
    assert_eq!(standing(&*store, "model").await?, (12, 0));
    let subject = Some("run 1".to_owned());
    let entries = store.entries(EntryFilter { subject, ..EntryFilter::default() }).await?;
    assert_eq!(entries.iter().map(|entry| entry.amounts.tokens).collect::<Vec<_>>(), [5, 7]);
    Ok(())
}

pub async fn g9_more_than_was_held_is_charged_all_the_same(store: Arc<dyn Store>) -> Outcome {
    let small = hold("acme", 30, 40);
    assert!(is_granted(&*store, small.clone()).await?);
    store.settle(vec![settlement(small.id, 50)]).await?;
    assert_eq!(standing(&*store, "acme").await?, (50, 0));
    assert!(!is_granted(&*store, hold("acme", 0, 40)).await?);
    Ok(())
}

pub async fn g9_what_is_not_settled_in_time_is_charged_in_full(store: Arc<dyn Store>) -> Outcome {
    let short = Hold {
        keep: Duration::from_millis(20),
        subject: Some("run 1".to_owned()),
        tallies: vec![account("model")],
        ..hold("acme", 30, 100)
    };
    let long = hold("acme", 5, 100);
    store.hold(vec![short.clone(), long.clone()]).await?;
    assert_eq!(store.expire_holds(10).await?, []);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let expired = store.expire_holds(10).await?;
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].id, expired[0].kind), (short.id, EntryKind::Expired));
    assert_eq!((expired[0].amounts, &expired[0].body[..]), (both(30, 300), &b"estimated"[..]));
    assert_eq!(store.expire_holds(10).await?, []);
    assert_eq!(standing(&*store, "acme").await?, (30, 5));
    assert_eq!(standing(&*store, "model").await?, (30, 0));
    // Usage that comes late puts it right, once.
    let late = vec![settlement(short.id, 12), settlement(long.id, 5), settlement(short.id, 12)];
    let settled = store.settle(late).await?;
    assert_eq!(settled, [Settled::Corrected, Settled::Charged, Settled::Unknown]);
    assert_eq!(standing(&*store, "acme").await?, (17, 0));
    assert_eq!(standing(&*store, "model").await?, (12, 0));
    let entries = store.entries(EntryFilter { subject: short.subject, ..EntryFilter::default() });
    let entries = entries.await?;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].kind, entries[0].amounts), (EntryKind::Settled, both(12, 120)));
    assert_eq!(&entries[0].body[..], b"measured");
    Ok(())
}

pub async fn p10_tallies_are_charged_without_a_limit(store: Arc<dyn Store>) -> Outcome {
    let tallied =
        Hold { tallies: vec![account("model a"), account("acme")], ..hold("acme", 30, 100) };
    store.hold(vec![tallied.clone()]).await?;
    assert_eq!(standing(&*store, "model a").await?, (0, 0));
    // Another model has answered.
    let tallies = Some(vec![account("model b"), account("acme")]);
    let settled = Settlement { tallies, ..settlement(tallied.id, 7) };
    store.settle(vec![settled]).await?;
    assert_eq!(standing(&*store, "model a").await?, (0, 0));
    assert_eq!(standing(&*store, "model b").await?, (7, 0));
    assert_eq!(standing(&*store, "acme").await?, (7, 0));
    let balances = store.balances(vec![account("acme"), account("model b")]).await?;
    assert_eq!((balances[0].entries, balances[1].entries), (1, 1));
    Ok(())
}

pub async fn g9_an_account_that_is_named_twice_is_put_right_once(store: Arc<dyn Store>) -> Outcome {
    let before = hold("acme", 40, 100);
    let twice = Hold {
        limited: vec![(account("acme"), tokens(100)), (account("acme"), tokens(90))],
        tallies: vec![account("acme"), account("model"), account("model")],
        keep: Duration::from_millis(20),
        ..hold("", 30, 0)
    };
    store.hold(vec![before.clone(), twice.clone()]).await?;
    assert_eq!(standing(&*store, "acme").await?, (0, 70));
    store.settle(vec![settlement(before.id, 40)]).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.expire_holds(10).await?.len(), 1);
    assert_eq!(standing(&*store, "acme").await?, (70, 0));
    assert_eq!(store.settle(vec![settlement(twice.id, 10)]).await?, [Settled::Corrected]);
    assert_eq!(standing(&*store, "acme").await?, (50, 0));
    assert_eq!(standing(&*store, "model").await?, (10, 0));
    let balances = store.balances(vec![account("acme"), account("model")]).await?;
    assert_eq!((balances[0].entries, balances[1].entries), (2, 1));
    Ok(())
}

pub async fn accounts_and_entries_are_listed_page_by_page(store: Arc<dyn Store>) -> Outcome {
    let mut ids = Vec::new();
    for (name, since) in [("a/1", 1), ("a/1", 5), ("a_2", 5), ("b", 5), ("ä", 0)] {
        let limited = vec![(Account { name: name.to_owned(), since }, Limits::default())];
        let subject = Some(if since == 5 { "five" } else { "other" }.to_owned());
        let one = Hold { limited, subject, ..hold("", 3, 0) };
        ids.push(one.id);
        store.hold(vec![one.clone()]).await?;
        store.settle(vec![settlement(one.id, 3)]).await?;
    }
    let of = |prefix: &str, since, limit| AccountFilter {
        prefix: prefix.to_owned(),
        since,
        after: None,
        limit,
    };
    let names = |filter: AccountFilter| {
        let store = Arc::clone(&store);
        async move {
            let found = store.accounts(filter).await?;
            let names = found.iter().map(|one| (one.account.name.clone(), one.account.since));
            Ok::<_, StoreError>(names.collect::<Vec<_>>())
        }
    };
    let owned = |pairs: &[(&str, i64)]| {
        pairs.iter().map(|(name, since)| ((*name).to_owned(), *since)).collect::<Vec<_>>()
    };
    assert_eq!(
        names(of("", None, 0)).await?,
        owned(&[("a/1", 1), ("a/1", 5), ("a_2", 5), ("b", 5), ("ä", 0)])
    );
    assert_eq!(names(of("a/", Some(2), 0)).await?, owned(&[("a/1", 5)]));
    let after = Some(Account { name: "a/1".to_owned(), since: 1 });
    let next = AccountFilter { after, ..of("a", None, 2) };
    assert_eq!(names(next).await?, owned(&[("a/1", 5), ("a_2", 5)]));
    let page = store.entries(EntryFilter { limit: 2, ..EntryFilter::default() }).await?;
    assert_eq!(page.iter().map(|entry| entry.id).collect::<Vec<_>>(), [ids[4], ids[3]]);
    let before = Some(page[1].id);
    let five = Some("five".to_owned());
    let page =
        store.entries(EntryFilter { before, subject: five, ..EntryFilter::default() }).await?;
    assert_eq!(page.iter().map(|entry| entry.id).collect::<Vec<_>>(), [ids[2], ids[1]]);
    let since = Some(Timestamp(store.now().0 + 60_000));
    assert_eq!(store.entries(EntryFilter { since, ..EntryFilter::default() }).await?, []);
    Ok(())
}

pub async fn of_many_holds_at_once_only_as_many_as_fit_are_granted(
    store: Arc<dyn Store>,
) -> Outcome {
    let mut tasks = JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let holds = vec![hold("race", 7, 100), hold("race", 3, 100)];
            let ids = [holds[0].id, holds[1].id];
            let held = store.hold(holds).await?;
            let mut taken = 0;
            for (id, (held, amount)) in ids.into_iter().zip(held.iter().zip([7, 3])) {
                if !matches!(held, Held::Granted(_)) {
                    continue;
                }
                taken += amount;
                if number % 2 == 0 {
                    store.settle(vec![settlement(id, amount)]).await?;
                }
            }
            Ok::<u64, StoreError>(taken)
        });
    }
    let mut taken = 0;
    while let Some(one) = tasks.join_next().await {
        taken += one.unwrap_or(Ok(0))?;
        let (spent, held) = standing(&*store, "race").await?;
        assert!(spent + held <= 100, "{spent} + {held}");
    }
    let (spent, held) = standing(&*store, "race").await?;
    assert_eq!(spent + held, taken);
    assert!((94..=100).contains(&taken), "{taken}");
    Ok(())
}

pub async fn what_is_old_is_pruned_unless_it_holds_something(store: Arc<dyn Store>) -> Outcome {
    let (ended, open) = (hold("ended", 3, 10), hold("open", 3, 10));
    store.hold(vec![ended.clone(), open.clone()]).await?;
    store.settle(vec![settlement(ended.id, 3)]).await?;
    assert_eq!(store.prune_ledger(Timestamp(store.now().0 - 60_000), 100).await?, 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let pruned = store.prune_ledger(store.now(), 100).await?;
    assert_eq!(pruned, 2, "the entry and its account");
    assert_eq!(standing(&*store, "ended").await?, (0, 0));
    assert_eq!(standing(&*store, "open").await?, (0, 3));
    assert_eq!(store.entries(EntryFilter::default()).await?, []);
    assert_eq!(store.settle(vec![settlement(open.id, 3)]).await?, [Settled::Charged]);
    Ok(())
}

pub async fn what_the_ledger_cannot_keep_is_refused(store: Arc<dyn Store>) -> Outcome {
    let fine = hold("acme", 1, 10);
    let wrong = [
        Hold { amounts: both(AMOUNT_MAX + 1, 0), ..fine.clone() },
        Hold { limited: vec![(account("a\nb"), Limits::default())], ..fine.clone() },
        Hold { tallies: vec![account("")], ..fine.clone() },
        Hold { subject: Some(String::new()), ..fine.clone() },
        Hold { body: Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]), ..fine.clone() },
        Hold { tallies: vec![account("a"); HOLD_ACCOUNTS_MAX], ..fine.clone() },
    ];
    for wrong in wrong {
        let holds = vec![hold("acme", 1, 10), wrong];
        assert_refused!(store.hold(holds).await, StoreError::Misuse { .. });
    }
    assert_eq!(standing(&*store, "acme").await?, (0, 0));
    Ok(())
}
