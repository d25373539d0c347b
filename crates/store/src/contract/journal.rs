//! Checks of [`Journal`](crate::Journal).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Outcome, append, assert_refused, create, event, face, head, new_run};
use crate::{
    Append, Blob, BlobHash, CHECKPOINTS_KEPT, Caps, Created, Disposition, Fence, NodeId, RunFilter,
    RunId, Store, StoreError, VALUE_BYTES_MAX,
};

fn keyed(tenant: &str) -> crate::NewRun {
    let mut run = new_run();
    tenant.clone_into(&mut run.tenant);
    run.key = Some("order-7".to_owned());
    run
}

pub async fn creating_with_a_key_is_idempotent(store: Arc<dyn Store>) -> Outcome {
    let first = keyed("acme");
    let again = first.clone();
    let id = first.id;
    assert!(matches!(store.create(first).await?, Created::New(head) if head.id == id));
    for repeated in [again, keyed("acme")] {
        let repeated_id = repeated.id;
        let created = store.create(repeated).await?;
        assert!(matches!(created, Created::Existing(head) if head.id == id && head.head_seq == 1));
        assert_eq!(store.head(repeated_id).await?.is_some(), repeated_id == id);
    }
    assert!(matches!(store.create(keyed("globex")).await?, Created::New(_)));
    assert_eq!(store.read(id, 0, 9).await?.len(), 1);
    Ok(())
}

pub async fn creating_with_a_key_concurrently_makes_one_run(store: Arc<dyn Store>) -> Outcome {
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { store.create(keyed("acme")).await });
    }
    let (mut new, mut ids) = (0, Vec::new());
    for created in tasks.join_all().await {
        let created = created?;
        new += usize::from(matches!(created, Created::New(_)));
        let (Created::New(head) | Created::Existing(head)) = created;
        ids.push(head.id);
    }
    ids.dedup();
    assert_eq!((new, ids.len()), (1, 1));
    assert_eq!(store.list(RunFilter::default()).await?.runs.len(), 1);
    Ok(())
}

pub async fn an_id_is_taken_once(store: Arc<dyn Store>) -> Outcome {
    let run = new_run();
    let mut twin = run.clone();
    twin.key = Some("fresh".to_owned());
    let id = run.id;
    create(&*store, run).await?;
    assert_refused!(store.create(twin.clone()).await, StoreError::Exists { run } if run == id);
    // The refused one has not used up its key.
    twin.id = RunId::generate();
    assert!(matches!(store.create(twin).await?, Created::New(_)));
    Ok(())
}

pub async fn a_new_run_is_not_held(store: Arc<dyn Store>) -> Outcome {
    let mut run = new_run();
    run.head.disposition = Disposition::Held;
    let id = run.id;
    assert_refused!(store.create(run).await, StoreError::Misuse { .. });
    assert_eq!(store.head(id).await?, None);
    Ok(())
}

pub async fn sequence_numbers_have_no_holes(store: Arc<dyn Store>) -> Outcome {
    let run = create(&*store, new_run()).await?.id;
    let mut more = append(run, 0, 1);
    more.events = vec![event("a"), event("b"), event("c")];
    let appended = store.append(more).await?;
    assert_eq!((appended.head_seq, appended.epoch), (4, 0));
    store.append(append(run, 0, 4)).await?;
    let events = store.read(run, 0, usize::MAX).await?;
    let bodies: Vec<_> = events.iter().map(|event| (event.seq, &event.body[..])).collect();
    let expected: [(u64, &[u8]); 5] =
        [(1, b"created"), (2, b"a"), (3, b"b"), (4, b"c"), (5, b"more")];
    assert_eq!(bodies, expected);
    assert!(events.is_sorted_by_key(|event| event.at));
    assert!(events.iter().all(|event| event.kind == "noted" && event.version == 1));
    assert_eq!(events[3].at, appended.at);
    let seqs = |events: Vec<crate::StoredEvent>| events.iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.read(run, 2, 2).await?), [3, 4]);
    assert_eq!(seqs(store.read(run, 5, 2).await?), []);
    assert_eq!(seqs(store.read(run, u64::MAX, 2).await?), []);
    assert_eq!(seqs(store.read(run, 0, 0).await?), []);
    Ok(())
}

pub async fn an_append_is_fenced_by_its_epoch(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let (old, young) = (NodeId::generate(), NodeId::generate());
    store.renew(&old, Duration::from_secs(2)).await?;
    assert_eq!(store.claim(&old, 1, &Caps::default()).await?.len(), 1);
    store.append(append(id, 1, 1)).await?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    store.renew(&young, Duration::from_secs(60)).await?;
    assert_eq!(store.claim(&young, 1, &Caps::default()).await?.len(), 1);
    let before = head(&*store, id).await?;
    assert_refused!(
        store.append(append(id, 1, 2)).await,
        StoreError::Fenced { run, held: 1, current: 2 } if run == id
    );
    assert_refused!(store.append(append(id, 3, 2)).await, StoreError::Fenced { held: 3, .. });
    assert_eq!(head(&*store, id).await?, before);
    assert_eq!(store.append(append(id, 2, 2)).await?.head_seq, 3);
    Ok(())
}

pub async fn an_append_to_a_longer_log_conflicts(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    store.append(append(id, 0, 1)).await?;
    for wrong in [0, 1, 3] {
        assert_refused!(
            store.append(append(id, 0, wrong)).await,
            StoreError::Conflict { run, expected, actual: 2 } if run == id && expected == wrong
        );
    }
    assert_eq!(store.read(id, 0, 9).await?.len(), 2);
    Ok(())
}

fn seize(run: RunId, expected_seq: u64, disposition: Disposition) -> Append {
    Append {
        fence: Fence::Seize,
        head: Some(face("stopped", disposition)),
        ..append(run, 0, expected_seq)
    }
}

pub async fn seizing_raises_the_epoch_and_frees_the_run(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    let headless = Append { head: None, ..seize(id, 1, Disposition::Ready) };
    assert_refused!(store.append(headless).await, StoreError::Misuse { .. });
    let held = seize(id, 1, Disposition::Held);
    assert_refused!(store.append(held).await, StoreError::Misuse { .. });
    let late = seize(id, 0, Disposition::Ready);
    assert_refused!(store.append(late).await, StoreError::Conflict { .. });
    assert_eq!(head(&*store, id).await?.epoch, 1);
    let parked = Disposition::Parked { wake_at: None };
    assert_eq!(store.append(seize(id, 1, parked)).await?.epoch, 2);
    assert_refused!(
        store.append(append(id, 1, 2)).await,
        StoreError::Fenced { held: 1, current: 2, .. }
    );
    let head = head(&*store, id).await?;
    assert_eq!((head.owner, head.disposition, head.state.as_str()), (None, parked, "stopped"));
    Ok(())
}

pub async fn an_ended_run_takes_no_append_of_a_holder(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let end = Append { head: Some(face("done", Disposition::Ended)), ..append(id, 0, 1) };
    store.append(end).await?;
    assert_refused!(store.append(append(id, 0, 2)).await, StoreError::Misuse { .. });
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await?;
    assert_eq!(store.claim(&node, 9, &Caps::default()).await?, []);
    assert_eq!(store.append(seize(id, 2, Disposition::Ready)).await?.head_seq, 3);
    Ok(())
}

pub async fn only_a_claim_makes_a_run_held(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let hold =
        |epoch| Append { head: Some(face("running", Disposition::Held)), ..append(id, epoch, 1) };
    assert_refused!(store.append(hold(0)).await, StoreError::Misuse { .. });
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    store.append(hold(1)).await?;
    assert_eq!(head(&*store, id).await?.owner, Some(node));
    let nothing = Append { events: Vec::new(), ..append(id, 1, 2) };
    assert_refused!(store.append(nothing).await, StoreError::Misuse { .. });
    Ok(())
}

pub async fn a_refused_append_costs_only_its_caller(store: Arc<dyn Store>) -> Outcome {
    let mut tasks = JoinSet::new();
    for number in 0..30_u64 {
        let id = create(&*store, new_run()).await?.id;
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let wrong = number % 3 == 0;
            let answer = store.append(append(id, 0, if wrong { 9 } else { 1 })).await;
            (id, wrong, answer)
        });
    }
    for (id, wrong, answer) in tasks.join_all().await {
        if wrong {
            assert_refused!(answer, StoreError::Conflict { run, .. } if run == id);
        } else {
            assert_eq!(answer?.head_seq, 2);
        }
        let length = if wrong { 1 } else { 2 };
        assert_eq!(store.read(id, 0, 9).await?.len(), length);
        assert_eq!(head(&*store, id).await?.head_seq, length as u64);
    }
    Ok(())
}

pub async fn c3_checkpoint_10_is_newer_than_9(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    assert_eq!(store.checkpoints(id).await?, []);
    for seq in 1..=11 {
        let body = Some(Bytes::from(format!("after {}", seq + 1)));
        store.append(Append { checkpoint: body, ..append(id, 0, seq) }).await?;
    }
    let kept = store.checkpoints(id).await?;
    assert_eq!(kept.len(), CHECKPOINTS_KEPT);
    assert_eq!(kept.iter().map(|kept| kept.seq).collect::<Vec<_>>(), [12, 11, 10, 9, 8]);
    assert_eq!(kept[0].body, "after 12");
    // One without events takes the place of the one at the same event.
    let events = Vec::new();
    let body = Some(Bytes::from_static(b"again"));
    store.append(Append { events, checkpoint: body, ..append(id, 0, 12) }).await?;
    let kept = store.checkpoints(id).await?;
    assert_eq!((kept.len(), kept[0].seq, &kept[0].body[..]), (5, 12, &b"again"[..]));
    Ok(())
}

pub async fn blobs_are_kept_once_and_under_their_own_hash(store: Arc<dyn Store>) -> Outcome {
    let blob = Blob::new(Bytes::from_static(b"a page of text"));
    let mut run = new_run();
    run.blobs = vec![blob.clone(), blob.clone()];
    let id = create(&*store, run).await?.id;
    let other = Blob::new(Bytes::new());
    let blobs = vec![blob.clone(), other.clone()];
    let only_blobs = Append { blobs, events: Vec::new(), ..append(id, 0, 1) };
    assert_eq!(store.append(only_blobs).await?.head_seq, 1);
    assert_eq!(store.blob(blob.hash).await?, Some(blob.bytes.clone()));
    assert_eq!(store.blob(other.hash).await?, Some(Bytes::new()));
    assert_eq!(store.blob(BlobHash::of(b"elsewhere")).await?, None);
    let forged = Blob { hash: BlobHash::of(b"elsewhere"), bytes: blob.bytes };
    let forgery = Append { blobs: vec![forged], ..append(id, 0, 1) };
    assert_refused!(store.append(forgery).await, StoreError::Misuse { .. });
    assert_eq!(store.blob(BlobHash::of(b"elsewhere")).await?, None);
    Ok(())
}

pub async fn what_is_too_large_is_refused(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let mut body = append(id, 0, 1);
    body.events[0].body = large.clone();
    let checkpoint = Append { checkpoint: Some(large.clone()), ..append(id, 0, 1) };
    // The size is looked at before the hash.
    let blob = Blob { hash: BlobHash::of(b""), bytes: large.clone() };
    let blob = Append { blobs: vec![blob], ..append(id, 0, 1) };
    for (what, append) in [("event body", body), ("checkpoint", checkpoint), ("blob", blob)] {
        assert_refused!(
            store.append(append).await,
            StoreError::TooLarge { what: named, size_bytes, limit_bytes: VALUE_BYTES_MAX, .. }
                if named == what && size_bytes == large.len()
        );
    }
    assert_eq!(head(&*store, id).await?.head_seq, 1);
    Ok(())
}

pub async fn an_unknown_run_is_not_found(store: Arc<dyn Store>) -> Outcome {
    let id = RunId::generate();
    assert_refused!(store.append(append(id, 0, 0)).await, StoreError::NotFound { run } if run == id);
    assert_refused!(store.read(id, 0, 1).await, StoreError::NotFound { run } if run == id);
    assert_refused!(store.checkpoints(id).await, StoreError::NotFound { run } if run == id);
    assert_eq!(store.head(id).await?, None);
    Ok(())
}

pub async fn a_dropped_append_leaves_a_usable_run(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    for _ in 0..8 {
        let seq = head(&*store, id).await?.head_seq;
        let dropped = tokio::select! {
            biased;
            () = std::future::ready(()) => true,
            _ = store.append(append(id, 0, seq)) => false,
        };
        assert!(dropped);
        let mut polled = store.append(append(id, 0, seq));
        std::future::poll_fn(|context| {
            let _either = polled.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
        drop(polled);
    }
    let seq = store.append(append(id, 0, 99)).await;
    assert_refused!(&seq, StoreError::Conflict { .. });
    let seq = head(&*store, id).await?.head_seq;
    assert_eq!(store.read(id, 0, 99).await?.len() as u64, seq);
    assert_eq!(store.append(append(id, 0, seq)).await?.head_seq, seq + 1);
    Ok(())
}

pub async fn many_runs_append_at_once(store: Arc<dyn Store>) -> Outcome {
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let id = create(&*store, new_run()).await?.id;
            for seq in 1..=10 {
                store.append(append(id, 0, seq)).await?;
            }
            Ok::<_, StoreError>(id)
        });
    }
    for id in tasks.join_all().await {
        let events = store.read(id?, 0, 99).await?;
        assert!(events.iter().map(|event| event.seq).eq(1..=11));
    }
    Ok(())
}

pub async fn a_closed_store_is_unavailable(store: Arc<dyn Store>) -> Outcome {
    let id = create(&*store, new_run()).await?.id;
    let node = NodeId::generate();
    store.close().await?;
    store.close().await?;
    assert_refused!(store.create(new_run()).await, StoreError::Unavailable { .. });
    assert_refused!(store.append(append(id, 0, 1)).await, StoreError::Unavailable { .. });
    assert_refused!(store.read(id, 0, 1).await, StoreError::Unavailable { .. });
    assert_refused!(store.checkpoints(id).await, StoreError::Unavailable { .. });
    assert_refused!(store.blob(BlobHash::of(b"")).await, StoreError::Unavailable { .. });
    assert_refused!(store.head(id).await, StoreError::Unavailable { .. });
    assert_refused!(store.list(RunFilter::default()).await, StoreError::Unavailable { .. });
    assert_refused!(store.count_by_state(1).await, StoreError::Unavailable { .. });
    assert_refused!(
        store.renew(&node, Duration::from_secs(1)).await,
        StoreError::Unavailable { .. }
    );
    assert_refused!(store.retire(&node).await, StoreError::Unavailable { .. });
    assert_refused!(store.claim(&node, 1, &Caps::default()).await, StoreError::Unavailable { .. });
    assert_refused!(store.next_wake().await, StoreError::Unavailable { .. });
    Ok(())
}
