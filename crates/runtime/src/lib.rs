//! Runs agents durably.
//!
//! A run is a fold over its journal. The agent loop is a pure reducer that looks at the fold and says
//! what should happen next; a driver does it, through the one place that every outside call goes
//! through, and appends what came of it. When the process dies at any point, the next one folds the
//! same journal and goes on.
//!
//! ```text
//!  submit -> [queued] -> scheduler claims -> driver: decide -> call outside -> append -> decide ...
//!                              ^                                                 |
//!                              +---- crash: lease ends, claimed again, folded ---+
//! ```
//!
//! This crate is the only one that combines guard, store and providers. It opens no listener and
//! reads no configuration file; it can be embedded in any Rust program. Start at [`Runtime`].

mod access;
pub mod agent;
mod audit;
mod call;
mod catalog;
mod checkpoint;
mod claimed;
pub mod code;
mod commands;
mod driver;
mod error;
pub mod event;
mod expense;
mod fallback;
mod folding;
mod journal;
mod key_rule;
mod later;
mod lease;
pub mod ledger;
mod letters;
mod memory;
mod operations;
mod policies;
pub mod prices;
mod problems;
mod queue;
mod recovery;
pub mod relay;
mod retention;
mod run;
mod runtime;
mod schedule;
mod scheduler;
mod shared;
mod state;
mod stored;
mod template;
mod unknown;
mod view;
mod watch;

pub use access::{
    AccessKey, GRACE_DEFAULT, IssuedKey, KeyBudget, KeyEdit, KeyLimits, KeyQuery, KeyRefused,
    KeyRing, KeySecret, KeySpec, KeyState, OLD_SECRETS_MAX, SEEN_WITHIN,
};
pub use agent::AgentSpec;
pub use audit::{audit, compare, folded, remedied};
pub use catalog::{Catalog, CatalogBuilder};
pub use checkpoint::CheckpointPolicy;
pub use commands::{
    AnswerCall, CancelRun, ForkRun, INPUT_BYTES_MAX, PauseRun, Pausing, ResumeRun, RetryRun,
    RollbackRun, RolledBackTo, SignalRun, SubmitRun, Submitted,
};
pub use error::RuntimeError;
pub use event::RunEvent;
pub use expense::ExpenseRule;
pub use fallback::{AnswerChecks, FallbackRule, PreparedAnswer};
pub use journal::Summary;
pub use key_rule::{DEFAULT_KEEP, KeyRule};
pub use memory::{FactBook, FactQuery, FactScope, FactView, MemoryRule, MemoryScope};
pub use operations::{EntryError, Once, OnceError, Operation};
pub use policies::{PolicyChange, PolicyRules, RuleError};
pub use problems::{Flaws, Note, Problem, ProblemHook, ProblemNotice, ProblemRules, RepeatRule};
pub use queue::{Waiting, WaitsFor};
pub use recovery::{Allowance, Judgement, Origin, Overrides, Question, Rollback};
pub use retention::Retention;
pub use run::{
    CallState, Cancelling, Ending, FoldError, OpenCall, QueuedRun, Run, TOOL_CONTENT_BYTES_MAX,
};
pub use runtime::Runtime;
pub use schedule::{CATCH_UP_MAX, CatchUp, Cron, CronError, Overlap, Schedule, ScheduleView};
pub use shared::RuntimeOptions;
pub use state::{IllegalTransition, Status};
pub use stored::INLINE_BYTES_MAX;
pub use unknown::{Compensation, Otherwise, UnknownRule, VerdictFrom, Verification};
pub use view::{CheckpointView, EventView, RunList, RunView};
pub use watch::{Notice, Watch};
