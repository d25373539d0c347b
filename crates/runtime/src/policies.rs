//! Policies as they are written: few words for many dependencies (SCOPE R16).
//!
//! A dependency's policy is put together from what is written for `default`, then for its kind
//! (`model:*`, `tool:*`, `mcp:*`), then for itself; each layer says only what it changes, and everything
//! else stays as the kind of dependency has it by nature.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast_guard::Policy;

/// The layer for every dependency.
const DEFAULT: &str = "default";

/// The kinds of dependency.
const KINDS: [&str; 3] = ["model", "tool", "mcp"];

/// What is written of policies: a table for `default`, for a kind (`model:*`), for a dependency
/// (`model:NAME`, `tool:NAME`, `mcp:SERVER`), each with the keys of a [`Policy`] that it sets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Map<String, Value>>")]
pub struct PolicyRules {
    layers: BTreeMap<String, Map<String, Value>>,
    allow_chaos: bool,
}

/// A policy that cannot be kept, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`policies.\"{layer}\"`: {problem}")]
pub struct RuleError {
    /// The layer, or the dependency if the layers contradict each other.
    pub layer: String,
    /// Which key, what is wrong, what is allowed.
    pub problem: String,
}

impl TryFrom<BTreeMap<String, Map<String, Value>>> for PolicyRules {
    type Error = RuleError;

    /// Rules from tables. The error names the table, and the key that is unknown or has the wrong type.
    fn try_from(tables: BTreeMap<String, Map<String, Value>>) -> Result<Self, RuleError> {
        for (layer, table) in &tables {
            let known = layer == DEFAULT
                || layer
                    .split_once(':')
                    .is_some_and(|(kind, name)| KINDS.contains(&kind) && !name.is_empty());
            if !known {
                let problem = "no dependency is called so: use `default`, `model:NAME`, \
                               `tool:NAME`, `mcp:SERVER`, or `*` for every NAME";
                return Err(RuleError { layer: layer.clone(), problem: problem.to_owned() });
            }
            if let Some(key) = not_finite("", table) {
                let problem = format!("`{key}` is not a number; write a finite one");
                return Err(RuleError { layer: layer.clone(), problem });
            }
            serde_json::from_value::<Policy>(Value::Object(table.clone()))
                .map_err(|error| RuleError { layer: layer.clone(), problem: error.to_string() })?;
        }
        Ok(Self { layers: tables, allow_chaos: false })
    }
}

impl PolicyRules {
    /// The same rules, with leave to inject faults or without: a policy whose `chaos` does anything is
    /// refused without it. Rules begin without.
    #[must_use]
    pub const fn allow_chaos(mut self, allow: bool) -> Self {
        self.allow_chaos = allow;
        self
    }

    /// The policy of a dependency that has `base` by nature.
    ///
    /// # Errors
    /// The layers together make a policy that cannot be kept.
    pub fn resolve(&self, dependency: &str, base: &Policy) -> Result<Policy, RuleError> {
        let kind = dependency.split_once(':').map(|(kind, _)| format!("{kind}:*"));
        let names = [Some(DEFAULT), kind.as_deref(), Some(dependency)];
        let layers: Vec<_> = names
            .into_iter()
            .flatten()
            .filter_map(|name| self.layers.get_key_value(name))
            .collect();
        let Some((last, _)) = layers.last() else { return Ok(base.clone()) };
        let refuse = |problem: String| {
            let written = layers.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>();
            let problem = format!("{problem} (for `{dependency}`, from {})", written.join(", "));
            RuleError { layer: (*last).clone(), problem }
        };
        let mut policy = serde_json::to_value(base).map_err(|error| refuse(error.to_string()))?;
        for (_, table) in &layers {
            overlay(&mut policy, table);
        }
        let policy: Policy =
            serde_json::from_value(policy).map_err(|error| refuse(error.to_string()))?;
        policy.validate().map_err(|error| refuse(error.to_string()))?;
        if policy.chaos.is_on() && !self.allow_chaos {
            let problem = "`chaos` injects faults, and that is not allowed here: set `chaos.allow = true` \
                           for a drill, or remove it";
            return Err(refuse(problem.to_owned()));
        }
        Ok(policy)
    }
}

/// The key of a value that is `nan` or `inf`, which JSON has no way to write.
fn not_finite(place: &str, table: &Map<String, Value>) -> Option<String> {
    table.iter().find_map(|(key, value)| match value {
        Value::Null => Some(format!("{place}{key}")),
        Value::Object(below) => not_finite(&format!("{place}{key}."), below),
        _ => None,
    })
}

/// Sets what the layer says and leaves the rest.
fn overlay(policy: &mut Value, layer: &Map<String, Value>) {
    let Value::Object(policy) = policy else { return };
    for (key, value) in layer {
        match (policy.get_mut(key), value) {
            (Some(below @ Value::Object(_)), Value::Object(table)) => overlay(below, table),
            _ => drop(policy.insert(key.clone(), value.clone())),
        }
    }
}

/// A policy that has changed: which keys, from what to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChange {
    /// The dependency.
    pub dependency: String,
    /// The keys, dotted, each with its old and its new value as text.
    pub keys: Vec<(String, String, String)>,
}

/// What is different between two policies.
pub(crate) fn difference(dependency: &str, old: &Policy, new: &Policy) -> Option<PolicyChange> {
    let mut keys = Vec::new();
    let value = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
    compare("", &value(old), &value(new), &mut keys);
    (!keys.is_empty()).then(|| PolicyChange { dependency: dependency.to_owned(), keys })
}

fn compare(path: &str, old: &Value, new: &Value, keys: &mut Vec<(String, String, String)>) {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
        for name in names {
            let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let (old, new) = (old.get(name), new.get(name));
            compare(&place, old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null), keys);
        }
    } else if old != new {
        keys.push((path.to_owned(), old.to_string(), new.to_string()));
    }
}

/// A tool call is given its own limit; what else holds is the guard's default.
pub(crate) fn tool_policy(timeout: Duration) -> Policy {
    let default = Policy::default();
    Policy {
        concurrency: 8,
        attempt_timeout: timeout,
        total_timeout: default.total_timeout.max(timeout.saturating_mul(2)),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn rules(tables: Value) -> Result<PolicyRules, RuleError> {
        PolicyRules::try_from(serde_json::from_value::<BTreeMap<_, _>>(tables).unwrap())
    }

    #[test]
    fn r16_the_nearest_layer_wins_and_the_rest_is_inherited() {
        let rules = rules(json!({
            "default": { "total_timeout": "5m", "retry": { "max_retries": 1 } },
            "model:*": { "concurrency": 4, "retry": { "base_delay": "2s" } },
            "model:big": { "concurrency": 2 },
        }))
        .unwrap();
        let base = Policy { queue: 7, ..Policy::default() };
        let big = rules.resolve("model:big", &base).unwrap();
        assert_eq!((big.concurrency, big.queue), (2, 7));
        assert_eq!((big.retry.max_retries, big.total_timeout), (Some(1), Duration::from_secs(300)));
        assert_eq!(big.retry.base_delay, Some(Duration::from_secs(2)));
        let small = rules.resolve("model:small", &base).unwrap();
        assert_eq!((small.concurrency, small.retry.max_retries), (4, Some(1)));
        let tool = rules.resolve("tool:t", &base).unwrap();
        assert_eq!((tool.concurrency, tool.retry.max_retries), (base.concurrency, Some(1)));
        assert_eq!(PolicyRules::default().resolve("tool:t", &base), Ok(base));
    }

    #[test]
    fn r16_a_wrong_key_value_or_name_is_refused_with_its_place() {
        for (tables, layer, words) in [
            (json!({ "model:*": { "retrys": {} } }), "model:*", "retrys"),
            (json!({ "default": { "queue": -1 } }), "default", "-1"),
            (json!({ "default": { "total_timeout": 5 } }), "default", "5"),
            (json!({ "modle:x": {} }), "modle:x", "`model:NAME`"),
            (json!({ "tool:": {} }), "tool:", "`tool:NAME`"),
        ] {
            let error = rules(tables).unwrap_err();
            assert_eq!(error.layer, layer);
            assert!(error.to_string().contains(words), "{error}");
        }
        let rules = rules(json!({
            "default": { "retry": { "max_delay": "1s" } },
            "model:m": { "retry": { "base_delay": "2s" } },
        }));
        let error = rules.unwrap().resolve("model:m", &Policy::default()).unwrap_err().to_string();
        for words in ["`policies.\"model:m\"`", "retry.base_delay", "`default`, `model:m`"] {
            assert!(error.contains(words), "`{words}` in {error}");
        }
    }

    #[test]
    fn r16_a_number_that_is_none_is_refused_with_its_key() {
        let text = "[default]\nretry.budget.ratio = nan\n";
        let tables: BTreeMap<String, Map<String, Value>> = toml::from_str(text).unwrap();
        let error = PolicyRules::try_from(tables).unwrap_err();
        assert!(error.problem.contains("`retry.budget.ratio` is not a number"), "{error}");
    }

    /// Every key of a policy, dotted.
    fn keys(place: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let dotted =
                        if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                    keys(&dotted, value, found);
                }
            }
            _ => found.push(place.to_owned()),
        }
    }

    #[test]
    fn r16_every_key_of_a_policy_is_documented() {
        let second = Some(Duration::from_secs(1));
        let mut policy = Policy::default();
        policy.retry.max_retries = Some(1);
        (policy.retry.base_delay, policy.retry.max_elapsed) = (second, second);
        policy.rate.requests_per_minute = Some(1);
        policy.rate.tokens_per_minute = Some(1);
        policy.breaker.window_calls = Some(1);
        policy.breaker.slow_call = second;
        let mut found = Vec::new();
        keys("", &serde_json::to_value(&policy).unwrap(), &mut found);
        let page = include_str!("../../../docs/config.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(found.len() >= 48, "{found:?}");
        for key in found {
            let (table, last) = key.rsplit_once('.').unwrap_or(("", &key));
            let is_told = |row: &&str| {
                let names = row.split('|').nth(1).unwrap_or_default();
                let whole = names.contains(&format!("`{key}`"));
                whole
                    || (names.contains(&format!("`{table}."))
                        && names.contains(&format!("`.{last}`")))
            };
            assert!(rows.iter().any(is_told), "docs/config.md does not name `{key}`");
        }
    }

    #[test]
    fn r16_a_change_names_each_key_with_both_values() {
        let old = Policy::default();
        let mut new = old.clone();
        new.concurrency = 3;
        new.retry.max_retries = Some(0);
        let change = difference("model:m", &old, &new).unwrap();
        let keys: Vec<_> = change.keys.iter().map(|(key, ..)| key.as_str()).collect();
        assert_eq!(keys, ["concurrency", "retry.max_retries"]);
        assert_eq!(change.keys[0], ("concurrency".into(), "32".into(), "3".into()));
        assert_eq!(difference("model:m", &old, &old), None);
    }
}
