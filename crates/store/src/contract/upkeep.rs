//! Checks of [`Upkeep`](crate::Upkeep).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Outcome, append, assert_refused, create, event, face, head, new_run};
use crate::{
    Append, Blob, Created, Disposition, Fence, Mail, NewRun, NodeId, Prune, Pruned, RunFilter,
    RunId, Store, StoreError, Timestamp,
};

/// A run that is over.
async fn ended(store: &dyn Store, run: NewRun) -> Result<RunId, StoreError> {
    let head = face("succeeded", Disposition::Ended);
    Ok(create(store, NewRun { head, ..run }).await?.id)
}

async fn prune(store: &dyn Store, limit: usize) -> Result<Pruned, StoreError> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    store.prune(&Prune { states: Vec::new(), ended_before: store.now(), limit }).await
}

async fn exists(store: &dyn Store, run: RunId) -> Result<bool, StoreError> {
    Ok(store.head(run).await?.is_some())
}

pub async fn only_runs_that_are_over_are_pruned(store: Arc<dyn Store>) -> Outcome {
    let over = ended(&*store, new_run()).await?;
    let ready = create(&*store, new_run()).await?.id;
    for disposition in [Disposition::Parked { wake_at: None }, Disposition::Paused] {
        let head = face("waiting", disposition);
        create(&*store, NewRun { head, ..new_run() }).await?;
    }
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(60)).await?;
    store.claim(&node, 1, &crate::Caps::default()).await?;
    let pruned = prune(&*store, 9).await?;
    assert_eq!((pruned.runs, pruned.events, pruned.blobs), (1, 1, 0), "{pruned:?}");
    assert_eq!(store.list(RunFilter::default()).await?.runs.len(), 3);
    assert!(!exists(&*store, over).await? && exists(&*store, ready).await?);
    assert!(prune(&*store, 9).await?.is_nothing());
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}

pub async fn a_prune_takes_what_it_was_asked_for_oldest_first(store: Arc<dyn Store>) -> Outcome {
    let first = ended(&*store, new_run()).await?;
    let head = face("failed", Disposition::Ended);
    let failed = create(&*store, NewRun { head, ..new_run() }).await?.id;
    let second = ended(&*store, new_run()).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let between = store.now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let late = ended(&*store, new_run()).await?;
    let states = vec!["succeeded".to_owned(), "cancelled".to_owned()];
    let wanted = Prune { states, ended_before: between, limit: 1 };
    assert_eq!(store.prune(&Prune { limit: 0, ..wanted.clone() }).await?, Pruned::default());
    assert_eq!(store.prune(&wanted).await?.runs, 1);
    assert!(!exists(&*store, first).await? && exists(&*store, second).await?);
    let wanted = Prune { limit: 9, ..wanted };
    assert_eq!(store.prune(&wanted).await?.runs, 1);
    assert!(exists(&*store, failed).await? && exists(&*store, late).await?);
    assert!(store.prune(&wanted).await?.is_nothing());
    Ok(())
}

pub async fn a_run_ends_anew_when_it_was_resumed(store: Arc<dyn Store>) -> Outcome {
    let run = ended(&*store, new_run()).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let between = store.now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let again = Append {
        events: vec![event("again")],
        head: Some(face("failed", Disposition::Ended)),
        ..Append::new(run, Fence::Seize, 1)
    };
    store.append(again).await?;
    let wanted = Prune { states: Vec::new(), ended_before: between, limit: 9 };
    assert!(store.prune(&wanted).await?.is_nothing());
    Ok(())
}

pub async fn everything_of_a_pruned_run_goes_with_it(store: Arc<dyn Store>) -> Outcome {
    let run = NewRun {
        key: Some("order-7".to_owned()),
        tags: vec!["blue".to_owned()],
        session: Some("s".to_owned()),
        text: "a search word".to_owned(),
        ..new_run()
    };
    let id = create(&*store, run.clone()).await?.id;
    let letter = Mail { to: id, id: "l".to_owned(), kind: "said".to_owned(), body: Bytes::new() };
    store.send(letter).await?;
    let blob = Blob::new(Bytes::from_static(b"large"));
    let last = Append {
        checkpoint: Some(Bytes::from_static(b"snap")),
        blobs: vec![blob.clone()],
        head: Some(face("failed", Disposition::Ended)),
        ..append(id, 0, 1)
    };
    store.append(last).await?;
    let pruned = prune(&*store, 9).await?;
    assert_eq!((pruned.runs, pruned.events, pruned.blobs), (1, 2, 1));
    let bytes = "created".len() + "more".len() + "large".len() + "snap".len();
    assert_eq!(pruned.bytes, bytes as u64);
    assert_refused!(store.read(id, 0, 9).await, StoreError::NotFound { .. });
    assert_refused!(store.checkpoints(id).await, StoreError::NotFound { .. });
    assert_refused!(store.letters(id, 9).await, StoreError::NotFound { .. });
    assert_eq!(store.blob(blob.hash).await?, None);
    let tag = Some("blue".to_owned());
    assert!(store.list(RunFilter { tag, ..RunFilter::default() }).await?.runs.is_empty());
    let text = vec!["search".to_owned()];
    assert!(store.list(RunFilter { text, ..RunFilter::default() }).await?.runs.is_empty());
    // The key is free again, and so is the id.
    assert!(matches!(store.create(run).await?, Created::New(_)));
    assert_eq!(head(&*store, id).await?.head_seq, 1);
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}

pub async fn a_blob_shared_with_a_run_that_goes_on_stays(store: Arc<dyn Store>) -> Outcome {
    let shared = Blob::new(Bytes::from_static(b"shared"));
    let own = Blob::new(Bytes::from_static(b"own"));
    let over = NewRun { blobs: vec![shared.clone(), own.clone()], ..new_run() };
    ended(&*store, over).await?;
    let living = create(&*store, NewRun { blobs: vec![shared.clone()], ..new_run() }).await?.id;
    assert_eq!(prune(&*store, 9).await?.blobs, 1);
    assert_eq!(store.blob(own.hash).await?, None);
    assert_eq!(store.blob(shared.hash).await?, Some(shared.bytes.clone()));
    let last = Append { head: Some(face("failed", Disposition::Ended)), ..append(living, 0, 1) };
    store.append(last).await?;
    assert_eq!(prune(&*store, 9).await?.blobs, 1);
    assert_eq!(store.blob(shared.hash).await?, None);
    Ok(())
}

pub async fn a_run_stays_while_its_parent_or_a_child_goes_on(store: Arc<dyn Store>) -> Outcome {
    let parent = create(&*store, new_run()).await?.id;
    let child = ended(&*store, NewRun { parent: Some(parent), ..new_run() }).await?;
    let grandchild = create(&*store, NewRun { parent: Some(child), ..new_run() }).await?.id;
    let end =
        |run| Append { head: Some(face("succeeded", Disposition::Ended)), ..append(run, 0, 1) };
    assert!(prune(&*store, 9).await?.is_nothing());
    store.append(end(parent)).await?;
    assert_eq!(prune(&*store, 9).await?.runs, 1, "the parent's own child is over");
    assert!(exists(&*store, child).await?);
    store.append(end(grandchild)).await?;
    assert_eq!(prune(&*store, 9).await?.runs, 2);
    Ok(())
}

pub async fn a_long_log_is_pruned_in_pieces(store: Arc<dyn Store>) -> Outcome {
    let count = crate::PRUNE_ROWS_MAX * 2 + 7;
    let events = vec![event("e"); count];
    let long = ended(&*store, NewRun { events, ..new_run() }).await?;
    ended(&*store, new_run()).await?;
    let living = create(&*store, new_run()).await?.id;
    let pruned = prune(&*store, 9).await?;
    assert_eq!((pruned.runs, pruned.events), (2, count as u64 + 1));
    assert!(!exists(&*store, long).await? && exists(&*store, living).await?);
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}

pub async fn a_prune_that_is_given_up_is_finished_by_the_next(store: Arc<dyn Store>) -> Outcome {
    let count = crate::PRUNE_ROWS_MAX * 3;
    let blob = Blob::new(Bytes::from_static(b"kept by the remains"));
    let events = vec![event("e"); count];
    let long = NewRun { events, blobs: vec![blob.clone()], ..new_run() };
    let mut before = Timestamp::default();
    let id = ended(&*store, long).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    before.0 = store.now().0;
    let wanted = Prune { states: Vec::new(), ended_before: before, limit: 9 };
    // Dropped as soon as the run is seen no more: somewhere in the middle.
    let gone = async {
        while exists(&*store, id).await? {
            tokio::task::yield_now().await;
        }
        Ok::<_, StoreError>(())
    };
    tokio::select! {
        biased;
        gone = gone => gone?,
        pruned = store.prune(&wanted) => drop(pruned?),
    }
    // Whoever comes meanwhile has nothing of it.
    let other = create(&*store, new_run()).await?.id;
    assert_eq!(store.read(other, 0, 9).await?.len(), 1);
    store.append(append(other, 0, 1)).await?;
    store.prune(&Prune { limit: 0, ..wanted }).await?;
    assert_eq!(store.read(other, 0, 9).await?.len(), 2);
    assert_eq!(store.blob(blob.hash).await?, None);
    assert_eq!(store.examine().await?, Vec::<String>::new());
    Ok(())
}
