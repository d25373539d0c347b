//! What a model is asked and what it answers, whatever the wire format.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_guard::{Classify, ErrorClass};

/// A model that can be asked. One call is one request on the wire: no retry, no policy wait.
#[async_trait]
pub trait Model: Send + Sync {
    /// Its name for people: provider and model, such as `openai/gpt-5.4-mini`.
    fn name(&self) -> &str;

    /// Whether the answers are scripted. Shown wherever a user sees the model.
    fn simulated(&self) -> bool;

    /// Asks and waits for the whole answer. Dropping the future aborts the request.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError>;

    /// Asks and hands out the answer as it arrives. The future ends when the response head is there;
    /// the stream's last item is [`ModelDelta::Done`], and a stream that ends without one was cut.
    /// Dropping the stream aborts the request.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError>;

    /// How many tokens the request will count as input.
    fn count_tokens(&self, request: &ModelRequest) -> TokenCount;
}

/// An answer on its way.
pub type ModelStream = BoxStream<'static, Result<ModelDelta, ModelError>>;

/// What a model is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelRequest {
    /// The instructions that stand above the conversation.
    pub system: Option<String>,
    /// The conversation. Every tool call in it has exactly one result.
    pub messages: Vec<Message>,
    /// The tools it may call.
    pub tools: Vec<ToolDefinition>,
    /// The longest answer, in tokens.
    pub max_output_tokens: Option<u32>,
    /// Sampling temperature, if it is to differ from the provider's default.
    pub temperature: Option<f64>,
    /// The same for every attempt of one logical call; sent as `Idempotency-Key`.
    pub idempotency_key: Option<String>,
}

/// A tool as a model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON schema of its arguments.
    pub schema: Value,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// From the user, or from the runtime on the user's behalf.
    User {
        /// The text.
        text: String,
    },
    /// From the model.
    Assistant {
        /// The text; empty if the message only calls tools.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
        /// The tools it calls.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
    },
    /// The result of one tool call.
    Tool {
        /// The id of the call.
        call_id: String,
        /// The tool's name.
        name: String,
        /// What the model is told.
        content: String,
        /// Whether the call failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

/// A model's wish to call a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The call's id, as the model gave it.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them: meant to be a JSON object, and not always one.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments as a JSON object, if they are one.
    #[must_use]
    pub fn arguments_object(&self) -> Option<serde_json::Map<String, Value>> {
        serde_json::from_str(&self.arguments).ok()
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The text; empty if the answer only calls tools.
    pub text: String,
    /// The tools it calls.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What it cost, as far as the provider said.
    pub usage: Usage,
    /// The model that answered, as the provider named it.
    pub model: String,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelDelta {
    /// More text.
    Text(String),
    /// More of a tool call's arguments, or its beginning. Counts as a sign of life; the whole calls
    /// stand in [`ModelDelta::Done`].
    ToolCall {
        /// Which call of the answer, from 0.
        index: usize,
        /// The tool's name, with the first piece.
        name: Option<String>,
        /// More of the arguments.
        arguments: String,
    },
    /// A sign of life without content (reasoning, an event that carries nothing for us).
    Activity,
    /// The end: everything together.
    Done(Box<ModelAnswer>),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done.
    Stop,
    /// It waits for tools.
    ToolCalls,
    /// The answer was cut at the output limit; its last tool call may be cut too.
    Length,
    /// The provider or the model refused.
    Refused,
    /// Something else.
    Other,
}

/// Tokens in four disjoint input buckets and one for output, and parts of them. Absent is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input that was neither read from nor written to a prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_uncached: Option<u64>,
    /// Input read from a prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input written to a prompt cache for the provider's usual time (Anthropic: five minutes), and all
    /// of which the provider does not say for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Input written to a prompt cache for an hour, which costs more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<u64>,
    /// All output, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// The part of the output that was reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_reasoning: Option<u64>,
    /// The part of the input that was audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_audio: Option<u64>,
    /// The part of the output that was audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_audio: Option<u64>,
    /// The tier in which the provider served the call; prices differ by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,
}

/// How a provider ranks a call. Each has its own price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The usual one (OpenAI `default`, Anthropic `standard`).
    Standard,
    /// Cheaper and slower (OpenAI `flex`).
    Flex,
    /// Dearer and faster.
    Priority,
    /// Prepaid capacity (OpenAI `scale`).
    Scale,
    /// Served within a day.
    Batch,
    /// One that has no name here.
    Other,
}

impl ServiceTier {
    /// The tier that a provider names in an answer; `None` for an empty name and for `auto`, which is
    /// a wish and no tier.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "" | "auto" => return None,
            "default" | "standard" => Self::Standard,
            "flex" => Self::Flex,
            "priority" => Self::Priority,
            "scale" => Self::Scale,
            "batch" => Self::Batch,
            _ => Self::Other,
        })
    }

    /// Its word in price lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Scale => "scale",
            Self::Batch => "batch",
            Self::Other => "other",
        }
    }
}

impl Usage {
    const fn inputs(&self) -> [Option<u64>; 4] {
        [self.input_uncached, self.cache_read, self.cache_write, self.cache_write_1h]
    }

    /// All input tokens that the provider reported.
    #[must_use]
    pub fn input_total(&self) -> u64 {
        self.inputs().into_iter().flatten().fold(0, u64::saturating_add)
    }

    /// All tokens of the call; `None` if the provider told none.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let told = self.inputs().into_iter().chain([self.output]).flatten();
        told.reduce(u64::saturating_add)
    }

    /// Adds another call's tokens; what neither reported stays absent. Calls of different tiers have
    /// no tier together.
    pub fn add(&mut self, other: &Self) {
        let sum = |into: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *into = Some(into.unwrap_or(0).saturating_add(more));
            }
        };
        if self.total().is_none() {
            self.service_tier = other.service_tier;
        } else if self.service_tier != other.service_tier && other.total().is_some() {
            self.service_tier = None;
        }
        sum(&mut self.input_uncached, other.input_uncached);
        sum(&mut self.cache_read, other.cache_read);
        sum(&mut self.cache_write, other.cache_write);
        sum(&mut self.cache_write_1h, other.cache_write_1h);
        sum(&mut self.output, other.output);
        sum(&mut self.output_reasoning, other.output_reasoning);
        sum(&mut self.input_audio, other.input_audio);
        sum(&mut self.output_audio, other.output_audio);
    }
}

/// A number of tokens, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// How many.
    pub tokens: u64,
    /// Counted with the model's own tokenizer; otherwise with a related one.
    pub exact: bool,
}

/// Why a model gave no answer.
#[derive(Debug)]
pub struct ModelError {
    /// What kind of thing went wrong.
    pub class: ErrorClass,
    /// The model, as [`Model::name`].
    pub model: String,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// What the provider said, or what happened on this side. Never holds a secret.
    pub message: String,
    /// How long the provider asked us to wait.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model `{}`: {}", self.model, self.message)?;
        if let Some(status) = self.status {
            write!(f, " (HTTP {status})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ModelError {}

impl Classify for ModelError {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}
