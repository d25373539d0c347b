//! The commands that talk to a server.

use anyhow::Context as _;
use serde_json::{Value, json};
use steadfast_runtime::{RunList, RunView, Status};
use steadfast_store::RunId;

use super::client::{Answer, Client};
use super::{Exit, Output, output};

/// What is to be run.
pub(super) struct Order {
    pub(super) agent: String,
    pub(super) input: String,
    pub(super) tenant: String,
    pub(super) priority: i32,
    pub(super) key: Option<String>,
    pub(super) session: Option<String>,
    pub(super) tags: Vec<String>,
}

pub(super) async fn submit(client: &Client, order: Order, format: Output) -> anyhow::Result<Exit> {
    let Order { agent, input, tenant, priority, key, session, tags } = order;
    let mut body =
        json!({ "agent": agent, "input": input, "tenant": tenant, "priority": priority });
    if let Some(key) = key {
        body["key"] = Value::String(key);
    }
    if let Some(session) = session {
        body["session"] = Value::String(session);
    }
    if !tags.is_empty() {
        body["tags"] = json!(tags);
    }
    let run: RunView = match client.post("/runs", &body).await? {
        Answer::Ok(run) => run,
        Answer::Refused(exit) => return Ok(exit),
    };
    let page = client.console(run.id);
    match format {
        Output::Json => {
            let mut value = serde_json::to_value(&run)?;
            value["console"] = Value::String(page);
            output::json(&value)?;
        }
        Output::Text => {
            output::data(&run.id.to_string())?;
            output::talk(&format!("watch it at {page}"));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn show(client: &Client, run: RunId, format: Output) -> anyhow::Result<Exit> {
    let detail: Value = match client.get(&format!("/runs/{run}")).await? {
        Answer::Ok(detail) => detail,
        Answer::Refused(exit) => return Ok(exit),
    };
    if format == Output::Json {
        output::json(&detail)?;
        return Ok(Exit::Done);
    }
    let view: RunView = serde_json::from_value(detail.clone())?;
    output::data(&output::run(&view))?;
    if let Some(asked) = detail.get("asked").and_then(|asked| asked.get("call")) {
        let part = |name: &str| asked.get(name).and_then(Value::as_str).unwrap_or_default();
        let (id, name, arguments) = (part("id"), part("name"), part("arguments"));
        output::data(&format!("asks     did call {id} take effect: {name} {arguments}"))?;
        output::talk(&format!(
            "say so with `steadfast answer {run} {id} happened`, `did-not` or `fail`"
        ));
    }
    let waits = detail.pointer("/waiting/explain").and_then(Value::as_str);
    if let (Some(why), Some(since)) = (waits, detail.pointer("/waiting/since")) {
        let since = since.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let since = since.map(|since| format!(", since {since}")).unwrap_or_default();
        output::data(&format!("waits    {why}{since}"))?;
    }
    let query = [("parent", run.to_string()), ("limit", "500".to_owned())];
    let children: RunList = match client.find("/runs", &query).await? {
        Answer::Ok(list) => list,
        Answer::Refused(exit) => return Ok(exit),
    };
    if !children.runs.is_empty() {
        let more = if children.next.is_some() { " (the newest 500)" } else { "" };
        output::data(&format!("\nchildren{more}:\n{}", output::runs(&children.runs)))?;
    }
    let ending = detail.get("output").or_else(|| detail.get("failure")).and_then(Value::as_str);
    if let Some(ending) = ending.map(str::to_owned).or(view.ending) {
        output::data(&format!("\n{ending}"))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn cancel(
    client: &Client,
    run: RunId,
    reason: Option<String>,
    format: Output,
) -> anyhow::Result<Exit> {
    let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    command(client, &format!("/runs/{run}/cancel"), &body, format).await
}

pub(super) async fn resume(client: &Client, run: RunId, format: Output) -> anyhow::Result<Exit> {
    command(client, &format!("/runs/{run}/resume"), &json!({}), format).await
}

/// What is said to a run.
pub(super) struct Signal {
    pub(super) name: String,
    pub(super) payload: String,
    pub(super) id: Option<String>,
}

pub(super) async fn signal(
    client: &Client,
    run: RunId,
    signal: Signal,
    format: Output,
) -> anyhow::Result<Exit> {
    let Signal { name, payload, id } = signal;
    let payload: Value = serde_json::from_str(&payload)
        .context("`--payload` is not JSON; a text needs quotes: --payload '\"yes\"'")?;
    let mut body = json!({ "name": name, "payload": payload });
    if let Some(id) = id {
        body["id"] = Value::String(id);
    }
    command(client, &format!("/runs/{run}/signals"), &body, format).await
}

pub(super) async fn retry(client: &Client, run: RunId, format: Output) -> anyhow::Result<Exit> {
    command(client, &format!("/runs/{run}/retry"), &json!({}), format).await
}

async fn command(
    client: &Client,
    path: &str,
    body: &Value,
    format: Output,
) -> anyhow::Result<Exit> {
    let view: RunView = match client.post(path, body).await? {
        Answer::Ok(view) => view,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&view)?,
        Output::Text => output::data(&format!("{} {}", view.id, view.state))?,
    }
    Ok(Exit::Done)
}

/// The exit code that tells how a run ended.
pub(super) fn exit_of(run: &RunView) -> Exit {
    match Status::parse(&run.state) {
        Some(Status::Succeeded) => Exit::Done,
        Some(Status::Cancelled) => Exit::Cancelled,
        Some(Status::Failed) if run.stop.as_deref().is_some_and(|s| s.ends_with("timeout")) => {
            Exit::Cancelled
        }
        _ => Exit::Failed,
    }
}
