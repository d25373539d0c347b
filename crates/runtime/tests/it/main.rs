//! The runtime as a user of the library meets it: a real store, real guards, models and tools that
//! are small honest implementations of the traits.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as said"
)]

mod boundaries;
mod code;
mod crash_store;
mod examples;
mod labels;
mod memory;
mod once;
mod problems;
mod runs;
mod stand_in;
mod world;
