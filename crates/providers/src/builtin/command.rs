//! A tool that is one configured command.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use steadfast_guard::{Effect, ErrorClass};

use super::template::{Element, parse, parse_argv};
use super::{DEFAULT_OUTPUT_BYTES, DEFAULT_TIMEOUT, ToolConfigError};
use crate::process::{CommandLine, Finished, ProcessError, ProcessOwner, RunLimits};
use crate::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

/// The variable by which a command learns the idempotency key of its call.
const KEY_VARIABLE: &str = "STEADFAST_IDEMPOTENCY_KEY";

/// Between SIGTERM at the deadline and SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(1);

/// A command as a tool.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// The tool's name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// Program and arguments; `{name}` is filled with the argument of that name, inside one element.
    pub argv: Vec<String>,
    /// The schema of the arguments; if absent, every placeholder is a required string.
    pub schema: Option<Value>,
    /// What it does outside. Default [`Effect::Once`].
    pub effect: Effect,
    /// Limit of one call. Default 30 s.
    pub timeout: Duration,
    /// Where it runs.
    pub cwd: Option<PathBuf>,
    /// Set in its environment.
    pub env: Vec<(String, String)>,
    /// The most that is kept of each output, in bytes. Default 64 KiB.
    pub output_bytes: usize,
    /// What it gets as stdin, with places as in `argv`.
    pub stdin: Option<String>,
    /// Values may begin with `-` even without a `--` before them.
    pub allow_dashes: bool,
}

impl CommandOptions {
    /// A command with the defaults.
    #[must_use]
    pub fn new(name: &str, description: &str, argv: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            schema: None,
            effect: Effect::Once,
            timeout: DEFAULT_TIMEOUT,
            cwd: None,
            env: Vec::new(),
            output_bytes: DEFAULT_OUTPUT_BYTES,
            stdin: None,
            allow_dashes: false,
        }
    }
}

/// The tool of [`CommandOptions`]. No shell is involved. A dropped call kills the command's group.
#[derive(Debug)]
pub struct CommandTool {
    spec: ToolSpec,
    owner: ProcessOwner,
    program: String,
    argv: Vec<Element>,
    stdin: Option<Element>,
    cwd: Option<PathBuf>,
    env: Vec<(String, String)>,
    output_bytes: usize,
}

impl CommandTool {
    /// The tool.
    ///
    /// # Errors
    /// [`ToolConfigError`] if the template is empty or malformed, its program is a placeholder, or the given
    /// schema lacks a placeholder.
    pub fn new(options: CommandOptions, owner: ProcessOwner) -> Result<Self, ToolConfigError> {
        let wrong = |reason: String| ToolConfigError { tool: options.name.clone(), reason };
        let Some((program, rest)) = options.argv.split_first() else {
            return Err(wrong("`argv` is empty; give the program first".to_owned()));
        };
        let program_element = parse(program).map_err(wrong)?;
        if program_element.names().next().is_some() {
            return Err(wrong("the program itself may not be a placeholder".to_owned()));
        }
        let program = program_element.fill(&Value::Null).map_err(wrong)?;
        let argv = parse_argv(rest, options.allow_dashes).map_err(wrong)?;
        let stdin = options.stdin.as_deref().map(parse).transpose().map_err(wrong)?;
        let stdin = stdin.map(Element::unguarded);
        let places: BTreeSet<&str> = argv.iter().chain(&stdin).flat_map(Element::names).collect();
        let schema = match options.schema {
            Some(schema) => {
                let known = |place: &&str| {
                    schema.pointer("/properties").is_some_and(|p| p.get(place).is_some())
                };
                if let Some(place) = places.iter().find(|place| !known(place)) {
                    let reason =
                        format!("the placeholder `{{{place}}}` is not a property of `schema`");
                    return Err(ToolConfigError { tool: options.name, reason });
                }
                schema
            }
            None => derived_schema(&places),
        };
        let mut spec = super::spec(&options.name, &options.description, schema, options.effect);
        spec.timeout = options.timeout;
        Ok(Self {
            spec,
            owner,
            program,
            argv,
            stdin,
            cwd: options.cwd,
            env: options.env,
            output_bytes: options.output_bytes,
        })
    }
}

#[async_trait]
impl Tool for CommandTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let refuse = |reason| super::error(&self.spec, ErrorClass::InvalidRequest, reason);
        let args: Result<Vec<String>, String> =
            self.argv.iter().map(|element| element.fill(&call.arguments)).collect();
        let stdin = self.stdin.as_ref().map(|element| element.fill(&call.arguments)).transpose();
        let line = CommandLine {
            program: self.program.clone(),
            args: args.map_err(refuse)?,
            env: self.env.clone(),
            cwd: self.cwd.clone(),
        };
        let stdin = stdin.map_err(refuse)?.map(String::into_bytes);
        execute(&self.spec, &self.owner, line, stdin, self.output_bytes, &call).await
    }
}

/// Runs a command for a tool and puts its end into words.
pub(super) async fn execute(
    spec: &ToolSpec,
    owner: &ProcessOwner,
    mut line: CommandLine,
    stdin: Option<Vec<u8>>,
    output_bytes: usize,
    call: &ToolInvocation,
) -> Result<ToolOutput, ToolError> {
    line.env.push((KEY_VARIABLE.to_owned(), call.idempotency_key.clone()));
    let deadline = call.deadline.min(tokio::time::Instant::now() + spec.timeout);
    let limits = RunLimits { deadline, output_bytes, after_term: AFTER_TERM };
    let finished = owner.run(&line, stdin, limits).await.map_err(|failure| {
        let class = match (&failure, spec.effect) {
            (ProcessError::Start { .. }, _) => ErrorClass::NotFound,
            (ProcessError::Wait { .. }, Effect::Read) => ErrorClass::Internal,
            (ProcessError::Wait { .. }, _) => ErrorClass::OutcomeUnknown,
        };
        super::error(spec, class, failure.to_string())
    })?;
    let Some(status) = finished.status else {
        let class = match spec.effect {
            Effect::Read => ErrorClass::Timeout,
            Effect::Idempotent | Effect::Once => ErrorClass::OutcomeUnknown,
        };
        let message = format!("it was ended at its time limit; until then:\n{}", both(&finished));
        return Err(super::error(spec, class, message));
    };
    if status.success() {
        return Ok(ToolOutput::text(finished.stdout.text()));
    }
    let end = match status.code() {
        Some(code) => format!("exit code: {code}"),
        None => format!("ended by a signal: {status}"),
    };
    Ok(super::failed(format!("{end}\n{}", both(&finished))))
}

fn both(finished: &Finished) -> String {
    let (stdout, stderr) = (finished.stdout.text(), finished.stderr.text());
    match (stdout.trim_end(), stderr.trim_end()) {
        ("", "") => "(no output)".to_owned(),
        ("", stderr) => format!("stderr:\n{stderr}"),
        (stdout, "") => format!("stdout:\n{stdout}"),
        (stdout, stderr) => format!("stdout:\n{stdout}\nstderr:\n{stderr}"),
    }
}

fn derived_schema(places: &BTreeSet<&str>) -> Value {
    let properties: Map<String, Value> =
        places.iter().map(|place| ((*place).to_owned(), json!({"type": "string"}))).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": places,
        "additionalProperties": false
    })
}
