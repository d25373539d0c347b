//! Who may talk to the server while it has no login: programs on this machine, and its own pages.
//!
//! A page of any site can make a browser on this machine send requests here. Two things stop it.
//! The `Host` must be a name of this machine, or a site could point its own name at 127.0.0.1 and
//! read the answers (DNS rebinding). And a request that may change something must not come from
//! another origin; browsers say so in `Sec-Fetch-Site` and `Origin`, programs send neither.

use std::time::Duration;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use steadfast_store::with_patience;

use super::is_page;
use super::problem::Problem;
use crate::console;

const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; \
                                       frame-ancestors 'none'; object-src 'none'";

/// How long a request waits for a database that cannot be reached before it is answered with 503. Runs
/// that are executed are more patient.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Headers of every answer.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Refuses what must not come in, says how long the rest may wait for the store, and puts the security
/// headers on every answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let page = is_page(request.uri().path());
    let mut response = match check(&request) {
        Ok(()) => with_patience(STORE_PATIENCE, next.run(request)).await,
        Err(problem) => problem.into_response(),
    };
    if page && let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = console::problem_page(&problem);
    }
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(request: &Request) -> Result<(), Problem> {
    let host = text(request.headers(), &header::HOST).ok_or_else(Problem::foreign_host)?;
    // A proxy may have looked at another `Host`, or at the name in the request line, than is looked at here.
    let is_the_only_one = request.headers().get_all(header::HOST).iter().count() == 1;
    let named = request.uri().authority().map_or(host, Authority::as_str);
    if !is_the_only_one || !is_this_machine(host) || !is_this_machine(named) {
        return Err(Problem::foreign_host());
    }
    if !request.method().is_safe() && is_cross_site(request.headers(), host) {
        return Err(Problem::cross_site());
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let known = ["localhost", "127.0.0.1", "[::1]"];
    !host.contains('@') && known.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    // `same-site` is not enough: every port of this machine is the same site.
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
