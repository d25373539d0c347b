//! Facts over HTTP: list, show, set, forget. Whose they are stands in the query.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_runtime::{FactBook, FactQuery, FactScope, FactView};

use super::extract::{JsonBody, QueryOf};
use super::filter::check_limit;
use super::{Problem, ServerState};

/// Facts on a page if nothing is said.
const PAGE: usize = 100;

/// Whose facts, and which of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FactsOf {
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) session: String,
    pub(crate) prefix: String,
    pub(crate) after: String,
    pub(crate) limit: Option<usize>,
}

impl FactsOf {
    /// The scope; `default` is the tenant that runs have if they name none.
    pub(crate) fn scope(&self) -> Result<FactScope, Problem> {
        let tenant = match self.tenant.as_str() {
            "" => "default".to_owned(),
            tenant => tenant.to_owned(),
        };
        match (self.agent.as_str(), self.session.as_str()) {
            ("", "") => Ok(FactScope::Tenant { tenant }),
            (agent, "") => Ok(FactScope::Agent { tenant, agent: agent.to_owned() }),
            ("", session) => Ok(FactScope::Session { tenant, session: session.to_owned() }),
            (_, _) => Err(Problem::bad_query(
                "`agent` and `session` are both given; facts are of one of them, or of the tenant"
                    .to_owned(),
            )),
        }
    }

    /// One page, and the cursor of the next.
    pub(crate) async fn page(&self, state: &ServerState) -> Result<FactPage, Problem> {
        let limit = match check_limit(self.limit)? {
            0 => PAGE,
            limit => limit,
        };
        let after = Some(self.after.clone()).filter(|after| !after.is_empty());
        // One more than is shown tells that there is a next page.
        let query = FactQuery { prefix: self.prefix.clone(), after, limit: limit + 1 };
        let mut facts = state.runtime.facts(self.scope()?).list(query).await?;
        let more = facts.len() > limit;
        facts.truncate(limit);
        let next = facts.last().filter(|_| more).map(|fact| fact.key.clone());
        Ok(FactPage { facts, next })
    }
}

/// One page of facts.
#[derive(Serialize, Deserialize)]
pub(crate) struct FactPage {
    pub(crate) facts: Vec<FactView>,
    pub(crate) next: Option<String>,
}

/// The body that sets a fact.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetBody {
    value: Value,
    /// For how long it holds; for ever if absent.
    #[serde(default, with = "humantime_serde::option")]
    keep: Option<Duration>,
}

fn book(state: &ServerState, of: &FactsOf) -> Result<FactBook, Problem> {
    Ok(state.runtime.facts(of.scope()?))
}

pub(super) async fn list(
    State(state): State<ServerState>,
    QueryOf(of): QueryOf<FactsOf>,
) -> Result<Json<FactPage>, Problem> {
    Ok(Json(of.page(&state).await?))
}

pub(super) async fn show(
    State(state): State<ServerState>,
    Path(key): Path<String>,
    QueryOf(of): QueryOf<FactsOf>,
) -> Result<Json<FactView>, Problem> {
    let fact = book(&state, &of)?.get(&key).await?;
    fact.map(Json).ok_or_else(|| Problem::unknown_fact(&key))
}

pub(super) async fn set(
    State(state): State<ServerState>,
    Path(key): Path<String>,
    QueryOf(of): QueryOf<FactsOf>,
    JsonBody(body): JsonBody<SetBody>,
) -> Result<Json<FactView>, Problem> {
    let book = book(&state, &of)?;
    book.set(&key, &body.value, body.keep).await?;
    // One that holds for no time at all is gone by now.
    let fact = book.get(&key).await?;
    fact.map(Json).ok_or_else(|| Problem::unknown_fact(&key))
}

pub(super) async fn forget(
    State(state): State<ServerState>,
    Path(key): Path<String>,
    QueryOf(of): QueryOf<FactsOf>,
) -> Result<StatusCode, Problem> {
    book(&state, &of)?.forget(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}
