//! The OpenAPI document, built from one table that a test holds against the router.

mod schemas;

use axum::Json;
use axum::extract::State;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, Type};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref,
    RefOr, Required, ResponseBuilder, Schema,
};

use self::schemas::{schemas, typed};
use super::ServerState;

/// One operation of the API.
struct Operation {
    method: HttpMethod,
    path: &'static str,
    summary: &'static str,
    /// Names of query parameters, each with its type and meaning.
    query: &'static [(&'static str, Type, &'static str)],
    /// The schema of the body.
    body: Option<&'static str>,
    /// Status, media type and content of the good answers.
    answers: &'static [(&'static str, &'static str, Answer)],
    /// The statuses of its problems, beside 403 and 500, which every operation may give.
    problems: &'static [&'static str],
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const STREAM: &str = "text/event-stream";

const SINCE: &str = "Only created at or after this time: RFC 3339, milliseconds since 1970, or how long ago \
                     (`2h`).";

const AFTER: (&str, Type, &str) = ("after", Type::Integer, "Only events after this one.");

type Query = (&'static str, Type, &'static str);

const WHOSE: &[Query] = &[
    ("tenant", Type::String, "Whose; `default` if absent."),
    ("agent", Type::String, "Of this agent of the tenant."),
    ("session", Type::String, "Of this session of the tenant."),
];

const FACTS_OF: &[Query] = &[
    ("tenant", Type::String, "Whose; `default` if absent."),
    ("agent", Type::String, "Of this agent of the tenant."),
    ("session", Type::String, "Of this session of the tenant."),
    ("prefix", Type::String, "Only keys that begin so."),
    ("after", Type::String, "The `next` of the page before."),
    ("limit", Type::Integer, "Facts on the page, 1 to 500; 100 if absent."),
];

const KEYS_OF: &[Query] = &[
    ("tenant", Type::String, "Only of this tenant."),
    ("after", Type::String, "The `next` of the page before."),
    ("limit", Type::Integer, "Keys on the page, 1 to 500; 100 if absent."),
];

const OPERATIONS: &[Operation] = &[
    Operation {
        method: HttpMethod::Get,
        path: "/api/v1/runs",
        summary: "Lists runs, newest first.",
        query: &[
            ("state", Type::String, "Only in these states, with commas between."),
            ("agent", Type::String, "Only of this agent."),
            ("tenant", Type::String, "Only of this tenant."),
            ("session", Type::String, "Only of this session."),
            ("tag", Type::String, "Only with this tag."),
            ("parent", Type::String, "Only started by this run."),
            ("problem", Type::String, "Only with `any` problem, or with these, commas between."),
            ("since", Type::String, SINCE),
            ("until", Type::String, "Only created before this time."),
            ("text", Type::String, "Only whose input holds each of these words, in any case."),
            ("before", Type::String, "The `next` of the page before."),
            ("limit", Type::Integer, "Rows on the page, 1 to 500; 50 if absent."),
        ],
        body: None,
        answers: &[("200", JSON, Answer::One("RunList"))],
        problems: &["400"],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/api/v1/runs",
        summary: "Submits a run. The answer is sent once the run is on disk; 200 if its key was known.",
        query: &[],
        body: Some("SubmitRun"),
        answers: &[("201", JSON, Answer::One("Run")), ("200", JSON, Answer::One("Run"))],
        problems: &["400", "404", "409", "413", "415", "503"],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/api/v1/runs/{id}",
        summary: "Shows a run with its whole answer or failure and its open calls.",
        query: &[],
        body: None,
        answers: &[("200", JSON, Answer::One("RunDetail"))],
        problems: &["400", "404"],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/api/v1/runs/{id}/events",
        summary: "Events of a run, oldest first; a live stream if `text/event-stream` is accepted.",
        query: &[AFTER, ("limit", Type::Integer, "Events on the page, 1 to 500; 100 if absent.")],
        body: None,
        answers: &[("200", JSON, Answer::One("EventPage"))],
        problems: &["400", "404"],
    },
    Operation {
        method: HttpMethod::Get,
        path: "/api/v1/runs/{id}/events/stream",
        summary: "Events of a run as they happen. Resumes after `Last-Event-ID`, ends with the run.",
        query: &[AFTER],
        body: None,
        answers: &[("200", STREAM, Answer::Text)],
        problems: &["400", "404"],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/api/v1/runs/{id}/cancel",
        summary: "Ends a run for good.",
        query: &[],
        body: Some("CancelRun"),
        answers: &[("200", JSON, Answer::One("Run"))],
        problems: &["400", "404", "409", "413", "415"],
    },
    Operation {
        method: HttpMethod::Post,
        path: "/api/v1/runs/{id}/resume",
        summary: "Lets a run go on that had failed, or wakes one that waits.",
        query: &[],
        body: Some("ResumeRun"),
        answers: &[("200", JSON, Answer::One("Run"))],
        problems: &["400", "404", "409", "413", "415"],
    },
    command(
        "/api/v1/runs/{id}/pause",
        "Puts a run aside until it is resumed: at once, or once its step under way has ended.",
        "PauseRun",
        &[("200", JSON, Answer::One("PausedRun"))],
    ),
    command(
        "/api/v1/runs/{id}/retry",
        "Lets a failed run go on from what it failed on, which is done again.",
        "RetryRun",
        &[("200", JSON, Answer::One("Run"))],
    ),
    command(
        "/api/v1/runs/{id}/fork",
        "Makes a new run with this one's history up to an event; 200 if its key was known.",
        "ForkRun",
        &[("201", JSON, Answer::One("Run")), ("200", JSON, Answer::One("Run"))],
    ),
    Operation {
        answers: &[("200", JSON, Answer::One("CheckpointList"))],
        problems: &["400", "404"],
        ..read(
            "/api/v1/runs/{id}/checkpoints",
            "Lists the checkpoints that are kept, newest first.",
        )
    },
    command(
        "/api/v1/runs/{id}/rollback",
        "Lets a run go on from an earlier event, after what came since is undone as far as it can be.",
        "RollbackRun",
        &[("200", JSON, Answer::One("RolledBackRun"))],
    ),
    command(
        "/api/v1/runs/{id}/answer",
        "Says whether the interrupted call took effect that the run asks about.",
        "AnswerCall",
        &[("200", JSON, Answer::One("AnsweredRun"))],
    ),
    Operation {
        method: HttpMethod::Post,
        path: "/api/v1/runs/{id}/signals",
        summary: "Says something to a run that is code; 200 if it was said before with this id.",
        query: &[],
        body: Some("SignalRun"),
        answers: &[("201", JSON, Answer::One("Run")), ("200", JSON, Answer::One("Run"))],
        problems: &["400", "404", "409", "413", "415"],
    },
    Operation {
        query: FACTS_OF,
        answers: &[("200", JSON, Answer::One("FactPage"))],
        problems: &["400"],
        ..read(
            "/api/v1/facts",
            "Lists what is remembered for a tenant, an agent or a session, by key.",
        )
    },
    Operation {
        query: WHOSE,
        answers: &[("200", JSON, Answer::One("Fact"))],
        problems: &["400", "404"],
        ..read("/api/v1/facts/{key}", "Shows a fact.")
    },
    Operation {
        method: HttpMethod::Put,
        query: WHOSE,
        body: Some("SetFact"),
        answers: &[("200", JSON, Answer::One("Fact"))],
        problems: &["400", "404", "413", "415"],
        ..read("/api/v1/facts/{key}", "Makes a fact true. The answer is sent once it is on disk.")
    },
    Operation {
        method: HttpMethod::Delete,
        query: WHOSE,
        answers: &[("204", TEXT, Answer::Text)],
        problems: &["400"],
        ..read("/api/v1/facts/{key}", "Forgets a fact.")
    },
    Operation {
        query: KEYS_OF,
        answers: &[("200", JSON, Answer::One("KeyPage"))],
        problems: &["400"],
        ..read("/api/v1/keys", "Lists the access keys by id, without any secret.")
    },
    Operation {
        method: HttpMethod::Post,
        body: Some("NewKey"),
        answers: &[("201", JSON, Answer::One("KeyWithSecret"))],
        problems: &["400", "413", "415"],
        ..read("/api/v1/keys", "Makes an access key. Its secret is in this answer and in no other.")
    },
    Operation {
        answers: &[("200", JSON, Answer::One("Key"))],
        problems: &["404"],
        ..read("/api/v1/keys/{key_id}", "Shows an access key, without any secret.")
    },
    Operation {
        method: HttpMethod::Patch,
        body: Some("EditKey"),
        answers: &[("200", JSON, Answer::One("Key"))],
        problems: &["400", "404", "409", "413", "415"],
        ..read(
            "/api/v1/keys/{key_id}",
            "Changes what is named of an access key; `null` takes away what may be absent.",
        )
    },
    Operation {
        method: HttpMethod::Post,
        body: Some("RotateKey"),
        answers: &[("200", JSON, Answer::One("KeyWithSecret"))],
        problems: &["400", "404", "409", "413", "415"],
        ..read(
            "/api/v1/keys/{key_id}/rotate",
            "Gives an access key another secret; the one before lets in for a grace period.",
        )
    },
    Operation {
        method: HttpMethod::Post,
        answers: &[("200", JSON, Answer::One("Key"))],
        problems: &["404"],
        ..read("/api/v1/keys/{key_id}/revoke", "Takes an access key back for good.")
    },
    Operation {
        answers: &[("200", JSON, Answer::List("Agent"))],
        ..read("/api/v1/agents", "Lists the configured agents.")
    },
    Operation {
        answers: &[("200", JSON, Answer::List("Schedule"))],
        ..read("/api/v1/schedules", "Lists the schedules with their next times and last runs.")
    },
    Operation {
        method: HttpMethod::Post,
        answers: &[("201", JSON, Answer::One("Run"))],
        problems: &["404", "503"],
        ..read("/api/v1/schedules/{name}/run", "Submits a schedule's run now, beside its times.")
    },
    Operation {
        answers: &[("200", JSON, Answer::One("GuardList"))],
        ..read("/api/v1/guards", "Lists the dependencies and how each is now.")
    },
    Operation {
        answers: &[("200", JSON, Answer::One("Guard"))],
        problems: &["404"],
        ..read("/api/v1/guards/{name}", "Shows a dependency with the policy in force.")
    },
    Operation {
        method: HttpMethod::Post,
        answers: &[("200", JSON, Answer::One("Guard"))],
        problems: &["400", "404"],
        ..read(
            "/api/v1/guards/{name}/{action}",
            "Forces a breaker: `open` refuses every call, `close` lets every call through, \
             `measure` does so and tells what it would do, `auto` gives it back to its own judgement.",
        )
    },
    Operation {
        answers: &[("200", JSON, Answer::Object)],
        ..read("/openapi.json", "This document.")
    },
    read("/healthz", "200 while the process lives."),
    Operation {
        problems: &["503"],
        ..read(
            "/readyz",
            "200 while new runs are accepted, 503 while the node drains or its store takes no writes.",
        )
    },
];

/// Bodies that may not be left out.
const REQUIRED_BODIES: [&str; 6] =
    ["SubmitRun", "SignalRun", "AnswerCall", "SetFact", "NewKey", "EditKey"];

/// What an answer holds.
enum Answer {
    /// An object of a named schema.
    One(&'static str),
    /// A list of them.
    List(&'static str),
    /// Any object.
    Object,
    /// Text.
    Text,
}

/// An operation that takes nothing and answers with a line of text.
const fn read(path: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: HttpMethod::Get,
        path,
        summary,
        query: &[],
        body: None,
        answers: &[("200", TEXT, Answer::Text)],
        problems: &[],
    }
}

/// An operation that does something with a run.
const fn command(
    path: &'static str,
    summary: &'static str,
    body: &'static str,
    answers: &'static [(&'static str, &'static str, Answer)],
) -> Operation {
    Operation {
        method: HttpMethod::Post,
        path,
        summary,
        query: &[],
        body: Some(body),
        answers,
        problems: &["400", "404", "409", "413", "415", "422", "503"],
    }
}

pub(super) async fn serve(State(state): State<ServerState>) -> Json<OpenApi> {
    Json(document(state.version))
}

/// The document.
pub(super) fn document(version: &str) -> OpenApi {
    let mut paths = PathsBuilder::new();
    for operation in OPERATIONS {
        let item = PathItem::new(operation.method.clone(), describe(operation));
        paths = paths.path(operation.path, item);
    }
    let info = InfoBuilder::new()
        .title("Steadfast")
        .version(version)
        .description(Some("Runs agents durably. Errors are problem details (RFC 9457)."));
    let components = schemas()
        .into_iter()
        .fold(ComponentsBuilder::new(), |all, (name, schema)| all.schema(name, schema));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

fn describe(operation: &Operation) -> OperationBuilder {
    let mut builder = OperationBuilder::new().summary(Some(operation.summary));
    for (name, meaning) in [
        ("id", "The run."),
        ("name", "The schedule, or the dependency: `model:NAME`, `tool:NAME` or `mcp:SERVER`."),
        ("key", "The fact's key."),
        ("key_id", "The access key's id: `k_` and ten letters."),
        ("action", "`open`, `close`, `measure` or `auto`."),
    ] {
        if operation.path.contains(&format!("{{{name}}}")) {
            let place = ParameterIn::Path;
            builder = builder.parameter(parameter(name, Type::String, meaning, place));
        }
    }
    for (name, kind, meaning) in operation.query {
        builder = builder.parameter(parameter(name, kind.clone(), meaning, ParameterIn::Query));
    }
    if let Some(body) = operation.body {
        let required =
            if REQUIRED_BODIES.contains(&body) { Required::True } else { Required::False };
        let content = Content::new(Some(Ref::from_schema_name(body)));
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(required));
        builder = builder.request_body(Some(body.build()));
    }
    for (status, media, schema) in operation.answers {
        let schema: RefOr<Schema> = match schema {
            Answer::One(name) => Ref::from_schema_name(*name).into(),
            Answer::List(name) => ArrayBuilder::new().items(Ref::from_schema_name(*name)).into(),
            Answer::Object => typed(Type::Object).into(),
            Answer::Text => typed(Type::String).into(),
        };
        let answer = ResponseBuilder::new().description("Done.");
        builder = builder.response(*status, answer.content(*media, Content::new(Some(schema))));
    }
    for status in operation.problems.iter().chain(&["403", "500"]) {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let answer = ResponseBuilder::new().description("Refused or failed; `code` says why.");
        builder = builder.response(*status, answer.content("application/problem+json", content));
    }
    builder
}

fn parameter(name: &str, kind: Type, meaning: &str, place: ParameterIn) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(meaning))
        .schema(Some(typed(kind)))
        .build()
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_the_routes_and_no_other() {
        let mut routes: Vec<_> =
            super::super::routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        routes.sort_unstable();
        let described: Vec<_> = document("0").paths.paths.into_keys().collect();
        assert_eq!(routes, described);
    }
}
