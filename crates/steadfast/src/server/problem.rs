//! Every refusal, as a problem document (RFC 9457): which status, which code, what to do.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use steadfast_runtime::RuntimeError;

/// A refusal.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: String) -> Self {
        Self {
            kind: format!("/errors/{code}"),
            title: status.canonical_reason().unwrap_or("error"),
            status: status.as_u16(),
            detail,
            code,
        }
    }

    pub(super) fn bad_run_id(text: &str) -> Self {
        let detail = format!("`{text}` is not the id of a run: it has the form of a UUID");
        Self::new(StatusCode::BAD_REQUEST, "invalid_input", detail)
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        let code = error.code();
        let status = match &error {
            RuntimeError::UnknownAgent { .. } | RuntimeError::UnknownRun { .. } => {
                StatusCode::NOT_FOUND
            }
            RuntimeError::WrongState { .. }
            | RuntimeError::Contended { .. }
            | RuntimeError::KeyConflict { .. } => StatusCode::CONFLICT,
            RuntimeError::InvalidInput { .. } => StatusCode::BAD_REQUEST,
            RuntimeError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                // The cause may name files of this machine: it goes to the log, not to the caller.
                tracing::error!(code, error = ?error, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let status = match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "wrong_content_type",
            _ => "invalid_input",
        };
        Self::new(status, code, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_input", rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
