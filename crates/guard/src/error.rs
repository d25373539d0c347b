//! What can go wrong with a call, and what may be done about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::explain::counted;

/// What kind of thing went wrong, whatever the wire said. Providers map their errors to it; retry,
/// breaker and recovery policies are written in its terms (SCOPE R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// No connection, or it was lost before the dependency can have acted.
    Connection,
    /// A time limit passed: ours around the call, or one that the dependency reports.
    Timeout,
    /// Too many requests for now; waiting helps.
    RateLimited,
    /// The quota or credit is used up; waiting a moment does not help.
    QuotaExhausted,
    /// The dependency says that it is overloaded or down (503, 529).
    Unavailable,
    /// The dependency failed inside (500, 502).
    Server,
    /// The answer could not be understood: cut, garbled, not what the protocol says.
    Malformed,
    /// The credentials are missing or wrong (401). Neutral to the breaker: see [`Verdict::Neutral`].
    Authentication,
    /// The credentials are right and the operation is not allowed (403). Neutral to the breaker.
    Permission,
    /// The request is wrong; the same request will be wrong again.
    InvalidRequest,
    /// What was asked for does not exist.
    NotFound,
    /// The state of the dependency contradicts the request.
    Conflict,
    /// The conversation is larger than the model's context.
    ContextTooLong,
    /// The dependency refused by its own policy (content filter, refusal).
    Refused,
    /// The caller gave up.
    Cancelled,
    /// The call may or may not have taken effect, and nobody knows.
    OutcomeUnknown,
    /// A defect on this side.
    Internal,
}

/// What may be done about an error (SCOPE R6, C4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Waiting and trying again may help.
    Transient,
    /// Going on from the last good state may help, once something has changed.
    Checkpoint,
    /// Nothing on this side helps.
    Fatal,
}

impl ErrorClass {
    /// What may be done about an error of this class.
    #[must_use]
    pub const fn recovery(self) -> Recovery {
        match self {
            Self::Connection
            | Self::Timeout
            | Self::RateLimited
            | Self::Unavailable
            | Self::Server
            | Self::Malformed => Recovery::Transient,
            Self::QuotaExhausted
            | Self::Conflict
            | Self::ContextTooLong
            | Self::Cancelled
            | Self::OutcomeUnknown => Recovery::Checkpoint,
            Self::Authentication
            | Self::Permission
            | Self::InvalidRequest
            | Self::NotFound
            | Self::Refused
            | Self::Internal => Recovery::Fatal,
        }
    }

    /// The class as one stable `snake_case` word, for logs, labels and stored events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Unavailable => "unavailable",
            Self::Server => "server",
            Self::Malformed => "malformed",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::ContextTooLong => "context_too_long",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal => "internal",
        }
    }
}

/// An error that says its class. Every error that a guarded operation returns implements it.
pub trait Classify {
    /// The class of this error.
    fn class(&self) -> ErrorClass;

    /// How long the dependency asked us to wait (`Retry-After`), if it did.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// By the error's kind: what cannot have reached the other side is [`ErrorClass::Connection`], what is not
/// known to be harmless to repeat is [`ErrorClass::Server`].
impl Classify for std::io::Error {
    fn class(&self) -> ErrorClass {
        use std::io::ErrorKind as Kind;
        match self.kind() {
            Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable
            | Kind::NotConnected => ErrorClass::Connection,
            Kind::TimedOut => ErrorClass::Timeout,
            Kind::NotFound => ErrorClass::NotFound,
            Kind::PermissionDenied => ErrorClass::Permission,
            Kind::AlreadyExists => ErrorClass::Conflict,
            Kind::InvalidInput | Kind::Unsupported => ErrorClass::InvalidRequest,
            Kind::InvalidData | Kind::UnexpectedEof => ErrorClass::Malformed,
            Kind::ResourceBusy | Kind::WouldBlock => ErrorClass::Unavailable,
            _ => ErrorClass::Server,
        }
    }
}

impl Classify for std::convert::Infallible {
    fn class(&self) -> ErrorClass {
        match *self {}
    }
}

/// What the end of one attempt says about the dependency's health. Only [`Verdict::Failure`] and
/// [`Verdict::Unknown`] speak against it and can open a breaker; only [`Verdict::Success`] speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Success,
    /// It failed in a way that speaks against it.
    Failure,
    /// The caller's fault, a local refusal or a cancellation: leaves the count of failures in a row as it
    /// is, and gives a probe's slot to another probe. Wrong credentials (401, 403) are here: who answers
    /// "not you" is up, and a breaker that opens on one caller's bad key would lock out everybody else's
    /// good ones.
    Neutral,
    /// It asked us to slow down: sets the cooldown, does not move the breaker.
    Throttled {
        /// When it may be asked again, if it said so.
        until: Option<Instant>,
    },
    /// A write whose outcome nobody knows: speaks against the dependency, and is never retried blindly.
    Unknown,
}

/// Which time limit fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutLayer {
    /// The limit of one attempt.
    Attempt,
    /// The limit of the whole call, attempts and waits together, or the caller's deadline.
    Total,
    /// The limit to the first item of a stream.
    FirstItem,
    /// The limit between two items of a stream.
    Idle,
    /// The limit of a whole stream that is handed on.
    Stream,
}

impl std::fmt::Display for TimeoutLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attempt => "`attempt_timeout`",
            Self::Total => "`total_timeout` or the caller's deadline",
            Self::FirstItem => "`first_item_timeout`",
            Self::Idle => "`idle_timeout`",
            Self::Stream => "`stream_timeout`",
        })
    }
}

/// A refusal on this side: the dependency was not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The breaker is open.
    #[error("the circuit breaker is open, next probe in {retry_after:?}")]
    BreakerOpen {
        /// Time to the next permitted probe. While every probe is out, or an operator holds the breaker
        /// open, nobody knows it; the policy's `open_for` stands for it.
        retry_after: Duration,
    },
    /// The dependency asked for quiet and the time is not over.
    #[error("cooling down after a rate limit, for another {retry_after:?}")]
    Cooldown {
        /// Time to the end of the cooldown.
        retry_after: Duration,
    },
    /// All permits are in use and the queue is full.
    #[error("{} in flight and {queued} waiting: the queue is full", counted(*in_flight as u64, "call"))]
    QueueFull {
        /// Calls in flight at that moment.
        in_flight: usize,
        /// Calls waiting at that moment.
        queued: usize,
        /// How long a call would have waited, by how long calls take: an estimate.
        retry_after: Duration,
    },
    /// The queue fills, and higher priorities need the places.
    #[error("the queue holds {}, and the places left are for higher priorities", counted(*queued as u64, "call"))]
    Shed {
        /// Calls waiting at that moment.
        queued: usize,
        /// How long a call would have waited, by how long calls take: an estimate.
        retry_after: Duration,
    },
    /// This minute's requests or tokens are used up, for longer than a call may wait.
    #[error("this minute's requests or tokens are used up, for another {retry_after:?}")]
    RateLimited {
        /// Time until the call could go.
        retry_after: Duration,
    },
    /// No permit became free within the longest wait that the policy allows.
    #[error("waited {waited:?} in the queue, the longest that is allowed")]
    QueueTimeout {
        /// How long the call waited.
        waited: Duration,
    },
    /// The caller's deadline had passed, or would pass before the call could start.
    #[error("the caller's deadline passed before the call could start")]
    Deadline,
}

impl Rejection {
    /// When the same call has a chance again, as far as that is known or can be estimated.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BreakerOpen { retry_after }
            | Self::Cooldown { retry_after }
            | Self::QueueFull { retry_after, .. }
            | Self::Shed { retry_after, .. }
            | Self::RateLimited { retry_after } => Some(*retry_after),
            Self::QueueTimeout { .. } | Self::Deadline => None,
        }
    }
}

/// Why a guarded call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// Refused on this side: the dependency was not called, or, if there were attempts before, not called
    /// again. A refusal is not retried inside the guard.
    #[error(
        "`{dependency}` was not called{again}: {reason}",
        again = if *attempts > 0 { " again" } else { "" }
    )]
    Rejected {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// Why.
        reason: Rejection,
        /// Attempts that had reached the dependency before. None of them can have carried out an
        /// [`Effect::Once`](crate::Effect::Once): such a call would not have been tried again.
        attempts: u32,
        /// The error of the attempt before, if there was one and it ended with an error.
        #[source]
        source: Option<E>,
    },
    /// A time limit passed. The outcome of an [`Effect::Once`](crate::Effect::Once) is then unknown: see
    /// [`CallError::class`].
    #[error("`{dependency}` did not answer within {limit:?} ({layer}, attempt {attempts})")]
    TimedOut {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// Which limit.
        layer: TimeoutLayer,
        /// Its length.
        limit: Duration,
        /// Attempts that reached the dependency.
        attempts: u32,
        /// Whether the last attempt was a write that may have taken effect.
        outcome_unknown: bool,
    },
    /// The dependency failed, and the policy allows no further attempt.
    #[error("`{dependency}` failed after {}", counted((*attempts).into(), "attempt"))]
    Failed {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// Attempts that reached the dependency.
        attempts: u32,
        /// Whether the last attempt was a write that may have taken effect.
        outcome_unknown: bool,
        /// The last error.
        #[source]
        source: E,
    },
    /// A stream ended before it was complete, and the policy allows no further attempt.
    #[error("the answer of `{dependency}` was cut off (attempt {attempts})")]
    Cut {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// Attempts that reached the dependency.
        attempts: u32,
        /// Whether the last attempt was a write that may have taken effect.
        outcome_unknown: bool,
    },
    /// A drill: the policy's `chaos` made the last attempt fail, and allows no further one.
    #[error(
        "`{dependency}` failed after {}: a fault of class `{}` was injected by its policy's `chaos`",
        counted((*attempts).into(), "attempt"), class.as_str()
    )]
    Injected {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// The class that a real fault of this kind has.
        class: ErrorClass,
        /// Attempts that were made, those that met a fault included.
        attempts: u32,
        /// Whether a real error of that class would leave open if a write had taken effect.
        outcome_unknown: bool,
    },
    /// The dependency asked for a longer wait than the policy sleeps. A durable caller parks the run
    /// until then.
    #[error("`{dependency}` asks to wait {retry_after:?}, longer than this call may sleep")]
    RetryLater {
        /// The guard's name.
        dependency: std::sync::Arc<str>,
        /// How long.
        retry_after: Duration,
        /// Attempts that reached the dependency.
        attempts: u32,
        /// The error that said so.
        #[source]
        source: E,
    },
}

impl<E: Classify> CallError<E> {
    /// The class of this error; an [`Effect::Once`](crate::Effect::Once) that may have taken effect is
    /// [`ErrorClass::OutcomeUnknown`], whichever way its last attempt ended.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Rejected { reason: Rejection::Deadline, .. } => ErrorClass::Timeout,
            Self::Rejected {
                reason: Rejection::Cooldown { .. } | Rejection::RateLimited { .. },
                ..
            } => ErrorClass::RateLimited,
            Self::Rejected { .. } => ErrorClass::Unavailable,
            Self::TimedOut { outcome_unknown: true, .. }
            | Self::Failed { outcome_unknown: true, .. }
            | Self::Cut { outcome_unknown: true, .. }
            | Self::Injected { outcome_unknown: true, .. } => ErrorClass::OutcomeUnknown,
            Self::TimedOut { .. } => ErrorClass::Timeout,
            Self::Cut { .. } => ErrorClass::Malformed,
            Self::Injected { class, .. } => *class,
            Self::Failed { source, .. } | Self::RetryLater { source, .. } => source.class(),
        }
    }
}

impl<E: Classify> Classify for CallError<E> {
    fn class(&self) -> ErrorClass {
        Self::class(self)
    }

    fn retry_after(&self) -> Option<Duration> {
        Self::retry_after(self)
    }
}

impl<E> CallError<E> {
    /// When the same call has a chance again, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { reason, .. } => reason.retry_after(),
            Self::RetryLater { retry_after, .. } => Some(*retry_after),
            Self::TimedOut { .. }
            | Self::Failed { .. }
            | Self::Cut { .. }
            | Self::Injected { .. } => None,
        }
    }

    /// Attempts that reached the dependency.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::Rejected { attempts, .. }
            | Self::TimedOut { attempts, .. }
            | Self::Cut { attempts, .. }
            | Self::Injected { attempts, .. }
            | Self::Failed { attempts, .. }
            | Self::RetryLater { attempts, .. } => *attempts,
        }
    }
}
