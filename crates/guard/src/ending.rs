//! How an attempt ends without an answer, and what the end says.

use std::time::Duration;

use crate::{Classify, ErrorClass, TimeoutLayer};

/// How an attempt ended without an answer.
pub(crate) enum End<E> {
    Error(E),
    TimedOut(TimeoutLayer, Duration),
    Cut,
    /// The policy's `chaos` did it.
    Injected(ErrorClass),
}

impl<E: Classify> End<E> {
    /// The class of the end, and how long the dependency asked to wait.
    pub(crate) fn said(&self) -> (ErrorClass, Option<Duration>) {
        match self {
            Self::Error(error) => (error.class(), error.retry_after()),
            Self::TimedOut(..) => (ErrorClass::Timeout, None),
            Self::Cut => (ErrorClass::Malformed, None),
            Self::Injected(class) => (*class, None),
        }
    }
}

impl<E> From<(TimeoutLayer, Duration)> for End<E> {
    fn from((layer, length): (TimeoutLayer, Duration)) -> Self {
        Self::TimedOut(layer, length)
    }
}
