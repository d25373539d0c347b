//! A streamed Anthropic answer, event by event.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;
use serde_json::Value;

use super::response::{Block, finish_reason};
use crate::http::{Accumulate, WireFailure};
use crate::model::{ModelAnswer, ModelDelta, ToolCall, Usage};
use crate::sse::Event;
use crate::wire::usage::merge_messages;

/// More blocks than this in one answer are nonsense.
const MAX_BLOCKS: usize = 4096;

#[derive(Deserialize)]
struct BlockStart {
    index: u64,
    content_block: Block,
}

#[derive(Deserialize)]
struct BlockDelta {
    index: u64,
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
}

enum Open {
    Text,
    Call { at: usize },
    Ignored,
}

struct Call {
    id: String,
    name: String,
    /// What stood in the block's start; holds only if no pieces follow.
    whole: Option<Value>,
    pieces: String,
}

/// The answer so far.
#[derive(Default)]
pub(crate) struct Accumulator {
    begun: bool,
    model: String,
    text: String,
    blocks: BTreeMap<u64, Open>,
    calls: Vec<Call>,
    stop_reason: Option<String>,
    usage: Usage,
}

impl Accumulate for Accumulator {
    const TERMINATOR: &'static str = "message_stop";

    fn event(&mut self, event: &Event, out: &mut VecDeque<ModelDelta>) -> Result<(), WireFailure> {
        let json: Value = serde_json::from_str(&event.data)
            .map_err(|error| WireFailure::malformed(format!("an event is not JSON: {error}")))?;
        let kind = json.get("type").and_then(Value::as_str).or(event.name.as_deref());
        match kind.unwrap_or_default() {
            "error" => return Err(WireFailure::in_stream(&json)),
            "message_start" => self.start(&json),
            "content_block_start" => return self.block_start(typed(json)?, out),
            "content_block_delta" => return self.block_delta(typed(json)?, out),
            "message_delta" => self.message_delta(&json),
            "message_stop" => {
                out.push_back(ModelDelta::Done(Box::new(self.finish()?)));
                return Ok(());
            }
            _ => {}
        }
        out.push_back(ModelDelta::Activity);
        Ok(())
    }
}

fn typed<T: serde::de::DeserializeOwned>(json: Value) -> Result<T, WireFailure> {
    serde_json::from_value(json).map_err(|error| {
        WireFailure::malformed(format!("an event is not as it should be: {error}"))
    })
}

impl Accumulator {
    fn start(&mut self, json: &Value) {
        self.begun = true;
        if let Some(model) = json.pointer("/message/model").and_then(Value::as_str) {
            model.clone_into(&mut self.model);
        }
        if let Some(usage) = json.pointer("/message/usage") {
            merge_messages(&mut self.usage, usage);
        }
    }

    fn message_delta(&mut self, json: &Value) {
        if let Some(reason) = json.pointer("/delta/stop_reason").and_then(Value::as_str) {
            self.stop_reason = Some(reason.to_owned());
        }
        if let Some(usage) = json.get("usage") {
            merge_messages(&mut self.usage, usage);
        }
    }

    fn block_start(
        &mut self,
        start: BlockStart,
        out: &mut VecDeque<ModelDelta>,
    ) -> Result<(), WireFailure> {
        if self.blocks.len() == MAX_BLOCKS {
            let what = format!("the answer has more than {MAX_BLOCKS} blocks");
            return Err(WireFailure::malformed(what));
        }
        let BlockStart { index, content_block: block } = start;
        let (open, delta) = match block.kind.as_str() {
            "text" => {
                let text = block.text.unwrap_or_default();
                self.text.push_str(&text);
                let delta =
                    if text.is_empty() { ModelDelta::Activity } else { ModelDelta::Text(text) };
                (Open::Text, delta)
            }
            "tool_use" => {
                let (Some(id), Some(name)) = (block.id, block.name) else {
                    return Err(WireFailure::malformed("a tool call has no id or no name"));
                };
                let at = self.calls.len();
                let delta = ModelDelta::ToolCall {
                    index: at,
                    name: Some(name.clone()),
                    arguments: String::new(),
                };
                self.calls.push(Call { id, name, whole: block.input, pieces: String::new() });
                (Open::Call { at }, delta)
            }
            _ => (Open::Ignored, ModelDelta::Activity),
        };
        self.blocks.insert(index, open);
        out.push_back(delta);
        Ok(())
    }

    fn block_delta(
        &mut self,
        delta: BlockDelta,
        out: &mut VecDeque<ModelDelta>,
    ) -> Result<(), WireFailure> {
        let BlockDelta { index, delta } = delta;
        let open = self.blocks.get(&index).ok_or_else(|| {
            WireFailure::malformed(format!("a delta for block {index}, which has not begun"))
        })?;
        out.push_back(match (open, delta.kind.as_str()) {
            (Open::Text, "text_delta") => {
                let text = delta.text.unwrap_or_default();
                self.text.push_str(&text);
                ModelDelta::Text(text)
            }
            (Open::Call { at }, "input_json_delta") => {
                let arguments = delta.partial_json.unwrap_or_default();
                self.calls[*at].pieces.push_str(&arguments);
                ModelDelta::ToolCall { index: *at, name: None, arguments }
            }
            _ => ModelDelta::Activity,
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<ModelAnswer, WireFailure> {
        if !self.begun {
            return Err(WireFailure::malformed("`message_stop` without `message_start`"));
        }
        let reason = self.stop_reason.take().ok_or_else(|| {
            WireFailure::malformed("the stream said `message_stop` without a stop reason")
        })?;
        let call = |call: Call| ToolCall {
            id: call.id,
            name: call.name,
            arguments: match call.whole {
                _ if !call.pieces.is_empty() => call.pieces,
                Some(whole) if whole.is_object() => whole.to_string(),
                _ => "{}".to_owned(),
            },
        };
        Ok(ModelAnswer {
            text: std::mem::take(&mut self.text),
            tool_calls: std::mem::take(&mut self.calls).into_iter().map(call).collect(),
            finish: finish_reason(Some(&reason)),
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
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",",
        "\"usage\":{\"input_tokens\":6,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n",
        "event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,",
        "\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,",
        "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,",
        "\"delta\":{\"type\":\"text_delta\",\"text\":\"é\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,",
        "\"content_block\":{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,",
        "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"x\\\":\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,",
        "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":3,",
        "\"content_block\":{\"type\":\"tool_use\",\"id\":\"b\",\"name\":\"g\",\"input\":{}}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",",
        "\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":9}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
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
        assert_eq!(answer.tool_calls[0].arguments, r#"{"x":1}"#);
        assert_eq!(
            (answer.tool_calls[1].id.as_str(), answer.tool_calls[1].arguments.as_str()),
            ("b", "{}"),
        );
        assert_eq!((answer.usage.input_uncached, answer.usage.cache_read), (Some(6), Some(4)));
        assert_eq!(answer.usage.output, Some(9));
        for cut in 0..RECORDED.len() {
            let (head, tail) = RECORDED.as_bytes().split_at(cut);
            assert_eq!(read([head, tail]), whole, "cut at {cut}");
            let done = matches!(read([head, b""]).back(), Some(ModelDelta::Done(_)));
            assert!(!done, "done after {cut} bytes");
        }
    }

    #[test]
    fn p10_a_stream_tells_the_same_usage_as_a_whole_answer() {
        let whole = r#"{"model": "m", "content": [], "stop_reason": "end_turn", "usage": {
            "input_tokens": 6, "cache_read_input_tokens": 30940, "cache_creation_input_tokens": 900,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 800},
            "output_tokens": 70}}"#;
        // The start tells of the first round, the end of all of them.
        let pieces = concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",",
            "\"usage\":{\"input_tokens\":6,\"cache_read_input_tokens\":400,",
            "\"cache_creation_input_tokens\":90,\"cache_creation\":{\"ephemeral_1h_input_tokens\":80},",
            "\"output_tokens\":1}}}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",",
            "\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"cache_read_input_tokens\":30940,",
            "\"cache_creation_input_tokens\":900,\"cache_creation\":{\"ephemeral_1h_input_tokens\":800},",
            "\"output_tokens\":70}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        );
        let Some(ModelDelta::Done(streamed)) = read([pieces.as_bytes(), b""]).pop_back() else {
            panic!("the answer has no end")
        };
        let usage = super::super::response::read(whole.as_bytes()).expect("an answer").usage;
        assert_eq!(streamed.usage, usage);
        assert_eq!(usage.cache_write_1h, Some(800));
        assert_eq!(usage.input_total(), 31_846);
    }
}
