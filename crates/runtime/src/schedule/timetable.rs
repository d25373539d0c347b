//! The schedules of a node, and the task that keeps them.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steadfast_store::{FactName, FactWrite, RunId, Store, Timestamp};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::due::due;
use super::{Overlap, Schedule, ScheduleView};
use crate::call::chain;
use crate::commands::{self, SubmitRun, Submitted};
use crate::error::RuntimeError;
use crate::journal::unwritable;
use crate::shared::Shared;
use crate::state::Status;

/// The longest sleep: a machine that slept notices soon what it has missed.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// How soon is tried again what the store did not allow.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The scope of the facts.
const SCOPE: &str = "schedule";

/// The schedules that this node keeps. They may be replaced while it works.
#[derive(Debug, Default)]
pub(crate) struct Timetable {
    schedules: Mutex<BTreeMap<String, Schedule>>,
    changed: Notify,
}

impl Timetable {
    pub(crate) fn replace(&self, schedules: Vec<Schedule>) {
        let by_name = schedules.into_iter().map(|schedule| (schedule.name.clone(), schedule));
        *self.schedules.lock() = by_name.collect();
        self.changed.notify_one();
    }

    fn all(&self) -> Vec<Schedule> {
        self.schedules.lock().values().cloned().collect()
    }
}

/// What is remembered of a schedule.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Memory {
    /// Times up to this one have been dealt with.
    seen: Timestamp,
    /// The last one that a run was submitted for.
    fired: Option<Timestamp>,
    /// That run.
    run: Option<RunId>,
}

fn name(schedule: &str) -> FactName {
    FactName { scope: SCOPE.to_owned(), key: schedule.to_owned() }
}

async fn recall(store: &dyn Store, schedule: &str) -> Result<Option<Memory>, RuntimeError> {
    let fact = store.fact(&name(schedule)).await?;
    Ok(fact.and_then(|fact| {
        let memory = serde_json::from_slice(&fact.value);
        memory.inspect_err(|problem| warn!(schedule, %problem, "starts anew: damaged")).ok()
    }))
}

async fn remember(store: &dyn Store, schedule: &str, memory: Memory) -> Result<(), RuntimeError> {
    let value = serde_json::to_vec(&memory).map_err(unwritable)?;
    let fact = FactWrite { name: name(schedule), value: Some(value.into()), keep: None };
    Ok(store.write_facts(vec![fact]).await?)
}

/// Submits what is due, whenever it is, for as long as it is polled.
pub(crate) async fn keep(shared: &Shared) {
    loop {
        let mut nap = LOOK_MAX;
        for schedule in shared.timetable.all() {
            if shared.drain.is_cancelled() {
                break;
            }
            match tend(shared, &schedule).await {
                Ok(left) => nap = nap.min(left),
                Err(error) => {
                    error!(schedule = schedule.name, error = chain(&error), "cannot be kept");
                    nap = nap.min(TRY_AGAIN);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            () = shared.timetable.changed.notified() => {}
        }
    }
}

/// Submits what is due of a schedule; returns how long it is until its next time.
async fn tend(shared: &Shared, schedule: &Schedule) -> Result<Duration, RuntimeError> {
    let store = shared.store.as_ref();
    let now = store.now();
    let mut memory = match recall(store, &schedule.name).await? {
        Some(memory) => memory,
        None => {
            let memory = Memory { seen: now, fired: None, run: None };
            remember(store, &schedule.name, memory).await?;
            memory
        }
    };
    let due = due(&schedule.times, memory.seen, now, schedule.catch_up);
    if due.left_out {
        let (since, rule) = (memory.seen.0, schedule.catch_up);
        warn!(schedule = schedule.name, since, ?rule, "times were missed and are left out");
    }
    for time in due.fire {
        if let Some(run) = fire(shared, schedule, &memory, time, now).await? {
            (memory.fired, memory.run) = (Some(time), Some(run));
        }
        memory.seen = time;
        remember(store, &schedule.name, memory).await?;
    }
    if let Some(seen) = due.seen.filter(|seen| *seen > memory.seen) {
        memory.seen = seen;
        remember(store, &schedule.name, memory).await?;
    }
    let next = schedule.times.next(now).map(|next| next.0 - now.0);
    let next = next.and_then(|left_ms| u64::try_from(left_ms).ok());
    Ok(next.map_or(LOOK_MAX, Duration::from_millis))
}

async fn fire(
    shared: &Shared,
    schedule: &Schedule,
    memory: &Memory,
    time: Timestamp,
    now: Timestamp,
) -> Result<Option<RunId>, RuntimeError> {
    let Schedule { name, order, .. } = schedule;
    if schedule.overlap == Overlap::Skip
        && let Some(earlier) = memory.run
        && is_under_way(shared.store.as_ref(), earlier).await?
    {
        warn!(schedule = name, time = time.0, %earlier, "left out: the earlier run is not over");
        return Ok(None);
    }
    let key = Some(format!("schedule {name} {}", told(time)));
    match commands::submit(shared, SubmitRun { key, ..order.clone() }).await {
        Ok(Submitted { run, new }) => {
            let late_ms = now.0.saturating_sub(time.0);
            if new {
                info!(schedule = name, run = %run.id, time = told(time), late_ms, "fired");
            }
            Ok(Some(run.id))
        }
        // It has fired, with what the configuration said then.
        Err(RuntimeError::KeyConflict { run, .. }) => Ok(Some(run)),
        Err(error) => Err(error),
    }
}

fn told(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| time.0.to_string(), |t| t.to_string())
}

async fn is_under_way(store: &dyn Store, run: RunId) -> Result<bool, RuntimeError> {
    let head = store.head(run).await?;
    let status = head.and_then(|head| Status::parse(&head.state));
    Ok(status.is_some_and(|status| !status.is_over()))
}

/// Submits the run of a schedule now, beside its times.
pub(crate) async fn run_now(shared: &Shared, name: &str) -> Result<Submitted, RuntimeError> {
    let found = shared.timetable.schedules.lock().get(name).cloned();
    let Some(schedule) = found else {
        let known = shared.timetable.all().into_iter().map(|schedule| schedule.name).collect();
        return Err(RuntimeError::UnknownSchedule { name: name.to_owned(), known });
    };
    commands::submit(shared, schedule.order).await
}

/// The schedules of this node, as they stand.
pub(crate) async fn views(shared: &Shared) -> Result<Vec<ScheduleView>, RuntimeError> {
    let store = shared.store.as_ref();
    let mut views = Vec::new();
    for schedule in shared.timetable.all() {
        let memory = recall(store, &schedule.name).await?;
        let last_run = memory.and_then(|memory| memory.run);
        let last_state = match last_run {
            Some(run) => store.head(run).await?.map(|head| head.state),
            None => None,
        };
        views.push(ScheduleView {
            next: schedule.times.next(store.now()),
            last: memory.and_then(|memory| memory.fired),
            last_run,
            last_state,
            name: schedule.name,
            cron: schedule.cron,
            timezone: schedule.timezone,
            agent: schedule.order.agent,
            tenant: schedule.order.tenant,
            catch_up: schedule.catch_up,
            overlap: schedule.overlap,
        });
    }
    Ok(views)
}
