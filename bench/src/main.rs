//! Prints what the guard, the journal and whole steps cost, next to the raw limits of the same minute.
//!
//! `cargo run --release -p steadfast-bench [guard | journal | steps | start]`; without a name, all.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod guard;
mod journal;
mod start;
mod steps;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NAMES: [&str; 4] = ["guard", "journal", "steps", "start"];

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = std::env::args().nth(1);
    if let Some(unknown) = wanted.as_deref().filter(|name| !NAMES.contains(name)) {
        anyhow::bail!("no benchmark `{unknown}`: there are {}", NAMES.join(", "));
    }
    let is_wanted = |name| wanted.as_deref().is_none_or(|wanted| wanted == name);
    if is_wanted("guard") {
        guard::run()?;
    }
    if is_wanted("journal") {
        runtime.block_on(journal::run())?;
    }
    if is_wanted("steps") {
        runtime.block_on(steps::run())?;
    }
    if is_wanted("start") {
        runtime.block_on(start::run())?;
    }
    Ok(())
}
