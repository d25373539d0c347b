//! Who a caller is.
//!
//! The server listens on loopback addresses only and has no keys of its own yet: whatever key an SDK sends
//! is taken, and who pays is what the caller says in headers. Keys that are checked will be checked here.

use axum::http::HeaderMap;
use steadfast_providers::wire::{Failure, FailureKind};
use steadfast_runtime::ledger::Payer;

/// Who pays if the caller does not say.
const DEFAULT_TENANT: &str = "default";

/// Longest name in such a header, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Finds out who calls.
pub(super) struct Caller;

impl Caller {
    /// Who pays for a call with these headers.
    pub(super) fn identify(headers: &HeaderMap) -> Result<Payer, Box<Failure>> {
        Ok(Payer {
            tenant: named(headers, "x-steadfast-tenant")?
                .unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
            user: named(headers, "x-steadfast-user")?,
            agent: named(headers, "x-steadfast-agent")?,
            session: named(headers, "x-steadfast-session")?,
            operation: named(headers, "x-steadfast-operation")?,
            ..Payer::default()
        })
    }
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
    use super::*;

    #[test]
    fn headers_say_who_pays_and_what_is_no_name_is_refused() {
        let mut headers = HeaderMap::new();
        let payer = Caller::identify(&headers).expect("nobody in particular");
        assert_eq!((payer.tenant.as_str(), payer.session), ("default", None));
        headers.insert("x-steadfast-tenant", "acme".parse().expect("a value"));
        headers.insert("x-steadfast-session", "s1".parse().expect("a value"));
        let payer = Caller::identify(&headers).expect("named");
        assert_eq!((payer.tenant.as_str(), payer.session.as_deref()), ("acme", Some("s1")));
        for wrong in ["", "a b", &"x".repeat(129)] {
            headers.insert("x-steadfast-user", wrong.parse().expect("a value"));
            let failure = Caller::identify(&headers).expect_err(wrong);
            assert!(failure.message.contains("x-steadfast-user"), "{}", failure.message);
        }
        headers.remove("x-steadfast-user");
        headers.append("x-steadfast-tenant", "other".parse().expect("a value"));
        assert!(Caller::identify(&headers).is_err(), "two tenants are none");
    }
}
