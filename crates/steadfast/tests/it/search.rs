//! Finding runs, by command line, API and console.

use std::path::Path;

use crate::http::{get, post, serve};
use crate::program::{example, run, text};

/// The ids that `steadfast ps` lists.
fn listed(folder: &Path, server: &str, filters: &[&str]) -> Vec<String> {
    let common = ["ps", "--server", server, "--output", "json"];
    let output = run(folder, &[&common, filters].concat());
    assert!(output.status.success(), "{filters:?}: {}", text(&output.stderr));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let runs = list["runs"].as_array().expect("rows");
    runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn runs_are_found_by_session_tag_tenant_time_and_words() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let place = format!("http://{}", server.address);
    let submit = |input: &str, more: &[&str]| {
        let common = ["submit", "report", "--server", &place, "--input", input];
        let output = run(&folder, &[&common, more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let first = submit("Why is invoice 4711 late?", &["--session", "a/b c", "--tag", "billing"]);
    let second = submit("Write to <Ada>", &["--tenant", "acme", "--tag", "x", "--tag", "billing"]);
    let one = |filters: &[&str], wanted: &[&String]| {
        let found = listed(&folder, &place, filters);
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{filters:?}");
    };
    one(&["--session", "a/b c"], &[&first]);
    one(&["--tag", "billing"], &[&second, &first]);
    one(&["--tag", "billing", "--limit", "1"], &[&second]);
    one(&["--tag", "billing", "--before", &second], &[&first]);
    one(&["--tenant", "acme"], &[&second]);
    one(&["--text", "LATE invoice"], &[&first]);
    one(&["--text", "late <Ada>"], &[]);
    one(&["--since", "1h"], &[&second, &first]);
    one(&["--until", "1h"], &[]);
    one(&["--since", "2020-01-01T00:00:00Z", "--text", "ada"], &[&second]);
    one(&["--problem"], &[]);
    let rows = |path: &str| {
        let page = get(&server.address, path).body;
        let is_there = |run: &String| page.contains(&format!("id=\"link-{run}\""));
        (is_there(&first), is_there(&second))
    };
    assert_eq!(rows("/console?text=invoice"), (true, false));
    assert_eq!(rows("/console?session=a%2Fb%20c&state=&agent=&tenant=&problem="), (true, false));
    assert_eq!(rows("/console?tag=x"), (false, true));
    let form = get(&server.address, "/console?text=%22%3E%3Cb%3E&problem=stuck&tag=t").body;
    assert!(!form.contains("\"><b>") && form.contains("<option selected>stuck"), "{form}");
    let chip = form.split("class=\"chip failed\" href=\"").nth(1).expect("a chip");
    let kept = chip.split('"').next().expect("an address").replace("&#38;", "&");
    assert_eq!(kept, "/console?state=failed&tag=t&problem=stuck&text=%22%3E%3Cb%3E");
    let page = get(&server.address, &format!("/console/runs/{first}")).body;
    assert!(
        page.contains("/console?session=a%2Fb%20c") || page.contains("session=a/b%20c"),
        "{page}"
    );
    for (path, word) in [
        ("/api/v1/runs?since=yesterday", "`since`"),
        ("/api/v1/runs?problem=bored", "`problem`"),
        ("/api/v1/runs?parent=me", "`parent`"),
    ] {
        let refused = get(&server.address, path);
        assert_eq!(refused.status, 400, "{path}");
        assert!(refused.body.contains(word), "{}", refused.body);
    }
}

#[test]
fn a_zero_byte_in_a_query_is_refused_and_one_in_an_input_is_not_searched_for() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    for path in ["/api/v1/runs?text=late%00", "/api/v1/runs?tag=%00", "/api/v1/facts?prefix=%00"] {
        assert_eq!(get(&server.address, path).status, 400, "{path}");
    }
    let order = r#"{ "agent": "report", "input": "why\u0000late" }"#;
    let (status, body) = post(&server.address, "/api/v1/runs", "application/json", order);
    assert_eq!(status, 201, "{body}");
    let found = get(&server.address, "/api/v1/runs?text=why%20late").body;
    assert!(found.contains("why\\u0000late"), "{found}");
}
