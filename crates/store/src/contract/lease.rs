//! Checks of [`Leases`](crate::Leases).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Outcome, append, assert_refused, create, face, head, new_run};
use crate::{
    Append, Caps, Disposition, Fence, NodeId, RunFilter, RunHead, RunId, Store, StoreError,
    Timestamp,
};

const LONG: Duration = Duration::from_secs(600);
/// Long enough that a busy machine gets several writes done before it is over.
const SHORT: Duration = Duration::from_secs(2);
const LONGER_THAN_SHORT: Duration = Duration::from_millis(2500);

async fn node(store: &dyn Store, ttl: Duration) -> Result<NodeId, StoreError> {
    let node = NodeId::generate();
    store.renew(&node, ttl).await?;
    Ok(node)
}

async fn ready(store: &dyn Store, priority: i32) -> Result<RunId, StoreError> {
    let mut run = new_run();
    run.priority = priority;
    Ok(create(store, run).await?.id)
}

fn ids(heads: &[RunHead]) -> Vec<RunId> {
    heads.iter().map(|head| head.id).collect()
}

pub async fn a_claim_takes_by_priority_then_by_waiting(store: Arc<dyn Store>) -> Outcome {
    let first = ready(&*store, 0).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = ready(&*store, 0).await?;
    let low = ready(&*store, -1).await?;
    let high = ready(&*store, 7).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // What changed its card last has waited least.
    let touch = Append { head: Some(face("queued", Disposition::Ready)), ..append(first, 0, 1) };
    store.append(touch).await?;
    let node = node(&*store, LONG).await?;
    assert_eq!(store.claim(&node, 0, &Caps::default()).await?, []);
    assert_eq!(ids(&store.claim(&node, 2, &Caps::default()).await?), [high, second]);
    assert_eq!(ids(&store.claim(&node, usize::MAX, &Caps::default()).await?), [first, low]);
    assert_eq!(store.claim(&node, 9, &Caps::default()).await?, []);
    Ok(())
}

pub async fn a_claim_raises_the_epoch(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let node = node(&*store, LONG).await?;
    let claimed = store.claim(&node, 1, &Caps::default()).await?;
    assert_eq!(claimed, [head(&*store, id).await?]);
    assert_eq!((claimed[0].epoch, claimed[0].disposition), (1, Disposition::Held));
    assert_eq!((claimed[0].owner.as_ref(), claimed[0].head_seq), (Some(&node), 1));
    let back = Append { head: Some(face("queued", Disposition::Ready)), ..append(id, 1, 1) };
    store.append(back).await?;
    assert_eq!(head(&*store, id).await?.owner, None);
    assert_eq!(store.claim(&node, 1, &Caps::default()).await?[0].epoch, 2);
    Ok(())
}

pub async fn a_node_without_a_lease_claims_nothing(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let stranger = NodeId::generate();
    assert_refused!(store.claim(&stranger, 1, &Caps::default()).await, StoreError::NodeLost { ref node } if *node == stranger);
    assert_eq!(head(&*store, id).await?.epoch, 0);
    Ok(())
}

pub async fn an_expired_node_loses_its_runs_and_its_name(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let dead = node(&*store, SHORT).await?;
    assert_eq!(ids(&store.claim(&dead, 1, &Caps::default()).await?), [id]);
    let living = node(&*store, LONG).await?;
    tokio::time::sleep(LONGER_THAN_SHORT).await;
    assert_refused!(store.renew(&dead, LONG).await, StoreError::NodeLost { ref node } if *node == dead);
    assert_refused!(store.claim(&dead, 1, &Caps::default()).await, StoreError::NodeLost { .. });
    let taken = store.claim(&living, 1, &Caps::default()).await?;
    assert_eq!((taken[0].epoch, taken[0].owner.as_ref()), (2, Some(&living)));
    assert_refused!(store.append(append(id, 1, 1)).await, StoreError::Fenced { .. });
    assert_refused!(store.renew(&dead, LONG).await, StoreError::NodeLost { .. });
    Ok(())
}

pub async fn a_renewed_node_keeps_its_runs(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let keeper = node(&*store, SHORT).await?;
    let other = node(&*store, LONG).await?;
    assert_eq!(ids(&store.claim(&keeper, 1, &Caps::default()).await?), [id]);
    store.renew(&keeper, LONG).await?;
    tokio::time::sleep(LONGER_THAN_SHORT).await;
    assert_eq!(store.claim(&other, 1, &Caps::default()).await?, []);
    assert_eq!(store.claim(&keeper, 1, &Caps::default()).await?, []);
    store.append(append(id, 1, 1)).await?;
    Ok(())
}

pub async fn a_retired_node_gives_its_runs_back(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let leaver = node(&*store, LONG).await?;
    let other = node(&*store, LONG).await?;
    store.claim(&leaver, 1, &Caps::default()).await?;
    store.retire(&leaver).await?;
    let given = head(&*store, id).await?;
    assert_eq!((given.disposition, given.owner), (Disposition::Ready, None));
    assert_refused!(store.claim(&leaver, 1, &Caps::default()).await, StoreError::NodeLost { .. });
    assert_eq!(store.claim(&other, 1, &Caps::default()).await?[0].epoch, 2);
    assert_refused!(store.append(append(id, 1, 1)).await, StoreError::Fenced { .. });
    Ok(())
}

pub async fn a_released_run_is_ready_at_once(store: Arc<dyn Store>) -> Outcome {
    let (kept, given) = (ready(&*store, 1).await?, ready(&*store, 0).await?);
    let holder = node(&*store, LONG).await?;
    assert_eq!(ids(&store.claim(&holder, 9, &Caps::default()).await?), [kept, given]);
    store.release(given, 1).await?;
    let back = head(&*store, given).await?;
    assert_eq!((back.disposition, back.owner, back.epoch), (Disposition::Ready, None, 1));
    assert_eq!(head(&*store, kept).await?.owner.as_ref(), Some(&holder));
    let other = node(&*store, LONG).await?;
    let taken = store.claim(&other, 9, &Caps::default()).await?;
    assert_eq!((ids(&taken), taken[0].epoch), (vec![given], 2));
    assert_refused!(store.append(append(given, 1, 1)).await, StoreError::Fenced { .. });
    store.append(append(kept, 1, 1)).await?;
    Ok(())
}

pub async fn a_release_under_an_old_epoch_changes_nothing(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let holder = node(&*store, LONG).await?;
    let before = head(&*store, id).await?;
    // not held at all
    store.release(id, 0).await?;
    assert_eq!(head(&*store, id).await?, before);
    store.claim(&holder, 1, &Caps::default()).await?;
    let held = head(&*store, id).await?;
    for epoch in [0, 2, u64::MAX] {
        store.release(id, epoch).await?;
    }
    store.release(RunId::generate(), 1).await?;
    assert_eq!(head(&*store, id).await?, held);
    store.release(id, 1).await?;
    // twice is as good as once
    store.release(id, 1).await?;
    store.claim(&holder, 1, &Caps::default()).await?;
    store.release(id, 1).await?;
    assert_eq!(head(&*store, id).await?.owner, Some(holder));
    let end = Append { head: Some(face("done", Disposition::Ended)), ..append(id, 2, 1) };
    store.append(end).await?;
    store.release(id, 2).await?;
    assert_eq!(head(&*store, id).await?.disposition, Disposition::Ended);
    Ok(())
}

pub async fn a_parked_run_wakes_at_its_time(store: Arc<dyn Store>) -> Outcome {
    let park = |wake_at| {
        let mut run = new_run();
        run.head.disposition = Disposition::Parked { wake_at };
        run
    };
    let node = node(&*store, LONG).await?;
    let soon = Timestamp(store.now().0 + 20);
    let sleeper = create(&*store, park(Some(soon))).await?.id;
    create(&*store, park(None)).await?;
    create(&*store, park(Some(Timestamp(i64::MAX)))).await?;
    assert_eq!(store.next_wake().await?, Some(soon));
    tokio::time::sleep(LONGER_THAN_SHORT).await;
    assert_eq!(ids(&store.claim(&node, 9, &Caps::default()).await?), [sleeper]);
    assert_eq!(head(&*store, sleeper).await?.disposition, Disposition::Held);
    Ok(())
}

pub async fn the_next_wake_is_the_earliest(store: Arc<dyn Store>) -> Outcome {
    let started = store.now();
    let idle = node(&*store, LONG).await?;
    assert_eq!(store.next_wake().await?, None);
    ready(&*store, 0).await?;
    store.claim(&idle, 1, &Caps::default()).await?;
    let Some(expiry) = store.next_wake().await? else {
        assert!(store.next_wake().await?.is_some(), "a lease that holds a run is a time to wake");
        return Ok(());
    };
    assert!(expiry.0 >= started.0 + 600_000);
    let mut run = new_run();
    let earlier = Timestamp(expiry.0 - 1);
    run.head.disposition = Disposition::Parked { wake_at: Some(earlier) };
    create(&*store, run).await?;
    assert_eq!(store.next_wake().await?, Some(earlier));
    Ok(())
}

pub async fn one_run_is_claimed_by_one_node(store: Arc<dyn Store>) -> Outcome {
    for _ in 0..20 {
        ready(&*store, 0).await?;
    }
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let node = node(&*store, LONG).await?;
            store.claim(&node, 5, &Caps::default()).await
        });
    }
    let mut claimed = Vec::new();
    for heads in tasks.join_all().await {
        claimed.extend(ids(&heads?));
    }
    assert_eq!(claimed.len(), 20);
    claimed.sort_unstable();
    claimed.dedup();
    assert_eq!(claimed.len(), 20);
    Ok(())
}

pub async fn an_expired_owner_writes_nothing_before_the_next_claim_either(
    store: Arc<dyn Store>,
) -> Outcome {
    let (first, second) = (ready(&*store, 1).await?, ready(&*store, 0).await?);
    let dead = node(&*store, SHORT).await?;
    store.claim(&dead, 2, &Caps::default()).await?;
    let living = node(&*store, LONG).await?;
    tokio::time::sleep(LONGER_THAN_SHORT).await;
    assert_eq!(ids(&store.claim(&living, 1, &Caps::default()).await?), [first]);
    assert_eq!(head(&*store, second).await?.disposition, Disposition::Ready);
    assert_refused!(store.append(append(second, 1, 1)).await, StoreError::Fenced { .. });
    Ok(())
}

pub async fn c5_tenants_take_turns(store: Arc<dyn Store>) -> Outcome {
    let of = |tenant: &str| {
        let mut run = new_run();
        tenant.clone_into(&mut run.tenant);
        run
    };
    for _ in 0..6 {
        create(&*store, of("big")).await?;
    }
    for tenant in ["small", "tiny"] {
        create(&*store, of(tenant)).await?;
    }
    let node = node(&*store, LONG).await?;
    let mut served = Vec::new();
    for _ in 0..4 {
        let claimed = store.claim(&node, 1, &Caps::default()).await?;
        served.extend(claimed.into_iter().map(|head| head.tenant));
    }
    assert_eq!(served, ["big", "small", "tiny", "big"]);
    // What has ended no longer counts; who was served longest ago goes first.
    create(&*store, of("small")).await?;
    for run in store.list(RunFilter::default()).await?.runs {
        if run.disposition == Disposition::Held {
            let end =
                Append { head: Some(face("done", Disposition::Ended)), ..append(run.id, 1, 1) };
            store.append(end).await?;
        }
    }
    assert_eq!(store.claim(&node, 1, &Caps::default()).await?[0].tenant, "small");
    Ok(())
}

pub async fn g12_caps_hold_over_all_nodes(store: Arc<dyn Store>) -> Outcome {
    let caps = Caps {
        per_tenant: Some(2),
        tenants: [("globex".to_owned(), 1)].into(),
        agents: [("slow".to_owned(), 1)].into(),
    };
    for (tenant, agent) in [("acme", "clerk"), ("acme", "slow"), ("globex", "clerk")] {
        for _ in 0..4 {
            let mut run = new_run();
            tenant.clone_into(&mut run.tenant);
            agent.clone_into(&mut run.agent);
            create(&*store, run).await?;
        }
    }
    let (one, other) = (node(&*store, LONG).await?, node(&*store, LONG).await?);
    let mut held = store.claim(&one, 2, &caps).await?;
    held.extend(store.claim(&other, 99, &caps).await?);
    let count = |tenant: &str, agent: &str| {
        held.iter().filter(|run| run.tenant == tenant && run.agent.contains(agent)).count()
    };
    assert_eq!((held.len(), count("acme", ""), count("globex", "")), (3, 2, 1));
    assert!(count("acme", "slow") <= 1);
    assert_eq!(store.claim(&one, 99, &caps).await?, []);
    store.retire(&other).await?;
    assert!(!store.claim(&one, 99, &caps).await?.is_empty());
    Ok(())
}

pub async fn c5_waiting_is_worth_priority(store: Arc<dyn Store>) -> Outcome {
    let park = |priority, wake_at: i64| {
        let mut run = new_run();
        run.priority = priority;
        run.head.disposition = Disposition::Parked { wake_at: Some(Timestamp(wake_at)) };
        run
    };
    let now = store.now().0;
    let patient = create(&*store, park(0, now - 61_000)).await?.id;
    let urgent = create(&*store, park(1, now)).await?.id;
    let late = create(&*store, park(0, now - 1_000)).await?.id;
    let node = node(&*store, LONG).await?;
    assert_eq!(ids(&store.claim(&node, 9, &Caps::default()).await?), [patient, urgent, late]);
    Ok(())
}

pub async fn c5_an_interrupted_run_goes_before_what_came_after_it(
    store: Arc<dyn Store>,
) -> Outcome {
    let caps = Caps { agents: [("clerk".to_owned(), 3)].into(), ..Caps::default() };
    let (of_dead, of_leaver) = (ready(&*store, 0).await?, ready(&*store, 0).await?);
    let given_back = ready(&*store, 0).await?;
    let (dead, leaver) = (node(&*store, SHORT).await?, node(&*store, LONG).await?);
    assert_eq!(ids(&store.claim(&dead, 1, &caps).await?), [of_dead]);
    assert_eq!(ids(&store.claim(&leaver, 1, &caps).await?), [of_leaver]);
    let living = node(&*store, LONG).await?;
    assert_eq!(ids(&store.claim(&living, 1, &caps).await?), [given_back]);
    let fresh = ready(&*store, 0).await?;
    // Each works, and its card changes, after the fresh one has lined up.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for (id, state) in [(of_dead, "running"), (of_leaver, "running"), (given_back, "asking")] {
        let work = Append { head: Some(face(state, Disposition::Held)), ..append(id, 1, 1) };
        store.append(work).await?;
    }
    tokio::time::sleep(LONGER_THAN_SHORT).await;
    store.retire(&leaver).await?;
    store.release(given_back, 1).await?;
    let heir = node(&*store, LONG).await?;
    assert_eq!(ids(&store.claim(&heir, 9, &caps).await?), [of_dead, of_leaver, given_back]);
    // As often as it happens.
    store.retire(&heir).await?;
    let urgent = ready(&*store, 1).await?;
    let all = [urgent, of_dead, of_leaver, given_back, fresh];
    assert_eq!(ids(&store.claim(&living, 9, &Caps::default()).await?), all);
    Ok(())
}

pub async fn a_paused_run_is_claimed_by_nobody(store: Arc<dyn Store>) -> Outcome {
    let id = ready(&*store, 0).await?;
    let node = node(&*store, LONG).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    let pause = Append {
        fence: Fence::Seize,
        head: Some(face("paused", Disposition::Paused)),
        ..append(id, 0, 1)
    };
    store.append(pause).await?;
    assert_eq!(store.claim(&node, 1, &Caps::default()).await?, []);
    let paused = head(&*store, id).await?;
    assert_eq!((paused.disposition, paused.owner), (Disposition::Paused, None));
    Ok(())
}
