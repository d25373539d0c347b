//! Schedules, over nodes, crashes and times at which nothing ran.

use std::sync::Arc;
use std::time::Duration;

use steadfast_runtime::code::RunContext;
use steadfast_runtime::{
    Catalog, CatchUp, Cron, Overlap, Runtime, RuntimeError, RuntimeOptions, Schedule, ScheduleView,
    SubmitRun,
};
use steadfast_store::{MemoryStore, RunFilter, Store};
use tokio::time::sleep;

use crate::crash_store::{CrashStore, Dies};

const MINUTE: Duration = Duration::from_secs(60);

/// Fires every minute; its run takes so long.
fn every_minute(takes: Duration) -> Schedule {
    Schedule {
        name: "tick".to_owned(),
        cron: "* * * * *".to_owned(),
        timezone: "UTC".to_owned(),
        times: Cron::parse("* * * * *", "UTC").expect("good"),
        order: SubmitRun::new("work", takes.as_millis().to_string()),
        catch_up: CatchUp::Last,
        overlap: Overlap::Allow,
    }
}

async fn node(store: Arc<dyn Store>, schedule: Schedule) -> Runtime {
    let work = |run: RunContext| async move {
        run.sleep("work", Duration::from_millis(run.input()?)).await
    };
    let catalog = Catalog::builder().code("work", work).build().expect("fits together");
    let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await.expect("starts");
    runtime.set_schedules(vec![schedule]).expect("accepted");
    runtime
}

async fn runs(store: &dyn Store) -> usize {
    let filter = RunFilter { limit: 500, ..RunFilter::default() };
    store.list(filter).await.expect("lists").runs.len()
}

async fn view(runtime: &Runtime) -> ScheduleView {
    runtime.schedules().await.expect("lists").remove(0)
}

/// Sleeps until half a minute after a full one, so that no time is near.
async fn between_times(store: &dyn Store) {
    let left_ms = 90_000 - store.now().0 % 60_000;
    sleep(Duration::from_millis(u64::try_from(left_ms).expect("ahead"))).await;
}

#[tokio::test(start_paused = true)]
async fn every_time_starts_one_run_over_several_nodes() {
    let store = Arc::new(MemoryStore::new());
    between_times(&*store).await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let own = Arc::clone(&store) as Arc<dyn Store>;
        nodes.push(node(own, every_minute(Duration::from_secs(1))).await);
    }
    sleep(MINUTE * 10).await;
    assert_eq!(runs(&*store).await, 10);
    let view = view(&nodes[0]).await;
    assert_eq!(view.last_state.as_deref(), Some("succeeded"));
    let (last, next) = (view.last.expect("fired"), view.next.expect("goes on"));
    assert_eq!((last.0 % 60_000, next.0 - last.0), (0, 60_000));
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_of_a_firing_starts_one_run() {
    for write in 0..4 {
        for dies in [Dies::Before, Dies::After] {
            let store = Arc::new(MemoryStore::new());
            between_times(&*store).await;
            let mut schedule = every_minute(Duration::ZERO);
            // Nothing is executed by the node that dies: only the schedule writes.
            schedule.order.agent = "work".to_owned();
            let doomed = CrashStore::new(&store, write, dies);
            let first = node(Arc::clone(&doomed) as Arc<dyn Store>, schedule.clone()).await;
            sleep(MINUTE).await;
            assert!(doomed.is_dead(), "write {write} is not reached");
            first.abandon();
            let second = node(Arc::clone(&store) as Arc<dyn Store>, schedule).await;
            sleep(MINUTE).await;
            let times = if write == 0 && dies == Dies::Before { 1 } else { 2 };
            assert_eq!(runs(&*store).await, times, "write {write}, {dies:?}");
            second.abandon();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_new_starts_from_now() {
    let store = Arc::new(MemoryStore::new());
    between_times(&*store).await;
    let schedule = Schedule { catch_up: CatchUp::All, ..every_minute(Duration::ZERO) };
    let runtime = node(Arc::clone(&store) as Arc<dyn Store>, schedule).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(runs(&*store).await, 0);
    assert_eq!(view(&runtime).await.last, None);
}

#[tokio::test(start_paused = true)]
async fn times_that_were_missed_are_dealt_with_by_the_rule() {
    for (catch_up, made_up) in [(CatchUp::None, 0), (CatchUp::Last, 1), (CatchUp::All, 100)] {
        let store = Arc::new(MemoryStore::new());
        between_times(&*store).await;
        // Hourly, so that the latest time that was missed is none that has just come.
        let times = Cron::parse("0 * * * *", "UTC").expect("good");
        let schedule = Schedule { catch_up, times, ..every_minute(Duration::ZERO) };
        let own = || Arc::clone(&store) as Arc<dyn Store>;
        let first = node(own(), schedule.clone()).await;
        sleep(Duration::from_secs(1)).await;
        first.abandon();
        let to_half_past = 5_400_000 - store.now().0 % 3_600_000;
        sleep(Duration::from_millis(u64::try_from(to_half_past).expect("ahead"))).await;
        sleep(Duration::from_secs(120 * 3600)).await;
        let second = node(own(), schedule).await;
        sleep(MINUTE).await;
        assert_eq!(runs(&*store).await, made_up, "{catch_up:?}");
        second.abandon();
    }
}

#[tokio::test(start_paused = true)]
async fn a_firing_is_left_out_while_the_earlier_run_is_not_over_if_so_said() {
    for (overlap, started) in [(Overlap::Allow, 6), (Overlap::Skip, 2)] {
        let store = Arc::new(MemoryStore::new());
        between_times(&*store).await;
        let schedule = Schedule { overlap, ..every_minute(Duration::from_secs(270)) };
        let runtime = node(Arc::clone(&store) as Arc<dyn Store>, schedule).await;
        sleep(MINUTE * 6).await;
        assert_eq!(runs(&*store).await, started, "{overlap:?}");
        runtime.abandon();
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_run_by_hand_beside_its_times_and_an_unknown_one_is_named() {
    let store = Arc::new(MemoryStore::new());
    between_times(&*store).await;
    let own = Arc::clone(&store) as Arc<dyn Store>;
    let runtime = node(own, every_minute(Duration::ZERO)).await;
    let submitted = runtime.run_schedule("tick").await.expect("submitted");
    assert_eq!(runtime.wait(submitted.run.id).await.expect("ends").state, "succeeded");
    sleep(MINUTE).await;
    assert_eq!(runs(&*store).await, 2);
    let unknown = runtime.run_schedule("tock").await.expect_err("unknown");
    assert!(matches!(unknown, RuntimeError::UnknownSchedule { .. }));
    assert!(unknown.to_string().contains("there are: tick"), "{unknown}");
    runtime.set_schedules(Vec::new()).expect("accepted");
    sleep(MINUTE * 3).await;
    assert_eq!(runs(&*store).await, 2);
}
