//! What a request is, read without copying its messages.
//!
//! A field that is read here and stands twice is refused: the gateway would decide by one of the two
//! and the provider might go by the other.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::object::{Object, is_null};
use super::{Dialect, Wire};

/// What a request asks for, as far as those in between need to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peek {
    /// The model that is asked for.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// The longest answer, in tokens; of several that are given, the smallest.
    pub max_output_tokens: Option<u64>,
    /// How many answers: `n`, otherwise 1.
    pub choices: u64,
    /// Whether the caller wants the usage of a stream. Always true where the wire has no switch for it.
    pub include_usage: bool,
    /// The names of the tools that the model may call; for tools of the provider's, their type.
    pub tools: Vec<String>,
    /// How many messages, or for `input` how many items.
    pub messages: usize,
    /// The bytes of what the model reads: messages, instructions and tools, as JSON.
    pub input_bytes: usize,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The tier that is asked for.
    pub service_tier: Option<String>,
    /// The caller's end user: `safety_identifier`, `user` or `metadata.user_id`.
    pub user: Option<String>,
    /// The stored response that this one goes on from; only its provider knows it.
    pub previous_response_id: Option<String>,
    /// The stored conversation, likewise.
    pub conversation: Option<String>,
    /// Whether the provider is asked to keep the answer. Responses does unless told otherwise.
    pub store: bool,
    /// Whether the answer is to be made in the background.
    pub background: bool,
    /// Whether a message holds an image.
    pub has_images: bool,
    /// Whether a message holds audio.
    pub has_audio: bool,
    /// Whether a message holds a document or a file.
    pub has_files: bool,
    /// Whether the shape of the answer is prescribed.
    pub has_schema: bool,
    /// Whether reasoning is asked for.
    pub has_reasoning: bool,
}

/// What is wrong with a request, and where. Its text is for the body of a 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireProblem {
    /// The field, such as `max_tokens`; empty for the whole body.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

impl WireProblem {
    pub(super) fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }
}

impl fmt::Display for WireProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "`{}`: {}", self.field, self.what)
    }
}

impl std::error::Error for WireProblem {}

/// The fields that are read, any wire's.
const READ: [&str; 24] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "messages",
    "input",
    "instructions",
    "system",
    "tools",
    "temperature",
    "service_tier",
    "user",
    "safety_identifier",
    "metadata",
    "previous_response_id",
    "conversation",
    "store",
    "background",
    "response_format",
    "text",
    "output_config",
];

impl Peek {
    /// Reads a request.
    ///
    /// # Errors
    /// [`WireProblem`] if the body is not a JSON object, a field that is read has the wrong type or
    /// stands twice, or the model or the messages are missing.
    pub fn read(wire: Wire, body: &Bytes) -> Result<Self, WireProblem> {
        let object = Object::read(body)
            .map_err(|error| WireProblem::new("", format!("the body is no request: {error}")))?;
        for name in READ {
            if object.all(name).nth(1).is_some() {
                return Err(WireProblem::new(name, "it stands twice"));
            }
        }
        let fields = Fields(&object);
        let model: String = fields.read("model", "a string")?.unwrap_or_default();
        if model.is_empty() {
            return Err(WireProblem::new("model", "it is missing"));
        }
        let mut peek = Self {
            model,
            stream: wire.streams() && fields.read("stream", "true or false")?.unwrap_or(false),
            choices: 1,
            include_usage: true,
            temperature: fields.read("temperature", "a number")?,
            service_tier: fields.read("service_tier", "a string")?,
            user: fields.user(wire)?,
            tools: fields.tools()?,
            store: fields.read("store", "true or false")?.unwrap_or(wire == Wire::Responses),
            ..Self::default()
        };
        peek.limits(wire, &fields)?;
        peek.content(wire, &fields)?;
        Ok(peek)
    }

    fn limits(&mut self, wire: Wire, fields: &Fields<'_, '_>) -> Result<(), WireProblem> {
        for name in output_limits(wire) {
            let limit: Option<u64> = fields.read(name, "a number of tokens")?;
            self.max_output_tokens = match (self.max_output_tokens, limit) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if wire == Wire::Chat {
            self.choices = fields.read("n", "a number")?.unwrap_or(1);
            let options: Option<StreamOptions> = fields.read("stream_options", "an object")?;
            self.include_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
        }
        Ok(())
    }

    fn content(&mut self, wire: Wire, fields: &Fields<'_, '_>) -> Result<(), WireProblem> {
        let (name, raw) = match wire {
            Wire::Chat | Wire::Messages | Wire::CountTokens => ("messages", fields.get("messages")),
            Wire::Responses | Wire::Embeddings => ("input", fields.get("input")),
        };
        self.previous_response_id = fields.read("previous_response_id", "a string")?;
        self.background = fields.read("background", "true or false")?.unwrap_or(false);
        self.conversation = fields.get("conversation").map(|value| value.get().to_owned());
        self.input_bytes = ["system", "instructions", "tools"]
            .iter()
            .filter_map(|name| fields.get(name))
            .chain(raw)
            .map(|value| value.get().len())
            .sum();
        self.has_reasoning = ["thinking", "reasoning", "reasoning_effort"]
            .iter()
            .any(|name| fields.get(name).is_some());
        self.has_schema = ["response_format", "text", "output_config", "output_format"]
            .iter()
            .filter_map(|name| fields.get(name))
            .any(|value| value.get().contains("\"json"));
        let Some(raw) = raw else {
            // A stored prompt or conversation may stand for the input.
            let may_lack = wire == Wire::Responses;
            let missing = WireProblem::new(name, "it is missing");
            return if may_lack { Ok(()) } else { Err(missing) };
        };
        let text = raw.get();
        if text.starts_with('"') && wire.dialect() == Dialect::OpenAi && wire != Wire::Chat {
            self.messages = 1;
            return Ok(());
        }
        let items: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| WireProblem::new(name, "it must be a list"))?;
        if items.is_empty() {
            return Err(WireProblem::new(name, "at least one is needed"));
        }
        self.messages = items.len();
        if wire != Wire::Embeddings && MEDIA.iter().any(|word| text.contains(word)) {
            for item in items {
                // What is no message is the provider's to refuse.
                if let Ok(part) = serde_json::from_str::<Part<'_>>(item.get()) {
                    self.media(&part, 0);
                }
            }
        }
        Ok(())
    }

    fn media(&mut self, part: &Part<'_>, depth: usize) {
        match part.kind.as_deref().unwrap_or_default() {
            "image" | "image_url" | "input_image" => self.has_images = true,
            "input_audio" | "audio" => self.has_audio = true,
            "document" | "file" | "input_file" => self.has_files = true,
            _ => {}
        }
        // A tool result in a message is the deepest that a wire nests content.
        if depth < 4
            && let Some(content) = part.content
            && content.get().starts_with('[')
            && let Ok(parts) = serde_json::from_str::<Vec<Part<'_>>>(content.get())
        {
            for part in &parts {
                self.media(part, depth + 1);
            }
        }
    }
}

/// The names under which a wire takes the longest answer.
pub(super) const fn output_limits(wire: Wire) -> &'static [&'static str] {
    match wire {
        Wire::Chat => &["max_completion_tokens", "max_tokens"],
        Wire::Responses => &["max_output_tokens"],
        Wire::Messages => &["max_tokens"],
        Wire::Embeddings | Wire::CountTokens => &[],
    }
}

/// Without one of these words no message needs to be looked into.
const MEDIA: [&str; 4] = ["image", "audio", "document", "file"];

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    function: Option<Named<'a>>,
    #[serde(default, borrow)]
    custom: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    user_id: Option<String>,
}

struct Fields<'o, 'a>(&'o Object<'a>);

impl<'a> Fields<'_, 'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.last(name).filter(|value| !is_null(value))
    }

    fn read<T: Deserialize<'a>>(&self, name: &str, what: &str) -> Result<Option<T>, WireProblem> {
        let read = |value: &'a RawValue| serde_json::from_str(value.get());
        self.get(name)
            .map(read)
            .transpose()
            .map_err(|_| WireProblem::new(name, format!("it must be {what}")))
    }

    fn user(&self, wire: Wire) -> Result<Option<String>, WireProblem> {
        if wire.dialect() == Dialect::Anthropic {
            let metadata: Option<Metadata> = self.read("metadata", "an object")?;
            return Ok(metadata.and_then(|metadata| metadata.user_id));
        }
        let user = self.read("user", "a string")?;
        Ok(self.read("safety_identifier", "a string")?.or(user))
    }

    fn tools(&self) -> Result<Vec<String>, WireProblem> {
        let tools: Vec<Tool<'_>> = self.read("tools", "a list of tools")?.unwrap_or_default();
        let name = |tool: Tool<'_>| {
            let inner = tool.function.or(tool.custom).map(|named| named.name);
            let name = inner.or(tool.name).or(tool.kind).unwrap_or_default();
            name.into_owned()
        };
        Ok(tools.into_iter().map(name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(wire: Wire, body: &str) -> Peek {
        Peek::read(wire, &Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn refused(wire: Wire, body: &str) -> String {
        Peek::read(wire, &Bytes::copy_from_slice(body.as_bytes())).unwrap_err().to_string()
    }

    #[test]
    fn a_chat_request_is_seen_through() {
        let seen = peek(
            Wire::Chat,
            r#" {"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"},
            {"type":"image_url","image_url":{"url":"data:"}},{"type":"input_audio","input_audio":{}}]},
            {"role":"tool","content":"y"}],"stream":true,"stream_options":{"include_usage":true},
            "max_tokens":9,"max_completion_tokens":7,"n":2,"temperature":0.5,"service_tier":"flex",
            "tools":[{"type":"function","function":{"name":"f"}},{"type":"custom","custom":{"name":"c"}}],
            "user":"u","safety_identifier":"s","response_format":{"type":"json_schema"},"more":{"a":1}} "#,
        );
        assert_eq!((seen.model.as_str(), seen.stream, seen.include_usage), ("m", true, true));
        assert_eq!((seen.max_output_tokens, seen.choices, seen.messages), (Some(7), 2, 2));
        assert_eq!(seen.tools, ["f", "c"]);
        assert_eq!((seen.temperature, seen.service_tier.as_deref()), (Some(0.5), Some("flex")));
        assert_eq!(seen.user.as_deref(), Some("s"));
        assert!(seen.has_images && seen.has_audio && !seen.has_files && seen.has_schema);
        assert!(!seen.has_reasoning && !seen.store && seen.input_bytes > 100);
    }

    #[test]
    fn a_messages_request_is_seen_through_to_the_image_in_a_tool_result() {
        let seen = peek(
            Wire::Messages,
            r#"{"model":"c","max_tokens":5,"metadata":{"user_id":"u"},"messages":[{"role":"user",
            "content":[{"type":"tool_result","content":[{"type":"image","source":{}}]}]}],
            "tools":[{"name":"t","input_schema":{}},{"type":"web_search_20250305","name":"web_search"}],
            "thinking":{"type":"enabled","budget_tokens":1024}}"#,
        );
        assert_eq!((seen.max_output_tokens, seen.user.as_deref()), (Some(5), Some("u")));
        assert!(seen.has_images && !seen.has_audio && seen.include_usage && !seen.stream);
        assert!(seen.has_reasoning);
        assert_eq!(seen.tools, ["t", "web_search"]);
        // A word in a text is no image.
        let plain =
            r#"{"model":"c","messages":[{"role":"user","content":"an \"image\" of a file"}]}"#;
        let seen = peek(Wire::CountTokens, plain);
        assert!(!seen.has_images && !seen.has_files && !seen.stream);
    }

    #[test]
    fn a_response_may_go_on_from_a_stored_one_and_embeddings_take_strings_and_lists() {
        let seen = peek(
            Wire::Responses,
            r#"{"model":"m","previous_response_id":"r","max_output_tokens":3,"background":true,
            "tools":[{"type":"function","name":"f"},{"type":"web_search"}],"stream":true}"#,
        );
        assert_eq!(seen.previous_response_id.as_deref(), Some("r"));
        assert_eq!((seen.max_output_tokens, seen.messages), (Some(3), 0));
        assert_eq!(seen.tools, ["f", "web_search"]);
        assert!(seen.store && seen.background && seen.include_usage && seen.stream);
        assert!(!peek(Wire::Responses, r#"{"model":"m","input":"x","store":false}"#).store);
        assert_eq!(
            peek(Wire::Embeddings, r#"{"model":"m","input":"x","stream":true}"#).messages,
            1
        );
        assert_eq!(peek(Wire::Embeddings, r#"{"model":"m","input":["x","y"]}"#).messages, 2);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        for (wire, body, says) in [
            (Wire::Chat, "[1]", "the body"),
            (Wire::Chat, "{\"model\":\"m\"", "the body"),
            (Wire::Chat, r#"{"messages":[{}]}"#, "`model`: it is missing"),
            (Wire::Chat, r#"{"model":5,"messages":[{}]}"#, "`model`: it must be a string"),
            (Wire::Chat, r#"{"model":"m"}"#, "`messages`: it is missing"),
            (Wire::Chat, r#"{"model":"m","messages":"x"}"#, "`messages`: it must be a list"),
            (Wire::Chat, r#"{"model":"m","messages":[]}"#, "`messages`: at least one"),
            (Wire::Chat, r#"{"model":"m","messages":[1],"max_tokens":-1}"#, "`max_tokens`"),
            (Wire::Chat, r#"{"model":"m","messages":[1],"stream":"yes"}"#, "`stream`"),
            (
                Wire::Chat,
                r#"{"model":"m","mod\u0065l":"n","messages":[1]}"#,
                "`model`: it stands twice",
            ),
            (Wire::Messages, r#"{"model":"m","messages":[1],"max_tokens":1.5}"#, "`max_tokens`"),
            (Wire::Embeddings, r#"{"model":"m"}"#, "`input`: it is missing"),
        ] {
            let error = refused(wire, body);
            assert!(error.contains(says), "{body}: {error}");
        }
        // Bytes that are no text are no request either.
        assert!(Peek::read(Wire::Chat, &Bytes::from_static(b"{\"model\":\"\xff\"}")).is_err());
    }
}
