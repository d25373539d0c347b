//! Whether the process lives, and whether it takes work.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use steadfast_runtime::RuntimeError;

use super::{Problem, ServerState};

/// 200 for as long as the process can answer at all.
pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// 200 while new runs are taken, 503 from the moment the node drains.
pub(super) async fn ready(State(state): State<ServerState>) -> Response {
    if state.runtime.ready() {
        "ready\n".into_response()
    } else {
        Problem::from(RuntimeError::ShuttingDown).into_response()
    }
}
