//! Tests against real processes, files and sockets.

mod builtin;
mod mcp;
mod process;
