//! A tool that runs any of a few allowed programs.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};

use super::{DEFAULT_OUTPUT_BYTES, DEFAULT_TIMEOUT};
use crate::process::{CommandLine, ProcessOwner};
use crate::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

/// Which programs may be run, and how.
#[derive(Clone, Debug)]
pub struct RunCommandOptions {
    /// The programs, exactly as the model must name them. An allowed program is allowed everything it can do:
    /// allowing `sh` or `python` allows anything.
    pub programs: Vec<String>,
    /// Where they run.
    pub cwd: Option<PathBuf>,
    /// Set in their environment.
    pub env: Vec<(String, String)>,
    /// Limit of one call. Default 30 s.
    pub timeout: Duration,
    /// The most that is kept of each output, in bytes. Default 64 KiB.
    pub output_bytes: usize,
    /// What they do outside. Default [`Effect::Once`].
    pub effect: Effect,
}

impl RunCommandOptions {
    /// These programs, with the defaults.
    #[must_use]
    pub fn new(programs: &[&str]) -> Self {
        Self {
            programs: programs.iter().map(|name| (*name).to_owned()).collect(),
            cwd: None,
            env: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            output_bytes: DEFAULT_OUTPUT_BYTES,
            effect: Effect::Once,
        }
    }
}

/// `run_command`: a program of the allow-list with an array of arguments. No shell.
#[derive(Debug)]
pub struct RunCommand {
    spec: ToolSpec,
    owner: ProcessOwner,
    options: RunCommandOptions,
}

impl RunCommand {
    /// The tool.
    #[must_use]
    pub fn new(options: RunCommandOptions, owner: ProcessOwner) -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "program": {"type": "string", "enum": options.programs},
                "args": {"type": "array", "items": {"type": "string"}}
            },
            "required": ["program"],
            "additionalProperties": false
        });
        let description = "Run a program with arguments, without a shell.";
        let mut spec = super::spec("run_command", description, schema, options.effect);
        spec.timeout = options.timeout;
        Self { spec, owner, options }
    }
}

#[async_trait]
impl Tool for RunCommand {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let program = super::text_argument(&self.spec, &call.arguments, "program", None)?;
        if !self.options.programs.contains(&program) {
            let allowed = self.options.programs.join(", ");
            let message = format!("`{program}` is not allowed; allowed are: {allowed}");
            return Err(super::error(&self.spec, ErrorClass::Permission, message));
        }
        let args = match call.arguments.get("args") {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        let clean = |args: &Vec<String>| !args.iter().any(|arg| arg.contains('\0'));
        let Some(args) = args.filter(clean) else {
            let message = "`args` must be an array of strings without zero bytes".to_owned();
            return Err(super::error(&self.spec, ErrorClass::InvalidRequest, message));
        };
        let line = CommandLine {
            program,
            args,
            env: self.options.env.clone(),
            cwd: self.options.cwd.clone(),
        };
        let output_bytes = self.options.output_bytes;
        super::command::execute(&self.spec, &self.owner, line, None, output_bytes, &call).await
    }
}
