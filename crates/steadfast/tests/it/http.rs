//! Talking to a server in plain HTTP, as bytes on a socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program::{Running, steadfast, text};

/// A program that serves, and where.
pub(crate) struct Server {
    pub(crate) program: Running,
    pub(crate) address: String,
}

pub(crate) fn serve(folder: &Path) -> Server {
    serve_with(folder, |_| {})
}

/// The same, of a program that something is done to before it starts.
pub(crate) fn serve_with(folder: &Path, prepare: impl FnOnce(&mut Command)) -> Server {
    let mut command = steadfast(folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    prepare(&mut command);
    let mut program = Running::start(command);
    let line = program.wait_for(" on http://");
    let address = line.split("http://").nth(1).expect("the address is said").trim().to_owned();
    Server { program, address }
}

/// One request, as bytes on a socket; status and body of the answer.
pub(crate) fn request(address: &str, head: &str, body: &[u8]) -> (u16, String) {
    let answer = exchange(address, head, body);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status line"), body.unwrap_or_default())
}

/// One request; status, head in lower case, and body of the answer.
pub(crate) fn whole(address: &str, head: &str, body: &[u8]) -> (u16, String, String) {
    let answer = exchange(address, head, body);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status line"), head.to_lowercase(), body.to_owned())
}

fn exchange(address: &str, head: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).expect("connects");
    let head = format!("{head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).expect("written");
    // A server that refuses a large body may close before it has read it all.
    drop(socket.write_all(body));
    let mut answer = Vec::new();
    drop(socket.read_to_end(&mut answer));
    text(&answer)
}

pub(crate) fn post(address: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}");
    request(address, &head, body.as_bytes())
}

/// An answer with its head.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) fn get(address: &str, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}");
    let (status, head, body) = whole(address, &head, b"");
    Answer { status, head, body }
}

/// A form sent by a page of the server itself.
pub(crate) fn submit_form(address: &str, path: &str) -> u16 {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\n\
         sec-fetch-site: same-origin\r\ncontent-type: application/x-www-form-urlencoded"
    );
    request(address, &head, b"").0
}

/// Server-sent events as they come.
pub(crate) struct EventStream {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

/// One of them.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: String,
}

impl EventStream {
    pub(crate) fn open(address: &str, path: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(address).expect("connects");
        // Not a measure of speed: without it a stream that never speaks would hang the suite.
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("sets a limit");
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).expect("written");
        let mut lines = BufReader::new(socket).lines();
        let status = lines.next().expect("a status line").expect("reads");
        assert!(status.contains(" 200 "), "{status}");
        Self { lines }
    }
}

impl Iterator for EventStream {
    type Item = Sent;

    /// The next event; `None` at the end of the stream.
    fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent::default();
        loop {
            let line = self.lines.next()?.expect("the stream speaks or ends");
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut sent.id);
            } else if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut sent.event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                sent.data.push_str(data);
            } else if line.is_empty() && !sent.data.is_empty() {
                return Some(sent);
            } else if line == "0" {
                return None;
            }
        }
    }
}
