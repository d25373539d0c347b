use std::path::Path;

use proptest::prelude::*;
use tiktoken_rs::{cl100k_base_singleton, o200k_base_singleton};

use super::*;
use crate::tokens::count_text;

/// The larger of the two counts.
fn exact(text: &str) -> u64 {
    count_text("gpt-4o", text).tokens.max(count_text("gpt-4", text).tokens)
}

/// That the bound holds, and is at most so many hundredths of the count.
fn check(what: &str, text: &str, hundredths: u64) {
    let (exact, bound) = (exact(text), upper_bound(text.as_bytes()));
    assert!(bound >= exact, "{what}: {bound} is below {exact}");
    assert!(bound * 100 <= exact * hundredths + 400, "{what}: {bound} is far above {exact}");
}

/// Files of this repository with an ending.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let files = std::fs::read_dir(&folder).expect("a folder").flatten();
    let paths = files.map(|file| file.path());
    let named = paths.filter(|path| path.extension().is_some_and(|found| found == ending));
    named.map(|path| std::fs::read_to_string(path).expect("text")).collect()
}

#[test]
fn g9_prose_and_code_are_bounded_and_not_by_much_more() {
    let (pages, code) = (files("docs", "md"), files("crates/providers/src", "rs"));
    assert!(pages.len() > 5 && code.len() > 5);
    for text in &pages {
        check("a page", text, 200);
    }
    for text in &code {
        check("code", text, 220);
    }
    let json =
        serde_json::json!({ "messages": [{ "role": "user", "content": pages[0] }] }).to_string();
    check("a body", &json, 220);
    assert!(upper_bound(json.as_bytes()) >= exact(&pages[0]));
}

#[test]
fn g9_other_scripts_are_bounded() {
    let chinese = "生产环境中的智能体需要可靠的运行时：超时控制、重试、熔断、降级和预算。每个会话的令牌预算必须在\
                   调用之前预留，在调用之后结算。";
    let japanese = "お誕生日おめでとうございます。エージェントの実行は耐久性があり、途中で止まっても再開できます。";
    let korean = "에이전트는 예산 안에서 실행되며, 호출 전에 예약하고 호출 후에 정산합니다.";
    let russian = "Агент работает в пределах бюджета: перед вызовом средства резервируются, после него списываются.";
    let arabic = "يعمل الوكيل ضمن الميزانية ويحجز قبل كل مكالمة.";
    let emoji = "🎉🚀👩‍👩‍👧‍👦🏳️‍🌈✅❌ 🇨🇭 ⚠️ done 👍🏽";
    for (what, text, hundredths) in [
        ("Chinese", chinese, 200),
        ("Japanese", japanese, 250),
        ("Korean", korean, 350),
        ("Russian", russian, 500),
        ("Arabic", arabic, 500),
        ("emoji", emoji, 250),
    ] {
        check(what, text, hundredths);
        let json = serde_json::to_string(text).expect("a string");
        assert!(upper_bound(json.as_bytes()) >= exact(text), "{what} as JSON");
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        assert!(upper_bound(escaped.as_bytes()) >= exact(text), "{what}, escaped");
    }
}

#[test]
fn the_tables_are_those_of_both_tokenizers() {
    let is_token = |text: &str| {
        [o200k_base_singleton(), cl100k_base_singleton()]
            .iter()
            .all(|table| table.count_ordinary(text) == 1)
    };
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').collect();
    for first in &letters {
        for second in &letters {
            let (a, b) =
                (u8::try_from(*first).expect("ASCII"), u8::try_from(*second).expect("ASCII"));
            // A pair of a small and a capital letter is cut before it is merged, by one of the two.
            if !(first.is_lowercase() && second.is_uppercase()) {
                let text = format!("{first}{second}");
                assert_eq!(is_pair(a, b), is_token(&text), "{text}");
            }
        }
    }
    assert_eq!(WORDS.len(), 3_000);
    for word in WORDS.iter() {
        let word = std::str::from_utf8(word).expect("text");
        let mut capital = word.to_owned();
        capital[..1].make_ascii_uppercase();
        for form in [word.to_owned(), format!(" {word}"), format!(" {capital}"), capital] {
            assert!(is_token(&form), "{form:?}");
        }
    }
    assert!(CHARACTERS.len() > 700);
    for character in CHARACTERS.iter() {
        assert!(is_token(std::str::from_utf8(character).expect("text")));
    }
}

#[test]
fn any_bytes_have_a_bound() {
    assert_eq!(upper_bound(b""), 1);
    assert_eq!(upper_bound(&[0xFF, 0x80, 0xE4]), 4);
    assert_eq!(upper_bound(b" the"), 2);
    assert_eq!(upper_bound("a".repeat(100_000).as_bytes()), 67_709);
}

/// A piece of text of one kind.
fn piece() -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = include_str!("../words.txt").split_whitespace().collect();
    let word = prop::sample::select(words);
    prop_oneof![
        word.clone().prop_map(str::to_owned),
        (word.clone(), word.clone()).prop_map(|(a, b)| format!("{a} {b}")),
        (word.clone(), word.clone()).prop_map(|(a, b)| {
            let mut b = b.to_owned();
            b[..1].make_ascii_uppercase();
            format!("{a}{b}")
        }),
        (word.clone(), word.clone()).prop_map(|(a, b)| format!("{a}_{b}")),
        word.prop_map(str::to_uppercase),
        "[a-z]{1,20}",
        "[A-Z]{1,20}",
        "[A-Za-z0-9+/]{4,60}={0,2}",
        "[0-9a-f]{2,40}",
        "[0-9]{1,12}",
        "[ \t\r\n]{1,20}",
        " {1,40}",
        "[!-/:-@\\[-`{-~]{1,12}",
        "[\u{4e00}-\u{9fff}\u{3040}-\u{30ff}\u{ac00}-\u{d7a3}]{1,12}",
        "[的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子]{1,20}",
        "[а-яА-Я]{1,12}",
        "[\u{80}-\u{2fff}]{1,6}",
        "[\u{1f300}-\u{1faff}]{1,4}",
        "\\PC{1,8}",
    ]
}

proptest! {
    #[test]
    fn g9_the_bound_is_never_below_the_count(
        pieces in prop::collection::vec((piece(), prop::sample::select(vec!["", " ", "\n", "_", ".", "\""])), 1..30),
    ) {
        let text: String = pieces.iter().flat_map(|(piece, between)| [piece.as_str(), between]).collect();
        let bound = upper_bound(text.as_bytes());
        prop_assert!(bound >= exact(&text), "{bound} < {}: {text:?}", exact(&text));
        let json = serde_json::to_string(&text).expect("a string");
        prop_assert!(upper_bound(json.as_bytes()) >= exact(&text), "as JSON: {text:?}");
        prop_assert!(bound <= text.len() as u64 + 1);
    }
}
