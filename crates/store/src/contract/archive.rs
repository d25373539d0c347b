//! Checks of [`Archive`](crate::Archive).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Outcome, append, assert_refused, create, face, head, new_run};
use crate::{
    Append, Blob, BlobHash, Caps, Created, Disposition, FactName, FactWrite, KeyClaim, KeyEnd,
    KeyName, KeySettlement, KeyStanding, Mail, MemoryStore, NewRun, NodeId, Record, RunFilter,
    RunId, Sent, Store, StoreError,
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

/// A store with something of everything: a held run with a log, a checkpoint, blobs and letters, a parked
/// one, one that is over, facts, and keys that are settled and that are not. The held run and the parked.
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
