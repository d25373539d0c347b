//! The real program, started, talked to and killed as a user would.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "these tests start and kill real programs, and end where something is not as said"
)]

mod actions;
mod api;
mod bad_input;
mod cli;
mod console;
mod crash;
mod ending;
mod facts;
mod faults;
mod gateway;
mod guards;
mod http;
mod keys;
#[cfg(target_os = "linux")]
#[path = "../../../store/tests/it/medium/mod.rs"]
mod medium;
mod nodes;
mod openapi;
#[path = "../../../store/tests/it/postgres_proxy.rs"]
mod postgres_proxy;
#[path = "../../../store/tests/it/postgres_server.rs"]
mod postgres_server;
#[cfg(target_os = "linux")]
mod power;
mod problems;
mod program;
mod report;
mod schedules;
mod search;
mod stand_in;
mod store_commands;
mod terminal;
#[cfg(target_os = "linux")]
mod trouble;
mod watch;
