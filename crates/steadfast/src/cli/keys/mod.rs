//! `steadfast keys`: who may call. Through a server, or with `--offline` in the store itself.

mod args;
mod shown;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steadfast_runtime::{AccessKey, KeyEdit, KeyQuery, KeyRing, KeySpec};
use steadfast_store::Store;

pub(super) use self::args::{KeyAction, Where};
use self::shown::{described, table, time};
use super::client::{Answer, Client};
use super::store::{Use, store_for};
use super::{Exit, Output, output};
use crate::server::{KeyPage, KeyWithSecret};

/// A server's keys, or those of a store that this process has open.
enum Place {
    Server(Client),
    Store(Arc<dyn Store>, Box<KeyRing>),
}

impl Place {
    async fn create(&self, spec: KeySpec) -> anyhow::Result<Answer<KeyWithSecret>> {
        match self {
            Self::Server(client) => client.post("/keys", &serde_json::to_value(spec)?).await,
            Self::Store(_, ring) => Ok(Answer::Ok(ring.create(spec).await?.into())),
        }
    }

    async fn list(
        &self,
        tenant: Option<String>,
        after: Option<String>,
    ) -> anyhow::Result<Answer<KeyPage>> {
        match self {
            Self::Server(client) => {
                let query = [("tenant", tenant), ("after", after)];
                let said: Vec<_> =
                    query.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
                client.find("/keys", &said).await
            }
            Self::Store(_, ring) => {
                let (keys, next) = ring.list(KeyQuery { tenant, after, limit: 0 }).await?;
                Ok(Answer::Ok(KeyPage { keys, next }))
            }
        }
    }

    async fn show(&self, id: &str) -> anyhow::Result<Answer<AccessKey>> {
        match self {
            Self::Server(client) => client.get(&path(id, "")).await,
            Self::Store(_, ring) => Ok(Answer::Ok(ring.key(id).await?)),
        }
    }

    async fn rotate(&self, id: &str, grace: Duration) -> anyhow::Result<Answer<KeyWithSecret>> {
        match self {
            Self::Server(client) => {
                let body = json!({ "grace": format!("{}ms", grace.as_millis()) });
                client.post(&path(id, "/rotate"), &body).await
            }
            Self::Store(_, ring) => Ok(Answer::Ok(ring.rotate(id, grace, None).await?.into())),
        }
    }

    async fn revoke(&self, id: &str) -> anyhow::Result<Answer<AccessKey>> {
        match self {
            Self::Server(client) => client.post(&path(id, "/revoke"), &json!({})).await,
            Self::Store(_, ring) => Ok(Answer::Ok(ring.revoke(id).await?)),
        }
    }

    async fn edit(&self, id: &str, edit: KeyEdit) -> anyhow::Result<Answer<AccessKey>> {
        match self {
            Self::Server(client) => client.patch(&path(id, ""), &serde_json::to_value(edit)?).await,
            Self::Store(_, ring) => Ok(Answer::Ok(ring.edit(id, edit).await?)),
        }
    }
}

fn path(id: &str, action: &str) -> String {
    format!("/keys/{}{action}", super::guards::segment(id))
}

pub(super) async fn keys(
    client: impl FnOnce() -> anyhow::Result<Client>,
    place: Where,
    config: Option<&Path>,
    action: KeyAction,
    format: Output,
) -> anyhow::Result<Exit> {
    let place = if place.offline {
        let intent = match &action {
            KeyAction::List { .. } | KeyAction::Show { .. } => Use::Look,
            KeyAction::Create(_) => Use::Make,
            KeyAction::Rotate { .. } | KeyAction::Revoke { .. } | KeyAction::Edit(_) => Use::Change,
        };
        let store = store_for(place.store, config, intent).await?;
        Place::Store(Arc::clone(&store), Box::new(KeyRing::new(store)))
    } else {
        Place::Server(client()?)
    };
    let done = act(&place, action, format).await;
    if let Place::Store(store, _) = &place {
        // The first error is the one to tell.
        let closed = store.close().await;
        if done.is_ok() {
            closed?;
        }
    }
    done
}

async fn act(place: &Place, action: KeyAction, format: Output) -> anyhow::Result<Exit> {
    let answer = match action {
        KeyAction::Create(create) => return hand_out(place.create(create.spec()).await?, format),
        KeyAction::Rotate { id, grace } => {
            return hand_out(place.rotate(&id, grace).await?, format);
        }
        KeyAction::List { tenant, after } => return list(place.list(tenant, after).await?, format),
        KeyAction::Show { id } => place.show(&id).await?,
        KeyAction::Revoke { id } => place.revoke(&id).await?,
        KeyAction::Edit(edit) => {
            let (id, edit) = edit.changes()?;
            place.edit(&id, edit).await?
        }
    };
    let key = match answer {
        Answer::Ok(key) => key,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&key)?,
        Output::Text => output::data(&described(&key))?,
    }
    Ok(Exit::Done)
}

/// The secret alone is data, so that a script can take it.
fn hand_out(answer: Answer<KeyWithSecret>, format: Output) -> anyhow::Result<Exit> {
    let issued = match answer {
        Answer::Ok(issued) => issued,
        Answer::Refused(exit) => return Ok(exit),
    };
    let key = &issued.key;
    output::talk(&format!(
        "key {} (`{}`, tenant {}): its secret is shown now and never again",
        key.id, key.spec.name, key.spec.tenant
    ));
    if let Some(until) = key.old_secrets_until.last() {
        output::talk(&format!("the secret before lets in until {}", time(Some(*until))));
    }
    match format {
        Output::Json => output::json(&issued)?,
        Output::Text => output::data(&issued.secret)?,
    }
    Ok(Exit::Done)
}

fn list(answer: Answer<KeyPage>, format: Output) -> anyhow::Result<Exit> {
    let page = match answer {
        Answer::Ok(page) => page,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&page)?,
        Output::Text if page.keys.is_empty() => output::talk("no keys"),
        Output::Text => {
            output::data(&table(&page.keys))?;
            if let Some(next) = &page.next {
                output::talk(&format!("more: the same with `--after {next}`"));
            }
        }
    }
    Ok(Exit::Done)
}
