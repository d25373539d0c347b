//! The real program, started, talked to and killed as a user would.

#![expect(clippy::disallowed_methods, reason = "these tests start and kill real programs")]

mod cli;
mod crash;
mod program;
mod report;
