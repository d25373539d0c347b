//! Checks of [`Catalog`](crate::Catalog).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, append, create, face, head, new_run};
use crate::{Append, Disposition, NodeId, RunFilter, RunId, Store, Timestamp};

pub async fn an_empty_store_has_nothing(store: Arc<dyn Store>) -> Outcome {
    let page = store.list(RunFilter::default()).await?;
    assert_eq!((page.runs.len(), page.next), (0, None));
    assert_eq!(store.count_by_state(10).await?, []);
    assert_eq!(store.next_wake().await?, None);
    let node = NodeId::generate();
    store.retire(&node).await?;
    store.renew(&node, Duration::from_secs(60)).await?;
    assert_eq!(store.claim(&node, 10).await?, []);
    assert_eq!(store.next_wake().await?, None);
    assert!(!store.describe().is_empty());
    Ok(())
}

pub async fn a_head_shows_what_was_written(store: Arc<dyn Store>) -> Outcome {
    let before = store.now();
    let mut run = new_run();
    run.priority = -3;
    let created = create(&*store, run).await?;
    assert_eq!(head(&*store, created.id).await?, created);
    assert_eq!((created.epoch, &created.owner, created.head_seq), (0, &None, 1));
    assert_eq!((created.priority, created.tenant.as_str()), (-3, "acme"));
    assert!(created.created_at >= before && created.updated_at == created.created_at);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let wake_at = Some(Timestamp(i64::MAX));
    let update = face("asleep", Disposition::Parked { wake_at });
    let more = Append { head: Some(update.clone()), ..append(created.id, 0, 1) };
    let appended = store.append(more).await?;
    let read = head(&*store, created.id).await?;
    assert_eq!((read.state, read.disposition), (update.state, update.disposition));
    assert_eq!((read.head_seq, read.updated_at), (2, appended.at));
    assert!(appended.at > read.created_at);
    Ok(())
}

pub async fn a_list_is_paged_newest_first(store: Arc<dyn Store>) -> Outcome {
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(create(&*store, new_run()).await?.id);
    }
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let page = |before, limit| store.list(RunFilter { before, limit, ..RunFilter::default() });
    let of = |page: &crate::Page| page.runs.iter().map(|head| head.id).collect::<Vec<RunId>>();
    let first = page(None, 25).await?;
    assert_eq!((of(&first), first.next), (ids[..25].to_vec(), Some(ids[24])));
    // A run that is added does not move the pages behind the cursor.
    let added = create(&*store, new_run()).await?.id;
    let second = page(first.next, 25).await?;
    assert_eq!(of(&second), ids[25..50]);
    let third = page(second.next, 25).await?;
    assert_eq!((of(&third), third.next), (ids[50..].to_vec(), None));
    let exact = page(second.next, 10).await?;
    assert_eq!((exact.runs.len(), exact.next), (10, None));
    assert_eq!(page(None, 0).await?.runs.len(), 50);
    assert_eq!(page(None, usize::MAX).await?.runs[0].id, added);
    Ok(())
}

pub async fn a_list_is_filtered(store: Arc<dyn Store>) -> Outcome {
    for (tenant, agent, state) in [
        ("acme", "clerk", "queued"),
        ("acme", "clerk", "done"),
        ("acme", "scout", "queued"),
        ("globex", "clerk", "failed"),
    ] {
        let mut run = new_run();
        tenant.clone_into(&mut run.tenant);
        agent.clone_into(&mut run.agent);
        state.clone_into(&mut run.head.state);
        create(&*store, run).await?;
    }
    let count = async |tenant: Option<&str>, agent: Option<&str>, states: &[&str]| {
        let filter = RunFilter {
            tenant: tenant.map(str::to_owned),
            agent: agent.map(str::to_owned),
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            ..RunFilter::default()
        };
        store.list(filter).await.map(|page| page.runs.len())
    };
    assert_eq!(count(None, None, &[]).await?, 4);
    assert_eq!(count(Some("acme"), None, &[]).await?, 3);
    assert_eq!(count(None, Some("clerk"), &[]).await?, 3);
    assert_eq!(count(Some("acme"), Some("clerk"), &["queued"]).await?, 1);
    assert_eq!(count(None, None, &["queued", "failed"]).await?, 3);
    assert_eq!(count(Some("nobody"), None, &[]).await?, 0);
    assert_eq!(count(Some("' OR 1=1 --"), None, &["'"]).await?, 0);
    Ok(())
}

pub async fn counting_stops_at_the_cap(store: Arc<dyn Store>) -> Outcome {
    for number in 0..7 {
        let mut run = new_run();
        (if number < 5 { "queued" } else { "done" }).clone_into(&mut run.head.state);
        create(&*store, run).await?;
    }
    let counts = |done, queued| vec![("done".to_owned(), done), ("queued".to_owned(), queued)];
    assert_eq!(store.count_by_state(100).await?, counts(2, 5));
    assert_eq!(store.count_by_state(3).await?, counts(2, 3));
    assert_eq!(store.count_by_state(u64::MAX).await?, counts(2, 5));
    Ok(())
}

pub async fn a_store_has_one_id(store: Arc<dyn Store>) -> Outcome {
    let id = store.id();
    assert_eq!(id.len(), 36);
    create(&*store, new_run()).await?;
    assert_eq!(store.id(), id);
    Ok(())
}
