//! Runs: submit, list, show, cancel, resume; and what they can use.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use steadfast_runtime::{CancelRun, Ending, OpenCall, ResumeRun, RunList, RunView, SubmitRun};
use steadfast_store::{RunFilter, RunId};

use super::ServerState;
use super::problem::Problem;

type Answer<T> = Result<Json<T>, Problem>;

/// The body of a submission.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    agent: String,
    input: String,
    tenant: Option<String>,
    #[serde(default)]
    priority: i32,
    key: Option<String>,
}

/// Which runs a list shows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    state: Option<String>,
    agent: Option<String>,
    tenant: Option<String>,
    before: Option<String>,
    #[serde(default)]
    limit: usize,
}

/// The body of a cancellation.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancellation {
    reason: Option<String>,
}

/// A run with everything that its list row leaves out.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    #[serde(flatten)]
    view: RunView,
    /// The whole answer.
    output: Option<String>,
    /// The whole message, if it failed.
    failure: Option<String>,
    open_calls: Vec<OpenCall>,
}

pub(super) fn run_id(text: &str) -> Result<RunId, Problem> {
    RunId::from_str(text).map_err(|_| Problem::bad_run_id(text))
}

pub(super) async fn submit(
    State(state): State<ServerState>,
    order: Result<Json<Order>, JsonRejection>,
) -> Result<(StatusCode, Json<RunView>), Problem> {
    let Json(order) = order?;
    let mut command = SubmitRun::new(order.agent, order.input);
    command.priority = order.priority;
    command.key = order.key;
    if let Some(tenant) = order.tenant {
        command.tenant = tenant;
    }
    let submitted = state.runtime.submit(command).await?;
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(submitted.run)))
}

pub(super) async fn list(
    State(state): State<ServerState>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Answer<RunList> {
    let Query(filter) = filter?;
    let before = filter.before.as_deref().map(run_id).transpose()?;
    let filter = RunFilter {
        tenant: filter.tenant,
        agent: filter.agent,
        states: filter.state.into_iter().collect(),
        before,
        limit: filter.limit,
    };
    Ok(Json(state.runtime.list(filter).await?))
}

pub(super) async fn show(
    State(state): State<ServerState>,
    Path(run): Path<String>,
) -> Answer<Detail> {
    let id = run_id(&run)?;
    let view = state.runtime.run(id).await?;
    let folded = state.runtime.fold(id).await?;
    let (output, failure) = match folded.ending {
        Some(Ending::Succeeded { output }) => (Some(output), None),
        Some(Ending::Failed { message, .. }) => (None, Some(message)),
        Some(Ending::Cancelled { .. }) | None => (None, None),
    };
    Ok(Json(Detail { view, output, failure, open_calls: folded.open_calls }))
}

pub(super) async fn cancel(
    State(state): State<ServerState>,
    Path(run): Path<String>,
    body: Result<Json<Cancellation>, JsonRejection>,
) -> Answer<RunView> {
    let Json(Cancellation { reason }) = body?;
    let run = run_id(&run)?;
    state.runtime.cancel(CancelRun { run, by: "api".to_owned(), reason }).await?;
    Ok(Json(state.runtime.run(run).await?))
}

pub(super) async fn resume(
    State(state): State<ServerState>,
    Path(run): Path<String>,
) -> Answer<RunView> {
    let run = run_id(&run)?;
    state.runtime.resume(ResumeRun { run, by: "api".to_owned() }).await?;
    Ok(Json(state.runtime.run(run).await?))
}

pub(super) async fn agents(State(state): State<ServerState>) -> Json<Value> {
    let agents = state.runtime.catalog().agent_names();
    Json(json!({ "agents": agents, "simulated": state.simulated }))
}

pub(super) async fn guards(State(state): State<ServerState>) -> Json<Value> {
    let guards = state.runtime.catalog().guards();
    let guards: Vec<Value> = guards
        .map(|guard| json!({ "explain": guard.explain(), "state": guard.snapshot() }))
        .collect();
    Json(json!({ "guards": guards }))
}
