//! A shorter view of a conversation that does not fit its model. Nothing is lost: the log stays whole.

use steadfast_providers::model::Message;

use crate::run::cut_middle;

/// Messages at the end that are left as they are: what the model is working on.
const RECENT: usize = 6;

/// What an older tool result is cut to, in bytes.
const OLD_RESULT_BYTES_MAX: usize = 1_000;

/// A conversation of at most half the size, and what was done to it. `None` if that cannot be had: the
/// first message and the newest ones are never touched.
///
/// Older tool results are cut in the middle first; if that does not do, the oldest answers leave together
/// with their results, so that the rest stays valid.
pub(crate) fn shorten(messages: &[Message]) -> Option<(Vec<Message>, String)> {
    let goal = messages.iter().map(size).sum::<usize>() / 2;
    let recent = messages.len().saturating_sub(RECENT);
    let mut cut = 0;
    let mut shorter: Vec<Message> = messages.to_vec();
    for message in shorter.iter_mut().take(recent) {
        if let Message::Tool { content, .. } = message
            && content.len() > OLD_RESULT_BYTES_MAX
        {
            *content = cut_middle(content, OLD_RESULT_BYTES_MAX);
            cut += 1;
        }
    }
    let mut total: usize = shorter.iter().map(size).sum();
    let mut left_out = 0;
    // An answer and its results leave together, from behind the first message on.
    while total > goal {
        let round =
            1 + shorter.iter().skip(2).take_while(|m| matches!(m, Message::Tool { .. })).count();
        if 1 + round + RECENT > shorter.len() {
            return None;
        }
        total -= shorter.drain(1..=round).map(|message| size(&message)).sum::<usize>();
        left_out += round;
    }
    if let (1.., Some(Message::User { text })) = (left_out, shorter.first_mut()) {
        text.push_str(&format!("\n\n[{left_out} messages after this one were left out: no room]"));
    }
    Some((shorter, format!("{cut} older results were cut and {left_out} messages left out")))
}

/// About how much of the model's context a message takes, in bytes.
fn size(message: &Message) -> usize {
    match message {
        Message::User { text } => text.len(),
        Message::Tool { content, .. } => content.len(),
        Message::Assistant { text, tool_calls } => {
            let calls = tool_calls.iter().map(|call| call.name.len() + call.arguments.len());
            text.len() + calls.sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use steadfast_providers::model::ToolCall;

    use super::*;
    use crate::agent::valid_history;

    /// A task and so many rounds, each with a result of so many bytes.
    fn conversation(rounds: usize, bytes: usize) -> Vec<Message> {
        let mut messages = vec![Message::User { text: "the task".to_owned() }];
        for round in 0..rounds {
            let id = format!("c{round}");
            let call = ToolCall { id: id.clone(), name: "read".into(), arguments: "{}".into() };
            messages.push(Message::Assistant { text: String::new(), tool_calls: vec![call] });
            let content = "x".repeat(bytes);
            messages.push(Message::Tool {
                call_id: id,
                name: "read".into(),
                content,
                is_error: false,
            });
        }
        messages
    }

    #[test]
    fn r14_long_old_results_are_cut_and_the_newest_messages_stay() {
        let long = conversation(8, 10_000);
        let (shorter, told) = shorten(&long).expect("can be shortened");
        assert_eq!(shorter.len(), long.len());
        assert_eq!(shorter[11..], long[11..]);
        assert!(matches!(&shorter[2], Message::Tool { content, .. } if content.len() < 1_100));
        assert_eq!(told, "5 older results were cut and 0 messages left out");
        assert_eq!(valid_history(&shorter), shorter);
    }

    #[test]
    fn r14_the_oldest_rounds_leave_whole_and_the_task_stays() {
        let long = conversation(40, 500);
        let (shorter, _) = shorten(&long).expect("can be shortened");
        assert!(shorter.iter().map(size).sum::<usize>() <= 20_000 / 2 + 100);
        let Message::User { text } = &shorter[0] else { panic!("the task comes first") };
        assert!(text.starts_with("the task") && text.contains("were left out"), "{text}");
        assert_eq!(shorter[shorter.len() - 6..], long[long.len() - 6..]);
        assert_eq!(valid_history(&shorter), shorter);
    }

    #[test]
    fn r14_what_cannot_be_shortened_is_not() {
        assert_eq!(shorten(&[Message::User { text: "x".repeat(1_000_000) }]), None);
        assert_eq!(shorten(&conversation(3, 10_000)), None);
        assert_eq!(
            shorten(&[]),
            Some((vec![], "0 older results were cut and 0 messages left out".into()))
        );
    }
}
