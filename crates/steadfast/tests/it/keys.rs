//! Access keys through the real program: made, shown once, changed, rotated and revoked by command line, API and
//! console, and their secrets in no other place.

use std::path::Path;

use serde_json::{Value, json};

use crate::http::{Server, get, post, request, serve, whole};
use crate::program::{refused, run, text};

const CONFIG: &str = r#"
[log]
level = "trace"
[models.m]
provider = "simulated"
script = "script.toml"
[agents.worker]
model = "m"
"#;

const SCRIPT: &str = "name = \"done\"\n[[step]]\nname = \"last\"\ntext = \"done\"\n";

fn lay_out() -> tempfile::TempDir {
    let temporary = tempfile::tempdir().expect("a folder");
    std::fs::write(temporary.path().join("steadfast.toml"), CONFIG).expect("written");
    std::fs::write(temporary.path().join("script.toml"), SCRIPT).expect("written");
    temporary
}

/// What a command says: data and talk.
fn said(folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = run(folder, arguments);
    let talk = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {talk}");
    (text(&output.stdout).trim_end().to_owned(), talk)
}

fn call(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let at = &server.address;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json");
    let (status, body) = request(at, &head, body.as_bytes());
    (status, serde_json::from_str(&body).unwrap_or_default())
}

fn form(server: &Server, path: &str, body: &str) -> (u16, String) {
    let at = &server.address;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {at}\r\norigin: http://{at}\r\nsec-fetch-site: same-origin\r\n\
         content-type: application/x-www-form-urlencoded"
    );
    request(at, &head, body.as_bytes())
}

/// What is random of a secret.
fn random(secret: &str) -> &str {
    let (_, random) = secret.split_at(secret.len() - 43);
    assert!(secret.starts_with("sk-steadfast-k_"), "{secret}");
    random
}

/// Every byte that lies in a folder.
fn files(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.filter_map(|entry| std::fs::read(entry.path()).ok()).flatten().collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_keys_life_by_the_command_line_leaves_its_secrets_in_no_log_file_page_or_answer() {
    let temporary = lay_out();
    let folder = temporary.path();
    let mut server = serve(folder);
    let place = format!("http://{}", server.address);
    let keys =
        |arguments: &[&str]| said(folder, &[&["keys"], arguments, &["--server", &place]].concat());
    let limits = ["--requests-per-minute", "60", "--budget-usd", "12.50", "--label", "team=a"];
    let made = ["create", "ci", "--tenant", "acme", "--model", "m", "--expires", "30d"];
    let (first, talk) = keys(&[&made[..], &limits].concat());
    assert!(talk.contains("shown now and never again") && !talk.contains(random(&first)), "{talk}");
    let id = &first["sk-steadfast-".len()..][..12];
    let (shown, _) = keys(&["show", id]);
    for word in ["active", "acme", "60 requests a minute", "12.50 USD a month", "team=a", "ends"] {
        assert!(shown.contains(word), "`{word}` in {shown}");
    }
    let (second, talk) = keys(&["rotate", id]);
    assert!(talk.contains("the secret before lets in until"), "{talk}");
    let (third, _) = keys(&["rotate", id, "--grace", "0s"]);
    let (edited, _) = keys(&["edit", id, "--disable", "--user", "ann", "--at-once", "2"]);
    assert!(edited.contains("disabled") && edited.contains("ann"), "{edited}");
    let (edited, _) = keys(&["edit", id, "--enable", "--user", "", "--at-once", "none"]);
    assert!(!edited.contains("disabled") && !edited.contains("ann"), "{edited}");
    let (listed, _) = keys(&["list", "--tenant", "acme"]);
    assert!(listed.contains(id) && listed.contains("active"), "{listed}");
    assert_eq!(keys(&["list", "--tenant", "other"]), (String::new(), "no keys\n".to_owned()));
    let (revoked, _) = keys(&["revoke", id]);
    assert!(revoked.contains("revoked"), "{revoked}");
    let after = ["keys", "rotate", id, "--server", &place];
    let refusal = refused(folder, &after, 4, &["key_revoked", id]);
    let page = get(&server.address, "/console/keys").body;
    assert!(page.contains(id) && page.contains("revoked"), "{page}");
    let facts = get(&server.address, "/api/v1/facts?tenant=access-keys").body;
    let json = get(&server.address, "/api/v1/keys").body;
    let told = [shown, listed, revoked, edited, refusal, page, facts, json].concat();
    server.program.terminate();
    let mut log = String::new();
    while let Some(line) = server.program.line() {
        log.push_str(&line);
    }
    assert!(log.contains(" INFO "), "there is a log: {log}");
    let files = files(folder);
    assert!(holds(&files, id), "the key is kept");
    for secret in [first, second, third] {
        assert!(!told.contains(random(&secret)), "told: {told}");
        assert!(!log.contains(random(&secret)), "logged");
        assert!(!holds(&files, random(&secret)), "kept");
    }
}

#[test]
fn keys_by_the_api_are_problems_where_they_cannot_be() {
    let temporary = lay_out();
    let server = serve(temporary.path());
    let body = json!({ "name": "ci", "tenant": "acme", "limits": { "at_once": 2 } }).to_string();
    let head = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json",
        server.address
    );
    let (status, head, made) = whole(&server.address, &head, body.as_bytes());
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    assert_eq!((status, &made["state"]), (201, &json!("active")));
    assert!(head.contains(&format!("location: /api/v1/keys/{id}")), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let path = format!("/api/v1/keys/{id}");
    let (_, shown) = call(&server, "GET", &path, "");
    assert_eq!((&shown["secret"], &shown["limits"]["at_once"]), (&Value::Null, &json!(2)));
    let (status, edited) = call(&server, "PATCH", &path, r#"{"at_once":null,"name":"cd"}"#);
    let limit = edited["limits"]["at_once"].clone();
    assert_eq!((status, &edited["name"], limit), (200, &json!("cd"), Value::Null));
    let rotate = format!("{path}/rotate");
    let (status, rotated) = call(&server, "POST", &rotate, r#"{"grace":"1h","seen":1}"#);
    assert_eq!((status, &rotated["secrets"]), (200, &json!(2)));
    assert_ne!(rotated["secret"], made["secret"]);
    for (method, path, body, status, code) in [
        ("POST", "/api/v1/keys", r#"{"name":"ci"}"#, 400, "invalid_body"),
        ("POST", "/api/v1/keys", r#"{"name":"","tenant":"t"}"#, 400, "invalid_input"),
        ("GET", "/api/v1/keys/k_0000000000", "", 404, "unknown_key"),
        ("GET", "/api/v1/keys?limit=0", "", 400, "invalid_request"),
        ("PATCH", path.as_str(), r#"{"tenant":"other"}"#, 400, "invalid_body"),
        ("PATCH", path.as_str(), r#"{"models":["a*b"]}"#, 400, "invalid_input"),
        ("POST", rotate.as_str(), r#"{"seen":1}"#, 409, "key_rotated"),
        ("POST", rotate.as_str(), r#"{"grace":"9000d"}"#, 400, "invalid_input"),
        ("POST", "/api/v1/keys/k_0000000000/revoke", "", 404, "unknown_key"),
    ] {
        let (answered, problem) = call(&server, method, path, body);
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{method} {path}");
        let page = get(&server.address, &format!("/errors/{code}"));
        assert_eq!(page.status, 200, "{code}");
    }
    assert_eq!(call(&server, "POST", &format!("{path}/revoke"), "").1["state"], "revoked");
    let (status, problem) = call(&server, "PATCH", &path, r#"{"disabled":false}"#);
    assert_eq!((status, &problem["code"]), (409, &json!("key_revoked")));
}

#[test]
fn a_page_rotates_a_key_once_however_often_it_is_sent_and_revokes_it() {
    let temporary = lay_out();
    let server = serve(temporary.path());
    let body = r#"{"name":"<b>ci</b>","tenant":"acme"}"#;
    let (_, made) = post(&server.address, "/api/v1/keys", "application/json", body);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    let page = get(&server.address, "/console/keys?tenant=acme").body;
    assert!(page.contains(id) && page.contains("name=\"seen\" value=\"1\""), "{page}");
    assert!(!page.contains("<b>ci"), "{page}");
    assert!(!page.contains(random(made["secret"].as_str().expect("a secret"))), "{page}");
    let rotate = format!("/console/keys/{id}/rotate");
    let (status, page) = form(&server, &rotate, "seen=1");
    assert_eq!(status, 200, "{page}");
    let secret = page.split("id=\"secret\">").nth(1).and_then(|rest| rest.split('<').next());
    let secret = secret.expect("a secret");
    assert!(secret.contains(id) && page.contains("only time"), "{page}");
    let (status, page) = form(&server, &rotate, "seen=1");
    assert_eq!(status, 409, "sent again, it makes no other: {page}");
    let page = get(&server.address, "/console/keys").body;
    assert!(page.contains("an earlier secret ends") && !page.contains(random(secret)), "{page}");
    let (status, page) = form(&server, &rotate, "seen=2&at_once=true");
    assert!(status == 200 && page.contains("Every secret before has ended"), "{page}");
    assert_eq!(form(&server, &format!("/console/keys/{id}/revoke"), "").0, 303);
    let page = get(&server.address, "/console/keys").body;
    assert!(page.contains("revoked") && !page.contains("Revoke</button>"), "{page}");
}

#[test]
fn keys_are_looked_after_without_a_server_in_a_store_that_nobody_else_has() {
    let temporary = lay_out();
    let folder = temporary.path();
    let (secret, _) = said(folder, &["keys", "create", "ci", "--tenant", "acme", "--offline"]);
    let id = &secret["sk-steadfast-".len()..][..12];
    let list = ["keys", "list", "--offline", "--output", "json"];
    assert!(said(folder, &list).0.contains(id));
    let server = serve(folder);
    assert_eq!(call(&server, "GET", &format!("/api/v1/keys/{id}"), "").0, 200);
    // Looking is possible while the server has the store, changing is not.
    assert!(said(folder, &list).0.contains(id));
    let busy = ["keys", "revoke", id, "--offline"];
    refused(folder, &busy, 1, &["steadfast.db"]);
    server.program.kill();
    let (revoked, _) =
        said(folder, &["keys", "revoke", id, "--offline", "--store", "steadfast.db"]);
    assert!(revoked.contains("revoked"), "{revoked}");
    assert!(!holds(&files(folder), random(&secret)), "kept");
    for (arguments, code, words) in [
        (&["keys", "show", "k_0000000000", "--offline"][..], 3, &["k_0000000000", "keys list"][..]),
        (&["keys", "rotate", id, "--offline"], 4, &[id, "revoked"]),
        (&["keys", "edit", id, "--offline"], 1, &["nothing is to be changed"]),
        (&["keys", "list", "--store", "x.db"], 2, &["--offline"]),
        (&["keys", "create", "ci", "--tenant", "t", "--expires", "soon"], 2, &["30d", "never"]),
        (&["keys", "create", "ci", "--tenant", "t", "--label", "x"], 2, &["NAME=TEXT"]),
    ] {
        refused(folder, arguments, code, words);
    }
}
