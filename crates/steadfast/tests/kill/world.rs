//! Everything around the nodes: the folder, the provider, the world outside, and what is known of the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{CLIENT_FILE, IDEMPOTENT, Wish, Wishes, configure, script};
use crate::node::{Node, program};
use crate::oracle::{Ask, Evidence, faults};
use crate::place::Place;
use crate::record::Record;
use crate::tools::{CLIENT, ToolServer};
use crate::wire::{ask, get};

/// How long everything may take to come to rest once nothing disturbs any more.
const RESTS_WITHIN: Duration = Duration::from_secs(120);

/// How many runs are kept open.
const OPEN: usize = 10;

/// Where the runs stand, as far as is known from outside.
#[derive(Default)]
pub(crate) struct Known {
    /// Submissions that no node has confirmed yet.
    pub(crate) unconfirmed: Vec<Wish>,
    /// Submissions that have been confirmed.
    pub(crate) confirmed: Vec<Wish>,
    /// Runs that were not over when last seen.
    pub(crate) open: BTreeSet<String>,
}

/// The surroundings; dropped, they are all gone.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) place: Place,
    pub(crate) tools: ToolServer,
    pub(crate) record: Record,
    pub(crate) known: Mutex<Known>,
    wishes: Mutex<Wishes>,
    /// Kept alive; its journal is what it is asked.
    _provider: Mutex<Node>,
    provider_url: String,
    port: u16,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that is free, and outside of what the system gives to connections: while a node is being
/// started again nobody else may get it.
pub(crate) fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| fastrand::u16(12_000..32_000)).take(1_000);
    let mut free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().expect("a free port")
}

impl World {
    pub(crate) fn new(place: Place, seed: u64) -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        std::fs::write(path.join("kill.toml"), script()).expect("written");
        std::fs::write(path.join(CLIENT_FILE), CLIENT).expect("written");
        let mut command = program(path);
        command.args(["sim", "kill.toml", "--listen", "127.0.0.1:0", "--journal", "asked.jsonl"]);
        let provider = Node::start(command, "OpenAI base URL http://");
        let provider_url = format!("http://{}/v1", provider.address());
        let world = Self {
            tools: ToolServer::start(IDEMPOTENT, seed),
            record: Record::new(&path.join("asked.jsonl")),
            known: Mutex::default(),
            wishes: Mutex::new(Wishes::new(seed)),
            folder,
            place,
            _provider: Mutex::new(provider),
            provider_url,
            port: free_port(),
        };
        world.configure(true);
        Arc::new(world)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the configuration; in a drill some calls do not leave.
    pub(crate) fn configure(&self, drill: bool) {
        let (url, port) = (&self.provider_url, self.tools.port());
        configure(self.path(), url, port, &self.place.settings(), drill);
    }

    /// Starts a node. One that listens where an earlier one did ends what that has left behind.
    pub(crate) fn node(&self) -> Node {
        self.node_at(self.port, &[])
    }

    /// Starts a node at a port of its own, with more in its environment.
    pub(crate) fn node_at(&self, port: u16, environment: &[(&str, String)]) -> Node {
        let mut command = program(self.path());
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        self.place.name(&mut command);
        Node::start(command, concat!("steadfast ", env!("CARGO_PKG_VERSION"), " on http://"))
    }

    /// Asks a node for one more run, or once more for one that it may or may not have: `false` if there was
    /// no whole answer.
    pub(crate) fn submit(&self, address: &str, kind: Option<&str>, again: bool) -> bool {
        let wish = {
            let mut known = locked(&self.known);
            let earlier = match again {
                true => known.confirmed.last().cloned(),
                false => known.unconfirmed.pop(),
            };
            let wish = earlier.unwrap_or_else(|| locked(&self.wishes).draw(kind));
            if !known.confirmed.iter().any(|one| one.key == wish.key) {
                known.unconfirmed.push(wish.clone());
            }
            wish
        };
        let Ok((status, answer)) = ask(address, "POST", "/api/v1/runs", &wish.body()) else {
            return false;
        };
        // While a node is being shut down or its store is away it may refuse; then it has promised nothing.
        let (200 | 201, Some(run)) = (status, answer["id"].as_str()) else { return false };
        self.record.submitted(&wish.key, run);
        let mut known = locked(&self.known);
        known.unconfirmed.retain(|one| one.key != wish.key);
        known.confirmed.push(wish);
        known.open.insert(run.to_owned());
        true
    }

    /// How many more runs are to be open.
    pub(crate) fn wanted(&self) -> usize {
        OPEN.saturating_sub(locked(&self.known).open.len())
    }

    /// Asks a node to do something with a run, and notes its word if it gives it: `true` then.
    pub(crate) fn command(
        &self,
        address: &str,
        run: &str,
        command: &str,
        kind: &'static str,
    ) -> bool {
        let path = format!("/api/v1/runs/{run}/{command}");
        let is_confirmed = matches!(ask(address, "POST", &path, &json!({})), Ok((200, _)));
        if is_confirmed {
            self.record.confirmed(run, kind);
        }
        is_confirmed
    }

    /// All runs, newest first, as a node lists them.
    pub(crate) fn runs(address: &str) -> std::io::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut before = String::new();
        loop {
            let (_, page) = get(address, &format!("/api/v1/runs?limit=100{before}"))?;
            found.extend(page["runs"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(found),
            }
        }
    }

    fn log(address: &str, run: &str) -> std::io::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("/api/v1/runs/{run}/events?limit=100&after={after}");
            let (_, page) = get(address, &path)?;
            found.extend(page["events"].as_array().cloned().unwrap_or_default());
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => return Ok(found),
            }
        }
    }

    /// What the provider was asked, in order.
    fn asks(&self) -> Vec<Ask> {
        let journal = std::fs::read_to_string(self.path().join("asked.jsonl")).unwrap_or_default();
        let mut at = 0;
        let lines = journal.split_inclusive('\n').map(|line| {
            let entry: Value = serde_json::from_str(line).expect("a journal line is JSON");
            let key = entry["idempotency_key"].as_str().expect("every call carries its key");
            let ask = Ask { key: key.to_owned(), at };
            at += line.len() as u64;
            ask
        });
        lines.collect()
    }

    /// Lets everything come to rest: what waits is woken, until each run is over; then judges.
    pub(crate) fn judge(&self, node: Node, under_way_in_sleep: usize) -> Evidence {
        let address = node.address();
        let patience = Instant::now() + RESTS_WITHIN;
        let runs = loop {
            let runs = Self::runs(&address).expect("the node lists its runs");
            let in_state = |state: &str| {
                let those = runs.iter().filter(|run| run["state"] == state);
                those.filter_map(|run| run["id"].as_str()).collect::<Vec<_>>()
            };
            let waiting = in_state("waiting");
            for run in &waiting {
                self.command(&address, run, "resume", "resumed");
            }
            let open = waiting.len() + in_state("queued").len() + in_state("running").len();
            if open == 0 || Instant::now() > patience {
                break runs;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut evidence =
            Evidence { acknowledged: self.record.all(), under_way_in_sleep, ..Evidence::default() };
        for run in &runs {
            let (id, state) = (run["id"].as_str(), run["state"].as_str());
            let (id, state) = (id.expect("an id").to_owned(), state.expect("a state").to_owned());
            let log = Self::log(&address, &id).expect("the node gives a log");
            evidence.logs.insert(id.clone(), log);
            evidence.states.insert(id, state);
        }
        node.killer().kill(&self.tools);
        let said = node.gone();
        assert!(!said.contains("panicked"), "{said}");
        evidence.executions = self.tools.executions();
        evidence.asks = self.asks();
        let mut found = faults(&evidence);
        found.extend(self.place.faults(self.path()));
        assert!(found.is_empty(), "{} faults:\n{}\n{said}", found.len(), found.join("\n"));
        evidence
    }
}

/// How often something is in the logs.
pub(crate) fn count(evidence: &Evidence, field: &str, value: &str) -> usize {
    let events = evidence.logs.values().flatten();
    events.filter(|event| event[field] == value).count()
}

/// Runs by how they ended.
pub(crate) fn endings(evidence: &Evidence) -> BTreeMap<&str, usize> {
    let mut ends = BTreeMap::new();
    for state in evidence.states.values() {
        *ends.entry(state.as_str()).or_default() += 1;
    }
    ends
}
