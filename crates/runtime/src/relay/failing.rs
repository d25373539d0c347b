//! What a caller is told when no way gave an answer.

use std::time::Duration;

use steadfast_guard::{CallError, ErrorClass, Rejection};
use steadfast_providers::wire::{BudgetFacts, Failure, FailureKind, WireFailure, WireProblem};

use crate::ledger::{Measure, Money, NotReserved, OverBudget, Scope, Window};

/// How soon a call that met a store which could not be written may come again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The longest wait added to those that are told to many callers at once.
const JITTER_MS: u64 = 250;

/// One way that gave no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Whether another way may be tried. A request that is wrong is wrong everywhere.
    pub(super) ends: bool,
}

impl From<WireProblem> for Failed {
    fn from(problem: WireProblem) -> Self {
        // What cannot be said on one wire can perhaps be said on the next.
        Self { failure: Failure::from(&problem), ends: false }
    }
}

impl From<NotReserved> for Failed {
    fn from(error: NotReserved) -> Self {
        let message = error.to_string();
        let failure = match error {
            NotReserved::OverBudget(over) => {
                let facts = Box::new(facts(&over));
                Failure::new(FailureKind::BudgetExhausted { facts, status: 402 }, message)
            }
            NotReserved::UnknownPrice(_) => Failure::new(FailureKind::NotAllowed, message),
            NotReserved::TooLarge { .. } => {
                Failure::new(FailureKind::BadRequest { field: None }, message)
            }
            NotReserved::Store(_) => {
                let mut failure = Failure::new(FailureKind::Overloaded, message);
                failure.retry_after = Some(STORE_PAUSE);
                failure
            }
        };
        Self { failure, ends: false }
    }
}

impl From<&CallError<WireFailure>> for Failed {
    fn from(error: &CallError<WireFailure>) -> Self {
        let ends = matches!(error.class(), ErrorClass::InvalidRequest | ErrorClass::Cancelled);
        Self { failure: of_call(error), ends }
    }
}

fn of_call(error: &CallError<WireFailure>) -> Failure {
    let mut failure = match error {
        CallError::Failed { source, .. } | CallError::RetryLater { source, .. } => {
            of_provider(source)
        }
        CallError::Rejected { reason, .. } => {
            let kind = match reason {
                Rejection::BreakerOpen { .. } => FailureKind::CircuitOpen,
                Rejection::Cooldown { .. } => FailureKind::ProviderRateLimited,
                Rejection::RateLimited { .. } => FailureKind::RateLimited,
                Rejection::Deadline => FailureKind::DeadlinePassed,
                _ => FailureKind::Overloaded,
            };
            Failure::new(kind, error.to_string())
        }
        CallError::TimedOut { .. } => Failure::new(FailureKind::UpstreamTimeout, error.to_string()),
        CallError::Injected { class, .. } => {
            of_provider(&WireFailure::new(*class, error.to_string()))
        }
        _ => Failure::new(FailureKind::UpstreamError, error.to_string()),
    };
    failure.tried = error.attempts() > 0;
    failure.retry_after = error.retry_after().or(failure.retry_after);
    if failure.kind == FailureKind::Overloaded {
        failure.retry_after = failure.retry_after.map(spread);
    }
    failure
}

fn of_provider(source: &WireFailure) -> Failure {
    if source.class == ErrorClass::Cancelled {
        return Failure::new(FailureKind::CallerGone, source.message.clone());
    }
    Failure::of_provider(source)
}

/// A wait that is not the same for everybody.
fn spread(wait: Duration) -> Duration {
    wait + Duration::from_millis(fastrand::u64(0..=JITTER_MS))
}

/// Whether a call without an answer may be charged by its provider all the same.
pub(super) fn may_be_billed(error: &CallError<WireFailure>) -> bool {
    if error.attempts() == 0 {
        return false;
    }
    match error {
        CallError::TimedOut { .. } | CallError::Cut { .. } => true,
        CallError::Failed { source, .. } | CallError::RetryLater { source, .. } => {
            let is_told =
                source.status.is_some() || !source.kind.is_empty() || !source.code.is_empty();
            match source.class {
                ErrorClass::Malformed => true,
                // Nobody answered, and the request may have arrived.
                ErrorClass::Server | ErrorClass::Timeout | ErrorClass::Cancelled => !is_told,
                _ => false,
            }
        }
        _ => false,
    }
}

fn facts(over: &OverBudget) -> BudgetFacts {
    let (unit, amount): (_, fn(u64) -> String) = match over.measure {
        Measure::Tokens => ("tokens", |figure| figure.to_string()),
        Measure::NanoUsd => ("usd", |figure| {
            Money::from_nano(figure).to_string().trim_end_matches(" USD").to_owned()
        }),
    };
    let scope = match over.scope {
        Scope::All => over.scope.word().to_owned(),
        scope => format!("{} {}", scope.word(), over.name),
    };
    let window = match over.window {
        Window::Call => "call".to_owned(),
        window => window.word().to_owned(),
    };
    let reset = over.resets_at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    BudgetFacts {
        scope,
        window,
        unit: unit.to_owned(),
        limit: amount(over.limit),
        spent: amount(over.spent),
        reserved: amount(over.reserved),
        resets_at: reset,
    }
}

/// The failures of all ways as one: of the first that is more than an empty budget, with the soonest time
/// at which any of them may be asked again. `repeated` if somebody above repeats the call already.
pub(super) fn together(failures: Vec<(String, Failed)>, repeated: bool) -> Failure {
    let soonest = failures.iter().filter_map(|(_, failed)| failed.failure.retry_after).min();
    let tried = repeated || failures.iter().any(|(_, failed)| failed.failure.tried);
    let told: Vec<String> =
        failures.iter().map(|(way, failed)| format!("{way}: {}", failed.failure.message)).collect();
    let is_budget =
        |failed: &Failed| matches!(failed.failure.kind, FailureKind::BudgetExhausted { .. });
    let at = failures.iter().position(|(_, failed)| !is_budget(failed)).unwrap_or(0);
    let several = failures.len() > 1;
    let Some((_, Failed { mut failure, .. })) = failures.into_iter().nth(at) else {
        return Failure::new(FailureKind::UpstreamError, "nobody was asked");
    };
    if several {
        failure.message = told.join("; ");
    }
    failure.retry_after = soonest;
    failure.tried = tried;
    failure
}
