//! Access keys on two nodes that share a database.

use std::sync::Arc;
use std::time::Duration;

use steadfast_runtime::{
    Catalog, FactQuery, FactScope, KeyEdit, KeyRefused, KeySpec, Runtime, RuntimeOptions,
    SEEN_WITHIN,
};
use steadfast_store::{PostgresOptions, PostgresStore, Store};
use tokio::time::Instant;

use crate::postgres_server::{Server, fresh_schema, shared};

async fn node(server: &Server, schema: &str) -> Runtime {
    let options = PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::default() };
    let store: Arc<dyn Store> =
        Arc::new(PostgresStore::connect(&server.url(), options).await.expect("opens"));
    let catalog = Catalog::builder().build().expect("fits together");
    Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts")
}

async fn met(node: &Runtime, secret: &str) -> &'static str {
    match node.keys().check(secret, node.store().now()).await {
        Ok(key) => key.state.as_str(),
        Err(refused @ KeyRefused::Unavailable(_)) => panic!("{refused}"),
        Err(refused) => refused.code(),
    }
}

/// Asks until a node says so. No question that is asked after the stated time is answered otherwise.
async fn until(node: &Runtime, secret: &str, expected: &str) {
    let since = Instant::now();
    loop {
        let before = since.elapsed();
        let said = met(node, secret).await;
        if said == expected {
            return;
        }
        assert!(before <= SEEN_WITHIN, "after {before:?} it is still {said}, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_on_one_node_is_heeded_on_the_other_within_the_stated_time() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let (here, there) = (node(server, &schema).await, node(server, &schema).await);
    let spec = KeySpec { name: "ci".to_owned(), tenant: "acme".to_owned(), ..KeySpec::default() };
    let issued = here.keys().create(spec).await.expect("is made");
    let (id, secret) = (issued.key.id.as_str(), issued.secret.expose());
    until(&there, secret, "active").await;
    let disabled = KeyEdit { disabled: Some(true), ..KeyEdit::default() };
    there.keys().edit(id, disabled).await.expect("is disabled");
    assert_eq!(met(&there, secret).await, "key_disabled", "at once on the node that did it");
    until(&here, secret, "key_disabled").await;
    let enabled = KeyEdit { disabled: Some(false), ..KeyEdit::default() };
    there.keys().edit(id, enabled).await.expect("is enabled");
    until(&here, secret, "active").await;
    let second = there.keys().rotate(id, Duration::ZERO, None).await.expect("rotates");
    until(&here, secret, "invalid_key").await;
    until(&here, second.secret.expose(), "active").await;
    here.keys().revoke(id).await.expect("is revoked");
    assert_eq!(met(&here, second.secret.expose()).await, "key_revoked");
    until(&there, second.secret.expose(), "key_revoked").await;
    // An edit that was decided on before does not bring it back.
    let late = KeyEdit { name: Some("late".to_owned()), ..KeyEdit::default() };
    there.keys().edit(id, late).await.expect_err("is revoked");
    assert_eq!(met(&there, second.secret.expose()).await, "key_revoked");
    let facts = here.facts(FactScope::Tenant { tenant: "acme".to_owned() });
    assert!(facts.list(FactQuery::default()).await.expect("lists").is_empty());
    for node in [here, there] {
        node.shutdown().await.expect("stops");
    }
}
