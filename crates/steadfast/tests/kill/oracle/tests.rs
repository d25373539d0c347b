//! The oracle sees each thing that can go wrong: evidence that is in order, disturbed in one place.

use serde_json::json;

use super::*;

/// One run that looked, paid and put, with a kill in the middle of putting.
fn in_order() -> Evidence {
    let done = |call: &str, tool: &str, number: u64| {
        let content = json!({ "number": number, "tool": tool }).to_string();
        json!({ "type": "tool_finished", "call_id": call, "tool": tool, "outcome": "done",
                "content": content })
    };
    let started = |call: &str, tool: &str, key: &str| json!({ "type": "tool_started", "call_id": call, "tool": tool, "key": key });
    let claimed = |epoch: u64| json!({ "type": "claimed", "epoch": epoch });
    let mut log = vec![
        json!({ "type": "submitted" }),
        claimed(1),
        json!({ "type": "model_answered", "key": "run-model-1" }),
        done("c1", "look", 1),
        started("c2", "pay", "run-3-1"),
        done("c2", "pay", 2),
        started("c3", "put", "run-3-2"),
        claimed(2),
        done("c3", "put", 4),
        json!({ "type": "resumed" }),
        json!({ "type": "succeeded" }),
    ];
    for (event, seq) in log.iter_mut().zip(1..) {
        event["seq"] = json!(seq);
    }
    let execution = |number, tool: &str, key: &str, what: &str, repeated| {
        let (tool, key, what) = (tool.to_owned(), key.to_owned(), what.to_owned());
        Execution { number, tool, key, what, repeated }
    };
    let run = "run".to_owned();
    let mut evidence = Evidence {
        states: [(run.clone(), "succeeded".to_owned())].into(),
        executions: vec![
            execution(1, "look", "run-3-0", "ticket", false),
            execution(2, "pay", "run-3-1", "a-1", false),
            execution(3, "put", "run-3-2", "a-1", false),
            execution(4, "put", "run-3-2", "a-1", true),
        ],
        asks: vec![Ask { key: "run-model-1".to_owned(), at: 0 }],
        ..Evidence::default()
    };
    let acknowledged = &mut evidence.acknowledged;
    acknowledged.runs.insert("wish-1".to_owned(), run.clone());
    acknowledged.shown.insert(run.clone(), by_number(&log));
    acknowledged.commands.push((run.clone(), "resumed"));
    acknowledged.answered.insert("run-model-1".to_owned(), 100);
    evidence.logs.insert(run, log);
    evidence
}

/// What the oracle says once one thing is disturbed.
fn disturbed(change: impl FnOnce(&mut Evidence)) -> String {
    let mut evidence = in_order();
    assert_eq!(faults(&evidence), Vec::<String>::new(), "in order before");
    change(&mut evidence);
    faults(&evidence).join("\n")
}

fn log(evidence: &mut Evidence) -> &mut Vec<Value> {
    evidence.logs.get_mut("run").expect("there")
}

#[test]
fn the_oracle_sees_what_was_acknowledged_and_is_lost() {
    let said = disturbed(|all| {
        log(all).pop();
    });
    assert!(said.contains("event 11 of run was shown and is lost"), "{said}");
    let said = disturbed(|all| log(all)[5]["outcome"] = json!("failed"));
    assert!(said.contains("event 6 of run was"), "{said}");
    let said = disturbed(|all| all.logs.clear());
    assert!(said.contains("submitted with key wish-1, is lost"), "{said}");
    let said = disturbed(|all| all.acknowledged.commands.push(("run".to_owned(), "resumed")));
    assert!(said.contains("2 x resumed was confirmed for run; 1 are there"), "{said}");
}

#[test]
fn the_oracle_sees_holes_and_writers_that_had_lost_the_run() {
    let said = disturbed(|all| {
        log(all).remove(4);
    });
    assert!(said.contains("has holes"), "{said}");
    for late in [1, 2] {
        let said = disturbed(|all| {
            let again = json!({ "type": "claimed", "epoch": late, "seq": 12 });
            log(all).push(again);
        });
        assert!(said.contains("was claimed in epochs"), "{said}");
    }
}

#[test]
fn the_oracle_sees_what_was_done_twice() {
    let said = disturbed(|all| {
        let again = Execution { number: 5, ..all.executions[1].clone() };
        all.executions.push(again);
    });
    assert!(said.contains("`pay` of a-1 was executed as [2, 5]"), "{said}");
    let said = disturbed(|all| {
        // With another key the world outside cannot know that it is the same.
        all.executions[3].repeated = false;
        all.executions[3].key = "run-8-0".to_owned();
    });
    assert!(said.contains("`put` of a-1 was applied 2 times"), "{said}");
    assert!(said.contains("execution 4 of `put` with key run-8-0 is in no log"), "{said}");
}

#[test]
fn the_oracle_sees_what_was_not_written_ahead() {
    let said = disturbed(|all| all.executions[1].key = "other".to_owned());
    assert!(said.contains("execution 2 of `pay` with key other is in no log"), "{said}");
    let said = disturbed(|all| {
        let again = json!({ "type": "tool_started", "call_id": "c3", "tool": "put", "key": "k",
                            "seq": 12 });
        log(all).push(again);
    });
    assert!(said.contains("call c3 of run had key run-3-2, then k"), "{said}");
}

#[test]
fn the_oracle_sees_results_that_nobody_brought_about() {
    let said = disturbed(|all| {
        all.executions.remove(0);
    });
    assert!(said.contains("`look` in run is done and was never executed"), "{said}");
    let said = disturbed(|all| {
        all.executions.remove(1);
    });
    assert!(said.contains("`pay` in run is done and was never executed"), "{said}");
}

#[test]
fn the_oracle_sees_runs_that_are_left_and_answers_that_are_paid_twice() {
    for state in ["queued", "running", ""] {
        let said = disturbed(|all| {
            all.states.insert("run".to_owned(), state.to_owned());
        });
        assert!(said.contains(&format!("run run is left `{state}`")), "{said}");
    }
    let said = disturbed(|all| {
        let again = Ask { key: "run-model-1".to_owned(), at: 100 };
        all.asks.push(again);
    });
    assert!(said.contains("[\"run-model-1\"] were answered and asked for again"), "{said}");
}

/// The same, and a run that was forked from it, rolled back, and has undone what it did.
fn with_a_fork(change: impl FnOnce(&mut Evidence)) -> String {
    disturbed(|all| {
        let mut fork = log(all)[..2].to_vec();
        let undo = json!([{ "call_id": "c2", "tool": "pay", "with": "unpay", "key": "k-undo" }]);
        fork.extend([
            json!({ "type": "forked", "from": "run", "last": 2 }),
            json!({ "type": "claimed", "epoch": 1 }),
            json!({ "type": "tool_started", "call_id": "c2", "tool": "pay", "key": "k" }),
            json!({ "type": "rolled_back", "to": 3, "undo": undo }),
            json!({ "type": "claimed", "epoch": 3 }),
            json!({ "type": "tool_started", "call_id": "undo 6-0", "tool": "unpay", "key": "k-undo" }),
            json!({ "type": "tool_finished", "call_id": "undo 6-0", "tool": "unpay",
                    "outcome": "done", "content": "{\"number\":5,\"tool\":\"unpay\"}" }),
            json!({ "type": "tool_started", "call_id": "c2", "tool": "pay", "key": "other" }),
            json!({ "type": "succeeded" }),
        ]);
        for (event, seq) in fork.iter_mut().zip(1..) {
            event["seq"] = json!(seq);
            event["at"] = json!(1_000 + seq);
        }
        let (tool, key, what) = ("unpay".to_owned(), "k-undo".to_owned(), "b-1".to_owned());
        all.executions.push(Execution { number: 5, tool, key, what, repeated: false });
        all.logs.insert("fork".to_owned(), fork);
        all.states.insert("fork".to_owned(), "succeeded".to_owned());
        assert_eq!(faults(all), Vec::<String>::new(), "in order with the fork, too");
        change(all);
    })
}

#[test]
fn the_oracle_sees_forks_that_differ_from_their_origin_and_what_was_left_undone() {
    let fork = |all: &mut Evidence| all.logs.remove("fork").expect("there");
    let said = with_a_fork(|all| {
        let mut fork = fork(all);
        fork[1]["epoch"] = json!(7);
        all.logs.insert("fork".to_owned(), fork);
    });
    assert!(said.contains("run fork has"), "{said}");
    let said = with_a_fork(|all| {
        let mut fork = fork(all);
        fork[2]["last"] = json!(1);
        all.logs.insert("fork".to_owned(), fork);
    });
    assert!(said.contains("run fork forked from run where that had not been"), "{said}");
    let said = with_a_fork(|all| {
        let mut fork = fork(all);
        fork[8]["outcome"] = json!("unavailable");
        all.logs.insert("fork".to_owned(), fork);
    });
    assert!(said.contains("run fork went back and did not undo"), "{said}");
    let said = with_a_fork(|all| {
        let mut fork = fork(all);
        fork[6]["epoch"] = json!(1);
        all.logs.insert("fork".to_owned(), fork);
    });
    assert!(said.contains("run fork was claimed in epochs [1, 1]"), "{said}");
}

#[test]
fn the_oracle_sees_what_a_person_said_and_a_run_never_heard() {
    let heard = json!({ "type": "call_judged", "seq": 10 });
    let said = disturbed(|all| all.acknowledged.commands.push(("run".to_owned(), "call_judged")));
    assert!(said.contains("1 x call_judged was confirmed for run; 0 are there"), "{said}");
    let said = disturbed(|all| {
        all.acknowledged.commands.push(("run".to_owned(), "call_judged"));
        log(all)[9] = heard;
        all.acknowledged.commands.retain(|(_, kind)| *kind != "resumed");
        all.acknowledged.shown.clear();
    });
    assert_eq!(said, "", "it was heard");
}
