//! What is spent and reserved stays within a budget at every moment, and the books balance afterwards.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_providers::tokens;

use super::{World, asks};

const CALLERS: u64 = 200;
const FIT: u64 = 50;
const MAX_TOKENS: u64 = 400;

/// Sends a request and reads until the answer has begun with content, or is over. The socket stays open.
fn open(at: &str, path: &str, body: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(at).expect("connects");
    // Not a measure of speed: without it an answer that never comes would hang the suite.
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("sets a limit");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json\r\n\
         x-steadfast-tenant: acme\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).expect("written");
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece).expect("reads");
        seen.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&seen);
        let is_open = text.starts_with("HTTP/1.1 200") && text.contains("data: ");
        if read == 0 || is_open || text.contains("resets_at") {
            return (socket, text.into_owned());
        }
    }
}

/// Spent and held tokens of tenant `acme`, and what all charges come to; `None` before there is an account.
pub(super) fn books(world: &World) -> Option<(i64, i64, i64)> {
    let store = rusqlite::Connection::open(world.folder.join("steadfast.db")).expect("opens");
    store.busy_timeout(Duration::from_secs(10)).expect("waits");
    let account = "SELECT spent_tokens, held_tokens FROM account WHERE name LIKE 'tenant%acme%' \
                   AND (spent_tokens > 0 OR held_tokens > 0) ORDER BY pos LIMIT 1";
    let account = store.query_row(account, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (spent, held) = account.ok()?;
    let charged = "SELECT coalesce(sum(tokens), 0) FROM entry";
    let charged = store.query_row(charged, [], |row| row.get(0)).expect("entries");
    Some((spent, held, charged))
}

#[test]
fn g9_200_streams_at_once_never_pass_a_budget_that_fits_50_and_the_books_balance() {
    let (path, body) = asks("chat", true, MAX_TOKENS);
    let body = body.replace("\"hello\"", "\"hello, all of you\"");
    let each = tokens::upper_bound(body.as_bytes()) + MAX_TOKENS;
    let limit = FIT * each + each / 2;
    let config = format!(
        "[gateway]\nhang_up = \"abort\"\n[policies.\"model:*\"]\nconcurrency = 400\n\
         [[budget]]\nscope = \"tenant\"\nwindow = \"whole\"\ntokens = {limit}\n"
    );
    let world = World::start(&config);
    world.faults(&json!([{"every": 1, "kind": "stall_mid_stream", "after_chunks": 3}]));
    let at = world.address().to_owned();
    let answers: Vec<(TcpStream, String)> = std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| open(&at, path, &body))).collect();
        callers.into_iter().map(|caller| caller.join().expect("asks")).collect()
    });
    let (taken, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|(_, text)| text.starts_with("HTTP/1.1 200"));
    assert_eq!((taken.len(), refused.len()), (50, 150), "{}", refused[0].1);
    assert_eq!(world.requests(), FIT, "who is refused reaches nobody");
    for (_, text) in refused {
        assert!(
            text.starts_with("HTTP/1.1 402") && text.contains("x-should-retry: false"),
            "{text}"
        );
        assert!(!text.contains("retry-after"), "{text}");
        let (_, json) = text.split_once("\r\n\r\n").expect("a body");
        let error: Value = serde_json::from_str(json).expect("JSON");
        let budget = &error["error"]["budget"];
        let figure = |name: &str| -> u64 {
            budget[name].as_str().and_then(|text| text.parse().ok()).expect("a figure")
        };
        assert_eq!((figure("limit"), budget["unit"].as_str()), (limit, Some("tokens")));
        assert!(figure("spent") + figure("reserved") <= limit, "{text}");
    }
    drop(answers);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let (spent, charged) = loop {
        let (spent, held, charged) = books(&world).expect("an account");
        assert!(spent + held <= i64::try_from(limit).expect("small"), "{spent} and {held}");
        if held == 0 {
            break (spent, charged);
        }
        assert!(std::time::Instant::now() < deadline, "{held} are still reserved");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(spent, charged, "the account is the sum of its entries");
    let least = i64::try_from(FIT).expect("small");
    assert!(spent > least, "what was cut is charged as far as it went: {spent}");
}
