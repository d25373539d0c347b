//! The table of `docs/guarantees.md`, row by row: the process dies in this place, with a call of an agent, of
//! code, and of an operation with a key, of every class of effect; then the next one goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use steadfast_guard::Effect;
use steadfast_runtime::{CatalogBuilder, RunView, Runtime, SubmitRun};
use steadfast_store::{MemoryStore, RunFilter, RunId, Store};

use crate::boundaries::{EFFECTS, agent, code, is_unknown, start};
use crate::crash_store::{CrashStore, Dies};
use crate::world::CountingTool;

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Agent,
    Code,
    /// An agent's call under a key that other runs use, too.
    Operation,
}

const ALL: [By; 3] = [By::Agent, By::Code, By::Operation];

/// Where the process dies.
#[derive(Clone, Copy, Debug)]
enum Place {
    Submission(Dies),
    /// The event before the call's first one is on disk.
    BeforeAll,
    WrittenAhead(Dies),
    /// The call has taken effect and not ended.
    Middle,
    Result(Dies),
}

/// What a death leaves, once another process has finished the run.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    is_acknowledged: bool,
    /// How often the call took effect, always under the same key.
    count: usize,
    /// Whether the run says that it does not know.
    is_unknown: bool,
}

impl By {
    fn catalog(self, tool: &Arc<CountingTool>, effect: Effect) -> CatalogBuilder {
        match self {
            Self::Code => code(tool, effect),
            Self::Agent | Self::Operation => agent(tool, self == Self::Operation),
        }
    }

    /// The events of a call: the one before it, the one that is written ahead, the one with its result.
    const fn events(self) -> [&'static str; 3] {
        match self {
            Self::Code => ["claimed", "step_started", "step_finished"],
            Self::Agent | Self::Operation => ["model_answered", "tool_started", "tool_finished"],
        }
    }

    fn dying(self, memory: &Arc<MemoryStore>, place: Place) -> Arc<CrashStore> {
        let [before, ahead, result] = self.events();
        match place {
            Place::Submission(dies) => CrashStore::new(memory, 0, dies),
            Place::BeforeAll => CrashStore::at_event(memory, before, Dies::After),
            Place::WrittenAhead(dies) => CrashStore::at_event(memory, ahead, dies),
            Place::Middle => CrashStore::steady(memory),
            Place::Result(dies) => CrashStore::at_event(memory, result, dies),
        }
    }
}

fn order(key: &str) -> SubmitRun {
    SubmitRun { key: Some(key.to_owned()), ..SubmitRun::new("worker", "go") }
}

/// Submits, and waits for the end; a call that is held up is let go.
async fn finish(runtime: &Runtime, tool: &CountingTool, key: &str) -> RunView {
    let run = runtime.submit(order(key)).await.expect("accepted").run.id;
    let let_go = async {
        loop {
            tool.entered.notified().await;
            tool.let_go.notify_one();
        }
    };
    let view = tokio::select! {
        view = runtime.wait(run) => view.expect("ends"),
        () = let_go => unreachable!("it goes on for ever"),
    };
    assert_eq!(view.state, "succeeded", "{view:?}");
    view
}

/// A process dies at the place. Gives whether it had told of the submission.
async fn die(
    memory: &Arc<MemoryStore>,
    tool: &Arc<CountingTool>,
    (by, effect, place): (By, Effect, Place),
) -> bool {
    let store = by.dying(memory, place);
    let first: Arc<dyn Store> = Arc::<CrashStore>::clone(&store);
    let runtime = start(first, by.catalog(tool, effect)).await;
    let mut is_acknowledged = false;
    let submitted = async {
        is_acknowledged = runtime.submit(order("k")).await.is_ok();
        std::future::pending::<()>().await;
    };
    let is_middle = matches!(place, Place::Middle);
    tokio::select! {
        () = submitted => {}
        () = store.dead.notified() => {}
        () = tool.entered.notified(), if is_middle => {}
    }
    runtime.abandon();
    assert_eq!(store.is_dead(), !is_middle, "it died where it should");
    is_acknowledged
}

/// What is left by a death at the place; the store and the tool, too.
async fn left(by: By, effect: Effect, place: Place) -> (Left, Arc<MemoryStore>, Arc<CountingTool>) {
    let memory = Arc::new(MemoryStore::new());
    let tool = match place {
        Place::Middle => CountingTool::gated("count", effect),
        _ => CountingTool::new("count", effect),
    };
    let is_acknowledged = die(&memory, &tool, (by, effect, place)).await;
    let second: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
    let runtime = start(second, by.catalog(&tool, effect)).await;
    let run: RunId = finish(&runtime, &tool, "k").await.id;
    let all = runtime.list(RunFilter::default()).await.expect("lists").runs;
    assert_eq!(all.len(), 1, "one key, one run");
    let keys = tool.keys.lock().iter().cloned().collect::<BTreeSet<_>>();
    assert!(keys.len() <= 1, "one key: {keys:?}");
    let is_unknown = is_unknown(&runtime, run).await;
    runtime.abandon();
    (Left { is_acknowledged, count: tool.count(), is_unknown }, memory, tool)
}

const MADE: (usize, bool) = (1, false);
const MADE_AGAIN: (usize, bool) = (2, false);
const UNKNOWN_NOT_MADE: (usize, bool) = (0, true);
const UNKNOWN: (usize, bool) = (1, true);

/// One row: what is left of a read, of an idempotent call, and of one that is made once.
async fn row(place: Place, is_acknowledged: bool, cells: [(usize, bool); 3]) {
    for by in ALL {
        for (effect, (count, is_unknown)) in EFFECTS.into_iter().zip(cells) {
            // Reads need no key; and nothing is written ahead of them.
            let is_ahead = matches!(place, Place::WrittenAhead(_));
            if effect == Effect::Read && by == By::Operation {
                continue;
            }
            let place = if effect == Effect::Read && is_ahead { Place::BeforeAll } else { place };
            let (found, ..) = left(by, effect, place).await;
            let expected = Left { is_acknowledged, count, is_unknown };
            assert_eq!(found, expected, "{by:?}, {effect:?}, {place:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c1_before_a_submission_is_on_disk_nobody_is_told_and_its_key_starts_one_run() {
    row(Place::Submission(Dies::Before), false, [MADE; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_submission_that_is_on_disk_is_found_by_its_key_though_nobody_was_told() {
    row(Place::Submission(Dies::After), false, [MADE; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_before_a_call_is_written_ahead_nothing_has_left_and_it_is_made() {
    row(Place::BeforeAll, true, [MADE; 3]).await;
    row(Place::WrittenAhead(Dies::Before), true, [MADE; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_call_that_is_written_ahead_is_made_unless_it_is_once_then_it_is_unknown() {
    row(Place::WrittenAhead(Dies::After), true, [MADE, MADE, UNKNOWN_NOT_MADE]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_call_that_is_cut_in_its_middle_is_made_again_unless_it_is_once_then_it_is_unknown() {
    row(Place::Middle, true, [MADE_AGAIN, MADE_AGAIN, UNKNOWN]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_call_whose_result_is_lost_is_made_again_unless_it_is_once_then_it_is_unknown() {
    row(Place::Result(Dies::Before), true, [MADE_AGAIN, MADE_AGAIN, UNKNOWN]).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_result_that_is_on_disk_is_kept_and_the_call_is_not_made_again() {
    row(Place::Result(Dies::After), true, [MADE; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn r11_the_key_of_an_operation_is_settled_with_its_result_or_neither_is() {
    for (effect, dies, before) in [
        (Effect::Idempotent, Dies::Before, 2),
        (Effect::Idempotent, Dies::After, 1),
        (Effect::Once, Dies::Before, 1),
        (Effect::Once, Dies::After, 1),
    ] {
        let (found, memory, tool) = left(By::Operation, effect, Place::Result(dies)).await;
        assert_eq!(found.count, before, "{effect:?}, {dies:?}");
        // Another run asks for the same operation: whatever came of it is on record.
        let runtime = start(memory, By::Operation.catalog(&tool, effect)).await;
        let other = finish(&runtime, &tool, "another").await.id;
        assert_eq!(tool.count(), before, "{effect:?}, {dies:?}: it is not made again");
        assert_eq!(is_unknown(&runtime, other).await, found.is_unknown, "{effect:?}, {dies:?}");
        runtime.abandon();
    }
}

/// The tests that are named in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("c1_") || word.starts_with("r11_")).collect()
}

#[test]
fn c1_each_row_of_the_table_names_tests_that_are_here() {
    let page = include_str!("../../../../docs/guarantees.md");
    let tests = [include_str!("guarantees.rs"), include_str!("boundaries.rs")].concat();
    let is_there = |name: &&str| tests.contains(&format!("async fn {name}("));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| it dies"));
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 9, "{rows:#?}");
    for row in rows {
        let named = named(row);
        assert!(!named.is_empty() && named.iter().all(is_there), "{row}");
    }
}
