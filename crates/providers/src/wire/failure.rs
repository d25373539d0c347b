//! What the gateway answers when there is no answer: status, headers and body, in the caller's dialect.
//!
//! The official SDKs try again after 408, 409, 429 and every status from 500 on, and sleep for as long as
//! `retry-after` says, some without a limit. So whatever was already tried here, may have been billed or
//! will not be better tomorrow carries `x-should-retry: false`, and no wait beyond
//! [`MAX_RETRY_AFTER`] is ever told in a header that an SDK sleeps by. A budget that is spent is 402,
//! which no SDK repeats; as 429 it is repeated by every layer above.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use steadfast_guard::ErrorClass;

use super::{Dialect, Wire, WireFailure, WireProblem};

/// The longest wait that an SDK is asked for; a longer one is not retried by it.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum FailureKind {
    /// The gateway does not know the key.
    BadKey,
    /// The key may not use this model or tool.
    NotAllowed,
    /// No model has this name.
    UnknownModel,
    /// The body is larger than is taken.
    BodyTooLarge,
    /// The request is wrong.
    BadRequest {
        /// The field that is wrong, if it is one.
        field: Option<String>,
    },
    /// The conversation does not fit into the model.
    ContextTooLong,
    /// A budget is spent.
    BudgetExhausted {
        /// Which, and how it stands.
        facts: Box<BudgetFacts>,
        /// 402, or what the configuration says (422, 429).
        status: u16,
    },
    /// The gateway's own limit on requests or tokens.
    RateLimited,
    /// Every provider of the chain says 429.
    ProviderRateLimited,
    /// A queue is full, or load is shed.
    Overloaded,
    /// The provider is known to be down, and nothing stands in for it.
    CircuitOpen,
    /// The provider took too long.
    UpstreamTimeout,
    /// The caller's own deadline passed before anything was sent.
    DeadlinePassed,
    /// The provider failed, or answered what cannot be understood.
    UpstreamError,
    /// The provider refuses the gateway's own key or account.
    UpstreamAccount,
    /// A person or a rule refused it.
    PolicyDenied,
    /// The same idempotency key came with another body, or its first call is under way.
    Conflict,
    /// The caller has gone. Nobody reads this; it is for logs.
    CallerGone,
}

/// How a budget stands that refuses a call. Amounts are decimal text in the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetFacts {
    /// Whose budget, such as `key`, `user` or `session`, with its name.
    pub scope: String,
    /// The window, such as `day`.
    pub window: String,
    /// What is counted: `usd` or `tokens`.
    pub unit: String,
    /// The limit.
    pub limit: String,
    /// What is spent.
    pub spent: String,
    /// What calls under way have reserved.
    pub reserved: String,
    /// When the window ends, if it does.
    pub resets_at: Option<Timestamp>,
}

/// A failure, ready to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// For people: what happened and what to do. Never holds a secret.
    pub message: String,
    /// The call's id.
    pub request_id: Option<String>,
    /// How soon a retry makes sense. It is told as it stands: whoever sheds load adds jitter to it.
    pub retry_after: Option<Duration>,
    /// Attempts were already spent on this call here, or the caller's SDK is repeating it already
    /// (`x-stainless-retry-count`): it is not to be repeated once more.
    pub tried: bool,
    /// The provider's own type and code, where it has the last word.
    pub provider: Option<(String, String)>,
}

impl Failure {
    /// A failure of that kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            request_id: None,
            retry_after: None,
            tried: false,
            provider: None,
        }
    }

    /// What a provider's failure is for the caller, once the attempts are over.
    #[must_use]
    pub fn of_provider(failure: &WireFailure) -> Self {
        let kind = match failure.class {
            ErrorClass::InvalidRequest => FailureKind::BadRequest { field: None },
            ErrorClass::ContextTooLong => FailureKind::ContextTooLong,
            ErrorClass::RateLimited => FailureKind::ProviderRateLimited,
            ErrorClass::Unavailable => FailureKind::Overloaded,
            ErrorClass::Timeout => FailureKind::UpstreamTimeout,
            ErrorClass::Refused => FailureKind::PolicyDenied,
            ErrorClass::Authentication | ErrorClass::Permission | ErrorClass::QuotaExhausted => {
                FailureKind::UpstreamAccount
            }
            _ => FailureKind::UpstreamError,
        };
        let told = !failure.kind.is_empty() || !failure.code.is_empty();
        let provider = told.then(|| (failure.kind.clone(), failure.code.clone()));
        Self {
            retry_after: failure.retry_after,
            tried: true,
            provider: provider.filter(|_| keeps_providers_words(&kind)),
            ..Self::new(kind, failure.message.clone())
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self, dialect: Dialect) -> u16 {
        match &self.kind {
            FailureKind::BadRequest { .. } | FailureKind::ContextTooLong => 400,
            FailureKind::BadKey => 401,
            FailureKind::BudgetExhausted { status, .. } => *status,
            FailureKind::NotAllowed | FailureKind::PolicyDenied => 403,
            FailureKind::UnknownModel => 404,
            FailureKind::DeadlinePassed => 408,
            FailureKind::Conflict => 409,
            FailureKind::BodyTooLarge => 413,
            FailureKind::RateLimited | FailureKind::ProviderRateLimited => 429,
            FailureKind::CallerGone => 499,
            FailureKind::UpstreamError | FailureKind::UpstreamAccount => 502,
            FailureKind::Overloaded | FailureKind::CircuitOpen => match dialect {
                Dialect::OpenAi => 503,
                Dialect::Anthropic => 529,
            },
            FailureKind::UpstreamTimeout => 504,
        }
    }

    /// OpenAI's `type` and `code`.
    fn openai_words(&self) -> (&str, &str) {
        if let Some((kind, code)) = &self.provider {
            return (kind, code);
        }
        match &self.kind {
            FailureKind::BadKey => ("invalid_request_error", "invalid_api_key"),
            FailureKind::NotAllowed => ("permission_error", "model_not_allowed"),
            FailureKind::UnknownModel => ("invalid_request_error", "model_not_found"),
            FailureKind::BodyTooLarge => ("invalid_request_error", "request_too_large"),
            FailureKind::BadRequest { .. } => ("invalid_request_error", "invalid_request"),
            FailureKind::ContextTooLong => ("invalid_request_error", "context_length_exceeded"),
            FailureKind::BudgetExhausted { .. } => ("insufficient_quota", "budget_exceeded"),
            FailureKind::RateLimited | FailureKind::ProviderRateLimited => {
                ("rate_limit_error", "rate_limit_exceeded")
            }
            FailureKind::Overloaded => ("server_error", "overloaded"),
            FailureKind::CircuitOpen => ("server_error", "circuit_open"),
            FailureKind::UpstreamTimeout => ("server_error", "upstream_timeout"),
            FailureKind::DeadlinePassed => ("timeout", "deadline_passed"),
            FailureKind::UpstreamError => ("server_error", "upstream_error"),
            FailureKind::UpstreamAccount => ("server_error", "upstream_account"),
            FailureKind::PolicyDenied => ("permission_error", "policy_denied"),
            FailureKind::Conflict => ("invalid_request_error", "idempotency_conflict"),
            FailureKind::CallerGone => ("invalid_request_error", "caller_gone"),
        }
    }

    /// Anthropic's `type`.
    const fn anthropic_word(&self) -> &'static str {
        match &self.kind {
            FailureKind::BadKey => "authentication_error",
            FailureKind::NotAllowed | FailureKind::PolicyDenied => "permission_error",
            FailureKind::UnknownModel => "not_found_error",
            FailureKind::BodyTooLarge => "request_too_large",
            FailureKind::BadRequest { .. }
            | FailureKind::ContextTooLong
            | FailureKind::Conflict
            | FailureKind::CallerGone => "invalid_request_error",
            FailureKind::BudgetExhausted { .. } => "billing_error",
            FailureKind::RateLimited | FailureKind::ProviderRateLimited => "rate_limit_error",
            FailureKind::Overloaded | FailureKind::CircuitOpen => "overloaded_error",
            FailureKind::UpstreamTimeout | FailureKind::DeadlinePassed => "timeout_error",
            FailureKind::UpstreamError | FailureKind::UpstreamAccount => "api_error",
        }
    }

    /// Whether an SDK is to repeat the call; `None` leaves it to the status, which then says no.
    fn should_retry(&self) -> Option<bool> {
        let too_long = self.retry_after.is_some_and(|wait| wait > MAX_RETRY_AFTER);
        match &self.kind {
            FailureKind::RateLimited | FailureKind::Overloaded | FailureKind::CircuitOpen => {
                Some(!self.tried && !too_long)
            }
            // Another call may find it open again, and the providers were asked by us already.
            FailureKind::ProviderRateLimited => {
                Some(!self.tried && !too_long && self.retry_after.is_some())
            }
            // The provider may have billed it, or somebody has decided.
            FailureKind::BudgetExhausted { .. }
            | FailureKind::UpstreamTimeout
            | FailureKind::DeadlinePassed
            | FailureKind::UpstreamAccount
            | FailureKind::Conflict => Some(false),
            FailureKind::UpstreamError => Some(!self.tried).filter(|retry| !retry),
            _ => None,
        }
    }

    /// The headers of the answer: content type, request id, and what the caller's SDK is told about
    /// repeating it.
    #[must_use]
    pub fn headers(&self, dialect: Dialect) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json);
        let id = self.request_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok());
        if let Some(id) = id {
            headers.insert(HeaderName::from_static(dialect.request_id_header()), id);
        }
        let retry = self.should_retry();
        if let Some(retry) = retry {
            let value = HeaderValue::from_static(if retry { "true" } else { "false" });
            headers.insert("x-should-retry", value);
        }
        let budget = match &self.kind {
            FailureKind::BudgetExhausted { facts, .. } => Some(facts),
            _ => None,
        };
        let wait = self.retry_after.filter(|wait| *wait <= MAX_RETRY_AFTER && budget.is_none());
        if let Some(wait) = wait {
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            // Whoever knows only seconds must not come too early.
            headers.insert(RETRY_AFTER, milliseconds.div_ceil(1000).into());
            headers.insert("retry-after-ms", milliseconds.into());
        }
        let reset = budget.and_then(|facts| facts.resets_at);
        if let Some(Ok(reset)) = reset.map(|at| HeaderValue::from_str(&at.to_string())) {
            headers.insert("x-steadfast-budget-reset", reset);
        }
        headers
    }
}

/// A provider's own words help where the caller can do something about it; about the gateway's own
/// account at the provider they would mislead.
const fn keeps_providers_words(kind: &FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::BadRequest { .. }
            | FailureKind::ContextTooLong
            | FailureKind::ProviderRateLimited
            | FailureKind::PolicyDenied
    )
}

impl From<&WireProblem> for Failure {
    fn from(problem: &WireProblem) -> Self {
        let field = Some(problem.field.clone()).filter(|field| !field.is_empty());
        Self::new(FailureKind::BadRequest { field }, problem.to_string())
    }
}

fn budget(facts: &BudgetFacts) -> Value {
    json!({
        "scope": facts.scope,
        "window": facts.window,
        "unit": facts.unit,
        "limit": facts.limit,
        "spent": facts.spent,
        "reserved": facts.reserved,
        "resets_at": facts.resets_at.map(|at| at.to_string()),
    })
}

/// The members of an error object that both dialects can have more of.
fn with_budget(mut error: Map<String, Value>, failure: &Failure) -> Value {
    if let FailureKind::BudgetExhausted { facts, .. } = &failure.kind {
        error.insert("budget".to_owned(), budget(facts));
    }
    Value::Object(error)
}

fn openai_error(failure: &Failure) -> Map<String, Value> {
    let (kind, code) = failure.openai_words();
    let field = match &failure.kind {
        FailureKind::BadRequest { field } => field.as_deref(),
        FailureKind::UnknownModel => Some("model"),
        _ => None,
    };
    let code = Some(code).filter(|code| !code.is_empty());
    let members = [
        ("message", Value::from(failure.message.as_str())),
        ("type", kind.into()),
        ("param", field.into()),
        ("code", code.into()),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn body(dialect: Dialect, failure: &Failure) -> Value {
    match dialect {
        Dialect::OpenAi => json!({"error": with_budget(openai_error(failure), failure)}),
        Dialect::Anthropic => {
            let members =
                [("type", failure.anthropic_word()), ("message", failure.message.as_str())];
            let error =
                members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            json!({
                "type": "error",
                "error": with_budget(error, failure),
                "request_id": failure.request_id,
            })
        }
    }
}

/// The body of an error answer.
#[must_use]
pub fn failure_body(dialect: Dialect, failure: &Failure) -> Bytes {
    body(dialect, failure).to_string().into()
}

/// The error as the last event of a stream that began well: never a terminator. What follows is not a
/// clean end but an aborted body. `next_sequence` is [`Reader::next_sequence`](super::Reader), for
/// responses.
#[must_use]
pub fn failure_frames(wire: Wire, failure: &Failure, next_sequence: u64) -> Bytes {
    match wire {
        Wire::Chat | Wire::Embeddings => {
            format!("data: {}\n\n", body(Dialect::OpenAi, failure)).into()
        }
        Wire::Messages | Wire::CountTokens => {
            format!("event: error\ndata: {}\n\n", body(Dialect::Anthropic, failure)).into()
        }
        Wire::Responses => {
            let mut event = Map::new();
            event.insert("type".to_owned(), "error".into());
            event.insert("sequence_number".to_owned(), next_sequence.into());
            let mut error = openai_error(failure);
            error.remove("type");
            event.extend(error);
            format!("event: error\ndata: {}\n\n", with_budget(event, failure)).into()
        }
    }
}

#[cfg(test)]
mod tests;
