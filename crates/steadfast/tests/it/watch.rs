//! Following a run from the command line, over a connection that breaks.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::http::{post, serve};
use crate::program::{example, run, text};

/// Stands between client and server: cuts the first connection behind its first event, and passes
/// everything on the later ones. Returns what the client asked on the first two.
fn cut_once(listener: &TcpListener, server: &str) -> [String; 2] {
    let mut asked = [String::new(), String::new()];
    for turn in 0..3 {
        let (mut client, _) = listener.accept().expect("a client");
        let mut upstream = TcpStream::connect(server).expect("connects");
        let request = head(&mut client);
        // One request a connection, so that each has its own place here.
        let closing = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        upstream.write_all(closing.as_bytes()).expect("written");
        if turn == 0 {
            let mut passed = head(&mut upstream);
            while !passed.contains("id: 1\n") || !passed.ends_with("\n\n") {
                let mut byte = [0];
                upstream.read_exact(&mut byte).expect("the first event comes");
                passed.push(char::from(byte[0]));
            }
            client.write_all(passed.as_bytes()).expect("written");
        } else {
            std::io::copy(&mut upstream, &mut client).expect("passed on");
        }
        if let Some(place) = asked.get_mut(turn) {
            *place = request;
        }
    }
    asked
}

/// Reads up to the end of a head, and nothing behind it.
fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    text(&head)
}

#[test]
fn watch_goes_on_after_the_last_event_when_the_connection_breaks() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let submitted = run(&folder, &["submit", "report", "--server", &url, "--output", "json"]);
    let submitted: serde_json::Value = serde_json::from_slice(&submitted.stdout).expect("JSON");
    let id = submitted["id"].as_str().expect("an id");
    assert_eq!(submitted["console"], format!("{url}/console/runs/{id}"));
    let straight = run(&folder, &["watch", id, "--server", &url, "--output", "json"]);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = format!("http://{}", listener.local_addr().expect("bound"));
    let address = server.address;
    let between = std::thread::spawn(move || cut_once(&listener, &address));
    let watched = run(&folder, &["watch", id, "--server", &proxy, "--output", "json"]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    assert!(text(&watched.stderr).contains("connection lost after event 1"));
    assert_eq!(text(&watched.stdout), text(&straight.stdout), "each event once, in order");
    let [first, second] = between.join().expect("passed all");
    assert!(!first.to_lowercase().contains("last-event-id"), "{first}");
    assert!(second.to_lowercase().contains("last-event-id: 1\r\n"), "{second}");
}

#[test]
fn an_input_of_many_megabytes_is_watched() {
    let (_temporary, folder) = example("report");
    let server = serve(&folder);
    let url = format!("http://{}", server.address);
    let input = "long ".repeat(500_000);
    let order = serde_json::json!({ "agent": "report", "input": input }).to_string();
    let (status, body) = post(&server.address, "/api/v1/runs", "application/json", &order);
    assert_eq!(status, 201);
    let submitted: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let id = submitted["id"].as_str().expect("an id");
    let watched = run(&folder, &["watch", id, "--server", &url, "--output", "json"]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    let first: serde_json::Value =
        serde_json::from_str(text(&watched.stdout).lines().next().expect("events")).expect("JSON");
    assert_eq!(first["input"], serde_json::Value::String(input));
}
