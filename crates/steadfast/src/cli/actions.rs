//! What one does with a run that has gone wrong: pause, retry, fork, roll back, answer.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use steadfast_runtime::event::{LeftCall, UndoCall};
use steadfast_runtime::{CheckpointView, RunView};
use steadfast_store::RunId;

use super::client::{Answer, Client};
use super::{Exit, Output, output, read_input, run_id};

/// What a fork is to be.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The run.
    #[arg(value_parser = run_id)]
    run: RunId,
    /// The last event that the fork takes over. Default: the last there is.
    #[arg(long)]
    at: Option<u64>,
    /// What it is to do instead; `-` reads standard input.
    #[arg(long, short)]
    input: Option<String>,
    /// The model that it uses instead.
    #[arg(long)]
    model: Option<String>,
    /// A file with what the model is told instead of the agent's instructions.
    #[arg(long)]
    prompt_file: Option<PathBuf>,
    /// Forking again with the same key gives the same run.
    #[arg(long)]
    key: Option<String>,
}

/// What is rolled back, and how far.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The run.
    #[arg(value_parser = run_id)]
    run: RunId,
    /// The last event that still counts. Default: that of the newest checkpoint before the last event;
    /// `steadfast checkpoints` lists them.
    #[arg(long)]
    to: Option<u64>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
    /// Leave the run paused; what is to be undone is undone once it is resumed.
    #[arg(long)]
    pause: bool,
}

/// Whether a call took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Said {
    /// It did: it counts as done.
    Happened,
    /// It did not: it is made, with the same key.
    DidNot,
    /// Nobody can say: the run fails.
    Fail,
}

/// What a person says about a call.
#[derive(Debug, Args)]
pub(super) struct AnswerArgs {
    /// The run.
    #[arg(value_parser = run_id)]
    run: RunId,
    /// The call, as `steadfast show` names it.
    call: String,
    /// Whether it took effect.
    #[arg(value_enum)]
    verdict: Said,
    /// What it gave: the model is shown it.
    #[arg(long)]
    result: Option<String>,
}

pub(super) async fn pause(
    client: &Client,
    run: RunId,
    now: bool,
    reason: Option<String>,
    format: Output,
) -> anyhow::Result<Exit> {
    let body = json!({ "now": now, "reason": reason });
    let said: Value = match client.post(&format!("/runs/{run}/pause"), &body).await? {
        Answer::Ok(said) => said,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&said)?,
        Output::Text if said["paused"] == Value::Bool(true) => {
            output::data(&format!("{run} paused"))?;
        }
        Output::Text => {
            output::data(&format!("{run} pauses once its step under way has ended"))?;
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn fork(client: &Client, args: ForkArgs, format: Output) -> anyhow::Result<Exit> {
    let ForkArgs { run, at, input, model, prompt_file, key } = args;
    let instructions = match prompt_file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(&path);
            Some(text.with_context(|| format!("cannot read the prompt from {}", path.display()))?)
        }
    };
    let input = input.map(read_input).transpose()?;
    let mut body = Map::new();
    body.extend(at.map(|at| ("at".to_owned(), Value::from(at))));
    let texts = [("input", input), ("model", model), ("instructions", instructions), ("key", key)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into())));
    body.extend(texts);
    let fork: RunView = match client.post(&format!("/runs/{run}/fork"), &body.into()).await? {
        Answer::Ok(fork) => fork,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&fork)?,
        Output::Text => {
            output::data(&fork.id.to_string())?;
            output::talk(&format!("watch it at {}", client.console(fork.id)));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn rollback(
    client: &Client,
    args: RollbackArgs,
    format: Output,
) -> anyhow::Result<Exit> {
    let RollbackArgs { run, to, reason, pause } = args;
    let body = json!({ "to": to, "reason": reason, "pause": pause });
    let said: Value = match client.post(&format!("/runs/{run}/rollback"), &body).await? {
        Answer::Ok(said) => said,
        Answer::Refused(exit) => return Ok(exit),
    };
    if format == Output::Json {
        output::json(&said)?;
        return Ok(Exit::Done);
    }
    let undo: Vec<UndoCall> = serde_json::from_value(said["undo"].clone())?;
    let left: Vec<LeftCall> = serde_json::from_value(said["left"].clone())?;
    let (to, told) = (&said["to"], output::undone(&undo, &left));
    output::data(&format!("{run} rolled back to event {to}{told}"))?;
    Ok(Exit::Done)
}

pub(super) async fn checkpoints(
    client: &Client,
    run: RunId,
    format: Output,
) -> anyhow::Result<Exit> {
    let said: Value = match client.get(&format!("/runs/{run}/checkpoints")).await? {
        Answer::Ok(said) => said,
        Answer::Refused(exit) => return Ok(exit),
    };
    if format == Output::Json {
        output::json(&said)?;
        return Ok(Exit::Done);
    }
    let kept: Vec<CheckpointView> = serde_json::from_value(said["checkpoints"].clone())?;
    if kept.is_empty() {
        output::talk("no checkpoint is kept yet");
    } else {
        output::data(&output::checkpoints(&kept))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn answer(
    client: &Client,
    args: AnswerArgs,
    format: Output,
) -> anyhow::Result<Exit> {
    let AnswerArgs { run, call, verdict, result } = args;
    let verdict = match verdict {
        Said::Happened => "happened",
        Said::DidNot => "did-not",
        Said::Fail => "fail",
    };
    let body = json!({ "call": call, "verdict": verdict, "result": result });
    let said: Value = match client.post(&format!("/runs/{run}/answer"), &body).await? {
        Answer::Ok(said) => said,
        Answer::Refused(exit) => return Ok(exit),
    };
    match format {
        Output::Json => output::json(&said)?,
        Output::Text if said["taken"] == Value::Bool(true) => {
            output::data(&format!("{run} is told: {verdict}"))?;
        }
        Output::Text => output::data(&format!("{run} had been told before, which holds"))?,
    }
    Ok(Exit::Done)
}
