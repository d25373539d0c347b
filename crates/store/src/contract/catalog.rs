//! Checks of [`Catalog`](crate::Catalog).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, append, assert_refused, create, face, head, new_run};
use crate::{Append, Caps, Disposition, NodeId, RunFilter, RunId, Store, StoreError, Timestamp};

pub async fn an_empty_store_has_nothing(store: Arc<dyn Store>) -> Outcome {
    let page = store.list(RunFilter::default()).await?;
    assert_eq!((page.runs.len(), page.next), (0, None));
    assert_eq!(store.count_by_state(10).await?, []);
    assert_eq!(store.next_wake().await?, None);
    let node = NodeId::generate();
    store.retire(&node).await?;
    store.renew(&node, Duration::from_secs(60)).await?;
    assert_eq!(store.claim(&node, 10, &Caps::default()).await?, []);
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

pub async fn a_list_is_filtered_by_what_a_run_is_labelled_with(store: Arc<dyn Store>) -> Outcome {
    let mut child = new_run();
    child.session = Some("s-1".to_owned());
    child.tags = vec!["eu".to_owned(), "night".to_owned()];
    child.parent = Some(RunId::generate());
    let parent = child.parent;
    let child = create(&*store, child).await?;
    create(&*store, new_run()).await?;
    assert_eq!((child.session.as_deref(), child.tags.len()), (Some("s-1"), 2));
    assert_eq!(head(&*store, child.id).await?, child);
    let found = async |filter: RunFilter| {
        let page = store.list(filter).await?;
        Ok::<_, StoreError>(page.runs.iter().map(|run| run.id).collect::<Vec<_>>())
    };
    let any = RunFilter::default;
    assert_eq!(found(RunFilter { session: child.session.clone(), ..any() }).await?, [child.id]);
    assert_eq!(found(RunFilter { tag: Some("night".to_owned()), ..any() }).await?, [child.id]);
    assert_eq!(found(RunFilter { tag: Some("nigh".to_owned()), ..any() }).await?, []);
    assert_eq!(found(RunFilter { parent, ..any() }).await?, [child.id]);
    let at = child.created_at.0;
    let since = |at| RunFilter { since: Some(Timestamp(at)), ..any() };
    let until = |at| RunFilter { until: Some(Timestamp(at)), ..any() };
    assert_eq!(found(since(at)).await?.len(), 2);
    assert_eq!(found(since(at + 1_000_000)).await?, []);
    assert_eq!(found(until(at)).await?, []);
    assert_eq!(found(until(at + 1_000_000)).await?.len(), 2);
    Ok(())
}

pub async fn runs_are_found_by_words_of_their_text(store: Arc<dyn Store>) -> Outcome {
    let texts = ["Refund order 4711, 50% off", "把报告翻译成英文", "say \"hello\"_there", ""];
    for text in texts {
        let mut run = new_run();
        text.clone_into(&mut run.text);
        create(&*store, run).await?;
    }
    let found = async |words: &[&str]| {
        let text = words.iter().map(|word| (*word).to_owned()).collect();
        store.list(RunFilter { text, ..RunFilter::default() }).await.map(|page| page.runs.len())
    };
    for (words, count) in [
        (&["refund"] as &[&str], 1),
        (&["ORDER", "4711"], 1),
        (&["order", "4712"], 0),
        (&["翻译"], 1),
        (&["翻译成英文"], 1),
        (&["0%"], 1),
        (&["5_"], 0),
        (&["\"hello\"_"], 1),
        (&["x' OR 1=1 --"], 0),
        (&["e"], 2),
        (&[], 4),
    ] {
        assert_eq!(found(words).await?, count, "{words:?}");
    }
    Ok(())
}

pub async fn c12_a_problem_is_shown_and_filtered_by(store: Arc<dyn Store>) -> Outcome {
    let run = create(&*store, new_run()).await?;
    create(&*store, new_run()).await?;
    let found = async |problems: &[&str], any_problem| {
        let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
        let filter = RunFilter { problems, any_problem, ..RunFilter::default() };
        store.list(filter).await.map(|page| page.runs.len())
    };
    assert_eq!(found(&[], true).await?, 0);
    store.flag(run.id, Some("stuck".to_owned())).await?;
    assert_eq!(head(&*store, run.id).await?.problem.as_deref(), Some("stuck"));
    assert_eq!((found(&[], true).await?, found(&["stuck"], false).await?), (1, 1));
    assert_eq!(found(&["other"], true).await?, 0);
    let mut update = face("queued", Disposition::Ready);
    store.append(Append { head: Some(update.clone()), ..append(run.id, 0, 1) }).await?;
    assert_eq!(head(&*store, run.id).await?.problem, None);
    update.problem = Some("costly".to_owned());
    store.append(Append { head: Some(update), ..append(run.id, 0, 2) }).await?;
    assert_eq!(found(&["costly", "stuck"], false).await?, 1);
    let unknown = RunId::generate();
    assert_refused!(store.flag(unknown, None).await, StoreError::NotFound { run } if run == unknown);
    Ok(())
}
