//! Failure checks: what is wrong with a run, found while it goes on (SCOPE C12).

mod words;

pub use self::words::Problem;
