//! The argv of a command tool, with places that arguments fill.

use serde_json::Value;

#[derive(Debug)]
enum Part {
    Text(String),
    Place(String),
}

/// One element of an argv. A place fills this element or a part of it, never more: there is no splitting
/// and no shell.
#[derive(Debug)]
pub(super) struct Element {
    parts: Vec<Part>,
    /// The value begins the element, so a leading `-` would make it an option.
    guarded: bool,
}

/// Cuts `{name}` places out; `{{` and `}}` stand for the braces themselves.
pub(super) fn parse(text: &str) -> Result<Element, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '{' | '}' if rest.peek() == Some(&letter) => {
                rest.next();
                literal.push(letter);
            }
            '{' => {
                let name: String = rest.by_ref().take_while(|letter| *letter != '}').collect();
                let valid = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                if name.is_empty() || !name.chars().all(valid) {
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
    let guarded = matches!(parts.first(), Some(Part::Place(_)));
    Ok(Element { parts, guarded })
}

/// A whole argv; elements behind a literal `--` may begin with a dash.
pub(super) fn parse_argv(argv: &[String], allow_dashes: bool) -> Result<Vec<Element>, String> {
    let mut after_separator = false;
    let mut elements = Vec::new();
    for text in argv {
        let mut element = parse(text)?;
        element.guarded &= !after_separator && !allow_dashes;
        after_separator |= text == "--";
        elements.push(element);
    }
    Ok(elements)
}

impl Element {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    pub(super) fn unguarded(mut self) -> Self {
        self.guarded = false;
        self
    }

    pub(super) fn fill(&self, arguments: &Value) -> Result<String, String> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place(name) => match arguments.get(name) {
                    Some(Value::String(text)) => filled.push_str(text),
                    Some(Value::Number(number)) => filled.push_str(&number.to_string()),
                    Some(Value::Bool(truth)) => {
                        filled.push_str(if *truth { "true" } else { "false" });
                    }
                    Some(_) => return Err(format!("`{name}` must be a string, number or boolean")),
                    None => return Err(format!("`{name}` is missing")),
                },
            }
        }
        if self.guarded && filled.starts_with('-') {
            let name = self.names().next().unwrap_or_default();
            return Err(format!("`{name}` may not begin with `-`: it would be read as an option"));
        }
        if filled.contains('\0') {
            return Err("an argument holds a zero byte, which no command can take".to_owned());
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_argv;
    use serde_json::{Value, json};

    fn fill(argv: &[&str], dashes: bool, arguments: &Value) -> Result<Vec<String>, String> {
        let argv: Vec<String> = argv.iter().map(|text| (*text).to_owned()).collect();
        parse_argv(&argv, dashes)?.iter().map(|element| element.fill(arguments)).collect()
    }

    #[test]
    fn a_value_fills_one_element_whatever_it_holds() {
        let filled = fill(&["-m", "{m}", "x{m}y", "{{}}"], false, &json!({"m": "a b; $(c) {m}"}));
        assert_eq!(filled.unwrap(), ["-m", "a b; $(c) {m}", "xa b; $(c) {m}y", "{}"]);
    }

    #[test]
    fn a_leading_dash_is_refused_unless_a_separator_or_the_option_allows_it() {
        let dash = json!({"m": "--exec=evil"});
        assert!(fill(&["{m}"], false, &dash).unwrap_err().contains("option"));
        assert!(fill(&["{m}", "--"], false, &dash).is_err());
        assert_eq!(fill(&["--", "{m}"], false, &dash).unwrap(), ["--", "--exec=evil"]);
        assert_eq!(fill(&["{m}"], true, &dash).unwrap(), ["--exec=evil"]);
        assert_eq!(fill(&["--x={m}"], false, &dash).unwrap(), ["--x=--exec=evil"]);
    }

    #[test]
    fn bad_templates_are_refused() {
        for bad in ["{", "{a b}", "{}", "a}"] {
            assert!(fill(&[bad], false, &json!({})).is_err(), "{bad}");
        }
    }
}
