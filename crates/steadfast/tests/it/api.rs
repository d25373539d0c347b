//! A server, talked to by its own command line and by raw HTTP.

use crate::http::{post, request, serve};
use crate::program::{example, run, text};

#[test]
fn a_run_is_submitted_watched_shown_and_listed() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let submitted = run(&folder, &["submit", "report", "--server", &url]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    let id = text(&submitted.stdout).trim().to_owned();
    assert!(text(&submitted.stderr).contains(&format!("{url}/console/runs/{id}")));

    let watched = run(&folder, &["watch", &id, "--server", &url]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    let lines = text(&watched.stdout);
    assert!(lines.contains("step 4/4") && lines.trim_end().ends_with("succeeded"), "{lines}");

    let shown = run(&folder, &["show", &id, "--server", &url, "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!((&shown["state"], &shown["simulated"]), (&"succeeded".into(), &true.into()));
    assert!(shown["output"].as_str().is_some_and(|text| text.contains("report.md")));

    let listed = text(&run(&folder, &["ps", "--server", &url]).stdout);
    assert!(listed.contains(&id) && listed.contains("4/4"), "{listed}");
    let refused = run(&folder, &["cancel", &id, "--server", &url]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    let nobody = "00000000-0000-7000-8000-000000000000";
    let missing = run(&folder, &["resume", nobody, "--server", &url]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stderr));
}

#[test]
fn c6_an_agents_run_hears_no_signals_and_says_so() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let submitted = run(&folder, &["submit", "report", "--server", &url]);
    let id = text(&submitted.stdout).trim().to_owned();
    let signal = |payload: &str, run_id: &str| {
        let arguments = ["signal", run_id, "go", "--payload", payload, "--id", "1"];
        run(&folder, &[&arguments[..], &["--server", &url]].concat())
    };
    let refused = signal(r#"{"yes":true}"#, &id);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    let said = text(&refused.stderr);
    assert!(said.contains("hears no signals") && said.contains("agent `report`"), "{said}");
    let wrong = signal("yes", &id);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("`--payload` is not JSON"), "{}", text(&wrong.stderr));
    let missing = signal("1", "00000000-0000-7000-8000-000000000000");
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stderr));
    let path = format!("/api/v1/runs/{id}/signals");
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(129));
    let (status, answer) = post(&server.address, &path, "application/json", &body);
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("1 to 128 bytes"), "{answer}");
    let find = |query: &str| {
        let head = format!("GET /api/v1/runs?{query} HTTP/1.1\r\nhost: {}", server.address);
        request(&server.address, &head, b"")
    };
    let (status, children) = find(&format!("parent={id}"));
    assert!(status == 200 && children.contains("\"runs\":[]"), "{children}");
    assert_eq!(find("parent=7").0, 400);
}

#[test]
fn a_second_program_on_the_same_store_is_told_who_has_it() {
    let (_temporary, folder) = example("report");
    let _server = serve(&folder);
    let refused = run(&folder, &["run", "report"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("pid"), "{said}");
}

#[test]
fn bad_requests_get_a_problem_that_says_what_is_wrong() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let at = server.address.as_str();
    let json = "application/json";
    let large = format!("{{\"agent\":\"report\",\"input\":\"{}\"}}", "x".repeat(9 * 1024 * 1024));
    let larger = "x".repeat(18 * 1024 * 1024);
    let cases = [
        (post(at, "/api/v1/runs", json, "{"), 400, "invalid_body"),
        (post(at, "/api/v1/runs", json, r#"{"agent":"report"}"#), 400, "input"),
        (post(at, "/api/v1/runs", json, r#"{"agent":"report","input":"","x":1}"#), 400, "`x`"),
        (post(at, "/api/v1/runs", "text/plain", "{}"), 415, "unsupported_media_type"),
        (post(at, "/api/v1/runs", json, r#"{"agent":"none","input":""}"#), 404, "unknown_agent"),
        (post(at, "/api/v1/runs", json, &large), 400, "the limit is"),
        (post(at, "/api/v1/runs", json, &larger), 413, "body_too_large"),
        (post(at, "/api/v1/nothing", json, "{}"), 404, "unknown_route"),
        (post(at, "/api/v1/agents", json, "{}"), 405, "wrong_method"),
        (post(at, "/api/v1/runs/7/cancel", json, "{}"), 400, "UUID"),
    ];
    for ((status, body), expected, words) in cases {
        assert_eq!(status, expected, "{body}");
        assert!(body.contains(words), "`{words}` is missing in: {body}");
        assert!(body.contains("\"detail\"") && body.contains("\"code\""), "{body}");
    }
    let (status, _) = request(at, "GET /api/v1/runs HTTP/1.1\r\nhost: evil.example", b"");
    assert_eq!(status, 403, "another name for this address is refused");
    for head in [
        "GET /api/v1/runs HTTP/1.1\r\nhost: localhost\r\nhost: evil.example",
        "GET http://evil.example/api/v1/runs HTTP/1.1\r\nhost: localhost",
    ] {
        assert_eq!(request(at, head, b"").0, 403, "{head}");
    }
    let head = format!(
        "POST /api/v1/runs HTTP/1.1\r\nhost: {at}\r\norigin: http://evil.example\r\ncontent-type: {json}"
    );
    let (status, _) = request(at, &head, br#"{"agent":"report","input":""}"#);
    assert_eq!(status, 403, "a page of another site is refused");
    let (status, _) = request(at, &format!("GET /readyz HTTP/1.1\r\nhost: {at}"), b"");
    assert_eq!(status, 200);
}
