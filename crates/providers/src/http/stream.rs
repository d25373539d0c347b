//! Drives an event stream through its accumulator.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{MAX_ANSWER_BYTES, Redactor, WireFailure, chain};
use crate::model::{ModelDelta, ModelError, ModelStream};
use crate::sse::{Event, Parser};

/// Puts the events of one answer together. Pure: it sees events and says what they mean.
pub(crate) trait Accumulate: Send + 'static {
    /// How the protocol marks the end of a whole answer.
    const TERMINATOR: &'static str;

    /// Takes one event. [`ModelDelta::Done`] is the last thing it pushes.
    fn event(&mut self, event: &Event, out: &mut VecDeque<ModelDelta>) -> Result<(), WireFailure>;
}

struct Driver<A> {
    body: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    parser: Parser,
    accumulator: A,
    read_bytes: usize,
    ready: VecDeque<ModelDelta>,
    /// Handed out after what is ready.
    failure: Option<WireFailure>,
    ended: bool,
    redactor: Redactor,
}

/// The answer in a response's body. A body that ends, breaks or turns to nonsense before the
/// protocol's terminator ends the stream with an error, never cleanly.
pub(crate) fn answer_stream<A: Accumulate>(
    response: reqwest::Response,
    accumulator: A,
    redactor: Redactor,
) -> ModelStream {
    let driver = Driver {
        body: response.bytes_stream().boxed(),
        parser: Parser::default(),
        accumulator,
        read_bytes: 0,
        ready: VecDeque::new(),
        failure: None,
        ended: false,
        redactor,
    };
    stream::unfold(driver, |mut driver| async move {
        let item = driver.next().await?;
        Some((item, driver))
    })
    .boxed()
}

impl<A: Accumulate> Driver<A> {
    async fn next(&mut self) -> Option<Result<ModelDelta, ModelError>> {
        while !self.ended {
            if let Some(delta) = self.ready.pop_front() {
                self.ended = matches!(delta, ModelDelta::Done(_));
                return Some(Ok(delta));
            }
            if let Some(failure) = self.failure.take() {
                self.ended = true;
                return Some(Err(self.redactor.error(failure)));
            }
            let piece = self.body.next().await;
            if let Err(failure) = self.take(piece) {
                self.failure = Some(failure);
            }
        }
        None
    }

    fn take(&mut self, piece: Option<Result<Bytes, reqwest::Error>>) -> Result<(), WireFailure> {
        let end = A::TERMINATOR;
        let bytes = piece
            .ok_or_else(|| WireFailure::malformed(format!("the stream ended without `{end}`")))?
            .map_err(|error| {
                let why = chain(&error.without_url());
                WireFailure::malformed(format!("the stream was cut before `{end}`: {why}"))
            })?;
        self.read_bytes += bytes.len();
        if self.read_bytes > MAX_ANSWER_BYTES {
            let what = format!("the stream is larger than {MAX_ANSWER_BYTES} bytes");
            return Err(WireFailure::malformed(what));
        }
        let mut events = Vec::new();
        let parsed = self.parser.feed(bytes, &mut events);
        for event in &events {
            self.accumulator.event(event, &mut self.ready)?;
            if matches!(self.ready.back(), Some(ModelDelta::Done(_))) {
                return Ok(());
            }
        }
        parsed.map_err(|error| WireFailure::malformed(error.to_string()))
    }
}
