//! Tests against real processes, files and sockets.

#![expect(clippy::panic, reason = "a test ends where something is not as said")]

mod anthropic;
mod builtin;
mod mcp;
mod openai;
mod process;
mod sim;
