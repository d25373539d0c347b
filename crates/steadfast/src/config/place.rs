//! Where in the file a key stands, and which key was meant by one that there is not.

use toml::de::{DeTable, DeValue};

/// The line, counted from 1, on which the key of a dotted place stands, or the last of its parents that
/// the file has. `None` if it has none of them, or is not TOML.
pub(super) fn line_of(text: &str, place: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut start = None;
    for name in place.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == name)
        else {
            break;
        };
        start = Some(key.span().start);
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    start.map(|start| text[..start].matches('\n').count() + 1)
}

/// What the file's parser says, with the key that was probably meant.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    match meant(error.message()) {
        Some(meant) => format!("{text}; did you mean `{meant}`?"),
        None => text.to_owned(),
    }
}

/// Of "unknown field `a`, expected one of `b`, `c`": the expected word that is nearest to `a`.
fn meant(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let written = words.next()?;
    nearest(written, words)
}

/// The word that differs least, if it differs by a slip or two.
pub(super) fn nearest<'a>(written: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = 1 + written.chars().count() / 4;
    let with_slips = words.map(|word| (strsim::damerau_levenshtein(written, word), word));
    let best = with_slips.min_by_key(|(slips, _)| *slips)?;
    (best.0 <= slips_max).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_line_of_its_key_or_of_its_nearest_parent() {
        let text =
            "[server]\nlisten = 1\n\n[agents.a]\nmodel = \"m\"\n[policies.\"model:m\"]\nqueue = 0";
        assert_eq!(line_of(text, "server.listen"), Some(2));
        assert_eq!(line_of(text, "agents.a"), Some(4));
        assert_eq!(line_of(text, "agents.a.model"), Some(5));
        assert_eq!(line_of(text, "agents.a.tools"), Some(4));
        assert_eq!(line_of(text, "policies.model:m"), Some(6));
        assert_eq!(line_of(text, "store.path"), None);
        assert_eq!(line_of("[[", "store.path"), None);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let message = "unknown field `lissten`, expected one of `path`, `listen`";
        assert_eq!(meant(message), Some("listen"));
        assert_eq!(meant("unknown field `lissten`, expected `listen`"), Some("listen"));
        assert_eq!(meant("unknown field `retries`, expected `listen`"), None);
        assert_eq!(meant("invalid type: `lissten`, expected `listen`"), None);
    }
}
