//! Events of a message.

use bytes::Bytes;

use super::{Meaning, Seen, State, inner, json, string, told};
use crate::anthropic::response::finish_reason;
use crate::wire::Frame;
use crate::wire::object::Object;
use crate::wire::usage::merge_messages;

#[derive(Debug, Default)]
pub(super) struct Messages {
    begun: bool,
}

impl Messages {
    pub(super) fn read(&mut self, state: &mut State, frame: &Frame, data: &Bytes) -> Seen {
        let event = match Object::read(data) {
            Ok(event) => event,
            Err(error) => return Seen::failed(format!("an event is no JSON object: {error}")),
        };
        let kind = string(event.last("type"));
        let kind = kind.as_deref().or_else(|| frame.name()).unwrap_or_default();
        Seen::of(match kind {
            "error" => told(data),
            "message_start" => {
                self.begun = true;
                if let Some(message) = inner(event.last("message")) {
                    state.named(message.last("model"));
                    merge(state, &message);
                }
                Meaning::Preamble
            }
            "content_block_start" => block_start(state, &event),
            "content_block_delta" => block_delta(state, &event),
            "content_block_stop" => {
                state.call_open = false;
                Meaning::Other
            }
            "message_delta" => {
                let delta = inner(event.last("delta"));
                let reason = delta.and_then(|delta| string(delta.last("stop_reason")));
                if let Some(reason) = reason {
                    state.finish = Some(finish_reason(Some(&reason)));
                }
                state.usage_is_final |= merge(state, &event);
                Meaning::Usage
            }
            "message_stop" if !self.begun => {
                return Seen::failed("`message_stop` without `message_start`");
            }
            "message_stop" if state.finish.is_none() => {
                return Seen::failed("the stream said `message_stop` without a stop reason");
            }
            "message_stop" => Meaning::Terminal,
            _ => Meaning::Other,
        })
    }
}

/// Takes over the usage; whether there is one.
fn merge(state: &mut State, holder: &Object<'_>) -> bool {
    let reported = json(holder.last("usage")).filter(serde_json::Value::is_object);
    if let Some(reported) = &reported {
        merge_messages(&mut state.usage, reported);
    }
    reported.is_some()
}

fn block_start(state: &mut State, event: &Object<'_>) -> Meaning {
    let Some(block) = inner(event.last("content_block")) else { return Meaning::Other };
    let kind = string(block.last("type")).unwrap_or_default();
    let has_text = match kind.as_str() {
        "text" => state.output(block.last("text")),
        "thinking" => state.output(block.last("thinking")),
        "tool_use" | "server_tool_use" | "mcp_tool_use" => {
            (state.calls, state.call_open) = (state.calls || kind == "tool_use", true);
            state.output(block.last("name"));
            state.output(block.last("input"));
            true
        }
        _ => true,
    };
    if has_text {
        Meaning::Content
    } else if state.content {
        Meaning::Other
    } else {
        Meaning::Preamble
    }
}

fn block_delta(state: &mut State, event: &Object<'_>) -> Meaning {
    let Some(delta) = inner(event.last("delta")) else { return Meaning::Other };
    let mut some = delta.last("citation").is_some();
    for name in ["text", "thinking", "partial_json"] {
        some |= state.output(delta.last(name));
    }
    if some { Meaning::Content } else { Meaning::Other }
}
