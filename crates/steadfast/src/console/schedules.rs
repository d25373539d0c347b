//! The schedules: when each fires next, and what became of it last.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{Html, Redirect};
use steadfast_runtime::ScheduleView;

use super::time::When;
use super::{Frame, render};
use crate::server::{Problem, ServerState};

#[derive(Template)]
#[template(path = "schedules.html")]
struct SchedulesPage {
    frame: Frame,
    rows: Vec<Row>,
}

struct Row {
    schedule: ScheduleView,
    next: Option<When>,
    last: Option<When>,
}

pub(super) async fn page(State(state): State<ServerState>) -> Result<Html<String>, Problem> {
    let now = state.runtime.store().now();
    let rows = state.runtime.schedules().await?.into_iter().map(|schedule| Row {
        next: schedule.next.map(|at| When::new(at, now)),
        last: schedule.last.map(|at| When::new(at, now)),
        schedule,
    });
    Ok(Html(render(&SchedulesPage { frame: Frame::of(&state), rows: rows.collect() })?))
}

pub(super) async fn run(
    State(state): State<ServerState>,
    Path(name): Path<String>,
) -> Result<Redirect, Problem> {
    let submitted = state.runtime.run_schedule(&name).await?;
    Ok(Redirect::to(&format!("/console/runs/{}", submitted.run.id)))
}
