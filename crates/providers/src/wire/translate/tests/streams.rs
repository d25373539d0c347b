use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{bytes, head};
use crate::http::Accumulate;
use crate::model::{FinishReason, ModelAnswer, ModelDelta, ToolCall, Usage};
use crate::wire::samples::{CHAT, MESSAGES, frames};
use crate::wire::translate::{Head, StreamTranslator, whole};
use crate::wire::{Frames, Meaning, Reader, Wire, WireFailure};
use crate::{anthropic, openai, sse};

/// A stream, cut into pieces of these sizes, on the other wire.
fn crossed(from: Wire, to: Wire, stream: &str, cuts: &[usize]) -> Result<String, WireFailure> {
    let mut translator = StreamTranslator::new(from, to, head()).unwrap();
    let mut frames = Frames::default();
    let mut out = Vec::new();
    let mut rest = stream.as_bytes();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at((*cut).min(rest.len()));
        rest = tail;
        frames.push(bytes::Bytes::copy_from_slice(piece));
        while let Some(frame) = frames.next_frame().unwrap() {
            out.extend_from_slice(&translator.frame(&frame)?);
        }
    }
    Ok(String::from_utf8(out).unwrap())
}

/// The whole answer in a stream, as the runtime's own client reads it.
fn answer(wire: Wire, stream: &str) -> ModelAnswer {
    let (mut events, mut out) = (Vec::new(), VecDeque::new());
    sse::Parser::default().feed(bytes(stream), &mut events).unwrap();
    let (mut chat, mut message) =
        (openai::stream::Accumulator::default(), anthropic::stream::Accumulator::default());
    for event in &events {
        match wire {
            Wire::Chat => chat.event(event, &mut out).unwrap(),
            _ => message.event(event, &mut out).unwrap(),
        }
    }
    let Some(ModelDelta::Done(answer)) = out.pop_back() else { panic!("no end: {stream}") };
    *answer
}

/// Blocks one after the other, from 0, without holes; then the delta and the stop.
fn check_blocks(stream: &str) {
    let (mut open, mut next, mut ends) = (None, 0, Vec::new());
    for frame in frames(stream.as_bytes()) {
        let json: Value = serde_json::from_slice(frame.data.as_ref().unwrap()).unwrap();
        assert_eq!(frame.name(), json["type"].as_str());
        let index = json["index"].as_u64();
        match json["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(next)), "{stream}");
                (open, next) = (index, next + 1);
            }
            "content_block_delta" => assert_eq!(index, open, "{stream}"),
            "content_block_stop" => {
                assert_eq!(index, open, "{stream}");
                open = None;
            }
            other => {
                assert_eq!(open, None, "{stream}");
                ends.push(other.to_owned());
            }
        }
    }
    assert_eq!(ends, ["message_start", "message_delta", "message_stop"]);
}

#[test]
fn a_recorded_chat_is_this_message() {
    let message = crossed(Wire::Chat, Wire::Messages, CHAT, &[4096]).unwrap();
    check_blocks(&message);
    let expected = concat!(
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,",
        "\"content_block\":{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,",
        "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"x\\\":\\\"\\\\u00\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,",
        "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"e9\\\"}\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,",
        "\"content_block\":{\"type\":\"tool_use\",\"id\":\"b\",\"name\":\"g\",\"input\":{}}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",",
        "\"stop_sequence\":null},\"usage\":{\"input_tokens\":6,\"cache_creation_input_tokens\":0,",
        "\"cache_read_input_tokens\":4,\"output_tokens\":2}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn a_recorded_message_is_this_chat_and_its_thinking_is_left_out() {
    let chat = crossed(Wire::Messages, Wire::Chat, MESSAGES, &[4096]).unwrap();
    let deltas: Vec<Value> = frames(chat.as_bytes())
        .iter()
        .filter_map(|frame| serde_json::from_slice::<Value>(frame.data.as_ref()?).ok())
        .map(|chunk| {
            assert_eq!((&chunk["id"], &chunk["model"]), (&json!("msg"), &json!("m")));
            assert_eq!(
                (&chunk["created"], &chunk["object"]),
                (&json!(7), &json!("chat.completion.chunk"))
            );
            chunk.pointer("/choices/0/delta").cloned().unwrap_or_default()
        })
        .collect();
    let piece = |index: usize, arguments: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]});
    let begin = |index: usize, id: &str, name: &str| {
        json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""}}]})
    };
    assert_eq!(
        deltas,
        [
            json!({"role": "assistant", "content": "", "refusal": null}),
            json!({"content": "é\n"}),
            begin(0, "a", "f"),
            piece(0, "{\"x\":"),
            piece(0, "1}"),
            begin(1, "b", "g"),
            piece(1, "{}"),
            json!({}),
            Value::Null,
        ]
    );
    assert!(chat.ends_with(concat!(
        "\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":9,\"total_tokens\":19,",
        "\"prompt_tokens_details\":{\"cached_tokens\":4,\"cache_write_tokens\":0}}}\n\ndata: [DONE]\n\n",
    )), "{chat}");
    let mut silent = StreamTranslator::new(
        Wire::Messages,
        Wire::Chat,
        Head { created_seconds: 7, include_usage: false },
    )
    .unwrap();
    let pieces = frames(MESSAGES.as_bytes());
    let text: Vec<_> = pieces.iter().map(|frame| silent.frame(frame).unwrap()).collect();
    assert!(!String::from_utf8(text.concat()).unwrap().contains("usage"));
}

#[test]
fn a_stream_cut_at_any_byte_never_ends_on_the_other_wire() {
    for (from, to, stream) in
        [(Wire::Chat, Wire::Messages, CHAT), (Wire::Messages, Wire::Chat, MESSAGES)]
    {
        let end = stream.rfind("data:").unwrap();
        for cut in 0..stream.len() {
            if !stream.is_char_boundary(cut) {
                continue;
            }
            let out = crossed(from, to, &stream[..cut], &[4096]).unwrap();
            let mut reader = Reader::new(to);
            for frame in frames(out.as_bytes()) {
                let seen = reader.read(&frame);
                assert!(!matches!(seen.meaning, Meaning::Error(_) | Meaning::Terminal));
            }
            assert!(!reader.complete(), "{from:?} after {cut} of {end} bytes");
        }
    }
}

#[test]
fn an_error_within_a_stream_and_nonsense_come_out_as_failures() {
    let begun = &MESSAGES[..MESSAGES.find("event: message_delta").unwrap()];
    let error =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let two = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\n\n";
    let list = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":\
                {\"name\":\"f\",\"arguments\":\"[1]\"}}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let server = "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":\
                  {\"type\":\"server_tool_use\"}}\n\n";
    for (from, stream, says) in [
        (Wire::Messages, format!("{begun}{error}"), "overloaded_error"),
        (Wire::Messages, "data: {\"type\":\"message_stop\"}\n\n".to_owned(), "`message_start`"),
        (Wire::Messages, server.to_owned(), "`server_tool_use`"),
        (Wire::Messages, "data: {\n\n".to_owned(), "not JSON"),
        (Wire::Chat, "data: {\"error\":{\"message\":\"boom\"}}\n\n".to_owned(), "boom"),
        (Wire::Chat, "data: [DONE]\n\n".to_owned(), "finish reason"),
        (Wire::Chat, two.to_owned(), "more than one choice"),
        (Wire::Chat, list.to_owned(), "`f` are no JSON object"),
    ] {
        let to = if from == Wire::Chat { Wire::Messages } else { Wire::Chat };
        let failure = crossed(from, to, &stream, &[4096]).unwrap_err();
        assert!(failure.message.contains(says), "{failure}");
    }
}

fn chunk(delta: &Value) -> String {
    let chunk = json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]});
    format!("data: {chunk}\n\n")
}

/// An answer as a chat stream: the text in pieces, the calls' pieces in turn as `turns` says.
fn chat_stream(answer: &ModelAnswer, size: usize, turns: &[usize]) -> String {
    let mut out = chunk(&json!({"role": "assistant", "content": ""}));
    let pieces = |text: &str| {
        let letters: Vec<char> = text.chars().collect();
        letters.chunks(size).map(|piece| piece.iter().collect::<String>()).collect::<Vec<_>>()
    };
    for piece in pieces(&answer.text) {
        out.push_str(&chunk(&json!({"content": piece})));
    }
    let mut waiting: Vec<VecDeque<Value>> = Vec::new();
    for (index, call) in answer.tool_calls.iter().enumerate() {
        let begin = json!({"index": index, "id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        let more = pieces(&call.arguments).into_iter();
        let more = more.map(|piece| json!({"index": index, "function": {"arguments": piece}}));
        waiting.push(std::iter::once(begin).chain(more).collect());
    }
    // A call begins only after those before it have begun.
    let mut begun = 0;
    for turn in turns.iter().cycle() {
        let open: Vec<usize> =
            (0..waiting.len()).filter(|at| *at <= begun && !waiting[*at].is_empty()).collect();
        let Some(at) = open.get(turn % open.len().max(1)).copied() else { break };
        begun = begun.max(at + 1);
        let piece = waiting[at].pop_front().unwrap();
        out.push_str(&chunk(&json!({"tool_calls": [piece]})));
    }
    let reason = match answer.finish {
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::Refused => "content_filter",
        _ => "stop",
    };
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]});
    let usage = json!({"choices": [], "usage": super::super::answer::chat_usage(&answer.usage)});
    out + &format!("data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n")
}

/// The answer as whole JSON.
fn chat_json(answer: &ModelAnswer, stream: &str) -> Value {
    let finish = frames(stream.as_bytes()).iter().rev().find_map(|frame| {
        let json: Value = serde_json::from_slice(frame.data.as_ref()?).ok()?;
        json.pointer("/choices/0/finish_reason").cloned().filter(|reason| !reason.is_null())
    });
    let calls: Vec<Value> = answer
        .tool_calls
        .iter()
        .map(|call| {
            json!({"id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": call.arguments}})
        })
        .collect();
    json!({"id": "c", "model": "m", "choices": [{"index": 0, "finish_reason": finish, "message":
        {"role": "assistant", "content": answer.text, "tool_calls": calls}}],
        "usage": super::super::answer::chat_usage(&answer.usage)})
}

/// Arguments as they mean, not as they are written.
fn meant(mut answer: ModelAnswer) -> ModelAnswer {
    for call in &mut answer.tool_calls {
        let value: Value = if call.arguments.is_empty() {
            json!({})
        } else {
            serde_json::from_str(&call.arguments).unwrap()
        };
        call.arguments = value.to_string();
    }
    answer
}

fn answers() -> impl Strategy<Value = ModelAnswer> {
    let value = prop_oneof![
        "[a-zé€😀\"\\\\\n{}\\[\\]]{0,12}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::collection::vec("[a}\"]{0,3}", 0..3).prop_map(|items| json!({"in": items})),
    ];
    let object = proptest::collection::btree_map("[a-z\"é]{1,4}", value, 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()));
    let arguments = (object, 0..3).prop_map(|(object, form)| match form {
        0 => object.to_string(),
        1 => serde_json::to_string_pretty(&object).unwrap(),
        _ => String::new(),
    });
    let calls = proptest::collection::vec(("[a-z_]{1,8}", arguments), 0..4);
    let finish = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::Refused)
    ];
    let text = "[a-zé€😀\"\\\\\n ]{0,40}";
    (text, calls, finish, [0_u64..99, 0_u64..99, 0_u64..99, 0_u64..99]).prop_map(
        |(text, calls, finish, [uncached, read, write, output])| ModelAnswer {
            text,
            finish: if calls.is_empty() { finish } else { FinishReason::ToolCalls },
            tool_calls: calls
                .into_iter()
                .enumerate()
                .map(|(at, (name, arguments))| ToolCall {
                    id: format!("call_{at}"),
                    name,
                    arguments,
                })
                .collect(),
            usage: Usage {
                input_uncached: Some(uncached),
                cache_read: Some(read),
                cache_write: Some(write),
                output: Some(output),
                ..Usage::default()
            },
            model: "m".into(),
        },
    )
}

proptest! {
    #[test]
    fn an_answer_streamed_there_and_back_is_the_same_answer(
        answer_in in answers(),
        size in 1_usize..7,
        turns in proptest::collection::vec(0_usize..4, 1..9),
        cuts in proptest::collection::vec(1_usize..60, 1..12),
    ) {
        let there = chat_stream(&answer_in, size, &turns);
        prop_assert_eq!(&answer(Wire::Chat, &there), &answer_in);
        let message = crossed(Wire::Chat, Wire::Messages, &there, &cuts).unwrap();
        check_blocks(&message);
        let expected = meant(answer_in.clone());
        prop_assert_eq!(&meant(answer(Wire::Messages, &message)), &expected);
        let back = crossed(Wire::Messages, Wire::Chat, &message, &cuts).unwrap();
        prop_assert_eq!(&meant(answer(Wire::Chat, &back)), &expected);
        for (wire, stream) in [(Wire::Messages, &message), (Wire::Chat, &back)] {
            let mut reader = Reader::new(wire);
            for frame in frames(stream.as_bytes()) {
                reader.read(&frame);
            }
            prop_assert!(reader.complete());
            prop_assert_eq!(reader.usage(), &expected.usage);
        }
        let json = chat_json(&answer_in, &there);
        let whole_message = whole(Wire::Chat, Wire::Messages, &json, &head()).unwrap();
        let read = anthropic::response::read(whole_message.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&meant(read), &expected);
        let whole_chat = whole(Wire::Messages, Wire::Chat, &whole_message, &head()).unwrap();
        let read = openai::response::read(whole_chat.to_string().as_bytes()).unwrap();
        prop_assert_eq!(meant(read), expected);
    }
}
