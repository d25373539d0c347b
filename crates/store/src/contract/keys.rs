//! Checks of [`Keys`](crate::Keys).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Outcome, append, assert_refused, create, face, new_run};
use crate::{
    Append, BlobHash, Disposition, KeyClaim, KeyEnd, KeyName, KeySettlement, KeyStanding, NodeId,
    Prune, Store, StoreError, VALUE_BYTES_MAX,
};

const LONG: Duration = Duration::from_secs(3600);

fn name(key: &str) -> KeyName {
    KeyName { scope: "acme/pay".to_owned(), key: key.to_owned() }
}

fn claim(owner: &str, key: &str) -> KeyClaim {
    KeyClaim {
        name: name(key),
        digest: BlobHash::of(b"12 EUR"),
        owner: owner.to_owned(),
        node: NodeId::from("nobody".to_owned()),
        seize: None,
    }
}

fn recorded(owner: &str, key: &str, answer: &'static str, keep: Duration) -> KeySettlement {
    let end = KeyEnd::Recorded { answer: Bytes::from_static(answer.as_bytes()), keep };
    KeySettlement { name: name(key), owner: owner.to_owned(), end }
}

fn assert_settled(standing: &KeyStanding, expected: &str) {
    assert!(
        matches!(standing, KeyStanding::Settled { answer, .. } if answer == expected),
        "expected the answer {expected}, got {standing:?}"
    );
}

fn assert_in_flight(standing: &KeyStanding, expected: &str) {
    assert!(
        matches!(standing, KeyStanding::InFlight { owner, .. } if owner == expected),
        "expected {expected} at work, got {standing:?}"
    );
}

pub async fn r11_a_key_is_claimed_once_and_answered_ever_after(store: Arc<dyn Store>) -> Outcome {
    assert_eq!(store.claim_key(claim("a", "k")).await?, KeyStanding::Claimed);
    assert_in_flight(&store.claim_key(claim("b", "k")).await?, "a");
    store.settle_key(recorded("a", "k", "paid", LONG)).await?;
    for owner in ["a", "b", "c"] {
        assert_settled(&store.claim_key(claim(owner, "k")).await?, "paid");
    }
    let mut elsewhere = claim("b", "k");
    elsewhere.name.scope = "other/pay".to_owned();
    assert_eq!(store.claim_key(elsewhere).await?, KeyStanding::Claimed);
    assert_eq!(store.claim_key(claim("b", "K")).await?, KeyStanding::Claimed);
    Ok(())
}

pub async fn r11_the_same_key_for_something_else_is_a_conflict(store: Arc<dyn Store>) -> Outcome {
    let other = |owner| KeyClaim { digest: BlobHash::of(b"13 EUR"), ..claim(owner, "k") };
    store.claim_key(claim("a", "k")).await?;
    for owner in ["a", "b"] {
        let standing = store.claim_key(other(owner)).await?;
        assert!(matches!(standing, KeyStanding::Conflict { .. }), "{standing:?}");
    }
    store.settle_key(recorded("a", "k", "paid", LONG)).await?;
    let standing = store.claim_key(other("b")).await?;
    assert!(matches!(standing, KeyStanding::Conflict { .. }), "{standing:?}");
    assert_settled(&store.claim_key(claim("b", "k")).await?, "paid");
    Ok(())
}

pub async fn r11_a_released_key_is_free_again(store: Arc<dyn Store>) -> Outcome {
    store.claim_key(claim("a", "k")).await?;
    let release = |owner: &str| KeySettlement {
        name: name("k"),
        owner: owner.to_owned(),
        end: KeyEnd::Released,
    };
    store.settle_key(release("b")).await?;
    assert_in_flight(&store.claim_key(claim("b", "k")).await?, "a");
    store.settle_key(release("a")).await?;
    let other = KeyClaim { digest: BlobHash::of(b"13 EUR"), ..claim("b", "k") };
    assert_eq!(store.claim_key(other).await?, KeyStanding::Claimed);
    // what was never claimed can be released too
    store.settle_key(KeySettlement { name: name("?"), ..release("a") }).await
}

pub async fn r11_an_owner_may_claim_again_what_it_has_claimed(store: Arc<dyn Store>) -> Outcome {
    store.claim_key(claim("a", "k")).await?;
    assert_eq!(store.claim_key(claim("a", "k")).await?, KeyStanding::Claimed);
    assert_in_flight(&store.claim_key(claim("b", "k")).await?, "a");
    Ok(())
}

pub async fn r11_only_a_named_owner_is_seized_from(store: Arc<dyn Store>) -> Outcome {
    let seize = |owner, from: &str| KeyClaim { seize: Some(from.to_owned()), ..claim(owner, "k") };
    store.claim_key(claim("a", "k")).await?;
    assert_in_flight(&store.claim_key(seize("b", "c")).await?, "a");
    assert_eq!(store.claim_key(seize("b", "a")).await?, KeyStanding::Claimed);
    assert_in_flight(&store.claim_key(seize("c", "a")).await?, "b");
    store.settle_key(recorded("b", "k", "paid", LONG)).await?;
    assert_settled(&store.claim_key(seize("c", "b")).await?, "paid");
    Ok(())
}

pub async fn r11_who_asks_is_told_whether_the_owners_node_lives(store: Arc<dyn Store>) -> Outcome {
    let node = NodeId::generate();
    store.renew(&node, LONG).await?;
    store.claim_key(KeyClaim { node: node.clone(), ..claim("a", "k") }).await?;
    let alive = store.claim_key(claim("b", "k")).await?;
    assert!(matches!(alive, KeyStanding::InFlight { alive: true, .. }), "{alive:?}");
    store.retire(&node).await?;
    let gone = store.claim_key(claim("b", "k")).await?;
    assert!(matches!(gone, KeyStanding::InFlight { alive: false, .. }), "{gone:?}");
    Ok(())
}

pub async fn r11_a_settlement_by_a_former_owner_changes_nothing(store: Arc<dyn Store>) -> Outcome {
    store.claim_key(claim("a", "k")).await?;
    store.claim_key(KeyClaim { seize: Some("a".to_owned()), ..claim("b", "k") }).await?;
    store.settle_key(recorded("a", "k", "late", LONG)).await?;
    assert_in_flight(&store.claim_key(claim("c", "k")).await?, "b");
    store.settle_key(recorded("b", "k", "paid", LONG)).await?;
    assert_settled(&store.claim_key(claim("c", "k")).await?, "paid");
    Ok(())
}

pub async fn r11_a_recorded_answer_never_changes(store: Arc<dyn Store>) -> Outcome {
    store.claim_key(claim("a", "k")).await?;
    store.settle_key(recorded("a", "k", "", LONG)).await?;
    store.settle_key(recorded("a", "k", "twice", LONG)).await?;
    let release = KeySettlement { end: KeyEnd::Released, ..recorded("a", "k", "", LONG) };
    store.settle_key(release).await?;
    assert_settled(&store.claim_key(claim("a", "k")).await?, "");
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let end = KeyEnd::Recorded { answer: large, keep: LONG };
    let large = KeySettlement { end, ..recorded("a", "k", "", LONG) };
    assert_refused!(store.settle_key(large).await, StoreError::Misuse { .. });
    Ok(())
}

pub async fn r11_an_append_settles_its_keys_with_its_events(store: Arc<dyn Store>) -> Outcome {
    let run = create(&*store, new_run()).await?.id;
    store.claim_key(claim("a", "k")).await?;
    let keys = vec![recorded("a", "k", "paid", LONG)];
    // a fenced append settles nothing
    let fenced = Append { keys: keys.clone(), ..append(run, 7, 1) };
    assert_refused!(store.append(fenced).await, StoreError::Fenced { .. });
    assert_in_flight(&store.claim_key(claim("b", "k")).await?, "a");
    store.append(Append { keys, ..append(run, 0, 1) }).await?;
    assert_settled(&store.claim_key(claim("b", "k")).await?, "paid");
    // settling alone is something to write
    store.claim_key(claim("a", "l")).await?;
    let keys = vec![recorded("a", "l", "paid", LONG)];
    store.append(Append { keys, events: Vec::new(), ..append(run, 0, 2) }).await?;
    assert_settled(&store.claim_key(claim("b", "l")).await?, "paid");
    Ok(())
}

pub async fn r11_an_answer_outlives_the_run_that_it_came_with(store: Arc<dyn Store>) -> Outcome {
    let run = create(&*store, new_run()).await?.id;
    store.claim_key(claim("a", "k")).await?;
    let keys = vec![recorded("a", "k", "paid", LONG)];
    let head = Some(face("succeeded", Disposition::Ended));
    store.append(Append { keys, head, ..append(run, 0, 1) }).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let all = Prune { states: Vec::new(), ended_before: store.now(), limit: 9 };
    assert_eq!(store.prune(&all).await?.runs, 1);
    assert_settled(&store.claim_key(claim("b", "k")).await?, "paid");
    Ok(())
}

pub async fn r11_an_answer_is_forgotten_after_its_time(store: Arc<dyn Store>) -> Outcome {
    let short = Duration::from_secs(2);
    for (key, keep) in [("s", short), ("t", short), ("l", LONG)] {
        store.claim_key(claim("a", key)).await?;
        store.settle_key(recorded("a", key, "paid", keep)).await?;
    }
    store.claim_key(claim("a", "open")).await?;
    assert_eq!(store.purge_keys(9).await?, 0);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // it is not answered with even before it is purged
    assert_eq!(store.claim_key(claim("b", "s")).await?, KeyStanding::Claimed);
    assert_eq!(store.purge_keys(9).await?, 1);
    assert_eq!(store.claim_key(claim("b", "t")).await?, KeyStanding::Claimed);
    assert_settled(&store.claim_key(claim("b", "l")).await?, "paid");
    assert_in_flight(&store.claim_key(claim("b", "open")).await?, "a");
    Ok(())
}

pub async fn r11_of_many_claims_at_once_one_wins(store: Arc<dyn Store>) -> Outcome {
    let mut tasks = JoinSet::new();
    for number in 0..32 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { store.claim_key(claim(&number.to_string(), "k")).await });
    }
    let standings = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let claimed = standings.iter().filter(|standing| **standing == KeyStanding::Claimed).count();
    let waiting = |standing: &&KeyStanding| matches!(standing, KeyStanding::InFlight { .. });
    assert_eq!((claimed, standings.iter().filter(waiting).count()), (1, 31));
    Ok(())
}
