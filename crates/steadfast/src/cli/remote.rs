//! The commands that talk to a server.

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
}

pub(super) async fn submit(client: &Client, order: Order, format: Output) -> anyhow::Result<Exit> {
    let Order { agent, input, tenant, priority, key } = order;
    let mut body =
        json!({ "agent": agent, "input": input, "tenant": tenant, "priority": priority });
    if let Some(key) = key {
        body["key"] = Value::String(key);
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
            output::data(&run.id.to_string());
            output::talk(&format!("watch it at {page}"));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn list(
    client: &Client,
    state: Option<Status>,
    agent: Option<String>,
    limit: usize,
    format: Output,
) -> anyhow::Result<Exit> {
    let mut query = vec![("limit", limit.to_string())];
    query.extend(state.map(|state| ("state", state.to_string())));
    query.extend(agent.map(|agent| ("agent", agent)));
    let list: RunList = match client.find("/runs", &query).await? {
        Answer::Ok(list) => list,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&list)?,
        Output::Text if list.runs.is_empty() => {
            output::talk("no runs; start one with `steadfast submit AGENT --input ...`");
        }
        Output::Text => output::data(&output::runs(&list.runs)),
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
    output::data(&output::run(&view));
    if let Some(asked) = detail.get("asked").and_then(|asked| asked.get("call")) {
        let part = |name: &str| asked.get(name).and_then(Value::as_str).unwrap_or_default();
        let (id, name, arguments) = (part("id"), part("name"), part("arguments"));
        output::data(&format!("asks     did call {id} take effect: {name} {arguments}"));
        output::talk(&format!(
            "say so with `steadfast answer {run} {id} happened`, `did-not` or `fail`"
        ));
    }
    let ending = detail.get("output").or_else(|| detail.get("failure")).and_then(Value::as_str);
    if let Some(ending) = ending.map(str::to_owned).or(view.ending) {
        output::data(&format!("\n{ending}"));
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
        Output::Text => output::data(&format!("{} {}", view.id, view.state)),
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
