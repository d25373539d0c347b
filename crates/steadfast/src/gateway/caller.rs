//! Who a caller is.
//!
//! A caller with an access key is who the key says. While the server listens on loopback addresses only, one
//! without is let in unless `gateway.keys` is `required`: whatever else an SDK sends as a key is taken, and who
//! pays is what the caller says in headers.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use bytes::Bytes;
use steadfast_guard::Admitted;
use steadfast_providers::tokens;
use steadfast_providers::wire::{Failure, FailureKind, Peek, Wire};
use steadfast_runtime::ledger::Payer;
use steadfast_runtime::{AccessKey, KeyRefused, KeyRing};
use steadfast_store::Timestamp;

/// Who pays if the caller does not say.
const DEFAULT_TENANT: &str = "default";

/// Longest name in such a header, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What access keys begin with.
const KEY_PREFIX: &str = "sk-steadfast-";

/// Who calls.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) payer: Payer,
    pub(super) key: Option<Arc<AccessKey>>,
}

impl Caller {
    /// Who calls with these headers.
    pub(super) async fn identify(
        headers: &HeaderMap,
        keys: &KeyRing,
        now: Timestamp,
        keys_required: bool,
    ) -> Result<Self, Box<Failure>> {
        let named = Payer {
            tenant: named(headers, "x-steadfast-tenant")?
                .unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
            user: named(headers, "x-steadfast-user")?,
            agent: named(headers, "x-steadfast-agent")?,
            session: named(headers, "x-steadfast-session")?,
            operation: named(headers, "x-steadfast-operation")?,
            ..Payer::default()
        };
        let Some(secret) = secret(headers).filter(|secret| secret.starts_with(KEY_PREFIX)) else {
            if keys_required {
                let message = "an access key of Steadfast is required (`steadfast keys create`)";
                return Err(Failure::new(FailureKind::BadKey, message).into());
            }
            return Ok(Self { payer: named, key: None });
        };
        let key = keys.check(secret, now).await.map_err(|refused| refusal(&refused))?;
        let payer = Payer {
            tenant: key.spec.tenant.clone(),
            user: key.spec.user.clone().or(named.user),
            agent: key.spec.agent.clone().or(named.agent),
            key: Some(key.id.clone()),
            ..named
        };
        Ok(Self { payer, key: Some(key) })
    }

    /// A place for one call within the limits of the caller's key.
    pub(super) fn admit(
        &self,
        keys: &KeyRing,
        wire: Wire,
        body: &Bytes,
    ) -> Result<Option<Admitted>, Box<Failure>> {
        let Some(key) = &self.key else { return Ok(None) };
        let tokens = match key.spec.limits.tokens_per_minute {
            None => 0,
            Some(_) => {
                let peek = Peek::read(wire, body).map_err(|problem| Failure::from(&problem))?;
                tokens::upper_bound(body).saturating_add(peek.max_output_tokens.unwrap_or(0))
            }
        };
        keys.admit(key, tokens).map_err(|over| {
            let message = format!("key `{}`: {over}", key.id);
            let mut failure = Failure::new(FailureKind::RateLimited, message);
            failure.retry_after = Some(over.retry_after());
            failure.into()
        })
    }
}

/// What the caller shows, where the SDKs of both dialects put it.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Some programs leave the scheme out.
    let bearer = text(AUTHORIZATION.as_str()).map(|value| match value.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => secret.trim(),
        _ => value.trim(),
    });
    let is_ours = |secret: &&str| secret.starts_with(KEY_PREFIX);
    bearer.filter(is_ours).or_else(|| text("x-api-key")).or(bearer)
}

fn refusal(refused: &KeyRefused) -> Failure {
    let kind = match refused {
        KeyRefused::Unavailable(_) => FailureKind::Overloaded,
        _ => FailureKind::BadKey,
    };
    Failure::new(kind, refused.to_string())
}

fn named(headers: &HeaderMap, header: &str) -> Result<Option<String>, Box<Failure>> {
    let Some(value) = headers.get(header) else { return Ok(None) };
    let name = value.to_str().unwrap_or_default().trim();
    let is_one = headers.get_all(header).iter().count() == 1;
    let is_name = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_graphic());
    if is_one && is_name {
        return Ok(Some(name.to_owned()));
    }
    let message = format!(
        "`{header}` must be there once, with 1 to {NAME_BYTES_MAX} visible ASCII characters"
    );
    let kind = FailureKind::BadRequest { field: Some(header.to_owned()) };
    Err(Failure::new(kind, message).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steadfast_runtime::KeySpec;
    use steadfast_store::{MemoryStore, Store};

    use super::*;

    async fn identify(headers: &HeaderMap) -> Result<Caller, Box<Failure>> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        Caller::identify(headers, &KeyRing::new(store), Timestamp(0), false).await
    }

    #[tokio::test]
    async fn headers_say_who_pays_and_what_is_no_name_is_refused() {
        let mut headers = HeaderMap::new();
        let payer = identify(&headers).await.expect("nobody in particular").payer;
        assert_eq!((payer.tenant.as_str(), payer.session), ("default", None));
        headers.insert("x-steadfast-tenant", "acme".parse().expect("a value"));
        headers.insert("x-steadfast-session", "s1".parse().expect("a value"));
        let payer = identify(&headers).await.expect("named").payer;
        assert_eq!((payer.tenant.as_str(), payer.session.as_deref()), ("acme", Some("s1")));
        for wrong in ["", "a b", &"x".repeat(129)] {
            headers.insert("x-steadfast-user", wrong.parse().expect("a value"));
            let failure = identify(&headers).await.expect_err(wrong);
            assert!(failure.message.contains("x-steadfast-user"), "{}", failure.message);
        }
        headers.remove("x-steadfast-user");
        headers.append("x-steadfast-tenant", "other".parse().expect("a value"));
        assert!(identify(&headers).await.is_err(), "two tenants are none");
    }

    #[tokio::test]
    async fn who_shows_a_key_is_who_the_key_says() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let keys = KeyRing::new(Arc::clone(&store));
        let spec = KeySpec {
            name: "ci".to_owned(),
            tenant: "acme".to_owned(),
            models: vec!["small".to_owned()],
            ..KeySpec::default()
        };
        let issued = keys.create(spec).await.expect("made");
        for (header, value) in [
            ("authorization", format!("Bearer {}", issued.secret.expose())),
            ("x-api-key", issued.secret.expose().to_owned()),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-steadfast-tenant", "other".parse().expect("a value"));
            headers.insert(header, value.parse().expect("a value"));
            let caller = Caller::identify(&headers, &keys, store.now(), true).await.expect("known");
            assert_eq!(caller.payer.tenant, "acme");
            assert_eq!(caller.payer.key, Some(issued.key.id.clone()));
            assert!(caller.key.is_some_and(|key| key.allows("small") && !key.allows("large")));
            headers.insert(header, "sk-steadfast-nobody".parse().expect("a value"));
            let refused = Caller::identify(&headers, &keys, store.now(), false).await;
            assert_eq!(refused.expect_err("unknown").kind, FailureKind::BadKey);
        }
        let none = Caller::identify(&HeaderMap::new(), &keys, store.now(), true).await;
        assert_eq!(none.expect_err("required").kind, FailureKind::BadKey);
    }
}
