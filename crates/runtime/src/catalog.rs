//! What a runtime can run and use: agents, models, tools, each dependency with its guard.

mod rules;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use steadfast_guard::{Alert, Anomaly, Cooldown, Effect, Guard, Policy};
use steadfast_providers::arguments::Arguments;
use steadfast_providers::model::{Model, ToolDefinition};
use steadfast_providers::tool::Tool;

use crate::agent::AgentSpec;
use crate::code::{Code, CodePolicy, RunContext, StepError};
use crate::error::RuntimeError;
use crate::expense::{AlertHook, Expense, ExpenseRule};
use crate::fallback::{FallbackRule, LastGood};
use crate::key_rule::KeyRule;
use crate::memory::{MemoryRule, MemoryTool, tools_of};
use crate::policies::{PolicyChange, PolicyRules, RuleError, difference, tool_policy};
use crate::relay::Deployment;
use crate::unknown::{Compensation, UnknownRule};

/// Agents, models and tools by name. Fixed once built.
pub struct Catalog {
    agents: BTreeMap<String, Arc<AgentSpec>>,
    code: BTreeMap<String, Code>,
    code_policies: BTreeMap<String, CodePolicy>,
    models: BTreeMap<String, ModelEntry>,
    tools: BTreeMap<String, ToolEntry>,
    memory: BTreeMap<String, Arc<MemoryTool>>,
    guards: BTreeMap<String, Guarded>,
    compensations: BTreeMap<String, Compensation>,
    unknown: BTreeMap<String, UnknownRule>,
}

/// A dependency's guard, and the policy that it has if nothing is written.
struct Guarded {
    guard: Guard,
    nature: Policy,
}

/// A model and its guard.
#[derive(Clone)]
pub(crate) struct ModelEntry {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) guard: Guard,
    pub(crate) stream: bool,
    /// What stands in for it.
    pub(crate) fallback: Option<Arc<FallbackRule>>,
    /// Where calls that are handed on as bytes go.
    pub(crate) deployment: Option<Arc<Deployment>>,
}

/// A tool, its compiled schema and its guard.
#[derive(Clone)]
pub(crate) struct ToolEntry {
    pub(crate) tool: Arc<dyn Tool>,
    pub(crate) arguments: Arc<Arguments>,
    pub(crate) guard: Guard,
    /// Which calls are the same operation.
    pub(crate) key: Option<KeyRule>,
    /// What stands in for it.
    pub(crate) fallback: Option<Arc<FallbackRule>>,
    /// Its last good results, if the rule wants them kept.
    pub(crate) last_good: Option<LastGood>,
    /// What protects it because it is expensive.
    pub(crate) expense: Option<Expense>,
}

/// Collects what a [`Catalog`] holds.
#[derive(Default)]
pub struct CatalogBuilder {
    agents: BTreeMap<String, AgentSpec>,
    code: BTreeMap<String, Code>,
    code_policies: BTreeMap<String, CodePolicy>,
    dependencies: Vec<String>,
    models: Vec<(String, Arc<dyn Model>, bool)>,
    deployments: BTreeMap<String, Arc<Deployment>>,
    tools: Vec<Arc<dyn Tool>>,
    memories: Vec<MemoryRule>,
    policies: PolicyRules,
    keys: BTreeMap<String, KeyRule>,
    fallbacks: BTreeMap<String, FallbackRule>,
    expenses: BTreeMap<String, ExpenseRule>,
    quotas: BTreeMap<String, String>,
    compensations: BTreeMap<String, Compensation>,
    unknown: BTreeMap<String, UnknownRule>,
    alert: Option<AlertHook>,
}

impl CatalogBuilder {
    /// Adds an agent.
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, spec: AgentSpec) -> Self {
        self.agents.insert(name.into(), spec);
        self
    }

    /// Adds code that runs can be of, submitted under this name like an agent.
    #[must_use]
    pub fn code<F, Fut, T>(mut self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(RunContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, StepError>> + Send + 'static,
        T: Serialize,
    {
        self.code.insert(name.into(), crate::code::code(function));
        self
    }

    /// Says what holds for all runs of some code.
    #[must_use]
    pub fn code_policy(mut self, name: impl Into<String>, policy: CodePolicy) -> Self {
        self.code_policies.insert(name.into(), policy);
        self
    }

    /// Adds a dependency that steps of code call, under its own guard. Its policy is that of the rules for
    /// this name, as for any other.
    #[must_use]
    pub fn dependency(mut self, name: impl Into<String>) -> Self {
        self.dependencies.push(name.into());
        self
    }

    /// Adds a model, asked piece by piece if `stream` (so that its guard's limits to the first piece
    /// and between pieces hold), otherwise for the whole answer. Its dependency is `model:NAME`.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>, model: Arc<dyn Model>, stream: bool) -> Self {
        self.models.push((name.into(), model, stream));
        self
    }

    /// Says where calls of a model go that are handed on as bytes, behind the same guard: see
    /// [`Relay`](crate::relay::Relay).
    #[must_use]
    pub fn deployment(mut self, model: impl Into<String>, deployment: Deployment) -> Self {
        self.deployments.insert(model.into(), Arc::new(deployment));
        self
    }

    /// Adds a tool, under the name that its definition gives.
    #[must_use]
    pub fn tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.push(tool);
        self
    }

    /// Adds the tools `remember`, `recall`, `forget` and `list_facts` for the facts of one scope.
    #[must_use]
    pub fn memory(mut self, rule: MemoryRule) -> Self {
        self.memories.push(rule);
        self
    }

    /// Sets how dependencies (`model:NAME`, `tool:NAME`, `mcp:SERVER`) are protected, instead of what
    /// each has by nature.
    #[must_use]
    pub fn policies(mut self, rules: PolicyRules) -> Self {
        self.policies = rules;
        self
    }

    /// Makes calls of a tool that agree in some arguments one operation, which is done once.
    #[must_use]
    pub fn idempotent(mut self, tool: impl Into<String>, rule: KeyRule) -> Self {
        self.keys.insert(tool.into(), rule);
        self
    }

    /// Says what stands in for a dependency (`model:NAME`, `tool:NAME`) that gives no answer.
    #[must_use]
    pub fn fallback(mut self, dependency: impl Into<String>, rule: FallbackRule) -> Self {
        self.fallbacks.insert(dependency.into(), rule);
        self
    }

    /// Protects a tool that costs with every call.
    #[must_use]
    pub fn expensive(mut self, tool: impl Into<String>, rule: ExpenseRule) -> Self {
        self.expenses.insert(tool.into(), rule);
        self
    }

    /// Says how what a tool has done is undone, when a run is rolled back.
    #[must_use]
    pub fn compensate(mut self, tool: impl Into<String>, rule: Compensation) -> Self {
        self.compensations.insert(tool.into(), rule);
        self
    }

    /// Says what is done about a call of a tool that may or may not have taken effect. Default: the model is
    /// told.
    #[must_use]
    pub fn unknown(mut self, tool: impl Into<String>, rule: UnknownRule) -> Self {
        self.unknown.insert(tool.into(), rule);
        self
    }

    /// Lets a model's dependency share its cooldown with all others of the same quota: a 429 to one of
    /// them quiets all.
    #[must_use]
    pub fn quota(mut self, model: impl Into<String>, quota: impl Into<String>) -> Self {
        self.quotas.insert(model.into(), quota.into());
        self
    }

    /// Who is told when calls or cost of an expensive tool run away. Called within the call: to be quick.
    #[must_use]
    pub fn on_alert(mut self, hook: impl Fn(&Alert) + Send + Sync + 'static) -> Self {
        self.alert = Some(Arc::new(hook));
        self
    }

    /// Checks that everything named exists, and builds the guards.
    ///
    /// # Errors
    /// [`RuntimeError::Misconfigured`] names what does not fit and where.
    pub fn build(mut self) -> Result<Catalog, RuntimeError> {
        let mut catalog = Catalog {
            agents: BTreeMap::new(),
            code: std::mem::take(&mut self.code),
            code_policies: std::mem::take(&mut self.code_policies),
            models: BTreeMap::new(),
            tools: BTreeMap::new(),
            memory: BTreeMap::new(),
            guards: BTreeMap::new(),
            compensations: std::mem::take(&mut self.compensations),
            unknown: std::mem::take(&mut self.unknown),
        };
        self.add_models(&mut catalog)?;
        for tool in std::mem::take(&mut self.tools) {
            self.add_tool(&mut catalog, tool)?;
        }
        for rule in &self.memories {
            catalog.add_memory(rule)?;
        }
        for name in &self.dependencies {
            catalog.add_guard(name, Policy::default(), Cooldown::new(), &self.policies)?;
        }
        self.check_rules(&catalog)?;
        let unknown = catalog.code_policies.keys().find(|name| !catalog.code.contains_key(*name));
        if let Some(name) = unknown {
            return Err(misconfigured(format!(
                "a policy is for code `{name}`, which is not there"
            )));
        }
        for (name, spec) in self.agents {
            if catalog.code.contains_key(&name) {
                let problem = format!("an agent and a run's code are both called `{name}`");
                return Err(misconfigured(problem));
            }
            catalog.check_agent(&name, &spec)?;
            catalog.agents.insert(name, Arc::new(spec));
        }
        Ok(catalog)
    }

    fn add_models(&mut self, catalog: &mut Catalog) -> Result<(), RuntimeError> {
        let mut cooldowns: BTreeMap<String, Cooldown> = BTreeMap::new();
        for (name, model, stream) in std::mem::take(&mut self.models) {
            let dependency = format!("model:{name}");
            let quota = self.quotas.get(&name).map(|quota| cooldowns.entry(quota.clone()));
            let cooldown = quota.map(|entry| entry.or_default().clone()).unwrap_or_default();
            let nature = Policy::default();
            let guard = catalog.add_guard(&dependency, nature, cooldown, &self.policies)?;
            let fallback = self.fallbacks.get(&dependency).cloned().map(Arc::new);
            let deployment = self.deployments.get(&name).cloned();
            let entry = ModelEntry { model, guard, stream, fallback, deployment };
            catalog.models.insert(name, entry);
        }
        Ok(())
    }

    fn add_tool(&self, catalog: &mut Catalog, tool: Arc<dyn Tool>) -> Result<(), RuntimeError> {
        let spec = tool.spec().clone();
        let (nature, cooldown) = (tool_policy(spec.timeout), Cooldown::new());
        let guard = catalog.add_guard(&spec.dependency, nature, cooldown, &self.policies)?;
        let name = spec.definition.name;
        let arguments = Arguments::compile(&spec.definition.schema)
            .map_err(|error| misconfigured(format!("the schema of tool `{name}`: {error}")))?;
        let arguments = Arc::new(arguments);
        let key = self.keys.get(&name).cloned();
        if let Some(key) = &key {
            key.check(spec.effect, &spec.definition.schema)
                .map_err(|problem| misplaced(format!("idempotency.{name}"), problem))?;
        }
        let fallback = self.fallbacks.get(&format!("tool:{name}")).cloned().map(Arc::new);
        let last_good = fallback.as_ref().and_then(|rule| rule.cached).map(LastGood::new);
        let expense = self.expenses.get(&name).cloned();
        let alert = self.alert.clone().unwrap_or_else(|| Arc::new(|_| {}));
        let expense = expense.map(|rule| Expense::new(&name, rule, alert)).transpose();
        let expense = expense.map_err(|error| {
            let problem = format!("it is {}: {}", error.value, error.problem);
            misplaced(format!("expensive.{name}.{}", error.key), problem)
        })?;
        let entry = ToolEntry { tool, arguments, guard, key, fallback, last_good, expense };
        if catalog.tools.insert(name.clone(), entry).is_some() {
            return Err(misconfigured(format!("two tools are called `{name}`: rename one")));
        }
        Ok(())
    }
}

pub(crate) const fn misconfigured(problem: String) -> RuntimeError {
    RuntimeError::Misconfigured { place: None, problem }
}

pub(crate) const fn misplaced(place: String, problem: String) -> RuntimeError {
    RuntimeError::Misconfigured { place: Some(place), problem }
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
        self.agents.keys().chain(self.code.keys()).cloned().collect()
    }

    /// The agents with their names, sorted by name.
    pub fn agents(&self) -> impl Iterator<Item = (&str, &AgentSpec)> {
        self.agents.iter().map(|(name, spec)| (name.as_str(), spec.as_ref()))
    }

    /// Every dependency's guard.
    pub fn guards(&self) -> impl Iterator<Item = &Guard> {
        self.guards.values().map(|guarded| &guarded.guard)
    }

    /// A dependency's guard.
    #[must_use]
    pub fn guard(&self, dependency: &str) -> Option<&Guard> {
        self.guards.get(dependency).map(|guarded| &guarded.guard)
    }

    /// Replaces the policies of all guards, or of none. Calls that run, breakers, cooldowns, queues and
    /// counters stay; what has changed is told.
    ///
    /// # Errors
    /// The first rule that cannot be kept.
    pub fn replace_policies(&self, rules: &PolicyRules) -> Result<Vec<PolicyChange>, RuleError> {
        let resolved = self.guards.iter().map(|(dependency, guarded)| {
            rules.resolve(dependency, &guarded.nature).map(|policy| (&guarded.guard, policy))
        });
        let resolved = resolved.collect::<Result<Vec<_>, _>>()?;
        let mut changes = Vec::new();
        for (guard, policy) in resolved {
            let change = difference(guard.name(), &guard.policy(), &policy);
            if let Some(change) = change {
                guard.replace_policy(policy).map_err(|error| RuleError {
                    layer: guard.name().to_owned(),
                    problem: error.to_string(),
                })?;
                changes.push(change);
            }
        }
        Ok(changes)
    }

    fn add_guard(
        &mut self,
        dependency: &str,
        nature: Policy,
        cooldown: Cooldown,
        rules: &PolicyRules,
    ) -> Result<Guard, RuntimeError> {
        if let Some(guard) = self.guard(dependency) {
            return Ok(guard.clone());
        }
        let policy = rules
            .resolve(dependency, &nature)
            .map_err(|error| misplaced(format!("policies.{}", error.layer), error.problem))?;
        let guard = Guard::with_cooldown(dependency, policy, cooldown)
            .map_err(|error| misconfigured(format!("the policy of `{dependency}`: {error}")))?;
        let guarded = Guarded { guard: guard.clone(), nature };
        self.guards.insert(dependency.to_owned(), guarded);
        Ok(guard)
    }

    /// How what a tool has done is undone.
    pub(crate) fn compensation(&self, tool: &str) -> Option<&Compensation> {
        self.compensations.get(tool)
    }

    /// What is done about an unknown outcome, if something else was said than to tell the model.
    pub(crate) fn unknown_rule(&self, tool: &str) -> Option<&UnknownRule> {
        self.unknown.get(tool).filter(|rule| !matches!(rule, UnknownRule::Tell))
    }

    /// The models' names, sorted.
    pub(crate) fn model_names(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    /// Whether a run can be submitted under a name.
    pub(crate) fn executes(&self, name: &str) -> bool {
        self.agents.contains_key(name) || self.code.contains_key(name)
    }

    pub(crate) fn code(&self, name: &str) -> Option<&Code> {
        self.code.get(name)
    }

    pub(crate) fn code_policy(&self, name: &str) -> CodePolicy {
        self.code_policies.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn agent(&self, name: &str) -> Option<Arc<AgentSpec>> {
        self.agents.get(name).cloned()
    }

    pub(crate) fn model(&self, name: &str) -> Option<&ModelEntry> {
        self.models.get(name)
    }

    /// The models with their names, sorted.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&str, &ModelEntry)> {
        self.models.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// A tool, whoever may call it.
    pub(crate) fn any_tool(&self, name: &str) -> Option<&ToolEntry> {
        self.tools.get(name)
    }

    /// What watches expensive tools' calls and cost.
    pub fn anomalies(&self) -> impl Iterator<Item = &Anomaly> {
        self.tools.values().filter_map(|entry| entry.expense.as_ref()?.anomaly.as_ref())
    }

    /// A tool that the agent may call.
    pub(crate) fn tool(&self, agent: &AgentSpec, name: &str) -> Option<&ToolEntry> {
        self.tools.get(name).filter(|_| agent.allows(name))
    }

    /// A tool for facts that the agent may call.
    pub(crate) fn memory(&self, agent: &AgentSpec, name: &str) -> Option<&Arc<MemoryTool>> {
        self.memory.get(name).filter(|_| agent.allows(name))
    }

    fn add_memory(&mut self, rule: &MemoryRule) -> Result<(), RuntimeError> {
        for (name, tool) in tools_of(rule)? {
            if self.tools.contains_key(&name) || self.memory.contains_key(&name) {
                let problem = format!("two tools are called `{name}`: give a memory a `prefix`");
                return Err(misconfigured(problem));
            }
            self.memory.insert(name, tool);
        }
        Ok(())
    }

    pub(crate) fn effect(&self, agent: &AgentSpec, name: &str) -> Option<Effect> {
        // One after the other, so that what is recalled is what was remembered before.
        let memory = self.memory(agent, name).map(|_| Effect::Idempotent);
        self.tool(agent, name).map(|entry| entry.tool.spec().effect).or(memory)
    }

    /// The tools that the agent may call, as its model sees them.
    pub(crate) fn definitions(&self, agent: &AgentSpec) -> Vec<ToolDefinition> {
        self.tools
            .iter()
            .filter(|(name, _)| agent.allows(name))
            .map(|(_, entry)| entry.tool.spec().definition.clone())
            .chain(
                self.memory
                    .iter()
                    .filter(|(name, _)| agent.allows(name))
                    .map(|(_, t)| t.definition.clone()),
            )
            .collect()
    }
}
