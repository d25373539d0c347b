//! The commands that serve: the runtime with its API, the simulated provider, the demo.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use steadfast_providers::process::ProcessOwner;
use steadfast_runtime::SubmitRun;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::init::{self, Example};
use super::remote::exit_of;
use super::{Exit, Output, local, output, start_logging};
use crate::config::{Config, ConfigError, assemble};
use crate::node::{Node, drills};
use crate::reload::Reload;
use crate::server::{self, ServerState};
use crate::simulated::SimulatedProvider;

/// What `sim --help` ends with.
pub(super) const SCRIPTS: &str = "\
A script in short; every key, with its default, is in docs/sim.md:

  name = \"hello\"
  [[step]]                                     # answered first, then what follows
  name = \"look\"
  calls = [{ tool = \"read_file\", arguments = { path = \"a.txt\" } }]
  next = [{ when = \"nothing\", goto = \"end\" }]  # over the results; the first that fits decides
  [[step]]                                     # text without calls ends the turn
  name = \"end\"
  text = \"It says: {{result.look}}\"
  [[fault]]                                    # or `every = 5`, or `step = \"look\"`
  request = 2
  kind = \"status\"
  code = 529";

pub(super) async fn serve(
    mut config: Config,
    listen: Option<SocketAddr>,
    store: Option<String>,
) -> anyhow::Result<Exit> {
    start_logging(&config)?;
    if store.is_some() {
        config.store.url = store;
    }
    let serving = Serving::start(&config, listen).await?;
    // Whoever reads the banner may ask it to end at once.
    let mut signals = Signals::listen()?;
    output::talk(&serving.banner());
    signals.next().await;
    serving.stop().await
}

/// How long a node that has stopped waits for clients to send the rest of a request or to read their answers.
/// There may be some that never do.
const CLIENTS_GRACE: Duration = Duration::from_secs(5);

/// A node with its listener.
struct Serving {
    node: Node,
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Serving {
    async fn start(config: &Config, listen: Option<SocketAddr>) -> anyhow::Result<Self> {
        let listen = listen.unwrap_or(config.server.listen);
        if !listen.ip().is_loopback() {
            let problem = format!(
                "it is {listen}: only loopback addresses are served, because there is \
                 no authentication yet; put a proxy that authenticates in front"
            );
            let place = "server.listen".to_owned();
            return Err(ConfigError::Unusable { place, problem }.into());
        }
        // The port first: a second server must fail before it touches the store.
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen}: choose another with `--listen`")
        })?;
        let address = listener.local_addr()?;
        let node = Node::start(config, Some(address)).await?;
        let stop = CancellationToken::new();
        let reload = Reload::new(config, node.runtime.clone());
        let problem = reload.as_ref().map(Reload::problem).unwrap_or_default();
        let state =
            ServerState::new(node.runtime.clone(), node.simulated(), problem, config.gateway);
        let router = server::router(state);
        let (stopped, token) = (stop.clone().cancelled_owned(), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "owned here; `stop` waits for it")]
        let task = tokio::spawn(async move {
            let reloads = async {
                match reload {
                    Some(reload) => reload.run(token).await,
                    None => Ok(()),
                }
            };
            let served = axum::serve(listener, router).with_graceful_shutdown(stopped);
            tokio::try_join!(served.into_future(), reloads).map(drop)
        });
        Ok(Self { node, address, stop, task })
    }

    fn banner(&self) -> String {
        let label = if self.node.simulated() { "; some models are SIMULATED" } else { "" };
        let drills = drills(self.node.runtime.catalog()).into_iter();
        let drills: String = drills.map(|drill| format!("\n  {drill}")).collect();
        format!(
            "steadfast {} on http://{}\n  console   http://{}/console\n  API       \
             http://{}/api/v1\n  store     {}{label}{drills}",
            env!("CARGO_PKG_VERSION"),
            self.address,
            self.address,
            self.address,
            self.node.store()
        )
    }

    async fn stop(self) -> anyhow::Result<Exit> {
        output::talk("draining: waiting for steps under way; a second signal ends at once");
        self.node.runtime.drain();
        self.stop.cancel();
        let stopped = async {
            let graceful = self.node.stop().await?;
            match tokio::time::timeout(CLIENTS_GRACE, self.task).await {
                Ok(served) => served??,
                Err(_) => output::talk("closed connections of clients that were too slow"),
            }
            anyhow::Ok(graceful)
        };
        let graceful = tokio::select! {
            graceful = stopped => graceful?,
            // What is cut off is settled by the next start, as after a crash.
            signal = wait_for_signal() => { signal?; false }
        };
        let how =
            if graceful { "stopped; every step had ended" } else { "stopped; steps were cut off" };
        output::talk(how);
        Ok(Exit::Done)
    }
}

/// What asks the program to end: SIGTERM and Ctrl-C, from the moment of [`Signals::listen`] on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) async fn wait_for_signal() -> anyhow::Result<()> {
    Signals::listen()?.next().await;
    Ok(())
}

pub(super) async fn sim(
    script: &Path,
    listen: SocketAddr,
    journal: Option<PathBuf>,
) -> anyhow::Result<Exit> {
    if !listen.ip().is_loopback() {
        bail!("`--listen` is {listen}: the simulated provider serves loopback addresses only");
    }
    let provider = SimulatedProvider::start(script, Some(listen), journal).await?;
    let mut signals = Signals::listen()?;
    output::talk(&format!(
        "SIMULATED provider `{}`: OpenAI base URL http://{}/v1, Anthropic base URL http://{}",
        provider.name(),
        provider.address(),
        provider.address()
    ));
    signals.next().await;
    provider.stop().await;
    Ok(Exit::Done)
}

pub(super) async fn check(file: Option<&Path>, format: Output) -> anyhow::Result<Exit> {
    let config = Config::load(file)?;
    let owner = ProcessOwner::new(&format!("check-{}", std::process::id()));
    let assembly = assemble(&config, &owner).await?;
    let agents = assembly.catalog.agent_names();
    let guards: Vec<String> =
        assembly.catalog.guards().map(|guard| guard.name().to_owned()).collect();
    assembly.services.shutdown().await;
    for warning in config.price_table()?.1 {
        output::talk(&format!("warning: {warning}"));
    }
    match format {
        Output::Json => output::json(&json!({ "ok": true, "agents": agents, "guards": guards }))?,
        Output::Text => output::data(&format!(
            "ok: agents {}; dependencies {}",
            agents.join(", "),
            guards.join(", ")
        ))?,
    }
    Ok(Exit::Done)
}

pub(super) async fn demo(example: Example, folder: &Path, once: bool) -> anyhow::Result<Exit> {
    if !folder.join(crate::config::DEFAULT_FILE).exists() {
        init::lay_out(example, folder).await?;
    }
    let config = Config::load(Some(&folder.join(crate::config::DEFAULT_FILE)))?;
    let serving = Serving::start(&config, None).await?;
    output::talk(&serving.banner());
    let runtime = serving.node.runtime.clone();
    let submitted = runtime.submit(SubmitRun::new(example.agent(), example.input())).await?;
    let id = submitted.run.id;
    output::talk(&format!("  run       http://{}/console/runs/{id}\n", serving.address));
    let view = local::follow(&runtime, &submitted.run, Output::Text).await?;
    info!(run = %id, state = view.state, "demo run over");
    output::talk(&format!("\n{}: {}", view.state, view.ending.clone().unwrap_or_default()));
    output::talk(&format!("look at {}", example.result(folder)));
    if !once {
        output::talk("still serving; end with Ctrl-C");
        wait_for_signal().await?;
    }
    serving.stop().await?;
    Ok(exit_of(&view))
}

#[cfg(test)]
mod tests {
    use super::SCRIPTS;

    #[test]
    fn what_help_shows_of_a_script_is_one() {
        let (_, example) = SCRIPTS.split_once("\n\n").unwrap();
        let script = steadfast_providers::sim::Script::parse(example).unwrap();
        assert_eq!((script.step_names().len(), script.faults().len()), (2, 1));
    }
}
