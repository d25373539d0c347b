//! The `mcpServers` object, as other clients write it.
//!
//! `timeout` differs between clients. Here it is in seconds: one number for start-up and for each call, or
//! `{"startup": 60, "request": 30}`. A number above 1000 is meant in milliseconds by its writer, and refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use steadfast_guard::Effect;
use thiserror::Error;

const MAX_SECONDS: f64 = 1000.0;

/// One server.
#[derive(Clone)]
pub struct McpServerConfig {
    /// The program.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Set in its environment. Never logged, and struck out of what the server says on stderr.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub cwd: Option<PathBuf>,
    /// Configured, but not to be started.
    pub disabled: bool,
    /// Time limits.
    pub timeouts: McpTimeouts,
    /// Whether its annotations are believed. Default no: then every tool counts as [`Effect::Once`].
    pub trust: bool,
    /// What single tools do outside, by the server's own name for them; wins over everything else.
    pub effects: BTreeMap<String, EffectOverride>,
}

impl std::fmt::Debug for McpServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServerConfig")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("disabled", &self.disabled)
            .field("timeouts", &self.timeouts)
            .field("trust", &self.trust)
            .field("effects", &self.effects)
            .finish()
    }
}

/// Time limits of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpTimeouts {
    /// From its start to its list of tools. Default 60 s: a cold `npx` was measured at 12 s.
    pub startup: Duration,
    /// One call. Default 30 s (SCOPE R3).
    pub request: Duration,
}

impl Default for McpTimeouts {
    fn default() -> Self {
        Self { startup: Duration::from_secs(60), request: Duration::from_secs(30) }
    }
}

/// [`Effect`] as it is written in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectOverride {
    /// [`Effect::Read`].
    Read,
    /// [`Effect::Idempotent`].
    Idempotent,
    /// [`Effect::Once`].
    Once,
}

impl From<EffectOverride> for Effect {
    fn from(written: EffectOverride) -> Self {
        match written {
            EffectOverride::Read => Self::Read,
            EffectOverride::Idempotent => Self::Idempotent,
            EffectOverride::Once => Self::Once,
        }
    }
}

/// The configuration is wrong.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{place}: {reason}")]
pub struct McpConfigError {
    /// Where: `mcpServers.NAME`, or the text itself.
    pub place: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Reads `{"mcpServers": {NAME: {...}}}`, or the inner object alone.
///
/// # Errors
/// [`McpConfigError`] for anything that is not understood; unknown keys are named and not ignored.
pub fn parse_mcp_servers(
    json_text: &str,
) -> Result<BTreeMap<String, McpServerConfig>, McpConfigError> {
    let wrong = |reason: String| McpConfigError { place: "mcpServers".to_owned(), reason };
    let value: Value =
        serde_json::from_str(json_text).map_err(|error| wrong(format!("not JSON: {error}")))?;
    let servers = value.get("mcpServers").unwrap_or(&value);
    let Some(servers) = servers.as_object() else {
        return Err(wrong("must be an object of servers by name".to_owned()));
    };
    servers
        .iter()
        .map(|(name, value)| {
            let config = McpServerConfig::from_json(value)
                .map_err(|reason| McpConfigError { place: format!("mcpServers.{name}"), reason })?;
            Ok((name.clone(), config))
        })
        .collect()
}

impl McpServerConfig {
    /// A server with the defaults.
    #[must_use]
    pub fn new(command: &str, args: &[&str]) -> Self {
        Self {
            command: command.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: BTreeMap::new(),
            cwd: None,
            disabled: false,
            timeouts: McpTimeouts::default(),
            trust: false,
            effects: BTreeMap::new(),
        }
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let Some(object) = value.as_object() else {
            return Err("must be an object".to_owned());
        };
        let mut config = Self::new("", &[]);
        for key in object.keys() {
            config.set(key, object)?;
        }
        if config.command.is_empty() {
            return Err("`command` is missing".to_owned());
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, object: &Map<String, Value>) -> Result<(), String> {
        match key {
            "command" => self.command = field(object, key)?,
            "args" => self.args = field(object, key)?,
            "env" => self.env = field(object, key)?,
            "cwd" => self.cwd = field(object, key)?,
            "disabled" => self.disabled = field(object, key)?,
            "trust" => self.trust = field(object, key)?,
            "effects" => self.effects = field(object, key)?,
            "timeout" => self.timeouts = timeouts(&object[key])?,
            "type" | "transport" => match field::<String>(object, key)?.as_str() {
                "stdio" => {}
                other => {
                    return Err(format!("`{key}` is `{other}`; only `stdio` servers can be used"));
                }
            },
            "url" | "headers" => {
                return Err(format!(
                    "`{key}`: streamable HTTP servers come later; only `command` servers can be used"
                ));
            }
            other => {
                return Err(format!("unknown key `{other}`; the keys are: {}", KEYS.join(", ")));
            }
        }
        Ok(())
    }
}

/// What an entry may hold. `type` and `transport`, which other agents write, may only say `stdio`.
const KEYS: [&str; 8] =
    ["command", "args", "env", "cwd", "disabled", "timeout", "trust", "effects"];

/// The value is not shown in the error: it may be a secret.
fn field<T: serde::de::DeserializeOwned>(
    object: &Map<String, Value>,
    key: &str,
) -> Result<T, String> {
    let expected = match key {
        "args" => "an array of strings",
        "env" => "an object of strings",
        "effects" => "an object with values `read`, `idempotent` or `once`",
        "disabled" | "trust" => "true or false",
        _ => "a string",
    };
    T::deserialize(&object[key]).map_err(|_| format!("`{key}` must be {expected}"))
}

fn timeouts(value: &Value) -> Result<McpTimeouts, String> {
    let mut timeouts = McpTimeouts::default();
    match value {
        Value::Number(_) => {
            timeouts.startup = seconds("timeout", value)?;
            timeouts.request = timeouts.startup;
        }
        Value::Object(parts) => {
            for (key, value) in parts {
                match key.as_str() {
                    "startup" => timeouts.startup = seconds("timeout.startup", value)?,
                    "request" => timeouts.request = seconds("timeout.request", value)?,
                    other => return Err(format!("unknown key `timeout.{other}`")),
                }
            }
        }
        _ => return Err("`timeout` must be a number of seconds or {startup, request}".to_owned()),
    }
    Ok(timeouts)
}

fn seconds(key: &str, value: &Value) -> Result<Duration, String> {
    match value.as_f64() {
        Some(seconds) if seconds > MAX_SECONDS => Err(format!(
            "`{key}` is {seconds}: it is in seconds here, not milliseconds; at most {MAX_SECONDS}"
        )),
        Some(seconds) if seconds > 0.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("`{key}` must be a number of seconds above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::{EffectOverride, parse_mcp_servers};
    use std::time::Duration;

    fn refused(server: &str) -> String {
        parse_mcp_servers(&format!(r#"{{"mcpServers": {{"s": {server}}}}}"#))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_keys_of_other_clients_are_read() {
        let text = r#"{"mcpServers": {"time": {"type": "stdio", "command": "uvx", "args": ["x"],
            "env": {"KEY": "secret-value"}, "cwd": "/tmp", "disabled": true, "timeout": 12.5,
            "trust": true, "effects": {"set": "idempotent"}}}}"#;
        let servers = parse_mcp_servers(text).unwrap();
        let time = &servers["time"];
        assert_eq!((time.command.as_str(), time.disabled, time.trust), ("uvx", true, true));
        assert_eq!(time.timeouts.startup, Duration::from_millis(12_500));
        assert_eq!(time.timeouts.request, Duration::from_millis(12_500));
        assert_eq!(time.effects["set"], EffectOverride::Idempotent);
        assert!(!format!("{time:?}").contains("secret-value"));
    }

    #[test]
    fn timeouts_may_be_given_apart_and_milliseconds_are_refused() {
        let text = r#"{"s": {"command": "x", "timeout": {"request": 5}}}"#;
        let timeouts = parse_mcp_servers(text).unwrap()["s"].timeouts;
        assert_eq!(timeouts.startup, Duration::from_secs(60));
        assert_eq!(timeouts.request, Duration::from_secs(5));
        assert!(refused(r#"{"command": "x", "timeout": 30000}"#).contains("seconds here"));
        assert!(refused(r#"{"command": "x", "timeout": 0}"#).contains("above 0"));
    }

    #[test]
    fn what_is_not_understood_is_named_and_secrets_are_not_shown() {
        assert!(refused(r#"{"command": "x", "tmeout": 3}"#).contains("unknown key `tmeout`"));
        assert!(refused(r#"{"url": "http://127.0.0.1"}"#).contains("come later"));
        assert!(refused(r#"{"args": []}"#).contains("`command` is missing"));
        assert!(!refused(r#"{"command": "x", "env": ["hunter2"]}"#).contains("hunter2"));
        assert!(refused(r#"{"command": "x", "type": "sse"}"#).starts_with("mcpServers.s: "));
    }
}
