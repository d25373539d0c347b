//! The access keys: who may call, and until when. A secret is on the page that answers its rotation only.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{Html, Redirect};
use serde::Deserialize;
use steadfast_runtime::{AccessKey, GRACE_DEFAULT, KeyState};

use super::list::escape;
use super::time::When;
use super::{Frame, render};
use crate::server::{FormOf, KeysOf, Problem, QueryOf, ServerState};

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    frame: Frame,
    of: KeysOf,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    models: String,
    limits: String,
    created: When,
    expires: Option<When>,
    used: Option<When>,
    /// The end of the last secret before the current one.
    old_until: Option<When>,
    usable: bool,
    key: AccessKey,
}

pub(super) async fn page(
    State(state): State<ServerState>,
    QueryOf(of): QueryOf<KeysOf>,
) -> Result<Html<String>, Problem> {
    let page = of.page(&state).await?;
    let now = state.runtime.store().now();
    let rows = page.keys.into_iter().map(|key| Row {
        models: models(&key),
        limits: limits(&key),
        created: When::new(key.created_at, now),
        expires: key.spec.expires_at.map(|at| When::new(at, now)),
        used: key.last_used_at.map(|at| When::new(at, now)),
        old_until: key.old_secrets_until.iter().max().map(|at| When::new(*at, now)),
        usable: key.state != KeyState::Revoked,
        key,
    });
    let rows = rows.collect();
    let next = page.next.map(|after| link(&KeysOf { after, ..of.clone() }));
    Ok(Html(render(&KeysPage { frame: Frame::of(&state), of, rows, next })?))
}

fn models(key: &AccessKey) -> String {
    if key.spec.models.is_empty() { "every".to_owned() } else { key.spec.models.join(", ") }
}

fn limits(key: &AccessKey) -> String {
    let limits = key.spec.limits;
    let said = [
        limits.requests_per_minute.map(|limit| format!("{limit} requests/min")),
        limits.tokens_per_minute.map(|limit| format!("{limit} tokens/min")),
        limits.at_once.map(|limit| format!("{limit} at once")),
    ];
    let said: Vec<_> = said.into_iter().flatten().collect();
    if said.is_empty() { "none".to_owned() } else { said.join(", ") }
}

fn link(of: &KeysOf) -> String {
    let mut address = String::from("/console/keys?tenant=");
    escape(&of.tenant, &mut address);
    address.push_str("&after=");
    escape(&of.after, &mut address);
    if let Some(limit) = of.limit {
        address.push_str(&format!("&limit={limit}"));
    }
    address
}

pub(super) async fn revoke(
    State(state): State<ServerState>,
    Path(id): Path<String>,
) -> Result<Redirect, Problem> {
    state.runtime.keys().revoke(&id).await?;
    Ok(Redirect::to("/console/keys"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateForm {
    /// How many secrets the key had on the page: a page that is sent again rotates nothing.
    seen: u64,
    /// Whether the secret before ends at once.
    #[serde(default)]
    at_once: bool,
}

#[derive(Template)]
#[template(path = "key_secret.html")]
struct SecretPage {
    frame: Frame,
    id: String,
    name: String,
    secret: String,
    old_until: Option<When>,
}

pub(super) async fn rotate(
    State(state): State<ServerState>,
    Path(id): Path<String>,
    FormOf(RotateForm { seen, at_once }): FormOf<RotateForm>,
) -> Result<Html<String>, Problem> {
    let grace = if at_once { Duration::ZERO } else { GRACE_DEFAULT };
    let issued = state.runtime.keys().rotate(&id, grace, Some(seen)).await?;
    let now = state.runtime.store().now();
    let page = SecretPage {
        frame: Frame::of(&state),
        old_until: issued.key.old_secrets_until.last().map(|at| When::new(*at, now)),
        name: issued.key.spec.name,
        secret: issued.secret.expose().to_owned(),
        id,
    };
    Ok(Html(render(&page)?))
}
