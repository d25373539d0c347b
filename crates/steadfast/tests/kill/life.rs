//! One life of a node, from its start to the moment at which it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
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
const EVENT_WITHIN: Duration = Duration::from_secs(4);

/// A node that slept past its lease goes on within this time, or not at all.
const WAKES_WITHIN: Duration = Duration::from_secs(30);

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
            node.killer().signal(Signal::STOP);
            std::thread::sleep(sleeps);
            node.killer().signal(Signal::CONT);
            // It takes its runs anew, under a new name.
            let again = || seen.recv_timeout(WAKES_WITHIN).expect("a node that wakes goes on");
            while again() == name {}
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
    for watcher in busy.join().expect("whoever occupies a node outlives it") {
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

impl Eyes {
    /// Watches what is open, wakes what waits, cancels a little, and submits until enough is open; returns
    /// those who watch.
    fn occupy(self) -> JoinHandle<Vec<JoinHandle<()>>> {
        std::thread::spawn(move || {
            let mut watchers = Vec::new();
            let mut watched = BTreeSet::new();
            let waiting = self.look();
            self.watch_open(&mut watched, &mut watchers);
            match self.kind {
                Some("resumed") => self.resume_any(waiting, &mut watched, &mut watchers),
                _ => drop(waiting.first().map(|run| self.resume(run))),
            }
            let mut told = true;
            if self.kind.is_some() && self.world.wanted() == 0 {
                told = self.world.submit(&self.address, self.kind, false);
                self.watch_open(&mut watched, &mut watchers);
            }
            if self.kind == Some("cancelled") {
                let cancel =
                    |run: &String| self.world.command(&self.address, run, "cancel", "cancelled");
                told = watched.iter().rev().any(cancel);
            }
            while told && self.world.wanted() > 0 {
                told = self.world.submit(&self.address, self.kind, false);
                self.watch_open(&mut watched, &mut watchers);
            }
            // A key that has been confirmed stands for the same run after every kill.
            self.world.submit(&self.address, None, true);
            watchers
        })
    }

    fn resume(&self, run: &str) -> bool {
        self.world.command(&self.address, run, "resume", "resumed")
    }

    /// Lets a run go on that waits, or else one that the provider has refused, which it does again.
    fn resume_any(
        &self,
        waiting: Vec<String>,
        watched: &mut BTreeSet<String>,
        watchers: &mut Vec<JoinHandle<()>>,
    ) {
        let path = "/api/v1/runs?state=failed&agent=broken";
        let failed = get(&self.address, path).map(|(_, page)| page["runs"].clone());
        let failed = failed.ok().and_then(|runs| runs.as_array().cloned()).unwrap_or_default();
        let failed = failed.iter().filter_map(|run| run["id"].as_str().map(str::to_owned));
        for run in waiting.into_iter().chain(failed) {
            // Before: the stream of a run that is over has ended.
            let is_resumed = self.resume(&run);
            if is_resumed && watched.insert(run.clone()) {
                let eyes = self.clone();
                watchers.push(std::thread::spawn(move || eyes.watch(&run)));
            }
            if is_resumed {
                return;
            }
        }
    }

    /// Finds what a node did by itself (runs that make queued calls) in its list; the runs that wait.
    pub(crate) fn look(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for run in World::runs(&self.address).unwrap_or_default() {
            let Some(id) = run["id"].as_str() else { continue };
            let mut known = self.world.known.lock().unwrap_or_else(PoisonError::into_inner);
            match run["state"].as_str().unwrap_or_default() {
                "succeeded" | "failed" | "cancelled" => drop(known.open.remove(id)),
                _ => drop(known.open.insert(id.to_owned())),
            }
            if run["state"] == "waiting" {
                waiting.push(id.to_owned());
            }
        }
        waiting
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
