//! An answer on its way out, and what can happen to it there.

use std::io;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde_json::Value;

use super::fault::FaultKind;

/// What every part of an answer repeats.
pub(super) struct Head {
    /// The request's number.
    pub(super) number: u64,
    /// When it was answered, in seconds of the Unix epoch.
    pub(super) created: i64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}_{}", self.created, self.number)
    }
}

/// The text of a content field: a string, or the text parts of a list, a line each.
pub(super) fn text_of(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| {
                let kind =
                    part.get("type").map_or("text", |kind| kind.as_str().unwrap_or_default());
                let is_text = matches!(kind, "text" | "input_text" | "output_text");
                is_text.then(|| part.get("text")?.as_str().map(str::to_owned)).flatten()
            };
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The shortest piece of a streamed text, and the most pieces, so that long texts take longer pieces.
const PIECE_BYTES: usize = 16;
const MAX_PIECES: usize = 64;

/// A text in the pieces in which it is streamed.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let size = PIECE_BYTES.max(text.len().div_ceil(MAX_PIECES));
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = if rest.len() <= size { rest.len() } else { rest.ceil_char_boundary(size) };
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A JSON answer.
pub(super) fn json(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The same with `retry-after`.
pub(super) fn json_with_wait(status: u16, body: &Value, wait_seconds: Option<f64>) -> Response {
    let mut response = json(status, body);
    let value = wait_seconds.map(|wait| HeaderValue::from_str(&wait.to_string()));
    if let Some(Ok(value)) = value {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Stalled,
    Cut,
}

/// A plain answer, with its fault if it has one. Broken ones come in two chunks. `error` is what the
/// wire says instead of an answer.
pub(super) fn plain(answer: &Value, fault: Option<&FaultKind>, error: &Value) -> Response {
    let text = answer.to_string();
    let middle = text.floor_char_boundary(text.len() / 2);
    let body = match fault {
        Some(FaultKind::MalformedJson) => Body::from(text[..middle].to_owned()),
        Some(FaultKind::ErrorInStream { .. }) => Body::from(error.to_string()),
        _ => broken(vec![text[..middle].to_owned(), text[middle..].to_owned()], fault),
    };
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A streamed answer, with its fault if it has one. `error` is the event that tells one.
pub(super) fn streamed(
    mut events: Vec<String>,
    fault: Option<&FaultKind>,
    error: String,
) -> Response {
    if matches!(fault, Some(FaultKind::MalformedJson))
        && let Some(event) = events.get_mut(1)
    {
        // The line goes on to its end, and its JSON does not.
        if let Some(end) = event.rfind('}') {
            event.replace_range(end..=end, "");
        }
    }
    if let Some(FaultKind::ErrorInStream { after_chunks }) = fault {
        events.truncate(*after_chunks);
        events.push(error);
    }
    let body = broken(events, fault);
    ([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")], body).into_response()
}

/// The chunks as the fault lets them through. At least the end of a broken answer is missing.
fn broken(chunks: Vec<String>, fault: Option<&FaultKind>) -> Body {
    let mut chunks: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
    let (end, pause) = match fault {
        Some(FaultKind::StallMidStream { after_chunks }) => {
            chunks.truncate((*after_chunks).min(chunks.len().saturating_sub(1)));
            (End::Stalled, None)
        }
        Some(FaultKind::CutStream { after_chunks }) => {
            chunks.truncate((*after_chunks).min(chunks.len().saturating_sub(1)));
            (End::Cut, None)
        }
        Some(FaultKind::CutBytes { after_bytes }) => {
            let all = chunks.concat();
            let kept = (*after_bytes).min(all.len().saturating_sub(1));
            chunks = vec![Bytes::from(all).slice(..kept)];
            (End::Cut, None)
        }
        Some(FaultKind::SlowFirstToken(wait)) => (End::Whole, Some(*wait)),
        _ => (End::Whole, None),
    };
    if matches!(end, End::Whole) && pause.is_none() && chunks.len() <= 2 {
        return Body::from(chunks.concat());
    }
    let tail: BoxStream<'static, io::Result<Bytes>> = match end {
        End::Whole => stream::empty().boxed(),
        End::Stalled => stream::pending().boxed(),
        End::Cut => stream::once(async {
            // The server sends out what it holds when it has to wait; an error at once would make
            // it throw the chunks away.
            tokio::task::yield_now().await;
            Err(io::Error::other("the simulated provider cuts the stream"))
        })
        .boxed(),
    };
    let head = stream::iter(chunks.into_iter().enumerate()).then(move |(at, chunk)| async move {
        if let Some(wait) = pause.filter(|_| at == 1) {
            tokio::time::sleep(wait).await;
        }
        Ok(chunk)
    });
    Body::from_stream(head.chain(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_text_and_never_cut_a_character() {
        for text in ["", "short", &"é€x".repeat(10), &"long ".repeat(10_000)] {
            let pieces = pieces(text);
            assert_eq!(pieces.concat(), *text);
            assert!(pieces.len() <= MAX_PIECES, "{}", pieces.len());
        }
    }
}
