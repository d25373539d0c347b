//! Checks of [`Archive`](crate::Archive).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Outcome, append, assert_refused, create, face, head, new_run};
use crate::{
    Account, Amounts, Append, Blob, BlobHash, Caps, Created, Disposition, EntryFilter, EntryId,
    FactName, FactWrite, Held, Hold, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, Limits,
    Mail, MemoryStore, NewRun, NodeId, Record, RunFilter, RunId, Sent, Settled, Settlement, Store,
    StoreError,
};

async fn dump(store: &dyn Store) -> Result<Vec<Record>, StoreError> {
    let mut dump = store.dump().await?;
    let mut all = Vec::new();
    loop {
        let page = dump.next().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn restore(store: &dyn Store, records: Vec<Record>) -> Result<(), StoreError> {
    let mut restore = store.restore().await?;
    for page in records.chunks(3) {
        restore.write(page.to_vec()).await?;
    }
    restore.finish().await
}

/// Records in an order that is the same for every store.
fn sorted(mut records: Vec<Record>) -> Vec<String> {
    records.retain(|record| !matches!(record, Record::LetterTaken { .. }));
    let mut shown: Vec<String> = records.iter().map(|record| format!("{record:?}")).collect();
    shown.sort();
    shown
}

fn name(key: &str) -> KeyName {
    KeyName { scope: "acme".to_owned(), key: key.to_owned() }
}

fn claim(key: &str, owner: &str) -> KeyClaim {
    KeyClaim {
        name: name(key),
        digest: BlobHash::of(b"with this"),
        owner: owner.to_owned(),
        node: NodeId::from("node-1".to_owned()),
        seize: None,
    }
}

fn letter(to: RunId, id: &str) -> Mail {
    Mail { to, id: id.to_owned(), kind: "said".to_owned(), body: Bytes::from_static(b"\xff\x00") }
}

/// A hold of 30 on two accounts with limits, which charges a third account, too.
fn hold(keep: Duration) -> Hold {
    let limits = Limits { tokens: Some(110), money: None };
    Hold {
        id: EntryId::generate(),
        amounts: Amounts { tokens: 30, money: 7 },
        limited: vec![(account("acme/month"), limits), (account("acme/week"), limits)],
        tallies: vec![account("model"), account("acme/week")],
        keep,
        subject: Some("run 7".to_owned()),
        body: Bytes::from_static(b"\xff estimated"),
    }
}

fn account(name: &str) -> Account {
    Account { name: name.to_owned(), since: 86_400_000 }
}

fn settlement(id: EntryId, tokens: u64) -> Settlement {
    let body = Bytes::from_static(b"measured");
    Settlement {
        id,
        amounts: Amounts { tokens, money: 1 },
        tallies: None,
        body: Some(body),
        unheld: None,
    }
}

/// How the accounts of [`hold`] stand, in tokens spent, tokens held and entries.
async fn balances(store: &dyn Store) -> Result<Vec<(u64, u64, u64)>, StoreError> {
    let accounts = ["acme/month", "acme/week", "model"].map(account).to_vec();
    let balances = store.balances(accounts).await?;
    let shown = balances.iter().map(|it| (it.spent.tokens, it.held.tokens, it.entries));
    Ok(shown.collect())
}

/// A hold that is open, one that was settled and one that was charged because its time was over; the first
/// and the last.
async fn keep_a_ledger(store: &dyn Store) -> Result<[EntryId; 2], StoreError> {
    let hour = Duration::from_hours(1);
    let (open, settled, over) = (hold(hour), hold(hour), hold(Duration::from_millis(1)));
    let (ids, settlement) = ([open.id, over.id], settlement(settled.id, 12));
    store.hold(vec![open, settled, over]).await?;
    store.settle(vec![settlement]).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.expire_holds(10).await?;
    Ok(ids)
}

/// A store with something of everything: a held run with a log, a checkpoint, blobs and letters, a parked
/// one, one that is over, facts, keys that are settled and that are not, and a ledger. The held run and the
/// parked.
async fn fill(store: &dyn Store) -> Result<(RunId, RunId), StoreError> {
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(600)).await?;
    let run = NewRun {
        key: Some("order-7".to_owned()),
        session: Some("s".to_owned()),
        tags: vec!["blue".to_owned(), "green".to_owned()],
        text: "find me by my words".to_owned(),
        priority: 3,
        ..new_run()
    };
    let held = create(store, run).await?.id;
    store.send(letter(held, "first")).await?;
    store.send(letter(held, "second")).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    let first = store.letters(held, 1).await?;
    let facts = vec![FactWrite {
        name: FactName { scope: "acme".to_owned(), key: "city".to_owned() },
        value: Some(Bytes::from_static(b"Bern")),
        keep: None,
    }];
    store.claim_key(claim("open", "me")).await?;
    store.claim_key(claim("done", "me")).await?;
    let answer = Bytes::from_static(b"\xfe answer");
    let end = KeyEnd::Recorded { answer, keep: Duration::from_secs(3600) };
    let keys = vec![KeySettlement { name: name("done"), owner: "me".to_owned(), end }];
    let more = Append {
        checkpoint: Some(Bytes::from_static(b"folded")),
        blobs: vec![Blob::new(Bytes::from_static(b"a long text"))],
        taken: first.iter().map(|letter| letter.number).collect(),
        facts,
        keys,
        ..append(held, 1, 1)
    };
    store.append(more).await?;
    let wake_at = Some(crate::Timestamp(store.now().0 + 60_000));
    let parked = face("waiting", Disposition::Parked { wake_at });
    let parent = Some(held);
    let parked = create(store, NewRun { head: parked, parent, ..new_run() }).await?.id;
    let over = face("failed", Disposition::Ended);
    create(store, NewRun { head: over, ..new_run() }).await?;
    store.flag(parked, Some("stuck".to_owned())).await?;
    keep_a_ledger(store).await?;
    Ok((held, parked))
}

pub async fn what_is_taken_in_is_what_was_given_out(store: Arc<dyn Store>) -> Outcome {
    let reference: &dyn Store = &MemoryStore::new();
    let (held, parked) = fill(reference).await?;
    let records = dump(reference).await?;
    restore(&*store, records.clone()).await?;
    assert_eq!(sorted(dump(&*store).await?), sorted(records));
    assert_eq!(store.read(held, 0, 9).await?, reference.read(held, 0, 9).await?);
    assert_eq!(store.checkpoints(held).await?, reference.checkpoints(held).await?);
    assert_eq!(store.head(parked).await?, reference.head(parked).await?);
    let waiting = store.letters(held, 9).await?;
    assert_eq!(waiting, reference.letters(held, 9).await?);
    assert_eq!(store.send(letter(held, "first")).await?, Sent::Known);
    let blob = BlobHash::of(b"a long text");
    assert_eq!(store.blob(blob).await?, reference.blob(blob).await?);
    let name = FactName { scope: "acme".to_owned(), key: "city".to_owned() };
    assert_eq!(store.fact(&name).await?, reference.fact(&name).await?);
    let settled = store.claim_key(claim("done", "another")).await?;
    assert_eq!(settled, reference.claim_key(claim("done", "another")).await?);
    let open = store.claim_key(claim("open", "another")).await?;
    assert!(matches!(open, KeyStanding::InFlight { alive: false, .. }), "{open:?}");
    let text = vec!["words".to_owned()];
    assert_eq!(store.list(RunFilter { text, ..RunFilter::default() }).await?.runs.len(), 1);
    assert_eq!(balances(&*store).await?, [(42, 30, 2), (42, 30, 2), (42, 0, 2)]);
    let entries = store.entries(EntryFilter::default()).await?;
    assert_eq!(entries, reference.entries(EntryFilter::default()).await?);
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}

pub async fn what_was_taken_in_goes_on(store: Arc<dyn Store>) -> Outcome {
    let reference: &dyn Store = &MemoryStore::new();
    let (held, _) = fill(reference).await?;
    restore(&*store, dump(reference).await?).await?;
    let card = head(&*store, held).await?;
    assert_eq!((card.disposition, card.owner, card.epoch), (Disposition::Ready, None, 1));
    let heir = NodeId::generate();
    store.renew(&heir, Duration::from_secs(60)).await?;
    let claimed = store.claim(&heir, 9, &Caps::default()).await?;
    assert_eq!(claimed.iter().map(|head| (head.id, head.epoch)).collect::<Vec<_>>(), [(held, 2)]);
    store.append(append(held, 2, 2)).await?;
    store.send(letter(held, "third")).await?;
    let numbers: Vec<_> = store.letters(held, 9).await?.iter().map(|l| l.number).collect();
    assert!(numbers.len() == 2 && numbers[0] < numbers[1], "{numbers:?}");
    let again = NewRun { key: Some("order-7".to_owned()), ..new_run() };
    assert!(matches!(store.create(again).await?, Created::Existing(run) if run.id == held));
    Ok(())
}

pub async fn holds_that_were_taken_in_are_settled_or_run_out(store: Arc<dyn Store>) -> Outcome {
    let reference: &dyn Store = &MemoryStore::new();
    let [open, over] = keep_a_ledger(reference).await?;
    let late = hold(Duration::from_millis(200));
    reference.hold(vec![late.clone()]).await?;
    restore(&*store, dump(reference).await?).await?;
    assert_eq!(balances(&*store).await?, [(42, 60, 2), (42, 60, 2), (42, 0, 2)]);
    // Granted before, known now.
    assert!(matches!(store.hold(vec![late.clone()]).await?[..], [Held::Granted(_)]));
    assert!(matches!(store.hold(vec![hold(Duration::ZERO)]).await?[..], [Held::Refused { .. }]));
    let settled = store.settle(vec![settlement(open, 5), settlement(over, 6)]).await?;
    assert_eq!(settled, [Settled::Charged, Settled::Corrected]);
    assert_eq!(balances(&*store).await?, [(23, 30, 3), (23, 30, 3), (23, 0, 3)]);
    // What was left of its time is over.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let expired = store.expire_holds(10).await?;
    assert_eq!(expired.iter().map(|entry| entry.id).collect::<Vec<_>>(), [late.id]);
    assert_eq!(expired[0].subject, late.subject);
    assert_eq!(balances(&*store).await?, [(53, 0, 4), (53, 0, 4), (53, 0, 4)]);
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}

pub async fn a_dump_is_of_one_moment(store: Arc<dyn Store>) -> Outcome {
    let (held, _) = fill(&*store).await?;
    let mut dump = store.dump().await?;
    store.append(append(held, 1, 2)).await?;
    create(&*store, new_run()).await?;
    let (mut runs, mut events) = (0, 0);
    loop {
        let page = dump.next().await?;
        if page.is_empty() {
            break;
        }
        runs += page.iter().filter(|record| record.kind() == "run").count();
        events += page.iter().filter(|record| record.kind() == "event").count();
    }
    assert_eq!((runs, events), (3, 4));
    Ok(())
}

pub async fn a_store_that_holds_anything_takes_nothing_in(store: Arc<dyn Store>) -> Outcome {
    create(&*store, new_run()).await?;
    assert_refused!(store.restore().await.map(drop), StoreError::Occupied { .. });
    Ok(())
}

pub async fn a_store_with_an_account_takes_nothing_in(store: Arc<dyn Store>) -> Outcome {
    let open = hold(Duration::from_hours(1));
    store.hold(vec![open.clone()]).await?;
    assert_refused!(store.restore().await.map(drop), StoreError::Occupied { .. });
    store.settle(vec![settlement(open.id, 1)]).await?;
    assert_refused!(store.restore().await.map(drop), StoreError::Occupied { .. });
    Ok(())
}

pub async fn a_restore_that_is_not_finished_leaves_nothing(store: Arc<dyn Store>) -> Outcome {
    let reference: &dyn Store = &MemoryStore::new();
    let (held, _) = fill(reference).await?;
    let records = dump(reference).await?;
    let mut begun = store.restore().await?;
    begun.write(records.clone()).await?;
    drop(begun);
    assert_eq!(store.head(held).await?, None);
    restore(&*store, records).await?;
    assert!(store.head(held).await?.is_some());
    Ok(())
}

pub async fn records_that_do_not_fit_are_refused(store: Arc<dyn Store>) -> Outcome {
    let reference: &dyn Store = &MemoryStore::new();
    fill(reference).await?;
    let records = dump(reference).await?;
    let without = |kind: &str| -> Vec<Record> {
        let mut dropped = false;
        let keep = |record: &&Record| {
            dropped || record.kind() != kind || {
                dropped = true;
                false
            }
        };
        records.iter().filter(keep).cloned().collect()
    };
    assert_refused!(restore(&*store, without("event")).await, StoreError::Misuse { .. });
    assert_refused!(restore(&*store, without("run")).await, StoreError::NotFound { .. });
    assert_refused!(restore(&*store, without("account")).await, StoreError::Misuse { .. });
    let mut rotten = records.clone();
    for record in &mut rotten {
        if let Record::Blob { body, .. } = record {
            *body = Bytes::from_static(b"something else");
        }
    }
    assert_refused!(restore(&*store, rotten).await, StoreError::Corrupt { .. });
    assert!(store.list(RunFilter::default()).await?.runs.is_empty());
    restore(&*store, records).await
}
