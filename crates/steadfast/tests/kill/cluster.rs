//! Three nodes on one database, which are killed, stopped past their leases and woken, while the database
//! itself is restarted and one of them lives an hour off.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::life::Eyes;
use crate::node::Node;
use crate::place::LEASE;
use crate::postgres_server::Server;
use crate::world::{World, free_port};

/// How far the clock of the last node is off, in seconds.
const OFF: i64 = 3600;

/// Nodes go on without one that stands still within this time, or not before it moves.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

/// Shifts the wall clock of a process, and no other clock of it.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    const char *off = getenv("CLOCK_OFF_SECONDS");
    if (!failed && off && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += atol(off);
    return failed;
}
"#;

/// Compiles the shim; whoever can build Steadfast has a C compiler, since it links with it.
fn shift(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shift.c"), folder.join("shift.so"));
    std::fs::write(&source, SHIFT).expect("written");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compiler.status().expect("cc is there").success());
    library
}

/// One of the nodes, and who looks at it.
struct Member {
    port: u16,
    environment: Vec<(&'static str, String)>,
    node: Option<Node>,
    watched: BTreeSet<String>,
    watchers: Vec<JoinHandle<()>>,
}

/// What happened to the nodes.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) restarts: usize,
    pub(crate) in_executions: usize,
    /// Appends of nodes that had lost the run, refused by the store.
    pub(crate) refused: usize,
    /// Leases that were lost.
    pub(crate) lost: usize,
    /// Nodes whose logs show that their clocks were off.
    pub(crate) hours_off: usize,
}

/// Three nodes.
pub(crate) struct Cluster {
    world: Arc<World>,
    members: Vec<Member>,
    pub(crate) troubles: Troubles,
}

impl Cluster {
    pub(crate) fn start(world: &Arc<World>) -> Self {
        let library = shift(world.folder.path());
        let off = vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("CLOCK_OFF_SECONDS", OFF.to_string()),
        ];
        let members = [Vec::new(), Vec::new(), off].map(|environment| Member {
            port: free_port(),
            environment,
            node: None,
            watched: BTreeSet::new(),
            watchers: Vec::new(),
        });
        let world = Arc::clone(world);
        // To the end: what a dead node had begun may be under way while others have its runs.
        world.tools.doubt(true);
        let troubles = Troubles::default();
        let mut cluster = Self { world, members: members.into(), troubles };
        for index in 0..cluster.members.len() {
            cluster.begin(index);
        }
        cluster
    }

    fn begin(&mut self, index: usize) {
        let member = &mut self.members[index];
        let node = self.world.node_at(member.port, &member.environment);
        drop(node.address());
        member.node = Some(node);
        // The clock of the last one is an hour fast, then an hour slow.
        if let Some((_, off)) = member.environment.get_mut(1) {
            *off = if off.starts_with('-') { OFF.to_string() } else { format!("-{OFF}") };
        }
    }

    fn eyes(&self, index: usize) -> Eyes {
        let address = format!("127.0.0.1:{}", self.members[index].port);
        Eyes { world: Arc::clone(&self.world), address, kind: None, tell: channel().0 }
    }

    /// Gives work to a node that is alive, and looks at what it shows.
    fn occupy(&mut self, index: usize) {
        let eyes = self.eyes(index);
        let seen = eyes.look();
        eyes.tend(&seen);
        while self.world.wanted() > 0 && self.world.submit(&eyes.address, None, false) {}
        eyes.disturb(&seen);
        self.world.submit(&eyes.address, None, true);
        let member = &mut self.members[index];
        member.watchers.retain(|watcher| !watcher.is_finished());
        eyes.watch_open(&mut member.watched, &mut member.watchers);
    }

    /// `kill -9`; what it had said is read for what matters.
    fn kill(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some(node) = member.node.take() else { return };
        self.troubles.in_executions += node.killer().kill(&self.world.tools);
        self.troubles.kills += 1;
        let said = node.gone();
        for watcher in member.watchers.drain(..) {
            watcher.join().expect("whoever watches a run outlives the node");
        }
        member.watched.clear();
        assert!(!said.contains("panicked"), "{said}");
        let count = |words: &str| said.lines().filter(|line| line.contains(words)).count();
        self.troubles.refused += count("an append was refused: the run has changed hands");
        self.troubles.lost += count("letting go of the lease");
        let is_off = !member.environment.is_empty();
        let now = jiff::Timestamp::now();
        let mut said_at = said.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
        let Some(said_at): Option<jiff::Timestamp> = said_at.next_back() else { return };
        assert_eq!(said_at.duration_since(now).abs().as_secs() > OFF / 2, is_off, "{said_at}");
        self.troubles.hours_off += usize::from(is_off);
    }

    /// Does one thing to the nodes or to the database, and lets those that are left work.
    pub(crate) fn trouble(&mut self, nth: u64, dice: &mut fastrand::Rng, server: &Server) {
        let index = dice.usize(0..self.members.len());
        let other = (index + 1) % self.members.len();
        let short = |dice: &mut fastrand::Rng| Duration::from_millis(dice.u64(20..700));
        match nth % 10 {
            1 | 4 | 7 => self.put_to_sleep(index, LEASE * 3 / 2 + short(dice), other),
            5 => {
                // In the middle of a recovery: what a dead node held is just being taken over.
                self.kill(index);
                std::thread::sleep(LEASE + Duration::from_millis(dice.u64(0..300)));
                server.halt("immediate");
                std::thread::sleep(short(dice));
                server.resume();
                self.troubles.restarts += 1;
            }
            _ => {
                self.kill(index);
                // Its runs are taken over, or it is back first.
                if dice.bool() {
                    self.occupy(other);
                    std::thread::sleep(LEASE + short(dice));
                }
            }
        }
        if self.members[index].node.is_none() {
            self.begin(index);
        }
        self.occupy(dice.usize(0..self.members.len()));
        std::thread::sleep(short(dice));
        for index in 0..self.members.len() {
            self.occupy(index);
        }
    }

    /// Stops a node as it stands; the others take over what it holds; then it goes on, and knows nothing.
    fn put_to_sleep(&mut self, index: usize, sleeps: Duration, other: usize) {
        self.occupy(index);
        let killer = self.members[index].node.as_ref().expect("it is alive").killer();
        killer.signal(Signal::STOP);
        let stopped = Instant::now();
        // Wherever it was stopped, in the middle of a transaction, say, the others go on.
        let address = self.eyes(other).address;
        while !self.world.submit(&address, None, false) {
            assert!(stopped.elapsed() < GOES_ON_WITHIN, "one stopped node holds up the others");
        }
        self.occupy(other);
        std::thread::sleep(sleeps.saturating_sub(stopped.elapsed()));
        killer.signal(Signal::CONT);
        self.troubles.stops += 1;
    }

    /// Whether what is asserted in the end has come about, as far as it shows while nodes live: what they have
    /// said is read when they are killed.
    pub(crate) fn has_seen_all(&self) -> bool {
        let Troubles { stops, restarts, in_executions, refused, lost, hours_off, .. } =
            self.troubles;
        let is_repeated = self.world.tools.executions().iter().any(|execution| execution.repeated);
        let counts = [stops, restarts, in_executions, refused, lost, hours_off];
        is_repeated && counts.iter().all(|count| *count > 0)
    }

    /// Ends all nodes.
    pub(crate) fn end(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}
