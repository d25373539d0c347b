//! What a tool is, whoever runs it.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use steadfast_guard::{Classify, Effect, ErrorClass};
use tokio::time::Instant;

use crate::model::ToolDefinition;

/// A tool that can be called. One call is one execution: no retry, no policy wait.
#[async_trait]
pub trait Tool: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ToolSpec;

    /// Runs it. The arguments have been validated against the schema. Dropping the future cancels the
    /// call: a child process is ended, a server is told.
    ///
    /// # Errors
    /// See [`ToolError`]. A tool that ran and failed (a command with a non-zero exit, an MCP result
    /// with `isError`) is not an error here but an output with [`ToolOutput::is_error`].
    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError>;
}

/// What a tool is.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// As the model sees it.
    pub definition: ToolDefinition,
    /// What it does outside. Unknown means [`Effect::Once`].
    pub effect: Effect,
    /// Limit of one call. Default 30 s (SCOPE R3).
    pub timeout: Duration,
    /// The dependency whose guard protects it: `tool:NAME`, or `mcp:SERVER` for all tools of a server.
    pub dependency: String,
}

/// One call of a tool.
#[derive(Clone, Debug)]
pub struct ToolInvocation {
    /// The arguments: an object that fits the schema.
    pub arguments: Value,
    /// The same for every attempt of one logical call.
    pub idempotency_key: String,
    /// The call is cut off at this time.
    pub deadline: Instant,
}

/// What a tool said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolOutput {
    /// The text for the model.
    pub content: String,
    /// The tool ran and reports a failure.
    pub is_error: bool,
    /// Where the run stands, if the tool reports it.
    pub progress: Option<Progress>,
}

impl ToolOutput {
    /// A successful output.
    #[must_use]
    pub const fn text(content: String) -> Self {
        Self { content, is_error: false, progress: None }
    }
}

/// Where a run stands (SCOPE C7).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
    /// What was just done, or is being done.
    pub description: String,
}

/// Why a tool did not run, or did not end.
#[derive(Debug)]
pub struct ToolError {
    /// What kind of thing went wrong. [`ErrorClass::OutcomeUnknown`] if the call may have taken effect.
    pub class: ErrorClass,
    /// The tool's name.
    pub tool: String,
    /// What happened and what to do.
    pub message: String,
    /// How long the tool asked us to wait.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tool `{}`: {}", self.tool, self.message)
    }
}

impl std::error::Error for ToolError {}

impl Classify for ToolError {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}
