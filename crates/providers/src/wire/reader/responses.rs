//! Events of a response.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Meaning, Seen, State, inner, json, number, string, told};
use crate::model::{FinishReason, ServiceTier};
use crate::wire::object::Object;
use crate::wire::{Frame, WireFailure, usage};

pub(super) fn read(state: &mut State, frame: &Frame, data: &Bytes) -> Seen {
    let event = match Object::read(data) {
        Ok(event) => event,
        Err(error) => return Seen::failed(format!("an event is no JSON object: {error}")),
    };
    if let Some(sequence) = number(event.last("sequence_number")) {
        state.next_sequence = sequence.saturating_add(1);
    }
    let kind = string(event.last("type"));
    let kind = kind.as_deref().or_else(|| frame.name()).unwrap_or_default();
    Seen::of(match kind {
        "error" => told(data),
        "response.completed" | "response.incomplete" => {
            ended(state, event.last("response"), kind);
            Meaning::Terminal
        }
        "response.failed" | "response.cancelled" => {
            ended(state, event.last("response"), kind);
            state.terminated = true;
            let error = json(event.last("response"));
            let error = error.and_then(|response| response.get("error").cloned());
            let error = error.filter(Value::is_object).unwrap_or_else(
                || json!({"message": format!("the provider says `{kind}` and no reason")}),
            );
            Meaning::Error(WireFailure::in_stream(&json!({"error": error})))
        }
        "response.output_item.added" => item_added(state, &event),
        "response.output_item.done" => {
            state.call_open = false;
            Meaning::Other
        }
        "response.image_generation_call.partial_image" => Meaning::Content,
        delta if delta.ends_with(".delta") => {
            state.refused |= delta == "response.refusal.delta";
            if state.output(event.last("delta")) { Meaning::Content } else { Meaning::Other }
        }
        _ => quiet(state),
    })
}

const fn quiet(state: &State) -> Meaning {
    if state.content { Meaning::Other } else { Meaning::Preamble }
}

/// An item that is neither a message nor reasoning is a call, and names what it calls.
fn item_added(state: &mut State, event: &Object<'_>) -> Meaning {
    let item = inner(event.last("item"));
    let kind = item.as_ref().and_then(|item| string(item.last("type"))).unwrap_or_default();
    if matches!(kind.as_str(), "message" | "reasoning" | "") {
        return quiet(state);
    }
    state.calls |= matches!(kind.as_str(), "function_call" | "custom_tool_call");
    state.call_open = true;
    state.output(item.as_ref().and_then(|item| item.last("name")));
    Meaning::Content
}

fn ended(state: &mut State, response: Option<&serde_json::value::RawValue>, kind: &str) {
    let Some(response) = inner(response) else { return };
    state.named(response.last("model"));
    if let Some(reported) = json(response.last("usage")).filter(Value::is_object) {
        state.usage = usage::responses(&reported);
        state.usage_is_final = true;
    }
    let tier = string(response.last("service_tier"));
    state.usage.service_tier =
        tier.as_deref().and_then(ServiceTier::named).or(state.usage.service_tier);
    let details = json(response.last("incomplete_details"));
    let reason = details.as_ref().and_then(|details| details.get("reason")?.as_str());
    state.finish = Some(finish(kind, reason, state.calls, state.refused));
    state.call_open = false;
}

/// Why a response ended: its status, or the event that says it, and its `incomplete_details.reason`.
pub(in crate::wire) fn finish(
    status: &str,
    reason: Option<&str>,
    has_calls: bool,
    refused: bool,
) -> FinishReason {
    match (status.trim_start_matches("response."), reason) {
        ("completed", _) if refused => FinishReason::Refused,
        ("completed", _) if has_calls => FinishReason::ToolCalls,
        ("completed", _) => FinishReason::Stop,
        ("incomplete", Some("max_output_tokens")) => FinishReason::Length,
        ("incomplete", Some("content_filter")) => FinishReason::Refused,
        _ => FinishReason::Other,
    }
}
