//! What is done about a call that may or may not have taken effect, and how a finished call is undone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::ToolCall;

use crate::agent::{AgentSpec, failure};
use crate::call::{self, OUTCOME_UNKNOWN, ToolRequest, not_run};
use crate::driver::Driver;
use crate::error::RuntimeError;
use crate::event::{RunEvent, ToolOutcome, Verdict, WaitReason};
use crate::recovery::Judgement;
use crate::run::OpenCall;
use crate::template;

/// How what a tool has done is undone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compensation {
    /// The tool that undoes it.
    pub tool: String,
    /// Its arguments; `{name}` stands for an argument of the call that is undone, `{result}` for what that
    /// call said, `{result.name}` for a field of it.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

impl Compensation {
    /// The arguments that undo a call; an error if it does not hold what they are made from.
    pub(crate) fn arguments_for(
        &self,
        arguments: &str,
        result: Option<&str>,
    ) -> Result<String, String> {
        let given = serde_json::from_str(arguments).unwrap_or_default();
        template::fill(&self.arguments, &given, result).map(|filled| filled.to_string())
    }
}

/// What is done about a call of a tool that may or may not have taken effect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "then", rename_all = "snake_case", deny_unknown_fields)]
pub enum UnknownRule {
    /// The model is told, and verifies.
    Tell,
    /// A person is asked; the run waits.
    Ask,
    /// The run fails; retrying it makes the call again.
    Fail,
    /// A tool that reads is asked.
    Verify(Verification),
}

/// How a tool is asked whether a call has taken effect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// The tool; it must only read.
    pub with: String,
    /// Its arguments, made from those of the call in question as [`Compensation::arguments`] are.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// How its answer is read.
    #[serde(default)]
    pub read: VerdictFrom,
    /// What is done if it does not know.
    #[serde(default, rename = "else")]
    pub otherwise: Otherwise,
}

/// How a verifying tool's answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictFrom {
    /// It is JSON with `"happened": true`, `false` or `null`.
    #[default]
    Answer,
    /// It has taken effect if the tool succeeds (a command: exit code 0), and has not if it fails.
    ExitCode,
}

/// What is done if nobody can be asked but people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// The model is told.
    #[default]
    Tell,
    /// A person is asked.
    Ask,
    /// The run fails.
    Fail,
}

/// Whether the rules can do what they say; otherwise the key of the configuration and the problem.
pub(crate) fn check(
    compensations: &BTreeMap<String, Compensation>,
    unknown: &BTreeMap<String, UnknownRule>,
    tools: &[(&str, Effect)],
) -> Result<(), (String, String)> {
    let known = || tools.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let effect = |tool: &str| tools.iter().find(|(name, _)| *name == tool).map(|found| found.1);
    let missing = |tool: &str| format!("there is no tool `{tool}`; there are: {}", known());
    let named = compensations.keys().map(|tool| ("compensate", tool));
    for (section, tool) in named.chain(unknown.keys().map(|tool| ("unknown", tool))) {
        let problem = match effect(tool) {
            None => missing(tool),
            Some(Effect::Read) => "the tool only reads: remove the rule".to_owned(),
            Some(Effect::Idempotent | Effect::Once) => continue,
        };
        return Err((format!("{section}.{tool}"), problem));
    }
    for (tool, rule) in compensations {
        if effect(&rule.tool).is_none() {
            return Err((format!("compensate.{tool}.tool"), missing(&rule.tool)));
        }
        template::check(&rule.arguments)
            .map_err(|problem| (format!("compensate.{tool}.arguments"), problem))?;
    }
    for (tool, rule) in unknown {
        let UnknownRule::Verify(verify) = rule else { continue };
        let problem = match effect(&verify.with) {
            Some(Effect::Read) => None,
            Some(_) => Some(format!("`{}` changes something; it may only read", verify.with)),
            None => Some(missing(&verify.with)),
        };
        if let Some(problem) = problem {
            return Err((format!("unknown.{tool}.with"), problem));
        }
        template::check(&verify.arguments)
            .map_err(|problem| (format!("unknown.{tool}.arguments"), problem))?;
    }
    Ok(())
}

impl Driver {
    /// A call may or may not have taken effect. What is done about it is the tool's rule.
    pub(crate) async fn admit_unknown(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        cause: Option<&str>,
    ) -> Result<(), RuntimeError> {
        let told = match cause {
            Some(cause) => cause.to_owned(),
            None => OUTCOME_UNKNOWN.to_owned(),
        };
        let unclear = match &open.judged {
            Some(Judgement { verdict: Verdict::Happened, result, by }) => {
                let content = match result {
                    Some(result) => result.clone(),
                    None => format!("it was interrupted; {by} says that it has taken effect"),
                };
                return self.settle(agent, open, ToolOutcome::Done, &content).await;
            }
            Some(Judgement { verdict: Verdict::Fail, by, .. }) => {
                let told = format!("{told} ({by} wants the run to fail)");
                return self.fail_unknown(agent, open, &told).await;
            }
            Some(_) => true,
            None => false,
        };
        let own = open.is_own() || self.journal.run().queued.is_some();
        let rule = self.catalog.unknown_rule(&open.call.name).filter(|_| !own).cloned();
        let otherwise = match rule {
            None | Some(UnknownRule::Tell) => Otherwise::Tell,
            Some(UnknownRule::Ask) => Otherwise::Ask,
            Some(UnknownRule::Fail) => Otherwise::Fail,
            Some(UnknownRule::Verify(verify)) if unclear => verify.otherwise,
            Some(UnknownRule::Verify(verify)) => return self.verify(agent, open, &verify).await,
        };
        match otherwise {
            Otherwise::Tell => self.settle(agent, open, ToolOutcome::OutcomeUnknown, &told).await,
            Otherwise::Fail => self.fail_unknown(agent, open, &told).await,
            Otherwise::Ask => {
                let run = self.journal.run().id;
                let (id, tool) = (&open.call.id, &open.call.name);
                let detail = format!(
                    "did call `{id}` of `{tool}` take effect? Look, and say so: `steadfast answer {run} \
                     {id} happened`, `did-not` (it is made again) or `fail`"
                );
                let reason = WaitReason::Person;
                let parked = RunEvent::Parked { reason, wake_at: None, detail };
                self.journal.append(vec![parked]).await
            }
        }
    }

    async fn fail_unknown(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        told: &str,
    ) -> Result<(), RuntimeError> {
        let message = format!(
            "nobody knows whether `{}` took effect: {told} Look whether it did; retrying the run makes \
             the call again with the same key, resuming it tells the model",
            open.call.name
        );
        let failed = failure(ErrorClass::OutcomeUnknown, message);
        let result = not_run(ToolOutcome::OutcomeUnknown, told.to_owned());
        self.settle_and(agent, open, result, Some(failed)).await
    }

    /// Asks a tool; what it says is written down before anything is done about it.
    async fn verify(
        &mut self,
        agent: &AgentSpec,
        open: &OpenCall,
        rule: &Verification,
    ) -> Result<(), RuntimeError> {
        let given: Value = serde_json::from_str(&open.call.arguments).unwrap_or_default();
        let (verdict, result) = match template::fill(&rule.arguments, &given, None) {
            Err(problem) => (Verdict::Unclear, Some(problem)),
            Ok(arguments) => {
                let call = ToolCall {
                    id: format!("verify {}", open.call.id),
                    name: rule.with.clone(),
                    arguments: arguments.to_string(),
                };
                let asked = OpenCall {
                    is_notice: true,
                    ..OpenCall::pending(call, format!("{}-verify", open.key))
                };
                let (caller, within) = (self.caller(), agent.turn_timeout);
                let request = ToolRequest { agent, open: &asked, caller, within, made: 0 };
                let answer = call::run_tool(&self.catalog, request).await;
                (read_verdict(rule.read, answer.outcome, &answer.content), Some(answer.content))
            }
        };
        let (call_id, by) = (open.call.id.clone(), format!("tool `{}`", rule.with));
        self.journal.append(vec![RunEvent::CallJudged { call_id, verdict, result, by }]).await
    }
}

fn read_verdict(from: VerdictFrom, outcome: ToolOutcome, content: &str) -> Verdict {
    let happened = match (from, outcome) {
        (VerdictFrom::ExitCode, ToolOutcome::Done) => Some(true),
        (VerdictFrom::ExitCode, ToolOutcome::Failed) => Some(false),
        (VerdictFrom::Answer, ToolOutcome::Done) => {
            let answer: Option<Value> = serde_json::from_str(content).ok();
            answer.as_ref().and_then(|answer| answer.get("happened")?.as_bool())
        }
        _ => None,
    };
    match happened {
        Some(true) => Verdict::Happened,
        Some(false) => Verdict::DidNot,
        None => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r11_a_verifying_tools_answer_is_read_as_said_and_anything_else_is_unclear() {
        use ToolOutcome::{Done, Failed, Unavailable};
        for (from, outcome, content, expected) in [
            (VerdictFrom::Answer, Done, r#"{"happened":true,"id":4}"#, Verdict::Happened),
            (VerdictFrom::Answer, Done, r#"{"happened":false}"#, Verdict::DidNot),
            (VerdictFrom::Answer, Done, r#"{"happened":null}"#, Verdict::Unclear),
            (VerdictFrom::Answer, Done, "yes", Verdict::Unclear),
            (VerdictFrom::Answer, Failed, r#"{"happened":true}"#, Verdict::Unclear),
            (VerdictFrom::ExitCode, Done, "", Verdict::Happened),
            (VerdictFrom::ExitCode, Failed, "", Verdict::DidNot),
            (VerdictFrom::ExitCode, Unavailable, "", Verdict::Unclear),
        ] {
            assert_eq!(read_verdict(from, outcome, content), expected, "{from:?} {content}");
        }
    }
}
