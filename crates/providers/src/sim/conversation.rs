//! Where a conversation stands: what the simulated provider reads of a request, whatever its wire.

use std::collections::HashMap;

/// What the id of one of our calls says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SimCall {
    pub(super) id: String,
    pub(super) step: String,
    /// Which call of the step, from 0.
    pub(super) index: usize,
    /// Counts the answers with calls in the conversation.
    pub(super) answer: u64,
}

impl SimCall {
    /// The call with its id, `sim-STEP-INDEX-ANSWER`: letters, digits, `-` and `_`, at most 64.
    pub(super) fn new(step: &str, index: usize, answer: u64) -> Self {
        let id = format!("sim-{step}-{index}-{answer}");
        Self { id, step: step.to_owned(), index, answer }
    }

    /// Reads an id; `None` if it is not one of ours.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let mut parts = id.strip_prefix("sim-")?.rsplitn(3, '-');
        let answer = parts.next()?.parse().ok()?;
        let index = parts.next()?.parse().ok()?;
        Some(Self { id: id.to_owned(), step: parts.next()?.to_owned(), index, answer })
    }
}

/// A request's messages, as far as they matter.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    messages: usize,
    last_user: String,
    calls: Vec<SimCall>,
    /// How many of the calls, from the back, the last assistant message made.
    current: usize,
    results: HashMap<String, String>,
}

impl Conversation {
    pub(super) fn message(&mut self) {
        self.messages += 1;
    }

    pub(super) fn user(&mut self, text: String) {
        if !text.is_empty() {
            self.last_user = text;
        }
    }

    pub(super) fn assistant<'a>(&mut self, call_ids: impl Iterator<Item = &'a str>) {
        let before = self.calls.len();
        self.calls.extend(call_ids.filter_map(SimCall::parse));
        self.current = self.calls.len() - before;
    }

    pub(super) fn result(&mut self, call_id: &str, text: String) {
        self.results.insert(call_id.to_owned(), text);
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    pub(super) fn last_user(&self) -> &str {
        &self.last_user
    }

    /// The calls of the last assistant message.
    pub(super) fn current_calls(&self) -> &[SimCall] {
        &self.calls[self.calls.len() - self.current..]
    }

    pub(super) fn result_of(&self, call: &SimCall) -> Option<&str> {
        self.results.get(&call.id).map(String::as_str)
    }

    /// The latest result of a step's first call.
    pub(super) fn latest_result(&self, step: &str) -> Option<&str> {
        let mut calls = self.calls.iter().rev();
        calls.find_map(|call| {
            (call.index == 0 && call.step == step).then(|| self.result_of(call)).flatten()
        })
    }

    /// A number that no call of the conversation has.
    pub(super) fn next_answer(&self) -> u64 {
        self.calls.iter().map(|call| call.answer).max().map_or(1, |last| last.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_where_it_came_from() {
        let call = SimCall::new("check-3", 12, 4);
        assert_eq!(call.id, "sim-check-3-12-4");
        assert_eq!(SimCall::parse(&call.id), Some(call));
        for other in ["call_1", "sim-x", "sim-x-1", "sim-x-y-1", "toolu_sim-x-1-1"] {
            assert_eq!(SimCall::parse(other), None, "{other}");
        }
        assert!(SimCall::new(&"s".repeat(40), 127, 9_999_999_999).id.len() <= 64);
    }
}
