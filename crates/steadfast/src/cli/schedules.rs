//! Schedules on the command line.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;
use steadfast_runtime::{RunView, ScheduleView};
use steadfast_store::Timestamp;

use super::client::{Answer, Client};
use super::guards::segment;
use super::{Exit, Output, ScheduleAction, output};

pub(super) async fn schedules(
    client: &Client,
    action: Option<ScheduleAction>,
    format: Output,
) -> anyhow::Result<Exit> {
    if let Some(ScheduleAction::Run { name }) = action {
        return run(client, &name, format).await;
    }
    let schedules: Vec<ScheduleView> = match client.get("/schedules").await? {
        Answer::Ok(schedules) => schedules,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&schedules)?,
        Output::Text if schedules.is_empty() => {
            output::talk("no schedules; add a `[schedules.NAME]` section to `steadfast.toml`");
        }
        Output::Text => output::data(&table(&schedules))?,
    }
    Ok(Exit::Done)
}

async fn run(client: &Client, name: &str, format: Output) -> anyhow::Result<Exit> {
    let path = format!("/schedules/{}/run", segment(name));
    let run: RunView = match client.post(&path, &json!({})).await? {
        Answer::Ok(run) => run,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&run)?,
        Output::Text => {
            output::data(&run.id.to_string())?;
            output::talk(&format!("watch it at {}", client.console(run.id)));
        }
    }
    Ok(Exit::Done)
}

fn table(schedules: &[ScheduleView]) -> String {
    let mut table = Table::new();
    let header = ["SCHEDULE", "TIMES", "AGENT", "NEXT", "LAST", "STATE", "RUN"];
    table.load_style(NOTHING).set_header(header);
    for schedule in schedules {
        table.add_row([
            schedule.name.clone(),
            format!("{} {}", schedule.cron, schedule.timezone),
            schedule.agent.clone(),
            time(schedule.next, &schedule.timezone),
            time(schedule.last, &schedule.timezone),
            schedule.last_state.clone().unwrap_or_default(),
            schedule.last_run.map(|run| run.to_string()).unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

/// A time as the clocks of that zone show it.
fn time(at: Option<Timestamp>, zone: &str) -> String {
    let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok());
    let shown = at.map(|at| match at.in_tz(zone) {
        Ok(there) => there.strftime("%F %H:%M %:z").to_string(),
        Err(_) => at.to_string(),
    });
    shown.unwrap_or_else(|| "-".to_owned())
}
