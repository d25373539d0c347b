//! A configured server: started, restarted at need, ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::config::McpServerConfig;
use super::link::{Era, Link};
use super::stderr::StderrRing;
use super::tool::McpTool;
use crate::process::{CommandLine, ProcessOwner};
use crate::tool::Tool;

/// Between two starts of one server; doubles with each failed one, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A server could not be started.
#[derive(Debug, Error)]
pub enum McpError {
    /// It is switched off.
    #[error("MCP server `{0}` is disabled in the configuration")]
    Disabled(String),
    /// It did not come up.
    #[error("MCP server `{server}` did not start: {reason}")]
    Start {
        /// The server.
        server: String,
        /// Why, with its last words on stderr. Values of its environment are struck out.
        reason: String,
    },
}

/// A running server and its tools. To be ended with [`McpServer::shutdown`]; dropping it (and the tools)
/// kills the server's process group at once.
#[derive(Debug)]
pub struct McpServer {
    shared: Arc<Shared>,
    tools: Vec<Arc<McpTool>>,
}

/// What the tools of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) config: McpServerConfig,
    owner: ProcessOwner,
    pub(super) stderr: Arc<StderrRing>,
    tasks: TaskTracker,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    link: Option<Arc<Link>>,
    era: Era,
    started: Instant,
    failures: u32,
    closed: bool,
}

/// There is no connection, and none can be had now. Nothing was sent.
pub(super) struct NoLink {
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl McpServer {
    /// Starts a server, greets it and lists its tools, all within its start-up limit. The greeting is
    /// `server/discover` first and `initialize` if the server does not know it; a server that leaves at the
    /// first is started once more with the second. What it understood is remembered for restarts. If
    /// dropped, the server is killed.
    ///
    /// # Errors
    /// See [`McpError`].
    pub async fn start(
        name: &str,
        config: McpServerConfig,
        owner: ProcessOwner,
    ) -> Result<Self, McpError> {
        if config.disabled {
            return Err(McpError::Disabled(name.to_owned()));
        }
        let shared = Shared {
            name: name.to_owned(),
            stderr: Arc::new(StderrRing::new(config.env.values())),
            config,
            owner,
            tasks: TaskTracker::new(),
            state: Mutex::new(State {
                link: None,
                era: Era::Probe,
                started: Instant::now(),
                failures: 0,
                closed: false,
            }),
        };
        let listed = timeout(shared.config.timeouts.startup, async {
            let link = shared.connect(Era::Probe).await?;
            let tools = link.tools().await?;
            Ok::<_, String>((link, tools))
        })
        .await
        .unwrap_or_else(|_| Err(shared.too_slow()));
        let (link, listed) = listed.map_err(|reason| McpError::Start {
            server: name.to_owned(),
            reason: shared.explain(&reason),
        })?;
        {
            let mut state = shared.state.lock().await;
            state.era = link.era();
            state.link = Some(Arc::new(link));
        }
        let shared = Arc::new(shared);
        let mut names = BTreeSet::new();
        let tools = listed
            .into_iter()
            .map(|tool| McpTool::new(&shared, tool))
            .filter(|tool| {
                let fresh = names.insert(tool.spec().definition.name.clone());
                if !fresh {
                    tracing::warn!(server = name, "an MCP server lists a tool twice");
                }
                fresh
            })
            .map(Arc::new)
            .collect();
        Ok(Self { shared, tools })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its tools, named `server__tool`, as they were at its first start.
    #[must_use]
    pub fn tools(&self) -> Vec<Arc<dyn Tool>> {
        self.tools.iter().map(|tool| Arc::clone(tool) as Arc<dyn Tool>).collect()
    }

    /// Ends it: stdin closed, SIGTERM, SIGKILL. Calls in flight fail, later ones find it closed. When this
    /// returns it has been reaped.
    pub async fn shutdown(&self) {
        let link = {
            let mut state = self.shared.state.lock().await;
            state.closed = true;
            state.link.take()
        };
        if let Some(link) = link {
            link.close().await;
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    /// A live connection; a dead server is started again, but not too often. If dropped, a server that was
    /// being started is killed.
    pub(super) async fn link(&self) -> Result<Arc<Link>, NoLink> {
        let refuse =
            |message: &str, retry_after| NoLink { message: self.explain(message), retry_after };
        let mut state = self.state.lock().await;
        if state.closed {
            return Err(refuse("the server has been shut down", None));
        }
        if let Some(link) = state.link.as_ref().filter(|link| link.is_alive()) {
            return Ok(Arc::clone(link));
        }
        state.link = None;
        let pause = MIN_PAUSE.saturating_mul(1 << state.failures.min(5)).min(MAX_PAUSE);
        let since = state.started.elapsed();
        if since < pause {
            return Err(refuse(
                "the server is dead and was started only just now",
                Some(pause - since),
            ));
        }
        state.started = Instant::now();
        state.failures += 1;
        let era = state.era;
        let opened = timeout(self.config.timeouts.startup, self.connect(era)).await;
        match opened.unwrap_or_else(|_| Err(self.too_slow())) {
            Ok(link) => {
                tracing::info!(server = self.name, "an MCP server was started again");
                let link = Arc::new(link);
                state.failures = 0;
                state.link = Some(Arc::clone(&link));
                Ok(link)
            }
            Err(reason) => {
                // It may have been replaced by a version of the other kind.
                state.era = Era::Probe;
                Err(refuse(&format!("the server did not start again: {reason}"), None))
            }
        }
    }

    async fn connect(&self, era: Era) -> Result<Link, String> {
        let line = CommandLine {
            program: self.config.command.clone(),
            args: self.config.args.clone(),
            env: self.config.env.clone().into_iter().collect(),
            cwd: self.config.cwd.clone(),
        };
        let open = |era| Link::open(&self.owner, &line, era, &self.stderr, &self.tasks);
        match Box::pin(open(era)).await {
            // Some servers of the older kind leave at any first word but `initialize`.
            Err(_) if era == Era::Probe => Box::pin(open(Era::Handshake)).await,
            opened => opened,
        }
    }

    /// A message with the server's last words, without secrets.
    pub(super) fn explain(&self, message: &str) -> String {
        format!("{}{}", self.stderr.redact(message), self.stderr.appendix())
    }

    fn too_slow(&self) -> String {
        format!(
            "it was not ready within {} s; `timeout.startup` sets the limit, and its stdout must carry \
             nothing but the protocol",
            self.config.timeouts.startup.as_secs_f64()
        )
    }
}
