//! A tool by which an agent says where it stands (SCOPE C7).

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};

use crate::tool::{Progress, Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

/// `report_progress`: step k of n and a few words. Touches nothing outside.
#[derive(Debug)]
pub struct ReportProgress {
    spec: ToolSpec,
}

impl ReportProgress {
    /// The tool.
    #[must_use]
    pub fn new() -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "step": {"type": "integer", "minimum": 0, "description": "steps done"},
                "total": {"type": "integer", "minimum": 1, "description": "steps in all"},
                "description": {"type": "string", "description": "what is being done"}
            },
            "required": ["step", "total", "description"],
            "additionalProperties": false
        });
        let description = "Tell the user how far the task is.";
        Self { spec: super::spec("report_progress", description, schema, Effect::Read) }
    }
}

impl Default for ReportProgress {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Tool for ReportProgress {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let number = |key: &str| call.arguments.get(key).and_then(Value::as_u64);
        let (Some(step), Some(total)) = (number("step"), number("total")) else {
            let message = "`step` and `total` must be whole numbers from 0".to_owned();
            return Err(super::error(&self.spec, ErrorClass::InvalidRequest, message));
        };
        let description = super::text_argument(&self.spec, &call.arguments, "description", None)?;
        if step > total {
            return Ok(super::failed(format!("step {step} is beyond the total of {total}")));
        }
        Ok(ToolOutput {
            content: "noted".to_owned(),
            is_error: false,
            progress: Some(Progress { step, total, description }),
        })
    }
}
