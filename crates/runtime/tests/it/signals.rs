//! Code that waits for what is said to it (SCOPE C5, C6).

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steadfast_guard::ErrorClass;
use steadfast_runtime::code::{RunContext, StepCall, StepError};
use steadfast_runtime::event::WaitReason;
use steadfast_runtime::{
    Catalog, CatalogBuilder, RunEvent, Runtime, RuntimeError, RuntimeOptions, SignalRun, SubmitRun,
};
use steadfast_store::{MemoryStore, RunId, Store};
use tokio::time::{Instant, sleep};

use crate::outside::{Outside, Refused, at_every_write, reaches, say, start_code, submit};
use crate::world::{Says, ScriptedModel};

fn two_waits() -> CatalogBuilder {
    Catalog::builder().code("two", |run: RunContext| async move {
        let first: u32 = run.wait_for("n").await?;
        let second: u32 = run.wait_for("n").await?;
        Ok((first, second))
    })
}

async fn number(runtime: &Runtime, run: RunId, n: u32) {
    let (name, by) = ("n".to_owned(), "test".to_owned());
    let signal = SignalRun { run, name, payload: json!(n), by, id: Some(n.to_string()) };
    let said = runtime.signal(signal).await;
    assert!(matches!(said, Ok(_) | Err(RuntimeError::WrongState { .. })), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn c6_signals_are_heard_in_their_order_each_once_whenever_they_are_said_and_whoever_dies() {
    for before in 0..=2 {
        let act = async |runtime: &Runtime| {
            let run = submit(runtime, "two").await;
            for n in 1..=before {
                number(runtime, run, n).await;
            }
            for n in before + 1..=2 {
                reaches(runtime, run, &["waiting", "succeeded"]).await;
                number(runtime, run, n).await;
            }
            runtime.wait(run).await.expect("ends");
        };
        let check = async |runtime: &Runtime, _: &Outside, place: &str| {
            let run = submit(runtime, "two").await;
            let view = runtime.wait(run).await.expect("ends");
            assert_eq!(view.ending.as_deref(), Some("[1,2]"), "{place}");
        };
        let writes = at_every_write(|_| two_waits(), act, check).await;
        assert!(writes >= 8, "only {writes} writes");
    }
}

#[tokio::test(start_paused = true)]
async fn c6_a_signal_wakes_its_branch_at_once_while_another_is_busy() {
    let store = Arc::new(MemoryStore::new());
    let builder = Catalog::builder().code("both", |run: RunContext| async move {
        let began = Instant::now();
        let long = Duration::from_secs(1000);
        let work = |_: StepCall| async move {
            sleep(Duration::from_secs(600)).await;
            Ok::<_, Refused>(())
        };
        let heard = async {
            let said: String = run.wait_for("go").await?;
            Ok::<_, StepError>((said, began.elapsed().as_secs()))
        };
        let work = run.step("work").read().within(long).call(work);
        let (heard, worked) = tokio::join!(heard, work);
        worked?;
        heard
    });
    let runtime = start_code(store, builder).await;
    let run = submit(&runtime, "both").await;
    sleep(Duration::from_secs(7)).await;
    say(&runtime, run, "go", "1").await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.ending.as_deref(), Some(r#"["yes",7]"#));
    assert_eq!(view.epoch, 1, "it was not put aside");
}

#[tokio::test(start_paused = true)]
async fn c6_a_wait_with_an_end_ends_at_its_time_over_restarts_or_hears_what_comes_before() {
    let day = Duration::from_secs(24 * 3600);
    let code = || {
        Catalog::builder().code("wait", move |run: RunContext| async move {
            let said: Option<String> = run.wait_for("go").within(day).await?;
            Ok(said.unwrap_or_else(|| "nothing".to_owned()))
        })
    };
    for is_said in [false, true] {
        let store = Arc::new(MemoryStore::new());
        let first: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        let runtime = start_code(first, code()).await;
        let (run, began) = (submit(&runtime, "wait").await, Instant::now());
        reaches(&runtime, run, &["waiting"]).await;
        let events = runtime.events(run, 0, 99).await.expect("reads");
        let parked = events.iter().find_map(|view| match &view.event {
            RunEvent::Parked { reason, detail, .. } => Some((*reason, detail.clone())),
            _ => None,
        });
        let told = "the code waits for signal `go`".to_owned();
        assert_eq!(parked, Some((WaitReason::Signal, told)));
        runtime.abandon();
        sleep(day / 2).await;
        let runtime = start_code(store, code()).await;
        if is_said {
            say(&runtime, run, "go", "1").await;
        }
        let view = runtime.wait(run).await.expect("ends");
        let (expected, time) = if is_said { ("\"yes\"", day / 2) } else { ("\"nothing\"", day) };
        assert_eq!(view.ending.as_deref(), Some(expected));
        assert!(began.elapsed() >= time && began.elapsed() < time + Duration::from_secs(60));
        say(&runtime, run, "go", "2").await;
    }
}

#[tokio::test(start_paused = true)]
async fn c6_parked_runs_hold_no_place_and_no_task() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let builder = Catalog::builder()
        .code("wait", |run: RunContext| async move { run.wait_for::<String>("go").await })
        .code("quick", |_: RunContext| async move { Ok("done") });
    let catalog = builder.build().expect("fits together");
    let options = RuntimeOptions { concurrency: 2, ..RuntimeOptions::default() };
    let runtime = Runtime::start(store, catalog, options).await.expect("starts");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    sleep(Duration::from_secs(1)).await;
    let before = tasks();
    let mut runs = Vec::new();
    for _ in 0..50 {
        let run = runtime.submit(SubmitRun::new("wait", "null")).await.expect("accepted").run.id;
        runs.push(run);
    }
    for run in &runs {
        reaches(&runtime, *run, &["waiting"]).await;
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks(), before);
    let quick = submit(&runtime, "quick").await;
    assert_eq!(runtime.wait(quick).await.expect("ends").state, "succeeded");
    for run in runs {
        say(&runtime, run, "go", "1").await;
        assert_eq!(runtime.wait(run).await.expect("ends").ending.as_deref(), Some("\"yes\""));
    }
}

#[tokio::test(start_paused = true)]
async fn c6_what_cannot_be_heard_is_refused_or_named() {
    let store = Arc::new(MemoryStore::new());
    let runtime = start_code(Arc::<MemoryStore>::clone(&store), two_waits()).await;
    let run = submit(&runtime, "two").await;
    let signal = |name: &str| {
        let (name, by) = (name.to_owned(), "test".to_owned());
        SignalRun { run, name, payload: json!("no number"), by, id: Some("7".to_owned()) }
    };
    for name in ["", "x".repeat(129).as_str()] {
        let error = runtime.signal(signal(name)).await.expect_err("refused");
        assert_eq!(error.code(), "invalid_input", "{error}");
    }
    assert!(runtime.signal(signal("n")).await.expect("kept"));
    assert!(!runtime.signal(signal("n")).await.expect("known"));
    let view = runtime.wait(run).await.expect("ends");
    let told = view.ending.expect("told");
    assert!(
        told.starts_with("step `wait n`: its result does not fit the code: stored is a string")
    );
    assert_eq!(view.stop.as_deref(), Some(ErrorClass::Malformed.as_str()));
    runtime.abandon();
    let model = ScriptedModel::new(vec![Says::Text("ok")]);
    let runtime = crate::world::start(&store, &model, &[], |_| {}).await;
    let agent = runtime.submit(SubmitRun::new("worker", "go")).await.expect("accepted").run.id;
    let error = runtime.signal(SignalRun { run: agent, ..signal("n") }).await.expect_err("deaf");
    assert_eq!(error.code(), "not_listening", "{error}");
}
