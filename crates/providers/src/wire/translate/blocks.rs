//! Streams on the other wire.
//!
//! Messages wants blocks one after the other, and a chat may send pieces of several calls in turn. So
//! the pieces wait in order of appearance, and the block in front goes out as it comes: a text is over
//! once something else has begun, a call once its arguments are a whole JSON value.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{chat_usage, finish_reason, messages_usage, no_object, no_place, stop_reason};
use super::{Head, arguments, text};
use crate::anthropic::request::wire_id;
use crate::model::Usage;
use crate::openai::response::{call_id, reported};
use crate::openai::stream::{CallDelta, CallKey, Chunk, Delta, call_at};
use crate::wire::usage::merge_messages;
use crate::wire::{Frame, WireFailure};

/// More text than this, in bytes, does not wait for the calls before it.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;

/// A chat as a message.
#[derive(Debug, Default)]
pub(super) struct MessagesStream {
    out: String,
    begun: bool,
    ended: bool,
    id: String,
    keys: Vec<CallKey>,
    waiting: VecDeque<Block>,
    waiting_bytes: usize,
    index: usize,
    finish: Option<String>,
    refused: bool,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Block {
    /// Which call it is; `None` for text.
    call: Option<Call>,
    /// What has not gone out yet.
    pending: String,
    begun: bool,
}

#[derive(Debug, Default)]
struct Call {
    number: usize,
    name: String,
    arguments: String,
    end: JsonEnd,
}

/// Finds the end of a JSON object or list, piece by piece.
#[derive(Debug, Default)]
struct JsonEnd {
    depth: u32,
    in_string: bool,
    escaped: bool,
    reached: bool,
}

impl JsonEnd {
    fn feed(&mut self, piece: &str) {
        for byte in piece.bytes() {
            if self.escaped {
                self.escaped = false;
                continue;
            }
            match (self.in_string, byte) {
                (true, b'\\') => self.escaped = true,
                (_, b'"') => self.in_string = !self.in_string,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    self.reached = self.depth == 0;
                }
                _ => {}
            }
        }
    }
}

impl MessagesStream {
    pub(super) fn frame(&mut self, frame: &Frame) -> Result<Bytes, WireFailure> {
        let data = frame.data.as_ref().filter(|data| !data.is_empty() && !self.ended);
        let Some(data) = data else { return Ok(Bytes::new()) };
        if data.trim_ascii() == b"[DONE]" {
            self.done()?;
        } else {
            let json: Value = serde_json::from_slice(data)
                .map_err(|error| WireFailure::malformed(format!("a chunk is not JSON: {error}")))?;
            let has_error = json.get("error").is_some_and(|error| !error.is_null());
            if has_error || frame.name() == Some("error") {
                return Err(WireFailure::in_stream(&json));
            }
            let chunk = serde_json::from_value(json).map_err(|error| {
                WireFailure::malformed(format!("a chunk is not a completion chunk: {error}"))
            })?;
            self.chunk(chunk)?;
        }
        Ok(std::mem::take(&mut self.out).into())
    }

    fn event(&mut self, event: &Value) {
        let name = text(event, "type");
        self.out.push_str(&format!("event: {name}\ndata: {event}\n\n"));
    }

    fn begin(&mut self, model: &str) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        // The real figures come with the end.
        let usage = messages_usage(&Usage::default());
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage,
        });
        self.event(&json!({"type": "message_start", "message": message}));
    }

    fn chunk(&mut self, chunk: Chunk) -> Result<(), WireFailure> {
        if self.id.is_empty() {
            self.id = chunk.id.unwrap_or_default();
        }
        self.begin(&chunk.model.unwrap_or_default());
        if let Some(usage) = chunk.usage.as_ref().filter(|usage| usage.is_object()) {
            self.usage = reported(Some(usage), None);
        }
        for choice in chunk.choices.unwrap_or_default() {
            if choice.index.unwrap_or(0) != 0 {
                return Err(WireFailure::malformed("the answer has more than one choice"));
            }
            if let Some(delta) = choice.delta {
                self.delta(delta)?;
            }
            self.finish = choice.finish_reason.or_else(|| self.finish.take());
        }
        self.flush(false)
    }

    fn delta(&mut self, delta: Delta) -> Result<(), WireFailure> {
        let Delta { content, refusal, tool_calls } = delta;
        self.refused |= refusal.as_ref().is_some_and(|text| !text.is_empty());
        for piece in [refusal, content].into_iter().flatten().filter(|piece| !piece.is_empty()) {
            self.waits(piece.len())?;
            match self.waiting.back_mut().filter(|block| block.call.is_none()) {
                Some(last) => last.pending.push_str(&piece),
                None => self.waiting.push_back(Block { pending: piece, ..Block::default() }),
            }
        }
        for piece in tool_calls.unwrap_or_default() {
            self.call(piece)?;
        }
        Ok(())
    }

    fn waits(&mut self, bytes: usize) -> Result<(), WireFailure> {
        self.waiting_bytes += bytes;
        if self.waiting_bytes <= MAX_WAITING_BYTES {
            return Ok(());
        }
        let what = format!("more than {MAX_WAITING_BYTES} bytes wait for the call before them");
        Err(WireFailure::malformed(what))
    }

    fn call(&mut self, piece: CallDelta) -> Result<(), WireFailure> {
        let known = self.keys.len();
        let id = piece.id.filter(|id| !id.is_empty());
        let number = call_at(&mut self.keys, piece.index, id)?;
        let function = piece.function.unwrap_or_default();
        let more = function.arguments.unwrap_or_default();
        self.waits(more.len())?;
        if number >= known {
            let call = Call { number, ..Call::default() };
            self.waiting.push_back(Block { call: Some(call), ..Block::default() });
        }
        let mut blocks = self.waiting.iter_mut();
        let block = blocks.find(|block| block.call.as_ref().is_some_and(|c| c.number == number));
        let Some((call, pending)) =
            block.and_then(|block| Some((block.call.as_mut()?, &mut block.pending)))
        else {
            // Its arguments were whole, so this can only be white space.
            return if more.trim().is_empty() { Ok(()) } else { Err(no_object("a tool")) };
        };
        if let Some(name) = function.name.filter(|_| call.name.is_empty()) {
            call.name = name;
        }
        call.end.feed(&more);
        call.arguments.push_str(&more);
        pending.push_str(&more);
        Ok(())
    }

    /// Sends out what may go: all of it if the answer is over.
    fn flush(&mut self, over: bool) -> Result<(), WireFailure> {
        while let Some(mut block) = self.waiting.pop_front() {
            let nameless = block.call.as_ref().is_some_and(|call| call.name.is_empty());
            if nameless && over {
                return Err(WireFailure::malformed("a tool call has no name"));
            }
            if !nameless {
                self.send(&mut block);
            }
            let whole = block.call.as_ref().is_none_or(|call| call.end.reached);
            let last = self.waiting.is_empty();
            if nameless || !(over || (whole && !last)) {
                self.waiting.push_front(block);
                return Ok(());
            }
            self.close(&block)?;
        }
        Ok(())
    }

    fn send(&mut self, block: &mut Block) {
        let index = self.index;
        if !std::mem::replace(&mut block.begun, true) {
            let begin = match &block.call {
                None => json!({"type": "text", "text": ""}),
                Some(call) => {
                    let id = call_id(self.keys[call.number].id.clone(), &self.id, call.number);
                    json!({"type": "tool_use", "id": wire_id(&id), "name": call.name, "input": {}})
                }
            };
            let event =
                json!({"type": "content_block_start", "index": index, "content_block": begin});
            self.event(&event);
        }
        if block.pending.is_empty() {
            return;
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(block.pending.len());
        let piece = std::mem::take(&mut block.pending);
        let delta = match block.call {
            None => json!({"type": "text_delta", "text": piece}),
            Some(_) => json!({"type": "input_json_delta", "partial_json": piece}),
        };
        self.event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    fn close(&mut self, block: &Block) -> Result<(), WireFailure> {
        if let Some(call) = &block.call
            && arguments(&call.arguments).is_none()
            && self.finish.as_deref() != Some("length")
        {
            return Err(no_object(&call.name));
        }
        let index = self.index;
        self.event(&json!({"type": "content_block_stop", "index": index}));
        self.index += 1;
        Ok(())
    }

    fn done(&mut self) -> Result<(), WireFailure> {
        let Some(reason) = self.finish.clone() else {
            let what = "the stream said `[DONE]` without a finish reason";
            return Err(WireFailure::malformed(what));
        };
        self.flush(true)?;
        let reason = stop_reason(&reason, !self.keys.is_empty(), self.refused);
        let usage = messages_usage(&self.usage);
        self.event(&json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null},
            "usage": usage,
        }));
        self.event(&json!({"type": "message_stop"}));
        self.ended = true;
        Ok(())
    }
}

/// A message as a chat.
#[derive(Debug)]
pub(super) struct ChatStream {
    head: Head,
    out: String,
    begun: bool,
    ended: bool,
    id: String,
    model: String,
    open: BTreeMap<u64, Open>,
    calls: usize,
    finish: Option<String>,
    usage: Usage,
}

#[derive(Debug)]
enum Open {
    Text,
    /// What its start held of arguments stands for them if no pieces come.
    Call {
        number: usize,
        whole: Value,
        pieces: bool,
    },
    Dropped,
}

impl ChatStream {
    pub(super) fn new(head: Head) -> Self {
        Self {
            head,
            out: String::new(),
            begun: false,
            ended: false,
            id: String::new(),
            model: String::new(),
            open: BTreeMap::new(),
            calls: 0,
            finish: None,
            usage: Usage::default(),
        }
    }

    pub(super) fn frame(&mut self, frame: &Frame) -> Result<Bytes, WireFailure> {
        let data = frame.data.as_ref().filter(|data| !data.is_empty() && !self.ended);
        let Some(data) = data else { return Ok(Bytes::new()) };
        let json: Value = serde_json::from_slice(data)
            .map_err(|error| WireFailure::malformed(format!("an event is not JSON: {error}")))?;
        let kind = json.get("type").and_then(Value::as_str).or_else(|| frame.name());
        match kind.unwrap_or_default() {
            "error" => return Err(WireFailure::in_stream(&json)),
            "message_start" => self.start(&json),
            "content_block_start" => self.block_start(&json)?,
            "content_block_delta" => self.block_delta(&json)?,
            "content_block_stop" => self.block_stop(index(&json)),
            "message_delta" => {
                let reason = json.pointer("/delta/stop_reason").and_then(Value::as_str);
                self.finish = reason.map(str::to_owned).or_else(|| self.finish.take());
                if let Some(usage) = json.get("usage") {
                    merge_messages(&mut self.usage, usage);
                }
            }
            "message_stop" => self.stop()?,
            _ => {}
        }
        Ok(std::mem::take(&mut self.out).into())
    }

    fn chunk(&mut self, choices: &Value, usage: Option<Value>) {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.head.created_seconds,
            "model": self.model,
            "choices": choices,
        });
        if self.head.include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        self.out.push_str(&format!("data: {chunk}\n\n"));
    }

    fn delta(&mut self, delta: &Value, finish: Option<&str>) {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        self.chunk(&json!([choice]), None);
    }

    fn start(&mut self, json: &Value) {
        let message = json.get("message").unwrap_or(&Value::Null);
        text(message, "id").clone_into(&mut self.id);
        text(message, "model").clone_into(&mut self.model);
        if let Some(usage) = message.get("usage") {
            merge_messages(&mut self.usage, usage);
        }
        self.begun = true;
        self.delta(&json!({"role": "assistant", "content": "", "refusal": null}), None);
    }

    fn block_start(&mut self, json: &Value) -> Result<(), WireFailure> {
        let block = json.get("content_block").unwrap_or(&Value::Null);
        let open = match text(block, "type") {
            "text" => {
                if !text(block, "text").is_empty() {
                    self.delta(&json!({"content": text(block, "text")}), None);
                }
                Open::Text
            }
            "tool_use" => {
                let number = self.calls;
                self.calls += 1;
                let call = json!({
                    "index": number,
                    "id": text(block, "id"),
                    "type": "function",
                    "function": {"name": text(block, "name"), "arguments": ""},
                });
                self.delta(&json!({"tool_calls": [call]}), None);
                let whole = block.get("input").filter(|input| input.is_object()).cloned();
                Open::Call { number, whole: whole.unwrap_or_else(|| json!({})), pieces: false }
            }
            "thinking" | "redacted_thinking" => Open::Dropped,
            other => return Err(no_place(other)),
        };
        self.open.insert(index(json), open);
        Ok(())
    }

    fn block_delta(&mut self, json: &Value) -> Result<(), WireFailure> {
        let delta = json.get("delta").unwrap_or(&Value::Null);
        let at = index(json);
        let open = self.open.get_mut(&at).ok_or_else(|| {
            WireFailure::malformed(format!("a delta for block {at}, which has not begun"))
        })?;
        match (open, text(delta, "type")) {
            (Open::Text, "text_delta") => {
                self.delta(&json!({"content": text(delta, "text")}), None);
            }
            (Open::Call { number, pieces, .. }, "input_json_delta") => {
                let piece = text(delta, "partial_json");
                if !piece.is_empty() {
                    *pieces = true;
                    let call = json!({"index": number, "function": {"arguments": piece}});
                    self.delta(&json!({"tool_calls": [call]}), None);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A call without pieces has the arguments that its start held.
    fn block_stop(&mut self, at: u64) {
        if let Some(Open::Call { number, whole, pieces: false }) = self.open.remove(&at) {
            let call = json!({"index": number, "function": {"arguments": whole.to_string()}});
            self.delta(&json!({"tool_calls": [call]}), None);
        }
    }

    fn stop(&mut self) -> Result<(), WireFailure> {
        if !self.begun {
            return Err(WireFailure::malformed("`message_stop` without `message_start`"));
        }
        let Some(reason) = self.finish.take() else {
            let what = "the stream said `message_stop` without a stop reason";
            return Err(WireFailure::malformed(what));
        };
        while let Some(at) = self.open.keys().next().copied() {
            self.block_stop(at);
        }
        self.delta(&json!({}), Some(finish_reason(&reason)));
        if self.head.include_usage {
            self.chunk(&json!([]), Some(chat_usage(&self.usage)));
        }
        self.out.push_str("data: [DONE]\n\n");
        self.ended = true;
        Ok(())
    }
}

fn index(json: &Value) -> u64 {
    json.get("index").and_then(Value::as_u64).unwrap_or(0)
}
