//! Tests against real processes, files and sockets.

mod anthropic;
mod builtin;
mod mcp;
mod openai;
mod process;
mod sim;
mod wire;
