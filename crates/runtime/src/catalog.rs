//! What a runtime can run and use: agents, models, tools, each dependency with its guard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steadfast_guard::{Effect, Guard, Policy};
use steadfast_providers::arguments::Arguments;
use steadfast_providers::model::{Model, ToolDefinition};
use steadfast_providers::tool::Tool;

use crate::agent::AgentSpec;
use crate::error::RuntimeError;

/// Agents, models and tools by name. Fixed once built.
pub struct Catalog {
    agents: BTreeMap<String, Arc<AgentSpec>>,
    models: BTreeMap<String, ModelEntry>,
    tools: BTreeMap<String, ToolEntry>,
    guards: BTreeMap<String, Guard>,
}

/// A model and its guard.
#[derive(Clone)]
pub(crate) struct ModelEntry {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) guard: Guard,
    pub(crate) stream: bool,
}

/// A tool, its compiled schema and its guard.
#[derive(Clone)]
pub(crate) struct ToolEntry {
    pub(crate) tool: Arc<dyn Tool>,
    pub(crate) arguments: Arc<Arguments>,
    pub(crate) guard: Guard,
}

/// Collects what a [`Catalog`] holds.
#[derive(Default)]
pub struct CatalogBuilder {
    agents: BTreeMap<String, AgentSpec>,
    models: Vec<(String, Arc<dyn Model>, bool)>,
    tools: Vec<Arc<dyn Tool>>,
    policies: BTreeMap<String, Policy>,
}

impl CatalogBuilder {
    /// Adds an agent.
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, spec: AgentSpec) -> Self {
        self.agents.insert(name.into(), spec);
        self
    }

    /// Adds a model, asked piece by piece if `stream` (so that its guard's limits to the first piece
    /// and between pieces hold), otherwise for the whole answer. Its dependency is `model:NAME`.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>, model: Arc<dyn Model>, stream: bool) -> Self {
        self.models.push((name.into(), model, stream));
        self
    }

    /// Adds a tool, under the name that its definition gives.
    #[must_use]
    pub fn tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.push(tool);
        self
    }

    /// Sets the policy of a dependency: `model:NAME`, `tool:NAME` or `mcp:SERVER`.
    #[must_use]
    pub fn policy(mut self, dependency: impl Into<String>, policy: Policy) -> Self {
        self.policies.insert(dependency.into(), policy);
        self
    }

    /// Checks that everything named exists, and builds the guards.
    ///
    /// # Errors
    /// [`RuntimeError::Misconfigured`] names what does not fit and where.
    pub fn build(self) -> Result<Catalog, RuntimeError> {
        let mut catalog = Catalog {
            agents: BTreeMap::new(),
            models: BTreeMap::new(),
            tools: BTreeMap::new(),
            guards: BTreeMap::new(),
        };
        for (name, model, stream) in self.models {
            let dependency = format!("model:{name}");
            let policy = self.policies.get(&dependency).cloned().unwrap_or_default();
            let guard = catalog.guard(&dependency, policy)?;
            catalog.models.insert(name, ModelEntry { model, guard, stream });
        }
        for tool in self.tools {
            let spec = tool.spec().clone();
            let policy = self.policies.get(&spec.dependency).cloned();
            let policy = policy.unwrap_or_else(|| tool_policy(spec.timeout));
            let guard = catalog.guard(&spec.dependency, policy)?;
            let name = spec.definition.name;
            let arguments = Arguments::compile(&spec.definition.schema)
                .map_err(|error| misconfigured(format!("the schema of tool `{name}`: {error}")))?;
            let entry = ToolEntry { tool, arguments: Arc::new(arguments), guard };
            if catalog.tools.insert(name.clone(), entry).is_some() {
                return Err(misconfigured(format!("two tools are called `{name}`: rename one")));
            }
        }
        for (name, spec) in self.agents {
            catalog.check_agent(&name, &spec)?;
            catalog.agents.insert(name, Arc::new(spec));
        }
        Ok(catalog)
    }
}

/// A tool call is given its own limit; what else holds is the guard's default.
fn tool_policy(timeout: Duration) -> Policy {
    let default = Policy::default();
    Policy {
        concurrency: 8,
        attempt_timeout: timeout,
        total_timeout: default.total_timeout.max(timeout.saturating_mul(2)),
        ..default
    }
}

const fn misconfigured(problem: String) -> RuntimeError {
    RuntimeError::Misconfigured { problem }
}

impl Catalog {
    /// An empty builder.
    #[must_use]
    pub fn builder() -> CatalogBuilder {
        CatalogBuilder::default()
    }

    /// The agents' names, sorted.
    #[must_use]
    pub fn agent_names(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The agents with their names, sorted by name.
    pub fn agents(&self) -> impl Iterator<Item = (&str, &AgentSpec)> {
        self.agents.iter().map(|(name, spec)| (name.as_str(), spec.as_ref()))
    }

    /// Every dependency's guard.
    pub fn guards(&self) -> impl Iterator<Item = &Guard> {
        self.guards.values()
    }

    fn guard(&mut self, dependency: &str, policy: Policy) -> Result<Guard, RuntimeError> {
        if let Some(guard) = self.guards.get(dependency) {
            return Ok(guard.clone());
        }
        let guard = Guard::new(dependency, policy)
            .map_err(|error| misconfigured(format!("the policy of `{dependency}`: {error}")))?;
        self.guards.insert(dependency.to_owned(), guard.clone());
        Ok(guard)
    }

    fn check_agent(&self, name: &str, spec: &AgentSpec) -> Result<(), RuntimeError> {
        if !self.models.contains_key(&spec.model) {
            let known: Vec<_> = self.models.keys().cloned().collect();
            return Err(misconfigured(format!(
                "agent `{name}` uses model `{}`, which is not configured; there are: {}",
                spec.model,
                known.join(", ")
            )));
        }
        for pattern in spec.tools.iter().filter(|pattern| !pattern.ends_with('*')) {
            if !self.tools.contains_key(pattern) {
                let known: Vec<_> = self.tools.keys().cloned().collect();
                return Err(misconfigured(format!(
                    "agent `{name}` uses tool `{pattern}`, which is not configured; there are: {}",
                    known.join(", ")
                )));
            }
        }
        if spec.max_iterations == 0 {
            return Err(misconfigured(format!(
                "agent `{name}`: `max_iterations` is 0; use 1 or more"
            )));
        }
        Ok(())
    }

    pub(crate) fn agent(&self, name: &str) -> Option<Arc<AgentSpec>> {
        self.agents.get(name).cloned()
    }

    pub(crate) fn model(&self, name: &str) -> Option<&ModelEntry> {
        self.models.get(name)
    }

    /// A tool that the agent may call.
    pub(crate) fn tool(&self, agent: &AgentSpec, name: &str) -> Option<&ToolEntry> {
        self.tools.get(name).filter(|_| agent.allows(name))
    }

    pub(crate) fn effect(&self, agent: &AgentSpec, name: &str) -> Option<Effect> {
        self.tool(agent, name).map(|entry| entry.tool.spec().effect)
    }

    /// The tools that the agent may call, as its model sees them.
    pub(crate) fn definitions(&self, agent: &AgentSpec) -> Vec<ToolDefinition> {
        self.tools
            .iter()
            .filter(|(name, _)| agent.allows(name))
            .map(|(_, entry)| entry.tool.spec().definition.clone())
            .collect()
    }
}
