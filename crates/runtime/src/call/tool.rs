//! Running a tool, and what stands in for it.

use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use steadfast_guard::{
    CheckAnswer, Classify as _, ErrorClass, Fallback, FallbackAnswer, NoAnswer, counted,
};
use steadfast_providers::tool::{Progress, ToolInvocation, ToolOutput};
use steadfast_store::Timestamp;
use tokio::time::Instant;

use super::{Caller, GRACE, Trouble, log_failure, millis, told};
use crate::agent::AgentSpec;
use crate::catalog::{Catalog, ToolEntry};
use crate::event::{Degraded, ToolOutcome};
use crate::expense::Expense;
use crate::fallback::FallbackRule;
use crate::run::OpenCall;

/// A tool's result: whatever happened, the model is told.
pub(crate) struct ToolResult {
    pub(crate) outcome: ToolOutcome,
    pub(crate) content: String,
    pub(crate) progress: Option<Progress>,
    pub(crate) attempts: u32,
    pub(crate) took_ms: u64,
    /// When the result was recorded, if it is another call's.
    pub(crate) recorded_at: Option<Timestamp>,
    pub(crate) degraded: Option<Degraded>,
}

impl ToolResult {
    /// A result without more to say about it.
    pub(crate) const fn new(outcome: ToolOutcome, content: String) -> Self {
        let (attempts, took_ms) = (0, 0);
        let (progress, recorded_at, degraded) = (None, None, None);
        Self { outcome, content, progress, attempts, took_ms, recorded_at, degraded }
    }
}

/// A call that a model asks for.
#[derive(Clone, Copy)]
pub(crate) struct ToolRequest<'a> {
    pub(crate) agent: &'a AgentSpec,
    pub(crate) open: &'a OpenCall,
    pub(crate) caller: Caller<'a>,
    pub(crate) within: Duration,
    /// Calls of this tool that the run has made already.
    pub(crate) made: u32,
}

/// What the model is told about a call that may or may not have taken effect.
pub(crate) const OUTCOME_UNKNOWN: &str = "outcome unknown: the call was interrupted and may or may \
    not have taken effect. It is not run again by itself. Verify its effect first, then decide.";

/// An output, and attempts that it took.
struct Reached {
    output: ToolOutput,
    attempts: u32,
}

/// One call to one tool.
struct Reach<'a> {
    entry: &'a ToolEntry,
    arguments: &'a Value,
    key: &'a str,
    caller: Caller<'a>,
    deadline: Instant,
    made: u32,
}

/// Runs a tool call of the model's. Never fails: what went wrong becomes the result.
pub(crate) async fn run_tool(catalog: &Catalog, request: ToolRequest<'_>) -> ToolResult {
    let ToolRequest { agent, open, caller, within, made } = request;
    let began = Instant::now();
    let name = &open.call.name;
    let entry = if open.is_own() { catalog.any_tool(name) } else { catalog.tool(agent, name) };
    let Some(entry) = entry else {
        return not_run(ToolOutcome::Invalid, unknown_tool(catalog, agent, name));
    };
    // A violation goes back to the model, so that it mends the arguments (SCOPE R9).
    let arguments = match entry.arguments.parse(&open.call.arguments) {
        Ok(arguments) => arguments,
        Err(error) => return not_run(ToolOutcome::Invalid, error.to_string()),
    };
    let deadline = began + within;
    let reach = Reach { entry, arguments: &arguments, key: &open.key, caller, deadline, made };
    let mut result = match entry.fallback.as_deref() {
        None => match reach.tool(catalog).await {
            Ok(reached) => reached.result(),
            Err(trouble) => {
                let (outcome, content) = explain(trouble.class, &trouble.text);
                ToolResult { attempts: trouble.attempts, ..ToolResult::new(outcome, content) }
            }
        },
        Some(rule) => reach.any_way(catalog, rule, &open.call.arguments).await,
    };
    result.took_ms = millis(began.elapsed());
    result
}

impl Reached {
    fn result(self) -> ToolResult {
        let Self { output, attempts } = self;
        let outcome = if output.is_error { ToolOutcome::Failed } else { ToolOutcome::Done };
        let progress = output.progress;
        ToolResult { attempts, progress, ..ToolResult::new(outcome, output.content) }
    }
}

impl Reach<'_> {
    /// The tool, and if it gives nothing what its rule names.
    async fn any_way(&self, catalog: &Catalog, rule: &FallbackRule, raw: &str) -> ToolResult {
        let attempts = Mutex::new(0);
        let count = |trouble: Trouble| {
            *attempts.lock() += trouble.attempts;
            trouble
        };
        let spec = self.entry.tool.spec();
        let known = canonical(self.arguments);
        let kept = self.entry.last_good.as_ref();
        let kept = kept.and_then(|kept| kept.recall(&self.caller.payer.tenant, &known));
        let label = kept.as_ref().map(|(_, age)| format!("cached result, {} old", short(*age)));
        let mut ways = Fallback::new().way(&spec.definition.name, async {
            let reached = self.tool(catalog).await.map_err(count)?;
            if let (Some(last_good), false) = (&self.entry.last_good, reached.output.is_error) {
                last_good.keep(&self.caller.payer.tenant, &known, &reached.output.content);
            }
            Ok::<_, Trouble>(reached)
        });
        for name in &rule.to {
            let way = self.substitute(catalog, name, raw);
            ways = ways.way(name.as_str(), async { way.await.map_err(count) });
        }
        if let (Some((content, _)), Some(label)) = (&kept, &label) {
            ways = ways.way(label, ready(content));
        }
        if let Some(answer) = rule.prepared_for(raw) {
            ways = ways.way("prepared answer", ready(answer));
        }
        // Each way keeps the deadline itself, and knows better what its passing means.
        let (mut result, skipped) = match ways.answer(self.deadline + GRACE).await {
            Ok(FallbackAnswer { value, way, skipped }) => (value.result(), Some((way, skipped))),
            Err(nothing) => {
                let (outcome, content) = explain(class_of(&nothing), &nothing.to_string());
                (ToolResult::new(outcome, content), None)
            }
        };
        result.attempts += *attempts.lock();
        if let Some((way, skipped)) = skipped.filter(|(_, skipped)| !skipped.is_empty()) {
            let (way, reason) = (way.to_owned(), told(&skipped));
            result.content = format!("[degraded: {way}, because {reason}]\n{}", result.content);
            result.degraded = Some(Degraded { way, reason });
        }
        result
    }

    /// Another tool, with the same arguments.
    async fn substitute(
        &self,
        catalog: &Catalog,
        name: &str,
        raw: &str,
    ) -> Result<Reached, Trouble> {
        let ahead = |problem| Trouble::ahead(ErrorClass::Refused, problem);
        let entry = catalog.any_tool(name);
        let entry = entry.ok_or_else(|| ahead(format!("there is no tool `{name}`")))?;
        let parsed = entry.arguments.parse(raw);
        let arguments = parsed.map_err(|error| ahead(format!("not called: {error}")))?;
        let _place = self.entry.guard.fall_back();
        Reach { entry, arguments: &arguments, made: 0, ..*self }.tool(catalog).await
    }

    /// The tool itself, behind what protects it.
    async fn tool(&self, catalog: &Catalog) -> Result<Reached, Trouble> {
        let Some(expense) = &self.entry.expense else { return self.guarded().await };
        self.allowed(catalog, expense).await?;
        let cost = expense.rule.cost_per_call;
        let reserved = expense.budget.as_ref().map(|budget| budget.reserve(cost)).transpose();
        let reserved = reserved
            .map_err(|error| Trouble::ahead(ErrorClass::QuotaExhausted, error.to_string()))?;
        let ended = self.guarded().await;
        let attempts = match &ended {
            Ok(reached) => reached.attempts,
            Err(trouble) => trouble.attempts,
        };
        if let Some(reserved) = reserved {
            match attempts {
                0 => reserved.cancel(),
                attempts => reserved.settle(cost.saturating_mul(attempts.into())),
            }
        }
        if let (Some(watch), 1..) = (&expense.anomaly, attempts) {
            watch.record_call();
            watch.record_cost(cost.saturating_mul(attempts.into()));
        }
        ended
    }

    /// Whether the run may make one more call, and the pre-check lets this one through.
    async fn allowed(&self, catalog: &Catalog, expense: &Expense) -> Result<(), Trouble> {
        if let Some(limit) = expense.rule.calls_per_run.filter(|limit| self.made >= *limit) {
            let most = counted(limit.into(), "call");
            let text = format!("`calls_per_run` allows {most}, and this run has made as many");
            return Err(Trouble::ahead(ErrorClass::QuotaExhausted, text));
        }
        let Some(name) = &expense.rule.pre_check_tool else { return Ok(()) };
        let Some(entry) = catalog.any_tool(name) else { return Ok(()) };
        let checking = async {
            let reach = Reach { entry, made: 0, ..*self };
            let Reached { output, .. } = reach.guarded().await?;
            Ok::<_, Trouble>(match output.is_error {
                true => CheckAnswer::Forbidden(output.content),
                false => CheckAnswer::Go,
            })
        };
        let checked = expense.check.run(checking).await;
        checked.map(drop).map_err(|refused| Trouble::ahead(refused.class(), super::chain(&refused)))
    }

    async fn guarded(&self) -> Result<Reached, Trouble> {
        let tool = Arc::clone(&self.entry.tool);
        let context = self.caller.context(tool.spec().effect, self.deadline);
        let called = self.entry.guard.call(context, |attempt| {
            let call = tool.call(ToolInvocation {
                arguments: self.arguments.clone(),
                idempotency_key: self.key.to_owned(),
                deadline: attempt.deadline,
            });
            async {
                self.caller.lease.held().await;
                call.await
            }
        });
        match called.await {
            Ok(answer) => Ok(Reached { output: answer.value, attempts: answer.report.attempts }),
            Err(error) => {
                log_failure(&self.entry.guard, &error);
                Err(Trouble::from(&error))
            }
        }
    }
}

/// An unknown outcome of any way is the outcome; otherwise the tool's own error is.
fn class_of(nothing: &NoAnswer<'_>) -> ErrorClass {
    let mut classes = nothing.skipped.iter().filter_map(|skipped| skipped.class);
    let first = classes.next().unwrap_or(ErrorClass::Internal);
    let unknown = ErrorClass::OutcomeUnknown;
    if first == unknown || classes.any(|class| class == unknown) { unknown } else { first }
}

fn ready(content: &str) -> Ready<Result<Reached, Trouble>> {
    std::future::ready(Ok(Reached { output: ToolOutput::text(content.to_owned()), attempts: 0 }))
}

fn explain(class: ErrorClass, cause: &str) -> (ToolOutcome, String) {
    match class {
        ErrorClass::OutcomeUnknown => {
            (ToolOutcome::OutcomeUnknown, format!("{OUTCOME_UNKNOWN} ({cause})"))
        }
        ErrorClass::InvalidRequest | ErrorClass::NotFound | ErrorClass::Conflict => {
            (ToolOutcome::Failed, cause.to_owned())
        }
        ErrorClass::Authentication | ErrorClass::Permission => (
            ToolOutcome::Failed,
            format!("{cause}. Do not call it again as it is: it needs a person to allow it."),
        ),
        ErrorClass::QuotaExhausted => {
            (ToolOutcome::Failed, format!("{cause}. Do not call it again: go on without it."))
        }
        _ => (ToolOutcome::Unavailable, cause.to_owned()),
    }
}

pub(crate) const fn not_run(outcome: ToolOutcome, content: String) -> ToolResult {
    ToolResult::new(outcome, content)
}

fn unknown_tool(catalog: &Catalog, agent: &AgentSpec, name: &str) -> String {
    let known: Vec<_> = catalog.definitions(agent).into_iter().map(|tool| tool.name).collect();
    format!("there is no tool `{name}`; there are: {}", known.join(", "))
}

/// Equal arguments give equal texts, however their objects are ordered.
fn canonical(arguments: &Value) -> String {
    let mut arguments = arguments.clone();
    arguments.sort_all_objects();
    arguments.to_string()
}

/// An age for people: `47s`, `12m`, `3h`.
fn short(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..=119 => format!("{seconds}s"),
        seconds @ 120..=7_199 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}
