//! What an agent is, as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::problems::RepeatRule;

/// Model answers after which a run stops (SCOPE G2).
pub const DEFAULT_MAX_ITERATIONS: u32 = 100;

/// An agent: instructions, a model, tools, limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// What the model is told above the conversation.
    #[serde(default)]
    pub instructions: String,
    /// The model, by its configured name.
    pub model: String,
    /// The tools it may call, by name; `server__*` means every tool of an MCP server.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Those of them without which nothing goes on: if a call has no result in time, or no result at all,
    /// the run fails and can be resumed (SCOPE R4). A call of any other tool is then skipped: the model is
    /// told, and goes on. A tool that ran and says that it failed has given a result.
    #[serde(default)]
    pub critical_tools: Vec<String>,
    /// Model answers after which a run stops. Default 100.
    #[serde(default = "default_max_iterations")]
    pub max_iterations: u32,
    /// Time in which a run is executed, from the user's message to the answer; waiting does not
    /// count. Default 30 min (SCOPE R3: background turns).
    #[serde(default = "default_turn_timeout", with = "humantime_serde")]
    pub turn_timeout: Duration,
    /// Time from submission to the end, queueing and waiting included. Default 24 h.
    #[serde(default = "default_total_timeout", with = "humantime_serde")]
    pub total_timeout: Duration,
    /// Longest answer, in tokens. Default: the model's.
    #[serde(default)]
    pub max_output_tokens: Option<u32>,
    /// Sampling temperature. Default: the provider's.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Tokens, input and output together, beyond which a run counts as costly. Default: found from the runs
    /// before.
    #[serde(default)]
    pub tokens_expected: Option<u64>,
    /// When its calls count as repeating. Default: as for every agent.
    #[serde(default)]
    pub repeating: Option<RepeatRule>,
}

const fn default_max_iterations() -> u32 {
    DEFAULT_MAX_ITERATIONS
}

const fn default_turn_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

const fn default_total_timeout() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

impl AgentSpec {
    /// An agent with a model and the defaults.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            instructions: String::new(),
            model: model.into(),
            tools: Vec::new(),
            critical_tools: Vec::new(),
            max_iterations: default_max_iterations(),
            turn_timeout: default_turn_timeout(),
            total_timeout: default_total_timeout(),
            max_output_tokens: None,
            temperature: None,
            tokens_expected: None,
            repeating: None,
        }
    }

    /// Whether the agent may call a tool.
    #[must_use]
    pub fn allows(&self, tool: &str) -> bool {
        names(&self.tools, tool)
    }

    /// Whether nothing goes on without a result of a tool.
    #[must_use]
    pub fn is_critical(&self, tool: &str) -> bool {
        names(&self.critical_tools, tool)
    }
}

/// Whether a tool is among these names and patterns.
pub(crate) fn names(patterns: &[String], tool: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => tool.starts_with(prefix),
        None => pattern == tool,
    })
}
