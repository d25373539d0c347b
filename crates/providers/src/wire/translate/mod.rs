//! Between OpenAI Chat Completions and Anthropic Messages: requests, whole answers and streams.
//!
//! It serves fallbacks that cross formats, so it keeps to what both can say, and what it cannot say is an
//! error before anything is sent.
//!
//! # What is left out when crossing
//!
//! - Thinking and reasoning, with their signatures: they mean something only to the provider that made
//!   them.
//! - `cache_control`, tiers, seeds, penalties, `top_k`, `strict`, verbosity, reasoning effort, metadata
//!   and storage: hints, or settings that the other side does not have. Fields that nobody knows.
//! - Whether a tool's result is an error, toward Chat, which has no word for it: the text then begins
//!   with `Error: `.
//! - A temperature above 1, toward Messages, is 1.
//! - A tool call that was cut at the output limit, in a whole answer; in a stream its pieces have gone by.
//!
//! # What is refused
//!
//! More than one choice, audio, log probabilities, prescribed answer shapes, tools of the provider's own,
//! an assistant turn to be continued, images in tool results toward Chat, arguments in the history that
//! are no JSON object.

mod answer;
mod blocks;
mod to_chat;
mod to_messages;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Frame, Wire, WireFailure, WireProblem};

pub(crate) use answer::whole;
use blocks::{ChatStream, MessagesStream};

/// What the translation of a request needs to know of where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The model, as the provider names it.
    pub model: &'a str,
    /// The longest answer in tokens, if the request does not say: Messages demands a figure.
    pub default_max_output: u64,
}

/// What every part of a translated answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// When the answer was made, in seconds of the Unix epoch.
    pub created_seconds: i64,
    /// Whether the caller asked for the usage of a stream.
    pub include_usage: bool,
}

/// Whether requests and answers can cross between the two.
#[must_use]
pub const fn can_cross(from: Wire, to: Wire) -> bool {
    matches!((from, to), (Wire::Chat, Wire::Messages) | (Wire::Messages, Wire::Chat))
}

fn no_way(from: Wire, to: Wire) -> String {
    format!("there is no translation from the {} wire to the {} wire", from.name(), to.name())
}

/// The request in the other wire's format.
///
/// # Errors
/// [`WireProblem`] that names what cannot be said there, or is wrong here.
pub fn request(
    from: Wire,
    to: Wire,
    body: &[u8],
    target: &Target<'_>,
) -> Result<Bytes, WireProblem> {
    let body: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| WireProblem::new("", format!("the body is no request: {error}")))?;
    let translated = match (from, to) {
        (Wire::Chat, Wire::Messages) => to_messages::request(&body, target)?,
        (Wire::Messages, Wire::Chat) => to_chat::request(&body, target)?,
        _ => return Err(WireProblem::new("", no_way(from, to))),
    };
    Ok(translated.to_string().into())
}

/// A whole answer in the other wire's format.
///
/// # Errors
/// [`WireFailure`] if it is no answer of the wire it came from, or holds what the other cannot say.
pub fn answer(from: Wire, to: Wire, body: &[u8], head: &Head) -> Result<Bytes, WireFailure> {
    let json: Value = serde_json::from_slice(body)
        .map_err(|error| WireFailure::malformed(format!("the answer is not JSON: {error}")))?;
    if json.get("error").is_some_and(|error| !error.is_null()) {
        return Err(WireFailure::in_stream(&json));
    }
    Ok(whole(from, to, &json, head)?.to_string().into())
}

/// Translates a streamed answer, frame by frame.
///
/// It never makes up an end: the other wire's terminator comes out when this one's went in, and not
/// after an error.
#[derive(Debug)]
pub struct StreamTranslator(Way);

#[derive(Debug)]
enum Way {
    ToMessages(Box<MessagesStream>),
    ToChat(Box<ChatStream>),
}

impl StreamTranslator {
    /// A translator for one answer.
    ///
    /// # Errors
    /// [`WireProblem`] if there is no translation between the two.
    pub fn new(from: Wire, to: Wire, head: Head) -> Result<Self, WireProblem> {
        match (from, to) {
            (Wire::Chat, Wire::Messages) => Ok(Self(Way::ToMessages(Box::default()))),
            (Wire::Messages, Wire::Chat) => Ok(Self(Way::ToChat(Box::new(ChatStream::new(head))))),
            _ => Err(WireProblem::new("", no_way(from, to))),
        }
    }

    /// What the next frame is on the other wire: nothing, one frame or several in one piece.
    ///
    /// # Errors
    /// [`WireFailure`] if the frame tells one, cannot be understood or cannot be translated. Nothing
    /// comes out after that.
    pub fn frame(&mut self, frame: &Frame) -> Result<Bytes, WireFailure> {
        match &mut self.0 {
            Way::ToMessages(stream) => stream.frame(frame),
            Way::ToChat(stream) => stream.frame(frame),
        }
    }
}

/// A member as text; empty if it is none.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The members of a list; what is none is an empty one.
fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A field that is there and not `null`.
fn given<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

/// Refuses fields that change what an answer is and that the other wire does not know.
fn refuse(
    body: &Map<String, Value>,
    names: &[&str],
    harmless: impl Fn(&Value) -> bool,
    other: &str,
) -> Result<(), WireProblem> {
    let found = names.iter().find(|name| given(body, name).is_some_and(|value| !harmless(value)));
    found.map_or(Ok(()), |name| {
        Err(WireProblem::new(*name, format!("it cannot be said on the {other} wire")))
    })
}

/// A tool call's arguments as the object that Messages wants. None at all are an empty one.
fn arguments(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        return Some(Value::Object(Map::new()));
    }
    serde_json::from_str::<Map<String, Value>>(text).ok().map(Value::Object)
}

#[cfg(test)]
mod tests;
