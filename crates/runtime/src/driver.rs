//! Executes one claimed run: asks the reducer what should happen, does it, appends what came of it,
//! until the run is over, put aside, taken over, or the node drains.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::ModelRequest;
use steadfast_store::{KeySettlement, StoreError, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{
    AgentSpec, Decision, decide, failure, model_key, unique_call_ids, valid_history,
};
use crate::call::{self, Answered, Caller, ToolRequest, ToolResult, Unanswered, not_run};
use crate::catalog::Catalog;
use crate::error::RuntimeError;
use crate::event::{RunEvent, StopReason, ToolOutcome, WaitReason};
use crate::journal::{RunJournal, unwritable};
use crate::key_rule;
use crate::later;
use crate::lease::Lease;
use crate::ledger::{Cashier, Payer};
use crate::operations::{Entry, EntryError, Operation, Operations};
use crate::problems::step_limit;
use crate::run::{CallState, OpenCall, Run};
use crate::shared::Mailbell;

/// How a drive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
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
    pub(crate) cashier: Arc<Cashier>,
    /// Who pays for what the run asks models.
    pub(crate) payer: Payer,
    /// What the run was claimed by.
    pub(crate) lease: Arc<Lease>,
    /// Cancelled when the node drains: the driver stops between steps.
    pub(crate) drain: CancellationToken,
    /// Rung when letters may wait for the run.
    pub(crate) mail: Arc<Mailbell>,
    pub(crate) now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Driver {
    /// Drives the run. Dropping the future stops it at once: what was under way is interrupted, and
    /// the next claim settles it.
    ///
    /// # Errors
    /// The store refused or failed; the run is no longer this node's to execute.
    pub(crate) async fn drive(mut self) -> Result<Outcome, RuntimeError> {
        let agent_name = self.journal.run().agent.clone();
        let Some(agent) = self.catalog.agent(&agent_name) else {
            let known = self.catalog.agent_names().join(", ");
            let message = format!(
                "agent `{agent_name}` is no longer configured (there are: {known}): add it again and \
                 resume the run"
            );
            let event = failure(ErrorClass::NotFound, message);
            self.journal.append(vec![event]).await?;
            return Ok(Outcome::Settled);
        };
        let agent = self.journal.run().overrides.apply(&agent);
        loop {
            if self.drain.is_cancelled() {
                return Ok(Outcome::Drained);
            }
            if self.mail.take() && self.journal.take_letters(true).await? {
                return Ok(Outcome::Settled);
            }
            let catalog = Arc::clone(&self.catalog);
            let effect_of = |tool: &str| catalog.effect(&agent, tool);
            let decision = decide(self.journal.run(), &agent, (self.now)(), &effect_of);
            if let Some(limit) = step_limit(&catalog, &agent, &decision) {
                self.journal.pulse().begins(limit);
            }
            match decision {
                Decision::Nothing => return Ok(Outcome::Settled),
                Decision::AskModel { within } => self.ask_model(&agent, within).await?,
                Decision::ReadTools { calls, within } => {
                    self.read_tools(&agent, &calls, within).await?;
                }
                Decision::RunTool { call, within } => self.run_tool(&agent, call, within).await?,
                Decision::AdmitUnknown { call } => self.admit_unknown(&agent, &call, None).await?,
                Decision::GiveUp { call } => {
                    self.settle(&agent, &call, ToolOutcome::Unavailable, NOT_IN_TIME).await?;
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
            let event = failure(ErrorClass::NotFound, message);
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
        let caller = self.caller();
        let asked = call::ask_model(&self.catalog, &entry, &request, caller, within).await;
        let event = match asked {
            Ok(answered) => model_answered(key, answered),
            Err(unanswered) => self.unanswered(unanswered),
        };
        self.journal.append(vec![event]).await
    }

    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            payer: &self.payer,
            cashier: &self.cashier,
            priority: self.journal.priority(),
            lease: &self.lease,
        }
    }

    /// A dependency that asks for quiet parks the run, which then holds nothing; any other error ends
    /// it, and a person may resume it.
    fn unanswered(&self, unanswered: Unanswered) -> RunEvent {
        let Unanswered { class, detail, quiet, over_budget } = unanswered;
        match quiet {
            None if over_budget => RunEvent::Failed { stop: StopReason::Budget, message: detail },
            None => failure(class, detail),
            Some(quiet) => self.parked(quiet, detail),
        }
    }

    fn parked(&self, quiet: Duration, detail: String) -> RunEvent {
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
        let run = self.journal.run();
        let running = calls.iter().enumerate().map(|(place, open)| {
            let name = &open.call.name;
            let before = calls[..place].iter().filter(|call| call.call.name == *name).count();
            let before = u32::try_from(before).unwrap_or(u32::MAX);
            let made = run.calls.get(name).copied().unwrap_or_default().saturating_add(before);
            let caller = self.caller();
            call::run_tool(&catalog, ToolRequest { agent, open, caller, within, made })
        });
        let results = join_all(running).await;
        let fatal =
            calls.iter().zip(&results).find_map(|(open, result)| fatal(agent, run, open, result));
        let events = calls.iter().zip(results).flat_map(|(open, result)| finished(open, result));
        self.journal.append(events.chain(fatal).collect()).await
    }

    async fn run_tool(
        &mut self,
        agent: &AgentSpec,
        mut open: OpenCall,
        within: Duration,
    ) -> Result<(), RuntimeError> {
        if let Some(memory) = self.catalog.memory(agent, &open.call.name).cloned() {
            let used = memory.call(&self.journal, &open.call.arguments).await?;
            self.journal.stage(used.writes);
            return self.journal.append(finished(&open, used.result)).await;
        }
        let effect = match open.is_own() {
            true => self.catalog.any_tool(&open.call.name).map(|entry| entry.tool.spec().effect),
            false => self.catalog.effect(agent, &open.call.name),
        };
        let effect = effect.unwrap_or(Effect::Read);
        let entered = self.enter(agent, &mut open, within).await?;
        let operation = match entered {
            Entered::Free => None,
            Entered::Claimed(operation) => Some(operation),
            Entered::Settled(result) => return self.journal.append(finished(&open, result)).await,
        };
        let written = matches!(open.state, CallState::Started { .. });
        if effect != Effect::Read && !written {
            // What is not sent in the end is better not announced: nobody would know that it was not.
            self.lease.held().await;
            let ahead = RunEvent::ToolStarted {
                call_id: open.call.id.clone(),
                tool: open.call.name.clone(),
                effect,
                key: open.key.clone(),
            };
            self.journal.append(vec![ahead]).await?;
        }
        let catalog = Arc::clone(&self.catalog);
        let made = self.journal.run().calls.get(&open.call.name).copied().unwrap_or_default();
        let caller = self.caller();
        let request = ToolRequest { agent, open: &open, caller, within, made };
        let result = call::run_tool(&catalog, request).await;
        if result.outcome == ToolOutcome::Unavailable {
            return self.try_later(agent, &open, result, operation).await;
        }
        if result.outcome == ToolOutcome::OutcomeUnknown && self.has_unknown_rule(&open) {
            return self.admit_unknown(agent, &open, Some(&result.content)).await;
        }
        self.finish(agent, &open, result, operation).await
    }

    /// A change that has not taken place: put off, if it is to be made later.
    async fn try_later(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        result: ToolResult,
        operation: Option<Operation>,
    ) -> Result<(), RuntimeError> {
        let now = (self.now)();
        let run = self.journal.run();
        if open.is_undo || run.queued.is_some() && open.is_notice {
            return self.finish(agent, open, result, operation).await;
        }
        if run.queued.is_some() {
            let parked = self.parked(later::pause(now, run.submitted_at), result.content.clone());
            return self.settle_with(vec![parked], &result, operation).await;
        }
        let entry = self.catalog.tool(agent, &open.call.name);
        let rule = entry.and_then(|entry| entry.fallback.clone());
        let notify = rule.as_ref().and_then(|rule| rule.notify.clone());
        let Some(keep_trying) = rule.and_then(|rule| rule.queue) else {
            return self.finish(agent, open, result, operation).await;
        };
        let result = later::queue(&self.journal, open, result, now, keep_trying, notify).await?;
        self.finish(agent, open, result, operation).await
    }

    /// Whether more is to be done about an unknown outcome than to tell the model.
    fn has_unknown_rule(&self, open: &OpenCall) -> bool {
        let own = open.is_own() || self.journal.run().queued.is_some();
        !own && self.catalog.unknown_rule(&open.call.name).is_some()
    }

    /// Appends a result, and with it what is recorded under its key.
    async fn finish(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        result: ToolResult,
        operation: Option<Operation>,
    ) -> Result<(), RuntimeError> {
        let fatal = fatal(agent, self.journal.run(), open, &result);
        self.finish_and(open, result, operation, fatal).await
    }

    /// The same, and the end of the run that it brings about.
    async fn finish_and(
        &mut self,
        open: &OpenCall,
        result: ToolResult,
        operation: Option<Operation>,
        fatal: Option<RunEvent>,
    ) -> Result<(), RuntimeError> {
        let settled = self.settlement(&result, operation)?;
        let events = finished(open, result).into_iter().chain(fatal).collect();
        self.append_settled(events, settled).await
    }

    /// Appends events in place of a result that is to come later.
    async fn settle_with(
        &mut self,
        events: Vec<RunEvent>,
        result: &ToolResult,
        operation: Option<Operation>,
    ) -> Result<(), RuntimeError> {
        let settled = self.settlement(result, operation)?;
        self.append_settled(events, settled).await
    }

    fn settlement(
        &self,
        result: &ToolResult,
        operation: Option<Operation>,
    ) -> Result<Option<KeySettlement>, RuntimeError> {
        let owner = self.journal.run().id.to_string();
        let settled = operation.map(|operation| key_rule::settlement(&operation, owner, result));
        settled.transpose().map_err(unwritable)
    }

    async fn append_settled(
        &mut self,
        events: Vec<RunEvent>,
        settled: Option<KeySettlement>,
    ) -> Result<(), RuntimeError> {
        let is_settled = settled.is_some();
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
                return Ok(Entered::Settled(not_run(ToolOutcome::Invalid, refusal)));
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
                return Ok(Entered::Settled(ToolResult { recorded_at: Some(at), ..result }));
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
        Ok(Entered::Settled(not_run(outcome, content)))
    }

    /// The operation that a call is, by its tool's rule; `Err` is what the model is told if the call
    /// lacks an argument that makes the key. Arguments that do not fit the schema are left to the call.
    fn operation(
        &self,
        agent: &AgentSpec,
        open: &OpenCall,
        within: Duration,
    ) -> Option<Result<Operation, String>> {
        if open.is_undo {
            return None;
        }
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

    pub(crate) async fn settle(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        outcome: ToolOutcome,
        content: &str,
    ) -> Result<(), RuntimeError> {
        let result = not_run(outcome, content.to_owned());
        let fatal = fatal(agent, self.journal.run(), open, &result);
        self.settle_and(agent, open, result, fatal).await
    }

    /// Appends a result that no call gave, and the end of the run that it brings about.
    pub(crate) async fn settle_and(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        result: ToolResult,
        fatal: Option<RunEvent>,
    ) -> Result<(), RuntimeError> {
        let operation = self.operation(agent, open, Duration::ZERO).and_then(Result::ok);
        self.finish_and(open, result, operation, fatal).await
    }
}

const NOT_IN_TIME: &str = "it could not be made in time";

const CUT_ARGUMENTS: &str = "not run: the answer was cut at the output limit, so the arguments may be \
    incomplete. Call again with shorter arguments, or in smaller pieces.";

fn model_answered(key: String, answered: Answered) -> RunEvent {
    let Answered { answer, simulated, attempts, took_ms, degraded } = answered;
    RunEvent::ModelAnswered {
        key,
        model: answer.model,
        simulated,
        text: answer.text,
        tool_calls: unique_call_ids(answer.tool_calls),
        finish: answer.finish,
        usage: answer.usage,
        attempts,
        took_ms,
        degraded,
    }
}

/// How a call stands with its key.
enum Entered {
    /// No rule makes it the same as another one.
    Free,
    /// It is this run's to do.
    Claimed(Operation),
    /// It is not done: this is its result.
    Settled(ToolResult),
}

/// The end of the run, if nothing goes on without this result and there is none.
fn fatal(agent: &AgentSpec, run: &Run, open: &OpenCall, result: &ToolResult) -> Option<RunEvent> {
    let name = &open.call.name;
    // A call for another run has its own end, and whoever is to be told comes first; what cannot be undone
    // does not stop the rest.
    if run.queued.is_some() || open.is_undo {
        return None;
    }
    let class = match result.outcome {
        ToolOutcome::Unavailable => ErrorClass::Unavailable,
        ToolOutcome::OutcomeUnknown => ErrorClass::OutcomeUnknown,
        ToolOutcome::Done | ToolOutcome::Failed | ToolOutcome::Invalid | ToolOutcome::Queued => {
            return None;
        }
    };
    let message = format!(
        "the critical tool `{name}` gave no result: {}. Retry the run to make the call again, or resume it to go on without it",
        result.content
    );
    agent.is_critical(name).then(|| failure(class, message))
}

fn finished(open: &OpenCall, result: ToolResult) -> Vec<RunEvent> {
    let ToolResult { outcome, content, progress, attempts, took_ms, recorded_at, degraded } =
        result;
    let mut events = vec![RunEvent::ToolFinished {
        call_id: open.call.id.clone(),
        tool: open.call.name.clone(),
        outcome,
        content,
        attempts,
        took_ms,
        recorded_at,
        degraded,
    }];
    events.extend(progress.map(|progress| RunEvent::Progressed { progress }));
    events
}
