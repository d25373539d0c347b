//! Which names mean a model of the table.
//!
//! Vendors give one model several names: with a date (`claude-haiku-4-5-20251001`), behind a vendor's
//! prefix (`anthropic/claude-haiku-4-5`). Those who sell it on have their own (`us.anthropic.claude-...`,
//! `claude-...@20251001`) and often their own prices: such a name leads to the vendor's price, as a guess.

/// A name to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    /// It is sold by somebody else than its vendor, as far as the name tells.
    pub(super) resold: bool,
}

/// Prefixes by which a model is its vendor's own.
const OWN_PREFIXES: [&str; 10] = [
    "anthropic",
    "openai",
    "google",
    "gemini",
    "models",
    "xai",
    "x-ai",
    "deepseek",
    "mistral",
    "mistralai",
];

/// Vendors as they stand in names with dots.
const DOTTED_VENDORS: [&str; 4] = ["anthropic.", "openai.", "mistral.", "deepseek."];

/// What a model may be listed as, the nearest first. A fine-tuned model (`ft:`) has a price of its own, so
/// it is only itself, and so is one with a variant behind a colon (`:free`).
pub(super) fn candidates(model: &str) -> Vec<Candidate> {
    let full = model.trim().to_ascii_lowercase();
    let mut found = vec![Candidate { name: full.clone(), resold: false }];
    let (prefix, bare) = full.rsplit_once('/').unwrap_or(("", &full));
    let mut resold = !prefix.is_empty() && !OWN_PREFIXES.contains(&prefix);
    let mut bare = bare;
    for vendor in DOTTED_VENDORS {
        if let Some((_, rest)) = bare.split_once(vendor) {
            (bare, resold) = (rest, true);
        }
    }
    if let Some(rest) = without_revision(bare) {
        (bare, resold) = (rest, true);
    }
    push(&mut found, bare, resold);
    if let Some((name, date)) = bare.split_once('@') {
        let is_date = date == "latest" || date == "default" || is_digits(date, 8);
        if is_date {
            push(&mut found, name, true);
        }
    }
    if let Some(name) = without_date(bare) {
        push(&mut found, name, resold);
    }
    found
}

fn push(found: &mut Vec<Candidate>, name: &str, resold: bool) {
    if found.iter().all(|known| known.name != name) {
        found.push(Candidate { name: name.to_owned(), resold });
    }
}

fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `x-v1:0` and `x-v1` are revisions of `x` at a reseller.
fn without_revision(name: &str) -> Option<&str> {
    let (before, revision) = name.rsplit_once("-v")?;
    let (major, minor) = revision.split_once(':').unwrap_or((revision, "0"));
    (is_digits(major, 1) && is_digits(minor, 1)).then_some(before)
}

/// `x-20251001` and `x-2025-10-01` are the model `x` as it was at a date.
fn without_date(name: &str) -> Option<&str> {
    if let Some((before, date)) = name.rsplit_once('-')
        && is_digits(date, 8)
        && date.starts_with("20")
    {
        return Some(before);
    }
    let (rest, day) = name.rsplit_once('-')?;
    let (rest, month) = rest.rsplit_once('-')?;
    let (before, year) = rest.rsplit_once('-')?;
    let is_date =
        is_digits(year, 4) && year.starts_with("20") && is_digits(month, 2) && is_digits(day, 2);
    is_date.then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads_to(model: &str, name: &str) -> Option<bool> {
        let found = candidates(model).into_iter().find(|candidate| candidate.name == name);
        found.map(|candidate| candidate.resold)
    }

    #[test]
    fn p10_dated_and_prefixed_names_lead_to_the_model() {
        for model in [
            "claude-haiku-4-5",
            "claude-haiku-4-5-20251001",
            "Claude-Haiku-4-5",
            "anthropic/claude-haiku-4-5-20251001",
        ] {
            assert_eq!(leads_to(model, "claude-haiku-4-5"), Some(false), "{model}");
        }
        assert_eq!(leads_to("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"), Some(false));
        assert_eq!(leads_to("models/gemini-2.5-pro", "gemini-2.5-pro"), Some(false));
    }

    #[test]
    fn p10_what_is_sold_on_is_a_guess() {
        for model in [
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-haiku-4-5@20251001",
            "openrouter/anthropic/claude-haiku-4-5",
            "azure/claude-haiku-4-5",
        ] {
            assert_eq!(leads_to(model, "claude-haiku-4-5"), Some(true), "{model}");
        }
    }

    #[test]
    fn another_model_is_not_taken_for_it() {
        for model in [
            "ft:gpt-4o-mini:acme::abc",
            "gpt-4o-mini:free",
            "gpt-4o-mini-audio-preview",
            "gpt-4o-mini-2024",
            "gpt-4o-mini-2024-07",
            "my-gpt-4o-mini",
        ] {
            assert_eq!(leads_to(model, "gpt-4o-mini"), None, "{model}");
        }
    }
}
