//! The history is always valid: every tool call has exactly one result, right after the answer that
//! asked for it; ids are unique; no result stands without its call. A provider refuses anything else,
//! and a run whose history is refused once is refused for ever.

use std::collections::BTreeSet;

use steadfast_providers::model::{Message, ToolCall};

/// What the model is told about a call that has no result.
const INTERRUPTED: &str = "interrupted, outcome unknown: verify before calling again";

/// The conversation as it may be sent. A valid one comes back unchanged.
#[must_use]
pub fn valid_history(messages: &[Message]) -> Vec<Message> {
    let mut valid = Vec::with_capacity(messages.len());
    let mut rest = messages.iter().peekable();
    while let Some(message) = rest.next() {
        match message {
            // A result that no answer before it asked for.
            Message::Tool { .. } => {}
            Message::User { .. } => valid.push(message.clone()),
            Message::Assistant { text, tool_calls } => {
                let mut results = Vec::new();
                while let Some(result) = rest.next_if(|next| matches!(next, Message::Tool { .. })) {
                    results.push(result);
                }
                let known = unique_call_ids(tool_calls.clone());
                let answers: Vec<Message> =
                    known.iter().map(|call| result_for(call, &results)).collect();
                valid.push(Message::Assistant { text: text.clone(), tool_calls: known });
                valid.extend(answers);
            }
        }
    }
    valid
}

fn result_for(call: &ToolCall, results: &[&Message]) -> Message {
    let found = results
        .iter()
        .find(|result| matches!(result, Message::Tool { call_id, .. } if *call_id == call.id));
    match found {
        Some(result) => (*result).clone(),
        None => Message::Tool {
            call_id: call.id.clone(),
            name: call.name.clone(),
            content: INTERRUPTED.to_owned(),
            is_error: true,
        },
    }
}

/// The calls with ids that are not blank and differ from each other.
pub(crate) fn unique_call_ids(calls: Vec<ToolCall>) -> Vec<ToolCall> {
    let mut seen = BTreeSet::new();
    let mut unique = Vec::with_capacity(calls.len());
    for (index, mut call) in calls.into_iter().enumerate() {
        if call.id.trim().is_empty() {
            call.id = format!("call-{index}");
        }
        let wanted = call.id.clone();
        let mut copy = 2;
        while !seen.insert(call.id.clone()) {
            call.id = format!("{wanted}-{copy}");
            copy += 1;
        }
        unique.push(call);
    }
    unique
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_valid(messages: &[Message]) {
        let mut open: Vec<&str> = Vec::new();
        for message in messages {
            match message {
                Message::Tool { call_id, .. } => {
                    let place = open.iter().position(|id| id == call_id);
                    open.remove(place.expect("every result follows its call"));
                }
                Message::User { .. } => assert!(open.is_empty(), "calls without results: {open:?}"),
                Message::Assistant { tool_calls, .. } => {
                    assert!(open.is_empty(), "calls without results: {open:?}");
                    open = tool_calls.iter().map(|call| call.id.as_str()).collect();
                    let distinct: BTreeSet<_> = open.iter().collect();
                    assert_eq!(distinct.len(), open.len(), "ids repeat: {open:?}");
                    assert!(open.iter().all(|id| !id.is_empty()));
                }
            }
        }
        assert!(open.is_empty(), "calls without results at the end: {open:?}");
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let id = prop_oneof![Just(String::new()), "[ab]", "[ab]-2"];
        let call =
            id.clone().prop_map(|id| ToolCall { id, name: "t".into(), arguments: "{}".into() });
        prop_oneof![
            "[a-z]{0,3}".prop_map(|text| Message::User { text }),
            proptest::collection::vec(call, 0..4)
                .prop_map(|tool_calls| Message::Assistant { text: String::new(), tool_calls }),
            id.prop_map(|call_id| Message::Tool {
                call_id,
                name: "t".into(),
                content: "r".into(),
                is_error: false,
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_conversation_becomes_valid_and_a_valid_one_stays(
            messages in proptest::collection::vec(any_message(), 0..24),
        ) {
            let valid = valid_history(&messages);
            assert_valid(&valid);
            prop_assert_eq!(valid_history(&valid), valid);
        }
    }

    #[test]
    fn an_interrupted_call_is_answered_honestly_instead_of_being_hidden() {
        let call = ToolCall { id: "c1".into(), name: "send".into(), arguments: "{}".into() };
        let history = valid_history(&[
            Message::User { text: "go".into() },
            Message::Assistant { text: String::new(), tool_calls: vec![call] },
        ]);
        assert!(matches!(
            &history[2],
            Message::Tool { call_id, is_error: true, content, .. }
                if call_id == "c1" && content.contains("outcome unknown")
        ));
    }
}
