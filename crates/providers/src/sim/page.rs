//! `docs/sim.md` tells the keys that scripts have, and no others.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use super::Script;
use super::fault::Fault;
use super::source::{BranchTable, CallTable, ScriptTable, StepTable, UsageTable};

const PAGE: &str = include_str!("../../../../docs/sim.md");

/// The words that an error says were expected instead.
fn expected<T: DeserializeOwned>(text: &str) -> Vec<String> {
    let Err(error) = toml::from_str::<T>(text) else { panic!("`{text}` was taken") };
    let error = error.message().to_owned();
    let (_, words) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    words.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What the rows of the table under a heading line name first.
fn told(heading: &str) -> BTreeSet<String> {
    let table = PAGE.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_page_names_every_key_of_a_script_and_no_other() {
    let tables = [
        ("", expected::<ScriptTable>("no_key = 1")),
        ("entry.", expected::<BranchTable>("no_key = 1")),
        ("step.", expected::<StepTable>("no_key = 1")),
        ("step.calls.", expected::<CallTable>("no_key = 1")),
        ("step.usage.", expected::<UsageTable>("no_key = 1")),
        ("step.next.", expected::<BranchTable>("no_key = 1")),
        ("fault.", expected::<Fault>("no_key = 1")),
    ];
    let keys = tables.iter().flat_map(|(table, keys)| {
        assert!(keys.len() > 1, "{table}: {keys:?}");
        keys.iter().map(move |key| format!("{table}{key}"))
    });
    assert_eq!(told("| key |"), keys.collect());
}

#[test]
fn the_page_names_every_kind_of_fault_and_no_other() {
    let kinds = expected::<Fault>("kind = 'no_kind'");
    assert!(kinds.len() > 1, "{kinds:?}");
    assert_eq!(told("| kind |"), kinds.into_iter().collect());
}

#[test]
fn the_example_of_the_page_is_a_script() {
    let example = PAGE.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let script = Script::parse(example).unwrap();
    let steps: Vec<_> = script.step_names().collect();
    assert_eq!(steps, ["plan", "check-1", "apply-1", "check-2", "apply-2", "end"]);
    assert_eq!(script.faults().len(), 1);
}
