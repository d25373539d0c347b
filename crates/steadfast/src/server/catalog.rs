//! What the runtime can run, and how its dependencies are.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::ServerState;

/// An agent as the API shows it.
#[derive(Serialize)]
pub(super) struct AgentView {
    name: String,
    model: String,
    tools: Vec<String>,
    max_iterations: u32,
}

/// A dependency's guard as the API shows it.
#[derive(Serialize)]
pub(super) struct GuardView {
    name: String,
    explain: String,
}

pub(super) async fn agents(State(state): State<ServerState>) -> Json<Vec<AgentView>> {
    let view = |(name, spec): (&str, &steadfast_runtime::AgentSpec)| AgentView {
        name: name.to_owned(),
        model: spec.model.clone(),
        tools: spec.tools.clone(),
        max_iterations: spec.max_iterations,
    };
    Json(state.runtime.catalog().agents().map(view).collect())
}

pub(super) async fn guards(State(state): State<ServerState>) -> Json<Vec<GuardView>> {
    let guards = state.runtime.catalog().guards();
    Json(
        guards
            .map(|guard| GuardView { name: guard.name().to_owned(), explain: guard.explain() })
            .collect(),
    )
}
