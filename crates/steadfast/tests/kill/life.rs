//! One life of a node, from its start to the moment at which it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::node::Node;
use crate::wire::{Live, get};
use crate::world::World;

/// When a node is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// So long after its process began, whether it serves by then or not.
    AfterStart(Duration),
    /// So long after it began to serve.
    Serving(Duration),
    /// After it was stopped for so long, longer than its lease, and had gone on.
    Woken(Duration),
    /// So long after it showed an event of this kind for the first time in its life.
    Event(&'static str, Duration),
}

/// An event that is waited for in vain ends in an ordinary kill after this time.
const EVENT_WITHIN: Duration = Duration::from_secs(20);

/// A node that slept past its lease goes on within this time, or not at all.
const WAKES_WITHIN: Duration = Duration::from_secs(60);

/// What came of the kills.
#[derive(Debug, Default)]
pub(crate) struct Toll {
    pub(crate) kills: u64,
    /// Before the node served.
    pub(crate) at_start: usize,
    /// Right after an event of each kind.
    pub(crate) at_event: BTreeMap<&'static str, usize>,
    /// Executions of tools that had begun and not ended.
    pub(crate) in_executions: usize,
    /// After a node had slept past its lease, and had shown that it goes on.
    pub(crate) woken: usize,
    /// How long a node took to serve, the last time.
    pub(crate) start_takes: Duration,
}

/// Starts a node, gives it work, and kills it.
pub(crate) fn live(world: &Arc<World>, moment: Moment, toll: &mut Toll) {
    let began = Instant::now();
    let node = world.node();
    toll.kills += 1;
    if let Moment::AfterStart(after) = moment {
        std::thread::sleep(after);
        toll.in_executions += node.killer().kill(&world.tools);
        toll.at_start += 1;
        return check(node);
    }
    let address = node.address();
    toll.start_takes = began.elapsed();
    let (tell, seen) = channel();
    let kind = match moment {
        Moment::Event(kind, _) => Some(kind),
        Moment::Woken(_) => Some("claimed"),
        Moment::AfterStart(_) | Moment::Serving(_) => None,
    };
    let eyes = Eyes { world: Arc::clone(world), address, kind, tell };
    let busy = eyes.clone().occupy();
    let mut more = Vec::new();
    let under_way = match moment {
        Moment::Event(kind, after) => {
            if seen.recv_timeout(EVENT_WITHIN).is_ok() {
                std::thread::sleep(after);
                *toll.at_event.entry(kind).or_default() += 1;
            }
            node.killer().kill(&world.tools)
        }
        Moment::Woken(sleeps) => {
            let name = seen.recv_timeout(WAKES_WITHIN).expect("it begins with something");
            world.tools.doubt(true);
            node.killer().signal(Signal::STOP);
            std::thread::sleep(sleeps);
            node.killer().signal(Signal::CONT);
            more = eyes.goes_on(&seen, &name, &node);
            toll.woken += 1;
            node.killer().kill(&world.tools)
        }
        Moment::Serving(after) | Moment::AfterStart(after) => {
            std::thread::sleep(after);
            node.killer().kill(&world.tools)
        }
    };
    toll.in_executions += under_way;
    drop(eyes);
    world.tools.doubt(false);
    let watchers = busy.join().expect("whoever occupies a node outlives it");
    for watcher in watchers.into_iter().chain(more) {
        watcher.join().expect("whoever watches a run outlives the node");
    }
    check(node);
}

fn check(node: Node) {
    let said = node.gone();
    let broken = said.lines().find(|line| line.contains("panicked") || line.contains(" ERROR "));
    assert_eq!(broken, None, "{said}");
}

/// Whoever gives a node work and looks at what it shows.
#[derive(Clone)]
pub(crate) struct Eyes {
    pub(crate) world: Arc<World>,
    pub(crate) address: String,
    /// The event that is waited for.
    pub(crate) kind: Option<&'static str>,
    /// Where its node is told, if it has one.
    pub(crate) tell: Sender<Value>,
}

/// Runs that a node lists, of those that nobody executes and of those that may be executed.
#[derive(Default)]
pub(crate) struct Seen {
    waiting: Vec<String>,
    paused: Vec<String>,
    /// With their agents.
    going: Vec<(String, String)>,
}

/// How many runs that wait or are paused are seen to in one look.
const SEEN_TO: usize = 3;

impl Eyes {
    /// Watches what is open, wakes what waits, gives commands, and submits until enough is open; returns those
    /// who watch.
    fn occupy(self) -> JoinHandle<Vec<JoinHandle<()>>> {
        std::thread::spawn(move || {
            let mut watchers = Vec::new();
            let mut watched = BTreeSet::new();
            let seen = self.look();
            self.watch_open(&mut watched, &mut watchers);
            self.tend(&seen);
            if self.kind == Some("resumed") {
                self.resume_any(&mut watched, &mut watchers);
            }
            let mut told = true;
            if self.kind.is_some() && self.world.wanted() == 0 {
                told = self.world.submit(&self.address, self.kind, false);
                self.watch_open(&mut watched, &mut watchers);
            }
            while told && self.world.wanted() > 0 {
                told = self.world.submit(&self.address, self.kind, false);
                self.watch_open(&mut watched, &mut watchers);
            }
            if told {
                self.disturb(&self.look());
                self.watch_open(&mut watched, &mut watchers);
            }
            // A key that has been confirmed stands for the same run after every kill.
            self.world.submit(&self.address, None, true);
            watchers
        })
    }

    /// Waits until a node that has slept executes runs under another name than this one: its own anew, or, if
    /// none of those can go on by itself, one that it is given now. Those who watch these.
    fn goes_on(&self, seen: &Receiver<Value>, name: &Value, node: &Node) -> Vec<JoinHandle<()>> {
        let until = Instant::now() + WAKES_WITHIN;
        let (mut watched, mut watchers) = (BTreeSet::new(), Vec::new());
        loop {
            match seen.recv_timeout(Duration::from_secs(1)) {
                Ok(now) if now != *name => return watchers,
                Ok(_) => {}
                Err(_) => {
                    let is_late = Instant::now() > until;
                    assert!(!is_late, "a node woke and does not go on; it said:\n{}", node.said());
                    self.world.submit(&self.address, None, false);
                    self.watch_open(&mut watched, &mut watchers);
                }
            }
        }
    }

    /// Lets some of the runs go on that wait or are paused.
    pub(crate) fn tend(&self, seen: &Seen) {
        for run in seen.waiting.iter().take(SEEN_TO) {
            self.world.see_to(&self.address, run);
        }
        for run in seen.paused.iter().take(SEEN_TO) {
            self.world.command(&self.address, run, "resume", "resumed");
        }
    }

    /// Gives the command whose event is waited for, to the first run that takes it; and others, now and then.
    pub(crate) fn disturb(&self, seen: &Seen) {
        let is_due = |kind| self.kind == Some(kind) || self.world.happens(8);
        let all = || seen.going.iter().rev().map(|(run, _)| run);
        // Of these what is done once is told apart by a number that a run draws when it begins.
        let mixed =
            || seen.going.iter().rev().filter(|(_, agent)| agent == "mixed").map(|(run, _)| run);
        if is_due("forked") {
            mixed().any(|run| self.world.fork(&self.address, run).is_some());
        }
        if is_due("rolled_back") {
            mixed().any(|run| self.world.roll_back(&self.address, run));
        }
        if is_due("paused") {
            let now = self.world.happens(2);
            all().any(|run| self.world.pause(&self.address, run, now));
        }
        if is_due("cancelled") {
            all().any(|run| self.world.command(&self.address, run, "cancel", "cancelled"));
        }
    }

    /// Lets a run go on that the provider has refused, which it does again.
    fn resume_any(&self, watched: &mut BTreeSet<String>, watchers: &mut Vec<JoinHandle<()>>) {
        let path = "/api/v1/runs?state=failed&agent=broken";
        let failed = get(&self.address, path).map(|(_, page)| page["runs"].clone());
        let failed = failed.ok().and_then(|runs| runs.as_array().cloned()).unwrap_or_default();
        for run in failed.iter().filter_map(|run| run["id"].as_str()) {
            // Before: the stream of a run that is over has ended.
            let is_resumed = self.world.command(&self.address, run, "resume", "resumed");
            if is_resumed && watched.insert(run.to_owned()) {
                let (eyes, run) = (self.clone(), run.to_owned());
                watchers.push(std::thread::spawn(move || eyes.watch(&run)));
            }
            if is_resumed {
                return;
            }
        }
    }

    /// Finds what a node did by itself (runs that make queued calls) in its list.
    pub(crate) fn look(&self) -> Seen {
        let mut seen = Seen::default();
        for run in World::runs(&self.address).unwrap_or_default() {
            let Some(id) = run["id"].as_str() else { continue };
            let state = run["state"].as_str().unwrap_or_default();
            let mut known = self.world.known.lock().unwrap_or_else(PoisonError::into_inner);
            match state {
                "succeeded" | "failed" | "cancelled" => drop(known.open.remove(id)),
                _ => drop(known.open.insert(id.to_owned())),
            }
            match state {
                "waiting" => seen.waiting.push(id.to_owned()),
                "paused" => seen.paused.push(id.to_owned()),
                "queued" | "running" => {
                    let agent = run["agent"].as_str().unwrap_or_default();
                    seen.going.push((id.to_owned(), agent.to_owned()));
                }
                _ => {}
            }
        }
        seen
    }

    pub(crate) fn watch_open(
        &self,
        watched: &mut BTreeSet<String>,
        watchers: &mut Vec<JoinHandle<()>>,
    ) {
        let open = {
            let known = self.world.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.open.clone()
        };
        for run in open {
            if watched.insert(run.clone()) {
                let eyes = self.clone();
                watchers.push(std::thread::spawn(move || eyes.watch(&run)));
            }
        }
    }

    /// Notes every event of a run until it is over or the node is gone.
    fn watch(&self, run: &str) {
        let after = self.world.record.last_shown(run);
        let Ok(events) = Live::open(&self.address, run, after) else { return };
        for event in events {
            let is_new = self.world.record.shown(run, &event);
            let kind = event["type"].as_str().unwrap_or_default();
            if is_new && self.kind == Some(kind) {
                // Only the first one is waited for; whoever waited may be gone.
                self.tell.send(event["node"].clone()).unwrap_or_default();
            }
            if ["succeeded", "failed", "cancelled"].contains(&kind) {
                let mut known = self.world.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.open.remove(run);
            }
        }
    }
}
