//! Talking to a node that may be killed while it answers: whatever breaks off is an error, never a panic.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Lines, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer takes; a node that is stopped by a signal answers nothing.
const PATIENCE: Duration = Duration::from_secs(20);

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// One request; status and JSON of an answer that came whole.
pub(crate) fn ask(address: &str, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| broken("no whole head"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    if length != Some(body.len()) {
        return Err(broken("cut off"));
    }
    let json = serde_json::from_str(body).unwrap_or(Value::Null);
    Ok((status.ok_or_else(|| broken("no status"))?, json))
}

/// What `ask` gives for a GET.
pub(crate) fn get(address: &str, path: &str) -> Result<(u16, Value)> {
    ask(address, "GET", path, &Value::Null)
}

/// A run's events as they come.
pub(crate) struct Live {
    lines: Lines<BufReader<TcpStream>>,
}

impl Live {
    /// Follows a run from the event after `after`.
    pub(crate) fn open(address: &str, run: &str, after: u64) -> Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        let head = format!(
            "GET /api/v1/runs/{run}/events/stream HTTP/1.1\r\nhost: {address}\r\n\
             last-event-id: {after}\r\n\r\n"
        );
        socket.write_all(head.as_bytes())?;
        let mut lines = BufReader::new(socket).lines();
        let status = lines.next().ok_or_else(|| broken("no status"))??;
        match status.contains(" 200 ") {
            true => Ok(Self { lines }),
            false => Err(broken(&status)),
        }
    }
}

impl Iterator for Live {
    type Item = Value;

    /// The next event that came whole; `None` when the stream ends, however it does.
    fn next(&mut self) -> Option<Value> {
        let mut data = String::new();
        loop {
            let line = self.lines.next()?.ok()?;
            if let Some(text) = line.strip_prefix("data: ") {
                data.push_str(text);
            } else if line.is_empty() && !data.is_empty() {
                return serde_json::from_str(&data).ok();
            } else if line == "0" {
                return None;
            }
        }
    }
}
