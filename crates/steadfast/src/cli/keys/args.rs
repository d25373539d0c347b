//! What is said on the command line about keys.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use steadfast_runtime::{KeyBudget, KeyEdit, KeyLimits, KeySpec};
use steadfast_store::Timestamp;

use crate::cli::store::duration;

/// Where the keys are.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Talk to no server: read and write the store itself. A file must not be in use for that, but to list
    /// and show.
    #[arg(long, global = true)]
    pub(super) offline: bool,
    /// The store: a file, a `postgres://` URL without a password, or `env:VARIABLE` with a URL in it.
    /// Default: the configuration's.
    #[arg(long, global = true, requires = "offline")]
    pub(super) store: Option<String>,
}

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Make a key, and print its secret: this once, and never again.
    Create(Create),
    /// List keys by id.
    List {
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only ids after this one: the cursor that the page before ended with.
        #[arg(long)]
        after: Option<String>,
    },
    /// Show a key, without its secret.
    Show {
        /// Its id.
        id: String,
    },
    /// Give a key another secret, and print it: this once, and never again.
    Rotate {
        /// Its id.
        id: String,
        /// For how long the secret before lets in; `0s` ends every earlier one at once.
        #[arg(long, default_value = "24h", value_parser = duration)]
        grace: Duration,
    },
    /// Take a key back for good.
    Revoke {
        /// Its id.
        id: String,
    },
    /// Change what is named of a key.
    Edit(Edit),
}

/// A key that is made.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What people call it.
    name: String,
    /// The tenant that it acts for.
    #[arg(long)]
    tenant: String,
    /// The user of the tenant, if it is one's.
    #[arg(long)]
    user: Option<String>,
    /// The agent that calls with it, if it is one's.
    #[arg(long)]
    agent: Option<String>,
    /// A model that it may call, or a beginning with `*` behind; may be given several times. Default: every.
    #[arg(long = "model")]
    models: Vec<String>,
    /// Requests a minute, on each node. Default: no limit.
    #[arg(long)]
    requests_per_minute: Option<u64>,
    /// Tokens a minute, on each node. Default: no limit.
    #[arg(long)]
    tokens_per_minute: Option<u64>,
    /// Calls at once, on each node. Default: no limit.
    #[arg(long)]
    at_once: Option<u32>,
    #[command(flatten)]
    budget: Budget,
    /// When it ends: a time (RFC 3339), or in how long (`30d`). Default: never.
    #[arg(long, value_parser = end)]
    expires: Option<End>,
    /// A word to sort keys by; may be given several times.
    #[arg(long = "label", value_name = "NAME=TEXT", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// What a key may spend.
#[derive(Debug, Args)]
pub(crate) struct Budget {
    /// When its budget begins anew: `hour`, `day`, `week`, `month`, or `whole` for never.
    #[arg(long, default_value = "month", value_name = "WINDOW")]
    budget_window: String,
    /// Tokens that it may use in the window.
    #[arg(long, value_name = "TOKENS")]
    budget_tokens: Option<u64>,
    /// USD that it may spend in the window, such as `12.50`.
    #[arg(long, value_name = "USD")]
    budget_usd: Option<String>,
}

/// A change of a key.
#[derive(Debug, Args)]
pub(crate) struct Edit {
    /// Its id.
    id: String,
    /// Another name.
    #[arg(long)]
    name: Option<String>,
    /// Another user; `''` for none.
    #[arg(long)]
    user: Option<String>,
    /// Another agent; `''` for none.
    #[arg(long)]
    agent: Option<String>,
    /// All the models that it may call, instead of those before; may be given several times.
    #[arg(long = "model", conflicts_with = "every_model")]
    models: Vec<String>,
    /// It may call every model.
    #[arg(long)]
    every_model: bool,
    /// Another limit of requests a minute; `none` for no limit.
    #[arg(long, value_name = "LIMIT", value_parser = limit)]
    requests_per_minute: Option<Limit>,
    /// Another limit of tokens a minute; `none` for no limit.
    #[arg(long, value_name = "LIMIT", value_parser = limit)]
    tokens_per_minute: Option<Limit>,
    /// Another limit of calls at once; `none` for no limit.
    #[arg(long, value_name = "LIMIT", value_parser = limit)]
    at_once: Option<Limit>,
    #[command(flatten)]
    budget: Budget,
    /// No budget of its own.
    #[arg(long, conflicts_with_all = ["budget_tokens", "budget_usd"])]
    no_budget: bool,
    /// When it ends: a time (RFC 3339), in how long (`30d`), or `never`.
    #[arg(long, value_parser = end)]
    expires: Option<End>,
    /// Good for nothing until it is enabled.
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Lets in again.
    #[arg(long)]
    enable: bool,
    /// All its labels, instead of those before; may be given several times.
    #[arg(long = "label", value_name = "NAME=TEXT", value_parser = label, conflicts_with = "no_labels")]
    labels: Vec<(String, String)>,
    /// No labels.
    #[arg(long)]
    no_labels: bool,
}

/// A limit, or that there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => match text.parse() {
            Ok(limit) => Ok(Limit(Some(limit))),
            Err(_) => Err("it is a whole number, or `none`".to_owned()),
        },
    }
}

/// When a key ends, if it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End(Option<Timestamp>);

fn end(text: &str) -> Result<End, String> {
    if text == "never" {
        return Ok(End(None));
    }
    let at = match duration(text) {
        Ok(left) => jiff::Timestamp::now().checked_add(left).ok(),
        Err(_) => text.parse().ok(),
    };
    let at = at.map(|at| End(Some(Timestamp(at.as_millisecond()))));
    at.ok_or_else(|| {
        "it is neither a time such as `2030-01-31T12:00:00Z`, nor in how long, such as `30d`, nor \
         `never`"
            .to_owned()
    })
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, text) = text.split_once('=').ok_or("it is written `NAME=TEXT`")?;
    Ok((name.to_owned(), text.to_owned()))
}

impl Budget {
    fn said(self) -> Option<KeyBudget> {
        let Self { budget_window: window, budget_tokens: tokens, budget_usd: usd } = self;
        (tokens.is_some() || usd.is_some()).then_some(KeyBudget { window, tokens, usd })
    }
}

impl Create {
    pub(super) fn spec(self) -> KeySpec {
        let Self { requests_per_minute, tokens_per_minute, at_once, .. } = self;
        KeySpec {
            name: self.name,
            tenant: self.tenant,
            user: self.user,
            agent: self.agent,
            models: self.models,
            limits: KeyLimits { requests_per_minute, tokens_per_minute, at_once },
            budget: self.budget.said(),
            expires_at: self.expires.and_then(|End(at)| at),
            disabled: false,
            labels: self.labels.into_iter().collect(),
        }
    }
}

impl Edit {
    /// The key, and what is changed of it.
    pub(super) fn changes(self) -> anyhow::Result<(String, KeyEdit)> {
        let or_none = |text: String| Some(text).filter(|text| !text.is_empty());
        let at_once = self.at_once.map(|Limit(limit)| limit.map(u32::try_from).transpose());
        let at_once = at_once.transpose()?;
        let labels: BTreeMap<_, _> = self.labels.into_iter().collect();
        let edit = KeyEdit {
            name: self.name,
            user: self.user.map(or_none),
            agent: self.agent.map(or_none),
            models: (self.every_model || !self.models.is_empty()).then_some(self.models),
            requests_per_minute: self.requests_per_minute.map(|Limit(limit)| limit),
            tokens_per_minute: self.tokens_per_minute.map(|Limit(limit)| limit),
            at_once,
            budget: if self.no_budget { Some(None) } else { self.budget.said().map(Some) },
            expires_at: self.expires.map(|End(at)| at),
            disabled: (self.enable || self.disable).then_some(self.disable),
            labels: (self.no_labels || !labels.is_empty()).then_some(labels),
        };
        if edit == KeyEdit::default() {
            bail!(
                "nothing is to be changed: name at least one option, `steadfast keys edit --help` lists them"
            );
        }
        Ok((self.id, edit))
    }
}
