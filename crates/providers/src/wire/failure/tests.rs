use super::*;
use crate::wire::samples::frames;
use crate::wire::{Meaning, Reader};

fn facts() -> Box<BudgetFacts> {
    Box::new(BudgetFacts {
        scope: "key ci".into(),
        window: "day".into(),
        unit: "usd".into(),
        limit: "5".into(),
        spent: "4.9".into(),
        reserved: "0.2".into(),
        resets_at: Some(Timestamp::from_second(86_400).unwrap()),
    })
}

/// A failure, its statuses, OpenAI's type and code, Anthropic's type.
type Row = (FailureKind, [u16; 2], (&'static str, &'static str), &'static str);

fn rows() -> Vec<Row> {
    use FailureKind as K;
    let budget = K::BudgetExhausted { facts: facts(), status: 402 };
    let request = "invalid_request_error";
    vec![
        (K::BadKey, [401; 2], (request, "invalid_api_key"), "authentication_error"),
        (K::NotAllowed, [403; 2], ("permission_error", "model_not_allowed"), "permission_error"),
        (K::UnknownModel, [404; 2], (request, "model_not_found"), "not_found_error"),
        (K::BodyTooLarge, [413; 2], (request, "request_too_large"), "request_too_large"),
        (K::BadRequest { field: None }, [400; 2], (request, "invalid_request"), request),
        (K::ContextTooLong, [400; 2], (request, "context_length_exceeded"), request),
        (budget, [402; 2], ("insufficient_quota", "budget_exceeded"), "billing_error"),
        (K::RateLimited, [429; 2], ("rate_limit_error", "rate_limit_exceeded"), "rate_limit_error"),
        (K::Overloaded, [503, 529], ("server_error", "overloaded"), "overloaded_error"),
        (K::CircuitOpen, [503, 529], ("server_error", "circuit_open"), "overloaded_error"),
        (K::UpstreamTimeout, [504; 2], ("server_error", "upstream_timeout"), "timeout_error"),
        (K::DeadlinePassed, [408; 2], ("timeout", "deadline_passed"), "timeout_error"),
        (K::UpstreamError, [502; 2], ("server_error", "upstream_error"), "api_error"),
        (K::PolicyDenied, [403; 2], ("permission_error", "policy_denied"), "permission_error"),
        (K::Conflict, [409; 2], (request, "idempotency_conflict"), request),
    ]
}

#[test]
fn each_failure_has_its_status_and_its_words_in_both_dialects() {
    for (kind, statuses, (openai_type, code), anthropic_type) in rows() {
        let mut failure = Failure::new(kind.clone(), "what to do");
        failure.request_id = Some("req-1".into());
        for (dialect, status) in [Dialect::OpenAi, Dialect::Anthropic].into_iter().zip(statuses) {
            assert_eq!(failure.status(dialect), status, "{kind:?}");
            let body: Value = serde_json::from_slice(&failure_body(dialect, &failure)).unwrap();
            assert_eq!(body["error"]["message"], "what to do");
            let id = &failure.headers(dialect)[dialect.request_id_header()];
            assert_eq!(id, "req-1");
            if dialect == Dialect::OpenAi {
                let words = (&body["error"]["type"], &body["error"]["code"]);
                assert_eq!(words, (&openai_type.into(), &code.into()), "{kind:?}");
            } else {
                let words = (&body["type"], &body["error"]["type"], &body["request_id"]);
                assert_eq!(words, (&"error".into(), &anthropic_type.into(), &"req-1".into()));
            }
        }
    }
}

/// `x-should-retry`, `retry-after` and `retry-after-ms`.
fn advice(failure: &Failure) -> [Option<String>; 3] {
    let headers = failure.headers(Dialect::OpenAi);
    ["x-should-retry", "retry-after", "retry-after-ms"]
        .map(|name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()))
}

#[test]
fn sdks_are_told_to_repeat_only_what_is_ours_and_passes_soon() {
    use FailureKind as K;
    let some = |text: &str| Some(text.to_owned());
    let check = |kind: K, tried: bool, wait_ms: Option<u64>, expected: [Option<&str>; 3]| {
        let mut failure = Failure::new(kind.clone(), "m");
        (failure.tried, failure.retry_after) = (tried, wait_ms.map(Duration::from_millis));
        assert_eq!(advice(&failure), expected.map(|text| text.and_then(some)), "{kind:?}");
    };
    let (yes, no) = (Some("true"), Some("false"));
    check(K::RateLimited, false, Some(1500), [yes, Some("2"), Some("1500")]);
    check(K::RateLimited, false, Some(61_000), [no, None, None]);
    check(K::Overloaded, false, Some(250), [yes, Some("1"), Some("250")]);
    check(K::Overloaded, true, Some(250), [no, Some("1"), Some("250")]);
    check(K::ProviderRateLimited, true, Some(5000), [no, Some("5"), Some("5000")]);
    check(K::ProviderRateLimited, false, None, [no, None, None]);
    let budget = K::BudgetExhausted { facts: facts(), status: 429 };
    check(budget, false, Some(1000), [no, None, None]);
    check(K::UpstreamTimeout, false, None, [no, None, None]);
    check(K::DeadlinePassed, false, None, [no, None, None]);
    check(K::Conflict, false, None, [no, None, None]);
    check(K::UpstreamError, true, None, [no, None, None]);
    check(K::BadKey, false, None, [None, None, None]);
    check(K::UnknownModel, true, None, [None, None, None]);
}

#[test]
fn a_spent_budget_says_whose_it_is_and_when_it_is_there_again() {
    let failure =
        Failure::new(FailureKind::BudgetExhausted { facts: facts(), status: 422 }, "spent");
    assert_eq!(failure.status(Dialect::OpenAi), 422);
    let headers = failure.headers(Dialect::Anthropic);
    assert_eq!(headers["x-steadfast-budget-reset"], "1970-01-02T00:00:00Z");
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let body: Value = serde_json::from_slice(&failure_body(dialect, &failure)).unwrap();
        let told = &body["error"]["budget"];
        assert_eq!((&told["scope"], &told["limit"]), (&"key ci".into(), &"5".into()));
        assert_eq!((&told["spent"], &told["reserved"]), (&"4.9".into(), &"0.2".into()));
        assert_eq!(told["resets_at"], "1970-01-02T00:00:00Z");
    }
}

#[test]
fn an_error_within_a_stream_is_read_as_one_and_ends_nothing() {
    for wire in [Wire::Chat, Wire::Responses, Wire::Messages] {
        let failure = Failure::new(FailureKind::Overloaded, "no \"room\"\n");
        let bytes = failure_frames(wire, &failure, 7);
        let frames = frames(&bytes);
        assert_eq!(frames.len(), 1);
        let mut reader = Reader::new(wire);
        let Meaning::Error(read) = reader.read(&frames[0]).meaning else { panic!("{wire:?}") };
        assert_eq!(read.class, ErrorClass::Unavailable, "{wire:?}");
        assert!(read.message.contains("no \"room\"\n"), "{read}");
        assert!(!reader.complete() && !reader.terminated());
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"));
        assert_eq!(text.starts_with("event: error\n"), wire != Wire::Chat);
        assert_eq!(text.contains("\"sequence_number\":7"), wire == Wire::Responses);
    }
}

#[test]
fn a_providers_failure_keeps_its_words_where_they_help_the_caller() {
    let mut failure = WireFailure::new(ErrorClass::RateLimited, "slow");
    (failure.kind, failure.code) = ("requests".into(), "rate_limit_exceeded".into());
    failure.retry_after = Some(Duration::from_secs(3));
    let told = Failure::of_provider(&failure);
    let body: Value = serde_json::from_slice(&failure_body(Dialect::OpenAi, &told)).unwrap();
    assert_eq!(body["error"]["type"], "requests");
    assert_eq!(advice(&told), [Some("false".into()), Some("3".into()), Some("3000".into())]);
    failure.class = ErrorClass::Authentication;
    let told = Failure::of_provider(&failure);
    assert_eq!((told.status(Dialect::OpenAi), told.provider), (502, None));
    let problem = WireProblem::new("n", "it must be a number");
    let told = Failure::from(&problem);
    let body: Value = serde_json::from_slice(&failure_body(Dialect::OpenAi, &told)).unwrap();
    assert_eq!((&body["error"]["param"], told.status(Dialect::OpenAi)), (&"n".into(), 400));
}
