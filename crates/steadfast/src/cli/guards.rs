//! Guards on the command line.

use std::time::Duration;

use steadfast_guard::{Counters, GuardSnapshot};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::{Answer, Client};
use super::{Exit, GuardAction, Output, output};

/// A guard as the server tells it; what this program does not know of is kept.
#[derive(Serialize, Deserialize)]
struct GuardView {
    #[serde(flatten)]
    snapshot: GuardSnapshot,
    explain: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct GuardList {
    guards: Vec<GuardView>,
    reload_problem: Option<String>,
}

pub(super) async fn guards(
    client: &Client,
    action: Option<GuardAction>,
    format: Output,
) -> anyhow::Result<Exit> {
    let (name, action) = match action {
        None => return list(client, format).await,
        Some(GuardAction::Show { name }) => return show(client, &name, format).await,
        Some(GuardAction::Open { name }) => (name, "open"),
        Some(GuardAction::Close { name }) => (name, "close"),
        Some(GuardAction::Measure { name }) => (name, "measure"),
        Some(GuardAction::Auto { name }) => (name, "auto"),
    };
    let path = format!("/guards/{}/{action}", segment(&name));
    let guard: GuardView = match client.post(&path, &json!({})).await? {
        Answer::Ok(guard) => guard,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&guard)?,
        Output::Text => output::data(&guard.explain)?,
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, format: Output) -> anyhow::Result<Exit> {
    let list: GuardList = match client.get("/guards").await? {
        Answer::Ok(list) => list,
        Answer::Refused(exit) => return Ok(exit),
    };
    if let (Output::Text, Some(problem)) = (format, &list.reload_problem) {
        output::talk(&format!("the configuration file was not taken over: {problem}"));
    }
    match format {
        Output::Json => output::json(&list)?,
        Output::Text if list.guards.is_empty() => {
            output::talk("nothing to guard: no model and no tool is configured");
        }
        Output::Text => {
            for guard in &list.guards {
                output::data(&guard.explain)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn show(client: &Client, name: &str, format: Output) -> anyhow::Result<Exit> {
    let shown: Value = match client.get(&format!("/guards/{}", segment(name))).await? {
        Answer::Ok(shown) => shown,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&shown)?,
        Output::Text => output::data(&detail(&serde_json::from_value(shown)?))?,
    }
    Ok(Exit::Done)
}

/// A guard with the policy in force, for people.
fn detail(guard: &GuardView) -> String {
    let GuardSnapshot { counters, latency, .. } = &guard.snapshot;
    let ms = |micros: u64| format!("{:.1} ms", Duration::from_micros(micros).as_secs_f64() * 1e3);
    let Counters { total, success, error, timeout, rejected, retry, .. } = counters;
    let mut lines = vec![
        guard.explain.clone(),
        format!(
            "calls    {total}: {success} answered, {error} failed, {timeout} timed out, {rejected} refused"
        ),
        format!("retries  {retry}"),
    ];
    if latency.count > 0 {
        let [p50, p95, p99] = [latency.p50_micros, latency.p95_micros, latency.p99_micros].map(ms);
        lines.push(format!("took     half no longer than {p50}, 95 % {p95}, 99 % {p99}"));
    }
    lines.push("policy   as in `[policies]`; what is not listed is not limited".to_owned());
    if let Some(policy) = guard.more.get("policy") {
        keys("", policy, &mut lines);
    }
    lines.join("\n")
}

/// Every key of a policy that says something, dotted, with its value.
fn keys(place: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Object(table) => {
            for (key, value) in table {
                let dot = if place.is_empty() { "" } else { "." };
                keys(&format!("{place}{dot}{key}"), value, lines);
            }
        }
        value => lines.push(format!("         {place} = {value}")),
    }
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    let escaped = name.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_whatever_it_holds() {
        assert_eq!(segment("model:gpt-5.4_mini"), "model:gpt-5.4_mini");
        assert_eq!(segment("tool:a/../b?c"), "tool:a%2F..%2Fb%3Fc");
    }
}
