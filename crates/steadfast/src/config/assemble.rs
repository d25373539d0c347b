//! From the configuration to what a runtime needs: models, tools, agents, each checked and started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use steadfast_providers::anthropic::MessagesModel;
use steadfast_providers::builtin::{
    CommandOptions, CommandTool, FileLimits, HttpGet, HttpGetOptions, ListFiles, ReadFile,
    ReportProgress, Root, RunCommand, RunCommandOptions, WriteFile,
};
use steadfast_providers::http::{Client, ModelOptions, OptionsError};
use steadfast_providers::mcp::{McpServer, McpServerConfig, parse_mcp_servers};
use steadfast_providers::model::Model;
use steadfast_providers::openai::ChatModel;
use steadfast_providers::process::ProcessOwner;
use steadfast_providers::tool::Tool;
use steadfast_providers::wire::{PoolLimits, Upstreams};
use steadfast_runtime::{Catalog, CatalogBuilder, RuntimeError};

use tracing::warn;

use super::deployments::deployment;
use super::place::nearest;
use super::sections::Wire;
use super::{Config, ConfigError, ModelSection, ToolSection, environment, secret};
use crate::simulated::SimulatedProvider;

/// What a configuration describes, ready to be used.
pub(crate) struct Assembly {
    pub(crate) catalog: Catalog,
    pub(crate) services: Services,
}

/// What runs beside the runtime, is used by it, and is ended after it.
pub(crate) struct Services {
    pub(crate) mcp_servers: Vec<McpServer>,
    pub(crate) simulated: Vec<SimulatedProvider>,
}

impl Services {
    /// Ends the servers and their child processes.
    pub(crate) async fn shutdown(self) {
        for server in &self.mcp_servers {
            server.shutdown().await;
        }
        for provider in self.simulated {
            provider.stop().await;
        }
    }
}

/// Builds everything that the configuration names. Child processes are marked as `owner`'s.
pub(crate) async fn assemble(
    config: &Config,
    owner: &ProcessOwner,
) -> Result<Assembly, ConfigError> {
    let assembled = async {
        for warning in config.price_table()?.1 {
            warn!("{warning}");
        }
        let mut parts = Parts::gather(config, owner).await?;
        let (builder, mcp_servers) = add_mcp_servers(config, owner, parts.builder).await?;
        parts.builder = builder;
        parts.build(config, mcp_servers)
    };
    assembled.await.map_err(|error| config.locate(error))
}

/// Finds what is wrong with a configuration without starting a child process or opening the store, so
/// that a wrong one leaves nothing behind. What only an MCP server can tell is found by [`assemble`].
pub(crate) async fn verify(config: &Config) -> Result<(), ConfigError> {
    let verified = async {
        config.store_place()?;
        let owner = ProcessOwner::new(&format!("verify-{}", std::process::id()));
        let parts = Parts::gather(config, &owner).await?;
        let servers = mcp_configs(config)?;
        let services = if servers.values().all(|server| server.disabled) {
            parts.build(config, Vec::new())?.services
        } else {
            config.agent_specs()?;
            Services { mcp_servers: Vec::new(), simulated: parts.simulated }
        };
        services.shutdown().await;
        Ok(())
    };
    verified.await.map_err(|error| config.locate(error))
}

/// Everything but the MCP servers.
struct Parts {
    builder: CatalogBuilder,
    simulated: Vec<SimulatedProvider>,
}

impl Parts {
    async fn gather(config: &Config, owner: &ProcessOwner) -> Result<Self, ConfigError> {
        let client = Client::new().map_err(|error| unfit(error.to_string()))?;
        let upstreams = Upstreams::new(PoolLimits::default());
        let upstreams = upstreams.map_err(|error| unfit(error.to_string()))?;
        let mut simulated = Vec::new();
        let mut builder = Catalog::builder();
        for (name, section) in &config.models {
            let place = format!("models.{name}");
            let (options, wire) = match choose(config, name, section)? {
                Choice::Real { options, wire } => (options, wire),
                Choice::Simulated { script } => {
                    let provider =
                        SimulatedProvider::start(&script, None, None).await.map_err(|error| {
                            unusable(&format!("{place}.script"), format!("{error:#}"))
                        })?;
                    let options = provider.model_options();
                    simulated.push(provider);
                    (options, Wire::OpenAi)
                }
            };
            let unused = |error: OptionsError| unusable(&place, error.to_string());
            let deployment = deployment(&upstreams, wire, &options, section).map_err(unused)?;
            let model = client_for(&client, wire, options, section).map_err(unused)?;
            builder = builder.model(name, model, section.stream).deployment(name, deployment);
            if let Some(quota) = &section.quota {
                builder = builder.quota(name, quota);
            }
        }
        builder = add_tools(config, owner, builder)?;
        Ok(Self { builder, simulated })
    }

    fn build(self, config: &Config, mcp_servers: Vec<McpServer>) -> Result<Assembly, ConfigError> {
        let mut builder = self.builder.policies(config.policy_rules()?);
        for (tool, rule) in &config.idempotency {
            builder = builder.idempotent(tool, rule.clone());
        }
        for (dependency, rule) in &config.fallback {
            builder = builder.fallback(dependency, rule.clone());
        }
        for (tool, rule) in &config.expensive {
            builder = builder.expensive(tool, rule.clone());
        }
        for (tool, rule) in &config.compensate {
            builder = builder.compensate(tool, rule.clone());
        }
        for (tool, rule) in &config.unknown {
            builder = builder.unknown(tool, rule.clone());
        }
        builder = builder.on_alert(|alert| warn!("{alert}"));
        for (name, spec) in config.agent_specs()? {
            builder = builder.agent(name, spec);
        }
        let catalog = builder.build().map_err(|error| match error {
            RuntimeError::Misconfigured { place: Some(place), problem } => {
                ConfigError::Unusable { place, problem }
            }
            error => unfit(error.to_string()),
        })?;
        check_policies(config, &catalog)?;
        let services = Services { mcp_servers, simulated: self.simulated };
        Ok(Assembly { catalog, services })
    }
}

/// A policy for what is not there would protect nothing, and nobody would know.
pub(crate) fn check_policies(config: &Config, catalog: &Catalog) -> Result<(), ConfigError> {
    let servers = mcp_configs(config)?;
    let mut known: Vec<String> = servers.keys().map(|name| format!("mcp:{name}")).collect();
    known.extend(catalog.guards().map(|guard| guard.name().to_owned()));
    let mut single =
        config.policies.keys().filter(|name| *name != "default" && !name.ends_with(":*"));
    let Some(unknown) = single.find(|dependency| !known.contains(dependency)) else {
        return Ok(());
    };
    let meant = nearest(unknown, known.iter().map(String::as_str));
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    let problem = format!("there is no such dependency; there are: {}{meant}", known.join(", "));
    Err(unusable(&format!("policies.{unknown}"), problem))
}

fn unusable(place: &str, problem: String) -> ConfigError {
    ConfigError::Unusable { place: place.to_owned(), problem }
}

const fn unfit(problem: String) -> ConfigError {
    ConfigError::Unfit { problem }
}

/// Who answers for a model.
enum Choice {
    Real { options: ModelOptions, wire: Wire },
    Simulated { script: PathBuf },
}

fn choose(config: &Config, name: &str, section: &ModelSection) -> Result<Choice, ConfigError> {
    let place = format!("models.{name}");
    let simulated = || match &section.script {
        Some(script) => Ok(Choice::Simulated { script: config.resolve(script) }),
        None => Err(unusable(&place, "a simulated model needs a `script`".to_owned())),
    };
    match section.provider.as_str() {
        "auto" => {
            if environment("OPENAI_API_KEY").is_some() && section.openai.is_some() {
                return well_known(&place, Wire::OpenAi, section.openai.as_ref());
            }
            if environment("ANTHROPIC_API_KEY").is_some() && section.anthropic.is_some() {
                return well_known(&place, Wire::Anthropic, section.anthropic.as_ref());
            }
            simulated()
        }
        "simulated" => simulated(),
        "openai" if !config.providers.contains_key("openai") => {
            well_known(&place, Wire::OpenAi, section.model.as_ref())
        }
        "anthropic" if !config.providers.contains_key("anthropic") => {
            well_known(&place, Wire::Anthropic, section.model.as_ref())
        }
        provider => configured(config, &place, provider, section),
    }
}

/// OpenAI or Anthropic, found by their SDKs' own variables.
fn well_known(place: &str, wire: Wire, model: Option<&String>) -> Result<Choice, ConfigError> {
    let (provider, key, base, default) = match wire {
        Wire::OpenAi => {
            ("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1")
        }
        Wire::Anthropic => {
            ("anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "https://api.anthropic.com")
        }
    };
    let model = model.ok_or_else(|| unusable(place, "`model` is missing".to_owned()))?;
    let options = ModelOptions {
        provider: provider.to_owned(),
        model: model.clone(),
        base_url: environment(base).unwrap_or_else(|| default.to_owned()),
        api_key: Some(secret(place, &format!("env:{key}"))?),
        simulated: false,
        max_output_tokens: None,
        headers: Vec::new(),
    };
    Ok(Choice::Real { options, wire })
}

fn configured(
    config: &Config,
    place: &str,
    provider: &str,
    section: &ModelSection,
) -> Result<Choice, ConfigError> {
    let Some(found) = config.providers.get(provider) else {
        let known: Vec<_> = config.providers.keys().map(String::as_str).collect();
        let problem = format!(
            "it is `{provider}`, which is none of `auto`, `simulated`, `openai`, `anthropic` and the \
             configured providers ({})",
            known.join(", ")
        );
        return Err(unusable(&format!("{place}.provider"), problem));
    };
    let at = format!("providers.{provider}");
    let base_url = found.base_url.clone();
    let base_url = base_url.ok_or_else(|| unusable(&at, "`base_url` is missing".to_owned()))?;
    let model = section.model.clone();
    let model = model.ok_or_else(|| unusable(place, "`model` is missing".to_owned()))?;
    let key = found.api_key.as_ref().map(|key| secret(&format!("{at}.api_key"), key));
    let mut headers = Vec::new();
    for (name, value) in &found.headers {
        let value = match value.strip_prefix("env:") {
            Some(_) => secret(&format!("{at}.headers.{name}"), value)?,
            None => value.clone().into(),
        };
        headers.push((name.clone(), value));
    }
    let options = ModelOptions {
        provider: provider.to_owned(),
        model,
        base_url,
        api_key: key.transpose()?,
        simulated: false,
        max_output_tokens: None,
        headers,
    };
    Ok(Choice::Real { options, wire: found.wire })
}

fn client_for(
    client: &Client,
    wire: Wire,
    mut options: ModelOptions,
    section: &ModelSection,
) -> Result<Arc<dyn Model>, OptionsError> {
    options.max_output_tokens = section.max_output_tokens;
    Ok(match wire {
        Wire::OpenAi => Arc::new(ChatModel::new(client, options)?),
        Wire::Anthropic => Arc::new(MessagesModel::new(client, options)?),
    })
}

fn add_tools(
    config: &Config,
    owner: &ProcessOwner,
    builder: CatalogBuilder,
) -> Result<CatalogBuilder, ConfigError> {
    let mut builder = builder.tool(Arc::new(ReportProgress::new()));
    for (name, section) in &config.tools {
        if let Some(rule) = section.memory() {
            builder = builder.memory(rule);
        }
        for tool in tools_of(config, owner, name, section)? {
            builder = builder.tool(tool);
        }
    }
    Ok(builder)
}

fn tools_of(
    config: &Config,
    owner: &ProcessOwner,
    name: &str,
    section: &ToolSection,
) -> Result<Vec<Arc<dyn Tool>>, ConfigError> {
    let wrong = |problem: String| unusable(&format!("tools.{name}"), problem);
    let folder = |path: &Option<PathBuf>| {
        Some(path.as_ref().map_or_else(|| config.base.clone(), |path| config.resolve(path)))
    };
    Ok(match section {
        ToolSection::Files { root } => {
            let path = config.resolve(root);
            let root = Root::open(&path)
                .map_err(|error| wrong(format!("cannot open root {}: {error}", path.display())))?;
            let limits = FileLimits::default();
            vec![
                Arc::new(ReadFile::new(root.clone(), limits)),
                Arc::new(WriteFile::new(root.clone(), limits)),
                Arc::new(ListFiles::new(root, limits)),
            ]
        }
        ToolSection::Command {
            command,
            description,
            effect,
            timeout,
            cwd,
            env,
            stdin,
            allow_dashes,
            schema,
        } => {
            let defaults = CommandOptions::new(name, description, &[]);
            let options = CommandOptions {
                argv: command.clone(),
                schema: schema.clone(),
                effect: *effect,
                timeout: timeout.unwrap_or(defaults.timeout),
                cwd: folder(cwd),
                env: env.clone().into_iter().collect(),
                stdin: stdin.clone(),
                allow_dashes: *allow_dashes,
                ..defaults
            };
            let tool = CommandTool::new(options, owner.clone());
            vec![Arc::new(tool.map_err(|error| wrong(error.to_string()))?)]
        }
        ToolSection::RunCommand { programs, cwd, timeout, effect } => {
            let defaults = RunCommandOptions::new(&[]);
            let options = RunCommandOptions {
                programs: programs.clone(),
                cwd: folder(cwd),
                timeout: timeout.unwrap_or(defaults.timeout),
                effect: *effect,
                ..defaults
            };
            vec![Arc::new(RunCommand::new(options, owner.clone()))]
        }
        // The runtime makes these itself.
        ToolSection::Memory { .. } => Vec::new(),
        ToolSection::HttpGet { hosts } => {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let tool = HttpGet::new(&HttpGetOptions::new(&hosts));
            vec![Arc::new(tool.map_err(|error| wrong(error.to_string()))?)]
        }
    })
}

async fn add_mcp_servers(
    config: &Config,
    owner: &ProcessOwner,
    mut builder: CatalogBuilder,
) -> Result<(CatalogBuilder, Vec<McpServer>), ConfigError> {
    let mut servers = Vec::new();
    for (name, server) in mcp_configs(config)? {
        if server.disabled {
            continue;
        }
        let started = McpServer::start(&name, server, owner.clone())
            .await
            .map_err(|error| not_started(config, &name, &error.to_string()))?;
        for tool in started.tools() {
            builder = builder.tool(tool);
        }
        servers.push(started);
    }
    Ok((builder, servers))
}

/// A server may stand in this file or in the one that `mcp_config` names.
fn not_started(config: &Config, name: &str, problem: &str) -> ConfigError {
    match &config.mcp_config {
        Some(file) if !config.mcp_servers.contains_key(name) => ConfigError::Invalid {
            path: config.resolve(file),
            problem: format!("`mcpServers.{name}`: {problem}"),
        },
        _ => unusable(&format!("mcp_servers.{name}"), problem.to_owned()),
    }
}

fn mcp_configs(config: &Config) -> Result<BTreeMap<String, McpServerConfig>, ConfigError> {
    let mut all = BTreeMap::new();
    if let Some(file) = &config.mcp_config {
        let path = config.resolve(file);
        let text = std::fs::read_to_string(&path).map_err(|problem| ConfigError::Unreadable {
            path: path.clone(),
            problem,
            hint: "; it is named by `mcp_config`",
        })?;
        let parsed = parse_mcp_servers(&text);
        let parsed = parsed.map_err(|e| ConfigError::Invalid { path, problem: e.to_string() })?;
        all.extend(parsed);
    }
    let json = serde_json::to_string(&config.mcp_servers)
        .map_err(|error| unusable("mcp_servers", error.to_string()))?;
    all.extend(parse_mcp_servers(&json).map_err(|error| {
        unusable(&error.place.replacen("mcpServers", "mcp_servers", 1), error.reason)
    })?);
    for server in all.values_mut() {
        server.cwd =
            Some(server.cwd.take().map_or_else(|| config.base.clone(), |cwd| config.resolve(&cwd)));
    }
    Ok(all)
}
