//! A streamed OpenAI answer, chunk by chunk.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;

use super::response::{call_id, finish_reason, usage};
use crate::http::{Accumulate, WireError};
use crate::model::{ModelAnswer, ModelDelta, ToolCall, Usage};
use crate::sse::Event;

/// More calls than this in one answer are nonsense.
const MAX_TOOL_CALLS: usize = 1024;

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Option<Vec<ChunkChoice>>,
    #[serde(default)]
    usage: Option<Value>,
}

#[derive(Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

struct Call {
    wire_index: Option<u64>,
    id: Option<String>,
    name: String,
    arguments: String,
}

/// The answer so far.
#[derive(Default)]
pub(super) struct Accumulator {
    id: String,
    model: String,
    text: String,
    refused: bool,
    calls: Vec<Call>,
    finish: Option<String>,
    usage: Usage,
}

impl Accumulate for Accumulator {
    const TERMINATOR: &'static str = "[DONE]";

    fn event(&mut self, event: &Event, out: &mut VecDeque<ModelDelta>) -> Result<(), WireError> {
        if event.data.trim() == "[DONE]" {
            out.push_back(ModelDelta::Done(Box::new(self.finish()?)));
            return Ok(());
        }
        if event.data.is_empty() {
            out.push_back(ModelDelta::Activity);
            return Ok(());
        }
        let json: Value = serde_json::from_str(&event.data)
            .map_err(|error| WireError::malformed(format!("a chunk is not JSON: {error}")))?;
        let has_error = json.get("error").is_some_and(|error| !error.is_null());
        if has_error || event.name.as_deref() == Some("error") {
            return Err(WireError::in_stream(&json));
        }
        let chunk: Chunk = serde_json::from_value(json).map_err(|error| {
            WireError::malformed(format!("a chunk is not a completion chunk: {error}"))
        })?;
        self.chunk(chunk, out)
    }
}

impl Accumulator {
    fn chunk(&mut self, chunk: Chunk, out: &mut VecDeque<ModelDelta>) -> Result<(), WireError> {
        let before = out.len();
        if let Some(id) = chunk.id.filter(|id| !id.is_empty()) {
            self.id = id;
        }
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.model = model;
        }
        if let Some(reported) = chunk.usage.as_ref().filter(|usage| usage.is_object()) {
            self.usage = usage(reported);
        }
        if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
            if let Some(delta) = choice.delta {
                self.delta(delta, out)?;
            }
            self.finish = choice.finish_reason.or_else(|| self.finish.take());
        }
        if out.len() == before {
            out.push_back(ModelDelta::Activity);
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta, out: &mut VecDeque<ModelDelta>) -> Result<(), WireError> {
        if let Some(text) = delta.refusal.filter(|text| !text.is_empty()) {
            self.refused = true;
            self.text.push_str(&text);
            out.push_back(ModelDelta::Text(text));
        }
        if let Some(text) = delta.content.filter(|text| !text.is_empty()) {
            self.text.push_str(&text);
            out.push_back(ModelDelta::Text(text));
        }
        for piece in delta.tool_calls.unwrap_or_default() {
            let CallDelta { index: wire_index, id, function } = piece;
            let id = id.filter(|id| !id.is_empty());
            let FunctionDelta { name, arguments } = function.unwrap_or_default();
            let index = self.call_for(wire_index, id)?;
            let call = &mut self.calls[index];
            let name = name.filter(|name| !name.is_empty() && call.name.is_empty());
            if let Some(name) = &name {
                call.name.clone_from(name);
            }
            let arguments = arguments.unwrap_or_default();
            call.arguments.push_str(&arguments);
            out.push_back(ModelDelta::ToolCall { index, name, arguments });
        }
        Ok(())
    }

    /// The call that a piece belongs to. OpenAI numbers the calls; compatible servers may leave the
    /// number out or give every call the number 0, and then a different id begins another call.
    fn call_for(
        &mut self,
        wire_index: Option<u64>,
        id: Option<String>,
    ) -> Result<usize, WireError> {
        let found = self.calls.iter().rposition(|call| match (wire_index, &id) {
            (Some(_), _) => call.wire_index == wire_index,
            (None, Some(_)) => call.id == id,
            (None, None) => true,
        });
        if let Some(at) = found {
            let call = &mut self.calls[at];
            if id.is_none() || call.id.is_none() || call.id == id {
                call.id = call.id.take().or(id);
                return Ok(at);
            }
        }
        if self.calls.len() == MAX_TOOL_CALLS {
            let what = format!("the answer calls more than {MAX_TOOL_CALLS} tools");
            return Err(WireError::malformed(what));
        }
        self.calls.push(Call { wire_index, id, name: String::new(), arguments: String::new() });
        Ok(self.calls.len() - 1)
    }

    /// The whole answer. Some gateways send `[DONE]` after their own upstream broke, so an answer
    /// that never said why it ended is not a whole one.
    fn finish(&mut self) -> Result<ModelAnswer, WireError> {
        let reason = self.finish.take().ok_or_else(|| {
            WireError::malformed("the stream said `[DONE]` without a finish reason")
        })?;
        let mut tool_calls = Vec::with_capacity(self.calls.len());
        for (index, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            if call.name.is_empty() {
                return Err(WireError::malformed(format!("tool call {index} has no name")));
            }
            let id = call_id(call.id, &self.id, index);
            tool_calls.push(ToolCall { id, name: call.name, arguments: call.arguments });
        }
        Ok(ModelAnswer {
            text: std::mem::take(&mut self.text),
            finish: finish_reason(Some(&reason), !tool_calls.is_empty(), self.refused),
            tool_calls,
            usage: self.usage,
            model: std::mem::take(&mut self.model),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FinishReason;
    use crate::sse::Parser;

    const RECORDED: &str = concat!(
        ": ka\n\ndata: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":",
        "{\"name\":\"f\",\"arguments\":\"{\"}},{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\"}}]}}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]},",
        "\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2,",
        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n",
    );

    fn read(pieces: [&[u8]; 2]) -> VecDeque<ModelDelta> {
        let (mut parser, mut accumulator) = (Parser::default(), Accumulator::default());
        let (mut events, mut out) = (Vec::new(), VecDeque::new());
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        for event in &events {
            accumulator.event(event, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_recorded_stream_cut_at_every_byte_reads_the_same_and_a_prefix_is_never_done() {
        let whole = read([RECORDED.as_bytes(), b""]);
        let Some(ModelDelta::Done(answer)) = whole.back() else { panic!("{whole:?}") };
        assert_eq!((answer.text.as_str(), answer.finish), ("é", FinishReason::ToolCalls));
        assert_eq!(answer.tool_calls[0].arguments, "{}");
        assert_eq!(answer.tool_calls[1].id, "b");
        assert_eq!((answer.usage.input_uncached, answer.usage.cache_read), (Some(6), Some(4)));
        for cut in 0..RECORDED.len() {
            let (head, tail) = RECORDED.as_bytes().split_at(cut);
            assert_eq!(read([head, tail]), whole, "cut at {cut}");
            let done = matches!(read([head, b""]).back(), Some(ModelDelta::Done(_)));
            assert!(!done, "done after {cut} bytes");
        }
    }
}
