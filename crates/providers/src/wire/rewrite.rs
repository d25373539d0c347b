//! A request with a few bytes exchanged: prompt caches and signatures depend on all the others.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use super::Wire;
use super::object::{Object, is_null, place, room_at_end};
use super::peek::output_limits;
use crate::tokens;

/// What is to change in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The model, as the provider names it.
    pub model: Option<String>,
    /// Asks for the usage of a streamed chat: without it most calls could not be charged. Other wires
    /// have no such switch.
    pub include_usage: bool,
    /// The longest answer in tokens, instead of what the request says.
    pub max_output: Option<u64>,
}

struct Edit {
    at: Range<usize>,
    text: String,
}

/// The request with these changes. All other bytes are as they were: order, white space, unknown fields
/// and duplicates; without a change, the very same `Bytes`. A body that is no JSON object comes back as
/// it is, for [`Peek`](super::Peek) refuses it.
#[must_use]
pub fn rewrite(wire: Wire, body: &Bytes, change: &Rewrite) -> Bytes {
    let Ok(object) = Object::read(body) else { return body.clone() };
    let mut edits = Vec::new();
    let mut added = Vec::new();
    let mut set = |name: &str, text: String, edits: &mut Vec<Edit>| {
        let before = edits.len();
        edits.extend(
            object.all(name).map(|value| Edit { at: place(body, value), text: text.clone() }),
        );
        if edits.len() == before {
            added.push(format!("\"{name}\":{text}"));
        }
    };
    if let Some(model) = &change.model {
        set("model", quoted(model), &mut edits);
    }
    if let Some(limit) = change.max_output {
        let present = |name: &&&str| object.all(name).next().is_some();
        let names: Vec<&str> = output_limits(wire).iter().filter(present).copied().collect();
        let names = if names.is_empty() { added_limit(wire, &object, change) } else { names };
        for name in names {
            set(name, limit.to_string(), &mut edits);
        }
    }
    if change.include_usage && wire == Wire::Chat {
        match object.last("stream_options").filter(|value| !is_null(value)) {
            None => set("stream_options", r#"{"include_usage":true}"#.to_owned(), &mut edits),
            Some(_) => {
                for options in object.all("stream_options") {
                    edits.extend(with_usage(body, options));
                }
            }
        }
    }
    if !added.is_empty() {
        let (at, follows) = room_at_end(&object, body);
        let text = format!("{}{}", if follows { "," } else { "" }, added.join(","));
        edits.push(Edit { at: at..at, text });
    }
    apply(body, edits)
}

/// The name of a limit that the request does not have: OpenAI's reasoning models refuse `max_tokens`;
/// many compatible servers know nothing else.
fn added_limit(wire: Wire, object: &Object<'_>, change: &Rewrite) -> Vec<&'static str> {
    if wire != Wire::Chat {
        return output_limits(wire).to_vec();
    }
    let asked = object.last("model").and_then(|value| serde_json::from_str(value.get()).ok());
    let model = change.model.clone().or(asked).unwrap_or_default();
    vec![if tokens::is_o200k(&model) { "max_completion_tokens" } else { "max_tokens" }]
}

/// Turns `include_usage` on in stream options; what is no object is the provider's to refuse.
fn with_usage(body: &[u8], options: &RawValue) -> Vec<Edit> {
    let Ok(inner) = Object::read(options.get().as_bytes()) else { return Vec::new() };
    let edits: Vec<Edit> = inner
        .all("include_usage")
        .map(|value| Edit { at: place(body, value), text: "true".to_owned() })
        .collect();
    if !edits.is_empty() {
        return edits;
    }
    let whole = place(body, options);
    let (at, follows) = room_at_end(&inner, &body[whole.clone()]);
    let at = whole.start + at;
    let comma = if follows { "," } else { "" };
    vec![Edit { at: at..at, text: format!("{comma}\"include_usage\":true") }]
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn apply(body: &Bytes, mut edits: Vec<Edit>) -> Bytes {
    edits.retain(|edit| body[edit.at.clone()] != *edit.text.as_bytes());
    if edits.is_empty() {
        return body.clone();
    }
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    let grown: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + grown);
    let mut done = 0;
    for Edit { at, text } in edits {
        out.extend_from_slice(&body[done..at.start]);
        out.extend_from_slice(text.as_bytes());
        done = at.end;
    }
    out.extend_from_slice(&body[done..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn check(wire: Wire, change: &Rewrite, body: &str, expected: &str) {
        let got = rewrite(wire, &Bytes::copy_from_slice(body.as_bytes()), change);
        assert_eq!(std::str::from_utf8(&got).unwrap(), expected);
    }

    #[test]
    fn only_what_is_told_changes_and_everything_else_keeps_its_bytes() {
        let change =
            Rewrite { model: Some("b\"".into()), include_usage: true, max_output: Some(5) };
        check(
            Wire::Chat,
            &change,
            "{ \"x\" : 1.0e0,\n\"model\" :  \"a\" , \"x\":\"\\u00e9\",\"max_tokens\":null, \"stream_options\" : { } }",
            "{ \"x\" : 1.0e0,\n\"model\" :  \"b\\\"\" , \"x\":\"\\u00e9\",\"max_tokens\":5, \"stream_options\" : { \"include_usage\":true} }",
        );
        check(
            Wire::Chat,
            &change,
            r#"{"model":"a","model":"c","max_tokens":9,"max_completion_tokens":8,"stream_options":{"include_usage":false,"y":1}}"#,
            r#"{"model":"b\"","model":"b\"","max_tokens":5,"max_completion_tokens":5,"stream_options":{"include_usage":true,"y":1}}"#,
        );
        check(
            Wire::Chat,
            &Rewrite { include_usage: true, ..Rewrite::default() },
            "{\"a\":1 }\n",
            "{\"a\":1,\"stream_options\":{\"include_usage\":true} }\n",
        );
        check(
            Wire::Chat,
            &change,
            "{}",
            r#"{"model":"b\"","max_tokens":5,"stream_options":{"include_usage":true}}"#,
        );
    }

    #[test]
    fn the_limit_has_the_name_that_the_wire_and_the_model_know() {
        let limit = |model: &str| Rewrite {
            model: Some(model.into()),
            include_usage: true,
            max_output: Some(5),
        };
        check(
            Wire::Responses,
            &limit("m"),
            r#"{"model":"a"}"#,
            r#"{"model":"m","max_output_tokens":5}"#,
        );
        check(Wire::Messages, &limit("m"), r#"{"model":"a"}"#, r#"{"model":"m","max_tokens":5}"#);
        check(Wire::Embeddings, &limit("m"), r#"{"model":"a"}"#, r#"{"model":"m"}"#);
        let usage = r#""stream_options":{"include_usage":true}"#;
        check(
            Wire::Chat,
            &limit("gpt-5.4-mini"),
            r#"{"model":"a"}"#,
            &format!(r#"{{"model":"gpt-5.4-mini","max_completion_tokens":5,{usage}}}"#),
        );
        check(
            Wire::Chat,
            &limit("llama"),
            r#"{"model":"a"}"#,
            &format!(r#"{{"model":"llama","max_tokens":5,{usage}}}"#),
        );
    }

    #[test]
    fn a_request_that_already_is_so_is_not_copied() {
        let body = Bytes::from_static(
            br#"{"model":"a","stream_options":{"include_usage":true},"max_tokens":5}"#,
        );
        let change = Rewrite { model: Some("a".into()), include_usage: true, max_output: Some(5) };
        let same = rewrite(Wire::Chat, &body, &change);
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()));
        let odd = Bytes::from_static(br#"{"stream_options":5}"#);
        let usage = Rewrite { include_usage: true, ..Rewrite::default() };
        assert_eq!(rewrite(Wire::Chat, &odd, &usage), odd);
        assert_eq!(rewrite(Wire::Chat, &Bytes::from_static(b"[]"), &usage), "[]");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a-zé\"\\\\\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            let name = "[a-c\"é]{1,2}";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_rewritten_request_is_the_request_but_for_the_change(
            mut fields in proptest::collection::btree_map("[a-e\"é]{1,3}", json(), 0..6),
            model in "[a-z\"é]{0,5}",
            limit in 0_u64..100,
            pretty in any::<bool>(),
        ) {
            fields.insert("model".to_owned(), "before".into());
            let before = Value::Object(fields.clone().into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&before) } else { serde_json::to_string(&before) };
            let change = Rewrite { model: Some(model.clone()), include_usage: true, max_output: Some(limit) };
            let after = rewrite(Wire::Chat, &Bytes::from(text.unwrap()), &change);
            let mut expected = before;
            expected["model"] = model.into();
            expected["max_tokens"] = limit.into();
            expected["stream_options"] = serde_json::json!({"include_usage": true});
            prop_assert_eq!(serde_json::from_slice::<Value>(&after).unwrap(), expected);
            prop_assert_eq!(rewrite(Wire::Chat, &after, &change), after);
        }
    }
}
