//! Answers in one piece: a model's, a list, a refusal.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use steadfast_providers::wire::{Dialect, Failure, failure_body};
use steadfast_runtime::relay::WholeAnswer;
use tracing::debug;

/// What a whole answer cost.
const COST: HeaderName = HeaderName::from_static("x-steadfast-cost-nano-usd");

/// Where the provider's own id of a call goes: the usual header has ours.
const UPSTREAM_ID: HeaderName = HeaderName::from_static("x-steadfast-upstream-request-id");

fn respond(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Puts the call's id where the dialect's SDK looks for it.
pub(super) fn identified(dialect: Dialect, mut headers: HeaderMap, id: &str) -> HeaderMap {
    let name = HeaderName::from_static(dialect.request_id_header());
    if let Ok(id) = HeaderValue::from_str(id)
        && let Some(theirs) = headers.insert(name, id)
    {
        headers.insert(UPSTREAM_ID, theirs);
    }
    headers
}

/// A model's answer.
pub(super) fn whole(dialect: Dialect, answer: WholeAnswer, id: &str) -> Response {
    let WholeAnswer { headers, body, cost } = answer;
    let mut headers = identified(dialect, headers, id);
    if let Some(cost) = cost {
        headers.insert(COST, cost.nano().into());
    }
    respond(StatusCode::OK, headers, body)
}

/// A body of the server's own.
pub(super) fn json(dialect: Dialect, body: Bytes, id: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    respond(StatusCode::OK, identified(dialect, headers, id), body)
}

/// A refusal.
pub(super) fn refused(dialect: Dialect, mut failure: Failure, id: &str) -> Response {
    failure.request_id = Some(id.to_owned());
    let status = failure.status(dialect);
    debug!(request = id, status, why = failure.message, "a call was refused");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, failure.headers(dialect), failure_body(dialect, &failure))
}
