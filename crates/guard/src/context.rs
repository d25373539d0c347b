//! What the guard is told about one call, and what it tells about it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

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

impl Effect {
    /// As one stable word, which is also how it is configured.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

/// Who goes first when not everybody can, and who is refused first when the queue fills (SCOPE R2).
/// A higher one always goes first; the longest wait that the policy allows bounds what that costs.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, CallError, Effect, Guard, Policy, Priority, Rejection};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let guard = Guard::new("model", Policy { concurrency: 1, queue: 1, ..Policy::default() })?;
/// let call = |priority| {
///     let context = CallContext::new(Effect::Read).with_priority(priority);
///     guard.call(context, |_| async {
///         tokio::time::sleep(Duration::from_secs(1)).await;
///         Ok::<_, Infallible>(())
///     })
/// };
/// let (running, batch, critical) =
///     tokio::join!(call(Priority::Interactive), call(Priority::Batch), call(Priority::Critical));
/// running?;
/// critical?; // took the only place in the queue
/// let Err(CallError::Rejected { reason: Rejection::Shed { .. }, .. }) = batch else { panic!() };
/// # Ok(())
/// # }
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Nobody may ever need it: may fill the queue up to a half.
    Speculative,
    /// Nobody waits for it: may fill the queue up to three quarters.
    Batch,
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Goes before everything else.
    Critical,
}

impl Priority {
    /// Every priority, lowest first.
    pub const ALL: [Self; 4] = [Self::Speculative, Self::Batch, Self::Interactive, Self::Critical];

    /// As one stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Speculative => "speculative",
            Self::Batch => "batch",
            Self::Interactive => "interactive",
            Self::Critical => "critical",
        }
    }

    /// The place in [`Priority::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Waiters at which a queue of `places` is full for this priority.
    pub(crate) const fn share(self, places: usize) -> usize {
        match self {
            Self::Speculative => places.div_ceil(2),
            Self::Batch => places - places / 4,
            Self::Interactive | Self::Critical => places,
        }
    }
}

/// What the guard is told about one call.
///
/// ```
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, Effect, Priority};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let nightly = CallContext::new(Effect::Read)
///     .with_deadline(Instant::now() + Duration::from_secs(20)) // the inner call is told, too
///     .with_tenant("acme") // takes turns with other tenants of the same priority
///     .with_priority(Priority::Batch) // refused before interactive ones when the queue fills
///     .with_tokens(1_200);
/// # assert_eq!(nightly.priority, Priority::Batch);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CallContext {
    /// The call must be over by then, whatever the policy would allow.
    pub deadline: Option<Instant>,
    /// What the operation does outside.
    pub effect: Effect,
    /// Who goes first.
    pub priority: Priority,
    /// Whose call it is, as a number: tenants of the same priority take turns.
    pub tenant: u64,
    /// What it will cost, in tokens, as far as is known before: reserved of `rate.tokens_per_minute`, and
    /// the measure of a tenant's turn.
    pub tokens: u64,
    /// Retries at most, if the policy allows more: for a call that somebody above repeats already.
    pub max_retries: Option<u32>,
}

impl CallContext {
    /// A call without a deadline of its own, of nobody in particular, with priority
    /// [`Priority::Interactive`].
    #[must_use]
    pub const fn new(effect: Effect) -> Self {
        let priority = Priority::Interactive;
        Self { deadline: None, effect, priority, tenant: 0, tokens: 0, max_retries: None }
    }

    /// The same call with a deadline.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same call with a priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same call as a tenant's.
    #[must_use]
    pub fn with_tenant(mut self, tenant: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        self.tenant = hasher.finish();
        self
    }

    /// The same call with so many retries at most.
    #[must_use]
    pub const fn with_max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }

    /// The same call with the tokens that it will cost.
    #[must_use]
    pub const fn with_tokens(mut self, tokens: u64) -> Self {
        self.tokens = tokens;
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
