//! The runtime as a user of the library meets it: a real store, real guards, models and tools that
//! are small honest implementations of the traits.

mod examples;
mod runs;
mod world;
