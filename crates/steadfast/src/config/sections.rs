//! The sections of `steadfast.toml`, each key with its meaning and default.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use steadfast_guard::Effect;
use steadfast_runtime::ledger::ANSWER_MAX;
use steadfast_runtime::relay::HangUp;
use steadfast_runtime::{AgentSpec, CatchUp, MemoryRule, MemoryScope, Overlap, RepeatRule};

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerSection {
    /// Address and port. Only loopback is accepted. Default `127.0.0.1:7420`.
    pub(crate) listen: SocketAddr,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)) }
    }
}

/// `[store]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSection {
    /// The SQLite file. Default `steadfast.db`.
    pub(crate) path: PathBuf,
    /// A PostgreSQL database instead, for one node or many: its URL, or `env:VARIABLE`.
    pub(crate) url: Option<String>,
    /// The schema of the database that holds the tables. Default `steadfast`.
    pub(crate) schema: Option<String>,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { path: PathBuf::from("steadfast.db"), url: None, schema: None }
    }
}

/// `[runtime]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuntimeSection {
    /// Runs executed at once. Default 10.
    pub(crate) concurrency: usize,
    /// Life of the node's lease. Default `15s`.
    #[serde(with = "humantime_serde")]
    pub(crate) lease_ttl: Duration,
    /// How long a shutdown waits for steps under way. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub(crate) drain_timeout: Duration,
    /// Longest time between checkpoints of a run that makes progress. Default `300s`.
    #[serde(with = "humantime_serde")]
    pub(crate) checkpoint_interval: Duration,
    /// `[runtime.caps]`.
    pub(crate) caps: CapsSection,
}

/// `[runtime.caps]`: runs executed at once, over all nodes of the store.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CapsSection {
    /// Of each tenant that `tenants` does not name. Default: no limit of its own.
    pub(crate) per_tenant: Option<usize>,
    /// Of these tenants.
    pub(crate) tenants: BTreeMap<String, usize>,
}

impl Default for RuntimeSection {
    fn default() -> Self {
        let options = steadfast_runtime::RuntimeOptions::default();
        Self {
            concurrency: options.concurrency,
            lease_ttl: options.lease_ttl,
            drain_timeout: options.drain_timeout,
            checkpoint_interval: options.checkpoints.interval,
            caps: CapsSection::default(),
        }
    }
}

/// `[retention]`: for how long a run is kept after it has ended. Default: for ever.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetentionSection {
    /// If it gave an answer.
    #[serde(with = "humantime_serde::option")]
    pub(crate) succeeded: Option<Duration>,
    /// If it failed.
    #[serde(with = "humantime_serde::option")]
    pub(crate) failed: Option<Duration>,
    /// If somebody ended it.
    #[serde(with = "humantime_serde::option")]
    pub(crate) cancelled: Option<Duration>,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// `pretty` (default) or `json`.
    pub(crate) format: LogFormat,
    /// `error`, `warn`, `info` (default), `debug`, `trace`, or a filter such as
    /// `info,steadfast_runtime=debug`.
    pub(crate) level: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// `[gateway]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewaySection {
    /// Whether models are served to programs with the SDKs of OpenAI and Anthropic. Default true.
    pub(crate) enabled: bool,
    /// Whether callers must show an access key: `optional` (default) or `required`.
    keys: KeysWord,
    /// What becomes of a call whose caller has gone: `abort`, `drain` (default) or `finish`.
    hang_up: HangUpWord,
    /// With `drain`: for how long it is read on at most. Default `30s`.
    #[serde(with = "humantime_serde")]
    drain_timeout: Duration,
    /// How long a stream is quiet before a comment shows that it lives; the first one commits the status.
    /// Default `15s`.
    #[serde(with = "humantime_serde")]
    pub(crate) keep_alive: Duration,
    /// Longest request, in bytes. Default 33554432 (32 MiB).
    pub(crate) body_bytes_max: usize,
}

/// Whether callers must show an access key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeysWord {
    Optional,
    Required,
}

/// What becomes of a call whose caller has gone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HangUpWord {
    Abort,
    Drain,
    Finish,
}

impl GatewaySection {
    /// Whether callers must show an access key.
    pub(crate) fn keys_required(&self) -> bool {
        self.keys == KeysWord::Required
    }

    /// What becomes of a call whose caller has gone.
    pub(crate) const fn hang_up(&self) -> HangUp {
        match self.hang_up {
            HangUpWord::Abort => HangUp::Abort,
            HangUpWord::Drain => HangUp::Drain(self.drain_timeout),
            HangUpWord::Finish => HangUp::Finish,
        }
    }
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self {
            enabled: true,
            keys: KeysWord::Optional,
            hang_up: HangUpWord::Drain,
            drain_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            body_bytes_max: 32 * 1024 * 1024,
        }
    }
}

/// `[ledger]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LedgerSection {
    /// Where the days, weeks and months of budgets begin. Default `UTC`.
    pub(crate) timezone: String,
    /// The longest answer, in tokens, of a call that falls under a budget and does not say how long it may
    /// be. Default 8192.
    pub(crate) answer_max: u64,
}

impl Default for LedgerSection {
    fn default() -> Self {
        Self { timezone: "UTC".to_owned(), answer_max: ANSWER_MAX }
    }
}

/// `[chaos]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChaosSection {
    /// Whether policies may inject faults (`policies."DEPENDENCY".chaos`), for drills. Default false.
    pub(crate) allow: bool,
}

/// `[providers.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderSection {
    /// The wire format: `openai` or `anthropic`.
    pub(crate) wire: Wire,
    /// Where the API is; with `/v1` for the OpenAI wire, without for the Anthropic one.
    pub(crate) base_url: Option<String>,
    /// The key, as `env:VARIABLE`. Leave it out for a provider that wants none.
    pub(crate) api_key: Option<String>,
    /// More headers; values may be `env:VARIABLE`.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wire {
    /// Chat completions.
    #[serde(rename = "openai")]
    OpenAi,
    /// Messages.
    Anthropic,
}

/// `[models.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelSection {
    /// A `[providers.NAME]`; or `openai`, `anthropic` (their keys from `OPENAI_API_KEY`,
    /// `ANTHROPIC_API_KEY`, their places from `OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`); or
    /// `simulated`; or `auto`: the first of these three that has a key.
    pub(crate) provider: String,
    /// The model, as the provider names it.
    pub(crate) model: Option<String>,
    /// With `auto`: the model if OpenAI answers.
    pub(crate) openai: Option<String>,
    /// With `auto`: the model if Anthropic answers.
    pub(crate) anthropic: Option<String>,
    /// With `auto` or `simulated`: the script.
    pub(crate) script: Option<PathBuf>,
    /// Asked piece by piece, so that stalls are seen early. Default true.
    #[serde(default = "yes")]
    pub(crate) stream: bool,
    /// Longest answer in tokens. Default: the provider's.
    pub(crate) max_output_tokens: Option<u32>,
    /// Models with the same word here share a quota at their provider: a 429 to one of them quiets all.
    /// Default: none.
    pub(crate) quota: Option<String>,
}

const fn yes() -> bool {
    true
}

/// `[agents.NAME]`. Defaults are the runtime's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentSection {
    /// A configured model.
    pub(crate) model: String,
    /// What the model is told above the conversation.
    pub(crate) instructions: Option<String>,
    /// A file with the instructions, instead of `instructions`.
    pub(crate) instructions_file: Option<PathBuf>,
    /// The tools it may call; `server__*` means all of an MCP server.
    #[serde(default)]
    pub(crate) tools: Vec<String>,
    /// Those of them without which nothing goes on. Default: none.
    #[serde(default)]
    pub(crate) critical_tools: Vec<String>,
    /// Its runs executed at once, over all nodes of the store. Default: no limit of its own.
    pub(crate) max_runs: Option<usize>,
    /// Model answers after which a run stops. Default 100.
    pub(crate) max_iterations: Option<u32>,
    /// Time in which a run is executed; waiting does not count. Default `30m`.
    #[serde(default, with = "humantime_serde::option")]
    pub(crate) turn_timeout: Option<Duration>,
    /// Time from submission to the end. Default `24h`.
    #[serde(default, with = "humantime_serde::option")]
    pub(crate) total_timeout: Option<Duration>,
    /// Longest answer, in tokens. Default: the model's.
    pub(crate) max_output_tokens: Option<u32>,
    /// Sampling temperature. Default: the provider's.
    pub(crate) temperature: Option<f64>,
    /// Tokens beyond which a run counts as costly. Default: found from the runs before.
    pub(crate) tokens_expected: Option<u64>,
    /// When its calls count as repeating. Default: `problems.repeating`.
    pub(crate) repeating: Option<RepeatRule>,
}

impl AgentSection {
    /// The agent that it describes; `instructions` are read already.
    pub(super) fn spec(&self, instructions: String) -> AgentSpec {
        let defaults = AgentSpec::new(&self.model);
        AgentSpec {
            instructions,
            tools: self.tools.clone(),
            critical_tools: self.critical_tools.clone(),
            max_iterations: self.max_iterations.unwrap_or(defaults.max_iterations),
            turn_timeout: self.turn_timeout.unwrap_or(defaults.turn_timeout),
            total_timeout: self.total_timeout.unwrap_or(defaults.total_timeout),
            max_output_tokens: self.max_output_tokens,
            temperature: self.temperature,
            tokens_expected: self.tokens_expected,
            repeating: self.repeating.clone(),
            ..defaults
        }
    }
}

/// `[schedules.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleSection {
    /// Minute, hour, day of the month, month, day of the week.
    pub(crate) cron: String,
    /// Where those are meant. Default `UTC`.
    pub(crate) timezone: Option<String>,
    /// A configured agent.
    pub(crate) agent: String,
    /// What it is to do. Default `Begin.`.
    pub(crate) input: Option<String>,
    /// Whose the runs are. Default `default`.
    pub(crate) tenant: Option<String>,
    /// Higher goes first. Default 0.
    #[serde(default)]
    pub(crate) priority: i32,
    /// Words that people find the runs by.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// What becomes of missed times: `none`, `last` (default) or `all`.
    #[serde(default)]
    pub(crate) catch_up: CatchUp,
    /// What becomes of a firing while the earlier run is not over: `allow` (default) or `skip`.
    #[serde(default)]
    pub(crate) overlap: Overlap,
}

/// `[tools.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ToolSection {
    /// `read_file`, `write_file` and `list_files` below a root.
    Files {
        /// The folder that they cannot leave.
        root: PathBuf,
    },
    /// One command, its arguments filled from the model's; no shell.
    Command {
        /// The program and its arguments; `{name}` is filled by the model.
        command: Vec<String>,
        /// What it does, for the model.
        description: String,
        /// What it does outside. Default `once`.
        #[serde(default = "once")]
        effect: Effect,
        /// Limit of one call. Default `30s`.
        #[serde(default, with = "humantime_serde::option")]
        timeout: Option<Duration>,
        /// Where it runs. Default: the folder of the configuration file.
        cwd: Option<PathBuf>,
        /// Set in its environment.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// Given to it on standard input; `{name}` is filled by the model.
        stdin: Option<String>,
        /// Whether a filled argument may begin with a dash. Default false.
        #[serde(default)]
        allow_dashes: bool,
        /// The JSON schema of the arguments. Default: every `{name}` is a required string.
        schema: Option<serde_json::Value>,
    },
    /// Any of some programs, with arguments that the model chooses; no shell.
    RunCommand {
        /// The programs.
        programs: Vec<String>,
        /// Where they run. Default: the folder of the configuration file.
        cwd: Option<PathBuf>,
        /// Limit of one call. Default `30s`.
        #[serde(default, with = "humantime_serde::option")]
        timeout: Option<Duration>,
        /// What they do outside. Default `once`.
        #[serde(default = "once")]
        effect: Effect,
    },
    /// `remember`, `recall`, `forget` and `list_facts`: facts that outlive the run.
    Memory {
        /// Who shares them: `tenant`, `agent` (default) or `session`.
        #[serde(default)]
        scope: MemoryScope,
        /// Put before the tools' names. Default: nothing.
        #[serde(default)]
        prefix: String,
        /// For how long a fact holds. Default: for ever.
        #[serde(default, with = "humantime_serde::option")]
        keep: Option<Duration>,
        /// Longest value, in bytes. Default 16384.
        value_bytes_max: Option<usize>,
    },
    /// `http_get`, from some hosts only.
    HttpGet {
        /// The hosts: `example.org` or `*.example.org`.
        hosts: Vec<String>,
    },
}

impl ToolSection {
    /// The memory that it describes, if it is one.
    pub(super) fn memory(&self) -> Option<MemoryRule> {
        let Self::Memory { scope, prefix, keep, value_bytes_max } = self else { return None };
        let default = MemoryRule::default();
        Some(MemoryRule {
            scope: *scope,
            prefix: prefix.clone(),
            keep: *keep,
            value_bytes_max: value_bytes_max.unwrap_or(default.value_bytes_max),
        })
    }
}

const fn once() -> Effect {
    Effect::Once
}
