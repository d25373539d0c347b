//! What an agent is, and the loop that makes it one: a pure reducer that looks at a run and says what
//! should happen next.

mod decide;
mod definition;
mod history;
mod shorten;

pub(crate) use decide::{Decision, decide, failure, model_key};
pub(crate) use definition::names;
pub use definition::{AgentSpec, DEFAULT_MAX_ITERATIONS};
pub(crate) use history::unique_call_ids;
pub use history::valid_history;
pub(crate) use shorten::shorten;
