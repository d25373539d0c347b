//! What stands in for an answer that a dependency does not give: other models and tools, a shorter
//! conversation, the last good result, an answer that stands ready, a later time (SCOPE R13, R14).
//!
//! Whatever stands in says so: the event has `degraded`, and a model is told in the result itself.

mod last_good;
mod rule;

pub(crate) use last_good::LastGood;
pub use rule::{AnswerChecks, FallbackRule, PreparedAnswer};
