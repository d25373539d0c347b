//! What a person does with a run from its page: each a form; what it does is the runtime's business.

use askama::Template;
use axum::extract::State;
use axum::response::{Html, Redirect};
use serde::Deserialize;
use steadfast_runtime::event::Changes;
use steadfast_runtime::{AnswerCall, CheckpointView, ForkRun, PauseRun, RetryRun, RollbackRun};
use steadfast_store::RunId;

use super::time::When;
use super::{Frame, render};
use crate::server::{FormOf, Problem, QueryOf, RunIdPath, Said, ServerState};

/// Who asks, as events tell it.
const BY: &str = "console";

fn to_run(run: RunId) -> Redirect {
    Redirect::to(&format!("/console/runs/{run}"))
}

pub(super) async fn pause(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Redirect, Problem> {
    let command = PauseRun { run, by: BY.to_owned(), reason: None, now: false };
    state.runtime.pause(command).await?;
    Ok(to_run(run))
}

pub(super) async fn retry(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Redirect, Problem> {
    state.runtime.retry(RetryRun { run, by: BY.to_owned() }).await?;
    Ok(to_run(run))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    at: Option<u64>,
}

#[derive(Template)]
#[template(path = "fork.html")]
struct ForkPage {
    frame: Frame,
    id: String,
    at: u64,
    agent: String,
    /// It is code: it has no model and no prompt.
    is_code: bool,
    input: String,
    model: String,
    instructions: String,
}

/// The form for a fork, filled with what the run has.
pub(super) async fn fork_page(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    QueryOf(place): QueryOf<Place>,
) -> Result<Html<String>, Problem> {
    let folded = state.runtime.fold(run).await?;
    let agent = state.runtime.catalog().agents().find(|(name, _)| *name == folded.agent);
    let is_code = agent.is_none();
    let (model, instructions) = match agent {
        Some((_, spec)) => (spec.model.clone(), spec.instructions.clone()),
        None => (String::new(), String::new()),
    };
    let page = ForkPage {
        frame: Frame::of(&state),
        id: run.to_string(),
        at: place.at.unwrap_or(folded.seq),
        agent: folded.agent,
        is_code,
        input: folded.input,
        model: folded.overrides.model.unwrap_or(model),
        instructions: folded.overrides.instructions.unwrap_or(instructions),
    };
    Ok(Html(render(&page)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForkForm {
    at: u64,
    input: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    instructions: String,
}

/// What a form says, if it is not what there is; browsers send every line's end as CRLF.
fn changed(said: &str, known: &str) -> Option<String> {
    let said = said.replace("\r\n", "\n");
    (said != known.replace("\r\n", "\n")).then_some(said)
}

pub(super) async fn fork(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    FormOf(form): FormOf<ForkForm>,
) -> Result<Redirect, Problem> {
    let folded = state.runtime.fold(run).await?;
    let agent = state.runtime.catalog().agents().find(|(name, _)| *name == folded.agent);
    let mut changes = Changes { input: changed(&form.input, &folded.input), ..Changes::default() };
    if let Some((_, spec)) = agent {
        let model = folded.overrides.model.as_ref().unwrap_or(&spec.model);
        let prompt = folded.overrides.instructions.as_ref().unwrap_or(&spec.instructions);
        changes.model = changed(&form.model, model).filter(|model| !model.is_empty());
        changes.instructions = changed(&form.instructions, prompt);
    }
    let command = ForkRun { run, at: Some(form.at), changes, key: None, by: BY.to_owned() };
    Ok(to_run(state.runtime.fork(command).await?.run.id))
}

#[derive(Template)]
#[template(path = "checkpoints.html")]
struct CheckpointsPage {
    frame: Frame,
    id: String,
    rows: Vec<(CheckpointView, When)>,
}

pub(super) async fn checkpoints(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Html<String>, Problem> {
    let now = state.runtime.store().now();
    let kept = state.runtime.checkpoints(run).await?;
    let rows = kept.into_iter().map(|view| {
        let taken = When::new(view.at, now);
        (view, taken)
    });
    let page =
        CheckpointsPage { frame: Frame::of(&state), id: run.to_string(), rows: rows.collect() };
    Ok(Html(render(&page)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackForm {
    to: u64,
}

pub(super) async fn rollback(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    FormOf(form): FormOf<RollbackForm>,
) -> Result<Redirect, Problem> {
    let (to, by) = (Some(form.to), BY.to_owned());
    state.runtime.rollback(RollbackRun { run, to, by, reason: None, pause: false }).await?;
    Ok(to_run(run))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerForm {
    call: String,
    verdict: Said,
    #[serde(default)]
    result: String,
}

pub(super) async fn answer(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
    FormOf(form): FormOf<AnswerForm>,
) -> Result<Redirect, Problem> {
    let AnswerForm { call: call_id, verdict, result } = form;
    let (verdict, result) = (verdict.into(), Some(result).filter(|text| !text.is_empty()));
    let by = BY.to_owned();
    state.runtime.answer(AnswerCall { run, call_id, verdict, result, by }).await?;
    Ok(to_run(run))
}
