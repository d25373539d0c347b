//! `steadfast facts`: what runs have remembered.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::{Exit, Output, output};
use crate::server::FactPage;

/// Whose facts.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// The tenant.
    #[arg(long, global = true, default_value = "default")]
    tenant: String,
    /// One of its agents, instead of the tenant itself.
    #[arg(long, global = true, conflicts_with = "session")]
    agent: Option<String>,
    /// One of its sessions, instead of the tenant itself.
    #[arg(long, global = true)]
    session: Option<String>,
}

/// What is done with them.
#[derive(Debug, Subcommand)]
pub(super) enum FactAction {
    /// List facts by key.
    List {
        /// Only keys that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only keys after this one: the cursor that the page before ended with.
        #[arg(long, default_value = "")]
        after: String,
    },
    /// Print the value of a fact.
    Get {
        /// Its key.
        #[arg(value_parser = key)]
        key: String,
    },
    /// Make a fact true.
    Set {
        /// Its key.
        #[arg(value_parser = key)]
        key: String,
        /// Its value: JSON, or else a text.
        value: String,
        /// For how long it holds, as `7d`. Default: for ever.
        #[arg(long, value_parser = duration)]
        keep: Option<String>,
    },
    /// Forget a fact.
    Forget {
        /// Its key.
        #[arg(value_parser = key)]
        key: String,
    },
}

fn key(text: &str) -> Result<String, String> {
    // The server says what else a key may not be; without one, there is nothing to ask it about.
    if text.is_empty() {
        Err("a key has at least one letter".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Checked here, so that the option is named; the server reads it again.
fn duration(text: &str) -> Result<String, String> {
    super::store::duration(text).map(|_| text.to_owned())
}

impl Whose {
    fn query(&self) -> Vec<(&'static str, String)> {
        let said = [
            ("tenant", Some(self.tenant.clone())),
            ("agent", self.agent.clone()),
            ("session", self.session.clone()),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub(super) async fn facts(
    client: &Client,
    whose: &Whose,
    action: FactAction,
    format: Output,
) -> anyhow::Result<Exit> {
    let mut query = whose.query();
    match action {
        FactAction::List { prefix, after } => {
            query.extend([("prefix", prefix), ("after", after)]);
            let page: FactPage = match client.find("/facts", &query).await? {
                Answer::Ok(page) => page,
                Answer::Refused(exit) => return Ok(exit),
            };
            list(&page, format)?;
        }
        FactAction::Get { key } => {
            let fact: Value = match client.find(&path(&key), &query).await? {
                Answer::Ok(fact) => fact,
                Answer::Refused(exit) => return Ok(exit),
            };
            match format {
                Output::Json => output::json(&fact)?,
                Output::Text => output::exact(&text_of(&fact["value"]))?,
            }
        }
        FactAction::Set { key, value, keep } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            let mut body = json!({ "value": value });
            if let Some(keep) = keep {
                body["keep"] = Value::String(keep);
            }
            let fact: Value = match client.put(&path(&key), &query, &body).await? {
                Answer::Ok(fact) => fact,
                Answer::Refused(exit) => return Ok(exit),
            };
            match format {
                Output::Json => output::json(&fact)?,
                Output::Text => output::data(&format!("{key} version {}", fact["version"]))?,
            }
        }
        FactAction::Forget { key } => {
            return match client.delete(&path(&key), &query).await? {
                Answer::Ok(()) => Ok(Exit::Done),
                Answer::Refused(exit) => Ok(exit),
            };
        }
    }
    Ok(Exit::Done)
}

fn list(page: &FactPage, format: Output) -> anyhow::Result<()> {
    match format {
        Output::Json => output::json(page)?,
        Output::Text if page.facts.is_empty() => output::talk("no facts"),
        Output::Text => {
            for fact in &page.facts {
                let line: String =
                    text_of(&fact.value).replace('\n', " ").chars().take(100).collect();
                output::data(&format!("{}\t{line}", fact.key))?;
            }
            if let Some(next) = &page.next {
                output::talk(&format!("more: the same with `--after '{next}'`"));
            }
        }
    }
    Ok(())
}

/// A text as it is, anything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn path(key: &str) -> String {
    format!("/facts/{}", super::guards::segment(key))
}
