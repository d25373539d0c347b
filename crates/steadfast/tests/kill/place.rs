//! Where the store is: what a node is told of it, and what is looked at once no node has it open.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::postgres_server::{Server, fresh_schema};

/// How long a node keeps its runs without a sign of life: the shortest lease there is.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// The variable that tells a node where the database is: its URL holds a password.
const URL_VARIABLE: &str = "STEADFAST_KILL_STORE";

/// Puts `body` in place of the newest checkpoint of each run that is not over.
fn spoil(schema: &str, body: &str) -> String {
    let over = "('succeeded', 'failed', 'cancelled')";
    format!(
        "UPDATE {schema}checkpoint SET body = {body} WHERE \
         run IN (SELECT run FROM {schema}run WHERE state NOT IN {over}) AND \
         seq = (SELECT max(seq) FROM {schema}checkpoint other WHERE other.run = checkpoint.run)"
    )
}

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

    /// Damages the newest checkpoint of each run that is not over, while no node has the store open; how many
    /// there were.
    pub(crate) fn spoil(&self, folder: &Path) -> usize {
        match self {
            Self::Sqlite => {
                let store = rusqlite::Connection::open(folder.join("kill.db")).expect("opens");
                store.execute(&spoil("", "x'00'"), []).expect("damages")
            }
            Self::Postgres { url, schema } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let damaged = runtime.expect("a runtime").block_on(async {
                    let (client, link) = tokio_postgres::connect(url, NoTls).await?;
                    let prefix = format!("{schema}.");
                    let damage = async {
                        let damaged = client.execute(&spoil(&prefix, "'\\x00'"), &[]).await;
                        drop(client);
                        damaged
                    };
                    tokio::join!(damage, link).0
                });
                usize::try_from(damaged.expect("damages")).expect("a few")
            }
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
