//! Keys on a terminal.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use steadfast_runtime::{AccessKey, KeyBudget};
use steadfast_store::Timestamp;

pub(super) fn table(keys: &[AccessKey]) -> String {
    let mut table = Table::new();
    let header = ["KEY", "NAME", "TENANT", "STATE", "MODELS", "ENDS", "LAST USED"];
    table.load_style(NOTHING).set_header(header);
    for key in keys {
        table.add_row([
            key.id.clone(),
            key.spec.name.clone(),
            key.spec.tenant.clone(),
            key.state.as_str().to_owned(),
            models(key),
            time(key.spec.expires_at),
            time(key.last_used_at),
        ]);
    }
    table.trim_fmt()
}

fn models(key: &AccessKey) -> String {
    if key.spec.models.is_empty() { "every".to_owned() } else { key.spec.models.join(", ") }
}

/// RFC 3339, in whole seconds.
pub(super) fn time(at: Option<Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%FT%TZ").to_string())
}

/// One key, for people.
pub(super) fn described(key: &AccessKey) -> String {
    let AccessKey { spec, .. } = key;
    let mut lines = vec![
        format!("key      {} (`{}`)", key.id, spec.name),
        format!("state    {}", key.state.as_str()),
        format!("tenant   {}", spec.tenant),
    ];
    let mut line = |name: &str, text: Option<String>| {
        lines.extend(text.map(|text| format!("{name:<9}{text}")));
    };
    line("user", spec.user.clone());
    line("agent", spec.agent.clone());
    line("models", Some(models(key)));
    let limits = [
        spec.limits.requests_per_minute.map(|limit| format!("{limit} requests a minute")),
        spec.limits.tokens_per_minute.map(|limit| format!("{limit} tokens a minute")),
        spec.limits.at_once.map(|limit| format!("{limit} at once")),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    line("limits", Some(limits.join(", ")).filter(|limits| !limits.is_empty()));
    line("budget", spec.budget.as_ref().map(budget));
    let labels: Vec<_> = spec.labels.iter().map(|(name, text)| format!("{name}={text}")).collect();
    line("labels", Some(labels.join(", ")).filter(|labels| !labels.is_empty()));
    let at = |at: Option<Timestamp>| at.map(|at| time(Some(at)));
    line("made", at(Some(key.created_at)));
    line("rotated", at(key.rotated_at));
    for until in &key.old_secrets_until {
        line("", Some(format!("a secret before lets in until {}", time(Some(*until)))));
    }
    line("ends", at(spec.expires_at));
    line("revoked", at(key.revoked_at));
    line("used", at(key.last_used_at));
    lines.join("\n")
}

fn budget(budget: &KeyBudget) -> String {
    let KeyBudget { window, tokens, usd } = budget;
    let said = [
        tokens.map(|tokens| format!("{tokens} tokens")),
        usd.as_ref().map(|usd| format!("{usd} USD")),
    ];
    let said: Vec<_> = said.into_iter().flatten().collect();
    let said = said.join(" and ");
    if window == "whole" { format!("{said} in all") } else { format!("{said} a {window}") }
}
