//! `steadfast run`: one run, here and now, in this process.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use steadfast_runtime::{EventView, RunEvent, RunView, Runtime, RuntimeError, Status, SubmitRun};

use super::remote::exit_of;
use super::serve::wait_for_signal;
use super::{Exit, Output, output, start_logging};
use crate::config::Config;
use crate::node::{Node, drills};

/// Events read at once.
const PAGE: usize = 256;

pub(super) async fn run(
    config: &Config,
    agent: String,
    input: String,
    key: Option<String>,
    format: Output,
) -> anyhow::Result<Exit> {
    if config.log.level.is_some() {
        start_logging(config)?;
    }
    let order = SubmitRun { key, ..SubmitRun::new(agent, input) };
    check_order(config, &order)?;
    let node = Node::start(config, None).await?;
    drills(node.runtime.catalog()).iter().for_each(|drill| output::talk(drill));
    let submitted = node.runtime.submit(order).await;
    let submitted = match submitted {
        Ok(submitted) => submitted,
        Err(error) => {
            // The first error is the one to tell.
            drop(node.stop().await);
            return Err(error.into());
        }
    };
    output::talk(&format!("run {}", submitted.run.id));
    let followed = tokio::select! {
        followed = follow(&node.runtime, &submitted.run, format) => Some(followed),
        Ok(()) = wait_for_signal() => None,
    };
    let exit = match followed {
        Some(Ok(view)) => conclude(&node.runtime, &view, format).await,
        Some(Err(error)) => Err(error),
        None => {
            output::talk(
                "interrupted: the run is kept, and goes on with the next start; waiting for its step \
                 under way, a second signal ends at once",
            );
            Ok(Exit::Cancelled)
        }
    };
    let stopped = tokio::select! {
        stopped = node.stop() => stopped.map(drop),
        // What is cut off is settled by the next start, as after a crash.
        Ok(()) = wait_for_signal() => Ok(()),
    };
    let exit = exit?;
    stopped?;
    Ok(exit)
}

/// Refuses what the runtime would refuse, before a store is made for it.
fn check_order(config: &Config, order: &SubmitRun) -> Result<(), RuntimeError> {
    if !config.agents.contains_key(&order.agent) {
        let known = config.agents.keys().cloned().collect();
        return Err(RuntimeError::UnknownAgent { name: order.agent.clone(), known });
    }
    order.check()
}

/// Follows a run until it is over, on a progress bar or on lines.
pub(super) async fn follow(
    runtime: &Runtime,
    run: &RunView,
    format: Output,
) -> anyhow::Result<RunView> {
    let mut screen = Screen::new(format);
    let mut watch = runtime.watch();
    let mut seq = 0;
    loop {
        loop {
            let events = runtime.events(run.id, seq, PAGE).await?;
            let Some(last) = events.last() else { break };
            seq = last.seq;
            for event in &events {
                screen.show(event);
            }
        }
        let view = runtime.run(run.id).await?;
        let over = Status::parse(&view.state).is_some_and(Status::is_over);
        if over && view.events == seq {
            screen.finish();
            return Ok(view);
        }
        if !over && !watch.changed(Some(run.id)).await {
            runtime.store().writable().map_err(RuntimeError::from)?;
            anyhow::bail!("the runtime ended before the run did");
        }
    }
}

async fn conclude(runtime: &Runtime, view: &RunView, format: Output) -> anyhow::Result<Exit> {
    let folded = runtime.fold(view.id).await?;
    match (format, folded.ending) {
        (Output::Json, ending) => {
            let mut value = serde_json::to_value(view)?;
            value["ending"] = serde_json::to_value(ending)?;
            output::json(&value)?;
        }
        (Output::Text, Some(steadfast_runtime::Ending::Succeeded { output })) => {
            output::exact(&output)?;
        }
        (Output::Text, Some(steadfast_runtime::Ending::Failed { message, .. })) => {
            output::talk(&format!("failed: {message}"));
        }
        (Output::Text, _) => output::talk(&format!("the run is {}", view.state)),
    }
    Ok(exit_of(view))
}

/// Where a run's way is shown: a bar on a terminal, plain lines otherwise.
struct Screen {
    bar: Option<ProgressBar>,
}

impl Screen {
    fn new(format: Output) -> Self {
        let interactive = format == Output::Text && std::io::stderr().is_terminal();
        let bar = interactive.then(|| {
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar }
    }

    fn show(&mut self, view: &EventView) {
        let Some(bar) = &self.bar else {
            output::talk(&output::event(view));
            return;
        };
        bar.tick();
        if let RunEvent::Progressed { progress } = &view.event {
            bar.set_length(progress.total);
            bar.set_position(progress.step);
            bar.set_message(progress.description.clone());
        } else {
            bar.set_message(output::event(view).trim_start().to_owned());
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
