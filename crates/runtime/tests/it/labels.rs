//! Sessions and tags: what runs are found by.

use std::sync::Arc;

use steadfast_runtime::{RunEvent, RuntimeError, SubmitRun};
use steadfast_store::{MemoryStore, RunFilter};

use crate::world::{Says, ScriptedModel, start};

fn order(key: &str, session: &str, tags: &[&str]) -> SubmitRun {
    let mut order = SubmitRun::new("worker", "look into the late invoice");
    order.key = Some(key.to_owned());
    order.session = Some(session.to_owned());
    order.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    order
}

#[tokio::test(start_paused = true)]
async fn a_run_is_found_by_its_session_tags_and_words_and_its_log_has_them() {
    let model = ScriptedModel::new(vec![Says::Text("done"), Says::Text("done")]);
    let runtime = start(&Arc::new(MemoryStore::new()), &model, &[], |_| {}).await;
    let tagged = order("a", "ticket-7", &["urgent", "billing", "urgent"]);
    let run = runtime.submit(tagged).await.expect("accepted").run;
    assert_eq!(run.session.as_deref(), Some("ticket-7"));
    assert_eq!(run.tags, ["billing", "urgent"], "sorted, each once");
    runtime.submit(order("b", "ticket-8", &[])).await.expect("accepted");
    let first = runtime.events(run.id, 0, 1).await.expect("reads").remove(0).event;
    let RunEvent::Submitted { session, tags, .. } = first else { panic!("begins so") };
    assert_eq!((session.as_deref(), tags.len()), (Some("ticket-7"), 2));
    let found = async |filter: RunFilter| {
        let list = runtime.list(filter).await.expect("lists");
        list.runs.into_iter().map(|found| found.id).collect::<Vec<_>>()
    };
    let session = Some("ticket-7".to_owned());
    assert_eq!(found(RunFilter { session, ..RunFilter::default() }).await, [run.id]);
    let tag = Some("billing".to_owned());
    assert_eq!(found(RunFilter { tag, ..RunFilter::default() }).await, [run.id]);
    let text = vec!["INVOICE".to_owned(), "late".to_owned()];
    assert_eq!(found(RunFilter { text, ..RunFilter::default() }).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_key_with_other_labels_is_refused_and_the_order_of_tags_does_not_count() {
    let model = ScriptedModel::new(vec![Says::Text("done")]);
    let runtime = start(&Arc::new(MemoryStore::new()), &model, &[], |_| {}).await;
    let first = runtime.submit(order("k", "s", &["x", "y"])).await.expect("accepted");
    let again = runtime.submit(order("k", "s", &["y", "x"])).await.expect("the same");
    assert_eq!((again.new, again.run.id), (false, first.run.id));
    for other in [order("k", "t", &["x", "y"]), order("k", "s", &["x"])] {
        let refused = runtime.submit(other).await.expect_err("another run");
        assert!(matches!(refused, RuntimeError::KeyConflict { .. }), "{refused}");
    }
}

#[test]
fn labels_with_a_zero_byte_are_refused_whatever_the_store_is() {
    let zero = || "a\0b".to_owned();
    for (what, wrong) in [
        ("tenant", SubmitRun { tenant: zero(), ..SubmitRun::new("a", "b") }),
        ("key", SubmitRun { key: Some(zero()), ..SubmitRun::new("a", "b") }),
        ("session", SubmitRun { session: Some(zero()), ..SubmitRun::new("a", "b") }),
    ] {
        let refused = wrong.check().expect_err("refused").to_string();
        assert!(refused.contains(what) && refused.contains("none of them zero"), "{refused}");
    }
}

#[test]
fn tags_that_could_not_be_searched_for_are_refused() {
    let check = |tags: Vec<String>| SubmitRun { tags, ..SubmitRun::new("a", "b") }.check();
    check(vec!["t".repeat(128); 64]).expect("as much as is allowed");
    for (wrong, word) in [
        (vec!["t".to_owned(); 65], "65 tags"),
        (vec![String::new()], "1 to 128 bytes"),
        (vec!["t".repeat(129)], "1 to 128 bytes"),
        (vec!["two\nlines".to_owned()], "two\\nlines"),
    ] {
        let refused = check(wrong).expect_err("refused").to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let session = Some("s".repeat(257));
    let refused = SubmitRun { session, ..SubmitRun::new("a", "b") }.check().expect_err("refused");
    assert!(refused.to_string().contains("`session`"), "{refused}");
}
