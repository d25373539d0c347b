//! The arguments of a tool call: what the model wrote, held against the tool's schema.
//!
//! A violation is told to the model, not to a person (SCOPE R9): the text says which place is wrong, what
//! belongs there and what stood there, so that the next try can be right.

use jsonschema::Validator;
use serde_json::{Map, Value};
use thiserror::Error;

/// More violations than this help nobody.
const MAX_VIOLATIONS: usize = 3;
const MAX_PIECE_CHARS: usize = 120;

/// A compiled schema.
#[derive(Debug)]
pub struct Arguments {
    validator: Validator,
    requires_keys: bool,
}

/// The schema of a tool is wrong.
#[derive(Debug, Error)]
#[error("the schema of the arguments is not a valid JSON schema: {reason}")]
pub struct SchemaError {
    reason: String,
}

/// The arguments do not fit. Written for the model.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub struct ArgumentsError {
    text: String,
}

impl Arguments {
    /// Compiles a schema. References to other documents are not fetched.
    ///
    /// # Errors
    /// [`SchemaError`] if it is not a JSON schema.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let validator = jsonschema::validator_for(schema)
            .map_err(|error| SchemaError { reason: shorten(&error.to_string()) })?;
        let requires_keys =
            schema.get("required").and_then(Value::as_array).is_some_and(|keys| !keys.is_empty());
        Ok(Self { validator, requires_keys })
    }

    /// Parses and checks what a model wrote. Blank means `{}` if the schema requires no key.
    ///
    /// # Errors
    /// [`ArgumentsError`], whose text is the answer to the model.
    pub fn parse(&self, raw: &str) -> Result<Value, ArgumentsError> {
        let value = if raw.trim().is_empty() && !self.requires_keys {
            Value::Object(Map::new())
        } else {
            serde_json::from_str(raw).map_err(|error| not_json(raw, &error))?
        };
        if !value.is_object() {
            return Err(ArgumentsError {
                text: format!(
                    "The arguments must be a JSON object such as {{\"key\": \"value\"}}. You sent: {}",
                    shorten(raw)
                ),
            });
        }
        self.check(&value)?;
        Ok(value)
    }

    fn check(&self, value: &Value) -> Result<(), ArgumentsError> {
        let mut errors = self.validator.iter_errors(value);
        let lines: Vec<String> = errors.by_ref().take(MAX_VIOLATIONS).map(|e| line(&e)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = format!("The arguments do not fit the tool's schema:\n{}", lines.join("\n"));
        if errors.next().is_some() {
            text.push_str("\n- and more");
        }
        text.push_str("\nSend the call again with all arguments corrected.");
        Err(ArgumentsError { text })
    }
}

fn line(error: &jsonschema::ValidationError<'_>) -> String {
    let path = error.instance_path().to_string();
    let place = if path.is_empty() { "(the whole object)" } else { &path };
    format!(
        "- at `{place}`: expected {}. You sent: {}",
        shorten(&expectation(error)),
        shorten(&error.instance().to_string())
    )
}

/// What belongs there, without the value: that is shown, shortened, behind it.
fn expectation(error: &jsonschema::ValidationError<'_>) -> String {
    use jsonschema::error::ValidationErrorKind as Kind;
    match error.kind() {
        Kind::Required { property } => format!("the key {property}, which is missing"),
        Kind::AdditionalProperties { unexpected } => {
            format!("no such keys as {}", unexpected.join(", "))
        }
        Kind::Enum { options } => format!("one of {options}"),
        Kind::Constant { expected_value } => format!("exactly {expected_value}"),
        Kind::Pattern { pattern } => format!("a string that matches {pattern}"),
        Kind::Minimum { limit } => format!("a number of at least {limit}"),
        Kind::Maximum { limit } => format!("a number of at most {limit}"),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::Type { kind: jsonschema::error::TypeKind::Single(kind) } => format!("type {kind}"),
        _ => error.masked_with("the value").to_string(),
    }
}

fn not_json(raw: &str, error: &serde_json::Error) -> ArgumentsError {
    let text = if raw.trim().is_empty() {
        "The arguments are empty, and the tool requires some. Send a JSON object.".to_owned()
    } else {
        let cut = if error.is_eof() { " They end too early: the text was cut off." } else { "" };
        format!("The arguments are not valid JSON: {error}.{cut} You sent: {}", shorten(raw))
    };
    ArgumentsError { text }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_PIECE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use serde_json::{Value, json};

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "mode": {"enum": ["r", "w"]}
            },
            "required": ["path"],
            "additionalProperties": false
        })
    }

    fn refused(raw: &str) -> String {
        Arguments::compile(&schema()).unwrap().parse(raw).unwrap_err().to_string()
    }

    #[test]
    fn r9_good_arguments_come_back_as_they_are() {
        let arguments = Arguments::compile(&schema()).unwrap();
        assert_eq!(arguments.parse(r#"{"path":"a"}"#).unwrap(), json!({"path": "a"}));
    }

    #[test]
    fn r9_blank_is_an_empty_object_only_if_nothing_is_required() {
        let free = Arguments::compile(&json!({"type": "object"})).unwrap();
        assert_eq!(free.parse("  ").unwrap(), json!({}));
        assert!(refused("").contains("requires some"));
    }

    #[test]
    fn r9_each_violation_names_its_place_what_belongs_there_and_what_was_sent() {
        let text = refused(r#"{"path": 5, "lines": [1, "two"], "mode": "x"}"#);
        assert!(text.contains("at `/path`: expected type string. You sent: 5"), "{text}");
        assert!(text.contains("at `/lines/1`: expected type integer. You sent: \"two\""), "{text}");
        assert!(text.contains("at `/mode`: expected one of [\"r\",\"w\"]"), "{text}");
    }

    #[test]
    fn r9_a_missing_key_and_an_unknown_one_are_named() {
        let text = refused(r#"{"pth": "a"}"#);
        assert!(text.contains("\"path\", which is missing"), "{text}");
        assert!(text.contains("no such keys as pth"), "{text}");
    }

    #[test]
    fn r9_at_most_three_violations_are_listed() {
        let text = refused(r#"{"path": 1, "lines": ["a", "b", "c", "d"]}"#);
        assert_eq!(text.matches("- at ").count(), 3, "{text}");
        assert!(text.contains("and more"), "{text}");
    }

    #[test]
    fn r9_cut_json_and_other_values_than_objects_are_refused_with_a_short_piece() {
        assert!(refused(r#"{"path": "#).contains("cut off"));
        assert!(refused("[1]").contains("must be a JSON object"));
        assert!(refused(&format!("\"{}\"", "x".repeat(5000))).len() < 400);
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        assert!(Arguments::compile(&json!({"type": "no-such-type"})).is_err());
    }
}
