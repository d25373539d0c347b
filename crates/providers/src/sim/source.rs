//! A script as it is written, and its groups expanded.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::Fault;
use super::template::Item;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptTable {
    pub(super) name: String,
    #[serde(default)]
    pub(super) entry: Vec<BranchTable>,
    pub(super) step: Vec<StepTable>,
    #[serde(default)]
    pub(super) data: BTreeMap<String, Vec<Map<String, Value>>>,
    #[serde(default)]
    pub(super) fault: Vec<Fault>,
}

/// A step, or a group of them.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepTable {
    name: Option<String>,
    text: Option<String>,
    calls: Option<Vec<CallTable>>,
    usage: Option<UsageTable>,
    next: Option<Vec<BranchTable>>,
    each: Option<String>,
    steps: Option<Vec<Self>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallTable {
    pub(super) tool: String,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageTable {
    /// All input tokens.
    pub(super) input: u64,
    /// Those of them that came from the cache.
    #[serde(default)]
    pub(super) cached_input: u64,
    pub(super) output: u64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BranchTable {
    pub(super) when: String,
    pub(super) goto: String,
}

/// A single step with its item filled in.
pub(super) struct FlatStep {
    pub(super) name: String,
    pub(super) text: Option<String>,
    pub(super) calls: Vec<CallTable>,
    pub(super) usage: Option<UsageTable>,
    pub(super) next: Vec<BranchTable>,
    pub(super) place: Option<Place>,
}

/// Where a step of a group can go without knowing a name.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first step for the next item; after the last item, what follows the group.
    pub(super) next_item: usize,
    /// What follows the group.
    pub(super) after: usize,
}

/// A script that expands to more steps is refused.
pub(super) const MAX_STEPS: usize = 10_000;

/// The steps in order, groups written out once for each item.
pub(super) fn flatten(script: &ScriptTable) -> Result<Vec<FlatStep>, String> {
    let mut flat = Vec::new();
    for (at, table) in script.step.iter().enumerate() {
        match (&table.each, &table.steps) {
            (None, None) => flat.push(table.flat(None, None)?),
            (Some(each), Some(steps)) => {
                let group = format!("step {}, the group over `{each}`", at + 1);
                if table.has_own_fields() {
                    return Err(format!("{group}: it has `each` and `steps` and nothing else"));
                }
                let items = script
                    .data
                    .get(each)
                    .ok_or_else(|| format!("{group}: `each` names no list under `data`"))?;
                expand(items, steps, &mut flat).map_err(|error| format!("{group}: {error}"))?;
            }
            _ => return Err(format!("step {}: `each` and `steps` go together", at + 1)),
        }
        if flat.len() > MAX_STEPS {
            return Err(format!("the script expands to more than {MAX_STEPS} steps"));
        }
    }
    Ok(flat)
}

fn expand(
    items: &[Map<String, Value>],
    steps: &[StepTable],
    flat: &mut Vec<FlatStep>,
) -> Result<(), String> {
    if steps.is_empty() {
        return Err("`steps` is empty".to_owned());
    }
    let (begin, total) = (flat.len(), items.len());
    if steps.len().saturating_mul(total) > MAX_STEPS {
        return Err(format!("it expands to more than {MAX_STEPS} steps"));
    }
    for (at, fields) in items.iter().enumerate() {
        let item = Item { fields, index: at + 1, total };
        let place =
            Place { next_item: begin + (at + 1) * steps.len(), after: begin + total * steps.len() };
        for step in steps {
            if step.each.is_some() || step.steps.is_some() {
                return Err("a group holds no groups (`each`, `steps`)".to_owned());
            }
            flat.push(step.flat(Some(&item), Some(place))?);
        }
    }
    Ok(())
}

impl StepTable {
    fn has_own_fields(&self) -> bool {
        self.name.is_some()
            || self.text.is_some()
            || self.calls.is_some()
            || self.usage.is_some()
            || self.next.is_some()
    }

    fn flat(&self, item: Option<&Item<'_>>, place: Option<Place>) -> Result<FlatStep, String> {
        let name = self.name.as_ref().ok_or("a step has no `name`")?;
        self.filled(name, item, place).map_err(|error| format!("step `{name}`: {error}"))
    }

    fn filled(
        &self,
        name: &str,
        item: Option<&Item<'_>>,
        place: Option<Place>,
    ) -> Result<FlatStep, String> {
        let calls = self.calls.clone().unwrap_or_default();
        let next = self.next.clone().unwrap_or_default();
        let (text, usage) = (self.text.clone(), self.usage);
        let Some(item) = item else {
            return Ok(FlatStep { name: name.to_owned(), text, calls, usage, next, place });
        };
        let plain = |text: &str| item.text(text, str::to_owned);
        let call = |call: CallTable| {
            Ok(CallTable { tool: plain(&call.tool)?, arguments: item.object(&call.arguments)? })
        };
        let branch = |branch: BranchTable| {
            let when = item.text(&branch.when, regex::escape)?;
            Ok(BranchTable { when, goto: plain(&branch.goto)? })
        };
        Ok(FlatStep {
            name: plain(name)?,
            text: text.as_deref().map(plain).transpose()?,
            calls: calls.into_iter().map(call).collect::<Result<_, String>>()?,
            usage,
            next: next.into_iter().map(branch).collect::<Result<_, String>>()?,
            place,
        })
    }
}
