//! What the runtime refuses, and why: each with a stable code.

use steadfast_store::{RunId, StoreError};

use crate::run::FoldError;
use crate::state::Status;

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There is no such agent.
    #[error("there is no agent `{name}`{}", known_names(.known))]
    UnknownAgent {
        /// The name asked for.
        name: String,
        /// The agents there are.
        known: Vec<String>,
    },
    /// There is no such schedule.
    #[error("there is no schedule `{name}`{}", known_schedules(.known))]
    UnknownSchedule {
        /// The name asked for.
        name: String,
        /// The schedules there are.
        known: Vec<String>,
    },
    /// There is no such access key.
    #[error("there is no key `{id}`: `steadfast keys list` shows them")]
    UnknownKey {
        /// The id asked for.
        id: String,
    },
    /// The access key was revoked.
    #[error("key `{id}` was revoked, which is for good: make another one")]
    KeyRevoked {
        /// The key.
        id: String,
    },
    /// The access key got another secret meanwhile.
    #[error(
        "key `{id}` got another secret meanwhile, and was not given one more: look at it, and rotate it \
         again if you must"
    )]
    KeyRotated {
        /// The key.
        id: String,
    },
    /// The operating system gives no random numbers, and without them no secret is made.
    #[error("the operating system gives no random numbers ({problem}): nothing was made")]
    NoRandomness {
        /// What it says.
        problem: String,
    },
    /// There is no such run.
    #[error("there is no run {run}")]
    UnknownRun {
        /// The run.
        run: RunId,
    },
    /// The command is not possible in the run's state.
    #[error("cannot {command} run {run}: {}", standing(*.status))]
    WrongState {
        /// The run.
        run: RunId,
        /// The command.
        command: &'static str,
        /// The run's state.
        status: Status,
    },
    /// The run does not ask about this call.
    #[error("run {run} does not ask about call `{call_id}`: {}", asks(.asked.as_deref(), *.status))]
    NotAsking {
        /// The run.
        run: RunId,
        /// The call that was answered.
        call_id: String,
        /// The call that it asks about.
        asked: Option<String>,
        /// The run's state.
        status: Status,
    },
    /// The run is an agent's, and agents hear no signals.
    #[error(
        "run {run} hears no signals: it is executed by agent `{agent}`, and only code waits for signals"
    )]
    NotListening {
        /// The run.
        run: RunId,
        /// What executes it.
        agent: String,
    },
    /// The run kept changing while the command was tried.
    #[error(
        "could not {command} run {run}: it changed under every one of {attempts} attempts; try again"
    )]
    Contended {
        /// The run.
        run: RunId,
        /// The command.
        command: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The key was used for something else.
    #[error(
        "this key was used before, for run {run}, {}: use another key, or ask for the same as then",
        other(.differs)
    )]
    KeyConflict {
        /// The run.
        run: RunId,
        /// What differs from then, by the names of the API. Empty if the run was made in another way.
        differs: Vec<&'static str>,
    },
    /// The configuration of the runtime cannot work.
    #[error("{}{problem}", at(.place.as_deref()))]
    Misconfigured {
        /// The key of the configuration, dotted, if it is one key that is wrong.
        place: Option<String>,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The input is not acceptable.
    #[error("{problem}")]
    InvalidInput {
        /// What is wrong with it and what is allowed.
        problem: String,
    },
    /// The runtime is draining and accepts nothing new.
    #[error("this node is shutting down: submit to another one, or again when it is back")]
    ShuttingDown,
    /// What a step gave is larger than the store keeps.
    #[error(
        "{what} (event {seq} of run {run}) is {size_bytes} bytes and the limit is {limit_bytes}: \
         nothing of it was kept; let it give less, such as the name of a file that holds it, and \
         resume the run"
    )]
    TooLarge {
        /// The run.
        run: RunId,
        /// Where in its log it would have stood.
        seq: u64,
        /// What is too large, with the name of the step or tool.
        what: String,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The run's log cannot be folded.
    #[error("the log of a run is damaged")]
    Fold(#[from] FoldError),
    /// The store refused or failed.
    #[error("the store did not do its part")]
    Store(#[source] StoreError),
}

fn at(place: Option<&str>) -> String {
    place.map(|place| format!("`{place}`: ")).unwrap_or_default()
}

/// How a run stands, and what can be done with it.
fn standing(status: Status) -> String {
    let is = match status {
        Status::Succeeded => "has succeeded",
        Status::Failed => "has failed",
        Status::Cancelled => "was cancelled",
        Status::Queued => "is queued",
        Status::Running => "is running",
        Status::Waiting => "is waiting",
        Status::Paused => "is paused",
    };
    format!("it {is}, and can be told: {}", status.commands().join(", "))
}

fn asks(asked: Option<&str>, status: Status) -> String {
    match asked {
        Some(call_id) => format!("it asks about call `{call_id}`"),
        None => format!("it asks nobody about a call; {}", standing(status)),
    }
}

fn other(differs: &[&str]) -> String {
    match differs {
        [] => "which was made in another way".to_owned(),
        [one] => format!("with another `{one}`"),
        [all @ .., last] => format!("with another `{}` and `{last}`", all.join("`, `")),
    }
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        ": none is configured; add an `[agents.NAME]` section".to_owned()
    } else {
        format!("; there are: {}", known.join(", "))
    }
}

fn known_schedules(known: &[String]) -> String {
    if known.is_empty() {
        ": none is configured; add a `[schedules.NAME]` section".to_owned()
    } else {
        format!("; there are: {}", known.join(", "))
    }
}

impl From<StoreError> for RuntimeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { run } => Self::UnknownRun { run },
            error => Self::Store(error),
        }
    }
}

impl RuntimeError {
    /// The error's stable code; each has a page in `docs/errors/`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::UnknownSchedule { .. } => "unknown_schedule",
            Self::UnknownKey { .. } => "unknown_key",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::KeyRotated { .. } => "key_rotated",
            Self::NoRandomness { .. } => "no_randomness",
            Self::UnknownRun { .. } => "unknown_run",
            Self::WrongState { .. } => "wrong_state",
            Self::NotAsking { .. } => "not_asking",
            Self::NotListening { .. } => "not_listening",
            Self::Contended { .. } => "contended",
            Self::KeyConflict { .. } => "key_conflict",
            Self::Misconfigured { .. } => "misconfigured",
            Self::InvalidInput { .. } => "invalid_input",
            Self::ShuttingDown => "shutting_down",
            Self::TooLarge { .. } => "too_large",
            Self::Fold(_) => "damaged_log",
            Self::Store(StoreError::Unavailable { .. }) => "store_unavailable",
            Self::Store(_) => "store_failed",
        }
    }
}
