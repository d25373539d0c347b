//! An answer as a stream: the pieces as they come, comments while nothing comes, and no clean end but that
//! of a whole answer.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use steadfast_providers::wire::{Failure, Wire, failure_frames};
use steadfast_runtime::relay::Piece;
use tokio::sync::mpsc::Receiver;

use super::answer::identified;
use super::stopping;

/// What both SDKs overlook.
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// A stream that is being told.
pub(super) struct Told {
    wire: Wire,
    id: String,
    pieces: Receiver<Piece>,
    keep_alive: Duration,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Telling,
    /// The failure has been told; what is left is to break the body off.
    Breaking,
    Over,
}

impl Told {
    pub(super) fn new(wire: Wire, pieces: Receiver<Piece>, keep_alive: Duration, id: &str) -> Self {
        Self { wire, id: id.to_owned(), pieces, keep_alive, stage: Stage::Telling }
    }

    pub(super) fn response(self, headers: HeaderMap) -> Response {
        let mut headers = identified(self.wire.dialect(), headers, &self.id);
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/event-stream"));
        let chunks = stream::unfold(self, |mut told| async move {
            let chunk = told.next().await?;
            Some((chunk, told))
        });
        let mut response = Response::new(Body::from_stream(chunks));
        *response.headers_mut() = headers;
        response
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.stage {
            Stage::Telling => self.tell().await.map(Ok),
            Stage::Breaking => {
                self.stage = Stage::Over;
                // The server sends out what it holds when it has to wait; an error at once would make it
                // throw the failure away that was just told.
                tokio::task::yield_now().await;
                Some(Err(io::Error::other("the stream broke off")))
            }
            Stage::Over => None,
        }
    }

    async fn tell(&mut self) -> Option<Bytes> {
        loop {
            let Ok(piece) = tokio::time::timeout(self.keep_alive, self.pieces.recv()).await else {
                return Some(COMMENT);
            };
            match piece {
                Some(Piece::Open(_)) => {}
                Some(Piece::Data(bytes)) if bytes.is_empty() => {}
                Some(Piece::Data(bytes)) => return Some(bytes),
                Some(Piece::End) => return None,
                Some(Piece::Broken(frames)) => {
                    self.stage = Stage::Breaking;
                    return Some(frames);
                }
                Some(Piece::Refused(failure)) => return Some(self.failed(*failure)),
                Some(Piece::Whole(_)) | None => return Some(self.failed(stopping())),
            }
        }
    }

    fn failed(&mut self, mut failure: Failure) -> Bytes {
        self.stage = Stage::Breaking;
        failure.request_id = Some(self.id.clone());
        failure_frames(self.wire, &failure, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use tokio::sync::mpsc;

    async fn read(told: Told) -> (String, bool) {
        let body = told.response(HeaderMap::new()).into_body();
        let mut chunks = body.into_data_stream();
        let (mut text, mut is_clean) = (Vec::new(), true);
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => text.extend_from_slice(&chunk),
                Err(_) => is_clean = false,
            }
        }
        (String::from_utf8(text).expect("text"), is_clean)
    }

    fn told(wire: Wire, keep_alive: Duration) -> (mpsc::Sender<Piece>, Told) {
        let (sender, pieces) = mpsc::channel(8);
        (sender, Told::new(wire, pieces, keep_alive, "req_1"))
    }

    #[tokio::test]
    async fn comments_come_while_nothing_else_does_and_only_an_end_ends_it_cleanly() {
        let (sender, mut stream) = told(Wire::Chat, Duration::from_millis(1));
        for _ in 0..2 {
            let comment = stream.next().await.expect("goes on").expect("is no failure");
            assert_eq!(comment, COMMENT);
        }
        stream.keep_alive = Duration::from_secs(3600);
        for piece in [Piece::Open(HeaderMap::new()), Piece::Data("data: x\n\n".into()), Piece::End]
        {
            sender.send(piece).await.expect("is read");
        }
        assert_eq!(read(stream).await, ("data: x\n\n".to_owned(), true));
    }

    #[tokio::test]
    async fn what_fails_after_the_status_is_told_in_the_stream_and_breaks_it_off() {
        for wire in [Wire::Chat, Wire::Messages, Wire::Responses] {
            let (sender, stream) = told(wire, Duration::from_secs(15));
            let failure = Box::new(stopping());
            sender.send(Piece::Refused(failure)).await.expect("is read");
            let (text, is_clean) = read(stream).await;
            assert!(text.contains("this node is stopping") && !is_clean, "{wire:?}: {text}");
            assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{text}");
        }
        let (sender, stream) = told(Wire::Chat, Duration::from_secs(15));
        sender.send(Piece::Data("data: x\n\n".into())).await.expect("is read");
        drop(sender);
        let (text, is_clean) = read(stream).await;
        assert!(text.starts_with("data: x\n\ndata: {\"error\"") && !is_clean, "{text}");
    }
}
