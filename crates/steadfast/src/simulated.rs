//! Opens a listener for the simulated provider and serves it until stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use steadfast_providers::http::ModelOptions;
use steadfast_providers::sim::{Script, Sim, SimOptions};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A simulated provider that is being served.
pub(crate) struct SimulatedProvider {
    address: SocketAddr,
    name: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl SimulatedProvider {
    /// Loads a script and serves it: on `listen`, or on a free loopback port. With a journal, every
    /// request is appended to that file.
    pub(crate) async fn start(
        script: &Path,
        listen: Option<SocketAddr>,
        journal: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(script)
            .with_context(|| format!("cannot read the script {}", script.display()))?;
        let parsed = Script::parse(&text).with_context(|| format!("{}", script.display()))?;
        let name = parsed.name().to_owned();
        let sim = Sim::new(parsed, SimOptions { journal })?;
        let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen} for the simulated provider: choose another address")
        })?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let router = sim.router();
        #[expect(clippy::disallowed_methods, reason = "owned here; `stop` waits for it")]
        let task = tokio::spawn(async move {
            // A stalled answer would hold a graceful shutdown for ever: ending the task ends it.
            let serving = axum::serve(listener, router).into_future();
            tokio::select! {
                result = serving => if let Err(error) = result {
                    tracing::error!(%error, "the simulated provider ended");
                },
                () = stopped => {}
            }
        });
        Ok(Self { address, name, stop, task })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The script's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How a client reaches it.
    pub(crate) fn model_options(&self) -> ModelOptions {
        ModelOptions {
            provider: "simulated".to_owned(),
            model: self.name.clone(),
            base_url: format!("http://{}/v1", self.address),
            api_key: None,
            simulated: true,
            max_output_tokens: None,
            headers: Vec::new(),
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the simulated provider's task failed");
        }
    }
}
