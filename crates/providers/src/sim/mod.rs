//! A simulated provider: an HTTP server that speaks the OpenAI and Anthropic wires and answers from a
//! script, for demonstrations and tests of everything in front of a model.
//!
//! It is open about itself: every response carries `x-steadfast-simulated: true`, and every answer
//! names the model `simulated/SCRIPT`. It keeps no state between requests but counters, records and
//! faults: where a conversation stands is read from the request alone, so a client may crash, retry
//! or start over at any point.
//!
//! # Paths
//!
//! `POST /v1/chat/completions`, `POST /v1/responses` and `POST /v1/messages`, plain and streaming;
//! `POST /v1/messages/count_tokens`, which counts what the script's step says; `POST /v1/embeddings`, with
//! vectors that are near for texts that share words; `GET /v1/models` and `GET /v1/models/NAME`;
//! `GET /sim` (status), `GET /sim/requests` (the records), `POST /sim/faults` (a JSON list of faults that
//! replaces the one in place).
//!
//! # Scripts
//!
//! Every key with its default is in `docs/sim.md`. In short:
//!
//! ```toml
//! name = "release"                    # letters, digits, `_`, `-`; at most 64
//!
//! [[entry]]                           # optional: where a turn begins; otherwise at the first step
//! when = "(?i)status"                 # regular expression over the last user message
//! goto = "end"
//!
//! [[step]]
//! name = "plan"                       # at most 40
//! text = "I look at the changes."     # optional if there are calls
//! calls = [{ tool = "list_changes", arguments = { limit = 20 } }]
//! usage = { input = 900, cached_input = 600, output = 40 }   # optional, tokens
//! next = [{ when = "no changes", goto = "end" }]  # over the results, a line each; first match wins
//!
//! [[step]]                            # a group: its steps once for each item
//! each = "changes"
//! [[step.steps]]
//! name = "check-{{index}}"
//! calls = [{ tool = "check", arguments = { file = "{{item.file}}" } }]
//! next = [{ when = "skip", goto = "@next-item" }, { when = "stop", goto = "@after" }]
//! [[step.steps]]
//! name = "apply-{{index}}"
//! text = "{{index}} of {{total}}: {{result.check-{{index}}#/summary}}"
//! calls = [{ tool = "apply", arguments = { level = "{{result.check-{{index}}#/level}}" } }]
//!
//! [[step]]                            # text without calls ends the turn
//! name = "end"
//! text = "Done."
//!
//! [data]
//! changes = [{ file = "a.txt" }, { file = "b.txt" }]
//!
//! [[fault]]
//! request = 3                         # or `every = 5`, or `step = "plan"`
//! times = 1                           # default: 1, and without end for `every`
//! kind = "status"                     # latency { ms } | status { code, retry_after } |
//! code = 529                          # stall_before_first_byte | stall_mid_stream { after_chunks } |
//! retry_after = 2                     # cut_stream { after_chunks } | cut_bytes { after_bytes } |
//!                                     # error_in_stream { after_chunks } | slow_first_token { ms } |
//!                                     # malformed_json
//! ```
//!
//! The last assistant message decides. If it holds calls of the script, their results choose between
//! the `next` of its step and the step that follows; otherwise the entries do. `@next-item` is the
//! group's first step for the next item and, at the last item, what follows the group; `@after` is
//! what follows the group.
//!
//! In groups `{{item.FIELD}}`, `{{index}}` (from 1) and `{{total}}` stand in names, texts, tools,
//! arguments, `goto` and, escaped, in `when`. Texts and arguments may also hold `{{result.STEP}}`, the
//! result of the first call of a step when it was last taken, and `{{result.STEP#/POINTER}}`, a value
//! in it, if it is JSON or has a JSON object in it. A string in arguments that is one reference to a
//! field or a pointer and nothing else takes the type of the value. A reference that the
//! conversation has nothing for is answered with HTTP 500, which names step and reference.

mod anthropic;
mod conversation;
mod embeddings;
mod fault;
mod openai;
#[cfg(test)]
mod page;
mod record;
mod reply;
mod responses;
mod script;
mod source;
mod template;
mod wires;

use std::future;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use fault::{Fault, FaultKind, FaultSelector};
pub use record::{MAX_RECORDS, Record};
pub use script::{Script, ScriptError};

use conversation::Conversation;
use fault::Faults;
use record::Records;
use reply::Head;
use script::{Refusal, Reply};
use wires::Asked;

use crate::wire::Wire;

/// The header that every response carries, with the value `true`.
pub const SIMULATED_HEADER: &str = "x-steadfast-simulated";

/// The largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// What errors on demand say.
const A_FAULT: &str = "a simulated fault";

/// How the simulated provider is set up.
#[derive(Clone, Debug, Default)]
pub struct SimOptions {
    /// A file to which every request is appended as a line of JSON, before it is answered.
    pub journal: Option<PathBuf>,
}

/// Why the simulated provider cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The journal cannot be opened.
    #[error("cannot open the journal `{path}` for appending")]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A fault names a step that the script does not have.
    #[error("{0}")]
    Faults(String),
}

/// A simulated provider. Clones share everything.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    script: Script,
    model: String,
    journal: Option<PathBuf>,
    state: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    records: Records,
    faults: Faults,
}

impl Sim {
    /// Prepares the provider and opens its journal; it listens to nothing yet.
    ///
    /// # Errors
    /// If the journal cannot be opened.
    pub fn new(script: Script, options: SimOptions) -> Result<Self, SimError> {
        let records = Records::open(options.journal.as_deref())?;
        let faults = Faults::new(script.faults().to_vec());
        let model = format!("simulated/{}", script.name());
        let state = Mutex::new(Ledger { records, faults });
        Ok(Self(Arc::new(Inner { script, model, journal: options.journal, state })))
    }

    /// The routes, for a listener that the caller opens.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/messages", post(messages))
            .route("/v1/responses", post(responses_route))
            .route("/v1/embeddings", post(embeddings_route))
            .route("/v1/messages/count_tokens", post(count_tokens))
            .route("/v1/models", get(models))
            .route("/v1/models/{*model}", get(model))
            .route("/sim", get(status))
            .route("/sim/requests", get(requests))
            .route("/sim/faults", post(replace_faults))
            .fallback(nowhere)
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .layer(map_response(mark))
            .with_state(self.clone())
    }

    /// The model's name in every answer: `simulated/` and the script's name.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.0.model
    }

    /// The latest [`MAX_RECORDS`] requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Record> {
        self.0.state.lock().records.kept().cloned().collect()
    }

    /// Puts other faults in place; requests count from 1 again for them.
    ///
    /// # Errors
    /// If a fault names a step that the script does not have. Then the old ones stay.
    pub fn set_faults(&self, faults: Vec<Fault>) -> Result<(), SimError> {
        self.0.script.check_faults(&faults).map_err(SimError::Faults)?;
        self.0.state.lock().faults = Faults::new(faults);
        Ok(())
    }

    async fn answer(&self, wire: Wire, headers: &HeaderMap, body: &[u8]) -> Response {
        let asked = Asked::read(wire, body);
        let planned = match &asked {
            Ok(Asked { inputs: Some(inputs), .. }) => (None, Ok(inputs.reply())),
            Ok(asked) => self.0.plan(&asked.conversation, body.len()),
            Err(problem) => (None, Err(Refusal { status: 400, message: problem.clone() })),
        };
        let (number, fault) = match self.record(wire, headers, asked.as_ref().ok(), &planned) {
            Ok(recorded) => recorded,
            Err(error) => {
                let message = format!("the simulated provider cannot write its journal: {error}");
                return reply::json(500, &wires::error(wire, 500, &message));
            }
        };
        match &fault {
            Some(FaultKind::Latency(wait)) => tokio::time::sleep(*wait).await,
            Some(FaultKind::StallBeforeFirstByte) => future::pending().await,
            Some(FaultKind::Status { code, retry_after }) => {
                let error = wires::error(wire, *code, A_FAULT);
                return reply::json_with_wait(*code, &error, *retry_after);
            }
            _ => {}
        }
        let created = jiff::Timestamp::now().as_second();
        let head = Head { number, created, model: self.0.model.clone() };
        match (asked, planned.1) {
            (Ok(asked), Ok(reply)) if asked.stream => {
                let events = wires::events(wire, &head, &reply, asked.with_usage);
                reply::streamed(events, fault.as_ref(), wires::error_event(wire, A_FAULT))
            }
            (Ok(asked), Ok(reply)) => {
                let answer = wires::plain(wire, &head, &reply, asked.inputs.as_ref());
                reply::plain(&answer, fault.as_ref(), &wires::error(wire, 500, A_FAULT))
            }
            (_, Err(refusal)) => {
                reply::json(refusal.status, &wires::error(wire, refusal.status, &refusal.message))
            }
            (Err(problem), Ok(_)) => reply::json(400, &wires::error(wire, 400, &problem)),
        }
    }

    /// Gives the request its number and its fault, and writes both down.
    fn record(
        &self,
        wire: Wire,
        headers: &HeaderMap,
        asked: Option<&Asked>,
        (step, planned): &Planned<'_>,
    ) -> std::io::Result<(u64, Option<FaultKind>)> {
        let key = headers.get("idempotency-key").map(|key| key.as_bytes());
        let mut state = self.0.state.lock();
        let number = state.records.number();
        let fault = state.faults.next(*step);
        state.records.keep(Record {
            number,
            path: wires::path(wire).to_owned(),
            model: asked.map(|asked| asked.model.clone()).unwrap_or_default(),
            idempotency_key: key.map(|key| String::from_utf8_lossy(key).into_owned()),
            stream: asked.is_some_and(|asked| asked.stream),
            messages: asked.map_or(0, |asked| asked.conversation.messages()),
            step: step.map(str::to_owned),
            fault: fault.as_ref().map(|fault| fault.label().to_owned()),
            problem: planned.as_ref().err().map(|refusal| refusal.message.clone()),
        })?;
        Ok((number, fault))
    }
}

/// The step that was chosen, if one was, and its answer.
type Planned<'a> = (Option<&'a str>, Result<Reply, Refusal>);

impl Inner {
    fn plan(&self, conversation: &Conversation, request_bytes: usize) -> Planned<'_> {
        match self.script.choose(conversation) {
            Ok(step) => (Some(step.name()), step.reply(conversation, request_bytes)),
            Err(refusal) => (None, Err(refusal)),
        }
    }
}

async fn chat_completions(State(sim): State<Sim>, headers: HeaderMap, body: Bytes) -> Response {
    sim.answer(Wire::Chat, &headers, &body).await
}

async fn responses_route(State(sim): State<Sim>, headers: HeaderMap, body: Bytes) -> Response {
    sim.answer(Wire::Responses, &headers, &body).await
}

async fn embeddings_route(State(sim): State<Sim>, headers: HeaderMap, body: Bytes) -> Response {
    sim.answer(Wire::Embeddings, &headers, &body).await
}

async fn messages(State(sim): State<Sim>, headers: HeaderMap, body: Bytes) -> Response {
    sim.answer(Wire::Messages, &headers, &body).await
}

async fn count_tokens(State(sim): State<Sim>, headers: HeaderMap, body: Bytes) -> Response {
    sim.answer(Wire::CountTokens, &headers, &body).await
}

/// The one model, with the fields of both wires.
fn entry(model: &str) -> Value {
    json!({
        "id": model,
        "object": "model",
        "created": 0,
        "owned_by": "steadfast",
        "type": "model",
        "display_name": format!("{model} (simulated)"),
        "created_at": "1970-01-01T00:00:00Z",
    })
}

async fn models(State(sim): State<Sim>) -> Response {
    let model = sim.model();
    let list = json!({
        "object": "list",
        "data": [entry(model)],
        "has_more": false,
        "first_id": model,
        "last_id": model,
    });
    reply::json(200, &list)
}

async fn model(State(sim): State<Sim>, Path(name): Path<String>) -> Response {
    if name == sim.model() {
        return reply::json(200, &entry(&name));
    }
    let message = format!("there is no model `{name}`; the only one is `{}`", sim.model());
    reply::json(404, &wires::error(Wire::Chat, 404, &message))
}

async fn status(State(sim): State<Sim>) -> Response {
    let inner = &sim.0;
    let steps: Vec<&str> = inner.script.step_names().collect();
    let (count, faults) = {
        let state = inner.state.lock();
        (state.records.count(), json!(state.faults.rules()))
    };
    let status = json!({
        "simulated": true,
        "script": inner.script.name(),
        "model": inner.model,
        "steps": steps,
        "requests": count,
        "faults": faults,
        "journal": inner.journal,
    });
    reply::json(200, &status)
}

async fn requests(State(sim): State<Sim>) -> Response {
    reply::json(200, &json!(sim.requests()))
}

async fn replace_faults(State(sim): State<Sim>, body: Bytes) -> Response {
    let refused = |problem: String| reply::json(400, &json!({"error": {"message": problem}}));
    let faults: Vec<Fault> = match serde_json::from_slice(&body) {
        Ok(faults) => faults,
        Err(error) => return refused(format!("the body is not a list of faults: {error}")),
    };
    match sim.set_faults(faults) {
        Ok(()) => reply::json(200, &json!({"faults": json!(sim.0.state.lock().faults.rules())})),
        Err(error) => refused(error.to_string()),
    }
}

async fn nowhere() -> Response {
    let message = "the simulated provider has no such path; see `GET /sim`";
    reply::json(404, &json!({"error": {"type": "not_found_error", "message": message}}))
}

async fn mark(mut response: Response) -> Response {
    response.headers_mut().insert(SIMULATED_HEADER, HeaderValue::from_static("true"));
    response
}
