//! Executes one claimed run: asks the reducer what should happen, does it, appends what came of it,
//! until the run is over, put aside, taken over, or the node drains.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use steadfast_guard::{CallError, Effect, Rejection};
use steadfast_providers::model::{ModelError, ModelRequest};
use steadfast_store::{StoreError, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{
    AgentSpec, Decision, decide, failure, model_key, unique_call_ids, valid_history,
};
use crate::call::{self, Caller, OUTCOME_UNKNOWN, ToolResult, not_run};
use crate::catalog::{Catalog, ModelEntry};
use crate::error::RuntimeError;
use crate::event::{RunEvent, ToolOutcome, WaitReason};
use crate::journal::{RunJournal, unwritable};
use crate::key_rule;
use crate::operations::{Entry, EntryError, Operation, Operations};
use crate::run::{CallState, OpenCall};

/// How a drive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driven {
    /// The run is over or put aside; its state says which.
    Settled,
    /// The node drains: the run stays held until the node gives it back.
    Drained,
}

/// Executes one run.
pub(crate) struct Driver {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) journal: RunJournal,
    pub(crate) operations: Arc<Operations>,
    /// Cancelled when the node drains: the driver stops between steps.
    pub(crate) drain: CancellationToken,
    pub(crate) now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Driver {
    /// Drives the run. Dropping the future stops it at once: what was under way is interrupted, and
    /// the next claim settles it.
    ///
    /// # Errors
    /// The store refused or failed; the run is no longer this node's to execute.
    pub(crate) async fn drive(mut self) -> Result<Driven, RuntimeError> {
        let agent_name = self.journal.run().agent.clone();
        let Some(agent) = self.catalog.agent(&agent_name) else {
            let known = self.catalog.agent_names().join(", ");
            let message = format!(
                "agent `{agent_name}` is no longer configured (there are: {known}): add it again and \
                 resume the run"
            );
            let event = failure(steadfast_guard::ErrorClass::NotFound, message);
            self.journal.append(vec![event]).await?;
            return Ok(Driven::Settled);
        };
        loop {
            if self.drain.is_cancelled() {
                return Ok(Driven::Drained);
            }
            let catalog = Arc::clone(&self.catalog);
            let effect_of = |tool: &str| catalog.effect(&agent, tool);
            match decide(self.journal.run(), &agent, (self.now)(), &effect_of) {
                Decision::Nothing => return Ok(Driven::Settled),
                Decision::AskModel { within } => self.ask_model(&agent, within).await?,
                Decision::ReadTools { calls, within } => {
                    self.read_tools(&agent, &calls, within).await?;
                }
                Decision::RunTool { call, within } => self.run_tool(&agent, call, within).await?,
                Decision::AdmitUnknown { call } => {
                    self.settle(&agent, &call, ToolOutcome::OutcomeUnknown, OUTCOME_UNKNOWN)
                        .await?;
                }
                Decision::RefuseCut { call } => {
                    self.settle(&agent, &call, ToolOutcome::Invalid, CUT_ARGUMENTS).await?;
                }
                Decision::End { event } => self.journal.append(vec![event]).await?,
            }
        }
    }

    async fn ask_model(&mut self, agent: &AgentSpec, within: Duration) -> Result<(), RuntimeError> {
        let run = self.journal.run();
        let Some(entry) = self.catalog.model(&agent.model).cloned() else {
            let message = format!("model `{}` is no longer configured", agent.model);
            let event = failure(steadfast_guard::ErrorClass::NotFound, message);
            return self.journal.append(vec![event]).await;
        };
        let key = model_key(run);
        let request = ModelRequest {
            system: Some(agent.instructions.clone()).filter(|text| !text.is_empty()),
            messages: valid_history(&run.messages),
            tools: self.catalog.definitions(agent),
            max_output_tokens: agent.max_output_tokens,
            temperature: agent.temperature,
            idempotency_key: Some(key.clone()),
        };
        let caller = Caller { tenant: self.journal.tenant(), priority: self.journal.priority() };
        let event = match call::ask_model(&entry, &request, caller, within).await {
            Ok(answered) => model_answered(&entry, key, answered),
            Err(error) => self.model_failed(&error),
        };
        self.journal.append(vec![event]).await
    }

    /// A dependency that asks for quiet parks the run, which then holds nothing; any other error ends
    /// it, and a person may resume it.
    fn model_failed(&self, error: &CallError<ModelError>) -> RunEvent {
        let detail = call::chain(error);
        let quiet = match error {
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
                reason:
                    Rejection::QueueFull { retry_after, .. } | Rejection::Shed { retry_after, .. },
                ..
            } => Some((*retry_after).max(QUEUE_PAUSE)),
            CallError::Rejected { reason: Rejection::QueueTimeout { .. }, .. } => Some(QUEUE_PAUSE),
            _ => None,
        };
        let Some(quiet) = quiet else {
            return failure(error.class(), detail);
        };
        let quiet_ms = i64::try_from(quiet.as_millis()).unwrap_or(i64::MAX).max(1);
        let wake_at = Some(Timestamp((self.now)().0.saturating_add(quiet_ms)));
        RunEvent::Parked { reason: WaitReason::Cooldown, wake_at, detail }
    }

    /// Reads change nothing, so nothing is written ahead and they run side by side; each result is
    /// appended as it belongs to its call, all in one transaction.
    async fn read_tools(
        &mut self,
        agent: &AgentSpec,
        calls: &[OpenCall],
        within: Duration,
    ) -> Result<(), RuntimeError> {
        let catalog = Arc::clone(&self.catalog);
        let caller = Caller { tenant: self.journal.tenant(), priority: self.journal.priority() };
        let running =
            calls.iter().map(|open| call::run_tool(&catalog, agent, open, caller, within));
        let results = join_all(running).await;
        let events =
            calls.iter().zip(results).flat_map(|(open, result)| finished(open, result, None));
        self.journal.append(events.collect()).await
    }

    async fn run_tool(
        &mut self,
        agent: &AgentSpec,
        mut open: OpenCall,
        within: Duration,
    ) -> Result<(), RuntimeError> {
        let effect = self.catalog.effect(agent, &open.call.name).unwrap_or(Effect::Read);
        let entered = self.enter(agent, &mut open, within).await?;
        let operation = match entered {
            Entered::Free => None,
            Entered::Claimed(operation) => Some(operation),
            Entered::Settled(result, recorded_at) => {
                return self.journal.append(finished(&open, result, recorded_at)).await;
            }
        };
        let written = matches!(open.state, CallState::Started { .. });
        if effect != Effect::Read && !written {
            let ahead = RunEvent::ToolStarted {
                call_id: open.call.id.clone(),
                tool: open.call.name.clone(),
                effect,
                key: open.key.clone(),
            };
            self.journal.append(vec![ahead]).await?;
        }
        let catalog = Arc::clone(&self.catalog);
        let caller = Caller { tenant: self.journal.tenant(), priority: self.journal.priority() };
        let result = call::run_tool(&catalog, agent, &open, caller, within).await;
        self.finish(&open, result, operation).await
    }

    /// Appends a result, and with it what is recorded under its key.
    async fn finish(
        &mut self,
        open: &OpenCall,
        result: ToolResult,
        operation: Option<Operation>,
    ) -> Result<(), RuntimeError> {
        let owner = self.journal.run().id.to_string();
        let settled = operation.map(|operation| key_rule::settlement(&operation, owner, &result));
        let settled = settled.transpose().map_err(unwritable)?;
        let is_settled = settled.is_some();
        let events = finished(open, result, None);
        self.journal.append_settling(events, settled.into_iter().collect()).await?;
        if is_settled {
            self.operations.ring();
        }
        Ok(())
    }

    /// Enters the operation that a call is, if a rule makes it one; `open` then carries its key.
    async fn enter(
        &self,
        agent: &AgentSpec,
        open: &mut OpenCall,
        within: Duration,
    ) -> Result<Entered, RuntimeError> {
        let operation = match self.operation(agent, open, within) {
            None => return Ok(Entered::Free),
            Some(Ok(operation)) => operation,
            Some(Err(refusal)) => {
                return Ok(Entered::Settled(not_run(ToolOutcome::Invalid, refusal), None));
            }
        };
        open.key = key_rule::key_for_tool(&operation.name);
        let owner = self.journal.run().id.to_string();
        let (outcome, content) = match self.operations.enter(&operation, &owner).await {
            Ok(Entry::Claimed) => return Ok(Entered::Claimed(operation)),
            Ok(Entry::Recorded { answer, at }) => {
                let result = key_rule::recall(&answer).map_err(|error| StoreError::Damaged {
                    what: "a recorded result",
                    place: format!("key `{}`", operation.name.key),
                    problem: error.to_string(),
                })?;
                return Ok(Entered::Settled(result, Some(at)));
            }
            Err(EntryError::Store(error)) => return Err(error.into()),
            Err(error @ EntryError::Conflict { .. }) => (ToolOutcome::Invalid, error.to_string()),
            Err(error @ EntryError::InFlight { .. }) => {
                (ToolOutcome::Unavailable, error.to_string())
            }
            Err(error @ EntryError::OutcomeUnknown { .. }) => {
                (ToolOutcome::OutcomeUnknown, error.to_string())
            }
        };
        Ok(Entered::Settled(not_run(outcome, content), None))
    }

    /// The operation that a call is, by its tool's rule; `Err` is what the model is told if the call
    /// lacks an argument that makes the key. Arguments that do not fit the schema are left to the call.
    fn operation(
        &self,
        agent: &AgentSpec,
        open: &OpenCall,
        within: Duration,
    ) -> Option<Result<Operation, String>> {
        let name = &open.call.name;
        let entry = self.catalog.tool(agent, name)?;
        let rule = entry.key.as_ref()?;
        let arguments = entry.arguments.parse(&open.call.arguments).ok()?;
        let scope = format!("{}/{name}", self.journal.tenant());
        let within = within.min(entry.guard.policy().total_timeout);
        let operation =
            rule.operation(scope, &arguments, entry.tool.spec().effect, Instant::now() + within);
        Some(operation.map_err(|missing| {
            format!("not run: the argument `{missing}` tells one operation from another; give it")
        }))
    }

    async fn settle(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        outcome: ToolOutcome,
        content: &str,
    ) -> Result<(), RuntimeError> {
        let result = ToolResult {
            outcome,
            content: content.to_owned(),
            progress: None,
            attempts: 0,
            took_ms: 0,
        };
        let operation = self.operation(agent, open, Duration::ZERO).and_then(Result::ok);
        self.finish(open, result, operation).await
    }
}

/// How long a run steps aside when the queue in front of a model is full.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

const CUT_ARGUMENTS: &str = "not run: the answer was cut at the output limit, so the arguments may be \
    incomplete. Call again with shorter arguments, or in smaller pieces.";

fn model_answered(entry: &ModelEntry, key: String, answered: call::Answered) -> RunEvent {
    let call::Answered { answer, attempts, took_ms } = answered;
    RunEvent::ModelAnswered {
        key,
        model: answer.model,
        simulated: entry.model.simulated(),
        text: answer.text,
        tool_calls: unique_call_ids(answer.tool_calls),
        finish: answer.finish,
        usage: answer.usage,
        attempts,
        took_ms,
    }
}

/// How a call stands with its key.
enum Entered {
    /// No rule makes it the same as another one.
    Free,
    /// It is this run's to do.
    Claimed(Operation),
    /// It is not done: this is its result, recorded at that time if it comes from another call.
    Settled(ToolResult, Option<Timestamp>),
}

fn finished(open: &OpenCall, result: ToolResult, recorded_at: Option<Timestamp>) -> Vec<RunEvent> {
    let ToolResult { outcome, content, progress, attempts, took_ms } = result;
    let mut events = vec![RunEvent::ToolFinished {
        call_id: open.call.id.clone(),
        tool: open.call.name.clone(),
        outcome,
        content,
        attempts,
        took_ms,
        recorded_at,
    }];
    events.extend(progress.map(|progress| RunEvent::Progressed { progress }));
    events
}
