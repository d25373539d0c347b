//! Access keys over HTTP: list, make, show, change, rotate, revoke. A secret is in the answer that made it,
//! and in no other.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use steadfast_runtime::{AccessKey, GRACE_DEFAULT, IssuedKey, KeyEdit, KeyQuery, KeySpec};

use super::extract::{JsonBody, OptionalJsonBody, QueryOf};
use super::filter::check_limit;
use super::{Problem, ServerState};

/// Which keys a page shows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeysOf {
    pub(crate) tenant: String,
    pub(crate) after: String,
    pub(crate) limit: Option<usize>,
}

impl KeysOf {
    /// One page, and the cursor of the next.
    pub(crate) async fn page(&self, state: &ServerState) -> Result<KeyPage, Problem> {
        let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let (tenant, after) = (said(&self.tenant), said(&self.after));
        let query = KeyQuery { tenant, after, limit: check_limit(self.limit)? };
        let (keys, next) = state.runtime.keys().list(query).await?;
        Ok(KeyPage { keys, next })
    }
}

/// One page of keys.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyPage {
    pub(crate) keys: Vec<AccessKey>,
    pub(crate) next: Option<String>,
}

/// A key with the secret that it has just got.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyWithSecret {
    #[serde(flatten)]
    pub(crate) key: AccessKey,
    /// Shown now, and never again.
    pub(crate) secret: String,
}

impl From<IssuedKey> for KeyWithSecret {
    fn from(IssuedKey { key, secret }: IssuedKey) -> Self {
        Self { key, secret: secret.expose().to_owned() }
    }
}

/// How a key is rotated.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotation {
    /// For how long the secret before lets in.
    #[serde(with = "humantime_serde")]
    pub(crate) grace: Duration,
    /// How many secrets the key had when this was decided.
    pub(crate) seen: Option<u64>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { grace: GRACE_DEFAULT, seen: None }
    }
}

pub(super) async fn list(
    State(state): State<ServerState>,
    QueryOf(of): QueryOf<KeysOf>,
) -> Result<Json<KeyPage>, Problem> {
    Ok(Json(of.page(&state).await?))
}

pub(super) async fn create(
    State(state): State<ServerState>,
    JsonBody(spec): JsonBody<KeySpec>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<KeyWithSecret>), Problem> {
    let issued = state.runtime.keys().create(spec).await?;
    let location = format!("/api/v1/keys/{}", issued.key.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(issued.into())))
}

pub(super) async fn show(
    State(state): State<ServerState>,
    Path(id): Path<String>,
) -> Result<Json<AccessKey>, Problem> {
    Ok(Json(state.runtime.keys().key(&id).await?))
}

pub(super) async fn edit(
    State(state): State<ServerState>,
    Path(id): Path<String>,
    JsonBody(edit): JsonBody<KeyEdit>,
) -> Result<Json<AccessKey>, Problem> {
    Ok(Json(state.runtime.keys().edit(&id, edit).await?))
}

pub(super) async fn rotate(
    State(state): State<ServerState>,
    Path(id): Path<String>,
    OptionalJsonBody(Rotation { grace, seen }): OptionalJsonBody<Rotation>,
) -> Result<Json<KeyWithSecret>, Problem> {
    Ok(Json(state.runtime.keys().rotate(&id, grace, seen).await?.into()))
}

pub(super) async fn revoke(
    State(state): State<ServerState>,
    Path(id): Path<String>,
) -> Result<Json<AccessKey>, Problem> {
    Ok(Json(state.runtime.keys().revoke(&id).await?))
}
