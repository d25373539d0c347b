//! Asking a model, and what stands in for it.

use std::time::Duration;

use parking_lot::Mutex;
use steadfast_guard::{
    CallError, Effect, ErrorClass, Fallback, FallbackAnswer, NoAnswer, Rejection,
};
use steadfast_providers::model::{
    FinishReason, Message, ModelAnswer, ModelDelta, ModelError, ModelRequest, Usage,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Caller, GRACE, Trouble, chain, log_failure, millis, told};
use crate::agent::shorten;
use crate::catalog::{Catalog, ModelEntry};
use crate::event::Degraded;
use crate::fallback::FallbackRule;
use crate::ledger::{NotReserved, Purchase};

/// A model's answer and how it came about.
pub(crate) struct Answered {
    pub(crate) answer: ModelAnswer,
    pub(crate) simulated: bool,
    pub(crate) attempts: u32,
    pub(crate) took_ms: u64,
    pub(crate) degraded: Option<Degraded>,
}

/// Why there is no answer.
pub(crate) struct Unanswered {
    pub(crate) class: ErrorClass,
    pub(crate) detail: String,
    /// After so long it may be asked again: the run can wait for that, holding nothing.
    pub(crate) quiet: Option<Duration>,
    /// There was no room for it in a budget.
    pub(crate) over_budget: bool,
}

/// Why one way gave no answer.
#[derive(Debug)]
enum Failed {
    /// It was not asked, because nothing could be reserved for it.
    Unpaid(NotReserved),
    Call(CallError<ModelError>),
}

impl Failed {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unpaid(NotReserved::Store(_)) => ErrorClass::Unavailable,
            Self::Unpaid(NotReserved::OverBudget(_)) => ErrorClass::QuotaExhausted,
            Self::Unpaid(NotReserved::UnknownPrice(_) | NotReserved::TooLarge { .. }) => {
                ErrorClass::InvalidRequest
            }
            Self::Call(error) => error.class(),
        }
    }

    fn quiet(&self) -> Option<Duration> {
        match self {
            Self::Unpaid(NotReserved::Store(_)) => Some(QUEUE_PAUSE),
            Self::Unpaid(_) => None,
            Self::Call(error) => quiet(error),
        }
    }

    const fn is_over_budget(&self) -> bool {
        matches!(self, Self::Unpaid(NotReserved::OverBudget(_)))
    }
}

impl From<&Failed> for Trouble {
    fn from(failed: &Failed) -> Self {
        match failed {
            Failed::Unpaid(error) => Self::ahead(failed.class(), chain(error)),
            Failed::Call(error) => Self::from(error),
        }
    }
}

impl From<&Failed> for Unanswered {
    fn from(failed: &Failed) -> Self {
        Self {
            class: failed.class(),
            detail: Trouble::from(failed).text,
            quiet: failed.quiet(),
            over_budget: failed.is_over_budget(),
        }
    }
}

/// How long a run steps aside when the queue in front of a model is full.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

/// For how long a dependency is to be left alone, if the error says that and nothing else.
fn quiet(error: &CallError<ModelError>) -> Option<Duration> {
    match error {
        CallError::RetryLater { retry_after, .. }
        | CallError::Rejected {
            reason:
                Rejection::BreakerOpen { retry_after }
                | Rejection::Cooldown { retry_after }
                | Rejection::RateLimited { retry_after },
            attempts: 0,
            ..
        } => Some(*retry_after),
        CallError::Rejected {
            reason: Rejection::QueueFull { retry_after, .. } | Rejection::Shed { retry_after, .. },
            ..
        } => Some((*retry_after).max(QUEUE_PAUSE)),
        CallError::Rejected { reason: Rejection::QueueTimeout { .. }, .. } => Some(QUEUE_PAUSE),
        _ => None,
    }
}

/// An answer of one way.
struct Given {
    answer: ModelAnswer,
    simulated: bool,
    attempts: u32,
    /// What was done to the conversation before it was asked, if anything was.
    shortened: Option<String>,
    is_prepared: bool,
}

/// What the ways leave behind beside their answers.
#[derive(Default)]
struct Tried {
    /// Tokens of answers that did not count.
    spent: Mutex<Usage>,
    /// The shortest time after which a way may be asked again.
    quiet: Mutex<Option<Duration>>,
    attempts: Mutex<u32>,
    /// Ways that budgets had no room for, and all that gave no answer.
    over_budget: Mutex<(u32, u32)>,
}

impl Tried {
    fn note(&self, error: &Failed) -> Trouble {
        {
            let mut over_budget = self.over_budget.lock();
            over_budget.0 += u32::from(error.is_over_budget());
            over_budget.1 += 1;
        }
        if let Some(wait) = error.quiet() {
            let mut shortest = self.quiet.lock();
            *shortest = Some(shortest.map_or(wait, |known| known.min(wait)));
        }
        let trouble = Trouble::from(error);
        *self.attempts.lock() += trouble.attempts;
        trouble
    }

    fn judge(&self, rule: &FallbackRule, given: &Given) -> Result<(), String> {
        if given.is_prepared {
            return Ok(());
        }
        let judged = rule.check.judge(&given.answer);
        if judged.is_err() {
            self.spent.lock().add(&given.answer.usage);
            *self.attempts.lock() += given.attempts;
        }
        judged
    }
}

/// Asks a model, and if its rule says so whatever stands in for it. Asking again is harmless for the
/// world, so each call is a read.
pub(crate) async fn ask_model(
    catalog: &Catalog,
    entry: &ModelEntry,
    request: &ModelRequest,
    caller: Caller<'_>,
    within: Duration,
) -> Result<Answered, Unanswered> {
    let began = Instant::now();
    let deadline = began + within;
    let Some(rule) = entry.fallback.as_deref() else {
        let given = ask(entry, request, caller, deadline).await;
        let Given { answer, simulated, attempts, .. } = given.map_err(|e| Unanswered::from(&e))?;
        let took_ms = millis(began.elapsed());
        return Ok(Answered { answer, simulated, attempts, took_ms, degraded: None });
    };
    let tried = Tried::default();
    let mut ways = Fallback::new().check(|given: &Given| tried.judge(rule, given));
    ways = ways.way(entry.guard.name(), ask_first(entry, rule, request, caller, deadline, &tried));
    for other in rule.to.iter().filter_map(|name| catalog.model(name)) {
        let tried = &tried;
        ways = ways.way(other.guard.name(), async move {
            let _place = entry.guard.fall_back();
            ask(other, request, caller, deadline).await.map_err(|error| tried.note(&error))
        });
    }
    if let Some(answer) = rule.prepared_for(question(request)) {
        ways = ways.way("prepared answer", async { Ok::<_, Trouble>(prepared(answer)) });
    }
    let found =
        ways.answer(deadline + GRACE).await.map(|FallbackAnswer { value, way, skipped }| {
            let mut reasons = told(&skipped);
            reasons.extend(value.shortened.iter().map(String::as_str));
            let degraded =
                (!reasons.is_empty()).then(|| Degraded { way: way.to_owned(), reason: reasons });
            (value, degraded)
        });
    match found {
        Ok((Given { mut answer, simulated, attempts, .. }, degraded)) => {
            answer.usage.add(&tried.spent.lock());
            let attempts = attempts + *tried.attempts.lock();
            let took_ms = millis(began.elapsed());
            Ok(Answered { answer, simulated, attempts, took_ms, degraded })
        }
        Err(nothing) => Err(unanswered(&nothing, &tried)),
    }
}

fn unanswered(nothing: &NoAnswer<'_>, tried: &Tried) -> Unanswered {
    let classes = nothing.skipped.iter().rev().filter_map(|skipped| skipped.class);
    // An answer that does not count is, for the run, a dependency that answers nonsense.
    let class = classes.into_iter().next().unwrap_or(ErrorClass::Malformed);
    let (over_budget, failed) = *tried.over_budget.lock();
    Unanswered {
        class,
        detail: nothing.to_string(),
        quiet: *tried.quiet.lock(),
        over_budget: over_budget > 0 && over_budget == failed,
    }
}

/// Asks the model itself, with a shorter conversation if it is too long and the rule says so.
async fn ask_first(
    entry: &ModelEntry,
    rule: &FallbackRule,
    request: &ModelRequest,
    caller: Caller<'_>,
    deadline: Instant,
    tried: &Tried,
) -> Result<Given, Trouble> {
    let error = match ask(entry, request, caller, deadline).await {
        Ok(given) => return Ok(given),
        Err(error) => tried.note(&error),
    };
    if !rule.compact || error.class != ErrorClass::ContextTooLong {
        return Err(error);
    }
    let Some((messages, what)) = shorten(&request.messages) else { return Err(error) };
    let shorter = ModelRequest { messages, ..request.clone() };
    let given = ask(entry, &shorter, caller, deadline).await.map_err(|error| tried.note(&error))?;
    let shortened = format!("the conversation was too long for the model: {what}");
    Ok(Given { shortened: Some(shortened), ..given })
}

async fn ask(
    entry: &ModelEntry,
    request: &ModelRequest,
    caller: Caller<'_>,
    deadline: Instant,
) -> Result<Given, Failed> {
    let asked = ask_paid(entry, request, caller, deadline).await;
    asked.inspect_err(|failed| match failed {
        Failed::Call(error) => log_failure(&entry.guard, error),
        Failed::Unpaid(error) => {
            debug!(dependency = entry.guard.name(), error = chain(error), "not asked");
        }
    })
}

/// Reserves for the call, makes it, and charges it. Dropped, it is charged as far as it went.
async fn ask_paid(
    entry: &ModelEntry,
    request: &ModelRequest,
    caller: Caller<'_>,
    deadline: Instant,
) -> Result<Given, Failed> {
    let model = entry.model.as_ref();
    let (provider, name) = model.name().split_once('/').unwrap_or_else(|| ("", model.name()));
    let input_tokens = model.count_tokens(request).tokens;
    let purchase = Purchase {
        payer: caller.payer,
        provider,
        model: name,
        input_tokens,
        output_max: request.max_output_tokens.map(u64::from),
        long_cache: false,
        audio: false,
        service: None,
        simulated: model.simulated(),
        within: deadline.saturating_duration_since(Instant::now()),
    };
    let mut reservation = caller.cashier.reserve(purchase).await.map_err(Failed::Unpaid)?;
    for nearing in reservation.nearing() {
        warn!("{nearing}");
    }
    let capped;
    let request = match reservation.cap() {
        None => request,
        Some(cap) => {
            let max_output_tokens = Some(u32::try_from(cap).unwrap_or(u32::MAX));
            capped = ModelRequest { max_output_tokens, ..request.clone() };
            &capped
        }
    };
    reservation.sent();
    match ask_guarded(entry, request, input_tokens, caller, deadline).await {
        Ok(given) => {
            reservation.settle(&given.answer.model, given.answer.usage, false);
            Ok(given)
        }
        Err(error) => {
            // Who answers with an error does not charge. Who gives no answer in time may.
            if !may_be_billed(&error) {
                reservation.release();
            }
            Err(Failed::Call(error))
        }
    }
}

/// Whether a call without an answer may have been paid for all the same.
fn may_be_billed(error: &CallError<ModelError>) -> bool {
    let cut = matches!(error, CallError::TimedOut { .. } | CallError::Cut { .. });
    error.attempts() > 0 && (cut || error.class() == ErrorClass::Malformed)
}

async fn ask_guarded(
    entry: &ModelEntry,
    request: &ModelRequest,
    input_tokens: u64,
    caller: Caller<'_>,
    deadline: Instant,
) -> Result<Given, CallError<ModelError>> {
    let model = entry.model.as_ref();
    let mut context = caller.context(Effect::Read, deadline);
    if entry.guard.policy().rate.tokens_per_minute.is_some() {
        // What goes in is counted; what comes out is at most what was asked for.
        context.tokens = input_tokens + u64::from(request.max_output_tokens.unwrap_or(0));
    }
    let cost = |answer: &ModelAnswer| answer.usage.total();
    let lease = caller.lease;
    let answer = if entry.stream {
        let take = |delta| match delta {
            ModelDelta::Done(answer) => Some(*answer),
            ModelDelta::Text(_) | ModelDelta::ToolCall { .. } | ModelDelta::Activity => None,
        };
        let open = |_| async {
            lease.held().await;
            model.stream(request).await
        };
        entry.guard.gather_metered(context, open, take, cost).await?
    } else {
        let ask = |_| async {
            lease.held().await;
            model.complete(request).await
        };
        entry.guard.call_metered(context, ask, cost).await?
    };
    Ok(Given {
        answer: answer.value,
        simulated: model.simulated(),
        attempts: answer.report.attempts,
        shortened: None,
        is_prepared: false,
    })
}

/// What the user asked last.
fn question(request: &ModelRequest) -> &str {
    let asked = request.messages.iter().rev().find_map(|message| match message {
        Message::User { text } => Some(text.as_str()),
        Message::Assistant { .. } | Message::Tool { .. } => None,
    });
    asked.unwrap_or_default()
}

fn prepared(text: &str) -> Given {
    let answer = ModelAnswer {
        text: text.to_owned(),
        tool_calls: Vec::new(),
        finish: FinishReason::Stop,
        usage: Usage::default(),
        model: "prepared answer".to_owned(),
    };
    Given { answer, simulated: false, attempts: 0, shortened: None, is_prepared: true }
}
