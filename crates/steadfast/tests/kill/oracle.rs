//! Whether everything that must hold holds, from what was acknowledged, what the logs say in the end, and
//! what the world outside has seen. Pure, so that it can be shown to see what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::load::{IDEMPOTENT, ONCE};
use crate::record::{Acknowledged, Log};
use crate::tools::Execution;

/// A model call that the provider was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) key: String,
    /// Where it stands in the provider's journal, in bytes.
    pub(crate) at: u64,
}

/// All there is to judge by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) acknowledged: Acknowledged,
    /// The state of each run, by its index card.
    pub(crate) states: BTreeMap<String, String>,
    /// The events of each run, as the store gives them.
    pub(crate) logs: BTreeMap<String, Vec<Value>>,
    pub(crate) executions: Vec<Execution>,
    pub(crate) asks: Vec<Ask>,
    /// How many calls of nodes that were stopped as they stood may have gone on when they woke: what has
    /// left a process cannot be called back by any store.
    pub(crate) under_way_in_sleep: usize,
}

/// Everything that is not as it must be; empty if all is well.
pub(crate) fn faults(evidence: &Evidence) -> Vec<String> {
    let mut found = evidence.acknowledged.contradictions.clone();
    lost(evidence, &mut found);
    unfinished(evidence, &mut found);
    for (run, log) in &evidence.logs {
        out_of_order(run, log, &mut found);
        taken_over(evidence, run, log, &mut found);
        left_undone(evidence, run, log, &mut found);
    }
    repeated(evidence, &mut found);
    unwritten(evidence, &mut found);
    invented(evidence, &mut found);
    paid_twice(evidence, &mut found);
    found
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

/// What was acknowledged and is not there, or is something else.
fn lost(evidence: &Evidence, found: &mut Vec<String>) {
    let Acknowledged { runs, shown, commands, .. } = &evidence.acknowledged;
    for (key, run) in runs {
        if !evidence.logs.contains_key(run) {
            found.push(format!("run {run}, submitted with key {key}, is lost"));
        }
    }
    for (run, events) in shown {
        let log: Log = by_number(evidence.logs.get(run).map_or(&[][..], Vec::as_slice));
        for (seq, event) in events {
            match log.get(seq) {
                None => found.push(format!("event {seq} of {run} was shown and is lost: {event}")),
                Some(now) if now != event => {
                    found.push(format!("event {seq} of {run} was {event} and is {now}"));
                }
                Some(_) => {}
            }
        }
    }
    let mut wanted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (run, kind) in commands {
        *wanted.entry((run, kind)).or_default() += 1;
    }
    for ((run, kind), wanted) in wanted {
        let log = evidence.logs.get(run).map_or(&[][..], Vec::as_slice);
        let is = |event: &&Value, kind| text(event, "type") == kind;
        let there = log.iter().filter(|event| is(event, kind)).count();
        // What was said to a run reaches it unless it was over before.
        if kind == "call_judged" && log.iter().any(|event| is(&event, "cancelled")) {
            continue;
        }
        if there < wanted {
            found.push(format!("{wanted} x {kind} was confirmed for {run}; {there} are there"));
        }
    }
}

fn by_number(log: &[Value]) -> Log {
    log.iter().map(|event| (event["seq"].as_u64().unwrap_or_default(), event.clone())).collect()
}

/// Runs that neither ended nor wait.
fn unfinished(evidence: &Evidence, found: &mut Vec<String>) {
    for run in evidence.logs.keys() {
        let state = evidence.states.get(run).map_or("", String::as_str);
        if !["succeeded", "failed", "cancelled", "waiting"].contains(&state) {
            found.push(format!("run {run} is left `{state}`"));
        }
    }
}

/// Holes, and owners that wrote after they had lost the run: an epoch is claimed once, and only upwards.
fn out_of_order(run: &str, log: &[Value], found: &mut Vec<String>) {
    let seqs: Vec<u64> = log.iter().filter_map(|event| event["seq"].as_u64()).collect();
    if seqs != (1..=log.len() as u64).collect::<Vec<_>>() {
        found.push(format!("the log of {run} has holes: {seqs:?}"));
    }
    // What a fork has taken over from another run was claimed in that one's epochs.
    let own = log.iter().rposition(|event| text(event, "type") == "forked").unwrap_or_default();
    let claims = log[own..].iter().filter(|event| text(event, "type") == "claimed");
    let epochs: Vec<u64> = claims.filter_map(|event| event["epoch"].as_u64()).collect();
    if !epochs.is_sorted_by(|before, after| before < after) {
        found.push(format!("run {run} was claimed in epochs {epochs:?}"));
    }
}

/// A fork whose beginning is not that of the run that it was made from.
fn taken_over(evidence: &Evidence, run: &str, log: &[Value], found: &mut Vec<String>) {
    let Some(forked) = log.iter().rev().find(|event| text(event, "type") == "forked") else {
        return;
    };
    let (from, last) = (text(forked, "from"), forked["last"].as_u64().unwrap_or_default());
    let theirs = evidence.logs.get(from).map_or(&[][..], Vec::as_slice);
    let end = usize::try_from(last).unwrap_or(usize::MAX);
    if forked["seq"] != last + 1 || theirs.len() < end {
        return found
            .push(format!("run {run} forked from {from} where that had not been: {forked}"));
    }
    let without_time = |event: &Value| {
        let mut event = event.clone();
        event["at"] = Value::Null;
        event
    };
    for (mine, theirs) in log.iter().zip(&theirs[..end]) {
        if without_time(mine) != without_time(theirs) {
            found.push(format!("run {run} has {mine} of run {from}, where that is {theirs}"));
        }
    }
}

/// What a rollback was to undo, and the run came to its end without.
fn left_undone(evidence: &Evidence, run: &str, log: &[Value], found: &mut Vec<String>) {
    let Some(last) = log.iter().rev().find(|event| text(event, "type") == "rolled_back") else {
        return;
    };
    if evidence.states.get(run).is_none_or(|state| state != "succeeded") {
        return;
    }
    for (place, undo) in last["undo"].as_array().into_iter().flatten().enumerate() {
        let call = format!("undo {}-{place}", last["seq"]);
        let ended = log.iter().any(|event| {
            let outcome = text(event, "outcome");
            text(event, "type") == "tool_finished"
                && text(event, "call_id") == call
                && (outcome == "done" || outcome == "outcome_unknown")
        });
        if !ended {
            found.push(format!("run {run} went back and did not undo {undo}"));
        }
    }
}

/// What was carried out twice. What an execution was about says so without the runtime's keys.
fn repeated(evidence: &Evidence, found: &mut Vec<String>) {
    let mut done: BTreeMap<(&str, &str), Vec<&Execution>> = BTreeMap::new();
    for execution in &evidence.executions {
        done.entry((&execution.tool, &execution.what)).or_default().push(execution);
    }
    for ((tool, what), executions) in done {
        let numbers: Vec<usize> = executions.iter().map(|execution| execution.number).collect();
        if ONCE.contains(&tool) && numbers.len() > 1 {
            found.push(format!("`{tool}` of {what} was executed as {numbers:?}"));
        }
        let applied = executions.iter().filter(|execution| !execution.repeated).count();
        if IDEMPOTENT.contains(&tool) && applied != 1 {
            found.push(format!("`{tool}` of {what} was applied {applied} times: {executions:?}"));
        }
    }
}

/// Executions of what changes something that no log had announced.
fn unwritten(evidence: &Evidence, found: &mut Vec<String>) {
    let mut announced: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (run, log) in &evidence.logs {
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        for event in log {
            match text(event, "type") {
                "tool_started" => {}
                // What is done from here on has other keys, and may have the same ids.
                "rolled_back" => {
                    keys.clear();
                    continue;
                }
                _ => continue,
            }
            let (call, key) = (text(event, "call_id"), text(event, "key"));
            announced.insert((text(event, "tool"), key));
            if let Some(before) = keys.insert(call, key).filter(|before| *before != key) {
                found.push(format!("call {call} of {run} had key {before}, then {key}"));
            }
        }
    }
    for execution in &evidence.executions {
        let Execution { number, tool, key, .. } = execution;
        let changes = ONCE.contains(&&**tool) || IDEMPOTENT.contains(&&**tool);
        if changes && !announced.contains(&(tool, key)) {
            found.push(format!("execution {number} of `{tool}` with key {key} is in no log"));
        }
    }
}

/// Results that nobody brought about.
fn invented(evidence: &Evidence, found: &mut Vec<String>) {
    for (run, log) in &evidence.logs {
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        for event in log {
            let (call, tool) = (text(event, "call_id"), text(event, "tool"));
            match text(event, "type") {
                "tool_started" => drop(keys.insert(call, text(event, "key"))),
                "rolled_back" => keys.clear(),
                _ => {}
            }
            let done = text(event, "type") == "tool_finished" && text(event, "outcome") == "done";
            if !done || tool == "report_progress" {
                continue;
            }
            let said: Value = serde_json::from_str(text(event, "content")).unwrap_or_default();
            let number = said["number"].as_u64();
            let execution = evidence
                .executions
                .iter()
                .find(|execution| Some(execution.number as u64) == number);
            let key = keys.get(call).copied();
            let fits = execution.is_some_and(|execution| {
                // A read is not written ahead, and a recorded result is another call's.
                let same_key = key.is_none_or(|key| key == execution.key);
                execution.tool == tool && same_key
            });
            if !fits {
                found.push(format!("`{tool}` in {run} is done and was never executed: {event}"));
            }
        }
    }
}

/// Answers that had been shown and were asked for again.
fn paid_twice(evidence: &Evidence, found: &mut Vec<String>) {
    let again = evidence.asks.iter().filter(|ask| {
        let answered = evidence.acknowledged.answered.get(&ask.key);
        answered.is_some_and(|answered| ask.at >= *answered)
    });
    let again: Vec<&str> = again.map(|ask| &*ask.key).collect();
    if again.len() > evidence.under_way_in_sleep {
        found.push(format!("model calls {again:?} were answered and asked for again"));
    }
}

#[cfg(test)]
mod tests;
