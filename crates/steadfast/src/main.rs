//! `steadfast`: the production runtime for AI agents, as one program.

mod cli;
mod config;
mod console;
mod gateway;
mod node;
mod reload;
mod server;
mod simulated;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
