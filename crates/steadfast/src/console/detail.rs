//! One run: where it stands, what happened, and what one can do about it.

use askama::Template;
use axum::extract::State;
use axum::response::{Html, Redirect};
use serde::Serialize;
use steadfast_runtime::{
    CancelRun, EventView, OpenCall, Problem as RunProblem, ResumeRun, RunView, Status,
};
use steadfast_store::{RunId, Timestamp};

use super::time::When;
use super::timeline::{Step, Timeline};
use super::{Frame, render};
use crate::server::{Problem, RunIdPath, ServerState};

/// Events that are read at once.
const READ_PAGE: usize = 500;

/// Events of a run that its page shows; the API has them all.
pub(super) const EVENTS_SHOWN: u64 = 2000;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    id: String,
    live: String,
    hidden: u64,
    head: String,
    steps: Vec<String>,
}

#[derive(Template)]
#[template(path = "head.html")]
struct HeadFragment {
    run: RunView,
    id: String,
    created: When,
    updated: When,
    /// Why it is not executed yet, and since when.
    waiting: Option<(String, When)>,
    /// What is wrong with it.
    problem: Option<ProblemView>,
    can_cancel: bool,
    can_pause: bool,
    can_resume: bool,
    can_retry: bool,
    /// The call that a person is asked about.
    asked: Option<OpenCall>,
}

/// A problem, what it means and what to do.
struct ProblemView {
    word: String,
    since: Option<When>,
    detail: Option<String>,
    meaning: &'static str,
    remedy: &'static str,
}

impl ProblemView {
    fn of(run: &RunView, now: Timestamp) -> Option<Self> {
        let word = run.problem.clone()?;
        let known = RunProblem::parse(&word);
        Some(Self {
            since: run.problem_since.map(|at| When::new(at, now)),
            detail: run.problem_detail.clone(),
            meaning: known.map_or("", RunProblem::meaning),
            remedy: known.map_or("", RunProblem::remedy),
            word,
        })
    }
}

#[derive(Template)]
#[template(path = "step.html")]
struct StepFragment<'a> {
    run: RunId,
    step: &'a Step,
    exact: String,
}

/// A piece of a page: it replaces the element of its id, or is put at the end of the container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Fragment {
    pub(super) id: String,
    pub(super) container: &'static str,
    pub(super) html: String,
}

pub(super) async fn page(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Html<String>, Problem> {
    let view = state.runtime.run(run).await?;
    let hidden = view.events.saturating_sub(EVENTS_SHOWN);
    let mut timeline = Timeline::after(hidden);
    catch_up(&state, run, &mut timeline).await?;
    let mut steps = Vec::new();
    for step in timeline.steps() {
        steps.push(step_html(run, step)?);
    }
    let page = RunPage {
        frame: Frame::of(&state),
        id: run.to_string(),
        live: format!("/console/runs/{run}/live?after={}&from={hidden}", timeline.seq()),
        hidden,
        head: head_html(&state, view).await?,
        steps,
    };
    Ok(Html(render(&page)?))
}

/// Reads on from the timeline's end to the log's end.
pub(super) async fn catch_up(
    state: &ServerState,
    run: RunId,
    timeline: &mut Timeline,
) -> Result<(), Problem> {
    loop {
        let events: Vec<EventView> = state.runtime.events(run, timeline.seq(), READ_PAGE).await?;
        let last = events.len() < READ_PAGE;
        for event in events {
            timeline.push(event);
        }
        if last {
            return Ok(());
        }
    }
}

pub(super) async fn head_html(state: &ServerState, run: RunView) -> Result<String, Problem> {
    let (now, status) = (state.runtime.store().now(), Status::parse(&run.state));
    let waiting = state.runtime.waiting(run.id).await?;
    let asked = match status {
        Some(Status::Waiting) => state.runtime.fold(run.id).await?.asked().cloned(),
        _ => None,
    };
    let fragment = HeadFragment {
        id: run.id.to_string(),
        created: When::new(run.created_at, now),
        updated: When::new(run.updated_at, now),
        waiting: waiting.map(|waiting| (waiting.explain, When::new(waiting.since, now))),
        problem: ProblemView::of(&run, now),
        can_cancel: status.is_some_and(|status| !status.is_over()),
        can_pause: matches!(status, Some(Status::Queued | Status::Running | Status::Waiting)),
        can_resume: matches!(status, Some(Status::Failed | Status::Waiting | Status::Paused)),
        can_retry: status == Some(Status::Failed),
        asked,
        run,
    };
    render(&fragment)
}

pub(super) fn step_html(run: RunId, step: &Step) -> Result<String, Problem> {
    render(&StepFragment { run, step, exact: super::time::exact(step.at) })
}

pub(super) async fn cancel(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Redirect, Problem> {
    state.runtime.cancel(CancelRun { run, by: "console".to_owned(), reason: None }).await?;
    Ok(Redirect::to(&format!("/console/runs/{run}")))
}

pub(super) async fn resume(
    State(state): State<ServerState>,
    RunIdPath(run): RunIdPath,
) -> Result<Redirect, Problem> {
    state.runtime.resume(ResumeRun { run, by: "console".to_owned() }).await?;
    Ok(Redirect::to(&format!("/console/runs/{run}")))
}
