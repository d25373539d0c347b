//! Calls that come again and again, found in the conversation itself: no state of its own, so a run that was
//! folded again after a crash repeats itself as much as before.

use std::collections::VecDeque;

use serde_json::Value;
use steadfast_providers::model::{Message, ToolCall};

use super::RepeatRule;

/// Calls that are looked back on.
const WINDOW: usize = 30;

/// The longest cycle that is looked for.
const CYCLE_MAX: usize = 5;

/// A call and its result.
#[derive(Clone, Copy)]
struct Made<'r> {
    tool: &'r str,
    arguments: &'r str,
    result: &'r str,
    is_error: bool,
}

impl Made<'_> {
    /// Same tool, same result, and arguments that mean the same, however they are written. Results are
    /// compared first: they nearly always differ.
    fn is_like(&self, other: &Self) -> bool {
        self.tool == other.tool
            && self.is_error == other.is_error
            && self.result == other.result
            && means_the_same(self.arguments, other.arguments)
    }
}

/// Whether two JSON texts differ in nothing but the order of keys and white space. Texts of other characters
/// cannot, so hardly any is ever parsed.
fn means_the_same(one: &str, other: &str) -> bool {
    let weight = |text: &str| {
        let inked = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
        inked.fold((0_usize, 0_usize), |(count, sum), byte| (count + 1, sum + usize::from(byte)))
    };
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    one == other
        || (weight(one) == weight(other)
            && parse(one).is_some_and(|value| parse(other) == Some(value)))
}

/// What repeats, for people; `None` if nothing does.
pub(super) fn repeating(messages: &[Message], rule: &RepeatRule) -> Option<String> {
    let made = last_calls(messages, rule);
    let newest = made.last()?;
    let alike = |calls: &mut dyn Iterator<Item = &Made<'_>>| {
        calls.filter(|call| call.is_like(newest)).count()
    };
    let in_a_row = made.iter().rev().take_while(|call| call.is_like(newest)).count();
    if rule.in_a_row > 0 && in_a_row >= rule.in_a_row {
        return Some(format!(
            "`{}` was called {in_a_row} times in a row with the same arguments and the same result",
            newest.tool
        ));
    }
    let errors = made.iter().rev().filter(|call| call.tool == newest.tool);
    let errors = errors.take_while(|call| call.is_error && call.result == newest.result).count();
    if rule.errors > 0 && newest.is_error && errors >= rule.errors {
        return Some(format!(
            "`{}` failed {errors} times in a row with the same error",
            newest.tool
        ));
    }
    if let Some(length) = (2..=CYCLE_MAX).find(|length| is_cycle(&made, *length, rule.rounds)) {
        let tools: Vec<_> = made[made.len() - length..].iter().map(|call| call.tool).collect();
        return Some(format!(
            "the calls of {} went round {} times with the same results",
            tools.join(", "),
            rule.rounds
        ));
    }
    let among_last = alike(&mut made.iter());
    (rule.among_last > 0 && among_last >= rule.among_last).then(|| {
        format!(
            "`{}` was called {among_last} times among the last {} calls with the same arguments and the \
             same result",
            newest.tool,
            made.len()
        )
    })
}

/// Whether the last calls are so many rounds of a cycle of this length.
fn is_cycle(made: &[Made<'_>], length: usize, rounds: usize) -> bool {
    let Some(first) = made.len().checked_sub(length * rounds) else { return false };
    rounds > 1 && (first + length..made.len()).all(|at| made[at].is_like(&made[at - length]))
}

/// The last calls that have a result, the newest last, but for those that repeat by nature. Every call of a
/// batch counts.
fn last_calls<'r>(messages: &'r [Message], rule: &RepeatRule) -> Vec<Made<'r>> {
    let mut made = VecDeque::new();
    let mut results: Vec<(&str, &str, bool)> = Vec::new();
    for message in messages.iter().rev() {
        match message {
            Message::Tool { call_id, content, is_error, .. } => {
                results.push((call_id, content, *is_error));
            }
            Message::Assistant { tool_calls, .. } => {
                // In the order of the results, the last one first.
                for (call_id, result, is_error) in results.drain(..) {
                    let asked = tool_calls.iter().find(|call| call.id == call_id);
                    let Some(ToolCall { name, arguments, .. }) = asked else { continue };
                    if !rule.ignores(name) {
                        made.push_front(Made { tool: name, arguments, result, is_error });
                    }
                }
            }
            Message::User { .. } => results.clear(),
        }
        if made.len() >= WINDOW {
            break;
        }
    }
    let surplus = made.len().saturating_sub(WINDOW);
    made.into_iter().skip(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conversation of batches; each call is a tool, its arguments, its result and whether that is an error.
    fn conversation(batches: &[&[(&str, &str, &str, bool)]]) -> Vec<Message> {
        let mut messages = vec![Message::User { text: "go".to_owned() }];
        for (number, batch) in batches.iter().enumerate() {
            let id = |place: usize| format!("c{number}-{place}");
            let calls = batch.iter().enumerate().map(|(place, (tool, arguments, _, _))| ToolCall {
                id: id(place),
                name: (*tool).to_owned(),
                arguments: (*arguments).to_owned(),
            });
            let tool_calls = calls.collect();
            messages.push(Message::Assistant { text: String::new(), tool_calls });
            for (place, (tool, _, result, is_error)) in batch.iter().enumerate() {
                messages.push(Message::Tool {
                    call_id: id(place),
                    name: (*tool).to_owned(),
                    content: (*result).to_owned(),
                    is_error: *is_error,
                });
            }
        }
        messages
    }

    fn one_by_one(calls: &[(&str, &str, &str, bool)]) -> Option<String> {
        let batches: Vec<&[_]> = calls.iter().map(std::slice::from_ref).collect();
        repeating(&conversation(&batches), &RepeatRule::default())
    }

    const READ: (&str, &str, &str, bool) = ("read", r#"{"a":1,"b":2}"#, "same", false);
    const OTHER: (&str, &str, &str, bool) = ("list", "{}", "files", false);

    #[test]
    fn c12_equal_calls_with_equal_results_repeat_from_the_third_on() {
        assert_eq!(one_by_one(&[READ, READ]), None);
        let told = one_by_one(&[READ, READ, READ]).expect("repeats");
        assert!(told.contains("`read`") && told.contains("3 times in a row"), "{told}");
        assert_eq!(one_by_one(&[READ, READ, OTHER, READ]), None, "not in a row");
        let moving = ("read", READ.1, "it moves", false);
        assert_eq!(one_by_one(&[READ, READ, moving]), None, "another result");
        let spelled = ("read", r#"{ "b": 2, "a": 1 }"#, "same", false);
        assert!(one_by_one(&[READ, spelled, READ]).is_some(), "means the same");
    }

    #[test]
    fn c12_repeats_inside_one_batch_count() {
        let batch = conversation(&[&[READ, READ], &[READ]]);
        assert!(repeating(&batch, &RepeatRule::default()).is_some());
        let batch = conversation(&[&[READ, READ, READ]]);
        assert!(repeating(&batch, &RepeatRule::default()).is_some());
    }

    #[test]
    fn c12_the_same_error_repeats_whatever_the_arguments() {
        let fails = |arguments| ("write", arguments, "no space", true);
        assert_eq!(one_by_one(&[fails("1"), fails("2")]), None);
        let told = one_by_one(&[fails("1"), OTHER, fails("2"), fails("3")]).expect("repeats");
        assert!(told.contains("the same error"), "{told}");
        let works = |arguments| ("write", arguments, "written", false);
        assert_eq!(one_by_one(&[works("1"), works("2"), works("3")]), None, "no error");
        let other = ("write", "2", "no permission", true);
        assert_eq!(one_by_one(&[fails("1"), other, fails("3")]), None, "another error");
    }

    #[test]
    fn c12_cycles_of_two_to_five_calls_repeat_in_their_third_round() {
        let names = ["a", "b", "c", "d", "e", "f"];
        for length in 2..=6 {
            let round: Vec<_> =
                names[..length].iter().map(|name| (*name, "{}", "x", false)).collect();
            assert_eq!(one_by_one(&round.repeat(2)), None, "{length}: two rounds");
            let almost = &round.repeat(3)[1..];
            assert_eq!(one_by_one(almost), None, "{length}: one call too few");
            assert_eq!(one_by_one(&round.repeat(3)).is_some(), length <= CYCLE_MAX, "{length}");
        }
    }

    #[test]
    fn c12_ten_equal_calls_among_the_last_thirty_repeat() {
        let numbers: Vec<String> = (0..60).map(|number| number.to_string()).collect();
        let mixed = |times: usize, between: usize| {
            let mut calls = Vec::new();
            for round in 0..times {
                calls.push(READ);
                if round + 1 < times {
                    let fresh = numbers[round * between..].iter().take(between);
                    calls.extend(fresh.map(|number| ("read", number.as_str(), "x", false)));
                }
            }
            one_by_one(&calls)
        };
        assert_eq!(mixed(9, 2), None);
        assert!(mixed(10, 2).expect("repeats").contains("10 times among the last 28"));
        assert_eq!(mixed(10, 3), None, "spread over more than thirty calls");
    }

    #[test]
    fn c12_what_repeats_by_nature_is_left_out_and_a_check_can_be_turned_off() {
        let messages = conversation(&[&[READ, READ, READ, READ]]);
        let ignore = RepeatRule { ignore: vec!["re*".to_owned()], ..RepeatRule::default() };
        assert_eq!(repeating(&messages, &ignore), None);
        let off = RepeatRule { in_a_row: 0, ..RepeatRule::default() };
        assert_eq!(repeating(&messages, &off), None);
    }
}
