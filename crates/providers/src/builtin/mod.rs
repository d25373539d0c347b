//! Tools that come with Steadfast: files below a root, commands, HTTP reads, progress.

mod command;
mod files;
mod http_get;
mod progress;
mod root;
mod run_command;
mod template;

use std::time::Duration;

use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass};
use thiserror::Error;

use crate::model::ToolDefinition;
use crate::tool::{ToolError, ToolOutput, ToolSpec};

pub use command::{CommandOptions, CommandTool};
pub use files::{FileLimits, ListFiles, ReadFile, WriteFile};
pub use http_get::{HttpGet, HttpGetOptions};
pub use progress::ReportProgress;
pub use root::Root;
pub use run_command::{RunCommand, RunCommandOptions};

/// The limit of one call if nothing else is configured (SCOPE R3).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The most of an output that is kept if nothing else is configured, in bytes.
pub const DEFAULT_OUTPUT_BYTES: usize = 64 * 1024;

/// A tool is configured wrongly.
#[derive(Debug, Error)]
#[error("tool `{tool}`: {reason}")]
pub struct ToolConfigError {
    /// The tool's name.
    pub tool: String,
    /// What is wrong and what to do.
    pub reason: String,
}

fn spec(name: &str, description: &str, schema: Value, effect: Effect) -> ToolSpec {
    ToolSpec {
        definition: ToolDefinition {
            name: name.to_owned(),
            description: description.to_owned(),
            schema,
        },
        effect,
        timeout: DEFAULT_TIMEOUT,
        dependency: format!("tool:{name}"),
    }
}

fn failed(content: String) -> ToolOutput {
    ToolOutput { content, is_error: true, progress: None }
}

fn error(spec: &ToolSpec, class: ErrorClass, message: String) -> ToolError {
    ToolError { class, tool: spec.definition.name.clone(), message, retry_after: None }
}

fn text_argument(
    spec: &ToolSpec,
    arguments: &Value,
    key: &str,
    default: Option<&str>,
) -> Result<String, ToolError> {
    match (arguments.get(key), default) {
        (Some(Value::String(text)), _) => Ok(text.clone()),
        (None, Some(default)) => Ok(default.to_owned()),
        _ => Err(error(
            spec,
            ErrorClass::InvalidRequest,
            format!("the argument `{key}` must be a string"),
        )),
    }
}
