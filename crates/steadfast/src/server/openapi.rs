//! The OpenAPI document, built from one table that a test holds against the router.

use axum::Json;
use axum::extract::State;
use steadfast_runtime::{RunEvent, Status};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref,
    RefOr, Required, ResponseBuilder, Schema,
};

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

const AFTER: (&str, Type, &str) = ("after", Type::Integer, "Only events after this one.");

const OPERATIONS: &[Operation] = &[
    Operation {
        method: HttpMethod::Get,
        path: "/api/v1/runs",
        summary: "Lists runs, newest first.",
        query: &[
            ("state", Type::String, "Only in these states, with commas between."),
            ("agent", Type::String, "Only of this agent."),
            ("tenant", Type::String, "Only of this tenant."),
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
        problems: &["400", "404", "413", "415", "503"],
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
    Operation {
        answers: &[("200", JSON, Answer::List("Agent"))],
        ..read("/api/v1/agents", "Lists the configured agents.")
    },
    Operation {
        answers: &[("200", JSON, Answer::List("Guard"))],
        ..read("/api/v1/guards", "Lists the dependencies and how each is protected now.")
    },
    Operation {
        answers: &[("200", JSON, Answer::Object)],
        ..read("/openapi.json", "This document.")
    },
    read("/healthz", "200 while the process lives."),
    Operation {
        problems: &["503"],
        ..read("/readyz", "200 while new runs are accepted, 503 while the node drains.")
    },
];

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
    if operation.path.contains("{id}") {
        builder = builder.parameter(parameter("id", Type::String, "The run.", ParameterIn::Path));
    }
    for (name, kind, meaning) in operation.query {
        builder = builder.parameter(parameter(name, kind.clone(), meaning, ParameterIn::Query));
    }
    if let Some(body) = operation.body {
        let required = if body == "SubmitRun" { Required::True } else { Required::False };
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

/// An object with its fields: name, type, whether it is always there. One that is not may be `null`.
fn object(fields: &[(&str, Type, bool)]) -> ObjectBuilder {
    fields.iter().fold(typed(Type::Object), |object, (name, kind, required)| {
        let field = if *required { typed(kind.clone()) } else { nullable(kind.clone()) };
        let object = object.property(*name, field);
        if *required { object.required(*name) } else { object }
    })
}

const RUN_FIELDS: &[(&str, Type, bool)] = &[
    ("id", Type::String, true),
    ("agent", Type::String, true),
    ("tenant", Type::String, true),
    ("priority", Type::Integer, true),
    ("input", Type::String, true),
    ("ending", Type::String, false),
    ("stop", Type::String, false),
    ("iterations", Type::Integer, true),
    ("input_tokens", Type::Integer, true),
    ("output_tokens", Type::Integer, true),
    ("model", Type::String, false),
    ("simulated", Type::Boolean, true),
    ("events", Type::Integer, true),
    ("epoch", Type::Integer, true),
    ("created_at", Type::Integer, true),
    ("updated_at", Type::Integer, true),
];

fn run() -> ObjectBuilder {
    let states = Status::ALL.map(Status::as_str);
    let progress = object(&[
        ("step", Type::Integer, true),
        ("total", Type::Integer, true),
        ("description", Type::String, true),
    ]);
    object(RUN_FIELDS)
        .property("state", typed(Type::String).enum_values(Some(states)))
        .required("state")
        .property("progress", or_null(progress))
}

fn schemas() -> Vec<(&'static str, ObjectBuilder)> {
    let list = |name: &str| ArrayBuilder::new().items(Ref::from_schema_name(name));
    let failure = object(&[
        ("how", Type::String, true),
        ("message", Type::String, false),
        ("by", Type::String, false),
        ("reason", Type::String, false),
    ]);
    let open_call = object(&[("key", Type::String, true)])
        .property("call", typed(Type::Object))
        .required("call")
        .property("state", typed(Type::Object))
        .required("state");
    let detail = run()
        .property("output", nullable(Type::String))
        .property("failure", failure.property("stop", typed(Type::Object)))
        .property("open_calls", ArrayBuilder::new().items(open_call))
        .required("open_calls")
        .property("wake_at", nullable(Type::Integer))
        .property("active_ms", typed(Type::Integer))
        .required("active_ms");
    let event = object(&[("seq", Type::Integer, true), ("at", Type::Integer, true)])
        .property("type", typed(Type::String).enum_values(Some(RunEvent::KINDS)))
        .required("type");
    let runs = object(&[("next", Type::String, false)]).property("runs", list("Run"));
    let events = object(&[("next", Type::Integer, false)]).property("events", list("Event"));
    let agent = object(&[
        ("name", Type::String, true),
        ("model", Type::String, true),
        ("max_iterations", Type::Integer, true),
    ])
    .property("tools", ArrayBuilder::new().items(typed(Type::String)))
    .required("tools");
    vec![
        ("Run", run()),
        ("RunDetail", detail),
        ("RunList", runs.required("runs")),
        ("Event", event),
        ("EventPage", events.required("events")),
        ("Agent", agent),
        ("Guard", object(&[("name", Type::String, true), ("explain", Type::String, true)])),
        (
            "SubmitRun",
            object(&[
                ("agent", Type::String, true),
                ("input", Type::String, true),
                ("tenant", Type::String, false),
                ("priority", Type::Integer, false),
                ("key", Type::String, false),
            ]),
        ),
        ("CancelRun", object(&[("reason", Type::String, false)])),
        ("ResumeRun", object(&[])),
        (
            "Problem",
            object(&[
                ("type", Type::String, true),
                ("title", Type::String, true),
                ("status", Type::Integer, true),
                ("detail", Type::String, true),
                ("code", Type::String, true),
            ]),
        ),
    ]
}

fn typed(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

fn nullable(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

fn or_null(object: ObjectBuilder) -> ObjectBuilder {
    object.schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
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
