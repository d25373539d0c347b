//! Who pays for a call.

use serde::{Deserialize, Serialize};

/// Everybody whose budgets a call falls under. Only the tenant is always known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Payer {
    /// The tenant.
    pub tenant: String,
    /// The user on whose behalf it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The id of the key that it came with; never the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The runs that it descends from: its parent, the parent of that, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<String>,
    /// What it is for, as its caller says: `planning`, `reflection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What is asked, as `PROVIDER/MODEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What kind of party a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everybody together.
    All,
    /// A tenant.
    Tenant,
    /// A user of a tenant.
    User,
    /// A key of a tenant.
    Key,
    /// An agent in the service of a tenant.
    Agent,
    /// A model, as `PROVIDER/MODEL`, in the service of a tenant.
    Model,
    /// A session of a tenant.
    Session,
    /// A run of a tenant with all that descend from it.
    Run,
}

impl Scope {
    /// Its word in names and messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Key => "key",
            Self::Agent => "agent",
            Self::Model => "model",
            Self::Session => "session",
            Self::Run => "run",
        }
    }

    /// The parties of this kind that a call falls under: none if it has none, more than one for runs that
    /// descend from others. A party of a tenant has the tenant in front.
    pub(super) fn parties(self, payer: &Payer) -> Vec<Vec<&str>> {
        let tenant = payer.tenant.as_str();
        let (name, ancestors): (&Option<String>, &[String]) = match self {
            Self::All => return vec![Vec::new()],
            Self::Tenant => return vec![vec![tenant]],
            Self::User => (&payer.user, &[]),
            Self::Key => (&payer.key, &[]),
            Self::Agent => (&payer.agent, &[]),
            Self::Model => (&payer.model, &[]),
            Self::Session => (&payer.session, &[]),
            Self::Run => (&payer.run, &payer.ancestors),
        };
        name.iter().chain(ancestors).map(|name| vec![tenant, name.as_str()]).collect()
    }
}
