//! Callers that go before the end, and those that have to be kept waiting.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use steadfast_providers::tokens;

use super::books::books;
use super::{World, asks};
use crate::http::post;

const BUDGET: &str = "[[budget]]\nscope = \"tenant\"\nwindow = \"whole\"\ntokens = 100000\n";

/// Sends a request; the socket, and the tokens that it may use.
fn ask(world: &World, stream: bool) -> (TcpStream, u64) {
    let (path, body) = asks("chat", stream, 100);
    let at = world.address();
    let mut socket = TcpStream::connect(at).expect("connects");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json\r\n\
         x-steadfast-tenant: acme\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("written");
    (socket, tokens::upper_bound(body.as_bytes()) + 100)
}

/// Asks, and goes once the provider has been reached.
fn ask_and_leave(world: &World, stream: bool) -> u64 {
    let (socket, bound) = ask(world, stream);
    until("the provider is reached", || (world.requests() > 0).then_some(()));
    drop(socket);
    bound
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happens that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What was charged, once nothing is held.
fn charged(world: &World) -> i64 {
    until("everything is charged", || {
        let (spent, held, charged) = books(world)?;
        (held == 0 && spent > 0).then(|| {
            assert_eq!(spent, charged, "the account is the sum of its entries");
            spent
        })
    })
}

#[test]
fn g9_a_call_whose_caller_has_gone_is_read_on_and_charged_with_what_the_provider_says() {
    for stream in [false, true] {
        let world = World::start(BUDGET);
        world.faults(&json!([{"every": 1, "kind": "latency", "ms": 500}]));
        ask_and_leave(&world, stream);
        assert_eq!(charged(&world), 48, "the provider says 40 and 8");
        assert_eq!(world.requests(), 1);
    }
}

#[test]
fn g9_a_call_that_is_ended_with_its_caller_is_charged_as_reserved_while_nothing_is_known() {
    let world = World::start(&format!("[gateway]\nhang_up = \"abort\"\n{BUDGET}"));
    world.faults(&json!([{"every": 1, "kind": "stall_before_first_byte"}]));
    let bound = ask_and_leave(&world, false);
    assert_eq!(charged(&world), i64::try_from(bound).expect("small"));
}

#[test]
fn g9_a_call_whose_caller_goes_while_it_waits_for_a_place_costs_nothing() {
    for stream in [false, true] {
        let world = World::start(&format!("[policies.\"model:*\"]\nconcurrency = 1\n{BUDGET}"));
        world.faults(&json!([{"every": 1, "kind": "stall_before_first_byte"}]));
        let (_first, bound) = ask(&world, stream);
        until("the provider is reached", || (world.requests() > 0).then_some(()));
        let (second, _) = ask(&world, stream);
        let bound = i64::try_from(bound).expect("small");
        until("both are held", || books(&world).filter(|books| *books == (0, 2 * bound, 0)));
        drop(second);
        until("one is given back", || books(&world).filter(|books| *books == (0, bound, 0)));
        assert_eq!(world.requests(), 1);
    }
}

#[test]
fn a_stream_that_does_not_begin_is_kept_alive_and_what_fails_then_is_told_within_it() {
    let config = "[gateway]\nkeep_alive = \"50ms\"\n[policies.\"model:*\"]\n\
                  retry = { max_retries = 0 }\nfirst_item_timeout = \"2s\"\n";
    let world = World::start(config);
    for (wire, end) in [("chat", "data: [DONE]"), ("messages", "event: message_stop")] {
        let (path, body) = asks(wire, true, 100);
        let ask = || post(world.address(), path, "application/json", &body);
        world.faults(&json!([{"every": 1, "kind": "latency", "ms": 500}]));
        let (status, text) = ask();
        assert_eq!(status, 200);
        assert!(text.contains(": keep-alive\n\n") && text.contains(end), "{text}");
        world.faults(&json!([{"every": 1, "kind": "stall_before_first_byte"}]));
        let (status, text) = ask();
        assert_eq!(status, 200, "it is out already");
        assert!(text.contains(": keep-alive\n\n") && text.contains("did not answer"), "{text}");
        assert!(!text.contains(end) && !text.ends_with("\r\n0\r\n\r\n"), "{text}");
    }
}
