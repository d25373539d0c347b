//! Prints what the guard, the journal and whole steps cost, next to the raw limits of the same minute.
//!
//! `cargo run --release -p steadfast-bench [guard | journal | ledger | start | steps | search | endurance]`;
//! without a name, all. Journal, ledger and steps take a server's URL behind their names:
//! `journal postgres://USER@HOST:PORT/DATABASE`.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod endurance;
mod guard;
mod journal;
mod ledger;
mod machine;
mod search;
mod start;
mod steps;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NAMES: [&str; 7] = ["guard", "journal", "ledger", "start", "steps", "search", "endurance"];

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
        runtime.block_on(journal::run(std::env::args().nth(2).as_deref()))?;
    }
    if is_wanted("ledger") {
        runtime.block_on(ledger::run(std::env::args().nth(2).as_deref()))?;
    }
    if is_wanted("steps") {
        runtime.block_on(steps::run(std::env::args().nth(2).as_deref()))?;
    }
    if is_wanted("endurance") {
        runtime.block_on(endurance::run())?;
    }
    if is_wanted("search") {
        runtime.block_on(search::run())?;
    }
    if is_wanted("start") {
        runtime.block_on(start::run())?;
    }
    Ok(())
}
