//! The command line: data on standard output, talk on standard error, the exit code tells the result.

mod actions;
mod client;
mod facts;
mod guards;
mod init;
mod keys;
mod local;
mod output;
mod ps;
mod remote;
mod schedules;
mod serve;
mod store;
mod watch;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use steadfast_runtime::{INPUT_BYTES_MAX, RuntimeError};
use steadfast_store::RunId;

use crate::config::{Config, ConfigError, LogFormat};

/// The production runtime for AI agents.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, after_help = EXIT_CODES)]
struct Cli {
    /// The configuration file.
    #[arg(long, short, global = true, env = "STEADFAST_CONFIG")]
    config: Option<PathBuf>,
    /// The server that the commands on runs, facts, keys, schedules and guards talk to.
    #[arg(long, global = true, env = "STEADFAST_SERVER", default_value = "http://127.0.0.1:7420")]
    server: String,
    /// How data is printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such run, agent or key, \
    4 refused, 5 cancelled or timed out, 64 unusable configuration, 141 nobody reads the output.";

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// JSON, one document; where things go on, one object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the runtime and the API.
    Serve {
        /// Listen here instead of `server.listen`; loopback only.
        #[arg(long)]
        listen: Option<std::net::SocketAddr>,
        /// Keep runs in this database instead of in `store.url` or `store.path`: `postgres://...`
        /// without a password, or `env:VARIABLE`.
        #[arg(long)]
        store: Option<String>,
    },
    /// Run an agent here and now, without a server, and print its answer.
    Run {
        /// The agent.
        agent: String,
        /// What it is to do; `-` reads standard input.
        #[arg(long, short, default_value = "Begin.")]
        input: String,
        /// Submitting again with the same key goes on with the same run.
        #[arg(long)]
        key: Option<String>,
    },
    /// Hand a run to the server and print its id.
    Submit {
        /// The agent.
        agent: String,
        /// What it is to do; `-` reads standard input.
        #[arg(long, short, default_value = "Begin.")]
        input: String,
        /// Whose run it is.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// Higher goes first.
        #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
        priority: i32,
        /// Submitting again with the same key gives the same run.
        #[arg(long)]
        key: Option<String>,
        /// The conversation or the like that it belongs to.
        #[arg(long)]
        session: Option<String>,
        /// A word that people find it by; may be given several times.
        #[arg(long = "tag")]
        tags: Vec<String>,
    },
    /// List runs, newest first.
    Ps(ps::Which),
    /// Show one run with its answer.
    Show {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
    },
    /// Follow a run's events until it is over.
    Watch {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
    },
    /// End a run for good.
    Cancel {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a failed or paused run go on, or wake one that waits. A failed one goes on from its last event,
    /// without the result of a call that it failed on.
    Resume {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
    },
    /// List the schedules with their next times and last runs, or submit one's run now.
    Schedules {
        #[command(subcommand)]
        action: Option<ScheduleAction>,
    },
    /// Say something to a run that is code and waits for it; kept until the run listens.
    Signal {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
        /// What it is called; the code waits for it by this name.
        name: String,
        /// What is said, as JSON; `-` reads standard input.
        #[arg(long, default_value = "null", allow_hyphen_values = true)]
        payload: String,
        /// Said again with the same id, it is not said twice.
        #[arg(long)]
        id: Option<String>,
    },
    /// Put a run aside until it is resumed.
    Pause {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
        /// Do not wait for the end of the step under way: interrupt it. Nobody knows then whether a `once`
        /// call took effect.
        #[arg(long)]
        now: bool,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a failed run go on from the step that failed, which is done again; its limits count anew.
    Retry {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
    },
    /// Make a new run with another one's history, and let it go on in its own way.
    Fork(actions::ForkArgs),
    /// Let a run go on from an earlier event, after undoing what came since as far as that is configured.
    Rollback(actions::RollbackArgs),
    /// List the checkpoints that are kept of a run, newest first.
    Checkpoints {
        /// The run.
        #[arg(value_parser = run_id)]
        run: RunId,
    },
    /// Say whether an interrupted call took effect that a run asks about.
    Answer(actions::AnswerArgs),
    /// Show how each model, tool and MCP server is protected and how it is; force a breaker by hand.
    Guards {
        #[command(subcommand)]
        action: Option<GuardAction>,
    },
    /// Look after a store: check it, copy it, export and import it, migrate it, remove old runs.
    Store {
        /// The store: a file, a `postgres://` URL without a password, or `env:VARIABLE` with a URL in it.
        /// Default: the configuration's `store.url` or `store.path`.
        #[arg(long, global = true)]
        store: Option<String>,
        #[command(subcommand)]
        action: store::StoreAction,
    },
    /// Look at what runs have remembered, and change it.
    Facts {
        #[command(flatten)]
        whose: facts::Whose,
        #[command(subcommand)]
        action: facts::FactAction,
    },
    /// Look after the access keys: who may call, for whom, and until when.
    Keys {
        #[command(flatten)]
        place: keys::Where,
        #[command(subcommand)]
        action: keys::KeyAction,
    },
    /// Serve a simulated model provider from a script (OpenAI and Anthropic wire formats).
    #[command(after_help = serve::SCRIPTS)]
    Sim {
        /// The script: a TOML file of steps, and of faults if you like.
        script: PathBuf,
        /// Listen here.
        #[arg(long, default_value = "127.0.0.1:7421")]
        listen: std::net::SocketAddr,
        /// Append every request to this file, as JSON lines.
        #[arg(long)]
        journal: Option<PathBuf>,
    },
    /// Check a configuration file without starting anything but its MCP servers.
    Check {
        /// The file. Default: the one that `--config` names.
        file: Option<PathBuf>,
    },
    /// Lay out an example in a new folder.
    Init {
        /// Which one.
        #[arg(value_enum)]
        example: init::Example,
        /// The folder. Default: the example's name.
        folder: Option<PathBuf>,
    },
    /// Lay out an example, start the runtime with the simulated model, run it, and keep serving.
    Demo {
        /// Which one.
        #[arg(value_enum, default_value_t = init::Example::Report)]
        example: init::Example,
        /// The folder.
        #[arg(long, default_value = "steadfast-demo")]
        folder: PathBuf,
        /// End when the run is over.
        #[arg(long)]
        once: bool,
    },
}

/// What is done with a schedule by hand.
#[derive(Debug, Subcommand)]
enum ScheduleAction {
    /// Submit its run now, beside its times, and print the run's id.
    Run {
        /// The schedule.
        name: String,
    },
}

/// What is done to a breaker by hand.
#[derive(Debug, Subcommand)]
enum GuardAction {
    /// Refuse every call, until `close` or `auto`.
    Open {
        /// The dependency: `model:NAME`, `tool:NAME` or `mcp:SERVER`.
        name: String,
    },
    /// Let every call through whatever comes of it, until `open` or `auto`.
    Close {
        /// The dependency.
        name: String,
    },
    /// Let every call through and tell what the breaker would do by its own judgement.
    Measure {
        /// The dependency.
        name: String,
    },
    /// Give the breaker back to its own judgement.
    Auto {
        /// The dependency.
        name: String,
    },
    /// Show one dependency with the policy in force.
    Show {
        /// The dependency.
        name: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    NotFound,
    Refused,
    Cancelled,
}

impl Exit {
    const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Cancelled => 5,
        }
    }
}

const CONFIG_EXIT: u8 = 64;

/// The reader of standard output is gone: what shells show of a program that SIGPIPE ended.
const UNREAD_EXIT: u8 = 141;

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command_line().get_matches());
    let cli = cli.unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) if error.downcast_ref().is_some_and(output::Unprinted::is_unread) => {
            ExitCode::from(UNREAD_EXIT)
        }
        Err(error) => {
            output::talk(&format!("error: {error:#}"));
            ExitCode::from(code_of(&error))
        }
    }
}

/// Commands that talk to no server.
const WITHOUT_SERVER: [&str; 7] = ["serve", "run", "store", "sim", "check", "init", "demo"];

/// The command line. A command that talks to no server does not offer to name one, but takes the word:
/// scripts give all commands the same options.
fn command_line() -> clap::Command {
    let command = Cli::command();
    let server = command.get_arguments().find(|argument| argument.get_id() == "server").cloned();
    let Some(server) = server.map(|server| server.hide(true)) else { return command };
    WITHOUT_SERVER.iter().fold(command, |command, name| {
        command.mut_subcommand(name, |subcommand| subcommand.arg(server.clone()))
    })
}

/// The exit code that tells what kind of error it is.
fn code_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<ConfigError>().is_some() {
        return CONFIG_EXIT;
    }
    let exit = match error.downcast_ref::<RuntimeError>() {
        Some(
            RuntimeError::UnknownAgent { .. }
            | RuntimeError::UnknownSchedule { .. }
            | RuntimeError::UnknownKey { .. }
            | RuntimeError::UnknownRun { .. },
        ) => Exit::NotFound,
        Some(
            RuntimeError::WrongState { .. }
            | RuntimeError::KeyConflict { .. }
            | RuntimeError::KeyRevoked { .. }
            | RuntimeError::KeyRotated { .. },
        ) => Exit::Refused,
        _ => Exit::Failed,
    };
    exit.code()
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { config, server, output, command } = cli;
    let client = || client::Client::new(&server);
    match command {
        Command::Serve { listen, store } => {
            let config = Config::load(config.as_deref())?;
            serve::serve(config, listen, store).await
        }
        Command::Run { agent, input, key } => {
            let config = Config::load(config.as_deref())?;
            local::run(&config, agent, read_input(input)?, key, output).await
        }
        Command::Submit { agent, input, tenant, priority, key, session, tags } => {
            let input = read_input(input)?;
            let order = remote::Order { agent, input, tenant, priority, key, session, tags };
            remote::submit(&client()?, order, output).await
        }
        Command::Ps(which) => ps::list(&client()?, which, output).await,
        Command::Guards { action } => guards::guards(&client()?, action, output).await,
        Command::Schedules { action } => schedules::schedules(&client()?, action, output).await,
        Command::Facts { whose, action } => facts::facts(&client()?, &whose, action, output).await,
        Command::Keys { place, action } => {
            keys::keys(client, place, config.as_deref(), action, output).await
        }
        Command::Show { run } => remote::show(&client()?, run, output).await,
        Command::Watch { run } => watch::watch(&client()?, run, output).await,
        Command::Cancel { run, reason } => remote::cancel(&client()?, run, reason, output).await,
        Command::Resume { run } => remote::resume(&client()?, run, output).await,
        Command::Pause { run, now, reason } => {
            actions::pause(&client()?, run, now, reason, output).await
        }
        Command::Retry { run } => remote::retry(&client()?, run, output).await,
        Command::Fork(args) => actions::fork(&client()?, args, output).await,
        Command::Rollback(args) => actions::rollback(&client()?, args, output).await,
        Command::Checkpoints { run } => actions::checkpoints(&client()?, run, output).await,
        Command::Answer(args) => actions::answer(&client()?, args, output).await,
        Command::Signal { run, name, payload, id } => {
            let payload = read_input(payload)?;
            remote::signal(&client()?, run, remote::Signal { name, payload, id }, output).await
        }
        Command::Store { store, action } => {
            store::store(store, config.as_deref(), action, output).await
        }
        Command::Sim { script, listen, journal } => serve::sim(&script, listen, journal).await,
        Command::Check { file } => serve::check(file.or(config).as_deref(), output).await,
        Command::Init { example, folder } => init::init(example, folder).await,
        Command::Demo { example, folder, once } => serve::demo(example, &folder, once).await,
    }
}

fn read_input(input: String) -> anyhow::Result<String> {
    if input != "-" {
        return Ok(input);
    }
    // One byte more than is accepted tells what is too large; no input fills the memory.
    let stdin = std::io::Read::take(std::io::stdin(), INPUT_BYTES_MAX as u64 + 1);
    std::io::read_to_string(stdin)
        .context("cannot read the input from standard input: it must be UTF-8 text")
}

fn run_id(text: &str) -> Result<RunId, &'static str> {
    text.parse().map_err(|_| "it is not the id of a run; `steadfast ps` lists them")
}

/// Sends log lines to standard error. What rmcp logs may hold tool contents, so only its errors pass.
fn start_logging(config: &Config) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let level = config.log.level.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(format!("{level},rmcp=error"))
        .map_err(|error| anyhow::anyhow!("`log.level` is `{level}`: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // What reports them panics if standard error is gone, and with it whatever logs.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Pretty => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
