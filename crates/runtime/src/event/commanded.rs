//! What the events of commands say: what differs in a fork, what a rollback undoes, how a call was judged.

use serde::{Deserialize, Serialize};

/// What is different in a fork.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// What the run is to do, instead of what it was submitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The model, by its configured name, instead of the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the model is told above the conversation, instead of the agent's instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

impl Changes {
    /// Whether nothing is different.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.input.is_none() && self.model.is_none() && self.instructions.is_none()
    }
}

/// A call that undoes another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoCall {
    /// The call that it undoes, as in the model's answer.
    pub call_id: String,
    /// The tool of that call.
    pub tool: String,
    /// The tool that undoes it.
    pub with: String,
    /// Its arguments.
    pub arguments: String,
    /// The key handed to it; made from the key of what it undoes, so that undoing twice undoes once.
    pub key: String,
    /// Whether the call that it undoes had been asked for before the place that the run goes back to: it is
    /// made again, then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopens: bool,
}

/// A change that a rollback leaves in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftCall {
    /// The call, as in the model's answer.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// Whether it may or may not have taken effect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Whether a call that was interrupted had taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It had: it counts as done.
    Happened,
    /// It had not: it is made, with the same key.
    DidNot,
    /// Nobody can say, and the run fails.
    Fail,
    /// The tool that was asked does not know either.
    Unclear,
}

impl Verdict {
    /// As people say it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Happened => "happened",
            Self::DidNot => "did not happen",
            Self::Fail => "to fail",
            Self::Unclear => "unclear",
        }
    }
}
