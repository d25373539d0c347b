//! What the API's bodies look like, as schemas.

use steadfast_runtime::{KeyState, RunEvent, Status};
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};

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
    ("parent", Type::String, false),
    ("priority", Type::Integer, true),
    ("session", Type::String, false),
    ("parent", Type::String, false),
    ("problem", Type::String, false),
    ("problem_since", Type::Integer, false),
    ("problem_detail", Type::String, false),
    ("input", Type::String, true),
    ("forked_from", Type::String, false),
    ("ending", Type::String, false),
    ("stop", Type::String, false),
    ("iterations", Type::Integer, true),
    ("input_tokens", Type::Integer, true),
    ("output_tokens", Type::Integer, true),
    ("model", Type::String, false),
    ("simulated", Type::Boolean, true),
    ("degraded", Type::Integer, true),
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
        .property("tags", ArrayBuilder::new().items(typed(Type::String)))
        .required("tags")
}

/// A run in full.
fn run_detail() -> ObjectBuilder {
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
    let waiting = object(&[
        ("since", Type::Integer, true),
        ("for", Type::String, true),
        ("before", Type::Integer, true),
        ("or_more", Type::Boolean, true),
        ("explain", Type::String, true),
    ]);
    run()
        .property("waiting", waiting)
        .property("output", nullable(Type::String))
        .property("failure", failure.property("stop", typed(Type::Object)))
        .property("open_calls", ArrayBuilder::new().items(open_call))
        .required("open_calls")
        .property("asked", typed(Type::Object))
        .property("origin", typed(Type::Object))
        .property("wake_at", nullable(Type::Integer))
        .property("active_ms", typed(Type::Integer))
        .required("active_ms")
}

fn verdict() -> ObjectBuilder {
    typed(Type::String).enum_values(Some(["happened", "did-not", "fail"]))
}

/// The checkpoints of a run.
fn checkpoints() -> ObjectBuilder {
    let checkpoint = object(&[
        ("seq", Type::Integer, true),
        ("at", Type::Integer, true),
        ("iterations", Type::Integer, false),
        ("problem", Type::String, false),
    ])
    .property("progress", typed(Type::Object));
    let list = ArrayBuilder::new().items(checkpoint);
    typed(Type::Object).property("checkpoints", list).required("checkpoints")
}

/// A run that goes back.
fn rolled_back() -> ObjectBuilder {
    let undo = object(&[
        ("call_id", Type::String, true),
        ("tool", Type::String, true),
        ("with", Type::String, true),
        ("arguments", Type::String, true),
        ("key", Type::String, true),
    ]);
    let left = object(&[("call_id", Type::String, true), ("tool", Type::String, true)]);
    run()
        .property("to", typed(Type::Integer))
        .required("to")
        .property("undo", ArrayBuilder::new().items(undo))
        .required("undo")
        .property("left", ArrayBuilder::new().items(left))
        .required("left")
}

/// A dependency's guard.
fn guard() -> ObjectBuilder {
    object(&[
        ("name", Type::String, true),
        ("explain", Type::String, true),
        ("breaker", Type::String, true),
        ("in_flight", Type::Integer, true),
        ("concurrency", Type::Integer, true),
        ("queued", Type::Integer, true),
        ("queue", Type::Integer, true),
        ("retrying", Type::Integer, true),
        ("drill", Type::Boolean, true),
        ("consecutive_failures", Type::Integer, true),
        ("failures_to_open", Type::Integer, true),
        ("window_calls", Type::Integer, true),
        ("window_failures", Type::Integer, true),
        ("window_slow", Type::Integer, true),
        ("would_refuse", Type::Boolean, true),
        ("trips", Type::Integer, true),
        ("stale", Type::Integer, true),
        ("next_probe_in_ms", Type::Integer, false),
        ("cooldown_ms", Type::Integer, false),
    ])
    .property("queued_by_priority", ArrayBuilder::new().items(typed(Type::Integer)))
    .property("requests_left", nullable(Type::Integer))
    .property("tokens_left", nullable(Type::Integer))
    .property("attempt_timeout_ms", typed(Type::Integer))
    .property("latency", typed(Type::Object))
    .property("counters", typed(Type::Object))
    .required("counters")
    .property("policy", typed(Type::Object))
}

/// A schedule as it stands.
fn schedule() -> ObjectBuilder {
    object(&[
        ("name", Type::String, true),
        ("cron", Type::String, true),
        ("timezone", Type::String, true),
        ("agent", Type::String, true),
        ("tenant", Type::String, true),
        ("catch_up", Type::String, true),
        ("overlap", Type::String, true),
        ("next", Type::Integer, false),
        ("last", Type::Integer, false),
        ("last_run", Type::String, false),
        ("last_state", Type::String, false),
    ])
}

/// Every schema, by name.
pub(super) fn schemas() -> Vec<(&'static str, ObjectBuilder)> {
    let list = |name: &str| ArrayBuilder::new().items(Ref::from_schema_name(name));
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
    let described = vec![
        ("Run", run()),
        ("RunDetail", run_detail()),
        ("RunList", runs.required("runs")),
        ("Event", event),
        ("EventPage", events.required("events")),
        ("Agent", agent),
        ("Schedule", schedule()),
        ("Guard", guard()),
        (
            "GuardList",
            object(&[("reload_problem", Type::String, false)])
                .property("guards", list("Guard"))
                .required("guards"),
        ),
        (
            "SubmitRun",
            object(&[
                ("agent", Type::String, true),
                ("input", Type::String, true),
                ("tenant", Type::String, false),
                ("priority", Type::Integer, false),
                ("key", Type::String, false),
                ("session", Type::String, false),
            ])
            .property("tags", ArrayBuilder::new().items(typed(Type::String))),
        ),
        ("CancelRun", object(&[("reason", Type::String, false)])),
        ("ResumeRun", object(&[])),
        (
            "SignalRun",
            // The payload is any JSON.
            object(&[("name", Type::String, true), ("id", Type::String, false)])
                .property("payload", ObjectBuilder::new().schema_type(SchemaType::AnyValue)),
        ),
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
    ];
    described.into_iter().chain(actions()).chain(facts()).chain(keys()).collect()
}

/// What one does with a run, and what it says.
fn actions() -> Vec<(&'static str, ObjectBuilder)> {
    vec![
        ("RetryRun", object(&[])),
        ("PauseRun", object(&[("reason", Type::String, false), ("now", Type::Boolean, false)])),
        ("PausedRun", run().property("paused", typed(Type::Boolean)).required("paused")),
        (
            "ForkRun",
            object(&[
                ("at", Type::Integer, false),
                ("input", Type::String, false),
                ("model", Type::String, false),
                ("instructions", Type::String, false),
                ("key", Type::String, false),
            ]),
        ),
        ("CheckpointList", checkpoints()),
        (
            "RollbackRun",
            object(&[
                ("to", Type::Integer, false),
                ("reason", Type::String, false),
                ("pause", Type::Boolean, false),
            ]),
        ),
        ("RolledBackRun", rolled_back()),
        (
            "AnswerCall",
            object(&[("call", Type::String, true), ("result", Type::String, false)])
                .property("verdict", verdict())
                .required("verdict"),
        ),
        ("AnsweredRun", run().property("taken", typed(Type::Boolean)).required("taken")),
    ]
}

/// What is remembered.
fn facts() -> Vec<(&'static str, ObjectBuilder)> {
    let any = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    vec![
        (
            "Fact",
            object(&[
                ("key", Type::String, true),
                ("version", Type::Integer, true),
                ("at", Type::Integer, true),
                ("expires_at", Type::Integer, false),
            ])
            .property("value", any())
            .required("value"),
        ),
        (
            "FactPage",
            object(&[("next", Type::String, false)])
                .property("facts", ArrayBuilder::new().items(Ref::from_schema_name("Fact")))
                .required("facts"),
        ),
        (
            "SetFact",
            object(&[("keep", Type::String, false)]).property("value", any()).required("value"),
        ),
    ]
}

/// Access keys.
fn keys() -> Vec<(&'static str, ObjectBuilder)> {
    let key = || {
        key_fields(object(KEY_FIELDS))
            .property(
                "state",
                typed(Type::String).enum_values(Some(KEY_STATES.map(KeyState::as_str))),
            )
            .required("state")
            .property("old_secrets_until", ArrayBuilder::new().items(typed(Type::Integer)))
            .required("old_secrets_until")
    };
    let edited = object(EDIT_FIELDS)
        .property("budget", or_null(budget()))
        .property("models", ArrayBuilder::new().items(typed(Type::String)))
        .property("labels", typed(Type::Object));
    vec![
        ("Key", key()),
        ("KeyWithSecret", key().property("secret", typed(Type::String)).required("secret")),
        (
            "KeyPage",
            object(&[("next", Type::String, false)])
                .property("keys", ArrayBuilder::new().items(Ref::from_schema_name("Key")))
                .required("keys"),
        ),
        ("NewKey", key_fields(object(NEW_KEY_FIELDS))),
        ("EditKey", edited),
        (
            "RotateKey",
            typed(Type::Object)
                .property("grace", typed(Type::String))
                .property("seen", nullable(Type::Integer)),
        ),
    ]
}

const KEY_STATES: [KeyState; 4] =
    [KeyState::Active, KeyState::Disabled, KeyState::Expired, KeyState::Revoked];

const KEY_FIELDS: &[(&str, Type, bool)] = &[
    ("id", Type::String, true),
    ("name", Type::String, true),
    ("tenant", Type::String, true),
    ("user", Type::String, false),
    ("agent", Type::String, false),
    ("expires_at", Type::Integer, false),
    ("disabled", Type::Boolean, true),
    ("created_at", Type::Integer, true),
    ("rotated_at", Type::Integer, false),
    ("revoked_at", Type::Integer, false),
    ("last_used_at", Type::Integer, false),
    ("secrets", Type::Integer, true),
];

const NEW_KEY_FIELDS: &[(&str, Type, bool)] = &[
    ("name", Type::String, true),
    ("tenant", Type::String, true),
    ("user", Type::String, false),
    ("agent", Type::String, false),
    ("expires_at", Type::Integer, false),
    ("disabled", Type::Boolean, false),
];

const EDIT_FIELDS: &[(&str, Type, bool)] = &[
    ("name", Type::String, false),
    ("user", Type::String, false),
    ("agent", Type::String, false),
    ("requests_per_minute", Type::Integer, false),
    ("tokens_per_minute", Type::Integer, false),
    ("at_once", Type::Integer, false),
    ("expires_at", Type::Integer, false),
    ("disabled", Type::Boolean, false),
];

/// What is more than a word of a key.
fn key_fields(key: ObjectBuilder) -> ObjectBuilder {
    let limits = object(&[
        ("requests_per_minute", Type::Integer, false),
        ("tokens_per_minute", Type::Integer, false),
        ("at_once", Type::Integer, false),
    ]);
    key.property("limits", limits)
        .property("budget", or_null(budget()))
        .property("models", ArrayBuilder::new().items(typed(Type::String)))
        .property("labels", typed(Type::Object))
}

fn budget() -> ObjectBuilder {
    object(&[
        ("window", Type::String, true),
        ("tokens", Type::Integer, false),
        ("usd", Type::String, false),
    ])
}

pub(super) fn typed(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

fn nullable(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

fn or_null(object: ObjectBuilder) -> ObjectBuilder {
    object.schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
}
