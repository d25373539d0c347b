//! Runs that start runs (SCOPE C5, C10).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steadfast_guard::ErrorClass;
use steadfast_runtime::code::{CodePolicy, RunContext, StepError};
use steadfast_runtime::event::Changes;
use steadfast_runtime::{
    CancelRun, Catalog, CatalogBuilder, Ending, ForkRun, ResumeRun, RunEvent, Runtime, SubmitRun,
};
use steadfast_store::{
    Disposition, HeadUpdate, Journal as _, MemoryStore, NewEvent, NewRun, RunFilter, RunId,
};
use tokio::time::sleep;

use crate::outside::{Outside, all, at_every_write, reaches, say, start_code, submit};
use crate::world::{Says, ScriptedModel, start_with};

/// `leaf` does one thing, named by its input; `tree` starts one, then three more, two at once.
fn tree(outside: &Outside) -> CatalogBuilder {
    let outside = outside.clone();
    Catalog::builder()
        .code("leaf", move |run: RunContext| {
            let outside = outside.clone();
            async move {
                let name: String = run.input()?;
                run.step("do").idempotent().call(|call| outside.call(&name, call)).await
            }
        })
        .code("tree", |run: RunContext| async move {
            let first = run.child("first", "leaf", &"a").await?;
            let more: Vec<String> = run.children("more", "leaf", ["b", "c", "d"], 2).await?;
            Ok((first.result::<String>().await?, more))
        })
}

#[tokio::test(start_paused = true)]
async fn c5_children_are_started_once_and_awaited_whenever_the_process_dies() {
    let act = async |runtime: &Runtime| {
        let run = submit(runtime, "tree").await;
        runtime.wait(run).await.expect("ends");
    };
    let check = async |runtime: &Runtime, outside: &Outside, place: &str| {
        let run = submit(runtime, "tree").await;
        let view = runtime.wait(run).await.expect("ends");
        let told = r#"["a done",["b done","c done","d done"]]"#;
        assert_eq!(view.ending.as_deref(), Some(told), "{place}");
        let mut applied = outside.applied();
        applied.sort();
        assert_eq!(applied, ["a", "b", "c", "d"], "{place}");
        assert_eq!(all(runtime).await.len(), 5, "{place}");
    };
    let writes = at_every_write(tree, act, check).await;
    assert!(writes >= 24, "only {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn c5_a_child_is_of_its_parents_tenant_and_priority_and_an_agents_answer_is_its_result() {
    let (store, model) =
        (Arc::new(MemoryStore::new()), ScriptedModel::new(vec![Says::Text("fine")]));
    let code = |run: RunContext| async move {
        let child = run.child("ask", "worker", &"How are you?").await?;
        Ok((child.id(), child.result::<String>().await?))
    };
    let runtime =
        start_with(&store, &model, &[], |_| {}, |builder| builder.code("asks", code)).await;
    let order =
        SubmitRun { tenant: "acme".to_owned(), priority: 7, ..SubmitRun::new("asks", "null") };
    let run = runtime.submit(order).await.expect("accepted").run.id;
    let told = runtime.wait(run).await.expect("ends").ending.expect("told");
    let (child, answer): (RunId, String) = serde_json::from_str(&told).expect("JSON");
    let child = runtime.run(child).await.expect("there");
    assert_eq!(answer, "fine");
    assert_eq!((child.tenant.as_str(), child.priority, child.parent), ("acme", 7, Some(run)));
    assert_eq!(child.input, "How are you?");
    let filter = RunFilter { parent: Some(run), ..RunFilter::default() };
    assert_eq!(runtime.list(filter).await.expect("lists").runs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn c5_children_run_side_by_side_up_to_the_limit() {
    let (out, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (leaf_out, leaf_most) = (Arc::clone(&out), Arc::clone(&most));
    let builder = Catalog::builder()
        .code("leaf", move |run: RunContext| {
            let (out, most) = (Arc::clone(&leaf_out), Arc::clone(&leaf_most));
            async move {
                let n: u64 = run.input()?;
                most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_secs(20 - n)).await;
                out.fetch_sub(1, Ordering::SeqCst);
                Ok(n * n)
            }
        })
        .code("all", |run: RunContext| async move {
            run.children::<_, u64>("square", "leaf", 0..12_u64, 3).await
        });
    let runtime = start_code(Arc::new(MemoryStore::new()), builder).await;
    let run = submit(&runtime, "all").await;
    let told = runtime.wait(run).await.expect("ends").ending;
    let squares: Vec<u64> = (0..12).map(|n| n * n).collect();
    assert_eq!(told, Some(serde_json::to_string(&squares).expect("JSON")));
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// `order` starts a child that reserves and then waits, and one that fails until it may not.
fn order(outside: &Outside) -> CatalogBuilder {
    let (waiting, failing) = (outside.clone(), outside.clone());
    Catalog::builder()
        .code("waits", move |run: RunContext| {
            let outside = waiting.clone();
            async move {
                let undoing = outside.clone();
                run.compensate("reserve").by(move |call| {
                    let outside = undoing.clone();
                    async move { outside.call("undo reserve", call).await.map(drop) }
                });
                let step = run.step("reserve").idempotent();
                step.call(|call| outside.call("reserve", call)).await?;
                run.wait_for::<String>("go").await
            }
        })
        .code("fails", move |run: RunContext| {
            let outside = failing.clone();
            async move {
                run.step("look").idempotent().call(|call| outside.call("look", call)).await?;
                run.step("pay").idempotent().call(|call| outside.call("pay", call)).await
            }
        })
        .code("order", |run: RunContext| async move {
            let waits = run.child("waits", "waits", &()).await?;
            let fails = run.child("fails", "fails", &()).await?;
            fails.result::<String>().await?;
            waits.result::<String>().await
        })
}

async fn child_named(runtime: &Runtime, agent: &str) -> steadfast_runtime::RunView {
    let runs = all(runtime).await;
    runs.into_iter().find(|run| run.agent == agent).expect("was started")
}

#[tokio::test(start_paused = true)]
async fn c5_a_failed_parent_ends_its_children_and_resumed_it_resumes_what_failed() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    outside.refuse("pay");
    let runtime = start_code(store, order(&outside)).await;
    let run = submit(&runtime, "order").await;
    let view = runtime.wait(run).await.expect("ends");
    let failed = child_named(&runtime, "fails").await;
    assert_eq!(view.state, "failed");
    let told = view.ending.expect("told");
    let expected = format!("step `child fails`: run {} failed: step `pay`: refused", failed.id);
    assert_eq!(told, expected);
    let waits = child_named(&runtime, "waits").await;
    assert_eq!((waits.state.as_str(), waits.parent), ("cancelled", Some(run)));
    outside.refuse_nothing();
    runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await.expect("resumes");
    // started anew, because it was cancelled
    let again = loop {
        let again = child_named(&runtime, "waits").await;
        if again.id != waits.id && again.state == "waiting" {
            break again;
        }
        sleep(Duration::from_millis(1)).await;
    };
    say(&runtime, again.id, "go", "1").await;
    assert_eq!(runtime.wait(run).await.expect("ends").ending.as_deref(), Some("\"yes\""));
    assert_eq!(runtime.run(failed.id).await.expect("there").state, "succeeded", "it was resumed");
    let looks = outside.applied().iter().filter(|name| *name == "look").count();
    assert_eq!(looks, 1, "what a failed child had done stays done");
}

#[tokio::test(start_paused = true)]
async fn c5_by_policy_children_go_on_when_their_parent_fails() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    outside.refuse("pay");
    let policy = CodePolicy { cancel_children_on_failure: false, ..CodePolicy::default() };
    let runtime = start_code(store, order(&outside).code_policy("order", policy)).await;
    let run = submit(&runtime, "order").await;
    assert_eq!(runtime.wait(run).await.expect("ends").state, "failed");
    let waits = child_named(&runtime, "waits").await;
    reaches(&runtime, waits.id, &["waiting"]).await;
    say(&runtime, waits.id, "go", "1").await;
    assert_eq!(runtime.wait(waits.id).await.expect("ends").state, "succeeded");
}

/// Three generations; each does a thing that can be undone, starts the next, and waits for it.
fn generations(outside: &Outside) -> CatalogBuilder {
    let outside = outside.clone();
    Catalog::builder().code("generation", move |run: RunContext| {
        let outside = outside.clone();
        async move {
            let left: u32 = run.input()?;
            let undoing = outside.clone();
            run.compensate("it").by(move |call| {
                let outside = undoing.clone();
                async move { outside.call(&format!("undo {left}"), call).await.map(drop) }
            });
            let name = left.to_string();
            run.step("it").idempotent().call(|call| outside.call(&name, call)).await?;
            if left == 0 {
                return run.wait_for::<String>("go").await;
            }
            run.child("next", "generation", &(left - 1)).await?.result().await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c10_a_cancelled_run_ends_its_children_first_whenever_the_process_dies() {
    let act = async |runtime: &Runtime| {
        let order = SubmitRun { key: Some("k".to_owned()), ..SubmitRun::new("generation", "2") };
        let run = runtime.submit(order).await.expect("accepted").run.id;
        // until the youngest waits, or the end has begun
        loop {
            let runs = all(runtime).await;
            let is_waiting =
                |run: &steadfast_runtime::RunView| run.input == "0" && run.state == "waiting";
            let is_over = |run: &steadfast_runtime::RunView| run.state == "cancelled";
            if runs.iter().any(|run| is_waiting(run) || is_over(run)) {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        let (by, reason) = ("ada".to_owned(), None);
        let cancelled = runtime.cancel(CancelRun { run, by, reason }).await;
        assert!(
            matches!(cancelled, Ok(()) | Err(steadfast_runtime::RuntimeError::WrongState { .. })),
            "{cancelled:?}"
        );
        runtime.wait(run).await.expect("ends");
    };
    let check = async |runtime: &Runtime, outside: &Outside, place: &str| {
        let expected = ["2", "1", "0", "undo 0", "undo 1", "undo 2"];
        assert_eq!(outside.applied(), expected, "{place}");
        let runs = all(runtime).await;
        assert_eq!(runs.len(), 3, "{place}");
        assert!(runs.iter().all(|run| run.state == "cancelled"), "{place}: {runs:?}");
    };
    let writes = at_every_write(generations, act, check).await;
    assert!(writes >= 30, "only {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn c10_a_child_that_a_fenced_node_started_late_ends_itself() {
    let (store, outside) = (Arc::new(MemoryStore::new()), Outside::default());
    let runtime = start_code(Arc::<MemoryStore>::clone(&store), order(&outside)).await;
    let parent = submit(&runtime, "waits").await;
    reaches(&runtime, parent, &["waiting"]).await;
    let (by, reason) = ("ada".to_owned(), None);
    runtime.cancel(CancelRun { run: parent, by, reason }).await.expect("cancels");
    runtime.wait(parent).await.expect("ends");
    // what a node writes that was in the middle of starting a child
    let body = serde_json::json!({
        "type": "submitted", "agent": "waits", "input": "null", "parent": parent,
    });
    let body = body.to_string().into_bytes().into();
    let event = NewEvent { kind: "submitted".into(), version: 1, body };
    let head = HeadUpdate {
        state: "queued".to_owned(),
        disposition: Disposition::Ready,
        problem: None,
        summary: bytes::Bytes::from_static(
            b"{\"input\":\"\",\"iterations\":0,\"input_tokens\":0,\"output_tokens\":0}",
        ),
    };
    let new = NewRun::new("default".to_owned(), "waits".to_owned(), vec![event], head);
    let late = new.id;
    store.create(NewRun { parent: Some(parent), ..new }).await.expect("created");
    let view = reaches(&runtime, late, &["waiting", "cancelled"]).await;
    assert_eq!(view.state, "cancelled");
    assert_eq!(outside.applied(), ["reserve", "undo reserve"], "it did nothing");
}

#[tokio::test(start_paused = true)]
async fn c5_code_that_starts_itself_is_stopped_at_the_depth_limit() {
    let builder = Catalog::builder().code("deeper", |run: RunContext| async move {
        let child = run.child("next", "deeper", &()).await?;
        child.result::<()>().await
    });
    let runtime = start_code(Arc::new(MemoryStore::new()), builder).await;
    let run = submit(&runtime, "deeper").await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(all(&runtime).await.len(), 9, "eight below the first");
    assert_eq!(view.state, "failed");
    let fold = runtime.fold(run).await.expect("folds");
    let Some(Ending::Failed { message, .. }) = fold.ending else { panic!("it failed") };
    assert!(message.contains("it would lie below 9 runs"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn c5_a_childs_error_tells_which_run_and_how_it_ended() {
    let outside = Outside::default();
    outside.refuse("x");
    let builder = tree(&outside).code("tells", |run: RunContext| async move {
        let child = run.child("x", "leaf", &"x").await?;
        let error = child.result::<String>().await.expect_err("fails");
        let end = error.child.clone().expect("tells");
        assert_eq!(end.run, child.id());
        assert!(matches!(end.ending, Ending::Failed { .. }), "{end:?}");
        assert_eq!(error.class, ErrorClass::InvalidRequest);
        let none = run.child("y", "nobody", &()).await.expect_err("no such agent");
        assert_eq!(none.class, ErrorClass::NotFound);
        let again = run.child("x", "leaf", &"x").await.expect_err("one name");
        assert!(again.message.contains("same name"), "{again}");
        Ok::<_, StepError>("told")
    });
    let runtime = start_code(Arc::new(MemoryStore::new()), builder).await;
    let run = submit(&runtime, "tells").await;
    let view = runtime.wait(run).await.expect("ends");
    assert_eq!(view.ending.as_deref(), Some("\"told\""), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn c11_a_fork_of_a_parent_starts_its_own_children_and_one_of_a_child_has_no_parent() {
    let outside = Outside::default();
    let does = outside.clone();
    let builder = Catalog::builder()
        .code("leaf", move |run: RunContext| {
            let does = does.clone();
            async move {
                run.wait_for::<String>("go").await?;
                run.step("do").idempotent().call(|call| does.call("leaf", call)).await
            }
        })
        .code("root", |run: RunContext| async move {
            let child = run.child("one", "leaf", &1).await?;
            child.result::<String>().await
        });
    let runtime = start_code(Arc::new(MemoryStore::new()), builder).await;
    let order = SubmitRun {
        session: Some("ticket-7".to_owned()),
        tags: vec!["urgent".to_owned()],
        ..SubmitRun::new("root", "null")
    };
    let root = runtime.submit(order).await.expect("accepted").run.id;
    reaches(&runtime, root, &["waiting"]).await;
    let children_of = async |parent: RunId| {
        let filter = RunFilter { parent: Some(parent), ..RunFilter::default() };
        let list = runtime.list(filter).await.expect("lists");
        list.runs.into_iter().map(|view| view.id).collect::<Vec<_>>()
    };
    let child = children_of(root).await[0];
    let fork_of = async |run: RunId| {
        let (changes, by) = (Changes::default(), "ada".to_owned());
        let order = ForkRun { run, at: None, changes, key: None, by };
        runtime.fork(order).await.expect("forks").run
    };
    let (second_root, lone) = (fork_of(root).await, fork_of(child).await);
    assert_eq!((lone.parent, lone.forked_from), (None, Some(child)));
    assert_eq!(
        (second_root.session.as_deref(), second_root.tags.as_slice()),
        (Some("ticket-7"), ["urgent".to_owned()].as_slice())
    );
    reaches(&runtime, second_root.id, &["waiting"]).await;
    for leaf in [child, children_of(second_root.id).await[0], lone.id] {
        say(&runtime, leaf, "go", "once").await;
    }
    for run in [root, second_root.id, lone.id] {
        let ended = runtime.wait(run).await.expect("ends").ending;
        assert_eq!(ended.as_deref(), Some("\"leaf done\""));
    }
    assert_eq!(outside.applied().len(), 3, "each child has keys of its own");
    assert_eq!((children_of(root).await.len(), children_of(second_root.id).await.len()), (1, 1));
    let log = runtime.events(root, 0, 100).await.expect("reads");
    let told = log.iter().filter(|view| matches!(view.event, RunEvent::ChildEnded { .. }));
    assert_eq!(told.count(), 1, "the fork of the child tells nobody");
}
