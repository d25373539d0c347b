//! What undoes a call and must not be done twice: nobody knows whether it was done, and the run is rolled back
//! once more.

use std::sync::Arc;

use serde_json::json;
use steadfast_guard::Effect;
use steadfast_runtime::{CatalogBuilder, Compensation, RollbackRun, SubmitRun};
use steadfast_store::{MemoryStore, RunId};

use crate::world::{CountingTool, Says, ScriptedModel, start_with};

const fn back(run: RunId) -> RollbackRun {
    RollbackRun { run, to: Some(1), by: String::new(), reason: None, pause: false }
}

/// A run has made a call, is rolled back, and is rolled back again while that call is being undone. How often
/// that was done, and how many changes the second rollback left.
async fn rolled_back_amid(effect: Effect) -> (usize, usize) {
    let store = Arc::new(MemoryStore::new());
    let call = Says::Calls(vec![("count", r#"{"n":1}"#), ("held", r#"{"n":1}"#)]);
    let model = ScriptedModel::new(vec![call, Says::Text("again")]);
    let tool = CountingTool::new("count", Effect::Once);
    let held = CountingTool::stuck("held", Effect::Read);
    let undo = CountingTool::stuck("uncount", effect);
    let arguments = json!({ "n": "{n}" }).as_object().cloned().expect("an object");
    let rule = Compensation { tool: "uncount".to_owned(), arguments };
    let extend = |builder: CatalogBuilder| builder.compensate("count", rule);
    let runtime = start_with(&store, &model, &[&tool, &held, &undo], |_| {}, extend).await;
    let run = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    held.entered.notified().await;
    let told = runtime.rollback(back(run)).await.expect("rolls back");
    assert_eq!(told.undo.len(), 1);
    undo.entered.notified().await;
    let told = runtime.rollback(back(run)).await.expect("rolls back again");
    if effect != Effect::Once {
        undo.entered.notified().await;
    } else {
        assert_eq!(runtime.wait(run).await.expect("ends").state, "succeeded");
    }
    let keys = undo.keys.lock().clone();
    assert!(keys.iter().all(|key| *key == keys[0]), "one key: {keys:?}");
    assert!(told.left.iter().all(|left| left.unknown), "{told:?}");
    (undo.count(), told.left.len())
}

#[tokio::test(start_paused = true)]
async fn c11_what_may_have_been_undone_is_undone_again_by_the_next_rollback_unless_that_is_done_once()
 {
    assert_eq!(rolled_back_amid(Effect::Once).await, (1, 1));
    assert_eq!(rolled_back_amid(Effect::Idempotent).await, (2, 0));
}
