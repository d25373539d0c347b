//! Chunks of a chat completion.

use bytes::Bytes;

use super::{Meaning, Seen, State, UsageField, inner, is_null, json, list, number, string, told};
use crate::model::ServiceTier;
use crate::openai::response::finish_reason;
use crate::wire::Frame;
use crate::wire::object::Object;
use crate::wire::usage;

/// More choices than this in one answer are nonsense.
const MAX_CHOICES: usize = 1024;

/// The members of a delta that are a piece of the answer. `reasoning` and `reasoning_content` are not
/// OpenAI's and are what most other servers send.
const PIECES: [&str; 5] = ["content", "refusal", "reasoning_content", "reasoning", "audio"];

#[derive(Debug, Default)]
pub(super) struct Chat {
    choices: Vec<Choice>,
    tier: Option<ServiceTier>,
}

#[derive(Debug)]
struct Choice {
    index: u64,
    finished: bool,
    call_open: bool,
}

impl Chat {
    pub(super) fn read(&mut self, state: &mut State, frame: &Frame, data: &Bytes) -> Seen {
        if data.trim_ascii() == b"[DONE]" {
            return self.done();
        }
        let chunk = match Object::read(data) {
            Ok(chunk) => chunk,
            Err(error) => return Seen::failed(format!("a chunk is no JSON object: {error}")),
        };
        let has_error = chunk.last("error").is_some_and(|error| !is_null(error));
        if has_error || frame.name() == Some("error") {
            return Seen::of(told(data));
        }
        state.named(chunk.last("model"));
        let tier = string(chunk.last("service_tier"));
        self.tier = tier.as_deref().and_then(ServiceTier::named).or(self.tier);
        let choices = list(chunk.last("choices"));
        let reported = json(chunk.last("usage")).filter(serde_json::Value::is_object);
        let usage_field = chunk.last("usage").map(|_| {
            let alone = reported.is_some() && choices.is_empty();
            if alone { UsageField::Alone } else { UsageField::Beside }
        });
        if let Some(reported) = &reported {
            state.usage = usage::chat(reported);
            state.usage_is_final = true;
        }
        state.usage.service_tier = self.tier.or(state.usage.service_tier);
        let (mut content, mut finished) = (false, false);
        for choice in &choices {
            content |= self.choice(state, choice);
            finished |= choice.last("finish_reason").is_some_and(|reason| !is_null(reason));
        }
        state.call_open = self.choices.iter().any(|choice| choice.call_open);
        if self.choices.len() > MAX_CHOICES {
            return Seen::failed(format!("the answer has more than {MAX_CHOICES} choices"));
        }
        let meaning = if content {
            Meaning::Content
        } else if usage_field == Some(UsageField::Alone) {
            Meaning::Usage
        } else if finished || state.content {
            Meaning::Other
        } else {
            Meaning::Preamble
        };
        Seen { meaning, usage_field }
    }

    /// Some gateways send `[DONE]` after their own upstream broke, so an answer that never said why it
    /// ended is not a whole one.
    fn done(&self) -> Seen {
        if self.choices.is_empty() || self.choices.iter().any(|choice| !choice.finished) {
            return Seen::failed("the stream said `[DONE]` without a finish reason");
        }
        Seen::of(Meaning::Terminal)
    }

    /// Reads one choice; whether it has a piece of the answer.
    fn choice(&mut self, state: &mut State, choice: &Object<'_>) -> bool {
        let index = number(choice.last("index")).unwrap_or(0);
        let known = self.choices.iter().position(|known| known.index == index);
        let at = known.unwrap_or_else(|| {
            self.choices.push(Choice { index, finished: false, call_open: false });
            self.choices.len() - 1
        });
        let known = &mut self.choices[at];
        let mut content = false;
        if let Some(delta) = inner(choice.last("delta")) {
            for name in PIECES {
                let some = state.output(delta.last(name));
                content |= some;
                state.refused |= some && name == "refusal";
            }
            let calls = list(delta.last("tool_calls"));
            let function = inner(delta.last("function_call"));
            if !calls.is_empty() || function.is_some() {
                (content, state.calls, known.call_open) = (true, true, true);
            }
            let functions = calls.iter().filter_map(|call| inner(call.last("function")));
            for function in functions.chain(function) {
                state.output(function.last("name"));
                state.output(function.last("arguments"));
            }
        }
        if let Some(reason) = string(choice.last("finish_reason")) {
            known.finished = true;
            known.call_open = false;
            if index == 0 {
                state.finish = Some(finish_reason(Some(&reason), state.calls, state.refused));
            }
        }
        content
    }
}
