//! Where the store is: what a node is told of it, and what is looked at once no node has it open.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a node keeps its runs without a sign of life: the shortest lease there is.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// A store.
pub(crate) enum Place {
    /// A file in the world's folder, for one node.
    Sqlite,
}

impl Place {
    /// Its part of the configuration.
    pub(crate) fn settings(&self) -> String {
        match self {
            Self::Sqlite => "[store]\npath = \"kill.db\"\n".to_owned(),
        }
    }

    /// Names it on a node's command line.
    pub(crate) fn name(&self, _: &mut Command) {
        match self {
            Self::Sqlite => {}
        }
    }

    /// What is wrong with what lies in it, by its engine's own check.
    pub(crate) fn faults(&self, folder: &Path) -> Vec<String> {
        match self {
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
