//! The world outside: a server that carries out what tools ask of it, and counts. It lives in the test's
//! process, so that it outlives every node, and is reached by a client that a node starts as a command.
//!
//! One line comes in (tool, key, what), one line of JSON goes out. An execution counts from the moment its
//! line is read: what the node that asked for it does afterwards changes nothing.
//!
//! It also says whether something has been executed, and if it says no, that holds: whoever reached it before
//! is read first, and whether a node may still be about to send it is known here ([`ToolServer::doubt`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{DOUBTFUL, VERIFY};

/// What a tool's command runs: it hands its line on and prints what comes back.
pub(crate) const CLIENT: &str = r#"#!/usr/bin/env bash
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 7
printf '%s\t%s\t%s\n' "$2" "$STEADFAST_IDEMPOTENCY_KEY" "$3" >&3
read -r answer <&3 || exit 8
printf '%s\n' "$answer"
"#;

/// Something that was done once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    /// Counts from 1; an answer names it.
    pub(crate) number: usize,
    pub(crate) tool: String,
    pub(crate) key: String,
    /// What it was to do it to: the same words are the same thing.
    pub(crate) what: String,
    /// Answered from memory: the same key had been there before.
    pub(crate) repeated: bool,
}

/// How long a doubtful tool takes every third time: longer than whoever calls it waits.
const TOO_LONG: Duration = Duration::from_millis(1_500);

#[derive(Default)]
struct Ledger {
    executions: Vec<Execution>,
    under_way: usize,
    /// The first execution of each key of an idempotent tool.
    applied: BTreeMap<(String, String), usize>,
    /// Connections that have been accepted, and whose line has not been read.
    unread: BTreeSet<u64>,
    /// Some node may still be about to send what it was told to do before it lost its runs.
    is_doubtful: bool,
}

#[derive(Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// Told whenever a line has been read.
    read: Condvar,
}

/// The server.
pub(crate) struct ToolServer {
    port: u16,
    shared: Arc<Shared>,
    /// Dropping it ends the server.
    stop: Option<Sender<()>>,
    listening: Option<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ToolServer {
    /// Listens. `idempotent` are the tools that remember their keys.
    pub(crate) fn start(idempotent: &'static [&'static str], seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (stop, stopped) = channel();
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let listening =
            std::thread::spawn(move || accept(&listener, &stopped, &its, idempotent, seed));
        Self { port, shared, stop: Some(stop), listening: Some(listening) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Executions that have begun and have not been answered.
    pub(crate) fn under_way(&self) -> usize {
        locked(&self.shared.ledger).under_way
    }

    /// All executions so far.
    pub(crate) fn executions(&self) -> Vec<Execution> {
        locked(&self.shared.ledger).executions.clone()
    }

    /// Whether a node may still be about to send what it was told to do before it lost its runs: one that is
    /// stopped as it stands, or one whose runs others have taken over. Nobody can say then that something
    /// will not happen.
    pub(crate) fn doubt(&self, is_doubtful: bool) {
        locked(&self.shared.ledger).is_doubtful = is_doubtful;
    }

    /// What it says when it is asked whether something has happened.
    pub(crate) fn has_happened(&self, tool: &str, what: &str) -> std::io::Result<Value> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.write_all(format!("{VERIFY}\t\t{tool} {what}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer).unwrap_or_default())
    }
}

impl Drop for ToolServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Wakes the listener, which then sees that it is to end.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
    }
}

fn accept(
    listener: &TcpListener,
    stopped: &Receiver<()>,
    shared: &Arc<Shared>,
    idempotent: &'static [&'static str],
    seed: u64,
) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut at_work: Vec<(JoinHandle<()>, Sender<()>)> = Vec::new();
    for (place, socket) in (0..).zip(listener.incoming().flatten()) {
        match stopped.try_recv() {
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            _ => break,
        }
        at_work.retain(|(worker, _)| !worker.is_finished());
        let (end, ended) = channel();
        let takes = Duration::from_millis(dice.u64(2..30));
        let shared = Arc::clone(shared);
        locked(&shared.ledger).unread.insert(place);
        let worker = std::thread::spawn(move || {
            // A client that was killed is no failure of the server's.
            drop(serve(&socket, place, &shared, idempotent, takes, &ended));
        });
        at_work.push((worker, end));
    }
    for (worker, end) in at_work {
        drop(end);
        drop(worker.join());
    }
}

/// The line that a client sends; `None` if it was killed while it wrote, and has asked for nothing.
fn read_line(socket: &TcpStream) -> std::io::Result<Option<String>> {
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut line = String::new();
    BufReader::new(socket.try_clone()?).read_line(&mut line)?;
    Ok(line.strip_suffix('\n').map(str::to_owned))
}

fn serve(
    mut socket: &TcpStream,
    place: u64,
    shared: &Shared,
    idempotent: &[&str],
    takes: Duration,
    ended: &Receiver<()>,
) -> std::io::Result<()> {
    let line = read_line(socket);
    let mut ledger = locked(&shared.ledger);
    ledger.unread.remove(&place);
    shared.read.notify_all();
    let line = line?.unwrap_or_default();
    let mut words = line.splitn(3, '\t');
    let (Some(tool), Some(key), Some(what)) = (words.next(), words.next(), words.next()) else {
        return Ok(());
    };
    if tool == VERIFY {
        let is_behind = |ledger: &mut Ledger| ledger.unread.first().is_some_and(|one| *one < place);
        let ledger = shared.read.wait_while(ledger, is_behind);
        let answer = ledger.unwrap_or_else(PoisonError::into_inner).has_happened(what);
        return socket.write_all(format!("{answer}\n").as_bytes());
    }
    let (number, first) = ledger.begin(idempotent, (tool, key, what));
    drop(ledger);
    let takes = if DOUBTFUL.contains(&tool) && number % 3 == 0 { TOO_LONG } else { takes };
    // The work takes its time, unless the test is over.
    let over = ended.recv_timeout(takes) == Err(RecvTimeoutError::Disconnected);
    let answer = json!({ "number": number, "tool": tool, "first": first });
    let written = if over { Ok(()) } else { socket.write_all(format!("{answer}\n").as_bytes()) };
    locked(&shared.ledger).under_way -= 1;
    written
}

impl Ledger {
    fn begin(
        &mut self,
        idempotent: &[&str],
        (tool, key, what): (&str, &str, &str),
    ) -> (usize, usize) {
        let number = self.executions.len() + 1;
        let first = match idempotent.contains(&tool) {
            true => *self.applied.entry((tool.to_owned(), key.to_owned())).or_insert(number),
            false => number,
        };
        self.executions.push(Execution {
            number,
            tool: tool.to_owned(),
            key: key.to_owned(),
            what: what.to_owned(),
            repeated: first != number,
        });
        self.under_way += 1;
        (number, first)
    }

    /// Whether a tool, named before what it was to do it to, has been executed.
    fn has_happened(&self, what: &str) -> Value {
        let (tool, what) = what.split_once(' ').unwrap_or_default();
        let execution = self.executions.iter().find(|one| one.tool == tool && one.what == what);
        match execution {
            Some(Execution { number, .. }) => {
                json!({ "happened": true, "number": number, "tool": tool })
            }
            None if self.is_doubtful => json!({ "happened": null }),
            None => json!({ "happened": false }),
        }
    }
}
