//! Where in the file a key stands, and which key was meant by one that there is not.

use toml::de::{DeTable, DeValue};

/// The line, counted from 1, on which the key of a dotted place stands, or the last of its parents that
/// the file has. Of a list, a number names an entry, the first by 1. `None` if it has none of them, or is
/// not TOML.
pub(super) fn line_of(text: &str, place: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let names: Vec<&str> = place.split('.').collect();
    let start = start_of(root.get_ref(), &names)?;
    Some(text[..start].matches('\n').count() + 1)
}

fn start_of(table: &DeTable<'_>, names: &[&str]) -> Option<usize> {
    // A key may have dots of its own: `gpt-4.1`.
    let counts = (1..=names.len()).rev();
    let (count, (key, value)) = counts.into_iter().find_map(|count| {
        let name = names[..count].join(".");
        Some((count, table.iter().find(|(key, _)| key.get_ref().as_ref() == name)?))
    })?;
    let rest = &names[count..];
    let inner = match (value.get_ref(), rest) {
        (DeValue::Table(inner), _) => start_of(inner, rest),
        (DeValue::Array(entries), [number, rest @ ..]) => {
            let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let entry = index.and_then(|index| entries.get(index));
            entry.and_then(|entry| match entry.get_ref() {
                DeValue::Table(inner) => start_of(inner, rest).or_else(|| Some(entry.span().start)),
                _ => Some(entry.span().start),
            })
        }
        _ => None,
    };
    Some(inner.unwrap_or_else(|| key.span().start))
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
    fn a_place_may_have_dots_in_its_names_and_numbers_for_entries() {
        let text = "[[budget]]\nscope = 1\n\n[[budget]]\nscope = 1\ntokens = 2\n\n\
                    [prices.models.\"gpt-4.1\"]\ninput = 1\ntiers = [\n{ input = 2 },\n{ input = 3 }]";
        assert_eq!(line_of(text, "budget.2.tokens"), Some(6));
        assert_eq!(line_of(text, "budget.1.tokens"), Some(1));
        assert_eq!(line_of(text, "budget.2.usd"), Some(4));
        assert_eq!(line_of(text, "budget.3.usd"), Some(1));
        assert_eq!(line_of(text, "prices.models.gpt-4.1.input"), Some(9));
        assert_eq!(line_of(text, "prices.models.gpt-4.1.output"), Some(8));
        assert_eq!(line_of(text, "prices.models.gpt-4.1.tiers.2.input"), Some(12));
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
