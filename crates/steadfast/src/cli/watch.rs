//! `steadfast watch`: follows a run on a server until it is over, across broken connections.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reqwest::Response;
use steadfast_runtime::{EventView, RunView, Status};
use steadfast_store::RunId;

use super::client::{Answer, Client};
use super::remote::exit_of;
use super::{Exit, Output, output};

/// Connections in a row that may fail or bring nothing: with the pauses, half a minute, in which a
/// server can be started again.
const TRIES: u32 = 10;

/// The pause before the first new connection; it doubles up to the longest one.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Longest line of the stream, in bytes: the longest input (8 MiB) with every byte escaped by JSON.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How one connection ended.
enum Ended {
    /// The run is over, or the server refused: there is nothing more to be seen.
    Done(Exit),
    /// Something is left to be seen, on another connection.
    Broken(anyhow::Error),
}

pub(super) async fn watch(client: &Client, run: RunId, format: Output) -> anyhow::Result<Exit> {
    let mut after = 0;
    let mut failures = 0;
    loop {
        let before = after;
        let error = match follow(client, run, format, &mut after).await? {
            Ended::Done(exit) => return Ok(exit),
            Ended::Broken(error) => error,
        };
        failures = if after > before { 1 } else { failures + 1 };
        // A server that never answered is not there; one that did may come back.
        if after == 0 || failures > TRIES {
            return Err(error.context(format!("stopped watching after event {after}")));
        }
        output::talk(&format!("connection lost after event {after}: trying again"));
        tokio::time::sleep((PAUSE * (1 << (failures - 1).min(8))).min(PAUSE_MAX)).await;
    }
}

/// One connection: prints what follows the event `after`, and moves it on.
async fn follow(
    client: &Client,
    run: RunId,
    format: Output,
    after: &mut u64,
) -> anyhow::Result<Ended> {
    let response = match client.stream(&format!("/runs/{run}/events"), *after).await {
        Ok(Answer::Ok(response)) => response,
        Ok(Answer::Refused(exit)) => return Ok(Ended::Done(exit)),
        Err(error) if *after == 0 => return Err(error),
        Err(error) => return Ok(Ended::Broken(error)),
    };
    if let Err(error) = read(response, format, after).await? {
        return Ok(Ended::Broken(error.into()));
    }
    match client.get::<RunView>(&format!("/runs/{run}")).await {
        Ok(Answer::Refused(exit)) => Ok(Ended::Done(exit)),
        Ok(Answer::Ok(view)) if Status::parse(&view.state).is_some_and(Status::is_over) => {
            Ok(Ended::Done(exit_of(&view)))
        }
        Ok(Answer::Ok(_)) => Ok(Ended::Broken(anyhow!("the server stopped before the run did"))),
        Err(error) => Ok(Ended::Broken(error)),
    }
}

/// Prints the events of a stream. The inner error is the connection's, the outer one is final.
async fn read(
    mut response: Response,
    format: Output,
    after: &mut u64,
) -> anyhow::Result<Result<(), reqwest::Error>> {
    let mut lines = Lines::default();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error.without_url())),
        };
        for line in lines.feed(&chunk)? {
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let view: EventView = serde_json::from_slice(data)
                .with_context(|| format!("what follows event {after} is not an event"))?;
            *after = view.seq;
            match format {
                Output::Json => output::json(&view)?,
                Output::Text => output::data(&output::event(&view))?,
            }
        }
    }
}

/// Cuts a stream into lines. The server writes each event's data on one line that ends in LF.
#[derive(Default)]
struct Lines {
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut whole = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.len() > LINE_BYTES_MAX {
                return Err(anyhow!("a line of the stream is longer than {LINE_BYTES_MAX} bytes"));
            }
            if self.begun.pop_if(|last| *last == b'\n').is_some() {
                whole.push(std::mem::take(&mut self.begun));
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let text = b"id: 1\ndata: a\xc3\xa9\n\nid: 2\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = lines.feed(&text[..cut]).unwrap();
            found.extend(lines.feed(&text[cut..]).unwrap());
            assert_eq!(found, [&b"id: 1"[..], b"data: a\xc3\xa9", b"", b"id: 2"], "cut at {cut}");
        }
    }
}
