//! What is recorded of a store: how many records it has of each kind, and of each run how lists show it and
//! what its log folds to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use steadfast_runtime::{RunView, audit, folded};
use steadfast_store::{Record, RunFilter, Store};

/// What a store holds; the kinds of its events are added. Its runs are whole.
pub(super) async fn record(store: &dyn Store, kinds: &mut BTreeSet<String>) -> Value {
    let mut records = BTreeMap::<&str, u64>::new();
    let mut dump = store.dump().await.expect("dumps");
    loop {
        let page = dump.next().await.expect("reads");
        if page.is_empty() {
            break;
        }
        for record in page {
            *records.entry(record.kind()).or_default() += 1;
            if let Record::Event { kind, .. } = record {
                kinds.insert(kind);
            }
        }
    }
    let page = store.list(RunFilter { limit: 500, ..RunFilter::default() }).await.expect("lists");
    assert!(page.next.is_none(), "kept stores are small");
    let mut runs = Map::new();
    for head in page.runs {
        let flaws = audit(store, &head).await.expect("reads");
        assert!(flaws.is_empty(), "{}: {flaws:?}", head.id);
        let run = folded(store, head.id).await.expect("folds");
        let view = RunView::from_head(&head);
        runs.insert(head.id.to_string(), json!({ "shown": view, "folded": run }));
    }
    json!({ "records": records, "runs": runs })
}

/// The states of the runs in a record.
pub(super) fn states(record: &Value) -> BTreeSet<String> {
    let runs = record["runs"].as_object().into_iter().flatten();
    runs.filter_map(|(_, run)| run["shown"]["state"].as_str().map(str::to_owned)).collect()
}

/// Where something that was recorded is not found as it was. What a later release shows beside it is no
/// difference.
pub(super) fn differences(recorded: &Value, found: &Value) -> Vec<String> {
    let mut all = Vec::new();
    compare(recorded, found, "", &mut all);
    all
}

fn compare(recorded: &Value, found: &Value, place: &str, all: &mut Vec<String>) {
    match (recorded, found) {
        (Value::Object(recorded), Value::Object(found)) => {
            for (key, recorded) in recorded {
                let place = format!("{place}/{key}");
                compare(recorded, found.get(key).unwrap_or(&Value::Null), &place, all);
            }
        }
        (Value::Array(recorded), Value::Array(found)) if recorded.len() == found.len() => {
            for (index, (recorded, found)) in recorded.iter().zip(found).enumerate() {
                compare(recorded, found, &format!("{place}/{index}"), all);
            }
        }
        _ if recorded == found => {}
        _ => all.push(format!("{place} was {recorded} and is {found}")),
    }
}

#[test]
fn what_differs_is_found_and_what_is_new_is_not_a_difference() {
    let recorded = json!({ "a": 1, "b": [1, { "c": 2 }] });
    let found = json!({ "a": 1, "b": [1, { "c": 2, "new": 1 }], "new": 1 });
    assert!(differences(&recorded, &found).is_empty());
    for other in [json!({ "a": 1, "b": [1] }), json!({ "a": 1 }), json!({ "a": 1, "b": [1, {}] })] {
        assert_eq!(differences(&recorded, &other).len(), 1, "{other}");
    }
}
