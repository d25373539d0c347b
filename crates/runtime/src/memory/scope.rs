//! Whose facts they are, and what names and values are accepted.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_store::{FACT_BYTES_MAX, FactName, FactWrite};

use crate::error::RuntimeError;

/// Longest key of a fact, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// Who shares facts with a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryScope {
    /// Every run of its tenant.
    Tenant,
    /// Every run of its agent, for its tenant.
    #[default]
    Agent,
    /// Every run of its session, for its tenant.
    Session,
}

/// Whose facts they are. No scope sees another one's facts, and no tenant another one's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FactScope {
    /// A tenant's.
    Tenant {
        /// The tenant.
        tenant: String,
    },
    /// An agent's, of a tenant.
    Agent {
        /// The tenant.
        tenant: String,
        /// The agent.
        agent: String,
    },
    /// A session's, of a tenant.
    Session {
        /// The tenant.
        tenant: String,
        /// The session.
        session: String,
    },
}

impl FactScope {
    /// The scope of a run; `None` if it is the session's and the run has none.
    pub(crate) fn of(
        scope: MemoryScope,
        tenant: &str,
        agent: &str,
        session: Option<&str>,
    ) -> Option<Self> {
        let tenant = tenant.to_owned();
        Some(match scope {
            MemoryScope::Tenant => Self::Tenant { tenant },
            MemoryScope::Agent => Self::Agent { tenant, agent: agent.to_owned() },
            MemoryScope::Session => Self::Session { tenant, session: session?.to_owned() },
        })
    }

    /// As it stands in the store: no two scopes have the same name.
    pub(crate) fn stored(&self) -> String {
        match self {
            Self::Tenant { tenant } => format!("tenant/{}", escaped(tenant)),
            Self::Agent { tenant, agent } => {
                format!("agent/{}/{}", escaped(tenant), escaped(agent))
            }
            Self::Session { tenant, session } => {
                format!("session/{}/{}", escaped(tenant), escaped(session))
            }
        }
    }

    /// A fact of this scope.
    ///
    /// # Errors
    /// The key is not acceptable.
    pub(crate) fn name(&self, key: &str) -> Result<FactName, RuntimeError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(char::is_control) {
            let problem = format!(
                "the key of a fact must have 1 to {KEY_BYTES_MAX} bytes, and no line breaks or other \
                 control characters"
            );
            return Err(RuntimeError::InvalidInput { problem });
        }
        Ok(FactName { scope: self.stored(), key: key.to_owned() })
    }

    /// What makes a fact of this scope true, for good or for so long.
    ///
    /// # Errors
    /// The key is not acceptable, or the value is too large.
    pub(crate) fn write(
        &self,
        key: &str,
        value: &Value,
        keep: Option<Duration>,
    ) -> Result<FactWrite, RuntimeError> {
        let name = self.name(key)?;
        let value = value.to_string();
        if value.len() > FACT_BYTES_MAX {
            let size = value.len();
            let problem = format!(
                "the value of fact `{key}` is {size} bytes, and the limit is {FACT_BYTES_MAX}: put it \
                 into a file, and remember where"
            );
            return Err(RuntimeError::InvalidInput { problem });
        }
        Ok(FactWrite { name, value: Some(Bytes::from(value)), keep })
    }

    /// What forgets a fact of this scope.
    ///
    /// # Errors
    /// The key is not acceptable.
    pub(crate) fn forget(&self, key: &str) -> Result<FactWrite, RuntimeError> {
        Ok(FactWrite { name: self.name(key)?, value: None, keep: None })
    }
}

fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_no_two_scopes_share_a_name_whatever_they_are_called() {
        let of = |scope, tenant, agent, session| {
            FactScope::of(scope, tenant, agent, Some(session)).expect("a session").stored()
        };
        let mut names = Vec::new();
        for (tenant, other) in [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc")] {
            names.push(of(MemoryScope::Agent, tenant, other, ""));
            names.push(of(MemoryScope::Session, tenant, "", other));
        }
        names.push(of(MemoryScope::Tenant, "a", "", ""));
        names.push(of(MemoryScope::Tenant, "a/b", "", ""));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
        assert_eq!(FactScope::of(MemoryScope::Session, "t", "a", None), None);
    }

    #[test]
    fn c13_keys_and_values_that_cannot_be_kept_are_refused() {
        let scope = FactScope::Tenant { tenant: "t".to_owned() };
        for key in ["", "two\nlines", &"k".repeat(257)] {
            assert!(scope.write(key, &Value::Null, None).is_err(), "{key}");
        }
        let large = Value::String("x".repeat(FACT_BYTES_MAX - 1));
        let refused = scope.write("k", &large, None).expect_err("one byte too many").to_string();
        assert!(refused.contains("262145 bytes"), "{refused}");
        let fits = Value::String("x".repeat(FACT_BYTES_MAX - 2));
        assert!(scope.write("k", &fits, None).is_ok());
    }
}
