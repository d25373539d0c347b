//! May this very call go? Asked before it leaves, within a time limit (SCOPE R15).

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{OnCheckError, PreCheckPolicy};
use crate::{Classify, ErrorClass, PolicyError};

/// A check before a call: a rule about the arguments, a look into a cache of known answers, a question to a
/// service that knows who may spend what. It runs within a time limit of its own, which comes out of the
/// caller's time, and before anything is reserved or called.
///
/// ```
/// use std::convert::Infallible;
/// use steadfast_guard::{CheckAnswer, Classify as _, ErrorClass, PreCheck, PreCheckPolicy};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let check = PreCheck::new("question", PreCheckPolicy::default())?;
/// let look = |question: &'static str| async move {
///     Ok::<_, Infallible>(if question.is_empty() {
///         CheckAnswer::Invalid("an empty question".to_owned())
///     } else {
///         CheckAnswer::Go
///     })
/// };
/// check.run(look("why?")).await?;
/// let refused = check.run(look("")).await.unwrap_err();
/// assert_eq!(refused.class(), ErrorClass::InvalidRequest);
/// assert_eq!(refused.to_string(), "the pre-check `question` refuses: an empty question");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PreCheck {
    name: Arc<str>,
    policy: PreCheckPolicy,
}

/// What a pre-check's hook says about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckAnswer {
    /// It may go.
    Go,
    /// It is right and may not go, and why: [`ErrorClass::Permission`]. A [`Fallback`](crate::Fallback)
    /// goes on to the next way.
    Forbidden(String),
    /// It is wrong, and why: [`ErrorClass::InvalidRequest`]. A [`Fallback`](crate::Fallback) ends there.
    Invalid(String),
}

/// How a call came through a pre-check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPassed {
    /// The hook let it through.
    Checked,
    /// The hook failed or was late, and [`OnCheckError::Allow`] let it through.
    Unchecked,
}

/// A pre-check did not let a call through: nothing was called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckRefused {
    /// The hook refused it.
    #[error("the pre-check `{check}` refuses: {reason}")]
    Refused {
        /// The check's name.
        check: Arc<str>,
        /// [`ErrorClass::Permission`] or [`ErrorClass::InvalidRequest`], as the hook said.
        class: ErrorClass,
        /// Why, in the hook's words.
        reason: String,
    },
    /// The hook failed or panicked, and the policy refuses then. Its class is
    /// [`ErrorClass::Unavailable`]: later it may work.
    #[error("the pre-check `{check}` failed, and nothing goes unchecked")]
    Failed {
        /// The check's name.
        check: Arc<str>,
        /// What happened.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The hook was late, and the policy refuses then. Its class is [`ErrorClass::Unavailable`].
    #[error("the pre-check `{check}` did not answer within {limit:?}, and nothing goes unchecked")]
    Late {
        /// The check's name.
        check: Arc<str>,
        /// The limit.
        limit: Duration,
    },
}

impl Classify for CheckRefused {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { class, .. } => *class,
            Self::Failed { .. } | Self::Late { .. } => ErrorClass::Unavailable,
        }
    }
}

impl PreCheck {
    /// A check of that name.
    ///
    /// # Errors
    /// The policy cannot be kept.
    pub fn new(name: impl Into<Arc<str>>, policy: PreCheckPolicy) -> Result<Self, PolicyError> {
        policy.validate()?;
        Ok(Self { name: name.into(), policy })
    }

    /// Asks the hook about one call.
    ///
    /// A hook that is late is dropped; one that blocks its thread cannot be stopped and must not do so. A
    /// panic of the hook counts as its failure. Dropping the future drops the hook.
    ///
    /// # Errors
    /// The hook refused, or failed, panicked or was late under [`OnCheckError::Refuse`].
    pub async fn run<E>(
        &self,
        hook: impl Future<Output = Result<CheckAnswer, E>>,
    ) -> Result<CheckPassed, CheckRefused>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let check = Arc::clone(&self.name);
        let limit = self.policy.timeout;
        // The hook is gone after a panic: nobody sees what it left half done inside.
        let hook = AssertUnwindSafe(hook).catch_unwind();
        let refused = match timeout(limit, hook).await {
            Ok(Ok(Ok(answer))) => return judge(check, answer),
            Ok(Ok(Err(error))) => CheckRefused::Failed { check, source: error.into() },
            Ok(Err(_panic)) => CheckRefused::Failed { check, source: "it panicked".into() },
            Err(_) => CheckRefused::Late { check, limit },
        };
        match self.policy.on_error {
            OnCheckError::Refuse => Err(refused),
            OnCheckError::Allow => Ok(CheckPassed::Unchecked),
        }
    }
}

fn judge(check: Arc<str>, answer: CheckAnswer) -> Result<CheckPassed, CheckRefused> {
    let (class, reason) = match answer {
        CheckAnswer::Go => return Ok(CheckPassed::Checked),
        CheckAnswer::Forbidden(reason) => (ErrorClass::Permission, reason),
        CheckAnswer::Invalid(reason) => (ErrorClass::InvalidRequest, reason),
    };
    Err(CheckRefused::Refused { check, class, reason })
}
