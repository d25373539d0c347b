//! A stream that is cut anywhere never looks whole to its reader.

use serde_json::{Value, json};

use super::{World, asks};
use crate::http::whole;

const ONCE: &str = "[policies.\"model:*\"]\nretry = { max_retries = 0 }\n\
                    breaker = { consecutive_failures = 1000000, min_calls = 1000000 }\n";

/// Short, so that every byte can be a cut.
const SCRIPT: &str = "name = \"m\"\n[[step]]\nname = \"end\"\ntext = \"Hi.\"\n\
                      usage = { input = 4, output = 2 }\n";

/// What ends a whole answer.
fn terminator(wire: &str) -> &'static str {
    if wire == "messages" { "event: message_stop" } else { "data: [DONE]" }
}

fn ask(world: &World, wire: &str) -> (u16, String) {
    let (path, body) = asks(wire, true, 100);
    let at = world.address();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json");
    let (status, _, text) = whole(at, &head, body.as_bytes());
    (status, text)
}

/// Whether a chunked body has its last chunk.
fn ends_cleanly(body: &str) -> bool {
    body.ends_with("\r\n0\r\n\r\n")
}

#[test]
fn g9_a_stream_cut_at_any_byte_is_an_error_and_never_a_clean_end() {
    let world = World::of(SCRIPT, ONCE);
    for wire in ["chat", "messages"] {
        let (status, text) = ask(&world, wire);
        assert!(status == 200 && ends_cleanly(&text) && text.contains(terminator(wire)), "{text}");
        let length = text.len();
        let cuts: Vec<Value> = (0..length)
            .map(|at| json!({"request": at + 1, "kind": "cut_bytes", "after_bytes": at}))
            .collect();
        world.faults(&json!(cuts));
        let (mut refused, mut broken) = (0, 0);
        for at in 0..length {
            let (status, text) = ask(&world, wire);
            if status == 200 {
                assert!(!ends_cleanly(&text), "{wire}, cut at {at}: {text}");
                assert!(!text.contains(terminator(wire)), "{wire}, cut at {at}: {text}");
                let is_told = text.contains("data: {\"error\"") || text.contains("event: error");
                assert!(is_told, "{wire}, cut at {at}: {text}");
                broken += 1;
            } else {
                assert_eq!(status, 502, "{wire}, cut at {at}: {text}");
                refused += 1;
            }
        }
        assert!(refused > 50 && broken > 50, "{wire}: {refused} refused, {broken} broken off");
        world.faults(&json!([]));
        assert!(ends_cleanly(&ask(&world, wire).1));
    }
}
