//! The real program, started, talked to and killed as a user would.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "these tests start and kill real programs, and end where something is not as said"
)]

mod api;
mod bad_input;
mod cli;
mod console;
mod crash;
mod facts;
mod faults;
mod guards;
mod http;
mod openapi;
mod problems;
mod program;
mod report;
mod search;
mod stand_in;
mod watch;
