//! What people do with a run that has gone wrong, over HTTP: pause, retry, fork, roll back, answer.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use steadfast_runtime::event::{Changes, LeftCall, UndoCall, Verdict};
use steadfast_runtime::{
    AnswerCall, CheckpointView, ForkRun, PauseRun, Pausing, RetryRun, RollbackRun, RunView,
};

use super::extract::{JsonBody, OptionalJsonBody, RunIdPath};
use super::{Problem, ServerState};

/// Who asks, as events tell it.
const BY: &str = "api";

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PauseBody {
    reason: Option<String>,
    now: bool,
}

/// A run, and whether it is paused or will be.
#[derive(Serialize)]
pub(super) struct PausedRun {
    #[serde(flatten)]
    run: RunView,
    /// `false` if it pauses once its step under way has ended.
    paused: bool,
}

pub(super) async fn pause(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(body): OptionalJsonBody<PauseBody>,
) -> Result<Json<PausedRun>, Problem> {
    let PauseBody { reason, now } = body;
    let command = PauseRun { run, by: BY.to_owned(), reason, now };
    let paused = state.runtime.pause(command).await? == Pausing::Done;
    Ok(Json(PausedRun { run: state.runtime.run(run).await?, paused }))
}

/// The body of a retry: nothing can be said.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {}

pub(super) async fn retry(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(_): OptionalJsonBody<RetryBody>,
) -> Result<Json<RunView>, Problem> {
    state.runtime.retry(RetryRun { run, by: BY.to_owned() }).await?;
    Ok(Json(state.runtime.run(run).await?))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ForkBody {
    at: Option<u64>,
    input: Option<String>,
    model: Option<String>,
    instructions: Option<String>,
    key: Option<String>,
}

pub(super) async fn fork(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(body): OptionalJsonBody<ForkBody>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<RunView>), Problem> {
    let ForkBody { at, input, model, instructions, key } = body;
    let changes = Changes { input, model, instructions };
    let command = ForkRun { run, at, changes, key, by: BY.to_owned() };
    let forked = state.runtime.fork(command).await?;
    let status = if forked.new { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/api/v1/runs/{}", forked.run.id);
    Ok((status, [(LOCATION, location)], Json(forked.run)))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RollbackBody {
    to: Option<u64>,
    reason: Option<String>,
    pause: bool,
}

/// A run that goes back, and what becomes of what it had done since.
#[derive(Serialize)]
pub(super) struct RolledBackRun {
    #[serde(flatten)]
    run: RunView,
    /// The last event that still counts.
    to: u64,
    /// The calls that undo something, in their order.
    undo: Vec<UndoCall>,
    /// The changes that stay.
    left: Vec<LeftCall>,
}

pub(super) async fn rollback(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(body): OptionalJsonBody<RollbackBody>,
) -> Result<Json<RolledBackRun>, Problem> {
    let RollbackBody { to, reason, pause } = body;
    let command = RollbackRun { run, to, by: BY.to_owned(), reason, pause };
    let told = state.runtime.rollback(command).await?;
    let (to, undo, left) = (told.to, told.undo, told.left);
    Ok(Json(RolledBackRun { run: state.runtime.run(run).await?, to, undo, left }))
}

/// The checkpoints that are kept of a run, newest first.
#[derive(Serialize)]
pub(super) struct CheckpointList {
    checkpoints: Vec<CheckpointView>,
}

pub(super) async fn checkpoints(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Json<CheckpointList>, Problem> {
    Ok(Json(CheckpointList { checkpoints: state.runtime.checkpoints(run).await? }))
}

/// What a person says about a call.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    Happened,
    DidNot,
    Fail,
}

impl From<Said> for Verdict {
    fn from(said: Said) -> Self {
        match said {
            Said::Happened => Self::Happened,
            Said::DidNot => Self::DidNot,
            Said::Fail => Self::Fail,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerBody {
    call: String,
    verdict: Said,
    result: Option<String>,
}

/// A run that was answered.
#[derive(Serialize)]
pub(super) struct AnsweredRun {
    #[serde(flatten)]
    run: RunView,
    /// `false` if it had been answered before, which still holds.
    taken: bool,
}

pub(super) async fn answer(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    JsonBody(body): JsonBody<AnswerBody>,
) -> Result<Json<AnsweredRun>, Problem> {
    let AnswerBody { call, verdict, result } = body;
    let (verdict, by) = (verdict.into(), BY.to_owned());
    let taken =
        state.runtime.answer(AnswerCall { run, call_id: call, verdict, result, by }).await?;
    Ok(Json(AnsweredRun { run: state.runtime.run(run).await?, taken }))
}
