//! The facts of a tenant, an agent or a session.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{Html, Redirect};

use super::list::escape;
use super::time::When;
use super::{Frame, render};
use crate::server::{FactsOf, Problem, QueryOf, ServerState};

#[derive(Template)]
#[template(path = "facts.html")]
struct FactsPage {
    frame: Frame,
    of: FactsOf,
    whose: String,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    key: String,
    /// Where it is forgotten.
    forget: String,
    value: String,
    version: u64,
    at: When,
    expires: Option<When>,
}

pub(super) async fn page(
    State(state): State<ServerState>,
    QueryOf(of): QueryOf<FactsOf>,
) -> Result<Html<String>, Problem> {
    let page = of.page(&state).await?;
    let now = state.runtime.store().now();
    let rows = page.facts.into_iter().map(|fact| {
        let mut forget = String::from("/console/facts/");
        escape(&fact.key, &mut forget);
        forget.push_str("/forget?");
        forget.push_str(&query(&FactsOf { after: String::new(), ..of.clone() }));
        let value = fact.value.as_str().map_or_else(|| fact.value.to_string(), str::to_owned);
        Row {
            forget,
            value,
            version: fact.version,
            at: When::new(fact.at, now),
            expires: fact.expires_at.map(|at| When::new(at, now)),
            key: fact.key,
        }
    });
    let whose = whose(&of);
    let next = page.next.map(|after| link(&FactsOf { after, ..of.clone() }));
    let rows = rows.collect();
    Ok(Html(render(&FactsPage { frame: Frame::of(&state), of, whose, rows, next })?))
}

pub(super) async fn forget(
    State(state): State<ServerState>,
    Path(key): Path<String>,
    QueryOf(of): QueryOf<FactsOf>,
) -> Result<Redirect, Problem> {
    state.runtime.facts(of.scope()?).forget(&key).await?;
    Ok(Redirect::to(&link(&of)))
}

/// Whose facts they are, for people.
fn whose(of: &FactsOf) -> String {
    let tenant = if of.tenant.is_empty() { "default" } else { &of.tenant };
    match (of.agent.as_str(), of.session.as_str()) {
        ("", "") => format!("tenant {tenant}"),
        (agent, "") => format!("agent {agent} of tenant {tenant}"),
        (_, session) => format!("session {session} of tenant {tenant}"),
    }
}

fn link(of: &FactsOf) -> String {
    format!("/console/facts?{}", query(of))
}

fn query(of: &FactsOf) -> String {
    let limit = of.limit.map(|limit| limit.to_string()).unwrap_or_default();
    let mut address = String::from("tenant=");
    escape(&of.tenant, &mut address);
    for (name, value) in [
        ("agent", &of.agent),
        ("session", &of.session),
        ("prefix", &of.prefix),
        ("after", &of.after),
        ("limit", &limit),
    ] {
        if !value.is_empty() {
            address.push_str(&format!("&{name}="));
            escape(value, &mut address);
        }
    }
    address
}
