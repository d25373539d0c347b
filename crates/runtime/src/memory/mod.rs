//! What outlives a run: facts by key, of a tenant, an agent or a session (SCOPE C13).
//!
//! A run writes facts in the transaction of the event that tells of it, by its agent's tools (`tools`) or its
//! code ([`crate::code::RunFacts`]); everybody else writes them at once ([`FactBook`]). Values are JSON.

mod book;
mod scope;
mod tools;

pub use self::book::{FactBook, FactQuery, FactView};
pub use self::scope::{FactScope, MemoryScope};
pub use self::tools::MemoryRule;
pub(crate) use self::tools::{MemoryTool, tools_of};
