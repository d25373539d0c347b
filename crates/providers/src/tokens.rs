//! How many tokens a request counts as input.
//!
//! Text of the OpenAI families is counted with their own tokenizer, everything else with
//! `cl100k_base`, and then the count says so. A tokenizer's table is built at its first use (about a
//! tenth of a second and some tens of megabytes) and shared.
//!
//! What a provider wraps around a message is not public. The figures here are those of the OpenAI
//! cookbook ("How to count tokens with tiktoken"): 3 tokens a message, 3 to begin the answer, 7 a
//! tool; a tool call counts its name, its arguments and 3.
//!
//! Where that is too dear, [`upper_bound`] tells from the bytes how many tokens there are at most.

mod bound;

use tiktoken_rs::CoreBPE;
use tiktoken_rs::{cl100k_base_singleton, o200k_base_singleton};

pub use bound::upper_bound;

use crate::model::{Message, ModelRequest, TokenCount};

const TOKENS_PER_MESSAGE: u64 = 3;
const TOKENS_TO_BEGIN_ANSWER: u64 = 3;
const TOKENS_PER_TOOL: u64 = 7;
const TOKENS_PER_TOOL_CALL: u64 = 3;

/// Runs of one kind of character longer than this are cut before they are counted. The tokenizer
/// merges such a run as one piece, in time that grows with its square: a megabyte of `a` would hold
/// a thread for minutes. A cut costs at most one token.
const LONGEST_RUN_BYTES: usize = 1024;

/// Counts a request as the model would see it.
#[must_use]
pub fn count(model: &str, request: &ModelRequest) -> TokenCount {
    let mut counter = Counter::new(model);
    counter.tokens = TOKENS_TO_BEGIN_ANSWER;
    if let Some(system) = &request.system {
        counter.message(system);
    }
    for message in &request.messages {
        match message {
            Message::User { text } => counter.message(text),
            Message::Assistant { text, tool_calls } => {
                counter.message(text);
                for call in tool_calls {
                    counter.tokens += TOKENS_PER_TOOL_CALL;
                    counter.text(&call.name);
                    counter.text(&call.arguments);
                }
            }
            Message::Tool { content, .. } => counter.message(content),
        }
    }
    for tool in &request.tools {
        counter.tokens += TOKENS_PER_TOOL;
        counter.text(&tool.name);
        counter.text(&tool.description);
        counter.text(&tool.schema.to_string());
    }
    counter.end()
}

/// Counts bare text.
#[must_use]
pub fn count_text(model: &str, text: &str) -> TokenCount {
    let mut counter = Counter::new(model);
    counter.text(text);
    counter.end()
}

/// Whether the model is of an OpenAI family whose text is cut by `o200k_base`. A prefix such as
/// `openai/` or `ft:` does not matter.
pub(crate) fn is_o200k(model: &str) -> bool {
    let name = bare_name(model);
    let families = ["gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-6", "gpt-oss", "chatgpt-4o"];
    let reasoning = ["o1", "o3", "o4"];
    families.iter().any(|family| name.starts_with(family))
        || reasoning.iter().any(|family| {
            name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
}

fn is_cl100k(model: &str) -> bool {
    let name = bare_name(model);
    name == "gpt-4" || name.starts_with("gpt-4-") || name.starts_with("gpt-3.5")
}

fn bare_name(model: &str) -> &str {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.strip_prefix("ft:").unwrap_or(name)
}

struct Counter {
    table: &'static CoreBPE,
    tokens: u64,
    exact: bool,
}

impl Counter {
    fn new(model: &str) -> Self {
        if is_o200k(model) {
            Self { table: o200k_base_singleton(), tokens: 0, exact: true }
        } else {
            Self { table: cl100k_base_singleton(), tokens: 0, exact: is_cl100k(model) }
        }
    }

    fn message(&mut self, text: &str) {
        self.tokens += TOKENS_PER_MESSAGE;
        self.text(text);
    }

    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = end_of_long_run(rest) {
            let (head, tail) = rest.split_at(at);
            self.piece(head);
            self.exact = false;
            rest = tail;
        }
        self.piece(rest);
    }

    fn piece(&mut self, text: &str) {
        self.tokens += self.table.count_ordinary(text) as u64;
    }

    const fn end(&self) -> TokenCount {
        TokenCount { tokens: self.tokens, exact: self.exact }
    }
}

/// Where the first run of one kind of character passes the limit, if one does.
fn end_of_long_run(text: &str) -> Option<usize> {
    let kind = |c: char| match c {
        c if c.is_whitespace() => 0,
        c if c.is_alphabetic() => 1,
        _ => 2,
    };
    let mut current = None;
    let mut since = 0;
    for (at, c) in text.char_indices() {
        if current != Some(kind(c)) {
            current = Some(kind(c));
            since = at;
        } else if at - since >= LONGEST_RUN_BYTES {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ToolCall, ToolDefinition};

    fn check(model: &str, text: &str, tokens: u64, exact: bool) {
        assert_eq!(count_text(model, text), TokenCount { tokens, exact }, "{model}: {text:?}");
    }

    #[test]
    fn g9_known_texts_have_their_known_counts() {
        // The counts that OpenAI's tiktoken gives.
        check("gpt-4", "tiktoken is great!", 6, true);
        check("gpt-4o", "tiktoken is great!", 6, true);
        check("gpt-3.5-turbo", "antidisestablishmentarianism", 6, true);
        check("openai/gpt-5.4-mini", "antidisestablishmentarianism", 6, true);
        check("gpt-4", "2 + 2 = 4", 7, true);
        check("o3-mini", "お誕生日おめでとう", 8, true);
        check("gpt-4", "お誕生日おめでとう", 9, true);
        check("claude-sonnet-4-5", "お誕生日おめでとう", 9, false);
        check("o3", "", 0, true);
    }

    #[test]
    fn families_are_told_by_name() {
        for name in ["gpt-4o", "gpt-4.1-nano", "gpt-5", "gpt-6-pro", "o1", "o4-mini", "ft:gpt-4o:a"]
        {
            assert!(is_o200k(name), "{name}");
        }
        for name in ["gpt-4", "gpt-4-turbo", "claude-opus-4", "o11y", "opus", "llama-3"] {
            assert!(!is_o200k(name), "{name}");
        }
    }

    #[test]
    fn g9_a_request_counts_its_texts_tools_and_the_overhead() {
        let empty = count("gpt-4o", &ModelRequest::default());
        assert_eq!(empty, TokenCount { tokens: 3, exact: true });
        let text = "tiktoken is great!";
        let call = ToolCall { id: "1".into(), name: text.into(), arguments: text.into() };
        let request = ModelRequest {
            system: Some(text.to_owned()),
            messages: vec![
                Message::User { text: text.to_owned() },
                Message::Assistant { text: text.to_owned(), tool_calls: vec![call] },
            ],
            tools: vec![ToolDefinition {
                name: text.to_owned(),
                description: text.to_owned(),
                schema: serde_json::json!({}),
            }],
            ..ModelRequest::default()
        };
        // 3 + three messages (3 + 6) + the call (3 + 12) + the tool (7 + 12 + `{}`)
        assert_eq!(count("gpt-4o", &request).tokens, 3 + 27 + 15 + 20);
    }

    #[test]
    fn a_text_without_a_break_is_cut_and_no_longer_exact() {
        let text = "a".repeat(300_000);
        let counted = count_text("gpt-4o", &text);
        assert!(!counted.exact);
        assert!((10_000..100_000).contains(&counted.tokens), "{counted:?}");
    }
}
