//! Failure checks: what is wrong with a run, found while it goes on (SCOPE C12).
//!
//! What the fold shows (`finding`, `repeats`) is looked for whenever a result comes in, and written with the
//! event that shows it. What only somebody outside can see (`monitor`) is flagged on the run's card. Nothing
//! here stops a run.

mod checks;
mod finding;
mod limit;
mod monitor;
mod repeats;
mod rules;
mod words;

pub use self::checks::Note;
pub(crate) use self::checks::{Checks, Pulse, RunCheck};
pub use self::finding::Flaws;
pub(crate) use self::limit::step_limit;
pub(crate) use self::monitor::Monitor;
pub use self::rules::{ProblemHook, ProblemNotice, ProblemRules, RepeatRule};
pub use self::words::Problem;
