//! Prints what the guard and the journal cost, next to the raw limits of the same minute.
//!
//! `cargo run --release -p steadfast-bench [guard | journal]`; without a name, both.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod guard;
mod journal;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = std::env::args().nth(1);
    if let Some(unknown) = wanted.as_deref().filter(|name| !["guard", "journal"].contains(name)) {
        anyhow::bail!("no benchmark `{unknown}`: it is `guard` or `journal`");
    }
    let is_wanted = |name| wanted.as_deref().is_none_or(|wanted| wanted == name);
    if is_wanted("guard") {
        guard::run()?;
    }
    if is_wanted("journal") {
        runtime.block_on(journal::run())?;
    }
    Ok(())
}
