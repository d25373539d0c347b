//! A disk that is full, read-only or broken, under the real program: a clear error, nothing acknowledged is
//! lost, and everything goes on once it is mended.

use std::collections::BTreeSet;
use std::path::Path;

use crate::http::{get, post, serve, serve_with};
use crate::medium::disk::Deed;
use crate::medium::{Medium, Trouble};
use crate::program::{events, example, refusal, run, steadfast, text};

/// What the program says when it meets a trouble: what, and what to do.
fn words(trouble: Trouble) -> [&'static str; 2] {
    match trouble {
        Trouble::Full => ["full", "free some space"],
        Trouble::ReadOnly | Trouble::WriteFails | Trouble::SyncFails | Trouble::ReadFails => {
            ["I/O error", "mend it and start again"]
        }
        Trouble::FileReadOnly => ["readonly", "write permission"],
    }
}

/// Submits until it is refused; the runs that were accepted, and the refusal.
fn submit_until_refused(address: &str) -> (BTreeSet<String>, u16, String) {
    let mut accepted = BTreeSet::new();
    for _ in 0..10_000 {
        let body = format!("{{\"agent\":\"report\",\"input\":\"{}\"}}", "x".repeat(4000));
        let (status, body) = post(address, "/api/v1/runs", "application/json", &body);
        if status >= 400 {
            return (accepted, status, body);
        }
        let run: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        accepted.insert(run["id"].as_str().expect("an id").to_owned());
    }
    panic!("nothing was refused");
}

#[test]
fn c10_a_server_whose_disk_fails_answers_503_and_goes_on_where_it_was_once_it_is_mended() {
    for trouble in [Trouble::Full, Trouble::ReadOnly, Trouble::WriteFails, Trouble::SyncFails] {
        let (_temporary, folder) = example("report");
        let medium = Medium::new();
        let mut server = serve_with(&folder, |command| medium.under(command, &folder));
        let at = server.address.clone();
        let url = format!("http://{at}");
        let submitted = run(&folder, &["submit", "report", "--server", &url]);
        let first = text(&submitted.stdout).trim().to_owned();
        assert!(run(&folder, &["watch", &first, "--server", &url]).status.success());

        medium.set(Some(trouble));
        let (mut accepted, status, body) = submit_until_refused(&at);
        assert_eq!(status, 503, "{trouble:?}: {body}");
        assert!(body.contains("\"store_unavailable\""), "{trouble:?}: {body}");
        assert!(!body.contains("steadfast.db"), "{trouble:?}: a path is nobody's business: {body}");
        assert_eq!(get(&at, "/errors/store_unavailable").status, 200);
        assert_eq!((get(&at, "/healthz").status, get(&at, "/readyz").status), (200, 503));
        assert_eq!(get(&at, &format!("/api/v1/runs/{first}")).status, 200, "{trouble:?}");
        let said = server.program.wait_for("accepts nothing more");
        for word in words(trouble) {
            assert!(said.contains(word), "{trouble:?}: `{word}` is missing in: {said}");
        }
        server.program.wait_for("executing nothing until this is mended");
        server.program.terminate();
        let mut last = String::new();
        while let Some(line) = server.program.line() {
            last = line;
        }
        assert!(last.contains(words(trouble)[1]), "{trouble:?}: {last}");

        medium.set(None);
        let server = serve(&folder);
        let url = format!("http://{}", server.address);
        accepted.insert(first);
        for id in &accepted {
            let watched = run(&folder, &["watch", id, "--server", &url]);
            let lines = text(&watched.stdout);
            assert!(lines.trim_end().ends_with("succeeded"), "{trouble:?}: {id}: {lines}");
        }
    }
}

/// The number of the last event that was shown.
fn shown(said: &str) -> u64 {
    let numbers = said.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

#[test]
fn a_run_whose_disk_fails_at_any_write_ends_with_the_remedy_and_goes_on_from_there() {
    let (_temporary, folder) = example("report");
    let medium = Medium::new();
    let go = |folder: &Path, writes: usize| {
        let mut program = steadfast(folder);
        program.args(["run", "report", "--key", "mine"]);
        medium.under(&mut program, folder);
        program.env("MEDIUM_AFTER", writes.to_string()).output().expect("starts")
    };
    assert!(go(&folder, 0).status.success());
    let is_write = |deed: &&Deed| matches!(deed, Deed::Write { .. });
    let writes = medium.deeds().iter().filter(is_write).count();
    assert!(writes > 100, "only {writes} writes: nothing was watched");
    // A prime, so that every kind of write is met.
    for (number, after) in (1..writes).step_by(23).enumerate() {
        let trouble = [Trouble::Full, Trouble::WriteFails, Trouble::SyncFails][number % 3];
        let (_temporary, folder) = example("report");
        medium.set(Some(trouble));
        let failed = go(&folder, after);
        medium.set(None);
        let said = text(&failed.stderr);
        let place = format!("{trouble:?} after {after} of {writes} writes");
        if failed.status.success() {
            // Only the tidying at the end was left to do.
            assert!(said.contains("succeeded"), "{place}: {said}");
        } else {
            assert_eq!(failed.status.code(), Some(1), "{place}: {said}");
            assert!(said.contains("steadfast.db"), "{place}: {said}");
            let told = said.contains("start again") || said.contains("write permission");
            assert!(told && !said.contains("panicked"), "{place}: {said}");
        }
        let done = run(&folder, &["run", "report", "--key", "mine"]);
        assert!(done.status.success(), "{place}: {}", text(&done.stderr));
        assert!(events(&folder).len() as u64 >= shown(&said), "{place}: {said}");
    }
}

#[test]
fn a_store_on_a_bad_disk_is_not_opened_and_the_message_says_what_to_do() {
    let (_temporary, folder) = example("report");
    let order = ["run", "report", "--key", "mine"];
    assert!(run(&folder, &order).status.success());
    let before = events(&folder);
    for trouble in Trouble::ALL {
        let medium = Medium::new();
        medium.set(Some(trouble));
        let mut program = steadfast(&folder);
        medium.under(program.args(order), &folder);
        let output = program.output().expect("starts");
        let remedy = match trouble {
            Trouble::Full => "free some space",
            Trouble::ReadOnly | Trouble::FileReadOnly => "write permission",
            Trouble::WriteFails | Trouble::SyncFails | Trouble::ReadFails => "start again",
        };
        refusal(&output, 1, &["steadfast.db", remedy]);
        assert_eq!(events(&folder), before, "{trouble:?}");
    }
    assert!(run(&folder, &order).status.success());
}
