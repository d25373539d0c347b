use super::*;
use crate::model::ServiceTier;
use crate::wire::samples::{CHAT, MESSAGES, RESPONSES, frames};
use serde_json::json;

const STREAMS: [(Wire, &str); 3] =
    [(Wire::Chat, CHAT), (Wire::Messages, MESSAGES), (Wire::Responses, RESPONSES)];

fn read(wire: Wire, stream: &[u8]) -> (Reader, Vec<Seen>) {
    let mut reader = Reader::new(wire);
    let seen = frames(stream).iter().map(|frame| reader.read(frame)).collect();
    (reader, seen)
}

fn names(seen: &[Seen]) -> String {
    let letter = |seen: &Seen| match seen.meaning {
        Meaning::Preamble => 'p',
        Meaning::Content => 'c',
        Meaning::Usage => 'u',
        Meaning::Terminal => 't',
        Meaning::Error(_) => 'e',
        Meaning::Other => '.',
    };
    seen.iter().map(letter).collect()
}

fn failure(wire: Wire, stream: &str) -> WireFailure {
    let (reader, mut seen) = read(wire, stream.as_bytes());
    assert!(!reader.complete());
    match seen.pop().map(|seen| seen.meaning) {
        Some(Meaning::Error(failure)) => failure,
        other => panic!("{stream}: {other:?}"),
    }
}

#[test]
fn each_frame_of_a_recorded_stream_has_its_meaning() {
    for ((wire, stream), expected) in
        STREAMS.into_iter().zip(["..pccccc.ut", "p.pc..c.ccc.c.ut", "ppc.cc.t"])
    {
        let (reader, seen) = read(wire, stream.as_bytes());
        assert_eq!(names(&seen), expected, "{wire:?}");
        assert!(reader.complete() && reader.terminated() && reader.usage_is_final());
        assert!(reader.has_tool_calls() && !reader.tool_call_open());
        assert_eq!((reader.model(), reader.finish()), ("m", Some(FinishReason::ToolCalls)));
        let usage = reader.usage();
        assert_eq!((usage.input_uncached, usage.cache_read), (Some(6), Some(4)), "{wire:?}");
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_never_complete() {
    for (wire, stream) in STREAMS {
        for cut in 0..stream.len() {
            let (reader, seen) = read(wire, &stream.as_bytes()[..cut]);
            assert!(!reader.complete() && !reader.terminated(), "{wire:?} after {cut} bytes");
            assert!(!names(&seen).contains('t'));
        }
        assert!(read(wire, stream.as_bytes()).0.complete());
    }
    assert!(Reader::new(Wire::Messages).cut(None).message.contains("without `message_stop`"));
    let cut = Reader::new(Wire::Chat).cut(Some("reset"));
    assert_eq!((cut.class, cut.message.contains("reset")), (ErrorClass::Malformed, true));
}

#[test]
fn a_call_is_open_from_its_first_piece_to_its_end() {
    for (wire, stream) in STREAMS {
        let mut reader = Reader::new(wire);
        let open: String = frames(stream.as_bytes())
            .iter()
            .map(|frame| {
                reader.read(frame);
                if reader.tool_call_open() { 'o' } else { '.' }
            })
            .collect();
        let expected = match wire {
            Wire::Chat => "....oooo...",
            Wire::Messages => "........ooo.o...",
            _ => "....oo..",
        };
        assert_eq!(open, expected, "{wire:?}");
    }
}

#[test]
fn output_is_counted_as_text_and_not_as_json() {
    let sizes: Vec<u64> =
        STREAMS.iter().map(|(wire, text)| read(*wire, text.as_bytes()).0.output_bytes()).collect();
    // "é\n" is 3; then the names and arguments; the message thinks "hm" as well.
    assert_eq!(
        sizes,
        [3 + 1 + "{\"x\":\"\\u00e9\"}".len() as u64 + 1, 3 + 2 + 1 + 7 + 1, 3 + 1 + 2]
    );
    for (inner, length) in [("", 0), ("abc", 3), ("a\\nb", 3), ("\\u00e9\\\\u", 5), ("\\u00", 1)] {
        assert_eq!(unescaped(inner.as_bytes()), length, "{inner}");
    }
}

#[test]
fn the_usage_that_nobody_asked_for_is_taken_out_and_nothing_else() {
    let mut reader = Reader::new(Wire::Chat);
    let mut left = Vec::new();
    for frame in frames(CHAT.as_bytes()) {
        let seen = reader.read(&frame);
        left.extend(seen.without_usage(&frame).unwrap_or_default());
    }
    let end = CHAT.find("data: {\"choices\":[],").unwrap();
    let done = CHAT.find("data: [DONE]").unwrap();
    let expected = format!("{}{}", &CHAT[..end], &CHAT[done..]).replace(",\"usage\":null", "");
    assert_eq!(String::from_utf8(left).unwrap(), expected);
    for (data, without) in [
        ("{\"usage\":null}", "{}"),
        ("{ \"usage\" : {\"a\":\"},\"} , \"x\":1 }", "{ \"x\":1 }"),
        ("{\"x\":1 , \"usage\":2,\"y\":3}", "{\"x\":1,\"y\":3}"),
        ("{\"usage\":1,\"usage\":2,\"x\":3}", "{\"x\":3}"),
        ("{\"x\":3,\"usage\":1,\"usage\":2}", "{\"x\":3}"),
        ("{\"x\":{\"usage\":1}}", "{\"x\":{\"usage\":1}}"),
    ] {
        let frame = &frames(format!("id: 5\ndata: {data}\n\n").as_bytes())[0];
        assert_eq!(cut_out(frame, "usage"), format!("id: 5\ndata: {without}\n\n"));
    }
    let two_lines = &frames(b"data: {\"x\":1,\ndata: \"usage\":null}\n\n")[0];
    assert_eq!(cut_out(two_lines, "usage"), "data: {\"x\":1}\n\n");
}

#[test]
fn an_error_within_a_stream_has_its_class_and_the_stream_is_never_complete() {
    let chat = "data: {\"error\":{\"type\":\"server_error\",\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}\n\n";
    let seen = failure(Wire::Chat, chat);
    assert_eq!((seen.class, seen.code.as_str()), (ErrorClass::RateLimited, "rate_limit_exceeded"));
    let (reader, _) = read(Wire::Chat, format!("{chat}{CHAT}").as_bytes());
    assert!(!reader.complete() && reader.terminated());
    let message =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    assert_eq!(failure(Wire::Messages, message).class, ErrorClass::Unavailable);
    let failed = json!({"type": "response.failed", "sequence_number": 4, "response": {
        "error": {"code": "server_is_overloaded", "message": "m"}, "usage": {"input_tokens": 3}}});
    let stream = format!("event: response.failed\ndata: {failed}\n\n");
    assert_eq!(failure(Wire::Responses, &stream).class, ErrorClass::Unavailable);
    let (reader, _) = read(Wire::Responses, stream.as_bytes());
    assert!(reader.terminated() && reader.usage_is_final());
    assert_eq!((reader.next_sequence(), reader.usage().input_uncached), (5, Some(3)));
    let event =
        "event: error\ndata: {\"type\":\"error\",\"code\":\"slow_down\",\"message\":\"m\"}\n\n";
    assert_eq!(failure(Wire::Responses, event).class, ErrorClass::RateLimited);
}

#[test]
fn an_end_without_a_reason_is_no_end() {
    for (wire, stream, says) in [
        (Wire::Chat, "data: [DONE]\n\n", "finish reason"),
        (
            Wire::Chat,
            "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"},{\"index\":1}]}\n\ndata: [DONE]\n\n",
            "finish reason",
        ),
        (Wire::Messages, "data: {\"type\":\"message_stop\"}\n\n", "`message_start`"),
        (
            Wire::Messages,
            "data: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            "stop reason",
        ),
        (Wire::Chat, "data: {\"choices\":[\n\n", "no JSON object"),
        (Wire::Responses, "data: []\n\n", "no JSON object"),
    ] {
        let failure = failure(wire, stream);
        assert_eq!(failure.class, ErrorClass::Malformed);
        assert!(failure.message.contains(says), "{failure}");
    }
}

#[test]
fn odd_shapes_that_sdks_read_do_not_break_a_stream() {
    let (reader, seen) = read(
        Wire::Chat,
        concat!(
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\ud83d\"},\"index\":0,\"index\":0}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"r\"}}],\"usage\":{\"prompt_tokens\":2}}\n\n",
            "data: {\"choices\":[{\"delta\":null,\"finish_reason\":\"length\"}],\"service_tier\":\"flex\"}\n\n",
            "data:[DONE]\n\n",
        )
        .as_bytes(),
    );
    assert_eq!(names(&seen), "pcc.t");
    assert_eq!(seen[2].usage_field, Some(UsageField::Beside));
    assert_eq!(reader.finish(), Some(FinishReason::Length));
    assert_eq!(reader.usage().service_tier, Some(ServiceTier::Flex));
    let (reader, seen) = read(Wire::Embeddings, CHAT.as_bytes());
    assert!(!reader.complete() && seen.iter().all(|seen| seen.meaning == Meaning::Other));
}
