//! What a user may set: `steadfast.toml`, read once, checked as a whole, every message with the key's
//! name and place. The only module that reads the environment.

mod assemble;
mod budgets;
mod deployments;
mod place;
mod schedules;
mod sections;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use steadfast_guard::Policy;
use steadfast_runtime::ledger::BudgetRule;
use steadfast_runtime::prices::PriceRules;
use steadfast_runtime::{
    AgentSpec, Compensation, ExpenseRule, FallbackRule, KeyRule, PolicyRules, ProblemRules,
    UnknownRule,
};
use steadfast_store::Caps;

pub(crate) use assemble::{Assembly, Services, assemble, check_policies, verify};
pub(crate) use sections::{
    AgentSection, GatewaySection, LogFormat, ModelSection, ProviderSection, ToolSection,
};
use sections::{
    CapsSection, ChaosSection, LedgerSection, LogSection, RetentionSection, RuntimeSection,
    ScheduleSection, ServerSection, StoreSection,
};
pub(crate) use store::StorePlace;

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
    /// For how long runs are kept that are over.
    pub(crate) retention: RetentionSection,
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
    /// Runs that are submitted at times, by name.
    pub(crate) schedules: BTreeMap<String, ScheduleSection>,
    /// Guards' policies: `default`, `model:*`, or one dependency's, as `model:NAME`, `tool:NAME`,
    /// `mcp:SERVER`.
    pub(crate) policies: BTreeMap<String, Policy>,
    /// Whether policies may inject faults.
    pub(crate) chaos: ChaosSection,
    /// Tools whose calls are done once for equal arguments, by the tool's name.
    pub(crate) idempotency: BTreeMap<String, KeyRule>,
    /// What stands in for a model or a tool that gives no answer: `model:NAME`, `tool:NAME`.
    pub(crate) fallback: BTreeMap<String, FallbackRule>,
    /// Tools that cost with every call, by name.
    pub(crate) expensive: BTreeMap<String, ExpenseRule>,
    /// When a run has a problem.
    pub(crate) problems: ProblemRules,
    /// How what a tool has done is undone, by the tool's name.
    pub(crate) compensate: BTreeMap<String, Compensation>,
    /// What is done about a call that may or may not have taken effect, by the tool's name.
    pub(crate) unknown: BTreeMap<String, UnknownRule>,
    /// How much tokens and money may be used, by whom, in which time.
    pub(crate) budget: Vec<BudgetRule>,
    /// How models are served to programs.
    pub(crate) gateway: GatewaySection,
    /// How budgets are kept.
    pub(crate) ledger: LedgerSection,
    /// What models cost, over the table of this release.
    pub(crate) prices: PriceRules,
    /// The policies as they are written: what a table does not say, it inherits.
    #[serde(skip)]
    layers: Layers,
    /// The folder that relative paths start from: the file's own.
    #[serde(skip)]
    pub(crate) base: PathBuf,
    /// What was read, to say where something stands.
    #[serde(skip)]
    file: Option<Arc<File>>,
}

/// Tables of policies, by name.
type Layers = BTreeMap<String, serde_json::Map<String, serde_json::Value>>;

/// The part of a file that is also read as it is written.
#[derive(Deserialize)]
struct AsWritten {
    #[serde(default)]
    policies: Layers,
}

/// A configuration file as it was read.
#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {problem}{hint}", .path.display())]
    Unreadable { path: PathBuf, problem: std::io::Error, hint: &'static str },
    #[error("{}: {problem}", .path.display())]
    Invalid { path: PathBuf, problem: String },
    #[error(
        "`{place}`: environment variable `{variable}` is not set: export it, or remove the key"
    )]
    NoVariable { place: String, variable: String },
    #[error("`{place}`: a secret may only be named, as `env:VARIABLE`, never written here")]
    PlainSecret { place: String },
    #[error("`{place}`: {problem}")]
    Unusable { place: String, problem: String },
    /// Several keys do not fit together.
    #[error("{problem}")]
    Unfit { problem: String },
    /// Any of the above, with where it stands.
    #[error("{place}: {problem}")]
    At { place: String, problem: Box<Self> },
}

/// The shortest life of a lease. It is renewed every third of it, which takes a write to the disk.
const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

impl Config {
    /// Reads a file. Without a name, `steadfast.toml` in the working directory.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let hint = match path {
            Some(_) => "; name a file that is there, or make one with `steadfast init`",
            None => "; name a file with `--config`, or make one with `steadfast init`",
        };
        let path = path.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let text = std::fs::read_to_string(path).map_err(|problem| ConfigError::Unreadable {
            path: path.to_owned(),
            problem,
            hint,
        })?;
        Self::parse(path, text)
    }

    /// Reads a file's text.
    pub(crate) fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let invalid = |error: toml::de::Error| ConfigError::Invalid {
            path: path.to_owned(),
            problem: place::explain(&error),
        };
        let mut config: Self = toml::from_str(&text).map_err(invalid)?;
        config.layers = toml::from_str::<AsWritten>(&text).map_err(invalid)?.policies;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        config.base = parent.unwrap_or_else(|| Path::new(".")).to_owned();
        config.file = Some(Arc::new(File { path: path.to_owned(), text }));
        config.check_runtime().map_err(|error| config.locate(error))?;
        Ok(config)
    }

    fn check_runtime(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| ConfigError::Unusable {
            place: format!("runtime.{key}"),
            problem: problem.to_owned(),
        };
        if self.runtime.concurrency == 0 {
            return Err(wrong("concurrency", "it is 0: nothing would ever run; use 1 or more"));
        }
        if self.runtime.lease_ttl < LEASE_TTL_MIN {
            let short = "it is too short to be renewed in time; use `1s` or more";
            return Err(wrong("lease_ttl", short));
        }
        if self.problems.check_every.is_zero() {
            return Err(ConfigError::Unusable {
                place: "problems.check_every".to_owned(),
                problem: "it is 0: nothing else would be done; use `1s` or more".to_owned(),
            });
        }
        if self.gateway.keep_alive.is_zero() {
            return Err(ConfigError::Unusable {
                place: "gateway.keep_alive".to_owned(),
                problem: "it is 0: nothing else would be sent; use `1s` or more".to_owned(),
            });
        }
        self.check_caps()?;
        self.check_money()?;
        self.timetable().map(drop)
    }

    fn check_caps(&self) -> Result<(), ConfigError> {
        let CapsSection { per_tenant, tenants } = &self.runtime.caps;
        let per_tenant = per_tenant.map(|cap| ("runtime.caps.per_tenant".to_owned(), cap));
        let tenants =
            tenants.iter().map(|(name, cap)| (format!("runtime.caps.tenants.{name}"), *cap));
        let agents = self.agents.iter().filter_map(|(name, agent)| {
            agent.max_runs.map(|cap| (format!("agents.{name}.max_runs"), cap))
        });
        match per_tenant.into_iter().chain(tenants).chain(agents).find(|(_, cap)| *cap == 0) {
            None => Ok(()),
            Some((place, _)) => {
                let problem = "it is 0: none of these runs would ever be executed; use 1 or more, \
                     or leave it out for no limit";
                Err(ConfigError::Unusable { place, problem: problem.to_owned() })
            }
        }
    }

    /// How many runs may be under way at once, over all nodes.
    pub(crate) fn caps(&self) -> Caps {
        let CapsSection { per_tenant, tenants } = self.runtime.caps.clone();
        let agents = self.agents.iter();
        let agents = agents.filter_map(|(name, agent)| Some((name.clone(), agent.max_runs?)));
        Caps { per_tenant, tenants, agents: agents.collect() }
    }

    /// Says in which file and line an error stands, if it does not say so itself.
    pub(crate) fn locate(&self, error: ConfigError) -> ConfigError {
        let place = match &error {
            ConfigError::NoVariable { place, .. }
            | ConfigError::PlainSecret { place }
            | ConfigError::Unusable { place, .. } => Some(place),
            ConfigError::Unfit { .. } => None,
            ConfigError::Unreadable { .. }
            | ConfigError::Invalid { .. }
            | ConfigError::At { .. } => return error,
        };
        let Some(file) = &self.file else { return error };
        let line = place.and_then(|place| place::line_of(&file.text, place));
        let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
        ConfigError::At {
            place: format!("{}{line}", file.path.display()),
            problem: Box::new(error),
        }
    }

    /// The file that this was read from, and its text.
    pub(crate) fn source(&self) -> Option<(&Path, &str)> {
        self.file.as_ref().map(|file| (file.path.as_path(), file.text.as_str()))
    }

    /// The guards' policies.
    pub(crate) fn policy_rules(&self) -> Result<PolicyRules, ConfigError> {
        let rules = PolicyRules::try_from(self.layers.clone());
        let rules = rules.map_err(|error| ConfigError::Unusable {
            place: format!("policies.{}", error.layer),
            problem: error.problem,
        })?;
        Ok(rules.allow_chaos(self.chaos.allow))
    }

    /// A path of the file, as seen from the working directory.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        if self.base == Path::new(".") { path.to_owned() } else { self.base.join(path) }
    }

    /// The agents' definitions.
    pub(crate) fn agent_specs(&self) -> Result<BTreeMap<String, AgentSpec>, ConfigError> {
        let mut specs = BTreeMap::new();
        for (name, section) in &self.agents {
            let instructions = match (&section.instructions, &section.instructions_file) {
                (Some(_), Some(_)) => {
                    return Err(ConfigError::Unusable {
                        place: format!("agents.{name}.instructions_file"),
                        problem: "set `instructions` or `instructions_file`, not both".to_owned(),
                    });
                }
                (Some(instructions), None) => instructions.clone(),
                (None, Some(file)) => {
                    let path = self.resolve(file);
                    std::fs::read_to_string(&path).map_err(|problem| ConfigError::Unreadable {
                        path,
                        problem,
                        hint: "; it is named by an agent's `instructions_file`",
                    })?
                }
                (None, None) => String::new(),
            };
            specs.insert(name.clone(), section.spec(instructions));
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
    fn a_wrong_key_of_an_agent_has_its_line_and_the_right_one() {
        let wrong = load("[agents.a]\nmodel = \"m\"\nmax_iteration = 3\n").expect_err("wrong");
        let message = wrong.to_string();
        for part in ["steadfast.toml", "line 3", "`max_iteration`", "did you mean `max_iterations`"]
        {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_option_that_cannot_work_has_its_line() {
        for (key, value) in [("concurrency", "0"), ("lease_ttl", "\"0s\"")] {
            let wrong = load(&format!("[runtime]\n{key} = {value}\n")).expect_err("wrong");
            let message = wrong.to_string();
            assert!(message.contains(&format!("line 2: `runtime.{key}`")), "{message}");
        }
    }

    #[test]
    fn g12_caps_are_read_and_one_of_0_has_its_line() {
        let text = "[runtime.caps]\nper_tenant = 5\n[runtime.caps.tenants]\nacme = 20\n\
                    [agents.a]\nmodel = \"m\"\nmax_runs = 3\n[agents.b]\nmodel = \"m\"\n";
        let caps = load(text).expect("loads").caps();
        assert_eq!((caps.of_tenant("acme"), caps.of_tenant("x")), (Some(20), Some(5)));
        assert_eq!((caps.of_agent("a"), caps.of_agent("b")), (Some(3), None));
        for (written, line, place) in [
            ("per_tenant = 5", 2, "runtime.caps.per_tenant"),
            ("acme = 20", 4, "runtime.caps.tenants.acme"),
            ("max_runs = 3", 7, "agents.a.max_runs"),
        ] {
            let (key, _) = written.split_once(" = ").expect("a key");
            let wrong = load(&text.replace(written, &format!("{key} = 0"))).expect_err("wrong");
            let message = wrong.to_string();
            assert!(message.contains(&format!("line {line}: `{place}`: it is 0")), "{message}");
        }
    }

    #[test]
    fn a_secret_may_only_be_named() {
        let message = secret("providers.p.api_key", "sk-123").expect_err("plain").to_string();
        assert!(message.contains("providers.p.api_key"), "{message}");
        assert!(!message.contains("sk-123"), "{message}");
    }
}
