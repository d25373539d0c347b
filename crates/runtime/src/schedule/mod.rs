//! Runs that are submitted at times: which, when, and what becomes of times that were missed.
//!
//! A firing is a submission with a key that names the schedule and the time, so over any number of nodes,
//! crashes and repeats it starts one run. How far a schedule has been dealt with is a fact in the store,
//! written after the submission: a crash between the two repeats the submission, which finds its run.

mod cron;
mod due;
mod timetable;

use serde::{Deserialize, Serialize};
use steadfast_store::{RunId, Timestamp};

pub use cron::{Cron, CronError};
pub use due::{CATCH_UP_MAX, CatchUp};
pub(crate) use timetable::{Timetable, keep, run_now, views};

use crate::commands::SubmitRun;

/// What becomes of a firing while the schedule's earlier run is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It starts beside it.
    #[default]
    Allow,
    /// It is left out.
    Skip,
}

/// A run that is submitted at times.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its name, unique among the schedules of all nodes of a store.
    pub name: String,
    /// The expression that `times` was read from, for people.
    pub cron: String,
    /// The time zone that it is meant in.
    pub timezone: String,
    /// When it fires.
    pub times: Cron,
    /// What is submitted. Its key is the schedule's to set.
    pub order: SubmitRun,
    /// What becomes of times that were missed.
    pub catch_up: CatchUp,
    /// What becomes of a firing while the earlier run is not over.
    pub overlap: Overlap,
}

/// A schedule as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub cron: String,
    /// In which time zone.
    pub timezone: String,
    /// What executes its runs.
    pub agent: String,
    /// Whose they are.
    pub tenant: String,
    /// What becomes of times that were missed.
    pub catch_up: CatchUp,
    /// What becomes of a firing while the earlier run is not over.
    pub overlap: Overlap,
    /// When it fires next, in milliseconds since 1970 UTC.
    pub next: Option<Timestamp>,
    /// The time that it last fired for.
    pub last: Option<Timestamp>,
    /// The run of that time.
    pub last_run: Option<RunId>,
    /// Its state, as one word, unless it has been removed.
    pub last_state: Option<String>,
}
