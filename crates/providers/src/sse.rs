//! Server-sent events, read as they arrive (WHATWG HTML, section 9.2).
//!
//! Lines may end in CR, LF or CRLF, and pieces may be cut anywhere, also between CR and LF, inside a
//! character or inside the byte order mark. An event that is not closed by an empty line when the
//! stream ends is dropped, as the standard says. `id` and `retry` are not kept: nothing here reconnects.

/// The largest event, in bytes of its lines.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name, if it has one; `None` means `message`.
    pub name: Option<String>,
    /// Its data lines, joined with line feeds.
    pub data: String,
}

/// An event passed [`MAX_EVENT_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLarge;

/// Cuts bytes into events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: Option<String>,
    data: String,
    has_data: bool,
    /// Bytes of the event so far, without the line in hand.
    event_bytes: usize,
    after_cr: bool,
    begun: bool,
}

impl Parser {
    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the events before it have been appended, and the stream is to be given up.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Event>) -> Result<(), EventTooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let taken = end.unwrap_or(bytes.len());
            if self.event_bytes + self.line.len() + taken > MAX_EVENT_BYTES {
                return Err(EventTooLarge);
            }
            self.line.extend_from_slice(&bytes[..taken]);
            if end.is_none() {
                return Ok(());
            }
            self.after_cr = bytes[taken] == b'\r';
            bytes = &bytes[taken + 1..];
            self.end_line(out);
        }
        Ok(())
    }

    fn end_line(&mut self, out: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let mut rest = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            rest = rest.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(rest);
        }
        if rest.is_empty() {
            self.end_event(out);
        } else if rest[0] != b':' {
            self.event_bytes += rest.len();
            self.field(rest);
        }
        // Keep the allocation for the next line.
        self.line = line;
        self.line.clear();
    }

    fn field(&mut self, line: &[u8]) {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match name {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(&value);
            }
            b"event" => self.name = Some(value.into_owned()).filter(|name| !name.is_empty()),
            _ => {}
        }
    }

    fn end_event(&mut self, out: &mut Vec<Event>) {
        self.event_bytes = 0;
        let name = self.name.take();
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            out.push(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(Option<String>, String)> {
        let mut parser = Parser::default();
        let mut out = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut out).unwrap();
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

    #[test]
    fn an_event_past_the_cap_is_an_error_in_one_line_or_in_many() {
        let mut out = Vec::new();
        let long = vec![b'x'; MAX_EVENT_BYTES + 1];
        assert_eq!(Parser::default().feed(&long, &mut out), Err(EventTooLarge));
        let line = format!("data: {}\n", "y".repeat(1000));
        let mut parser = Parser::default();
        let error = (0..2000).find_map(|_| parser.feed(line.as_bytes(), &mut out).err());
        assert_eq!(error, Some(EventTooLarge));
        assert!(out.is_empty());
        let mut parser = Parser::default();
        for _ in 0..3000 {
            parser.feed(line.as_bytes(), &mut out).unwrap();
            parser.feed(b"\n", &mut out).unwrap();
        }
        assert_eq!(out.len(), 3000);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_events(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), Just(b'a'),
                Just(b't'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(1_usize..20, 1..40),
        ) {
            let whole = parse(&[&bytes]);
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(whole, parse(&pieces));
        }
    }
}
