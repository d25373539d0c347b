//! What the frames of a streamed answer mean, whatever its wire.
//!
//! A stream that ends cleanly before its terminator is taken for a whole answer by the official SDKs, so
//! the one thing that this must never do is to call an answer complete that is not. It reads only what
//! it needs and takes no offence at the rest: fields of other types, members that stand twice and lone
//! surrogates pass, for the caller's SDK may well read them. What is no JSON object is an error.

mod chat;
mod messages;
mod responses;
pub(super) use responses::finish as responses_finish;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use serde_json::value::RawValue;
use steadfast_guard::ErrorClass;

use super::object::{Object, is_null, place};
use super::{Frame, Wire, WireFailure};
use crate::model::{FinishReason, Usage};

/// What a frame is for whoever hands it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The answer announces itself, and nothing of it is there: until something else comes, a retry is
    /// invisible to the caller.
    Preamble,
    /// A piece of the answer: text, reasoning or a tool call.
    Content,
    /// Tokens, and with Anthropic the reason for the end.
    Usage,
    /// The end of a whole answer.
    Terminal,
    /// The answer failed: the provider says so, or what it says cannot be understood.
    Error(WireFailure),
    /// Anything else: comments, pings, ends of blocks, what comes after the end.
    Other,
}

/// The usage in a chunk of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageField {
    /// The chunk is there for the usage alone.
    Alone,
    /// It stands beside something else, perhaps as `null`.
    Beside,
}

/// A frame, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub meaning: Meaning,
    /// The usage that a chat's caller sees only if it asked for it.
    pub usage_field: Option<UsageField>,
}

impl Seen {
    const fn of(meaning: Meaning) -> Self {
        Self { meaning, usage_field: None }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::of(Meaning::Error(WireFailure::malformed(message)))
    }

    /// The frame for a caller that did not ask for the usage: `None` if it is to be left out; the same
    /// bytes if no usage stands in it; otherwise the bytes without it.
    #[must_use]
    pub fn without_usage(&self, frame: &Frame) -> Option<Bytes> {
        match self.usage_field {
            None => Some(frame.raw.clone()),
            Some(UsageField::Alone) => None,
            Some(UsageField::Beside) => Some(cut_out(frame, "usage")),
        }
    }
}

/// Reads the frames of one answer.
#[derive(Debug)]
pub struct Reader {
    wire: Wire,
    state: State,
    chat: chat::Chat,
    messages: messages::Messages,
}

/// What all wires keep.
#[derive(Debug, Default)]
struct State {
    usage: Usage,
    usage_is_final: bool,
    output_bytes: u64,
    content: bool,
    call_open: bool,
    calls: bool,
    refused: bool,
    finish: Option<FinishReason>,
    model: String,
    complete: bool,
    terminated: bool,
    failed: bool,
    next_sequence: u64,
}

impl Reader {
    /// A reader for one answer. Wires that do not stream have no frames that mean anything.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            state: State::default(),
            chat: chat::Chat::default(),
            messages: messages::Messages::default(),
        }
    }

    /// Looks at the next frame. After the terminator, nothing means anything any more.
    pub fn read(&mut self, frame: &Frame) -> Seen {
        let data = frame.data.as_ref().filter(|data| !data.is_empty());
        let Some(data) = data.filter(|_| !self.state.terminated) else {
            return Seen::of(Meaning::Other);
        };
        let state = &mut self.state;
        let seen = match self.wire {
            Wire::Chat => self.chat.read(state, frame, data),
            Wire::Messages => self.messages.read(state, frame, data),
            Wire::Responses => responses::read(state, frame, data),
            Wire::Embeddings | Wire::CountTokens => Seen::of(Meaning::Other),
        };
        match &seen.meaning {
            Meaning::Content => self.state.content = true,
            Meaning::Terminal => {
                self.state.terminated = true;
                self.state.complete = !self.state.failed;
            }
            Meaning::Error(_) => self.state.failed = true,
            Meaning::Preamble | Meaning::Usage | Meaning::Other => {}
        }
        seen
    }

    /// Whether the whole answer is there: its terminator was seen and no error.
    #[must_use]
    pub const fn complete(&self) -> bool {
        self.state.complete
    }

    /// Whether the stream has said its last word, be it that it failed (`response.failed`).
    #[must_use]
    pub const fn terminated(&self) -> bool {
        self.state.terminated
    }

    /// Whether a piece of the answer was seen.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        self.state.content
    }

    /// Whether the arguments of a tool call are sent in part: no other answer can go on from here.
    #[must_use]
    pub const fn tool_call_open(&self) -> bool {
        self.state.call_open
    }

    /// Whether the answer calls tools.
    #[must_use]
    pub const fn has_tool_calls(&self) -> bool {
        self.state.calls
    }

    /// The usage as far as it was told.
    #[must_use]
    pub const fn usage(&self) -> &Usage {
        &self.state.usage
    }

    /// Whether [`Reader::usage`] is the provider's last word. Before that its output may be missing or
    /// that of the first token; [`Reader::output_bytes`] then serves for an estimate.
    #[must_use]
    pub const fn usage_is_final(&self) -> bool {
        self.state.usage_is_final
    }

    /// The bytes of text, reasoning and arguments so far.
    #[must_use]
    pub const fn output_bytes(&self) -> u64 {
        self.state.output_bytes
    }

    /// Why the answer ended, once it has said so.
    #[must_use]
    pub const fn finish(&self) -> Option<FinishReason> {
        self.state.finish
    }

    /// The model that answers, as the provider names it; empty if it does not.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.state.model
    }

    /// The sequence number that the next event of a response would have.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.state.next_sequence
    }

    /// The failure of a stream that ended here, cleanly or not. `why` is what the transport said.
    #[must_use]
    pub fn cut(&self, why: Option<&str>) -> WireFailure {
        let terminator = match self.wire {
            Wire::Messages | Wire::CountTokens => "message_stop",
            Wire::Responses => "response.completed",
            Wire::Chat | Wire::Embeddings => "[DONE]",
        };
        WireFailure::new(
            ErrorClass::Malformed,
            match why {
                Some(why) => format!("the stream was cut before `{terminator}`: {why}"),
                None => format!("the stream ended without `{terminator}`"),
            },
        )
    }
}

impl State {
    /// Counts a piece of output; whether there was any.
    fn output(&mut self, value: Option<&RawValue>) -> bool {
        let bytes = value.map_or(0, value_bytes);
        self.output_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes > 0
    }

    fn named(&mut self, model: Option<&RawValue>) {
        if self.model.is_empty()
            && let Some(model) = string(model)
        {
            self.model = model;
        }
    }
}

/// The failure that an event tells; its JSON has been checked, but for lone surrogates.
fn told(data: &[u8]) -> Meaning {
    let json = serde_json::from_slice(data)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(data).into_owned()));
    Meaning::Error(WireFailure::in_stream(&json))
}

fn string(value: Option<&RawValue>) -> Option<String> {
    value.and_then(|value| serde_json::from_str(value.get()).ok())
}

fn number(value: Option<&RawValue>) -> Option<u64> {
    value.and_then(|value| value.get().parse().ok())
}

fn json(value: Option<&RawValue>) -> Option<Value> {
    value.and_then(|value| serde_json::from_str(value.get()).ok())
}

fn inner<'a>(value: Option<&'a RawValue>) -> Option<Object<'a>> {
    value.and_then(|value| serde_json::from_str(value.get()).ok())
}

/// A list of objects; what is none is an empty one.
fn list<'a>(value: Option<&'a RawValue>) -> Vec<Object<'a>> {
    value.and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
}

/// The bytes of a string as text, and of other values as JSON; nothing for empty ones.
fn value_bytes(value: &RawValue) -> usize {
    let text = value.get();
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => unescaped(inner.as_bytes()),
        None if matches!(text, "null" | "[]" | "{}") => 0,
        None => text.len(),
    }
}

/// The length of a JSON string's inside without its escapes; a `\u` counts as three bytes, which is as
/// long as its character can be.
fn unescaped(inner: &[u8]) -> usize {
    let mut length = inner.len();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &inner[at..]) {
        let unicode = inner.get(at + found + 1) == Some(&b'u');
        let (escape, character) = if unicode { (6, 3) } else { (2, 1) };
        length = length.saturating_sub(escape - character);
        at = (at + found + escape).min(inner.len());
    }
    length
}

/// The frame's bytes without every member of that name.
fn cut_out(frame: &Frame, name: &str) -> Bytes {
    let Some(data) = &frame.data else { return frame.raw.clone() };
    let Ok(object) = Object::read(data) else { return frame.raw.clone() };
    let mut kept = BytesMut::with_capacity(data.len());
    let mut done = 0;
    for (index, (key, value)) in object.members.iter().enumerate() {
        if key.0 != name {
            continue;
        }
        let end = place(data, value).end;
        let before = object.members[..index].iter().rev().find(|(key, _)| key.0 != name);
        let (from, to) = match before {
            // With the comma before it.
            Some(_) => (place(data, object.members[index - 1].1).end, end),
            // With the comma behind it, if there is one.
            None => {
                let brace = memchr::memchr(b'{', data).map_or(0, |at| at + 1);
                let comma = memchr::memchr(b',', &data[end..]);
                let last = index + 1 == object.members.len();
                (brace, comma.filter(|_| !last).map_or(end, |comma| end + comma + 1))
            }
        };
        kept.extend_from_slice(&data[done..from.max(done)]);
        done = to;
    }
    kept.extend_from_slice(&data[done..]);
    let begin = data.as_ptr().addr().wrapping_sub(frame.raw.as_ptr().addr());
    let mut out = BytesMut::with_capacity(frame.raw.len());
    if begin.checked_add(data.len()).is_some_and(|end| end <= frame.raw.len()) {
        out.extend_from_slice(&frame.raw[..begin]);
        out.extend_from_slice(&kept);
        out.extend_from_slice(&frame.raw[begin + data.len()..]);
    } else {
        // The data came in several lines and lies elsewhere.
        for line in kept[..].split(|byte| *byte == b'\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.extend_from_slice(b"\n");
        }
        out.extend_from_slice(b"\n");
    }
    out.freeze()
}

#[cfg(test)]
mod tests;
