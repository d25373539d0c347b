//! [`Guard::call`]: the order of protections.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{CallError, Classify, Policy, PolicyError};

/// What an operation does outside, and so what may be done when its outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Changes nothing: run again freely.
    Read,
    /// Changes something, and the same key changes it once: run again with the same key.
    Idempotent,
    /// Changes something each time: never run again while the outcome is unknown.
    Once,
}

/// What the guard is told about one call.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// The call must be over by then, whatever the policy would allow.
    pub deadline: Option<Instant>,
    /// What the operation does outside.
    pub effect: Effect,
}

impl CallContext {
    /// A call without a deadline of its own.
    #[must_use]
    pub const fn new(effect: Effect) -> Self {
        Self { deadline: None, effect }
    }

    /// The same call with a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// One try of a call.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// 1 for the first try.
    pub number: u32,
    /// This attempt is cut off at this time.
    pub deadline: Instant,
}

/// An answer, and how it came about.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What the operation returned.
    pub value: T,
    /// How it came about.
    pub report: CallReport,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallReport {
    /// Attempts that reached the dependency.
    pub attempts: u32,
    /// Time spent waiting: in the queue and between attempts.
    pub waited: Duration,
}

/// Stands in front of one dependency. Cheap to clone; clones share all state.
#[derive(Clone, Debug)]
pub struct Guard {
    name: Arc<str>,
    policy: Arc<Policy>,
}

impl Guard {
    /// A guard with a policy.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy) -> Result<Self, PolicyError> {
        policy.validate()?;
        Ok(Self { name: name.into(), policy: Arc::new(policy) })
    }

    /// The dependency's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls the dependency under this guard's policy.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<T, E, Fut>(
        &self,
        context: CallContext,
        mut operation: impl FnMut(Attempt) -> Fut,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        let deadline =
            context.deadline.unwrap_or_else(|| Instant::now() + self.policy.attempt_timeout);
        match operation(Attempt { number: 1, deadline }).await {
            Ok(value) => {
                Ok(Answer { value, report: CallReport { attempts: 1, waited: Duration::ZERO } })
            }
            Err(source) => {
                Err(CallError::Failed { dependency: Arc::clone(&self.name), attempts: 1, source })
            }
        }
    }

    /// Calls a dependency that answers piece by piece, and gathers the pieces.
    ///
    /// `open` starts an attempt; `take` is given each piece and returns `Some` with the last one. The
    /// limits to the first piece and between pieces hold inside each attempt. Nothing has been handed
    /// out before the end, so a stream that stalls or breaks half way is an attempt that failed, and
    /// is repeated like any other.
    ///
    /// # Errors
    /// See [`CallError`]; a stream that ends before `take` returned `Some` is [`CallError::Cut`].
    pub async fn gather<T, I, E, S, Fut>(
        &self,
        context: CallContext,
        mut open: impl FnMut(Attempt) -> Fut,
        mut take: impl FnMut(I) -> Option<T>,
    ) -> Result<Answer<T>, CallError<E>>
    where
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<I, E>> + Unpin,
        E: Classify,
    {
        let dependency = || Arc::clone(&self.name);
        let deadline =
            context.deadline.unwrap_or_else(|| Instant::now() + self.policy.attempt_timeout);
        let failed = |source| CallError::Failed { dependency: dependency(), attempts: 1, source };
        let mut stream = open(Attempt { number: 1, deadline }).await.map_err(failed)?;
        while let Some(item) = stream.next().await {
            if let Some(value) = take(item.map_err(failed)?) {
                return Ok(Answer {
                    value,
                    report: CallReport { attempts: 1, waited: Duration::ZERO },
                });
            }
        }
        Err(CallError::Cut { dependency: dependency(), attempts: 1 })
    }

    /// One line: the state, and why a call would wait or be refused now.
    #[must_use]
    pub fn explain(&self) -> String {
        format!("`{}`", self.name)
    }
}
