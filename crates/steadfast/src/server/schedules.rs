//! Schedules over HTTP: list them, and submit one's run now.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use steadfast_runtime::{RunView, ScheduleView};

use super::{Problem, ServerState};

pub(super) async fn list(
    State(state): State<ServerState>,
) -> Result<Json<Vec<ScheduleView>>, Problem> {
    Ok(Json(state.runtime.schedules().await?))
}

pub(super) async fn run(
    State(state): State<ServerState>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<RunView>), Problem> {
    let submitted = state.runtime.run_schedule(&name).await?;
    Ok((StatusCode::CREATED, Json(submitted.run)))
}
