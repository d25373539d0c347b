//! What a user may set: `steadfast.toml`, read once, checked as a whole, every message with the key's
//! name and place. The only module that reads the environment.

mod assemble;
mod sections;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use steadfast_guard::Policy;
use steadfast_runtime::AgentSpec;

pub(crate) use assemble::{Assembly, Services, assemble};
pub(crate) use sections::{LogFormat, ModelSection, ProviderSection, ToolSection};
use sections::{LogSection, RuntimeSection, ServerSection, StoreSection};

/// The file looked for if none is named.
pub(crate) const DEFAULT_FILE: &str = "steadfast.toml";

/// Everything that `steadfast.toml` may say. See `docs/config.md`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The listener.
    pub(crate) server: ServerSection,
    /// The store.
    pub(crate) store: StoreSection,
    /// How runs are executed.
    pub(crate) runtime: RuntimeSection,
    /// What is logged, and how.
    pub(crate) log: LogSection,
    /// Where models are, by name.
    pub(crate) providers: BTreeMap<String, ProviderSection>,
    /// Models, by name.
    pub(crate) models: BTreeMap<String, ModelSection>,
    /// Tools, by name.
    pub(crate) tools: BTreeMap<String, ToolSection>,
    /// A file with `mcpServers`, in the form that other agents use too.
    pub(crate) mcp_config: Option<PathBuf>,
    /// MCP servers, by name, with the same keys.
    pub(crate) mcp_servers: toml::Table,
    /// Agents, by name.
    pub(crate) agents: BTreeMap<String, AgentSection>,
    /// Guards' policies, by dependency: `model:NAME`, `tool:NAME`, `mcp:SERVER`.
    pub(crate) policies: BTreeMap<String, Policy>,
    /// The folder that relative paths start from: the file's own.
    #[serde(skip)]
    pub(crate) base: PathBuf,
}

/// An agent, with its instructions in place or in a file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AgentSection {
    /// A file with the instructions, instead of `instructions`.
    pub(crate) instructions_file: Option<PathBuf>,
    #[serde(flatten)]
    pub(crate) rest: toml::Table,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {problem}{hint}", .path.display())]
    Unreadable { path: PathBuf, problem: std::io::Error, hint: &'static str },
    #[error("{}: {problem}", .path.display())]
    Invalid { path: PathBuf, problem: String },
    #[error("{place}: environment variable `{variable}` is not set: export it, or remove the key")]
    NoVariable { place: String, variable: String },
    #[error("{place}: a secret may only be named, as `env:VARIABLE`, never written here")]
    PlainSecret { place: String },
    #[error("{problem}")]
    Unusable { problem: String },
}

impl Config {
    /// Reads a file. Without a name, `steadfast.toml` in the working directory.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.is_some();
        let path = path.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let hint = if named {
            ""
        } else {
            "; name a file with `--config`, or make one with `steadfast init`"
        };
        let text = std::fs::read_to_string(path).map_err(|problem| ConfigError::Unreadable {
            path: path.to_owned(),
            problem,
            hint,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Invalid {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        config.base = parent.unwrap_or_else(|| Path::new(".")).to_owned();
        Ok(config)
    }

    /// A path of the file, as seen from the working directory.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    /// The agents' definitions.
    pub(crate) fn agent_specs(&self) -> Result<BTreeMap<String, AgentSpec>, ConfigError> {
        let mut specs = BTreeMap::new();
        for (name, section) in &self.agents {
            let invalid = |problem: String| ConfigError::Unusable {
                problem: format!("`agents.{name}`: {problem}"),
            };
            let mut spec: AgentSpec = section
                .rest
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| invalid(error.message().to_owned()))?;
            if let Some(file) = &section.instructions_file {
                if !spec.instructions.is_empty() {
                    let both = "set `instructions` or `instructions_file`, not both";
                    return Err(invalid(both.to_owned()));
                }
                let path = self.resolve(file);
                spec.instructions = std::fs::read_to_string(&path)
                    .map_err(|problem| ConfigError::Unreadable { path, problem, hint: "" })?;
            }
            specs.insert(name.clone(), spec);
        }
        Ok(specs)
    }
}

/// The value of an environment variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "this is the configuration loader")]
pub(crate) fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The secret that a key names.
pub(crate) fn secret(place: &str, reference: &str) -> Result<secrecy::SecretString, ConfigError> {
    let Some(variable) = reference.strip_prefix("env:") else {
        return Err(ConfigError::PlainSecret { place: place.to_owned() });
    };
    environment(variable).map(Into::into).ok_or_else(|| ConfigError::NoVariable {
        place: place.to_owned(),
        variable: variable.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("steadfast.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(Some(&path))
    }

    #[test]
    fn an_empty_file_is_a_configuration_with_every_default() {
        let config = load("").expect("loads");
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:7420");
        assert_eq!(config.runtime.concurrency, 10);
    }

    #[test]
    fn a_wrong_key_is_named_with_its_place() {
        let message = load("[server]\nlissten = \"127.0.0.1:1\"\n").expect_err("wrong").to_string();
        assert!(message.contains("steadfast.toml"), "{message}");
        assert!(message.contains("lissten") && message.contains("line 2"), "{message}");
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let missing = Config::load(Some(Path::new("/nowhere/steadfast.toml")));
        let message = missing.expect_err("missing").to_string();
        assert!(message.contains("/nowhere/steadfast.toml"), "{message}");
    }

    #[test]
    fn a_wrong_key_of_an_agent_names_the_agent() {
        let config = load("[agents.a]\nmodel = \"m\"\nmax_iteration = 3\n").expect("loads");
        let message = config.agent_specs().expect_err("wrong").to_string();
        assert!(message.contains("agents.a") && message.contains("max_iteration"), "{message}");
    }

    #[test]
    fn a_secret_may_only_be_named() {
        let message = secret("providers.p.api_key", "sk-123").expect_err("plain").to_string();
        assert!(message.contains("providers.p.api_key"), "{message}");
        assert!(!message.contains("sk-123"), "{message}");
    }
}
