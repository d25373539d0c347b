//! Prints what the guard and the journal cost, next to the raw limits of the same minute.
//!
//! `cargo run --release -p steadfast-bench`

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod guard;
mod journal;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    guard::run()?;
    runtime.block_on(journal::run())
}
