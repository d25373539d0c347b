//! The store from outside: the suite that every backend passes, and what only a file can get wrong.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod alike;
mod memory;
mod postgres;
mod postgres_server;
mod sqlite;
