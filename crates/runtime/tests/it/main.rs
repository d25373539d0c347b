//! The runtime as a user of the library meets it: a real store, real guards, models and tools that
//! are small honest implementations of the traits.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as said"
)]

mod away;
mod boundaries;
mod changed_code;
mod children;
mod code;
mod crash_store;
mod error_recovery;
mod examples;
mod guarantees;
mod kept;
mod keys;
mod labels;
mod late_letters;
mod memory;
mod once;
mod outside;
mod pause;
mod paying;
mod postgres;
#[path = "../../../store/tests/it/postgres_server.rs"]
mod postgres_server;
mod problems;
mod queue;
mod quiet;
mod recovery;
mod runs;
mod saga_rollback;
mod sagas;
mod schedules;
mod signals;
mod simulation;
mod stand_in;
mod still;
mod undone_once;
mod world;
