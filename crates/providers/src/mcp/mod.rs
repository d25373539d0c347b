//! The Model Context Protocol: tools of servers that we run as children and speak to over stdio.
//!
//! The wire format is rmcp's; processes, time limits, restarts and error classes are ours. A call that
//! may have reached a server and got no answer is [`OutcomeUnknown`] unless its tool only reads: the
//! protocol has no idempotency key, and a cancelled call is not a call that did not happen.
//!
//! We offer servers no capability (no roots, sampling or elicitation) and refuse every request for one:
//! an unanswered request keeps some servers alive for a minute after their end of file.
//!
//! [`OutcomeUnknown`]: steadfast_guard::ErrorClass::OutcomeUnknown

mod config;
mod content;
mod link;
mod server;
mod stderr;
mod tool;

pub use config::{EffectOverride, McpConfigError, McpServerConfig, McpTimeouts, parse_mcp_servers};
pub use server::{McpError, McpServer};
