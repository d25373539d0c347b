//! A streamed answer, frame by frame: what the caller is to see of it.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use steadfast_guard::ErrorClass;
use steadfast_providers::wire::translate::StreamTranslator;
use steadfast_providers::wire::{
    Frame, Frames, Meaning, Reader, Seen, Upstream, UpstreamBody, Wire, WireFailure,
};

use super::paid::Tally;

/// Bytes of preamble that are held back at most. More than that goes on: it can no longer be retried.
const HELD_BYTES: usize = 1024 * 1024;

/// Whole events for the caller.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) bytes: Bytes,
    /// Whether the answer is complete with it.
    pub(super) last: bool,
}

/// Reads a provider's stream. Its first item comes with the first meaningful event and holds all before it.
pub(super) struct AnswerFrames {
    body: UpstreamBody,
    upstream: Upstream,
    pub(super) translator: Option<StreamTranslator>,
    /// Whether the caller sees the usage.
    pub(super) shows_usage: bool,
    tally: Arc<Mutex<Tally>>,
    frames: Frames,
    reader: Reader,
    is_open: bool,
    gathered: Gathered,
    failed: Option<WireFailure>,
}

/// Pieces that go on together. One alone is not copied.
#[derive(Default)]
struct Gathered {
    one: Bytes,
    more: BytesMut,
}

impl Gathered {
    fn push(&mut self, bytes: Bytes) {
        if self.one.is_empty() && self.more.is_empty() {
            self.one = bytes;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.one));
        }
        self.more.extend_from_slice(&bytes);
    }

    fn len(&self) -> usize {
        self.one.len() + self.more.len()
    }

    fn take(&mut self) -> Bytes {
        let one = std::mem::take(&mut self.one);
        if self.more.is_empty() { one } else { std::mem::take(&mut self.more).freeze() }
    }
}

/// The items of one answer.
pub(super) type Items = Pin<Box<dyn Stream<Item = Result<Item, WireFailure>> + Send>>;

impl AnswerFrames {
    pub(super) fn new(
        wire: Wire,
        body: UpstreamBody,
        upstream: Upstream,
        tally: Arc<Mutex<Tally>>,
    ) -> Self {
        Self {
            body,
            upstream,
            translator: None,
            shows_usage: true,
            tally,
            frames: Frames::default(),
            reader: Reader::new(wire),
            is_open: false,
            gathered: Gathered::default(),
            failed: None,
        }
    }

    pub(super) fn items(self) -> Items {
        Box::pin(stream::unfold(Some(self), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(item) => {
                    let rest = (!item.last).then_some(state);
                    Some((Ok(item), rest))
                }
                Err(failure) => Some((Err(state.upstream.redact(failure)), None)),
            }
        }))
    }

    /// The next item; an end without the answer's own end is a failure.
    async fn next(&mut self) -> Result<Item, WireFailure> {
        loop {
            if let Some(failure) = self.failed.take() {
                return Err(failure);
            }
            let last = self.read_frames();
            self.tally.lock().note(&self.reader);
            let is_due = self.is_open || self.gathered.len() > HELD_BYTES;
            if last || (is_due && self.gathered.len() > 0) {
                self.is_open = true;
                return Ok(Item { bytes: self.gathered.take(), last });
            }
            if self.failed.is_some() {
                continue;
            }
            match self.body.next_chunk().await {
                Some(Ok(chunk)) => self.frames.push(chunk),
                Some(Err(failure)) => return Err(self.reader.cut(Some(&failure.message))),
                None => return Err(self.reader.cut(None)),
            }
        }
    }

    /// Reads the whole frames that are there; `true` if the answer has ended with one.
    fn read_frames(&mut self) -> bool {
        loop {
            let frame = match self.frames.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return false,
                Err(error) => {
                    let failure = WireFailure::new(ErrorClass::Malformed, error.to_string());
                    self.failed = Some(failure);
                    return false;
                }
            };
            let seen = self.reader.read(&frame);
            match &seen.meaning {
                Meaning::Error(failure) => {
                    self.failed = Some(failure.clone());
                    return false;
                }
                Meaning::Content => self.is_open = true,
                Meaning::Terminal | Meaning::Preamble | Meaning::Usage | Meaning::Other => {}
            }
            match self.for_caller(&frame, &seen) {
                Ok(bytes) => self.gathered.push(bytes),
                Err(failure) => {
                    self.failed = Some(failure);
                    return false;
                }
            }
            if self.reader.terminated() {
                return self.reader.complete();
            }
        }
    }

    fn for_caller(&mut self, frame: &Frame, seen: &Seen) -> Result<Bytes, WireFailure> {
        match &mut self.translator {
            Some(translator) => translator.frame(frame),
            None if self.shows_usage => Ok(frame.raw.clone()),
            None => Ok(seen.without_usage(frame).unwrap_or_default()),
        }
    }
}
