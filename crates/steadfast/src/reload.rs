//! Takes over changes of the configuration file while the program runs: the guards' policies, the
//! schedules, the budgets and the prices.
//!
//! The file is looked at every second, and at once on SIGHUP. Either all policies are taken over
//! or none; breakers, counters, queues and sleeping retries stay. What is wrong with a file is said in
//! the log, and shown beside the guards until a good one follows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steadfast_runtime::{PolicyChange, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, check_policies};
use crate::node::drills;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is wrong with the file as it stands, if anything is. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ReloadProblem(Arc<Mutex<Option<String>>>);

impl ReloadProblem {
    /// The problem, for people.
    pub(crate) fn text(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// A configuration file that is watched.
pub(crate) struct Reload {
    path: PathBuf,
    /// The file as it was last read.
    text: String,
    /// What it says beside the policies, as the program was started with it.
    rest: toml::Table,
    runtime: Runtime,
    problem: ReloadProblem,
}

impl Reload {
    /// A watch of the file that `config` was read from; `None` if it was read from none.
    pub(crate) fn new(config: &Config, runtime: Runtime) -> Option<Self> {
        let (path, text) = config.source()?;
        let (path, text) = (path.to_owned(), text.to_owned());
        let rest = beside_policies(&text);
        Some(Self { path, text, rest, runtime, problem: ReloadProblem::default() })
    }

    /// Where its problem can be seen.
    pub(crate) fn problem(&self) -> ReloadProblem {
        self.problem.clone()
    }

    /// Watches until it is stopped.
    ///
    /// # Errors
    /// The signal cannot be listened to.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangup.recv() => true,
                _ = tick.tick() => false,
            };
            self.look(asked).await;
        }
    }

    async fn look(&mut self, asked: bool) {
        match tokio::fs::read_to_string(&self.path).await {
            Ok(text) if text == self.text && !asked => {}
            Ok(text) => {
                self.text = text;
                let outcome = self.take_over();
                self.tell(outcome);
            }
            // An editor may be replacing it: it is looked for again, and missed only when asked for.
            Err(problem) if asked => {
                self.tell(Err(ConfigError::Unreadable {
                    path: self.path.clone(),
                    problem,
                    hint: "",
                }));
            }
            Err(_) => {}
        }
    }

    fn take_over(&self) -> Result<Vec<PolicyChange>, ConfigError> {
        let config = Config::parse(&self.path, self.text.clone())?;
        let catalog = self.runtime.catalog();
        check_policies(&config, catalog).map_err(|error| config.locate(error))?;
        let rules = config.policy_rules().map_err(|error| config.locate(error))?;
        let timetable = config.timetable().map_err(|error| config.locate(error))?;
        let terms = config.terms().map_err(|error| config.locate(error))?;
        let changes = catalog.replace_policies(&rules).map_err(|error| {
            let place = format!("policies.{}", error.layer);
            config.locate(ConfigError::Unusable { place, problem: error.problem })
        })?;
        self.runtime.set_schedules(timetable).map_err(|error| {
            let place = "schedules".to_owned();
            config.locate(ConfigError::Unusable { place, problem: error.to_string() })
        })?;
        self.runtime.cashier().replace_terms(terms);
        Ok(changes)
    }

    fn tell(&mut self, outcome: Result<Vec<PolicyChange>, ConfigError>) {
        let path = self.path.display();
        let problem = match outcome {
            Ok(changes) => {
                if changes.is_empty() {
                    info!(%path, "read again; no policy has changed; schedules, budgets and prices are as the file says");
                }
                for PolicyChange { dependency, keys } in changes {
                    let keys = keys.iter().map(|(key, old, new)| format!("{key} {old} -> {new}"));
                    let keys = keys.collect::<Vec<_>>().join(", ");
                    info!(%path, dependency, keys, "policy replaced");
                }
                for drill in drills(self.runtime.catalog()) {
                    warn!("{drill}");
                }
                let rest = beside_policies(&self.text);
                if rest != self.rest {
                    warn!(%path, "changes outside of policies, schedules, budgets and prices take effect at the next start");
                    self.rest = rest;
                }
                None
            }
            Err(problem) => {
                error!(%path, %problem, "the old policies stay");
                Some(format!("{problem}; the policies from before stay in force"))
            }
        };
        *self.problem.0.lock() = problem;
    }
}

fn beside_policies(text: &str) -> toml::Table {
    let mut table: toml::Table = text.parse().unwrap_or_default();
    table.remove("policies");
    table.remove("chaos");
    table.remove("schedules");
    table.remove("budget");
    table.remove("ledger");
    table.remove("prices");
    table
}
