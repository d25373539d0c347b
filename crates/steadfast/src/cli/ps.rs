//! `steadfast ps`: lists and searches runs.

use clap::Args;
use steadfast_runtime::{Problem, RunList, Status};
use steadfast_store::RunId;

use super::client::{Answer, Client};
use super::{Exit, Output, output};

/// Which runs are listed.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only in this state.
    #[arg(long, value_parser = state)]
    state: Option<Status>,
    /// Only of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this session.
    #[arg(long)]
    session: Option<String>,
    /// Only with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Only started by this run.
    #[arg(long, value_parser = super::run_id)]
    parent: Option<RunId>,
    /// Only created since then: `2h` ago, or a time as `2026-01-31T12:00:00Z`.
    #[arg(long)]
    since: Option<String>,
    /// Only created before then, in the same words.
    #[arg(long)]
    until: Option<String>,
    /// Only whose input holds each of these words.
    #[arg(long)]
    text: Option<String>,
    /// Only with a problem: any, or this one (several with commas between).
    #[arg(long, num_args = 0..=1, default_missing_value = "any", value_parser = problem)]
    problem: Option<String>,
    /// Only older than this run: the cursor that the page before ended with.
    #[arg(long, value_parser = super::run_id, value_name = "CURSOR")]
    before: Option<RunId>,
    /// Rows.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub(super) async fn list(client: &Client, which: Which, format: Output) -> anyhow::Result<Exit> {
    let list: RunList = match client.find("/runs", &which.query()).await? {
        Answer::Ok(list) => list,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&list)?,
        Output::Text if list.runs.is_empty() && which.query().len() == 1 => {
            output::talk("no runs; start one with `steadfast submit AGENT --input ...`");
        }
        Output::Text if list.runs.is_empty() => output::talk("no run matches"),
        Output::Text => {
            output::data(&output::runs(&list.runs))?;
            if let Some(next) = list.next {
                output::talk(&format!("older ones: the same with `--before {next}`"));
            }
        }
    }
    Ok(Exit::Done)
}

impl Which {
    /// What is said, in the API's words.
    fn query(&self) -> Vec<(&'static str, String)> {
        let said = [
            ("limit", Some(self.limit.to_string())),
            ("state", self.state.map(|state| state.to_string())),
            ("agent", self.agent.clone()),
            ("tenant", self.tenant.clone()),
            ("session", self.session.clone()),
            ("tag", self.tag.clone()),
            ("parent", self.parent.map(|run| run.to_string())),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
            ("text", self.text.clone()),
            ("problem", self.problem.clone()),
            ("before", self.before.map(|run| run.to_string())),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub(super) fn state(text: &str) -> Result<Status, String> {
    let known = || Status::ALL.map(Status::as_str).join(", ");
    Status::parse(text).ok_or_else(|| format!("there is no such state; there are: {}", known()))
}

fn problem(text: &str) -> Result<String, String> {
    let known = || Problem::ALL.map(Problem::as_str).join(", ");
    match text.split(',').find(|word| Problem::parse(word).is_none()) {
        Some(_) if text != "any" => Err(format!("it is `any` or some of these: {}", known())),
        _ => Ok(text.to_owned()),
    }
}
