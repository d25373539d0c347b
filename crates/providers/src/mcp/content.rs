//! The result of a tool call as text.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

use crate::tool::ToolOutput;

/// Texts are joined; what is not text is described, since the model is given text only.
pub(super) fn output(result: &CallToolResult) -> ToolOutput {
    let is_error = result.is_error.unwrap_or(false);
    let has_text = result.content.iter().any(|block| matches!(block, ContentBlock::Text(_)));
    let mut parts: Vec<String> = result.content.iter().map(describe).collect();
    if !has_text && let Some(structured) = &result.structured_content {
        parts.push(structured.to_string());
    }
    ToolOutput { content: parts.join("\n"), is_error, progress: None }
}

fn describe(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => blob("image", Some(&image.mime_type), &image.data),
        ContentBlock::Audio(audio) => blob("audio", Some(&audio.mime_type), &audio.data),
        ContentBlock::Resource(embedded) => match &embedded.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => {
                format!("[resource {uri}]\n{text}")
            }
            ResourceContents::BlobResourceContents { uri, mime_type, blob: data, .. } => {
                blob(&format!("resource {uri}"), mime_type.as_deref(), data)
            }
            _ => "[resource of an unknown kind]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[resource link {}: {}]", link.name, link.uri),
        _ => "[content of an unknown kind]".to_owned(),
    }
}

fn blob(kind: &str, mime_type: Option<&str>, base64: &str) -> String {
    let digits = base64.trim_end_matches('=').len();
    let mime_type = mime_type.unwrap_or("application/octet-stream");
    format!("[{kind} {mime_type}, {} bytes]", digits * 3 / 4)
}

#[cfg(test)]
mod tests {
    use super::output;
    use rmcp::model::{CallToolResult, ContentBlock};
    use serde_json::json;

    #[test]
    fn texts_are_joined_and_blobs_described() {
        let result = CallToolResult::success(vec![
            ContentBlock::text("one"),
            ContentBlock::image("aGVsbG8=", "image/png"),
            ContentBlock::text("two"),
        ]);
        assert_eq!(output(&result).content, "one\n[image image/png, 5 bytes]\ntwo");
    }

    #[test]
    fn structured_content_is_shown_only_without_text() {
        let mut result = CallToolResult::success(vec![]);
        result.structured_content = Some(json!({"sum": 3}));
        assert_eq!(output(&result).content, r#"{"sum":3}"#);
        result.content.push(ContentBlock::text("three"));
        assert_eq!(output(&result).content, "three");
    }
}
