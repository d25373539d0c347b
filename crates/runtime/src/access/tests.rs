//! Keys on a store in memory: who is let in, who is not, and what is told.

use std::sync::Arc;
use std::time::Duration;

use steadfast_store::{FactFilter, MemoryStore, Store, Timestamp};
use tokio::time::advance;

use super::limits::KeyLimiters;
use super::*;
use crate::error::RuntimeError;
use crate::memory::FactScope;

const MINUTE_MS: i64 = 60 * 1000;

fn spec() -> KeySpec {
    KeySpec { name: "ci".to_owned(), tenant: "acme".to_owned(), ..KeySpec::default() }
}

fn ring() -> (Arc<dyn Store>, KeyRing) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    (Arc::clone(&store), KeyRing::new(store))
}

async fn create(ring: &KeyRing, spec: KeySpec) -> (String, String) {
    let issued = ring.create(spec).await.expect("is made");
    (issued.key.id, issued.secret.expose().to_owned())
}

fn later(store: &Arc<dyn Store>, by_ms: i64) -> Timestamp {
    Timestamp(store.now().0 + by_ms)
}

/// The code of what a secret meets; `active` if it lets in.
async fn met(ring: &KeyRing, secret: &str, now: Timestamp) -> &'static str {
    match ring.check(secret, now).await {
        Ok(key) => key.state.as_str(),
        Err(refused) => refused.code(),
    }
}

async fn facts(store: &Arc<dyn Store>) -> Vec<(String, String)> {
    let filter = FactFilter { scope: "access-keys".to_owned(), ..FactFilter::default() };
    let facts = store.facts(filter).await.expect("reads");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    facts.iter().map(|fact| (fact.key.clone(), text(&fact.value))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_lets_in_with_its_secret_and_with_no_other() {
    let (store, ring) = ring();
    let (id, secret) = create(&ring, spec()).await;
    let (other, _) = create(&ring, spec()).await;
    let now = store.now();
    let key = ring.check(&secret, now).await.expect("lets in");
    assert_eq!((&key.id, &*key.spec.tenant, key.state), (&id, "acme", KeyState::Active));
    let mut wrong = secret.clone();
    let last = if wrong.pop() == Some('A') { 'E' } else { 'A' };
    wrong.push(last);
    let unknown = secret.replace(&id, "k_0000000000");
    let refused = ring.check(&wrong, now).await.expect_err("one letter is another").to_string();
    for secret in [&unknown, &secret.replace(&id, &other)] {
        let said = ring.check(secret, now).await.expect_err("is nobody's");
        assert_eq!((said.to_string(), said.code()), (refused.clone(), "invalid_key"));
    }
    for text in ["", "sk-other", &secret[..40]] {
        let said = ring.check(text, now).await.expect_err("is no secret");
        assert!(matches!(said, KeyRefused::Malformed), "{said}");
    }
    assert_eq!(met(&ring, &secret, now).await, "active", "guesses harm nobody");
}

#[tokio::test(start_paused = true)]
async fn only_a_right_secret_is_told_why_its_key_is_good_for_nothing() {
    let (store, ring) = ring();
    let end = Some(later(&store, MINUTE_MS));
    let (id, secret) = create(&ring, KeySpec { expires_at: end, ..spec() }).await;
    let wrong = format!("{}{}", &secret[..secret.len() - 4], "AAAA");
    let (now, after) = (store.now(), later(&store, 2 * MINUTE_MS));
    assert_eq!(met(&ring, &secret, now).await, "active");
    assert_eq!(met(&ring, &secret, after).await, "key_expired");
    let disable = |disabled| KeyEdit { disabled: Some(disabled), ..KeyEdit::default() };
    ring.edit(&id, disable(true)).await.expect("is disabled");
    assert_eq!(met(&ring, &secret, now).await, "key_disabled");
    ring.edit(&id, disable(false)).await.expect("is enabled");
    assert_eq!(met(&ring, &secret, now).await, "active");
    let endless = KeyEdit { expires_at: Some(None), ..KeyEdit::default() };
    ring.edit(&id, endless).await.expect("does not end");
    assert_eq!(met(&ring, &secret, after).await, "active");
    let revoked = ring.revoke(&id).await.expect("is revoked");
    assert_eq!(ring.revoke(&id).await.expect("revoked once"), revoked);
    assert_eq!(met(&ring, &secret, now).await, "key_revoked");
    for now in [now, after] {
        assert_eq!(met(&ring, &wrong, now).await, "invalid_key");
    }
    for done in [
        ring.edit(&id, disable(false)).await.map(drop),
        ring.rotate(&id, Duration::ZERO, None).await.map(drop),
    ] {
        assert!(matches!(done, Err(RuntimeError::KeyRevoked { .. })), "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_leaves_the_secret_before_its_grace() {
    let (store, ring) = ring();
    let (id, first) = create(&ring, spec()).await;
    let grace = Duration::from_secs(60);
    let second = ring.rotate(&id, grace, Some(1)).await.expect("rotates");
    assert_eq!((second.key.secrets, second.key.old_secrets_until.len()), (2, 1));
    let second = second.secret.expose().to_owned();
    let (now, after) = (store.now(), later(&store, 2 * MINUTE_MS));
    assert_eq!(
        (met(&ring, &first, now).await, met(&ring, &second, now).await),
        ("active", "active")
    );
    assert_eq!(met(&ring, &first, after).await, "invalid_key", "its grace is over");
    assert_eq!(met(&ring, &second, after).await, "active");
    let twice = ring.rotate(&id, grace, Some(1)).await.expect_err("meant once");
    assert!(matches!(twice, RuntimeError::KeyRotated { .. }), "{twice}");
    for _ in 1..OLD_SECRETS_MAX {
        ring.rotate(&id, grace, None).await.expect("there is room");
    }
    let full = ring.rotate(&id, grace, None).await.expect_err("too many").to_string();
    assert!(full.contains("without grace"), "{full}");
    assert_eq!(met(&ring, &first, store.now()).await, "active", "what has grace keeps it");
    let last = ring.rotate(&id, Duration::ZERO, None).await.expect("ends them all");
    assert!(last.key.old_secrets_until.is_empty() && last.key.rotated_at.is_some());
    for ended in [&first, &second] {
        assert_eq!(met(&ring, ended, store.now()).await, "invalid_key");
    }
    assert_eq!(met(&ring, last.secret.expose(), store.now()).await, "active");
}

#[tokio::test(start_paused = true)]
async fn another_node_heeds_a_change_within_the_stated_time() {
    let (store, here) = ring();
    let there = KeyRing::new(Arc::clone(&store));
    let (id, secret) = create(&here, spec()).await;
    assert_eq!(met(&there, &secret, store.now()).await, "active");
    here.revoke(&id).await.expect("is revoked");
    assert_eq!(met(&here, &secret, store.now()).await, "key_revoked", "here at once");
    assert_eq!(met(&there, &secret, store.now()).await, "active", "there it is remembered");
    advance(SEEN_WITHIN).await;
    assert_eq!(met(&there, &secret, store.now()).await, "key_revoked");
    // That there is no such key is remembered no longer.
    let unknown = "sk-steadfast-k_0000000000-".to_owned() + &"A".repeat(43);
    assert_eq!(met(&there, &unknown, store.now()).await, "invalid_key");
}

#[tokio::test(start_paused = true)]
async fn guessing_fills_no_memory_and_drives_out_no_key() {
    let (store, ring) = ring();
    let (_, secret) = create(&ring, spec()).await;
    assert_eq!(met(&ring, &secret, store.now()).await, "active");
    for guess in 0..6_000 {
        let guess = format!("sk-steadfast-k_{guess:010}-{}", "A".repeat(43));
        assert_eq!(met(&ring, &guess, store.now()).await, "invalid_key");
    }
    let (known, unknown) = ring.remembers();
    assert_eq!(known, 1);
    assert!(unknown <= 4_096, "{unknown}");
    assert_eq!(facts(&store).await.len(), 2, "and nothing is written");
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_kept_and_no_fact_of_a_tenant_reaches_what_is() {
    let (store, ring) = ring();
    let issued = ring.create(spec()).await.expect("is made");
    let (id, secret) = (issued.key.id.clone(), issued.secret.expose());
    let random = &secret[secret.len() - 43..];
    let refused = ring.check(&secret.replace(&id, "k_0000000000"), store.now()).await;
    let shown = serde_json::to_string(&issued.key).expect("JSON");
    let told = format!("{issued:?} {shown} {refused:?} {ring:?} {:?}", facts(&store).await);
    assert!(told.contains(&id) && !told.contains(random), "{told}");
    let hash = secret::hash(secret).to_hex();
    assert!(!shown.contains(hash.as_str()), "what is kept of it is nobody's business either");
    for name in ["access-keys", "", "/access-keys", "../access-keys", "%"] {
        let (tenant, other) = (name.to_owned(), name.to_owned());
        for scope in [
            FactScope::Tenant { tenant: tenant.clone() },
            FactScope::Agent { tenant: tenant.clone(), agent: other.clone() },
            FactScope::Session { tenant: tenant.clone(), session: other.clone() },
        ] {
            assert_ne!(scope.stored(), "access-keys");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn uses_are_noted_now_and_then_and_outlive_the_node() {
    let (store, ring) = ring();
    let (id, secret) = create(&ring, spec()).await;
    let used = |store: &Arc<dyn Store>| {
        let (ring, id) = (KeyRing::new(Arc::clone(store)), id.clone());
        async move { ring.key(&id).await.expect("is there").last_used_at }
    };
    let first = store.now();
    for after in [0, MINUTE_MS, 9 * MINUTE_MS] {
        let now = Timestamp(first.0 + after);
        assert_eq!(met(&ring, &secret, now).await, "active");
        ring.write_uses().await.expect("writes");
        assert_eq!(used(&store).await, Some(first));
    }
    let next = Timestamp(first.0 + 10 * MINUTE_MS);
    assert_eq!(met(&ring, &secret, next).await, "active");
    assert_eq!(used(&store).await, Some(first), "not on the way of a call");
    ring.write_uses().await.expect("writes");
    assert_eq!(used(&store).await, Some(next));
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_by_pages_whatever_has_been_done_with_them() {
    let (store, ring) = ring();
    let mut ids = Vec::new();
    for number in 0..7 {
        let tenant = if number % 2 == 0 { "acme" } else { "other" }.to_owned();
        let (id, secret) = create(&ring, KeySpec { tenant, ..spec() }).await;
        if number == 3 {
            ring.revoke(&id).await.expect("is revoked");
        } else {
            assert_eq!(met(&ring, &secret, store.now()).await, "active");
        }
        ids.push(id);
    }
    ring.write_uses().await.expect("writes");
    ids.sort_unstable();
    let mut query = KeyQuery { limit: 3, ..KeyQuery::default() };
    let mut listed = Vec::new();
    loop {
        let (page, next) = ring.list(query.clone()).await.expect("lists");
        assert!(page.len() <= 3);
        listed.extend(page.into_iter().map(|key| key.id));
        query.after = next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ids);
    let of_acme = KeyQuery { tenant: Some("acme".to_owned()), ..KeyQuery::default() };
    let (page, next) = ring.list(of_acme).await.expect("lists");
    assert!(page.len() == 4 && page.iter().all(|key| key.spec.tenant == "acme") && next.is_none());
    for id in ["k_0000000000", "", "k_", "x/y"] {
        let unknown = ring.key(id).await.expect_err("is no key");
        assert!(matches!(unknown, RuntimeError::UnknownKey { .. }), "{unknown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_whole_where_a_page_of_entries_ends_within_a_key() {
    let (store, ring) = ring();
    // Three entries each: 1000 is not divided by it.
    let mut ids = Vec::new();
    for _ in 0..400 {
        let (id, _) = create(&ring, spec()).await;
        ring.revoke(&id).await.expect("is revoked");
        ids.push(id);
    }
    ids.sort_unstable();
    let query = KeyQuery { limit: 500, ..KeyQuery::default() };
    let (page, next) = ring.list(query).await.expect("lists");
    assert!(page.iter().all(|key| key.state == KeyState::Revoked) && next.is_none());
    assert_eq!(page.into_iter().map(|key| key.id).collect::<Vec<_>>(), ids);
    drop(store);
}

#[test]
fn what_no_key_can_be_is_refused_with_its_field() {
    let long = "x".repeat(129);
    let limits = |at_once| KeyLimits { at_once, ..KeyLimits::default() };
    let budget = |window: &str, usd: Option<&str>| {
        let usd = usd.map(str::to_owned);
        Some(KeyBudget { window: window.to_owned(), tokens: None, usd })
    };
    for (spec, word) in [
        (KeySpec { name: String::new(), ..spec() }, "`name`"),
        (KeySpec { tenant: "a\nb".to_owned(), ..spec() }, "`tenant`"),
        (KeySpec { user: Some(long), ..spec() }, "`user`"),
        (KeySpec { agent: Some(String::new()), ..spec() }, "`agent`"),
        (KeySpec { models: vec!["a*b".to_owned()], ..spec() }, "`a*b`"),
        (KeySpec { models: vec!["m".to_owned(); 101], ..spec() }, "101 models"),
        (KeySpec { limits: limits(Some(0)), ..spec() }, "`at_once` is 0"),
        (KeySpec { budget: budget("year", Some("1")), ..spec() }, "hour, day"),
        (KeySpec { budget: budget("day", None), ..spec() }, "`tokens`"),
        (KeySpec { budget: budget("day", Some("1,5")), ..spec() }, "`1,5`"),
        (KeySpec { budget: budget("day", Some("0.1234567891")), ..spec() }, "nine decimals"),
    ] {
        let refused = spec.check().expect_err(word).to_string();
        assert!(refused.contains(word), "{refused}");
    }
    assert!(KeySpec { budget: budget("day", Some("12.50")), ..spec() }.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_over_already_is_not_made() {
    let (store, ring) = ring();
    let over = KeySpec { expires_at: Some(store.now()), ..spec() };
    let refused = ring.create(over).await.expect_err("is over").to_string();
    assert!(refused.contains("`expires_at`"), "{refused}");
    assert!(facts(&store).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_calls_the_models_that_it_names_and_every_model_if_it_names_none() {
    let (_store, ring) = ring();
    let models = vec!["small".to_owned(), "team-*".to_owned()];
    let key = ring.create(KeySpec { models, ..spec() }).await.expect("is made").key;
    for (model, allowed) in [("small", true), ("team-x", true), ("smaller", false), ("x", false)] {
        assert_eq!(key.allows(model), allowed, "{model}");
    }
    assert!(ring.create(spec()).await.expect("is made").key.allows("x"));
}

#[test]
fn an_edit_tells_absent_from_null() {
    let edit: KeyEdit = serde_json::from_str(r#"{"user":null,"at_once":2}"#).expect("an edit");
    assert_eq!((&edit.user, &edit.agent, edit.at_once), (&Some(None), &None, Some(Some(2))));
    assert_eq!(serde_json::to_string(&edit).expect("JSON"), r#"{"user":null,"at_once":2}"#);
    assert!(serde_json::from_str::<KeyEdit>(r#"{"tenant":"other"}"#).is_err());
    let mut spec = KeySpec { user: Some("u".to_owned()), agent: Some("a".to_owned()), ..spec() };
    edit.apply(&mut spec);
    assert_eq!((spec.user, spec.agent.as_deref(), spec.limits.at_once), (None, Some("a"), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_held_to_its_limits_and_to_changed_ones_at_once() {
    let (store, ring) = ring();
    let limits = KeyLimits { requests_per_minute: Some(2), ..KeyLimits::default() };
    let (id, secret) = create(&ring, KeySpec { limits, ..spec() }).await;
    let key = ring.check(&secret, store.now()).await.expect("lets in");
    for _ in 0..2 {
        assert!(ring.admit(&key, 10).expect("goes").is_some());
    }
    let refused = ring.admit(&key, 10).expect_err("no third");
    assert!(refused.retry_after() > Duration::from_secs(29), "{refused}");
    let wider = KeyEdit { requests_per_minute: Some(Some(4)), ..KeyEdit::default() };
    ring.edit(&id, wider).await.expect("changes");
    let key = ring.check(&secret, store.now()).await.expect("lets in");
    for _ in 0..2 {
        assert!(ring.admit(&key, 10).expect("what was used stays used").is_some());
    }
    assert!(ring.admit(&key, 10).is_err());
    let none = KeyEdit { requests_per_minute: Some(None), ..KeyEdit::default() };
    let key = ring.edit(&id, none).await.expect("changes");
    assert!(ring.admit(&key, 10).expect("has no limits").is_none());
}

#[tokio::test(start_paused = true)]
async fn limiters_of_keys_that_are_not_in_use_are_forgotten_and_no_other() {
    let (_store, ring) = ring();
    let limits = KeyLimits { at_once: Some(1), ..KeyLimits::default() };
    let mut key = ring.create(KeySpec { limits, ..spec() }).await.expect("is made").key;
    let limiters = KeyLimiters::default();
    let held_id = key.id.clone();
    let held = limiters.admit(&key, 0).expect("goes");
    for number in 0..5_000 {
        key.id = format!("k_{number:010}");
        drop(limiters.admit(&key, 0).expect("goes"));
    }
    assert!(limiters.len() <= 2_048, "{}", limiters.len());
    key.id = held_id;
    assert!(limiters.admit(&key, 0).is_err(), "its call is still under way");
    drop(held);
    assert!(limiters.admit(&key, 0).is_ok());
}
