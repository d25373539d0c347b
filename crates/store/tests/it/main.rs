//! The store from outside: the suite that every backend passes, and what only a file can get wrong.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "these tests start processes, and their helpers fail as tests do"
)]

mod alike;
#[cfg(target_os = "linux")]
mod damage;
mod ledger;
#[cfg(target_os = "linux")]
mod medium;
mod memory;
mod postgres;
mod postgres_outage;
mod postgres_proxy;
mod postgres_server;
#[cfg(target_os = "linux")]
mod power;
mod sqlite;
#[cfg(target_os = "linux")]
mod till;
#[cfg(target_os = "linux")]
mod trouble;
