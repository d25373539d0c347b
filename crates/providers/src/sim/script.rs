//! Scripts: loaded, checked, and asked for the next step.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use super::conversation::{Conversation, SimCall};
use super::fault::{Fault, FaultSelector};
use super::source::{self, BranchTable, FlatStep, Place, ScriptTable, UsageTable};
use super::template::{Reference, Template, references_in, render_json};

/// More calls than this in one step are refused.
const MAX_CALLS: usize = 128;

/// A conversation as a state machine. The format is told in [the module](super).
#[derive(Debug)]
pub struct Script {
    name: String,
    steps: Vec<Step>,
    by_name: HashMap<String, usize>,
    entries: Vec<Branch>,
    faults: Vec<Fault>,
}

/// Why a script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read.
    #[error("cannot read the script `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML, or a key is unknown, missing or of the wrong type.
    #[error("the script is not as it should be")]
    Format(#[source] Box<toml::de::Error>),
    /// The keys are right, and what they say cannot be.
    #[error("script `{script}`: {problem}")]
    Invalid {
        /// The script's name.
        script: String,
        /// Which step and key, and what is wrong.
        problem: String,
    },
}

#[derive(Debug)]
pub(super) struct Step {
    name: String,
    text: Option<Template>,
    calls: Vec<(String, Value)>,
    usage: Option<UsageTable>,
    branches: Vec<Branch>,
}

#[derive(Debug)]
struct Branch {
    when: Regex,
    goto: usize,
}

/// What is answered.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) text: Option<String>,
    pub(super) calls: Vec<ReplyCall>,
    pub(super) usage: ReplyUsage,
}

#[derive(Debug, PartialEq)]
pub(super) struct ReplyCall {
    pub(super) id: String,
    pub(super) tool: String,
    pub(super) arguments: Value,
}

/// Tokens; `cached_input` is a part of `input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyUsage {
    pub(super) input: u64,
    pub(super) cached_input: u64,
    pub(super) output: u64,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Script {
    /// Reads and checks a script.
    ///
    /// # Errors
    /// See [`ScriptError`]; nothing that can be known beforehand is left for when it answers.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let table: ScriptTable =
            toml::from_str(text).map_err(|error| ScriptError::Format(Box::new(error)))?;
        let script = table.name.clone();
        Self::check(table).map_err(|problem| ScriptError::Invalid { script, problem })
    }

    /// Reads and checks the script in a file.
    ///
    /// # Errors
    /// See [`ScriptError`].
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScriptError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of its steps in order, groups written out.
    pub fn step_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.steps.iter().map(|step| step.name.as_str())
    }

    /// The faults it brings.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    fn check(table: ScriptTable) -> Result<Self, String> {
        check_name("name", &table.name, 64)?;
        let flat = source::flatten(&table)?;
        let mut by_name = HashMap::new();
        for (at, step) in flat.iter().enumerate() {
            check_name("name", &step.name, 40)
                .map_err(|error| format!("step `{}`: {error}", step.name))?;
            if by_name.insert(step.name.clone(), at).is_some() {
                return Err(format!("step `{}`: `name` is taken by another step", step.name));
            }
        }
        if flat.is_empty() {
            return Err("`step` is empty".to_owned());
        }
        let entries = branches("entry", &table.entry, None, &by_name, flat.len())?;
        let count = flat.len();
        let mut steps = Vec::with_capacity(count);
        for (at, step) in flat.into_iter().enumerate() {
            let name = step.name.clone();
            let is_last = at + 1 == count;
            let step = Step::check(step, is_last, &by_name, count)
                .map_err(|error| format!("step `{name}`: {error}"))?;
            steps.push(step);
        }
        let script = Self { name: table.name, steps, by_name, entries, faults: table.fault };
        script.check_faults(&script.faults)?;
        Ok(script)
    }

    /// Refuses faults at steps that do not exist.
    pub(super) fn check_faults(&self, faults: &[Fault]) -> Result<(), String> {
        for (at, fault) in faults.iter().enumerate() {
            if let FaultSelector::Step(step) = &fault.selector
                && !self.by_name.contains_key(step)
            {
                return Err(format!("fault {}: `step` names `{step}`, which no step has", at + 1));
            }
        }
        Ok(())
    }

    /// The step that answers a conversation. It depends on nothing but the conversation.
    pub(super) fn choose(&self, conversation: &Conversation) -> Result<&Step, Refusal> {
        let calls = conversation.current_calls();
        let at = match calls.first() {
            None => {
                let said = conversation.last_user();
                self.entries.iter().find(|branch| branch.when.is_match(said)).map_or(0, |b| b.goto)
            }
            Some(first) => self.following(first, calls, conversation)?,
        };
        Ok(&self.steps[at])
    }

    fn following(
        &self,
        first: &SimCall,
        calls: &[SimCall],
        conversation: &Conversation,
    ) -> Result<usize, Refusal> {
        let at = self.by_name.get(&first.step).copied().filter(|at| at + 1 < self.steps.len());
        let at = at.ok_or_else(|| {
            let (step, script) = (&first.step, &self.name);
            let message = format!(
                "the conversation is at step `{step}`, which in script `{script}` does not exist \
                 or calls no tools"
            );
            Refusal { status: 500, message }
        })?;
        let mut results = Vec::with_capacity(calls.len());
        for call in calls {
            results.push(conversation.result_of(call).ok_or_else(|| {
                let message = format!("messages: the tool call `{}` has no result", call.id);
                Refusal { status: 400, message }
            })?);
        }
        let text = results.join("\n");
        let branch = self.steps[at].branches.iter().find(|branch| branch.when.is_match(&text));
        Ok(branch.map_or(at + 1, |branch| branch.goto))
    }
}

impl Step {
    fn check(
        step: FlatStep,
        is_last: bool,
        by_name: &HashMap<String, usize>,
        count: usize,
    ) -> Result<Self, String> {
        let FlatStep { name, text, calls, usage, next, place } = step;
        if text.is_none() && calls.is_empty() {
            return Err("a step has `text`, `calls` or both".to_owned());
        }
        if calls.is_empty() && !next.is_empty() {
            return Err("`next` needs `calls`: it looks at their results".to_owned());
        }
        if is_last && !calls.is_empty() {
            return Err("the last step must end the turn, so it has no `calls`".to_owned());
        }
        if calls.len() > MAX_CALLS {
            return Err(format!("`calls` holds more than {MAX_CALLS}"));
        }
        if usage.is_some_and(|usage| usage.cached_input > usage.input) {
            return Err("`usage.cached_input` is a part of `usage.input`, so not more".to_owned());
        }
        let text = text.as_deref().map(Template::parse).transpose();
        let text = text.map_err(|error| format!("`text`: {error}"))?;
        let mut references: Vec<Reference> =
            text.iter().flat_map(Template::references).cloned().collect();
        let calls: Vec<_> =
            calls.into_iter().map(|call| (call.tool, Value::Object(call.arguments))).collect();
        for (at, (tool, arguments)) in calls.iter().enumerate() {
            check_name(&format!("calls[{at}].tool"), tool, 128)?;
            references_in(arguments, &mut references)
                .map_err(|error| format!("`calls[{at}].arguments`: {error}"))?;
        }
        if let Some(unknown) = references.iter().find(|r| !by_name.contains_key(&r.step)) {
            let step = &unknown.step;
            return Err(format!("it refers to the result of `{step}`, which no step has"));
        }
        let branches = branches("next", &next, place, by_name, count)?;
        Ok(Self { name, text, calls, usage, branches })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The answer. What the script does not say of usage is estimated at four bytes a token, from the
    /// request's size and the answer's.
    pub(super) fn reply(
        &self,
        conversation: &Conversation,
        request_bytes: usize,
    ) -> Result<Reply, Refusal> {
        self.filled(conversation, request_bytes).map_err(|error| Refusal {
            status: 500,
            message: format!("step `{}`: {error}", self.name),
        })
    }

    fn filled(&self, conversation: &Conversation, request_bytes: usize) -> Result<Reply, String> {
        let text = match &self.text {
            Some(text) => Some(text.render(conversation)?),
            None => None,
        };
        let answer = conversation.next_answer();
        let mut answer_bytes = text.as_ref().map_or(0, String::len);
        let mut calls = Vec::with_capacity(self.calls.len());
        for (index, (tool, arguments)) in self.calls.iter().enumerate() {
            let arguments = render_json(arguments, conversation)?;
            answer_bytes += tool.len() + arguments.to_string().len();
            let id = SimCall::new(&self.name, index, answer).id;
            calls.push(ReplyCall { id, tool: tool.clone(), arguments });
        }
        let tokens = |bytes: usize| u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX);
        let usage = match self.usage {
            Some(UsageTable { input, cached_input, output }) => {
                ReplyUsage { input, cached_input, output }
            }
            None => ReplyUsage {
                input: tokens(request_bytes),
                cached_input: 0,
                output: tokens(answer_bytes),
            },
        };
        Ok(Reply { text, calls, usage })
    }
}

fn branches(
    key: &str,
    tables: &[BranchTable],
    place: Option<Place>,
    by_name: &HashMap<String, usize>,
    count: usize,
) -> Result<Vec<Branch>, String> {
    let branch = |(at, table): (usize, &BranchTable)| {
        let when = Regex::new(&table.when)
            .map_err(|error| format!("`{key}[{at}].when` is not a regular expression: {error}"))?;
        let target = table.goto.as_str();
        let goto = match (target, place) {
            ("@next-item", Some(place)) => Some(place.next_item),
            ("@after", Some(place)) => Some(place.after),
            _ => by_name.get(target).copied(),
        };
        let goto = goto.filter(|goto| *goto < count).ok_or_else(|| {
            format!("`{key}[{at}].goto` names `{target}`, and there is no such step")
        })?;
        Ok(Branch { when, goto })
    };
    tables.iter().enumerate().map(branch).collect()
}

fn check_name(key: &str, name: &str, longest: usize) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > longest || !name.chars().all(fits) {
        let rule = format!("1 to {longest} letters, digits, `_` and `-`");
        return Err(format!("`{key}` must be {rule}, and is `{name}`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
