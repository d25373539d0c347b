//! Whether the process lives, and whether it takes work.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{Problem, ServerState};

/// 200 for as long as the process can answer at all.
pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// 200 while new runs are taken, 503 from the moment the node drains its store takes no writes, or the
/// store has been away for longer than the node's lease.
pub(super) async fn ready(State(state): State<ServerState>) -> Response {
    match state.runtime.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}
