//! Errors as clients see them: problem details of RFC 9457, each with a stable code.
//!
//! What failed inside (the store, a damaged log) is named by its code only; the details are in the
//! server's log, because they may tell paths and payloads that the client has no business with.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use steadfast_runtime::RuntimeError;
use steadfast_store::StoreError;

/// Seconds after which a refused client may try again: about what a restart takes.
const RETRY_AFTER_S: &str = "5";

/// The media type of a problem.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    kind: String,
    /// The same for every problem of this code.
    title: &'static str,
    /// The HTTP status.
    #[serde(serialize_with = "status_number")]
    pub(crate) status: StatusCode,
    /// What happened this time and what to do.
    pub(crate) detail: String,
    /// The stable code.
    pub(crate) code: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn status_number<S: serde::Serializer>(
    status: &StatusCode,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: String) -> Self {
        Self { kind: format!("/errors/{code}"), title, status, detail, code }
    }

    pub(crate) fn unknown_route(path: &str) -> Self {
        let detail = format!("there is nothing at `{path}`; `/openapi.json` lists what there is");
        Self::new(StatusCode::NOT_FOUND, "unknown_route", "No such route", detail)
    }

    pub(crate) fn wrong_method(method: &Method, path: &str) -> Self {
        let detail =
            format!("`{path}` does not take {method}; the `Allow` header says what it takes");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "Method not allowed", detail)
    }

    pub(crate) fn bad_run_id(text: &str) -> Self {
        let detail = format!(
            "`{text}` is no run id: give the UUID that submitting returned, such as \
             `01936f3e-7c3a-7b1e-9d5a-2f6c8a4b0e17`"
        );
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Request not understood", detail)
    }

    pub(crate) fn bad_query(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Request not understood", detail)
    }

    pub(crate) fn bad_last_event_id(text: &str) -> Self {
        let detail = format!("`Last-Event-ID` is `{text}`; it must be the number of an event");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Request not understood", detail)
    }

    pub(crate) fn malformed_json(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", "Body does not fit", detail)
    }

    pub(crate) fn bad_body(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", "Body does not fit", detail)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let detail = "send the body as JSON, with `Content-Type: application/json`".to_owned();
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported_media_type", "Body is not JSON", detail)
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        let detail = format!(
            "the body is longer than {limit} bytes; put large things where a tool can read them"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", detail)
    }

    pub(crate) fn unreadable_body() -> Self {
        let detail = "the body ended early or broke off; send it again".to_owned();
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", "Body does not fit", detail)
    }

    pub(crate) fn foreign_host() -> Self {
        let detail = "this server answers on this machine only: call it as `localhost`, \
                      `127.0.0.1` or `[::1]`"
            .to_owned();
        Self::new(StatusCode::FORBIDDEN, "foreign_host", "Host not served", detail)
    }

    pub(crate) fn cross_site() -> Self {
        let detail = "a page of another site sent this; commands are taken from this server's own \
                      pages and from programs"
            .to_owned();
        Self::new(StatusCode::FORBIDDEN, "cross_site", "Cross-site request refused", detail)
    }

    pub(crate) fn unknown_guard(name: &str, known: &[&str]) -> Self {
        let detail = format!("there is no guard `{name}`; there are: {}", known.join(", "));
        Self::new(StatusCode::NOT_FOUND, "unknown_guard", "No such guard", detail)
    }

    pub(crate) fn unknown_action(action: &str) -> Self {
        let detail = format!(
            "`{action}` cannot be done to a breaker: use `open`, `close`, `measure` or `auto`"
        );
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Request not understood", detail)
    }

    pub(crate) fn unknown_fact(key: &str) -> Self {
        let detail =
            format!("nothing is known under `{key}`; `steadfast facts list` shows what is");
        Self::new(StatusCode::NOT_FOUND, "unknown_fact", "No such fact", detail)
    }

    pub(crate) fn unknown_code(code: &str) -> Self {
        let detail = format!("there is no error `{code}`; the list is in the documentation");
        Self::new(StatusCode::NOT_FOUND, "unknown_route", "No such route", detail)
    }

    fn database_away() -> Self {
        let detail = "the database that keeps the runs cannot be reached, or does not answer; the \
                      server's log says why. What was acknowledged is kept; a command that got this \
                      answer may or may not have taken effect. The server goes on by itself once the \
                      database is back: ask again then"
            .to_owned();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "store_unavailable", "The database cannot be reached", detail)
    }

    pub(crate) fn page_failed() -> Self {
        let detail = "the page could not be built; the server's log says why".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "page_failed", "Page failed", detail)
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        use RuntimeError as E;
        let code = error.code();
        let (status, title) = match &error {
            E::UnknownSchedule { .. } => (StatusCode::NOT_FOUND, "No such schedule"),
            E::UnknownAgent { .. } => (StatusCode::NOT_FOUND, "No such agent"),
            E::UnknownKey { .. } => (StatusCode::NOT_FOUND, "No such key"),
            E::KeyRevoked { .. } => (StatusCode::CONFLICT, "The key is revoked"),
            E::KeyRotated { .. } => (StatusCode::CONFLICT, "The key was rotated meanwhile"),
            E::UnknownRun { .. } => (StatusCode::NOT_FOUND, "No such run"),
            E::WrongState { .. } => (StatusCode::CONFLICT, "Not possible in this state"),
            E::NotAsking { .. } => (StatusCode::CONFLICT, "It does not ask that"),
            E::NotListening { .. } => (StatusCode::CONFLICT, "It hears no signals"),
            E::Contended { .. } => (StatusCode::CONFLICT, "The run kept changing"),
            E::KeyConflict { .. } => (StatusCode::CONFLICT, "Key used before"),
            E::InvalidInput { .. } => (StatusCode::BAD_REQUEST, "Input not acceptable"),
            E::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "Shutting down"),
            E::Store(store @ StoreError::Unavailable { .. }) => {
                tracing::error!(code, error = &error as &dyn std::error::Error, "a request failed");
                if store.is_database_away() {
                    return Self::database_away();
                }
                let detail = "the store could not be read or written; the server's log says why. \
                              What was acknowledged is kept; a command that got this answer may \
                              or may not have taken effect"
                    .to_owned();
                let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "The store is unavailable");
                return Self::new(status, code, title, detail);
            }
            E::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The store failed"),
            E::NoRandomness { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "No random numbers"),
            E::Fold(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The run's log is damaged"),
            // Also what a later release of the runtime may add.
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        };
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(code, error = &error as &dyn std::error::Error, "a request failed");
            let detail = format!("this failed inside the server: see its log for `{code}`");
            return Self::new(status, code, title, detail);
        }
        Self::new(status, code, title, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(&self)).into_response();
        // Where a person looks, the gate makes a page of it.
        response.extensions_mut().insert(self);
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static(RETRY_AFTER_S);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
