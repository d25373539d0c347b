//! The pages for people, as a browser gets them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::http::{EventStream, get, post, request, serve, submit_form};
use crate::program::text;

/// An agent whose words are HTML, one that never answers, and one that fails.
const CONFIG: &str = r#"
[models.quick]
provider = "simulated"
script = "quick.toml"
[models.stuck]
provider = "simulated"
script = "stuck.toml"
[models.broken]
provider = "simulated"
script = "broken.toml"
[agents.quick]
model = "quick"
tools = ["report_progress"]
[agents.stuck]
model = "stuck"
[agents.broken]
model = "broken"
"#;

const QUICK: &str = r#"
name = "quick"
[[step]]
name = "begin"
text = "I begin."
calls = [{ tool = "report_progress", arguments = { step = 1, total = 2, description = "half done" } }]
[[step]]
name = "end"
text = "<script>alert('answer')</script>"
"#;

const STUCK: &str = r#"
name = "stuck"
[[step]]
name = "only"
text = "never said"
[[fault]]
every = 1
kind = "stall_before_first_byte"
"#;

const BROKEN: &str = r#"
name = "broken"
[[step]]
name = "only"
text = "at last"
[[fault]]
request = 1
times = 1
kind = "status"
code = 400
"#;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().to_owned();
    for (name, content) in [
        ("steadfast.toml", CONFIG),
        ("quick.toml", QUICK),
        ("stuck.toml", STUCK),
        ("broken.toml", BROKEN),
    ] {
        std::fs::write(folder.join(name), content).expect("written");
    }
    (temporary, folder)
}

fn submit(address: &str, agent: &str, input: &str) -> String {
    let body = serde_json::json!({ "agent": agent, "input": input }).to_string();
    let (status, body) = post(address, "/api/v1/runs", "application/json", &body);
    assert_eq!(status, 201, "{body}");
    let run: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    run["id"].as_str().expect("an id").to_owned()
}

/// Follows a run's log to the end of the stream; the kinds of its events.
fn follow(address: &str, run: &str) -> Vec<String> {
    let path = format!("/api/v1/runs/{run}/events");
    EventStream::open(address, &path, "accept: text/event-stream\r\n")
        .map(|sent| sent.event)
        .collect()
}

#[test]
fn an_empty_list_says_how_to_start_and_the_root_leads_to_it() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let root = get(&server.address, "/");
    assert_eq!(root.status, 307);
    assert!(root.head.contains("location: /console\r\n"), "{}", root.head);
    let page = get(&server.address, "/console");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("No runs yet"));
    assert!(page.body.contains("steadfast submit broken --input"), "{}", page.body);
    assert!(page.body.contains("SIMULATED"));
    for asset in ["/console/console.js", "/console/console.css", "/console/icon.svg"] {
        assert_eq!(get(&server.address, asset).status, 200);
    }
}

#[test]
fn every_answer_has_the_headers_that_keep_other_sites_out() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    for (path, status) in [
        ("/console", 200),
        ("/console/console.js", 200),
        ("/console?limit=0", 400),
        ("/api/v1/runs", 200),
        ("/api/v1/runs/nonsense", 400),
        ("/nothing", 404),
    ] {
        let answer = get(&server.address, path);
        assert_eq!(answer.status, status, "{path}");
        for header in [
            "content-security-policy: default-src 'self'; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'; object-src 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: same-origin",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-",
        ] {
            assert!(answer.head.contains(header), "`{header}` is missing at {path}");
        }
        assert!(!answer.head.contains("access-control-allow-origin"), "{path}");
    }
}

#[test]
fn a_run_is_shown_with_its_steps_and_nobodys_words_become_html() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let run = submit(at, "quick", "<img src=x onerror=alert('input')>");
    assert_eq!(follow(at, &run).last().map(String::as_str), Some("succeeded"));
    let list = get(at, "/console?agent=%22%3E%3Cimg%20src=x%3E").body;
    assert!(!list.contains("<img") && list.contains("No run matches"), "{list}");
    let list = get(at, "/console").body;
    assert!(list.contains(&format!("/console/runs/{run}")) && list.contains("1/2"), "{list}");
    let row = list.split("<tr>").find(|row| row.contains(&run)).expect("its row");
    assert!(row.contains("badge simulated\">SIMULATED"), "{row}");
    let page = get(at, &format!("/console/runs/{run}")).body;
    for expected in ["I begin.", "half done", "report_progress", "succeeded", "Submitted to"] {
        assert!(page.contains(expected), "`{expected}` is missing in: {page}");
    }
    for page in [list, page] {
        assert!(!page.contains("<img src=x") && !page.contains("<script>alert"), "{page}");
        assert!(page.contains("&#60;img") && page.contains("&#60;script&#62;alert"), "{page}");
    }
}

#[test]
fn the_list_is_filtered_and_paged_by_its_address() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let runs: Vec<String> = (0..5).map(|n| submit(at, "quick", &format!("number {n}"))).collect();
    for run in &runs {
        follow(at, run);
    }
    let stuck = submit(at, "stuck", "wait");
    let shown = |path: &str| {
        let page = get(at, path).body;
        let all = runs.iter().chain([&stuck]);
        all.filter(|run| page.contains(&format!("id=\"link-{run}\""))).count()
    };
    assert_eq!(shown("/console"), 6);
    assert_eq!(shown("/console?agent=quick&state=&tenant="), 5);
    assert_eq!(shown("/console?state=succeeded"), 5);
    assert_eq!(shown("/console?state=failed"), 0);
    assert!(get(at, "/console?state=failed").body.contains("No run matches"));
    let first = get(at, "/console?agent=quick&limit=2").body;
    let older = link(&first, "older").expect("a link to older runs");
    assert!(older.contains("agent=quick") && older.contains("limit=2"), "{older}");
    assert_eq!(shown(&older), 2);
    for bad in ["/console?state=sleeping", "/console?limit=0", "/console?colour=red"] {
        let page = get(at, bad);
        assert_eq!(page.status, 400, "{bad}");
        assert!(page.head.contains("text/html") && page.body.contains("/errors/invalid_request"));
    }
    assert_eq!(get(at, "/console/runs/00000000-0000-7000-8000-000000000000").status, 404);
    assert_eq!(get(at, "/console/runs/nonsense").status, 400);
    assert_eq!(get(at, "/console/nothing").status, 404);
}

/// The address of the link with an id.
fn link(page: &str, id: &str) -> Option<String> {
    let rest = page.split(&format!("id=\"{id}\"")).nth(1)?;
    let tag = rest.split('>').next()?;
    let address = tag.split("href=\"").nth(1)?.split('"').next()?;
    Some(address.replace("&#38;", "&").replace("&amp;", "&"))
}

#[test]
fn older_runs_are_reached_page_by_page_each_of_them_once() {
    const RUNS: usize = 120;
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let mut expected: Vec<String> = (0..RUNS).map(|_| submit(at, "stuck", "wait")).collect();
    expected.reverse();
    let mut seen = Vec::new();
    let mut pages = Vec::new();
    let mut next = Some("/console".to_owned());
    while let Some(address) = next {
        let page = get(at, &address).body;
        let rows: Vec<_> = page.split("<a id=\"link-").skip(1).collect();
        pages.push(rows.len());
        seen.extend(rows.into_iter().map(|row| row[..36].to_owned()));
        assert_eq!(link(&page, "newest").is_some(), pages.len() > 1);
        next = link(&page, "older");
    }
    assert_eq!(pages, [50, 50, 20]);
    assert_eq!(seen, expected, "newest first");
}

#[test]
fn a_run_is_cancelled_and_resumed_by_its_page_and_by_no_other_site() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let stuck = submit(at, "stuck", "wait");
    let cancel = format!("/console/runs/{stuck}/cancel");
    assert!(get(at, &format!("/console/runs/{stuck}")).body.contains(&cancel));
    for foreign in ["origin: http://evil.example", "sec-fetch-site: same-site", "origin: null"] {
        let head = format!("POST {cancel} HTTP/1.1\r\nhost: {at}\r\n{foreign}");
        let (status, page) = request(at, &head, b"");
        assert_eq!(status, 403, "{foreign}");
        assert!(page.contains("cross_site"), "{page}");
    }
    assert_eq!(submit_form(at, &cancel), 303);
    assert_eq!(follow(at, &stuck).last().map(String::as_str), Some("cancelled"));
    assert_eq!(submit_form(at, &cancel), 409, "it is over already");

    let broken = submit(at, "broken", "try");
    assert_eq!(follow(at, &broken).last().map(String::as_str), Some("failed"));
    let resume = format!("/console/runs/{broken}/resume");
    assert!(get(at, &format!("/console/runs/{broken}")).body.contains(&resume));
    assert_eq!(submit_form(at, &resume), 303);
    assert_eq!(follow(at, &broken).last().map(String::as_str), Some("succeeded"));
    assert!(get(at, &format!("/console/runs/{broken}")).body.contains("at last"));
}

#[test]
fn the_pages_are_told_what_changes() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let mut list = EventStream::open(at, "/console/live", "");
    let first = list.next().expect("the list as it is");
    assert_eq!(first.event, "fragments");
    assert!(first.data.contains("No runs yet"), "{}", first.data);
    let run = submit(at, "stuck", "wait");
    let changed = list.find(|sent| sent.data.contains(&run)).expect("the new run");
    assert!(changed.data.contains("\\\"runs\\\""), "{}", changed.data);

    let page = get(at, &format!("/console/runs/{run}")).body;
    let live = page.split("data-live=\"").nth(1).and_then(|rest| rest.split('"').next());
    let live = live.expect("where it is live").replace("&#38;", "&").replace("&amp;", "&");
    let mut steps = EventStream::open(at, &live, "");
    assert_eq!(submit_form(at, &format!("/console/runs/{run}/cancel")), 303);
    let cancelled = steps.find(|sent| sent.data.contains("Cancelled")).expect("the last step");
    assert!(cancelled.data.contains("\"container\":\"steps\""), "{}", cancelled.data);
    assert!(steps.next().is_none(), "the stream of a run that is over ends");
}

#[test]
fn a_list_that_never_rests_is_sent_with_pauses() {
    // The shortest pause between two updates, as the console has it.
    const PAUSE: Duration = Duration::from_millis(300);
    const PAUSES: u32 = 4;
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = server.address.as_str();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                submit(at, "stuck", "wait");
            }
        });
        let begun = Instant::now();
        let updates = EventStream::open(at, "/console/live", "").take(PAUSES as usize + 1).count();
        let elapsed = begun.elapsed();
        enough.store(true, Ordering::Relaxed);
        assert_eq!(updates, PAUSES as usize + 1);
        assert!(elapsed >= PAUSE * PAUSES, "{updates} updates in {elapsed:?}");
    });
}

#[test]
fn a_page_that_is_open_gets_every_step_as_it_comes() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let run = submit(at, "broken", "try");
    assert_eq!(follow(at, &run).last().map(String::as_str), Some("failed"));
    let path = format!("/console/runs/{run}");
    let steps = |page: &str| -> Vec<String> {
        let items = page.split("<li id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        items.map(str::to_owned).collect()
    };
    let early = steps(&get(at, &path).body);
    assert_eq!(submit_form(at, &format!("{path}/resume")), 303);
    // The page knows the run as it was before it was resumed.
    let after = number_of(at, &run, "failed");
    let live = EventStream::open(at, &format!("{path}/live?after={after}&from=0"), "");
    let mut sent = Vec::new();
    let mut heads = 0;
    for message in live {
        let fragments: Vec<serde_json::Value> =
            serde_json::from_str(&message.data).expect("fragments are JSON");
        for fragment in fragments {
            let id = fragment["id"].as_str().expect("an id").to_owned();
            let html = fragment["html"].as_str().expect("its markup");
            assert!(html.contains(&format!("id=\"{id}\"")), "it replaces what it is: {html}");
            if id == "head" {
                heads += 1;
            } else {
                sent.push(id);
            }
        }
    }
    assert!(heads > 0, "the state is told too");
    let late = steps(&get(at, &path).body);
    assert!(late.len() > early.len() && late.starts_with(&early), "{early:?} {late:?}");
    for new in &late[early.len()..] {
        assert!(sent.contains(new), "{new} was not sent: {sent:?}");
    }
}

/// The number of a run's first event of a kind.
fn number_of(address: &str, run: &str, kind: &str) -> u64 {
    let path = format!("/api/v1/runs/{run}/events");
    let mut events = EventStream::open(address, &path, "accept: text/event-stream\r\n");
    let event = events.find(|sent| sent.event == kind).expect("such an event");
    event.id.parse().expect("a number")
}

#[test]
fn the_events_of_a_run_go_on_after_the_last_one_seen() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let run = submit(at, "quick", "go");
    let whole = follow(at, &run);
    let path = format!("/api/v1/runs/{run}/events/stream");
    let rest = EventStream::open(at, &path, "last-event-id: 3\r\n");
    let rest: Vec<_> = rest.map(|sent| (sent.id, sent.event)).collect();
    assert_eq!(rest.first().map(|(id, _)| id.as_str()), Some("4"));
    assert_eq!(rest.len(), whole.len() - 3);
    let after = EventStream::open(at, &format!("{path}?after=3"), "").count();
    assert_eq!(after, rest.len());
    let page = format!("/api/v1/runs/{run}/events");
    let headers = "accept: text/event-stream\r\nlast-event-id: 3\r\n";
    assert_eq!(EventStream::open(at, &page, headers).count(), rest.len());
    assert_eq!(EventStream::open(at, &path, "last-event-id: 1000\r\n").count(), 0);
    let head = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\nlast-event-id: three");
    let (status, body) = request(at, &head, b"");
    assert_eq!(status, 400);
    assert!(body.contains("invalid_request") && body.contains("three"), "{body}");
    let nobody = "/api/v1/runs/00000000-0000-7000-8000-000000000000/events/stream";
    assert_eq!(get(at, nobody).status, 404, "told before the stream begins");
}

#[test]
fn every_problem_leads_to_its_page() {
    let (_temporary, folder) = folder();
    let server = serve(&folder);
    let at = &server.address;
    let (_, body) = post(at, "/api/v1/runs", "text/plain", "{}");
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let page = get(at, problem["type"].as_str().expect("a type"));
    assert_eq!(page.status, 200);
    assert!(text(page.body.as_bytes()).contains("What to do"), "{}", page.body);
    assert_eq!(get(at, "/errors/nothing").status, 404);
}
