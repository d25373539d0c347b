//! Which calls of a tool are the same operation (SCOPE R11).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::Effect;
use steadfast_providers::tool::Progress;
use steadfast_store::{BlobHash, KeyEnd, KeyName, KeySettlement};
use tokio::time::Instant;

use crate::call::ToolResult;
use crate::event::ToolOutcome;
use crate::operations::Operation;

/// For how long an answer is kept if nothing else is said: a day, as payment APIs do.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes calls of a tool that agree in some arguments one operation, across runs: it is done once, and
/// every later call gets the recorded result. A call that agrees in these arguments and differs in
/// others is refused.
///
/// Without a rule, every call that a model makes is an operation of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRule {
    /// The arguments whose values make the key. At least one.
    pub arguments: Vec<String>,
    /// For how long the result is kept, from when it was recorded. Default 24 h.
    #[serde(default = "default_keep", with = "humantime_serde")]
    pub keep: Duration,
}

const fn default_keep() -> Duration {
    DEFAULT_KEEP
}

/// A result as it is recorded under a key.
#[derive(Serialize, Deserialize)]
struct RecordedResult {
    outcome: ToolOutcome,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
}

impl KeyRule {
    /// Whether the rule can do what it says for a tool; otherwise the problem.
    pub(crate) fn check(&self, effect: Effect, schema: &Value) -> Result<(), String> {
        if effect == Effect::Read {
            return Err("the tool only reads, and reads need no key: remove the rule".to_owned());
        }
        if self.arguments.is_empty() {
            return Err("`arguments` is empty: name at least one argument".to_owned());
        }
        if self.keep.is_zero() {
            return Err("`keep` is 0: nothing would be remembered; use 1s or more".to_owned());
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Ok(());
        };
        for name in &self.arguments {
            if !properties.contains_key(name) {
                let known = properties.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(format!("the tool has no argument `{name}`; it has: {known}"));
            }
        }
        Ok(())
    }

    /// The operation that a call is; `Err` names the argument that is missing.
    pub(crate) fn operation(
        &self,
        scope: String,
        arguments: &Value,
        effect: Effect,
        deadline: Instant,
    ) -> Result<Operation, &str> {
        let mut values = Vec::with_capacity(self.arguments.len());
        for name in &self.arguments {
            let value = arguments.get(name).filter(|value| !value.is_null());
            values.push(value.ok_or(name.as_str())?);
        }
        let key = canonical(Value::from_iter(values.into_iter().cloned()));
        let digest = BlobHash::of(canonical(arguments.clone()).as_bytes());
        Ok(Operation { name: KeyName { scope, key }, digest, effect, keep: self.keep, deadline })
    }
}

/// Equal values give equal texts, however their objects are ordered.
fn canonical(mut value: Value) -> String {
    value.sort_all_objects();
    value.to_string()
}

/// The key that the tool is given: the same for every call of the operation.
pub(crate) fn key_for_tool(name: &KeyName) -> String {
    let text = format!("{}\n{}", name.scope, name.key);
    BlobHash::of(text.as_bytes()).to_string()
}

/// What a result leaves on record: nothing, if the call did nothing or may be tried again.
pub(crate) fn settlement(
    operation: &Operation,
    owner: String,
    result: &ToolResult,
) -> Result<KeySettlement, serde_json::Error> {
    let end = match result.outcome {
        ToolOutcome::Done | ToolOutcome::OutcomeUnknown => {
            let record = RecordedResult {
                outcome: result.outcome,
                content: result.content.clone(),
                progress: result.progress.clone(),
            };
            let answer = serde_json::to_vec(&record)?.into();
            KeyEnd::Recorded { answer, keep: operation.keep }
        }
        ToolOutcome::Failed
        | ToolOutcome::Invalid
        | ToolOutcome::Unavailable
        | ToolOutcome::Queued => KeyEnd::Released,
    };
    Ok(KeySettlement { name: operation.name.clone(), owner, end })
}

/// The result that was recorded.
pub(crate) fn recall(answer: &[u8]) -> Result<ToolResult, serde_json::Error> {
    let RecordedResult { outcome, content, progress } = serde_json::from_slice(answer)?;
    Ok(ToolResult { progress, ..ToolResult::new(outcome, content) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(arguments: &[&str]) -> KeyRule {
        let arguments = arguments.iter().map(|name| (*name).to_owned()).collect();
        KeyRule { arguments, keep: DEFAULT_KEEP }
    }

    fn operation(rule: &KeyRule, arguments: &Value) -> Operation {
        let deadline = Instant::now();
        rule.operation("acme/pay".to_owned(), arguments, Effect::Once, deadline).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn r11_the_key_is_made_of_the_named_arguments_and_the_digest_of_all() {
        let rule = rule(&["order", "part"]);
        let first = operation(&rule, &json!({"order": {"b": 1, "a": 2}, "part": 1, "cents": 5}));
        let same = operation(&rule, &json!({"cents": 5, "part": 1, "order": {"a": 2, "b": 1}}));
        let dearer = operation(&rule, &json!({"order": {"b": 1, "a": 2}, "part": 1, "cents": 6}));
        let other = operation(&rule, &json!({"order": {"b": 1, "a": 2}, "part": "1", "cents": 5}));
        assert_eq!((&first.name, first.digest), (&same.name, same.digest));
        assert_eq!(first.name, dearer.name);
        assert_ne!(first.digest, dearer.digest);
        assert_ne!(first.name, other.name);
        assert_ne!(key_for_tool(&first.name), key_for_tool(&other.name));
    }

    #[tokio::test(start_paused = true)]
    async fn r11_a_missing_argument_is_named() {
        let deadline = Instant::now();
        for arguments in [json!({"order": 1}), json!({"order": 1, "part": null})] {
            let missing = rule(&["order", "part"])
                .operation(String::new(), &arguments, Effect::Once, deadline)
                .expect_err("is missing")
                .to_owned();
            assert_eq!(missing, "part");
        }
    }
}
