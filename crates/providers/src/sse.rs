//! Server-sent events as text, read as they arrive. How they are cut is told in
//! [`Frames`]; an event that is not closed by an empty line when the stream ends is
//! dropped, as the standard says.

use bytes::Bytes;

use crate::wire::Frames;

pub use crate::wire::{FrameTooLarge as EventTooLarge, MAX_FRAME_BYTES as MAX_EVENT_BYTES};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name, if it has one; `None` means `message`.
    pub name: Option<String>,
    /// Its data lines, joined with line feeds.
    pub data: String,
}

/// Cuts bytes into events.
#[derive(Debug, Default)]
pub struct Parser(Frames);

impl Parser {
    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the events before it have been appended, and the stream is to be given up.
    pub fn feed(&mut self, bytes: Bytes, out: &mut Vec<Event>) -> Result<(), EventTooLarge> {
        self.0.push(bytes);
        while let Some(frame) = self.0.next_frame()? {
            let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
            if let Some(data) = frame.data {
                out.push(Event { name: frame.event.map(text), data: text(data) });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(Option<String>, String)> {
        let mut parser = Parser::default();
        let mut out = Vec::new();
        for piece in pieces {
            parser.feed(Bytes::copy_from_slice(piece), &mut out).unwrap();
        }
        out.into_iter().map(|event| (event.name, event.data)).collect()
    }

    fn check(text: &str, expected: &[(Option<&str>, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(n, d)| (n.map(str::to_owned), (*d).to_owned())).collect();
        assert_eq!(parse(&[text.as_bytes()]), expected, "{text:?}");
        for cut in 0..=text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(parse(&[a, b]), expected, "{text:?} cut at {cut}");
        }
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(parse(&single), expected, "{text:?} byte by byte");
    }

    #[test]
    fn all_line_ends_comments_marks_and_fields_are_read_however_they_are_cut() {
        check("data: a\n\n", &[(None, "a")]);
        check("data: a\r\rdata:b\r\r", &[(None, "a"), (None, "b")]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &[(None, "a"), (None, "b")]);
        check("\u{feff}data: a\n\n", &[(None, "a")]);
        check(": ka\n\n:\ndata: é\ndata:  ü\n\n", &[(None, "é\n ü")]);
        check("event: x\ndata\n\nevent: y\n\ndata: z\n\n", &[(Some("x"), ""), (None, "z")]);
        check(
            "id: 1\nretry: 5\nfoo: bar\ndata: {\"a\":\"b: c\"}\n\n",
            &[(None, "{\"a\":\"b: c\"}")],
        );
        check("data: never closed", &[]);
        check("data: never closed\n", &[]);
    }
}
