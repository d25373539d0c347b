//! What is outside: models and tools, their wire formats, and the child processes behind them.
//!
//! This crate translates. It never retries, never waits by policy and never counts money; it says
//! what went wrong in the guard's words ([`steadfast_guard::ErrorClass`]) and leaves the decision to
//! the caller. It owns every child process that Steadfast starts.

pub mod anthropic;
pub mod arguments;
pub mod builtin;
pub mod http;
pub mod mcp;
pub mod model;
pub mod openai;
pub mod process;
pub mod sim;
pub mod sse;
pub mod tokens;
pub mod tool;
pub mod wire;
