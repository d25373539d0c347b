//! A streamed OpenAI answer, chunk by chunk.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;

use super::response::{call_id, finish_reason, reported};
use crate::http::{Accumulate, WireFailure};
use crate::model::{ModelAnswer, ModelDelta, ToolCall, Usage};
use crate::sse::Event;

/// More calls than this in one answer are nonsense.
const MAX_TOOL_CALLS: usize = 1024;

#[derive(Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) choices: Option<Vec<ChunkChoice>>,
    #[serde(default)]
    pub(crate) usage: Option<Value>,
    #[serde(default)]
    pub(crate) service_tier: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ChunkChoice {
    #[serde(default)]
    pub(crate) index: Option<u64>,
    #[serde(default)]
    pub(crate) delta: Option<Delta>,
    #[serde(default)]
    pub(crate) finish_reason: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Delta {
    #[serde(default)]
    pub(crate) content: Option<String>,
    #[serde(default)]
    pub(crate) refusal: Option<String>,
    #[serde(default)]
    pub(crate) tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
pub(crate) struct CallDelta {
    #[serde(default)]
    pub(crate) index: Option<u64>,
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
pub(crate) struct FunctionDelta {
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) arguments: Option<String>,
}

/// How a stream tells its calls apart.
#[derive(Debug)]
pub(crate) struct CallKey {
    wire_index: Option<u64>,
    pub(crate) id: Option<String>,
}

#[derive(Default)]
struct Call {
    name: String,
    arguments: String,
}

/// The call that a piece belongs to. OpenAI numbers the calls; compatible servers may leave the number
/// out or give every call the number 0, and then a different id begins another call.
pub(crate) fn call_at(
    keys: &mut Vec<CallKey>,
    wire_index: Option<u64>,
    id: Option<String>,
) -> Result<usize, WireFailure> {
    let found = keys.iter().rposition(|key| match (wire_index, &id) {
        (Some(_), _) => key.wire_index == wire_index,
        (None, Some(_)) => key.id == id,
        (None, None) => true,
    });
    if let Some(at) = found {
        let key = &mut keys[at];
        if id.is_none() || key.id.is_none() || key.id == id {
            key.id = key.id.take().or(id);
            return Ok(at);
        }
    }
    if keys.len() == MAX_TOOL_CALLS {
        let what = format!("the answer calls more than {MAX_TOOL_CALLS} tools");
        return Err(WireFailure::malformed(what));
    }
    keys.push(CallKey { wire_index, id });
    Ok(keys.len() - 1)
}

/// The answer so far.
#[derive(Default)]
pub(crate) struct Accumulator {
    id: String,
    model: String,
    text: String,
    refused: bool,
    keys: Vec<CallKey>,
    calls: Vec<Call>,
    finish: Option<String>,
    usage: Usage,
}

impl Accumulate for Accumulator {
    const TERMINATOR: &'static str = "[DONE]";

    fn event(&mut self, event: &Event, out: &mut VecDeque<ModelDelta>) -> Result<(), WireFailure> {
        if event.data.trim() == "[DONE]" {
            out.push_back(ModelDelta::Done(Box::new(self.finish()?)));
            return Ok(());
        }
        if event.data.is_empty() {
            out.push_back(ModelDelta::Activity);
            return Ok(());
        }
        let json: Value = serde_json::from_str(&event.data)
            .map_err(|error| WireFailure::malformed(format!("a chunk is not JSON: {error}")))?;
        let has_error = json.get("error").is_some_and(|error| !error.is_null());
        if has_error || event.name.as_deref() == Some("error") {
            return Err(WireFailure::in_stream(&json));
        }
        let chunk: Chunk = serde_json::from_value(json).map_err(|error| {
            WireFailure::malformed(format!("a chunk is not a completion chunk: {error}"))
        })?;
        self.chunk(chunk, out)
    }
}

impl Accumulator {
    fn chunk(&mut self, chunk: Chunk, out: &mut VecDeque<ModelDelta>) -> Result<(), WireFailure> {
        let before = out.len();
        if let Some(id) = chunk.id.filter(|id| !id.is_empty()) {
            self.id = id;
        }
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.model = model;
        }
        if let Some(usage) = chunk.usage.as_ref().filter(|usage| usage.is_object()) {
            self.usage = reported(Some(usage), chunk.service_tier.as_deref());
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

    fn delta(&mut self, delta: Delta, out: &mut VecDeque<ModelDelta>) -> Result<(), WireFailure> {
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
            let index = call_at(&mut self.keys, wire_index, id)?;
            if index == self.calls.len() {
                self.calls.push(Call::default());
            }
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

    /// The whole answer. Some gateways send `[DONE]` after their own upstream broke, so an answer
    /// that never said why it ended is not a whole one.
    fn finish(&mut self) -> Result<ModelAnswer, WireFailure> {
        let reason = self.finish.take().ok_or_else(|| {
            WireFailure::malformed("the stream said `[DONE]` without a finish reason")
        })?;
        let mut tool_calls = Vec::with_capacity(self.calls.len());
        for (index, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            if call.name.is_empty() {
                return Err(WireFailure::malformed(format!("tool call {index} has no name")));
            }
            let id = call_id(self.keys[index].id.take(), &self.id, index);
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
            parser.feed(bytes::Bytes::copy_from_slice(piece), &mut events).unwrap();
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
