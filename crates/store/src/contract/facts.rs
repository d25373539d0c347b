//! Checks of [`Facts`](crate::Facts).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Outcome, append, assert_refused, create, new_run};
use crate::{Append, FACT_BYTES_MAX, Fact, FactFilter, FactName, FactWrite, Store, StoreError};

fn name(scope: &str, key: &str) -> FactName {
    FactName { scope: scope.to_owned(), key: key.to_owned() }
}

fn write(scope: &str, key: &str, value: &'static str) -> FactWrite {
    let value = Some(Bytes::from_static(value.as_bytes()));
    FactWrite { name: name(scope, key), value, keep: None }
}

fn forget(scope: &str, key: &str) -> FactWrite {
    FactWrite { name: name(scope, key), value: None, keep: None }
}

fn keys(facts: &[Fact]) -> Vec<&str> {
    facts.iter().map(|fact| fact.key.as_str()).collect()
}

pub async fn c13_a_fact_is_what_was_written_last(store: Arc<dyn Store>) -> Outcome {
    assert_eq!(store.fact(&name("acme", "city")).await?, None);
    store.write_facts(vec![write("acme", "city", "Bern")]).await?;
    store.write_facts(vec![write("acme", "city", "Basel"), write("globex", "city", "Ulm")]).await?;
    let fact = store.fact(&name("acme", "city")).await?;
    let fact = fact.map(|fact| (fact.value, fact.version, fact.expires_at));
    assert_eq!(fact, Some((Bytes::from_static(b"Basel"), 2, None)));
    assert_eq!(store.fact(&name("globex", "city")).await?.map(|fact| fact.version), Some(1));
    store.write_facts(vec![forget("acme", "city"), forget("acme", "nothing")]).await?;
    assert_eq!(store.fact(&name("acme", "city")).await?, None);
    store.write_facts(vec![write("acme", "city", "Chur")]).await?;
    assert_eq!(store.fact(&name("acme", "city")).await?.map(|fact| fact.version), Some(1));
    Ok(())
}

pub async fn c13_facts_are_written_with_the_events_of_a_run(store: Arc<dyn Store>) -> Outcome {
    let run = create(&*store, new_run()).await?.id;
    let facts = vec![write("acme", "city", "Bern")];
    let refused = Append { facts: facts.clone(), ..append(run, 5, 1) };
    assert_refused!(store.append(refused).await, StoreError::Fenced { .. });
    assert_eq!(store.fact(&name("acme", "city")).await?, None);
    store.append(Append { facts, ..append(run, 0, 1) }).await?;
    assert!(store.fact(&name("acme", "city")).await?.is_some());
    Ok(())
}

pub async fn c13_facts_are_listed_by_scope_and_prefix(store: Arc<dyn Store>) -> Outcome {
    let written = ["a/1", "a/2", "a_3", "b", "ä"].map(|key| write("acme", key, "x"));
    store.write_facts(written.to_vec()).await?;
    store.write_facts(vec![write("globex", "a/9", "x")]).await?;
    let of = |prefix: &str, after: Option<&str>, limit| FactFilter {
        scope: "acme".to_owned(),
        prefix: prefix.to_owned(),
        after: after.map(str::to_owned),
        limit,
    };
    assert_eq!(keys(&store.facts(of("", None, 0)).await?), ["a/1", "a/2", "a_3", "b", "ä"]);
    assert_eq!(keys(&store.facts(of("a/", None, 0)).await?), ["a/1", "a/2"]);
    assert_eq!(keys(&store.facts(of("a", Some("a/1"), 1)).await?), ["a/2"]);
    assert_eq!(store.facts(FactFilter::default()).await?, []);
    Ok(())
}

pub async fn c13_a_fact_holds_for_its_time(store: Arc<dyn Store>) -> Outcome {
    let keep = Some(Duration::from_millis(20));
    let short = FactWrite { keep, ..write("acme", "mood", "good") };
    store.write_facts(vec![short, write("acme", "name", "Ada")]).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.fact(&name("acme", "mood")).await?, None);
    let all = || FactFilter { scope: "acme".to_owned(), ..FactFilter::default() };
    assert_eq!(keys(&store.facts(all()).await?), ["name"]);
    store.write_facts(vec![write("acme", "mood", "new")]).await?;
    assert_eq!(store.fact(&name("acme", "mood")).await?.map(|fact| fact.version), Some(1));
    assert_eq!(store.purge_facts(10).await?, 0);
    let short = FactWrite { keep, ..write("acme", "mood", "good") };
    store.write_facts(vec![short]).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((store.purge_facts(10).await?, store.purge_facts(10).await?), (1, 0));
    Ok(())
}

pub async fn a_fact_that_is_too_large_is_refused(store: Arc<dyn Store>) -> Outcome {
    let value = Some(Bytes::from(vec![0; FACT_BYTES_MAX + 1]));
    let large = FactWrite { value, ..write("acme", "x", "") };
    let facts = vec![write("acme", "y", "small"), large];
    assert_refused!(store.write_facts(facts).await, StoreError::Misuse { .. });
    assert_eq!(store.fact(&name("acme", "y")).await?, None);
    Ok(())
}
