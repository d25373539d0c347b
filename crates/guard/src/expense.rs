//! What protects a tool that costs money with every call (SCOPE R15).
//!
//! | protection | where |
//! |---|---|
//! | how many calls, how much money | [`CallBudget`]: reserved before the call, settled after it |
//! | how many at once | [`Policy::concurrency`](crate::Policy) of the tool's own guard |
//! | may this very call go | [`PreCheck`]: a hook with a time limit |
//! | not at all, if the answer is known | a cache of the caller's: it alone knows which calls are alike |
//! | something cheaper instead | [`Fallback`](crate::Fallback): the next way after a refusal |
//! | who is told when it runs away | [`Anomaly`]: one alert an episode, and one at its end |
//!
//! Each piece stands alone. All of them belong *around* the guard, not into the operation that it calls:
//! what is refused here never reached the dependency, and inside the operation the guard would read a
//! budget that is used up as the dependency's own quota, and quiet all other calls. A budget therefore
//! counts a guarded call once, however often the guard repeats it: settle what all attempts cost.
//!
//! A cheaper substitute needs nothing more than the next way:
//!
//! ```
//! use std::time::Duration;
//! use steadfast_guard::{
//!     BudgetPolicy, CallBudget, CallContext, CallError, Classify, Effect, ErrorClass, ExpenseError,
//!     Fallback, Guard, Policy,
//! };
//! use tokio::time::Instant;
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("down")]
//! struct Down;
//! impl Classify for Down {
//!     fn class(&self) -> ErrorClass {
//!         ErrorClass::Unavailable
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // one dollar an hour, in micro-dollars
//! let policy = BudgetPolicy { cost: Some(1_000_000), ..BudgetPolicy::default() };
//! let budget = CallBudget::new("deep research", policy)?;
//! let guard = Guard::new("deep research", Policy { concurrency: 2, ..Policy::default() })?;
//!
//! let research = || async {
//!     let reservation = budget.reserve(600_000)?;
//!     let call = |_| async { Ok::<_, Down>("a long report") };
//!     let answer = guard.call(CallContext::new(Effect::Read), call).await?;
//!     reservation.settle(580_000);
//!     Ok::<_, ExpenseError<Down>>(answer.value)
//! };
//! let search = || async { Ok::<_, CallError<Down>>("three links") };
//!
//! let deadline = Instant::now() + Duration::from_secs(60);
//! let mut ways = Vec::new();
//! for _ in 0..2 {
//!     let answer = Fallback::new().way("research", research()).way("search", search());
//!     ways.push(answer.answer(deadline).await.map_err(|error| error.to_string())?.way);
//! }
//! assert_eq!(ways, ["research", "search"]); // the second report would have passed the dollar
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use crate::{CallError, Classify, ErrorClass};

mod anomaly;
mod budget;
mod policy;
mod pre_check;

pub use anomaly::{
    Alert, AlertCause, AlertEvent, AlertMeasure, Anomaly, AnomalyLevel, AnomalySnapshot,
};
pub use budget::{BudgetLimit, BudgetSnapshot, CallBudget, OverBudget, Reservation};
pub use policy::{AnomalyPolicy, BudgetPolicy, OnCheckError, PreCheckPolicy};
pub use pre_check::{CheckAnswer, CheckPassed, CheckRefused, PreCheck};

/// Why a call to an expensive tool has no answer: a refusal before it, or the guarded call's own error. For
/// `?` in a way of a [`Fallback`](crate::Fallback) that has a budget, a pre-check and a guard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpenseError<E> {
    /// The budget is used up; nothing was called.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The pre-check did not let it through; nothing was called.
    #[error(transparent)]
    Refused(#[from] CheckRefused),
    /// The guarded call failed.
    #[error(transparent)]
    Call(#[from] CallError<E>),
}

impl<E: Classify> Classify for ExpenseError<E> {
    fn class(&self) -> ErrorClass {
        match self {
            Self::OverBudget(error) => error.class(),
            Self::Refused(error) => error.class(),
            Self::Call(error) => error.class(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OverBudget(error) => error.retry_after,
            Self::Refused(error) => error.retry_after(),
            Self::Call(error) => error.retry_after(),
        }
    }
}

#[cfg(test)]
mod tests;
