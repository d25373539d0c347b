//! Runs over HTTP: submit, list, show, cancel, resume.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use steadfast_runtime::event::StopReason;
use steadfast_runtime::{
    CancelRun, Ending, OpenCall, Origin, ResumeRun, RunList, RunView, SubmitRun, Waiting,
};
use steadfast_store::Timestamp;

use super::extract::{JsonBody, OptionalJsonBody, QueryOf, RunIdPath};
use super::filter::ListQuery;
use super::{Problem, ServerState};

/// The body of a submission.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubmitBody {
    agent: String,
    input: String,
    tenant: Option<String>,
    #[serde(default)]
    priority: i32,
    key: Option<String>,
    session: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

/// The body of a cancellation.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelBody {
    reason: Option<String>,
}

/// The body of a resumption: nothing can be said yet.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeBody {}

/// A run in full.
#[derive(Serialize)]
pub(super) struct RunDetail {
    #[serde(flatten)]
    run: RunView,
    /// The whole answer, if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Why it failed or who ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView>,
    /// Calls without a result.
    open_calls: Vec<OpenCall>,
    /// When it goes on by itself, if it waits for a time.
    wake_at: Option<Timestamp>,
    /// Why it is not executed yet, if it waits for a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    /// Milliseconds in which it was executed.
    active_ms: i64,
    /// The call that a person is asked about: `answer` says whether it took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<OpenCall>,
    /// Where it comes from, if it is a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// Why a run has no answer.
#[derive(Serialize)]
#[serde(tag = "how", rename_all = "snake_case")]
enum FailureView {
    Failed { stop: StopReason, message: String },
    Cancelled { by: String, reason: Option<String> },
}

pub(super) async fn submit(
    State(state): State<ServerState>,
    JsonBody(body): JsonBody<SubmitBody>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<RunView>), Problem> {
    let mut command = SubmitRun::new(body.agent, body.input);
    command.priority = body.priority;
    command.key = body.key;
    command.session = body.session;
    command.tags = body.tags;
    if let Some(tenant) = body.tenant {
        command.tenant = tenant;
    }
    let submitted = state.runtime.submit(command).await?;
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/api/v1/runs/{}", submitted.run.id);
    Ok((status, [(LOCATION, location)], Json(submitted.run)))
}

pub(super) async fn list(
    State(state): State<ServerState>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<RunList>, Problem> {
    Ok(Json(state.runtime.list(query.filter(state.runtime.store().now())?).await?))
}

pub(super) async fn show(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Json<RunDetail>, Problem> {
    let view = state.runtime.run(run).await?;
    let folded = state.runtime.fold(run).await?;
    let asked = folded.asked().cloned();
    let (output, failure) = match folded.ending {
        None => (None, None),
        Some(Ending::Succeeded { output }) => (Some(output), None),
        Some(Ending::Failed { stop, message }) => {
            (None, Some(FailureView::Failed { stop, message }))
        }
        Some(Ending::Cancelled { by, reason }) => {
            (None, Some(FailureView::Cancelled { by, reason }))
        }
    };
    Ok(Json(RunDetail {
        run: view,
        output,
        failure,
        open_calls: folded.open_calls,
        wake_at: folded.wake_at,
        waiting: state.runtime.waiting(run).await?,
        active_ms: folded.active_ms,
        asked,
        origin: folded.origin,
    }))
}

pub(super) async fn cancel(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(body): OptionalJsonBody<CancelBody>,
) -> Result<Json<RunView>, Problem> {
    let command = CancelRun { run, by: "api".to_owned(), reason: body.reason };
    state.runtime.cancel(command).await?;
    Ok(Json(state.runtime.run(run).await?))
}

pub(super) async fn resume(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    OptionalJsonBody(_): OptionalJsonBody<ResumeBody>,
) -> Result<Json<RunView>, Problem> {
    state.runtime.resume(ResumeRun { run, by: "api".to_owned() }).await?;
    Ok(Json(state.runtime.run(run).await?))
}
