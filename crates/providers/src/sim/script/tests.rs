use serde_json::json;

use super::*;

const GROUPED: &str = r#"
name = "release"
[[entry]]
when = "(?i)again"
goto = "apply-1"

[[step]]
name = "plan"
text = "Looking."
calls = [{ tool = "list", arguments = {} }, { tool = "read", arguments = { path = "a" } }]
next = [{ when = "nothing", goto = "end" }]

[[step]]
each = "changes"
[[step.steps]]
name = "check-{{index}}"
calls = [{ tool = "check", arguments = { file = "{{item.file}}", number = "{{index}}" } }]
next = [{ when = "^skip {{item.file}}$", goto = "@next-item" }, { when = "stop", goto = "@after" }]
[[step.steps]]
name = "apply-{{index}}"
text = "{{index}} of {{total}}: {{result.check-{{index}}#/how}}"
calls = [{ tool = "apply", arguments = { level = "{{result.check-{{index}}#/level}}" } }]

[[step]]
name = "end"
text = "Done."
usage = { input = 100, cached_input = 40, output = 5 }

[data]
changes = [{ file = "a+b" }, { file = "c" }]
"#;

/// A conversation in which each of these answers came with these results.
fn conversation(answers: &[(&str, &[&str])]) -> Conversation {
    let mut conversation = Conversation::default();
    conversation.user("go".to_owned());
    for (number, (step, results)) in answers.iter().enumerate() {
        let call = |index| SimCall::new(step, index, number as u64 + 1).id;
        let ids: Vec<String> = (0..results.len()).map(call).collect();
        conversation.assistant(ids.iter().map(String::as_str));
        for (id, result) in ids.iter().zip(*results) {
            conversation.result(id, (*result).to_owned());
        }
    }
    conversation
}

fn chosen(answers: &[(&str, &[&str])]) -> String {
    let script = Script::parse(GROUPED).unwrap();
    script.choose(&conversation(answers)).map_or_else(|r| r.message, |step| step.name.clone())
}

#[test]
fn the_last_answers_results_choose_the_step() {
    assert_eq!(chosen(&[]), "plan");
    assert_eq!(chosen(&[("plan", &["a", "b"])]), "check-1");
    assert_eq!(chosen(&[("plan", &["a", "nothing"])]), "end");
    assert_eq!(chosen(&[("check-1", &["ok"])]), "apply-1");
    assert_eq!(chosen(&[("check-1", &["skip a+b"])]), "check-2");
    assert_eq!(chosen(&[("check-1", &["skip aab"])]), "apply-1");
    assert_eq!(chosen(&[("check-2", &["skip c"])]), "end");
    assert_eq!(chosen(&[("check-1", &["stop"])]), "end");
    assert_eq!(chosen(&[("apply-1", &[""])]), "check-2");
    assert_eq!(chosen(&[("apply-2", &[""])]), "end");
    assert!(chosen(&[("gone", &["x"])]).contains("`gone`"));
}

#[test]
fn what_the_user_says_after_a_finished_turn_chooses_the_entry() {
    let script = Script::parse(GROUPED).unwrap();
    let mut after = conversation(&[("plan", &["a", "b"])]);
    after.assistant(std::iter::empty());
    assert_eq!(script.choose(&after).unwrap().name, "plan");
    after.user("once AGAIN".to_owned());
    assert_eq!(script.choose(&after).unwrap().name, "apply-1");
}

#[test]
fn a_call_without_a_result_is_the_clients_mistake() {
    let script = Script::parse(GROUPED).unwrap();
    let mut open = Conversation::default();
    open.assistant(["sim-check-1-0-1"].into_iter());
    let refusal = script.choose(&open).unwrap_err();
    assert_eq!(refusal.status, 400);
    assert!(refusal.message.contains("sim-check-1-0-1"), "{}", refusal.message);
}

#[test]
fn answers_take_values_from_earlier_results() {
    let script = Script::parse(GROUPED).unwrap();
    let told = conversation(&[("check-1", &[r#"exit 0: {"how": "fast", "level": 3}"#])]);
    let reply = script.choose(&told).unwrap().reply(&told, 401).unwrap();
    assert_eq!(reply.text.as_deref(), Some("1 of 2: fast"));
    let call = &reply.calls[0];
    assert_eq!((call.id.as_str(), call.tool.as_str()), ("sim-apply-1-0-2", "apply"));
    assert_eq!(call.arguments, json!({"level": 3}));
    assert_eq!(reply.usage, ReplyUsage { input: 101, cached_input: 0, output: 7 });
    let untold = conversation(&[("check-1", &["no json"])]);
    let refusal = script.choose(&untold).unwrap().reply(&untold, 1).unwrap_err();
    assert_eq!(refusal.status, 500);
    for part in ["`apply-1`", "{{result.check-1#/how}}"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    let end = script.choose(&conversation(&[("check-1", &["stop"])])).unwrap();
    let usage = end.reply(&Conversation::default(), 1).unwrap().usage;
    assert_eq!(usage, ReplyUsage { input: 100, cached_input: 40, output: 5 });
}

#[test]
fn a_wrong_script_is_refused_by_the_name_of_its_key() {
    let check = |steps: &str, says: &str| {
        let error = Script::parse(&format!("name = \"s\"\n{steps}")).unwrap_err();
        let text = match &error {
            ScriptError::Format(source) => source.to_string(),
            other => other.to_string(),
        };
        assert!(text.contains(says), "{steps}: {text}");
    };
    let end = "[[step]]\nname = \"end\"\ntext = \"x\"\n";
    let with = |keys: &str| format!("[[step]]\nname = \"a\"\n{keys}\n{end}");
    let calls = "calls = [{ tool = \"t\" }]\n";
    check("", "`step`");
    check("step = []", "`step`");
    check(&with("text = \"x\"\ncolour = 1"), "`colour`");
    check(&with(""), "`text`");
    check(&with("text = \"x\"\nnext = [{ when = \"x\", goto = \"end\" }]"), "`next`");
    check(&with(&format!("{calls}next = [{{ when = \"x\", goto = \"gone\" }}]")), "`gone`");
    check(&with(&format!("{calls}next = [{{ when = \"x\", goto = \"@after\" }}]")), "`@after`");
    check(&with(&format!("{calls}next = [{{ when = \"(\", goto = \"end\" }}]")), "`next[0].when`");
    check(&with("text = \"{{item.x}}\""), "{{item.x}}");
    check(&with("text = \"{{result.gone}}\""), "`gone`");
    check(&with("calls = [{ tool = \"no spaces\" }]"), "`calls[0].tool`");
    check(
        &with("text = \"x\"\nusage = { input = 1, cached_input = 2, output = 1 }"),
        "cached_input",
    );
    check(&with("text = \"x\"\neach = \"y\""), "`each`");
    check(&format!("{end}{end}"), "`end`");
    check(&format!("{end}[[step]]\nname = \"a b\"\ntext = \"x\"\n"), "`a b`");
    check(&format!("[[step]]\nname = \"a\"\n{calls}"), "last step");
    check(&format!("{end}[[fault]]\nstep = \"gone\"\nkind = \"malformed_json\"\n"), "`gone`");
    check(&format!("{end}[[fault]]\nrequest = 1\nkind = \"status\"\n"), "`code`");
    check(&format!("{end}[[entry]]\nwhen = \"x\"\ngoto = \"gone\"\n"), "`entry[0].goto`");
    let group = "[[step]]\neach = \"list\"\n[[step.steps]]\nname = \"g\"\ntext = \"{{item.x}}\"\n";
    check(&format!("{group}{end}"), "`data`");
    check(&format!("{group}{end}[data]\nlist = [{{ y = 1 }}]"), "`x`");
    check(&format!("{group}{end}[data]\nlist = [{{ x = 1 }}, {{ x = 2 }}]"), "`g`");
}

#[test]
fn the_documented_example_is_a_script() {
    let documentation = include_str!("../mod.rs");
    let lines = documentation.lines().skip_while(|line| *line != "//! ```toml").skip(1);
    let example: String = lines
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .collect();
    let script = Script::parse(&example).unwrap();
    let names: Vec<&str> = script.step_names().collect();
    assert_eq!(names, ["plan", "check-1", "apply-1", "check-2", "apply-2", "end"]);
    assert_eq!(script.faults().len(), 1);
}
