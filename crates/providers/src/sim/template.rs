//! References in a script's texts: `{{item.field}}` when it is loaded, `{{result.step}}` when it answers.

use serde_json::{Map, Value};

use super::conversation::Conversation;

/// A text with references to tool results.
#[derive(Debug)]
pub(super) struct Template(Vec<Segment>);

#[derive(Debug)]
enum Segment {
    Literal(String),
    Result(Reference),
}

/// One `{{result.step}}` or `{{result.step#/pointer}}`.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) step: String,
    pointer: Option<String>,
}

impl Reference {
    fn parse(inner: &str) -> Result<Self, String> {
        let unknown = || format!("unknown reference `{{{{{inner}}}}}`");
        let target = inner.trim().strip_prefix("result.").ok_or_else(unknown)?;
        let (step, pointer) = match target.split_once('#') {
            Some((step, pointer)) if pointer.is_empty() || pointer.starts_with('/') => {
                (step, Some(pointer.to_owned()))
            }
            Some(_) => return Err(format!("{}: a JSON pointer begins with `/`", unknown())),
            None => (target, None),
        };
        Ok(Self { step: step.to_owned(), pointer })
    }

    fn value(&self, conversation: &Conversation) -> Result<Value, String> {
        let pointer = self.pointer.as_deref();
        let name = format!("{{{{result.{}{}}}}}", self.step, mark(pointer));
        let text = conversation
            .latest_result(&self.step)
            .ok_or_else(|| format!("`{name}`: the conversation has no result of that step"))?;
        match pointer {
            None => Ok(text.into()),
            Some(pointer) => find_in_json(text, pointer)
                .ok_or_else(|| format!("`{name}`: no JSON in the result has that value")),
        }
    }
}

fn mark(pointer: Option<&str>) -> String {
    pointer.map_or_else(String::new, |pointer| format!("#{pointer}"))
}

impl Template {
    /// Cuts a text at its references.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find("{{") {
            let Some(length) = rest[begin + 2..].find("}}") else { break };
            let end = begin + 2 + length;
            if begin > 0 {
                segments.push(Segment::Literal(rest[..begin].to_owned()));
            }
            segments.push(Segment::Result(Reference::parse(&rest[begin + 2..end])?));
            rest = &rest[end + 2..];
        }
        if !rest.is_empty() {
            segments.push(Segment::Literal(rest.to_owned()));
        }
        Ok(Self(segments))
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Result(reference) => Some(reference),
        })
    }

    pub(super) fn render(&self, conversation: &Conversation) -> Result<String, String> {
        let mut out = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Result(reference) => out.push_str(&plain(&reference.value(conversation)?)),
            }
        }
        Ok(out)
    }

    /// The value of a text that is one reference with a pointer and nothing else keeps its type.
    fn render_value(&self, conversation: &Conversation) -> Result<Value, String> {
        match self.0.as_slice() {
            [Segment::Result(reference)] => reference.value(conversation),
            _ => self.render(conversation).map(Value::String),
        }
    }
}

/// Every reference in a JSON value's strings.
pub(super) fn references_in(value: &Value, out: &mut Vec<Reference>) -> Result<(), String> {
    match value {
        Value::String(text) => out.extend(Template::parse(text)?.references().cloned()),
        Value::Array(items) => {
            for item in items {
                references_in(item, out)?;
            }
        }
        Value::Object(fields) => {
            for field in fields.values() {
                references_in(field, out)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// The value with its strings' references filled in.
pub(super) fn render_json(value: &Value, conversation: &Conversation) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Template::parse(text)?.render_value(conversation)?,
        Value::Array(items) => {
            let items = items.iter().map(|item| render_json(item, conversation));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, field)| Ok((name.clone(), render_json(field, conversation)?)));
            Value::Object(fields.collect::<Result<_, String>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// More objects than this are not looked into: a log full of braces must not cost quadratic time.
const MAX_OBJECTS: usize = 1000;

/// The value at a pointer in a text that is JSON, or in the first object within it that has one.
fn find_in_json(text: &str, pointer: &str) -> Option<Value> {
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        return json.pointer(pointer).cloned();
    }
    let mut rest = text;
    for _ in 0..MAX_OBJECTS {
        rest = &rest[rest.find('{')?..];
        let mut objects = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match objects.next() {
            Some(Ok(json)) => {
                if let Some(value) = json.pointer(pointer) {
                    return Some(value.clone());
                }
                rest = &rest[objects.byte_offset()..];
            }
            _ => rest = &rest[1..],
        }
    }
    None
}

/// One item of a group's data, and where it stands.
pub(super) struct Item<'a> {
    pub(super) fields: &'a Map<String, Value>,
    /// From 1.
    pub(super) index: usize,
    pub(super) total: usize,
}

impl Item<'_> {
    /// The value that a reference names; `None` if it is not about the item.
    fn value(&self, inner: &str) -> Result<Option<Value>, String> {
        Ok(match inner.trim() {
            "index" => Some(self.index.into()),
            "total" => Some(self.total.into()),
            other => match other.strip_prefix("item.") {
                Some(field) => Some(
                    self.fields
                        .get(field)
                        .cloned()
                        .ok_or_else(|| format!("item {} has no field `{field}`", self.index))?,
                ),
                None => None,
            },
        })
    }

    /// Fills in the item, and leaves what refers to results. The innermost braces are read first, so
    /// that `{{result.check-{{index}}}}` works.
    pub(super) fn text(&self, text: &str, escape: fn(&str) -> String) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(end) = rest.find("}}") {
            let after = end + 2;
            let begin = rest[..end].rfind("{{");
            let value = match begin {
                Some(begin) => self.value(&rest[begin + 2..end])?.map(|value| (begin, value)),
                None => None,
            };
            match value {
                Some((begin, value)) => {
                    out.push_str(&rest[..begin]);
                    out.push_str(&escape(&plain(&value)));
                }
                None => out.push_str(&rest[..after]),
            }
            rest = &rest[after..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The same for every string of a JSON value; one that is a reference and nothing else takes the
    /// type of what it names.
    pub(super) fn json(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => match sole_reference(text) {
                Some(inner) => match self.value(inner)? {
                    Some(value) => value,
                    None => value.clone(),
                },
                None => Value::String(self.text(text, str::to_owned)?),
            },
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => Value::Object(self.object(fields)?),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    pub(super) fn object(&self, fields: &Map<String, Value>) -> Result<Map<String, Value>, String> {
        fields.iter().map(|(name, field)| Ok((name.clone(), self.json(field)?))).collect()
    }
}

fn sole_reference(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains(['{', '}'])).then_some(inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_finds_its_value_in_json_and_in_text_around_json() {
        let check = |text: &str, pointer: &str, expected: Option<Value>| {
            assert_eq!(find_in_json(text, pointer), expected, "{text} {pointer}");
        };
        check(r#"{"a":{"b":[1,2]}}"#, "/a/b/1", Some(json!(2)));
        check(r#"{"a":1}"#, "/b", None);
        check("exit 0 {not json} {\"x\":1} then {\"a\":\"y\"}\n", "/a", Some(json!("y")));
        check("no json", "/a", None);
        check(&"{".repeat(5000), "/a", None);
    }

    #[test]
    fn items_are_filled_in_innermost_first_and_keep_their_type() {
        let fields = json!({"n": 7, "s": "a+b"});
        let item = Item { fields: fields.as_object().unwrap(), index: 2, total: 3 };
        let plain = |text| item.text(text, str::to_owned).unwrap();
        assert_eq!(
            plain("{{result.check-{{index}}#/x}} of {{ total }}"),
            "{{result.check-2#/x}} of 3"
        );
        assert_eq!(plain(r#"{"a":{"b":1}} {{item.s}}"#), r#"{"a":{"b":1}} a+b"#);
        assert_eq!(item.text("^{{item.s}}$", regex::escape).unwrap(), r"^a\+b$");
        assert_eq!(
            item.json(&json!({"n": "{{item.n}}", "t": ["n{{item.n}}", "{{result.x}}", 1]}))
                .unwrap(),
            json!({"n": 7, "t": ["n7", "{{result.x}}", 1]}),
        );
        assert!(item.text("{{item.gone}}", str::to_owned).unwrap_err().contains("`gone`"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        assert!(Template::parse("{{index}}").unwrap_err().contains("{{index}}"));
        assert!(Template::parse("{{result.a#x}}").is_err());
        assert_eq!(Template::parse("{{ open").unwrap().references().count(), 0);
        assert_eq!(
            Template::parse("a {{result.b}}{{result.c#/d}}").unwrap().references().count(),
            2
        );
    }
}
