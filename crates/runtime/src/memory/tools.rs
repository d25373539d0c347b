//! Facts for agents: `remember`, `recall`, `forget` and `list_facts`. What a call writes is written in the
//! transaction of its result, so that a crash leaves both or neither; nothing is written ahead, and a call
//! that is made again after a crash has not been made before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_providers::arguments::Arguments;
use steadfast_providers::model::ToolDefinition;
use steadfast_store::{FactFilter, FactWrite, Store};

use super::book::FactView;
use super::{FactScope, MemoryScope};
use crate::call::{ToolResult, not_run};
use crate::error::RuntimeError;
use crate::event::ToolOutcome;
use crate::journal::RunJournal;

/// What one of these tools may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRule {
    /// Who shares the facts. Default: the runs of the agent.
    pub scope: MemoryScope,
    /// Put before the tools' names, so that an agent can have more than one memory. Default: nothing.
    pub prefix: String,
    /// For how long a fact holds. Default: for ever.
    pub keep: Option<Duration>,
    /// Longest value, in bytes. Default 16 KiB: what is recalled goes to the model.
    pub value_bytes_max: usize,
}

impl Default for MemoryRule {
    fn default() -> Self {
        let (scope, prefix) = (MemoryScope::default(), String::new());
        Self { scope, prefix, keep: None, value_bytes_max: 16 * 1024 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Does {
    Remember,
    Recall,
    Forget,
    List,
}

/// Facts that a list shows at once, and the beginning of each.
const LISTED: usize = 50;
const EXCERPT_CHARS: usize = 200;

/// One of the tools.
pub(crate) struct MemoryTool {
    does: Does,
    rule: MemoryRule,
    pub(crate) definition: ToolDefinition,
    arguments: Arguments,
}

/// The arguments of all of them; each schema requires those that its tool needs.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    prefix: String,
    after: Option<String>,
}

/// The tools of a memory, by name.
///
/// # Errors
/// A schema that does not compile, which no rule brings about.
pub(crate) fn tools_of(
    rule: &MemoryRule,
) -> Result<BTreeMap<String, Arc<MemoryTool>>, RuntimeError> {
    let key = json!({ "type": "string", "description": "The fact's key, such as `customer/7/language`." });
    let whose = match rule.scope {
        MemoryScope::Tenant => "shared by all agents of this customer",
        MemoryScope::Agent => "kept for later runs of this agent",
        MemoryScope::Session => "kept for this conversation",
    };
    let value = json!({ "type": "string", "description": "What is true, as text." });
    let prefix = json!({ "type": "string", "description": "Only keys that begin so." });
    let after = json!({ "type": "string", "description": "Only keys after this one, to read on." });
    let parts = [
        (
            Does::Remember,
            "remember",
            format!(
                "Remembers a fact, {whose}; replaces what was known under \
            the key."
            ),
            json!({ "key": key, "value": value }),
            vec!["key", "value"],
        ),
        (
            Does::Recall,
            "recall",
            format!("Recalls a fact, {whose}."),
            json!({ "key": key }),
            vec!["key"],
        ),
        (
            Does::Forget,
            "forget",
            format!("Forgets a fact, {whose}."),
            json!({ "key": key }),
            vec!["key"],
        ),
        (
            Does::List,
            "list_facts",
            format!("Lists facts with the beginning of each, {whose}."),
            json!({ "prefix": prefix, "after": after }),
            vec![],
        ),
    ];
    let tools = parts.into_iter().map(|(does, name, description, properties, required)| {
        let name = format!("{}{name}", rule.prefix);
        let schema = json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        let arguments = Arguments::compile(&schema).map_err(|error| {
            let problem = format!("the schema of tool `{name}`: {error}");
            RuntimeError::Misconfigured { place: None, problem }
        })?;
        let definition = ToolDefinition { name: name.clone(), description, schema };
        let tool = MemoryTool { does, rule: rule.clone(), definition, arguments };
        Ok((name, Arc::new(tool)))
    });
    tools.collect()
}

/// What a call came to: its result, and what is written with it.
pub(crate) struct Used {
    pub(crate) result: ToolResult,
    pub(crate) writes: Vec<FactWrite>,
}

impl Used {
    const fn said(outcome: ToolOutcome, content: String) -> Self {
        Self { result: not_run(outcome, content), writes: Vec::new() }
    }
}

impl MemoryTool {
    /// Makes a call for a run. Whatever the model did wrong becomes the result.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn call(
        &self,
        journal: &RunJournal,
        arguments: &str,
    ) -> Result<Used, RuntimeError> {
        let agent = &journal.run().agent;
        let scope = FactScope::of(self.rule.scope, journal.tenant(), agent, journal.session());
        let Some(scope) = scope else {
            let content = "this run belongs to no session, so nothing can be kept for one";
            return Ok(Used::said(ToolOutcome::Invalid, content.to_owned()));
        };
        let parsed = self.arguments.parse(arguments).map_err(|error| error.to_string());
        let asked = parsed.and_then(|value| {
            serde_json::from_value::<Asked>(value).map_err(|error| error.to_string())
        });
        let asked = match asked {
            Ok(asked) => asked,
            Err(problem) => return Ok(Used::said(ToolOutcome::Invalid, problem)),
        };
        match self.answer(journal.store(), &scope, asked).await {
            Err(RuntimeError::InvalidInput { problem }) => {
                Ok(Used::said(ToolOutcome::Invalid, problem))
            }
            other => other,
        }
    }

    async fn answer(
        &self,
        store: &dyn Store,
        scope: &FactScope,
        asked: Asked,
    ) -> Result<Used, RuntimeError> {
        let Asked { key, value, prefix, after } = asked;
        let done = |content| Used::said(ToolOutcome::Done, content);
        match self.does {
            Does::Remember => {
                let (size, limit) = (value.len(), self.rule.value_bytes_max);
                if size > limit {
                    let problem = format!(
                        "not remembered: the value is {size} bytes, and the limit is {limit}; shorten it"
                    );
                    return Err(RuntimeError::InvalidInput { problem });
                }
                let write = scope.write(&key, &Value::String(value), self.rule.keep)?;
                Ok(Used { writes: vec![write], ..done(format!("remembered `{key}`")) })
            }
            Does::Forget => {
                let write = scope.forget(&key)?;
                Ok(Used { writes: vec![write], ..done(format!("forgotten `{key}`")) })
            }
            Does::Recall => {
                let fact = store.fact(&scope.name(&key)?).await?.map(FactView::of).transpose()?;
                let known = fact.map(|fact| text_of(&fact.value));
                Ok(done(known.unwrap_or_else(|| format!("nothing is known under `{key}`"))))
            }
            Does::List => {
                let filter = FactFilter { scope: scope.stored(), prefix, after, limit: LISTED };
                let facts = store.facts(filter).await?;
                let full = facts.len() == LISTED;
                let facts = facts.into_iter().map(FactView::of);
                Ok(done(listed(&facts.collect::<Result<Vec<_>, _>>()?, full)))
            }
        }
    }
}

fn listed(facts: &[FactView], full: bool) -> String {
    let Some(last) = facts.last() else { return "no facts are known".to_owned() };
    let line = |fact: &FactView| {
        let text = text_of(&fact.value);
        let excerpt: String = text.chars().take(EXCERPT_CHARS).collect();
        let more = if excerpt.len() < text.len() { "…" } else { "" };
        format!("{}: {}{more}", fact.key, excerpt.replace(['\n', '\r'], " "))
    };
    let mut lines: Vec<_> = facts.iter().map(line).collect();
    if full {
        lines.push(format!("[there may be more: ask again with `after` = `{}`]", last.key));
    }
    lines.join("\n")
}

/// A text as it is, anything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
