//! The gateway: programs in any language ask models here with the SDK that they have, by its base URL alone.
//!
//! It reads a request, says who pays, hands the bytes to the runtime's relay and tells what comes back in
//! the caller's dialect. What is decided about a call is decided by the relay. Statuses and headers are
//! those of `docs/gateway.md`; SDKs go by them when they repeat a call.

mod answer;
mod body;
mod caller;
mod stream;

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use steadfast_providers::wire::{
    Dialect, Failure, FailureKind, ListedModel, Wire, model_body, models_body,
};
use steadfast_runtime::relay::{Piece, RelayCall};
use steadfast_store::EntryId;

use crate::config::GatewaySection;
use crate::server::ServerState;
use answer::{json, refused, whole};
use caller::Caller;
use stream::Told;

/// The routes, each also without `/v1`: some SDKs have it in their base URL and some in their paths.
pub(crate) fn router() -> Router<ServerState> {
    let asked =
        ["/chat/completions", "/responses", "/embeddings", "/messages", "/messages/count_tokens"];
    ["", "/v1"].into_iter().fold(Router::new(), |router, prefix| {
        let router = asked
            .iter()
            .fold(router, |router, path| router.route(&format!("{prefix}{path}"), post(ask)));
        router
            .route(&format!("{prefix}/models"), get(models))
            .route(&format!("{prefix}/models/{{*id}}"), get(model))
    })
}

/// A call's id, in the headers of its answer and in the log.
fn new_id() -> String {
    format!("req_{}", EntryId::generate())
}

async fn ask(State(state): State<ServerState>, uri: Uri, request: Request) -> Response {
    // Only paths of wires lead here.
    let wire = Wire::at(uri.path()).unwrap_or(Wire::Chat);
    let id = new_id();
    let repeated = is_repeated(request.headers());
    match answer(&state, wire, request, &id).await {
        Ok(response) => response,
        Err(mut failure) => {
            failure.tried |= repeated;
            refused(wire.dialect(), *failure, &id)
        }
    }
}

async fn answer(
    state: &ServerState,
    wire: Wire,
    request: Request,
    id: &str,
) -> Result<Response, Box<Failure>> {
    let (Parts { headers, .. }, body) = request.into_parts();
    let options = state.gateway;
    let caller = identify(state, &headers).await?;
    let body = body::read(body, options.body_bytes_max).await?;
    let admitted = caller.admit(state.runtime.keys(), wire, &body)?;
    let Caller { payer, key } = caller;
    let patience = patience(&headers);
    let call = RelayCall {
        wire,
        request_id: id.to_owned(),
        payer,
        key,
        admitted,
        within: patience,
        // Comments come before its patience ends, and keep the caller of a stream waiting.
        first_within: patience.filter(|patience| *patience <= options.keep_alive),
        repeated: is_repeated(&headers),
        hang_up: options.hang_up(),
        headers,
        body,
    };
    relayed(state, call, options).await
}

async fn relayed(
    state: &ServerState,
    call: RelayCall,
    options: GatewaySection,
) -> Result<Response, Box<Failure>> {
    let (wire, id) = (call.wire, call.request_id.clone());
    let mut relaying = state.runtime.relay().begin(call)?;
    let first = if relaying.stream {
        tokio::time::timeout(options.keep_alive, relaying.pieces.recv()).await.ok()
    } else {
        Some(relaying.pieces.recv().await)
    };
    match first {
        Some(Some(Piece::Whole(answer))) => Ok(whole(wire.dialect(), answer, &id)),
        Some(Some(Piece::Open(headers))) => {
            Ok(Told::new(wire, relaying.pieces, options.keep_alive, &id).response(headers))
        }
        Some(Some(Piece::Refused(failure))) => Err(failure),
        // From here on the status is out, and what fails is told within the stream.
        None => {
            let told = Told::new(wire, relaying.pieces, options.keep_alive, &id);
            Ok(told.response(HeaderMap::new()))
        }
        Some(_) => Err(stopping().into()),
    }
}

/// The node ends before the answer came.
fn stopping() -> Failure {
    Failure::new(FailureKind::Overloaded, "this node is stopping: ask another one, or in a moment")
}

/// How long the caller waits, as its SDK says.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let names = ["x-stainless-read-timeout", "x-stainless-timeout"];
    let said = names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    let seconds: f64 = said?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero())
}

/// Whether the caller's SDK is repeating the call.
fn is_repeated(headers: &HeaderMap) -> bool {
    let count = headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok());
    count.and_then(|count| count.trim().parse::<u32>().ok()).is_some_and(|count| count > 0)
}

/// In whose format lists of models are told.
fn dialect(headers: &HeaderMap) -> Dialect {
    let names = ["anthropic-version", "x-api-key"];
    if names.iter().any(|name| headers.contains_key(*name)) {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

async fn identify(state: &ServerState, headers: &HeaderMap) -> Result<Caller, Box<Failure>> {
    let now = state.runtime.store().now();
    Caller::identify(headers, state.runtime.keys(), now, state.gateway.keys_required()).await
}

/// The models that a caller may ask.
fn listed(state: &ServerState, caller: &Caller) -> Vec<ListedModel> {
    let mut models = state.runtime.relay().models();
    models.retain(|model| caller.key.as_ref().is_none_or(|key| key.allows(&model.id)));
    models
}

async fn models(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    let (dialect, id) = (dialect(&headers), new_id());
    match identify(&state, &headers).await {
        Ok(caller) => json(dialect, models_body(dialect, &listed(&state, &caller)), &id),
        Err(failure) => refused(dialect, *failure, &id),
    }
}

async fn model(
    State(state): State<ServerState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (dialect, id) = (dialect(&headers), new_id());
    let model = identify(&state, &headers).await.and_then(|caller| {
        listed(&state, &caller).into_iter().find(|model| model.id == name).ok_or_else(|| {
            let message = format!("there is no model `{name}`; `GET /v1/models` lists them");
            Box::new(Failure::new(FailureKind::UnknownModel, message))
        })
    });
    match model {
        Ok(model) => json(dialect, model_body(dialect, &model), &id),
        Err(failure) => refused(dialect, *failure, &id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn what_an_sdk_says_of_its_patience_and_its_retries_is_read_and_nonsense_is_not() {
        for (name, value, seconds) in [
            ("x-stainless-read-timeout", "600", Some(600.0)),
            ("x-stainless-timeout", " 2.5", Some(2.5)),
            ("x-stainless-read-timeout", "0", None),
            ("x-stainless-read-timeout", "-1", None),
            ("x-stainless-read-timeout", "NaN", None),
            ("x-stainless-read-timeout", "not-given", None),
        ] {
            let read = patience(&headers(name, value));
            assert_eq!(read, seconds.map(Duration::from_secs_f64), "{value}");
        }
        for (value, repeated) in [("0", false), ("1", true), ("x", false), ("", false)] {
            assert_eq!(is_repeated(&headers("x-stainless-retry-count", value)), repeated);
        }
    }
}
