//! The OpenAPI document, held against what the server really answers.

use serde_json::{Value, json};

use crate::http::{get, post, serve, whole};
use crate::program::example;

/// The schema that the document gives for an answer, with the document's own references.
fn validator(document: &Value, method: &str, path: &str, status: &str) -> jsonschema::Validator {
    let answer = &document["paths"][path][method]["responses"][status]["content"];
    let content = answer.as_object().and_then(|content| content.values().next());
    let schema = content.map(|content| &content["schema"]);
    let schema = schema.unwrap_or_else(|| panic!("{method} {path} does not document {status}"));
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

fn check(document: &Value, (method, path, status): (&str, &str, u16), body: &str) {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let validator = validator(document, method, path, &status.to_string());
    let errors: Vec<_> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path} {status}: {errors:?} in {body}");
}

/// A named schema of the document.
fn component(document: &Value, name: &str) -> jsonschema::Validator {
    let mut schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

/// The same document, but an answer may hold no field that is not described. Events have fields of
/// their kind beside those of every event.
fn strict(mut document: Value) -> Value {
    let schemas = document["components"]["schemas"].as_object_mut().expect("schemas");
    for (name, schema) in schemas {
        if name != "Event" {
            schema["additionalProperties"] = Value::Bool(false);
        }
    }
    document
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn what_the_server_answers_is_what_its_document_says() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let at = server.address.as_str();
    let document: Value =
        serde_json::from_str(&get(at, "/openapi.json").body).expect("the document is JSON");
    let document = strict(document);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference into the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }

    let kind = "application/json";
    let (runs, one) = ("/api/v1/runs", "/api/v1/runs/{id}");
    let order = json!({ "agent": "report", "input": "go", "key": "k" }).to_string();
    let (status, body) = post(at, runs, kind, &order);
    check(&document, ("post", runs, status), &body);
    assert_eq!(status, 201);
    let id = serde_json::from_str::<Value>(&body).expect("JSON")["id"].clone();
    let id = id.as_str().expect("an id");
    let (status, body) = post(at, runs, kind, &order);
    assert_eq!(status, 200, "the key is known");
    check(&document, ("post", runs, status), &body);
    let other = json!({ "agent": "report", "input": "stop", "key": "k" }).to_string();
    let (status, body) = post(at, runs, kind, &other);
    check(&document, ("post", runs, status), &body);

    let at_id = |rest: &str| format!("{runs}/{id}{rest}");
    let event = component(&document, "Event");
    for sent in crate::http::EventStream::open(at, &at_id("/events/stream"), "") {
        let body: Value = serde_json::from_str(&sent.data).expect("JSON");
        assert!(event.is_valid(&body), "{body}");
        assert_eq!((body["seq"].to_string(), &body["type"]), (sent.id, &sent.event.into()));
    }
    for (path, real) in [
        (runs, runs.to_owned()),
        (one, at_id("")),
        ("/api/v1/runs/{id}/events", at_id("/events")),
        ("/api/v1/runs/{id}/events", at_id("/events?after=2&limit=3")),
        ("/api/v1/runs/{id}/events", at_id("/events?limit=0")),
        (runs, format!("{runs}?state=none")),
        (one, format!("{runs}/nonsense")),
        (one, format!("{runs}/00000000-0000-7000-8000-000000000000")),
        ("/api/v1/agents", "/api/v1/agents".to_owned()),
        ("/api/v1/guards", "/api/v1/guards".to_owned()),
        ("/openapi.json", "/openapi.json".to_owned()),
    ] {
        let answer = get(at, &real);
        check(&document, ("get", path, answer.status), &answer.body);
    }
    for (command, body) in [("cancel", "{}"), ("resume", "{}"), ("cancel", "{"), ("resume", "[]")] {
        let path = format!("{runs}/{{id}}/{command}");
        let (status, body) = post(at, &at_id(&format!("/{command}")), kind, body);
        check(&document, ("post", &path, status), &body);
        assert!(status >= 400, "it is over");
    }
}

#[test]
fn what_is_answered_about_keys_is_what_the_document_says() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let at = server.address.as_str();
    let document: Value = serde_json::from_str(&get(at, "/openapi.json").body).expect("JSON");
    let document = strict(document);
    let (keys, one) = ("/api/v1/keys", "/api/v1/keys/{key_id}");
    let order = json!({
        "name": "ci", "tenant": "acme", "user": "ann", "agent": "report", "models": ["a", "b-*"],
        "limits": { "requests_per_minute": 60, "tokens_per_minute": 1000, "at_once": 2 },
        "budget": { "window": "day", "tokens": 5000, "usd": "12.50" },
        "expires_at": 4_000_000_000_000_u64, "disabled": false, "labels": { "team": "x" },
    });
    assert!(component(&document, "NewKey").is_valid(&order), "{order}");
    let kind = "application/json";
    let (status, body) = post(at, keys, kind, &order.to_string());
    check(&document, ("post", keys, status), &body);
    assert_eq!(status, 201, "{body}");
    let made: Value = serde_json::from_str(&body).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    let (status, body) = post(at, keys, kind, r#"{"name":"bare","tenant":"t"}"#);
    check(&document, ("post", keys, status), &body);
    let real = format!("{keys}/{id}");
    for (path, real) in
        [(keys, format!("{keys}?limit=1")), (one, real.clone()), (one, format!("{keys}/x"))]
    {
        let answer = get(at, &real);
        check(&document, ("get", path, answer.status), &answer.body);
    }
    let edit =
        json!({ "user": null, "at_once": 3, "budget": null, "labels": {}, "expires_at": null });
    assert!(component(&document, "EditKey").is_valid(&edit), "{edit}");
    let head = format!("PATCH {real} HTTP/1.1\r\nhost: {at}\r\ncontent-type: {kind}");
    let (status, _, body) = whole(at, &head, edit.to_string().as_bytes());
    check(&document, ("patch", one, status), &body);
    assert_eq!(status, 200, "{body}");
    for (action, body, expected) in [
        ("rotate", r#"{"grace":"1h","seen":1}"#, 200),
        ("rotate", r#"{"grace":"1h","seen":1}"#, 409),
        ("rotate", "", 200),
        ("revoke", "", 200),
        ("rotate", "", 409),
    ] {
        let (status, body) = post(at, &format!("{real}/{action}"), kind, body);
        assert_eq!(status, expected, "{action}: {body}");
        check(&document, ("post", &format!("{one}/{action}"), status), &body);
    }
}

#[test]
fn a_route_takes_the_methods_of_the_document_and_no_other() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let at = server.address.as_str();
    let document: Value = serde_json::from_str(&get(at, "/openapi.json").body).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    for (path, item) in paths {
        let real = path.replace("{id}", "00000000-0000-7000-8000-000000000000");
        let (status, head, body) =
            whole(at, &format!("OPTIONS {real} HTTP/1.1\r\nhost: {at}"), b"");
        assert_eq!(status, 405, "{path}: {body}");
        assert!(body.contains("wrong_method"), "{body}");
        let allowed = head.lines().find_map(|line| line.strip_prefix("allow: "));
        let mut allowed: Vec<_> = allowed.expect("what is allowed").split(',').collect();
        allowed.retain(|method| *method != "head");
        allowed.sort_unstable();
        let mut described: Vec<_> = item.as_object().expect("an item").keys().collect();
        described.sort_unstable();
        assert_eq!(allowed, described, "{path}");
    }
}
