//! Where the store is: what a node is told of it, and what is looked at once no node has it open.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::postgres_server::{Server, fresh_schema};

/// How long a node keeps its runs without a sign of life: the shortest lease there is.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// The variable that tells a node where the database is: its URL holds a password.
const URL_VARIABLE: &str = "STEADFAST_KILL_STORE";

/// A store.
pub(crate) enum Place {
    /// A file in the world's folder, for one node.
    Sqlite,
    /// A schema of a database, for as many nodes as there are.
    Postgres { url: String, schema: String },
}

impl Place {
    /// A fresh store on a database server.
    pub(crate) fn on(server: &Server) -> Self {
        Self::Postgres { url: server.url(), schema: fresh_schema() }
    }

    /// Its part of the configuration.
    pub(crate) fn settings(&self) -> String {
        match self {
            Self::Sqlite => "[store]\npath = \"kill.db\"\n".to_owned(),
            Self::Postgres { schema, .. } => {
                format!("[store]\nurl = \"env:{URL_VARIABLE}\"\nschema = \"{schema}\"\n")
            }
        }
    }

    /// Names it to a node that is about to start.
    pub(crate) fn name(&self, command: &mut Command) {
        match self {
            Self::Sqlite => {}
            Self::Postgres { url, .. } => drop(command.env(URL_VARIABLE, url)),
        }
    }

    /// What is wrong with the file, by its engine's own check. A database is judged by what it gives.
    pub(crate) fn faults(&self, folder: &Path) -> Vec<String> {
        match self {
            Self::Postgres { .. } => Vec::new(),
            Self::Sqlite => {
                let store = rusqlite::Connection::open(folder.join("kill.db")).expect("opens");
                let check: String = store
                    .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                    .expect("checks");
                Some(check).filter(|check| check != "ok").into_iter().collect()
            }
        }
    }
}
