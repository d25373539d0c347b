//! Operations that are done once, across runs, callers and restarts (SCOPE R11).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use steadfast_guard::{Classify, Effect, ErrorClass};
use steadfast_runtime::{
    CancelRun, EntryError, KeyRule, Once, OnceError, Operation, RunEvent, Runtime, RuntimeError,
    SubmitRun,
};
use steadfast_store::{BlobHash, KeyName, MemoryStore, RunId};
use tokio::time::Instant;

use crate::world::{CountingTool, Says, ScriptedModel, start, start_with};

#[derive(Debug, thiserror::Error)]
#[error("it failed as {0:?}")]
struct Failed(ErrorClass);

impl Classify for Failed {
    fn class(&self) -> ErrorClass {
        self.0
    }
}

fn operation(effect: Effect, body: &str) -> Operation {
    Operation {
        name: KeyName { scope: "acme/pay".to_owned(), key: "order-1".to_owned() },
        digest: BlobHash::of(body.as_bytes()),
        effect,
        keep: Duration::from_secs(3600),
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

async fn runtime(store: &Arc<MemoryStore>) -> Runtime {
    start(store, &ScriptedModel::new(vec![]), &[], |_| {}).await
}

/// Does the operation by counting up.
async fn count(
    runtime: &Runtime,
    operation: Operation,
    counter: &AtomicUsize,
) -> Result<Once, OnceError<Failed>> {
    let call = || async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from_static(b"paid"))
    };
    runtime.once(operation, call).await
}

async fn fail(
    runtime: &Runtime,
    operation: Operation,
    class: ErrorClass,
) -> Result<Once, OnceError<Failed>> {
    runtime.once(operation, || async { Err(Failed(class)) }).await
}

#[tokio::test(start_paused = true)]
async fn r11_the_same_key_runs_once_and_is_answered_from_the_record_also_after_a_restart() {
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let first = runtime(&store).await;
    let done = count(&first, operation(Effect::Once, "12"), &counter).await.expect("done");
    assert_eq!((done.answer.as_ref(), done.recorded_at), (b"paid".as_ref(), None));
    let again = count(&first, operation(Effect::Once, "12"), &counter).await.expect("recorded");
    assert!(again.recorded_at.is_some());
    first.abandon();
    let second = runtime(&store).await;
    let again = count(&second, operation(Effect::Once, "12"), &counter).await.expect("recorded");
    assert_eq!(again.answer.as_ref(), b"paid");
    assert_eq!(counter.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn r11_callers_join_while_the_first_is_under_way() {
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let runtime = runtime(&store).await;
    let began = Instant::now();
    let calls = (0..20).map(|_| count(&runtime, operation(Effect::Once, "12"), &counter));
    let answers = futures_util::future::join_all(calls).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("answered")).collect();
    assert_eq!(counter.load(Ordering::SeqCst), 1);
    assert_eq!(answers.iter().filter(|answer| answer.recorded_at.is_none()).count(), 1);
    // told at once, not found by polling
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn r11_who_joins_waits_no_longer_than_its_deadline() {
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let runtime = runtime(&store).await;
    let mut hasty = operation(Effect::Once, "12");
    hasty.deadline = Instant::now() + Duration::from_secs(2);
    let (first, second) = tokio::join!(
        count(&runtime, operation(Effect::Once, "12"), &counter),
        count(&runtime, hasty, &counter)
    );
    first.expect("done");
    let error = second.expect_err("too late");
    assert!(matches!(error, OnceError::Entry(EntryError::InFlight { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn r11_the_same_key_with_another_body_is_a_conflict() {
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let runtime = runtime(&store).await;
    count(&runtime, operation(Effect::Once, "12"), &counter).await.expect("done");
    let error = count(&runtime, operation(Effect::Once, "13"), &counter).await;
    let error = error.expect_err("conflicts");
    assert!(matches!(error, OnceError::Entry(EntryError::Conflict { .. })), "{error}");
    assert!(error.to_string().contains("order-1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn r11_a_failure_is_recorded_only_if_it_is_final() {
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let runtime = runtime(&store).await;
    for class in [ErrorClass::Unavailable, ErrorClass::RateLimited, ErrorClass::Authentication] {
        let error = fail(&runtime, operation(Effect::Once, "12"), class).await;
        assert!(matches!(error, Err(OnceError::Failed(_))), "{error:?}");
    }
    fail(&runtime, operation(Effect::Once, "12"), ErrorClass::InvalidRequest).await.unwrap_err();
    let error = count(&runtime, operation(Effect::Once, "12"), &counter).await;
    let error = error.expect_err("final");
    assert!(
        matches!(&error, OnceError::FailedBefore { class: ErrorClass::InvalidRequest, message }
            if message.contains("InvalidRequest")),
        "{error}"
    );
    assert_eq!(counter.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn r11_a_write_of_unknown_outcome_is_not_done_again_and_an_idempotent_one_is() {
    for (effect, class) in
        [(Effect::Once, ErrorClass::Timeout), (Effect::Idempotent, ErrorClass::OutcomeUnknown)]
    {
        let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
        let runtime = runtime(&store).await;
        fail(&runtime, operation(effect, "12"), class).await.unwrap_err();
        let error = count(&runtime, operation(effect, "12"), &counter).await.unwrap_err();
        let unknown = matches!(error, OnceError::Entry(EntryError::OutcomeUnknown { .. }));
        assert!(unknown, "{effect:?} {class:?}: {error}");
    }
    let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
    let runtime = runtime(&store).await;
    let timed_out = fail(&runtime, operation(Effect::Idempotent, "12"), ErrorClass::Timeout).await;
    timed_out.unwrap_err();
    count(&runtime, operation(Effect::Idempotent, "12"), &counter).await.expect("done again");
}

#[tokio::test(start_paused = true)]
async fn r11_a_caller_that_goes_away_leaves_an_unknown_outcome_or_a_free_key() {
    for (effect, expected) in [(Effect::Once, 0), (Effect::Idempotent, 1)] {
        let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
        let runtime = runtime(&store).await;
        let stuck =
            runtime.once(operation(effect, "12"), std::future::pending::<Result<_, Failed>>);
        assert!(tokio::time::timeout(Duration::from_secs(1), stuck).await.is_err());
        let again = count(&runtime, operation(effect, "12"), &counter).await;
        assert_eq!(again.is_ok(), expected == 1, "{effect:?}: {again:?}");
        assert_eq!(counter.load(Ordering::SeqCst), expected);
        assert!(runtime.shutdown().await.expect("closes"));
    }
}

#[tokio::test(start_paused = true)]
async fn r11_a_process_that_dies_leaves_an_unknown_outcome_or_a_key_to_be_used_again() {
    for (effect, expected) in [(Effect::Once, 0), (Effect::Idempotent, 1)] {
        let (store, counter) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
        let first = runtime(&store).await;
        let stuck = first.once(operation(effect, "12"), std::future::pending::<Result<_, Failed>>);
        let mut stuck = Box::pin(stuck);
        assert!(futures_util::poll!(&mut stuck).is_pending());
        // what a death leaves: the claim, and a node whose lease runs out
        let _dead = std::mem::ManuallyDrop::new(stuck);
        first.abandon();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let second = runtime(&store).await;
        let again = count(&second, operation(effect, "12"), &counter).await;
        assert_eq!(again.is_ok(), expected == 1, "{effect:?}: {again:?}");
        assert_eq!(counter.load(Ordering::SeqCst), expected);
    }
}

fn by_n() -> KeyRule {
    KeyRule { arguments: vec!["n".to_owned()], keep: Duration::from_secs(3600) }
}

fn calls(arguments: &'static str) -> Arc<ScriptedModel> {
    ScriptedModel::new(vec![Says::Calls(vec![("count", arguments)]), Says::Text("done")])
}

async fn run(runtime: &Runtime) -> (RunId, Vec<RunEvent>) {
    let submitted = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted");
    let view = runtime.wait(submitted.run.id).await.expect("ends");
    assert_eq!(view.state, "succeeded", "{view:?}");
    let events = runtime.events(view.id, 0, 99).await.expect("reads");
    (view.id, events.into_iter().map(|event| event.event).collect())
}

fn finish(events: &[RunEvent]) -> &RunEvent {
    events.iter().find(|event| event.kind() == "tool_finished").expect("a tool ended")
}

#[tokio::test(start_paused = true)]
async fn r11_two_runs_that_ask_for_the_same_operation_have_it_done_once() {
    let store = Arc::new(MemoryStore::new());
    let tool = CountingTool::new("count", Effect::Once);
    for (number, kept) in [(0, false), (1, true)] {
        let model = calls(r#"{"n":7}"#);
        let runtime = start_with(
            &store,
            &model,
            &[&tool],
            |_| {},
            |builder| builder.idempotent("count", by_n()),
        )
        .await;
        let (_, events) = run(&runtime).await;
        let RunEvent::ToolFinished { recorded_at, content, .. } = finish(&events) else { panic!() };
        assert_eq!((recorded_at.is_some(), content.as_str()), (kept, "counted"), "run {number}");
        let started = events.iter().any(|event| event.kind() == "tool_started");
        assert_eq!(started, !kept);
        runtime.abandon();
    }
    assert_eq!(tool.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn r11_a_run_waits_for_the_operation_of_another_and_gives_up_when_that_is_cancelled() {
    let store = Arc::new(MemoryStore::new());
    let tool = CountingTool::stuck("count", Effect::Once);
    let model = ScriptedModel::new(vec![
        Says::Calls(vec![("count", r#"{"n":7}"#)]),
        Says::Calls(vec![("count", r#"{"n":7}"#)]),
        Says::Text("done"),
    ]);
    let rule = |builder: steadfast_runtime::CatalogBuilder| builder.idempotent("count", by_n());
    let runtime = start_with(&store, &model, &[&tool], |_| {}, rule).await;
    let first = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    tool.entered.notified().await;
    let second = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    while model.requests.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    runtime
        .cancel(CancelRun { run: first, by: "test".to_owned(), reason: None })
        .await
        .expect("cancels");
    runtime.wait(second).await.expect("ends");
    let events = runtime.events(second, 0, 99).await.expect("reads");
    let events: Vec<_> = events.into_iter().map(|event| event.event).collect();
    let RunEvent::ToolFinished { content, .. } = finish(&events) else { panic!() };
    assert!(
        content.contains("outcome unknown") && content.contains(&first.to_string()),
        "{content}"
    );
    assert_eq!(tool.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn r11_a_submission_with_a_used_key_and_another_input_is_refused() {
    let store = Arc::new(MemoryStore::new());
    let runtime = start(&store, &ScriptedModel::new(vec![Says::Text("ok")]), &[], |_| {}).await;
    let submit = |input: &str| {
        let mut command = SubmitRun::new("worker", input);
        command.key = Some("k".to_owned());
        runtime.submit(command)
    };
    let first = submit("go").await.expect("accepted");
    let again = submit("go").await.expect("the same");
    assert_eq!((again.run.id, again.new), (first.run.id, false));
    let error = submit("stop").await.expect_err("another input");
    assert!(
        matches!(error, RuntimeError::KeyConflict { run, .. } if run == first.run.id),
        "{error}"
    );
}
