//! Signals over HTTP: what is said to a run.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use steadfast_runtime::{RunView, SignalRun};

use super::extract::{JsonBody, RunIdPath};
use super::{Problem, ServerState};

/// The body of a signal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalBody {
    name: String,
    #[serde(default)]
    payload: Value,
    id: Option<String>,
}

/// 201 if it is new, 200 if it was said before with this id.
pub(super) async fn signal(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    JsonBody(body): JsonBody<SignalBody>,
) -> Result<(StatusCode, Json<RunView>), Problem> {
    let SignalBody { name, payload, id } = body;
    let by = "api".to_owned();
    let is_new = state.runtime.signal(SignalRun { run, name, payload, by, id }).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(state.runtime.run(run).await?)))
}
