//! One running server process and the connection to it.

use std::sync::Arc;
use std::time::Duration;

use rmcp::ClientHandler;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ErrorCode, ErrorData, Implementation, PaginatedRequestParams,
    ProtocolVersion, Tool,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, Peer, RequestContext, RoleClient, RunningService,
    serve_client_with_lifecycle_and_ct,
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stderr::StderrRing;
use crate::process::{CommandLine, Grace, OwnedChild, ProcessGroup, ProcessOwner};

/// How long the pipes of a dead server are read on. Only a process outside its group can hold them open.
const DRAIN: Duration = Duration::from_millis(500);

const MAX_PAGES: usize = 100;
const MAX_TOOLS: usize = 1024;

/// How the two sides greet each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// Not known yet: `server/discover` first, `initialize` if the server does not know it.
    Probe,
    /// `initialize` (up to 2025-11-25).
    Handshake,
    /// `server/discover` (2026-07-28).
    Discover,
}

/// Dropping it kills the server's group at once.
pub(super) struct Link {
    pub(super) peer: Peer<RoleClient>,
    /// Held because dropping it closes the connection.
    _service: RunningService<RoleClient, Client>,
    group: Arc<ProcessGroup>,
    /// Cancelled to ask for the end of the server.
    stop: CancellationToken,
    /// Cancelled when it has ended.
    ended: CancellationToken,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("alive", &self.is_alive()).finish_non_exhaustive()
    }
}

/// Offers nothing, refuses everything.
#[derive(Debug)]
pub(super) struct Client;

#[expect(deprecated, reason = "servers of the 2025 era still ask for roots, and must be answered")]
impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::new(
            ClientCapabilities::default(),
            Implementation::new("steadfast", env!("CARGO_PKG_VERSION")),
        );
        info.protocol_version = ProtocolVersion::LATEST_WITH_INITIALIZE;
        info
    }

    async fn list_roots(
        &self,
        _context: RequestContext<RoleClient>,
    ) -> Result<rmcp::model::ListRootsResult, ErrorData> {
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "roots are not offered", None))
    }
}

impl Link {
    /// Starts the server and greets it. If dropped, the server is killed.
    pub(super) async fn open(
        owner: &ProcessOwner,
        line: &CommandLine,
        era: Era,
        stderr: &Arc<StderrRing>,
        tasks: &TaskTracker,
    ) -> Result<Self, String> {
        let mut child = owner.spawn(line).map_err(|error| error.to_string())?;
        let (Some(stdin), Some(stdout), Some(words)) =
            (child.take_stdin(), child.take_stdout(), child.take_stderr())
        else {
            return Err("a pipe of the child is missing".to_owned());
        };
        let ended = CancellationToken::new();
        let listener = Arc::clone(stderr);
        // Whatever holds the pipe, the reader ends with the server; a dropped start-up ends it too.
        let unlisten = ended.clone();
        let listening = tasks.spawn(async move {
            tokio::select! {
                () = listener.fill(words) => {}
                () = unlisten.cancelled() => {}
            }
        });
        let quiet = ended.clone().drop_guard();
        let connection = CancellationToken::new();
        let greeting = serve_client_with_lifecycle_and_ct(
            Client,
            (stdout, stdin),
            lifecycle(era),
            connection.clone(),
        );
        let service = match Box::pin(greeting).await {
            Ok(service) => service,
            Err(error) => {
                drop(child);
                // Its last words tell more than our error does, and may still be in the pipe.
                if timeout(DRAIN, listening).await.is_err() {
                    tracing::debug!("a process outside the group holds stderr of an MCP server");
                }
                return Err(describe(&error));
            }
        };
        quiet.disarm();
        let stop = CancellationToken::new();
        let group = child.group();
        tasks.spawn(supervise(child, stop.clone(), connection, ended.clone()));
        Ok(Self { peer: service.peer().clone(), _service: service, group, stop, ended })
    }

    /// Which greeting the server understood.
    pub(super) fn era(&self) -> Era {
        match self.peer.peer_info() {
            Some(info) if info.protocol_version.has_initialize() => Era::Handshake,
            Some(_) => Era::Discover,
            None => Era::Probe,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled() && !self.peer.is_transport_closed()
    }

    /// All tools of the server.
    pub(super) async fn tools(&self) -> Result<Vec<Tool>, String> {
        let mut tools = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let params = PaginatedRequestParams::default().with_cursor(cursor.take());
            let page = self.peer.list_tools(Some(params)).await;
            let page = page.map_err(|error| format!("cannot list its tools: {error}"))?;
            tools.extend(page.tools);
            if tools.len() > MAX_TOOLS {
                return Err(format!("it lists more than {MAX_TOOLS} tools"));
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(tools);
            }
        }
        Err(format!("its list of tools has more than {MAX_PAGES} pages"))
    }

    /// Ends the server in the long way; returns when it has been reaped.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
        // The supervisor reaps what was killed.
        self.stop.cancel();
    }
}

/// Owns the child: ends it when asked to, and closes the connection when it ends by itself.
async fn supervise(
    mut child: OwnedChild,
    stop: CancellationToken,
    connection: CancellationToken,
    ended: CancellationToken,
) {
    let _ended = ended.drop_guard();
    tokio::select! {
        status = child.wait() => {
            match status {
                Ok(status) => tracing::debug!(%status, "an MCP server ended"),
                Err(error) => tracing::warn!(%error, "an MCP server is lost"),
            }
            // A last answer may still be in the pipe. Its end is the connection's end; the timer is for a
            // process outside the group that holds the pipe.
            tokio::select! {
                () = sleep(DRAIN) => {}
                () = stop.cancelled() => {}
            }
            connection.cancel();
        }
        () = stop.cancelled() => {
            // Closes the server's stdin.
            connection.cancel();
            if let Err(error) = child.end(Grace::default()).await {
                tracing::warn!(%error, "an MCP server could not be ended");
            }
        }
    }
}

fn lifecycle(era: Era) -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    match era {
        Era::Probe => ClientLifecycleMode::Auto {
            preferred_versions,
            legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
        },
        Era::Handshake => ClientLifecycleMode::Initialize,
        Era::Discover => ClientLifecycleMode::Discover { preferred_versions },
    }
}

/// In our words: rmcp's own print whole messages.
fn describe(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::ConnectionClosed(_) => {
            "it ended, or closed its stdout, before it was ready".to_owned()
        }
        ClientInitializeError::TransportError { error, .. } => {
            // Its own text names types of the library.
            format!("it ended, or closed its pipes, before it was ready: {}", error.error)
        }
        ClientInitializeError::JsonRpcError(error) => {
            format!("it refused the greeting: {} (code {})", error.message, error.code.0)
        }
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => describe(fallback),
        ClientInitializeError::NoCompatibleProtocolVersion { server_supported, .. } => {
            let versions: Vec<String> = server_supported.iter().map(ToString::to_string).collect();
            format!("it speaks no protocol version that we do, only: {}", versions.join(", "))
        }
        _ => "its answer to the greeting is not what the protocol says".to_owned(),
    }
}
