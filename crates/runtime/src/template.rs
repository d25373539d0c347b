//! The arguments of one tool call, made from another one's arguments and result.

use serde_json::{Map, Value};

/// Arguments with places: `{name}` is filled from the first call's argument of that name, `{result}` with the
/// whole of what it said, `{result.name}` from that read as a JSON object; `{{` and `}}` stand for the braces.
/// A text that is one place and nothing else becomes the value itself, a number remains one.
pub(crate) fn fill(
    template: &Map<String, Value>,
    arguments: &Value,
    result: Option<&str>,
) -> Result<Value, String> {
    let fields = template.iter().map(|(name, value)| {
        fill_value(value, arguments, result).map(|value| (name.clone(), value))
    });
    fields.collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

/// Whether the places are well written.
pub(crate) fn check(template: &Map<String, Value>) -> Result<(), String> {
    template.values().try_for_each(check_value)
}

fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) => parse(text).map(drop),
        Value::Array(items) => items.iter().try_for_each(check_value),
        Value::Object(fields) => fields.values().try_for_each(check_value),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn fill_value(value: &Value, arguments: &Value, result: Option<&str>) -> Result<Value, String> {
    let again = |value| fill_value(value, arguments, result);
    match value {
        Value::String(text) => {
            let parts = parse(text)?;
            if let [Part::Place(name)] = parts.as_slice() {
                return find(name, arguments, result);
            }
            let mut filled = String::new();
            for part in parts {
                match part {
                    Part::Text(text) => filled.push_str(&text),
                    Part::Place(name) => match find(&name, arguments, result)? {
                        Value::String(text) => filled.push_str(&text),
                        value => filled.push_str(&value.to_string()),
                    },
                }
            }
            Ok(Value::String(filled))
        }
        Value::Array(items) => items.iter().map(again).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.clone(), again(value)?)));
            fields.collect::<Result<_, String>>().map(Value::Object)
        }
        plain => Ok(plain.clone()),
    }
}

fn find(name: &str, arguments: &Value, result: Option<&str>) -> Result<Value, String> {
    let missing = || format!("there is no `{name}` to fill `{{{name}}}` with");
    match (name.strip_prefix("result"), result) {
        (Some(""), Some(result)) => Ok(Value::String(result.to_owned())),
        (Some(rest), Some(result)) if rest.starts_with('.') => {
            let said: Value = serde_json::from_str(result).map_err(|_| missing())?;
            said.get(&rest[1..]).cloned().ok_or_else(missing)
        }
        _ => arguments.get(name).cloned().ok_or_else(missing),
    }
}

enum Part {
    Text(String),
    Place(String),
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut literal) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '{' | '}' if rest.peek() == Some(&letter) => {
                rest.next();
                literal.push(letter);
            }
            '{' => {
                let name: String = rest.by_ref().take_while(|letter| *letter != '}').collect();
                let fits = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
                if name.is_empty() || !name.chars().all(fits) {
                    return Err(format!("`{text}` holds a placeholder with a bad name: `{name}`"));
                }
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(Part::Place(name));
            }
            '}' => {
                return Err(format!("`{text}` holds a `}}` without a `{{`; write `}}}}` for one"));
            }
            other => literal.push(other),
        }
    }
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &Value, result: Option<&str>) -> Result<Value, String> {
        let template = template.as_object().cloned().unwrap_or_default();
        fill(&template, &json!({ "order": 7, "to": "ada" }), result)
    }

    #[test]
    fn places_are_filled_from_arguments_and_result_and_keep_their_types() {
        let template = json!({
            "order": "{order}", "why": "undo {order} of {to} {{}}", "id": "{result.id}",
            "said": "{result}", "list": ["{to}", 1],
        });
        let expected = json!({
            "order": 7, "why": "undo 7 of ada {}", "id": 3, "said": "{\"id\":3}", "list": ["ada", 1],
        });
        assert_eq!(filled(&template, Some("{\"id\":3}")), Ok(expected));
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (template, result) in [
            (json!({ "a": "{nothing}" }), None),
            (json!({ "a": "{result.id}" }), Some("no json")),
            (json!({ "a": "{result}" }), None),
        ] {
            assert!(filled(&template, result).is_err_and(|error| error.contains("there is no")));
        }
        assert!(check(json!({ "a": ["{b c}"] }).as_object().expect("an object")).is_err());
    }
}
