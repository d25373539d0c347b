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
const RESTS_WITHIN: Duration = Duration::from_secs(300);

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
    dice: Mutex<fastrand::Rng>,
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
            dice: Mutex::new(fastrand::Rng::with_seed(!seed)),
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

    /// Damages checkpoints; how many. Before a run has been confirmed there may be no store yet.
    pub(crate) fn spoil(&self) -> usize {
        let is_there = !locked(&self.known).confirmed.is_empty();
        if is_there { self.place.spoil(self.path()) } else { 0 }
    }

    /// Whether something is done that is done once in so many times.
    pub(crate) fn happens(&self, once_in: u32) -> bool {
        locked(&self.dice).u32(0..once_in) == 0
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
        let is_confirmed = post(address, run, command, &json!({})).is_some();
        if is_confirmed {
            self.record.confirmed(run, kind);
        }
        is_confirmed
    }

    /// Asks a node to put a run aside: at once, or once its step has ended. `true` if it will.
    pub(crate) fn pause(&self, address: &str, run: &str, now: bool) -> bool {
        let answer = post(address, run, "pause", &json!({ "now": now }));
        if answer.as_ref().is_some_and(|answer| answer["paused"] == true) {
            self.record.confirmed(run, "paused");
        }
        answer.is_some()
    }

    /// Asks a node to let a run begin anew, and to undo what it has done.
    pub(crate) fn roll_back(&self, address: &str, run: &str) -> bool {
        let is_confirmed = post(address, run, "rollback", &json!({ "to": 1 })).is_some();
        if is_confirmed {
            self.record.confirmed(run, "rolled_back");
        }
        is_confirmed
    }

    /// Asks a node for a fork of a run, from before it did anything that is done once: which run that is.
    pub(crate) fn fork(&self, address: &str, run: &str) -> Option<String> {
        let at = locked(&self.dice).u64(1..=2);
        let key = format!("fork of {run} at {at}");
        let fork = post(address, run, "fork", &json!({ "at": at, "key": key }))?;
        let fork = fork["id"].as_str()?.to_owned();
        self.record.submitted(&key, &fork);
        locked(&self.known).open.insert(fork.clone());
        Some(fork)
    }

    /// Sees to a run that waits: answers what it asks, if that can be known, or else wakes it. `true` if
    /// it has been answered just now.
    pub(crate) fn see_to(&self, address: &str, run: &str) -> bool {
        let Ok((200, shown)) = get(address, &format!("/api/v1/runs/{run}")) else { return false };
        let (Some(call), Some(tool)) =
            (shown["asked"]["call"]["id"].as_str(), shown["asked"]["call"]["name"].as_str())
        else {
            self.command(address, run, "resume", "resumed");
            return false;
        };
        let arguments = shown["asked"]["call"]["arguments"].as_str().unwrap_or_default();
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        let what = arguments["what"].as_str().unwrap_or_default();
        let known = self.tools.has_happened(tool, what).expect("the server answers");
        let verdict = match known["happened"].as_bool() {
            Some(true) => "happened",
            Some(false) => "did-not",
            None => "fail",
        };
        let mut body = json!({ "call": call, "verdict": verdict });
        if verdict == "happened" {
            body["result"] = json!(known.to_string());
        }
        let answer = post(address, run, "answer", &body);
        let is_taken = answer.is_some_and(|answer| answer["taken"] == true);
        if is_taken {
            self.record.confirmed(run, "call_judged");
        }
        is_taken
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
            let (waiting, paused) = (in_state("waiting"), in_state("paused"));
            for run in &waiting {
                self.see_to(&address, run);
            }
            for run in &paused {
                self.command(&address, run, "resume", "resumed");
            }
            let open =
                waiting.len() + paused.len() + in_state("queued").len() + in_state("running").len();
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

/// Asks a node to do something with a run; what it says if it has.
fn post(address: &str, run: &str, command: &str, body: &Value) -> Option<Value> {
    let path = format!("/api/v1/runs/{run}/{command}");
    match ask(address, "POST", &path, body) {
        Ok((200 | 201, answer)) => Some(answer),
        _ => None,
    }
}

/// How often something is in the logs.
pub(crate) fn count(evidence: &Evidence, field: &str, value: &str) -> usize {
    let events = evidence.logs.values().flatten();
    events.filter(|event| event[field] == value).count()
}

/// Events by their kinds.
pub(crate) fn happened(evidence: &Evidence) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for event in evidence.logs.values().flatten() {
        *kinds.entry(event["type"].as_str().unwrap_or_default()).or_default() += 1;
    }
    kinds
}

/// Runs by how they ended.
pub(crate) fn endings(evidence: &Evidence) -> BTreeMap<&str, usize> {
    let mut ends = BTreeMap::new();
    for state in evidence.states.values() {
        *ends.entry(state.as_str()).or_default() += 1;
    }
    ends
}
