//! What an error on the wire means.
//!
//! The status alone is not enough: OpenAI answers 429 both for a rate limit and for an empty account,
//! Anthropic 400 both for a bad field and for a conversation that is too long, and an error inside a
//! stream has no status at all. So the provider's own code is looked at first, where it says more.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use steadfast_guard::{Classify, ErrorClass};

/// What went wrong on a wire, in the guard's words and in the provider's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFailure {
    /// What kind of thing it is.
    pub class: ErrorClass,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The provider's own type of error; empty if it gave none.
    pub kind: String,
    /// The provider's own code; empty if it gave none.
    pub code: String,
    /// What the provider said, or what happened on this side. Where it comes from an
    /// [`Upstream`](crate::wire::Upstream), no secret is in it.
    pub message: String,
    /// How long the provider asked us to wait.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for WireFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.status.map_or(Ok(()), |status| write!(f, " (HTTP {status})"))
    }
}

impl std::error::Error for WireFailure {}

impl Classify for WireFailure {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl WireFailure {
    /// A failure that no provider has told.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            status: None,
            kind: String::new(),
            code: String::new(),
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Malformed, message)
    }

    /// An error object inside a stream that began well.
    pub(crate) fn in_stream(body: &Value) -> Self {
        let said = Said::read(body);
        let message = format!("failed within the stream: {}", said.text());
        said.failure(None, message)
    }
}

/// What a provider says in an error body.
#[derive(Default)]
struct Said {
    kind: String,
    code: String,
    message: String,
}

impl Said {
    /// Reads `{"error": {...}}`, `{"error": "..."}` and the bare object; numbers as codes too.
    fn read(body: &Value) -> Self {
        let error = body.get("error").unwrap_or(body);
        if let Value::String(message) = error {
            return Self { message: message.clone(), ..Self::default() };
        }
        let field = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let mut message = field("message");
        if message.is_empty() {
            message = field("detail");
        }
        Self { kind: field("type"), code: field("code"), message }
    }

    fn failure(self, status: Option<u16>, message: String) -> WireFailure {
        let class = classify(status, &self);
        let (kind, code) = (self.kind, self.code);
        WireFailure { class, status, kind, code, message, retry_after: None }
    }

    fn text(&self) -> String {
        let label = if self.code.is_empty() { &self.kind } else { &self.code };
        match (label.is_empty(), self.message.is_empty()) {
            (false, false) => format!("{label}: {}", self.message),
            (false, true) => label.clone(),
            (true, false) => self.message.clone(),
            (true, true) => "no reason given".to_owned(),
        }
    }
}

/// The error for a response with a bad status.
pub(crate) fn from_status(status: u16, body: &[u8]) -> WireFailure {
    let (said, message) = match serde_json::from_slice::<Value>(body) {
        Ok(json) if json.is_object() => {
            let said = Said::read(&json);
            let text = if said.message.is_empty() { json.to_string() } else { said.text() };
            (said, text)
        }
        _ => {
            let text = String::from_utf8_lossy(body).trim().to_owned();
            let said = Said { message: text.clone(), ..Said::default() };
            (said, if text.is_empty() { "an empty error answer".to_owned() } else { text })
        }
    };
    let message = if (300..400).contains(&status) {
        format!("the provider redirects, which is not followed; check `base_url`: {message}")
    } else {
        message
    };
    said.failure(Some(status), message)
}

/// The error for a plain JSON answer where a stream was asked for.
pub(crate) fn from_unstreamed(status: u16, body: &[u8]) -> WireFailure {
    let mut error = match serde_json::from_slice::<Value>(body) {
        Ok(json) if json.get("error").is_some_and(|error| !error.is_null()) => {
            let said = Said::read(&json);
            let text = said.text();
            said.failure(None, text)
        }
        _ => WireFailure::malformed("asked for an event stream and got a plain JSON answer"),
    };
    error.status = Some(status);
    error
}

/// Where a request was lost that got no response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No connection could be opened.
    Connecting,
    /// The request could not be made.
    Building,
    /// The connection was there.
    Waiting,
}

/// The error for a request that got no response head. `place` is where it went: scheme, host and port.
pub(crate) fn from_transport(
    place: &str,
    lost: Lost,
    error: &dyn std::error::Error,
) -> WireFailure {
    let (class, what) = match lost {
        Lost::Connecting => {
            let what =
                format!("cannot connect to {place} (is it running, and is `base_url` right?)");
            (ErrorClass::Connection, what)
        }
        Lost::Building => (ErrorClass::Internal, "cannot build the request".to_owned()),
        // The request may have arrived. For a model that is a wasted answer and no harm, but it is
        // not a connection that was never there.
        Lost::Waiting => {
            (ErrorClass::Server, "the connection was lost before an answer".to_owned())
        }
    };
    WireFailure::new(class, format!("{what}: {}", super::chain(error)))
}

fn classify(status: Option<u16>, said: &Said) -> ErrorClass {
    let words = [said.code.as_str(), said.kind.as_str()];
    let is = |names: &[&str]| words.iter().any(|word| names.contains(word));
    let message = said.message.to_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    if is(&[
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_error",
        "billing_hard_limit_reached",
        "budget_exceeded",
    ]) || says(&["credit balance is too low"])
    {
        return ErrorClass::QuotaExhausted;
    }
    let may_be_context = matches!(status, None | Some(400 | 413 | 422));
    let context_words = ["prompt is too long", "maximum context length", "context window"];
    if is(&["context_length_exceeded", "model_context_window_exceeded"])
        || (may_be_context && says(&context_words))
    {
        return ErrorClass::ContextTooLong;
    }
    if is(&["content_filter", "content_policy_violation", "policy_denied"]) {
        return ErrorClass::Refused;
    }
    let overloaded = ["overloaded_error", "overloaded", "server_is_overloaded", "circuit_open"];
    if is(&overloaded) && status != Some(429) {
        return ErrorClass::Unavailable;
    }
    match status.or_else(|| said.code.parse().ok()) {
        Some(status) => by_status(status),
        None => by_word(&is),
    }
}

const fn by_status(status: u16) -> ErrorClass {
    match status {
        401 => ErrorClass::Authentication,
        402 => ErrorClass::QuotaExhausted,
        403 => ErrorClass::Permission,
        404 | 410 => ErrorClass::NotFound,
        408 | 504 | 524 => ErrorClass::Timeout,
        409 => ErrorClass::Conflict,
        429 => ErrorClass::RateLimited,
        503 | 529 => ErrorClass::Unavailable,
        500.. => ErrorClass::Server,
        _ => ErrorClass::InvalidRequest,
    }
}

fn by_word(is: &dyn Fn(&[&str]) -> bool) -> ErrorClass {
    if is(&["rate_limit_error", "rate_limit_exceeded", "slow_down"]) {
        ErrorClass::RateLimited
    } else if is(&["authentication_error", "invalid_api_key"]) {
        ErrorClass::Authentication
    } else if is(&["permission_error"]) {
        ErrorClass::Permission
    } else if is(&["not_found_error", "model_not_found"]) {
        ErrorClass::NotFound
    } else if is(&["timeout_error", "timeout", "upstream_timeout"]) {
        ErrorClass::Timeout
    } else if is(&["invalid_request_error", "request_too_large"]) {
        ErrorClass::InvalidRequest
    } else {
        ErrorClass::Server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expected: ErrorClass) {
        let error = from_status(status, body.as_bytes());
        assert_eq!(error.class, expected, "{status} {body}");
        assert_eq!(error.status, Some(status));
    }

    #[test]
    fn r6_each_status_has_its_class() {
        for (status, class) in [
            (301, ErrorClass::InvalidRequest),
            (400, ErrorClass::InvalidRequest),
            (401, ErrorClass::Authentication),
            (402, ErrorClass::QuotaExhausted),
            (403, ErrorClass::Permission),
            (404, ErrorClass::NotFound),
            (408, ErrorClass::Timeout),
            (409, ErrorClass::Conflict),
            (413, ErrorClass::InvalidRequest),
            (422, ErrorClass::InvalidRequest),
            (429, ErrorClass::RateLimited),
            (500, ErrorClass::Server),
            (502, ErrorClass::Server),
            (503, ErrorClass::Unavailable),
            (504, ErrorClass::Timeout),
            (529, ErrorClass::Unavailable),
        ] {
            check(status, "<html>", class);
            check(status, "{}", class);
        }
    }

    #[test]
    fn r6_the_providers_code_says_more_than_the_status() {
        check(429, r#"{"error":{"code":"insufficient_quota"}}"#, ErrorClass::QuotaExhausted);
        check(429, r#"{"error":{"type":"insufficient_quota"}}"#, ErrorClass::QuotaExhausted);
        check(429, r#"{"error":{"code":"credit_balance_exhausted"}}"#, ErrorClass::QuotaExhausted);
        check(400, r#"{"error":{"type":"billing_error"}}"#, ErrorClass::QuotaExhausted);
        check(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, ErrorClass::RateLimited);
        check(400, r#"{"error":{"code":"context_length_exceeded"}}"#, ErrorClass::ContextTooLong);
        check(
            413,
            r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}"#,
            ErrorClass::ContextTooLong,
        );
        check(413, r#"{"error":{"type":"request_too_large"}}"#, ErrorClass::InvalidRequest);
        check(500, r#"{"error":{"type":"overloaded_error"}}"#, ErrorClass::Unavailable);
        check(400, r#"{"error":{"code":"content_filter"}}"#, ErrorClass::Refused);
    }

    #[test]
    fn an_error_inside_a_stream_is_classified_without_a_status() {
        for (body, class) in [
            (r#"{"error":{"type":"overloaded_error"}}"#, ErrorClass::Unavailable),
            (r#"{"error":{"type":"rate_limit_error"}}"#, ErrorClass::RateLimited),
            (r#"{"error":{"type":"api_error"}}"#, ErrorClass::Server),
            (r#"{"error":{"code":429,"message":"slow"}}"#, ErrorClass::RateLimited),
            (r#"{"error":"boom"}"#, ErrorClass::Server),
            (r#"{"error":{"code":"context_length_exceeded"}}"#, ErrorClass::ContextTooLong),
        ] {
            let error = WireFailure::in_stream(&serde_json::from_str(body).unwrap());
            assert_eq!(error.class, class, "{body}");
        }
    }
}
