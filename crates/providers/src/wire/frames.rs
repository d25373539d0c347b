//! Server-sent events, cut out of a stream as they arrive (WHATWG HTML, section 9.2), each with the very
//! bytes that it came in.
//!
//! Lines may end in CR, LF or CRLF, and chunks may be cut anywhere, also between CR and LF, inside a
//! character or inside the byte order mark. A frame that lies within one chunk is a slice of it; nothing
//! is copied. `id` and `retry` are not read: nothing here reconnects.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The largest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// A piece of a stream: an event, or comments and empty lines between events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The bytes as they came. Those of all frames and [`Frames::rest`] together are the stream.
    pub raw: Bytes,
    /// The event's name, if it has one; none means `message`.
    pub event: Option<Bytes>,
    /// The data lines, joined with line feeds; `None` if the frame is no event.
    pub data: Option<Bytes>,
}

impl Frame {
    /// The event's name as text; what is no UTF-8 is no name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.event.as_ref().and_then(|name| std::str::from_utf8(name).ok())
    }
}

/// A frame passed [`MAX_FRAME_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_FRAME_BYTES} bytes")]
pub struct FrameTooLarge;

/// Cuts chunks into frames.
#[derive(Debug, Default)]
pub struct Frames {
    /// The chunk in hand, if nothing of earlier ones is left.
    fresh: Bytes,
    /// What was left of earlier chunks, and what came after it.
    held: BytesMut,
    scan: Scan,
    failed: bool,
}

/// How far the frame in hand was looked at. Places count from its first byte.
#[derive(Debug, Default)]
struct Scan {
    line: usize,
    at: usize,
    event: Option<Range<usize>>,
    data: Vec<Range<usize>>,
    /// A field or a comment within an event stood in the frame.
    inside: bool,
    /// The last line ended in CR: an LF at `at` belongs to it.
    after_cr: bool,
    /// The stream's first line has been read, and with it the byte order mark.
    begun: bool,
}

impl Frames {
    /// Takes the next chunk. Call [`Frames::next_frame`] until it has no more before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        if self.held.is_empty() && self.fresh.is_empty() {
            self.fresh = chunk;
            return;
        }
        if !self.fresh.is_empty() {
            self.held.extend_from_slice(&std::mem::take(&mut self.fresh));
        }
        self.held.extend_from_slice(&chunk);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameTooLarge`], again and again: the stream is to be given up.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLarge> {
        if self.failed {
            return Err(FrameTooLarge);
        }
        let bytes: &[u8] = if self.held.is_empty() { &self.fresh } else { &self.held };
        let end = self.scan.run(bytes);
        if end.unwrap_or(bytes.len()) > MAX_FRAME_BYTES {
            self.failed = true;
            return Err(FrameTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        let raw = if self.held.is_empty() {
            self.fresh.split_to(end)
        } else {
            self.held.split_to(end).freeze()
        };
        Ok(Some(self.scan.take(raw)))
    }

    /// What came after the last whole frame: empty at the end of a stream that ends well. The standard
    /// says to drop it.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        if self.held.is_empty() { &self.fresh } else { &self.held }
    }
}

impl Scan {
    /// Goes on through the frame; its length once it is whole.
    fn run(&mut self, bytes: &[u8]) -> Option<usize> {
        loop {
            if self.after_cr && self.at < bytes.len() {
                self.after_cr = false;
                if bytes[self.at] == b'\n' {
                    self.at += 1;
                    self.line = self.at;
                }
            }
            let Some(length) = memchr2(b'\r', b'\n', &bytes[self.at..]) else {
                self.at = bytes.len();
                return None;
            };
            let end = self.at + length;
            let line = self.line..end;
            self.at = end + 1;
            if bytes[end] == b'\r' {
                match bytes.get(self.at) {
                    Some(b'\n') => self.at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.line = self.at;
            if self.line_ends_frame(bytes, line) {
                return Some(self.at);
            }
        }
    }

    /// Reads one line. An empty one ends the frame, and so does a comment between events, which must
    /// not wait for the next event.
    fn line_ends_frame(&mut self, bytes: &[u8], mut line: Range<usize>) -> bool {
        if !std::mem::replace(&mut self.begun, true)
            && bytes[line.clone()].starts_with(b"\xEF\xBB\xBF")
        {
            line.start += 3;
        }
        let text = &bytes[line.clone()];
        match text.first() {
            None => return true,
            Some(b':') => return !self.inside,
            Some(_) => self.inside = true,
        }
        let colon = memchr::memchr(b':', text).unwrap_or(text.len());
        let value = (line.start + (colon + 1).min(text.len()))..line.end;
        let space = usize::from(bytes[value.clone()].first() == Some(&b' '));
        let value = (value.start + space)..value.end;
        match &text[..colon] {
            b"data" => self.data.push(value),
            b"event" => self.event = Some(value).filter(|name| !name.is_empty()),
            _ => {}
        }
        false
    }

    /// The frame, and a clean slate for the next.
    fn take(&mut self, raw: Bytes) -> Frame {
        let data = match self.data.as_slice() {
            [] => None,
            [one] => Some(raw.slice(one.clone())),
            many => {
                let mut joined = BytesMut::new();
                for (index, line) in many.iter().enumerate() {
                    if index > 0 {
                        joined.extend_from_slice(b"\n");
                    }
                    joined.extend_from_slice(&raw[line.clone()]);
                }
                Some(joined.freeze())
            }
        };
        let event = self.event.take().filter(|_| data.is_some()).map(|name| raw.slice(name));
        self.data.clear();
        let after_cr = self.after_cr;
        *self =
            Self { data: std::mem::take(&mut self.data), after_cr, begun: true, ..Self::default() };
        Frame { raw, event, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Read = (Vec<(Option<String>, String)>, Vec<u8>);

    /// The events, and all bytes put together again.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut frames = Frames::default();
        let (mut events, mut bytes) = (Vec::new(), Vec::new());
        for piece in pieces {
            frames.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = frames.next_frame().unwrap() {
                bytes.extend_from_slice(&frame.raw);
                if let Some(data) = &frame.data {
                    let text = String::from_utf8_lossy(data).into_owned();
                    let name = frame.event.map(|name| String::from_utf8_lossy(&name).into_owned());
                    events.push((name, text));
                }
            }
        }
        bytes.extend_from_slice(frames.rest());
        (events, bytes)
    }

    /// The standard, followed to the letter on the whole text.
    fn by_the_standard(bytes: &[u8]) -> Vec<(Option<String>, String)> {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut lines = Vec::new();
        let (mut line, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if matches!(bytes[at], b'\r' | b'\n') {
                at += usize::from(bytes[at..].starts_with(b"\r\n"));
                lines.push(std::mem::take(&mut line));
            } else {
                line.push(bytes[at]);
            }
            at += 1;
        }
        let (mut events, mut name, mut data) = (Vec::new(), None, Vec::<Vec<u8>>::new());
        for line in lines {
            let cut = line.iter().position(|byte| *byte == b':');
            let (field, value) = match cut {
                Some(cut) => (&line[..cut], &line[cut + 1..]),
                None => (line.as_slice(), &[][..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((name.take(), lossy(&data.join(&b'\n'))));
                }
                name = None;
                data.clear();
            } else if field == b"data" {
                data.push(value.to_vec());
            } else if field == b"event" {
                name = Some(lossy(value)).filter(|name| !name.is_empty());
            }
        }
        events
    }

    #[test]
    fn a_frame_within_a_chunk_is_a_slice_of_it() {
        let chunk = Bytes::from_static(b"event: e\ndata: {\"a\":1}\n\ndata: x\n\ndata: y");
        let mut frames = Frames::default();
        frames.push(chunk.clone());
        let first = frames.next_frame().unwrap().unwrap();
        assert_eq!((first.name(), first.data.as_deref()), (Some("e"), Some(&b"{\"a\":1}"[..])));
        assert_eq!(first.raw.as_ptr(), chunk.as_ptr());
        let second = frames.next_frame().unwrap().unwrap();
        assert_eq!(second.raw.as_ptr(), chunk[first.raw.len()..].as_ptr());
        assert_eq!(frames.next_frame(), Ok(None));
        frames.push(Bytes::from_static(b"z\n\n"));
        assert_eq!(frames.next_frame().unwrap().unwrap().data.unwrap(), "yz");
        assert!(frames.rest().is_empty());
    }

    #[test]
    fn a_comment_between_events_does_not_wait_for_the_next_event() {
        let mut frames = Frames::default();
        frames.push(Bytes::from_static(b": ka\ndata: a\n: inside\n"));
        let comment = frames.next_frame().unwrap().unwrap();
        assert_eq!((comment.raw, comment.data), (Bytes::from_static(b": ka\n"), None));
        assert_eq!(frames.next_frame(), Ok(None));
        frames.push(Bytes::from_static(b"\n"));
        let event = frames.next_frame().unwrap().unwrap();
        assert_eq!(event.raw, "data: a\n: inside\n\n");
        assert_eq!(event.data.unwrap(), "a");
    }

    #[test]
    fn a_frame_past_the_cap_is_an_error_in_one_line_or_in_many_and_stays_one() {
        for line in [b"data: yyyyyyyyy\n".repeat(80_000), vec![b'x'; MAX_FRAME_BYTES + 1]] {
            let mut frames = Frames::default();
            let mut failed = false;
            for piece in line.chunks(9999) {
                frames.push(Bytes::copy_from_slice(piece));
                failed |= frames.next_frame() == Err(FrameTooLarge);
            }
            assert!(failed);
            frames.push(Bytes::from_static(b"\n\ndata: x\n\n"));
            assert_eq!(frames.next_frame(), Err(FrameTooLarge));
        }
        let mut frames = Frames::default();
        for _ in 0..200 {
            frames.push(Bytes::from(format!("data: {}\n\n", "y".repeat(9999))));
            assert!(frames.next_frame().unwrap().is_some());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_standards_events_and_lose_no_byte(
            mark in any::<bool>(),
            tail in proptest::collection::vec(proptest::sample::select(vec![
                &b"\n"[..], b"\r", b"\r\n", b":", b" ", b"data", b"data: ", b"event:", b"\xC3",
                b"\xEF\xBB\xBF", b"x",
            ]), 0..60),
            cuts in proptest::collection::vec(1_usize..9, 1..40),
        ) {
            let mut bytes = if mark { b"\xEF\xBB\xBF".to_vec() } else { Vec::new() };
            bytes.extend(tail.concat());
            let expected = by_the_standard(&bytes);
            prop_assert_eq!(read([&bytes[..]]), (expected.clone(), bytes.clone()));
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(read(pieces), (expected, bytes));
        }
    }
}
