//! A tool of a server.

use std::sync::Arc;

use async_trait::async_trait;
use rmcp::ServiceError;
use rmcp::model::{CallToolRequestParams, CallToolResponse, ErrorCode, ErrorData};
use serde_json::Value;
use steadfast_guard::{Effect, ErrorClass};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::content;
use super::server::Shared;
use crate::model::ToolDefinition;
use crate::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

/// The longest name that all model providers take.
const MAX_NAME: usize = 64;

#[derive(Debug)]
pub(super) struct McpTool {
    spec: ToolSpec,
    /// The server's own name for it.
    wire_name: String,
    shared: Arc<Shared>,
}

impl McpTool {
    pub(super) fn new(shared: &Arc<Shared>, tool: rmcp::model::Tool) -> Self {
        let wire_name = tool.name.to_string();
        let effect = match shared.config.effects.get(&wire_name) {
            Some(written) => Effect::from(*written),
            None if shared.config.trust => annotated(tool.annotations.as_ref()),
            None => Effect::Once,
        };
        let description = tool.description.map(|text| text.to_string());
        let spec = ToolSpec {
            definition: ToolDefinition {
                name: public_name(&shared.name, &wire_name),
                description: description.or(tool.title).unwrap_or_default(),
                schema: Value::Object((*tool.input_schema).clone()),
            },
            effect,
            timeout: shared.config.timeouts.request,
            dependency: format!("mcp:{}", shared.name),
        };
        Self { spec, wire_name, shared: Arc::clone(shared) }
    }

    fn error(&self, class: ErrorClass, message: String) -> ToolError {
        ToolError { class, tool: self.spec.definition.name.clone(), message, retry_after: None }
    }

    /// The class of a call that may have reached the server and got no answer.
    const fn unanswered(&self, if_read: ErrorClass) -> ErrorClass {
        match self.spec.effect {
            Effect::Read => if_read,
            Effect::Idempotent | Effect::Once => ErrorClass::OutcomeUnknown,
        }
    }

    fn failed(&self, failure: &ServiceError) -> ToolError {
        let (class, message) = match failure {
            ServiceError::McpError(error) => {
                (refusal(error), self.shared.stderr.redact(&error.message))
            }
            ServiceError::TransportClosed | ServiceError::TransportSend(_) => (
                self.unanswered(ErrorClass::Connection),
                self.shared.explain("the server ended before it answered"),
            ),
            ServiceError::UnexpectedResponse => (
                self.unanswered(ErrorClass::Malformed),
                "the server's answer is not what the protocol says".to_owned(),
            ),
            _ => (self.unanswered(ErrorClass::Server), "the call was broken off".to_owned()),
        };
        self.error(class, message)
    }
}

#[async_trait]
impl Tool for McpTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let Value::Object(arguments) = call.arguments else {
            let message = "the arguments must be an object".to_owned();
            return Err(self.error(ErrorClass::InvalidRequest, message));
        };
        let deadline = call.deadline.min(Instant::now() + self.spec.timeout);
        // Nothing has been sent yet, so whatever goes wrong here may be tried again.
        let link = match timeout_at(deadline, Box::pin(self.shared.link())).await {
            Ok(Ok(link)) => link,
            Ok(Err(none)) => {
                let error = self.error(ErrorClass::Connection, none.message);
                return Err(ToolError { retry_after: none.retry_after, ..error });
            }
            Err(_) => {
                let message = "the server was not up in time; nothing was sent".to_owned();
                return Err(self.error(ErrorClass::Connection, message));
            }
        };
        let mut params =
            CallToolRequestParams::new(self.wire_name.clone()).with_arguments(arguments);
        if self.spec.effect != Effect::Read {
            let meta = params.meta.get_or_insert_default();
            meta.0.0.insert(KEY_META.to_owned(), call.idempotency_key.into());
        }
        let answer = tokio::select! {
            // An answer that is there counts, even at the deadline.
            biased;
            answer = Box::pin(link.peer.call_tool_once(params)) => answer,
            // Dropping the call sends `notifications/cancelled`; a late answer then finds nobody waiting.
            () = sleep_until(deadline) => {
                let message = "no answer within the time limit; the server was told to stop, and may \
                               have done the work all the same".to_owned();
                return Err(self.error(self.unanswered(ErrorClass::Timeout), message));
            }
        };
        match answer {
            Ok(CallToolResponse::Complete(result)) => Ok(content::output(&result)),
            Ok(CallToolResponse::InputRequired(_)) => {
                let message = "the server asks for input, which is not offered to it".to_owned();
                Err(self.error(ErrorClass::InvalidRequest, message))
            }
            Ok(_) => {
                let message = "the server answered with a task, which is not supported".to_owned();
                Err(self.error(self.unanswered(ErrorClass::Malformed), message))
            }
            Err(failure) => Err(self.failed(&failure)),
        }
    }
}

/// Where a server finds the key of a call that changes something: the same for all its attempts, before and
/// after a crash. The protocol has no field for it, so it is among the request's metadata.
const KEY_META: &str = "steadfast/idempotency-key";

/// The class of an answer that refuses.
fn refusal(error: &ErrorData) -> ErrorClass {
    match error.code {
        ErrorCode::INVALID_PARAMS | ErrorCode::INVALID_REQUEST | ErrorCode::PARSE_ERROR => {
            ErrorClass::InvalidRequest
        }
        ErrorCode::METHOD_NOT_FOUND | ErrorCode::RESOURCE_NOT_FOUND => ErrorClass::NotFound,
        _ => ErrorClass::Server,
    }
}

/// Absent hints are what the protocol says of them: writes, destructive, not idempotent.
fn annotated(hints: Option<&rmcp::model::ToolAnnotations>) -> Effect {
    let Some(hints) = hints else { return Effect::Once };
    if hints.read_only_hint == Some(true) {
        Effect::Read
    } else if hints.idempotent_hint == Some(true) {
        Effect::Idempotent
    } else {
        Effect::Once
    }
}

/// `server__tool` in the letters that model providers allow. Where letters were replaced or cut, a
/// digest of the true name keeps two tools apart.
fn public_name(server: &str, tool: &str) -> String {
    let full = format!("{server}__{tool}");
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if full.len() <= MAX_NAME && full.chars().all(allowed) {
        return full;
    }
    let clean: String = full.chars().map(|l| if allowed(l) { l } else { '_' }).collect();
    let kept = clean.len().min(MAX_NAME - 9);
    format!("{}_{:08x}", &clean[..kept], digest(&full))
}

/// FNV-1a, 32 bits: the same in every build, so that names in old histories stay right.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::{annotated, public_name};
    use rmcp::model::ToolAnnotations;
    use steadfast_guard::Effect;

    #[test]
    fn names_fit_every_model_provider_and_stay_distinct() {
        assert_eq!(public_name("git", "git_log"), "git__git_log");
        let dotted = public_name("my.server", "a/b");
        let other = public_name("my.server", "a.b");
        assert_ne!(dotted, other);
        for name in [dotted, other, public_name("s", &"x".repeat(100)), public_name("é", "ü")] {
            assert!(name.len() <= 64, "{name}");
            assert!(
                name.chars().all(|l| l.is_ascii_alphanumeric() || l == '_' || l == '-'),
                "{name}"
            );
        }
        assert_ne!(public_name("s", &"x".repeat(100)), public_name("s", &"x".repeat(101)));
    }

    #[test]
    fn hints_give_the_effect_and_absent_ones_give_once() {
        let mut hints = ToolAnnotations::default();
        assert_eq!(annotated(None), Effect::Once);
        assert_eq!(annotated(Some(&hints)), Effect::Once);
        hints.idempotent_hint = Some(true);
        assert_eq!(annotated(Some(&hints)), Effect::Idempotent);
        hints.read_only_hint = Some(true);
        assert_eq!(annotated(Some(&hints)), Effect::Read);
    }
}
