//! Whether the rules of a catalog can do what they say.

use steadfast_guard::Effect;

use super::{Catalog, CatalogBuilder, misconfigured, misplaced};
use crate::agent::AgentSpec;
use crate::error::RuntimeError;
use crate::unknown;

impl CatalogBuilder {
    /// A rule for what is not there would do nothing, and nobody would know.
    pub(super) fn check_rules(&self, catalog: &Catalog) -> Result<(), RuntimeError> {
        let models: Vec<&str> = catalog.models.keys().map(String::as_str).collect();
        let tools: Vec<(&str, Effect)> = catalog
            .tools
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.tool.spec().effect))
            .collect();
        let names = tools.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let sections = [("idempotency", self.keys.keys().collect::<Vec<_>>())];
        let sections = sections.into_iter().chain([("expensive", self.expenses.keys().collect())]);
        for (section, rules) in sections {
            if let Some(unknown) = rules.iter().find(|name| !catalog.tools.contains_key(**name)) {
                let problem = format!("there is no such tool; there are: {names}");
                return Err(misplaced(format!("{section}.{unknown}"), problem));
            }
        }
        for (dependency, rule) in &self.fallbacks {
            let checked = match dependency.split_once(':') {
                Some(("model", name)) if catalog.models.contains_key(name) => {
                    rule.check_for_model(name, &models)
                }
                Some(("tool", name)) if catalog.tools.contains_key(name) => {
                    rule.check_for_tool(name, &tools)
                }
                _ => {
                    let models = models.join(", ");
                    let problem = format!(
                        "there is no such model or tool: use `model:NAME` ({models}) or `tool:NAME` ({names})"
                    );
                    return Err(misplaced(format!("fallback.{dependency}"), problem));
                }
            };
            checked.map_err(|(key, problem)| {
                misplaced(format!("fallback.{dependency}.{key}"), problem)
            })?;
        }
        unknown::check(&catalog.compensations, &catalog.unknown, &tools)
            .map_err(|(place, problem)| misplaced(place, problem))?;
        for (tool, rule) in &self.expenses {
            let Some(check) = &rule.pre_check_tool else { continue };
            let effect = tools.iter().find(|(name, _)| name == check).map(|(_, effect)| *effect);
            let problem = match effect {
                Some(Effect::Read) if check != tool => continue,
                Some(Effect::Read) => "a tool cannot check itself".to_owned(),
                Some(_) => format!("`{check}` changes something; a check may only read"),
                None => format!("there is no tool `{check}`; there are: {names}"),
            };
            return Err(misplaced(format!("expensive.{tool}.pre_check_tool"), problem));
        }
        Ok(())
    }
}

impl Catalog {
    /// Checks that an agent has what it names.
    pub(super) fn check_agent(&self, name: &str, spec: &AgentSpec) -> Result<(), RuntimeError> {
        if !self.models.contains_key(&spec.model) {
            let known: Vec<_> = self.models.keys().cloned().collect();
            return Err(misconfigured(format!(
                "agent `{name}` uses model `{}`, which is not configured; there are: {}",
                spec.model,
                known.join(", ")
            )));
        }
        for pattern in spec.tools.iter().filter(|pattern| !pattern.ends_with('*')) {
            if !self.tools.contains_key(pattern) && !self.memory.contains_key(pattern) {
                let known: Vec<_> = self.tools.keys().chain(self.memory.keys()).cloned().collect();
                return Err(misconfigured(format!(
                    "agent `{name}` uses tool `{pattern}`, which is not configured; there are: {}",
                    known.join(", ")
                )));
            }
        }
        let mut critical = spec.critical_tools.iter();
        if let Some(pattern) = critical.find(|pattern| {
            !self.tools.keys().any(|tool| {
                spec.allows(tool) && crate::agent::names(std::slice::from_ref(pattern), tool)
            })
        }) {
            let problem = format!("`{pattern}` is none of the tools that the agent may call");
            return Err(misplaced(format!("agents.{name}.critical_tools"), problem));
        }
        if spec.max_iterations == 0 {
            return Err(misconfigured(format!(
                "agent `{name}`: `max_iterations` is 0; use 1 or more"
            )));
        }
        Ok(())
    }
}
