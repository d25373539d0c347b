//! The dependencies over HTTP: how each is protected and how it is, and the hand on its breaker.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use steadfast_guard::{Guard, GuardSnapshot, Policy};

use super::{Problem, ServerState};

/// A dependency's guard as the API shows it.
#[derive(Serialize)]
pub(crate) struct GuardView {
    #[serde(flatten)]
    pub(crate) snapshot: GuardSnapshot,
    /// Why a call would wait or be refused now, in one line.
    pub(crate) explain: String,
}

/// One guard, with the policy in force.
#[derive(Serialize)]
pub(super) struct GuardDetail {
    #[serde(flatten)]
    guard: GuardView,
    policy: Policy,
}

/// Every guard.
#[derive(Serialize)]
pub(super) struct GuardList {
    guards: Vec<GuardView>,
    /// Why the configuration file as it stands was not taken over.
    reload_problem: Option<String>,
}

impl GuardView {
    pub(crate) fn of(guard: &Guard) -> Self {
        Self { snapshot: guard.snapshot(), explain: guard.explain() }
    }
}

/// What a person does to a breaker by hand.
pub(crate) fn operate(guard: &Guard, action: &str) -> Result<(), Problem> {
    match action {
        "open" => guard.force_open(),
        "close" => guard.force_closed(),
        "measure" => guard.metrics_only(),
        "auto" => guard.auto(),
        other => return Err(Problem::unknown_action(other)),
    }
    tracing::info!(guard = guard.name(), action, "breaker operated by hand");
    Ok(())
}

/// The guard of a name.
pub(crate) fn find<'a>(state: &'a ServerState, name: &str) -> Result<&'a Guard, Problem> {
    let catalog = state.runtime.catalog();
    catalog.guard(name).ok_or_else(|| {
        let known: Vec<&str> = catalog.guards().map(Guard::name).collect();
        Problem::unknown_guard(name, &known)
    })
}

pub(super) async fn list(State(state): State<ServerState>) -> Json<GuardList> {
    let guards = state.runtime.catalog().guards().map(GuardView::of).collect();
    Json(GuardList { guards, reload_problem: state.reload.text() })
}

pub(super) async fn show(
    State(state): State<ServerState>,
    Path(name): Path<String>,
) -> Result<Json<GuardDetail>, Problem> {
    let guard = find(&state, &name)?;
    let policy = guard.policy().as_ref().clone();
    Ok(Json(GuardDetail { guard: GuardView::of(guard), policy }))
}

pub(super) async fn change(
    State(state): State<ServerState>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Json<GuardView>, Problem> {
    let guard = find(&state, &name)?;
    operate(guard, &action)?;
    Ok(Json(GuardView::of(guard)))
}
