//! The world outside: a server that carries out what tools ask of it, and counts. It lives in the test's
//! process, so that it outlives every node, and is reached by a client that a node starts as a command.
//!
//! One line comes in (tool, key, what), one line of JSON goes out. An execution counts from the moment its
//! line is read: what the node that asked for it does afterwards changes nothing.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

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

#[derive(Default)]
struct Ledger {
    executions: Vec<Execution>,
    under_way: usize,
    /// The first execution of each key of an idempotent tool.
    applied: BTreeMap<(String, String), usize>,
}

/// The server.
pub(crate) struct ToolServer {
    port: u16,
    ledger: Arc<Mutex<Ledger>>,
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
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, stopped) = channel();
        let shared = Arc::clone(&ledger);
        let listening =
            std::thread::spawn(move || accept(&listener, &stopped, &shared, idempotent, seed));
        Self { port, ledger, stop: Some(stop), listening: Some(listening) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Executions that have begun and have not been answered.
    pub(crate) fn under_way(&self) -> usize {
        locked(&self.ledger).under_way
    }

    /// All executions so far.
    pub(crate) fn executions(&self) -> Vec<Execution> {
        locked(&self.ledger).executions.clone()
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
    ledger: &Arc<Mutex<Ledger>>,
    idempotent: &'static [&'static str],
    seed: u64,
) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut at_work: Vec<(JoinHandle<()>, Sender<()>)> = Vec::new();
    for socket in listener.incoming().flatten() {
        match stopped.try_recv() {
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            _ => break,
        }
        at_work.retain(|(worker, _)| !worker.is_finished());
        let (end, ended) = channel();
        let takes = Duration::from_millis(dice.u64(2..30));
        let ledger = Arc::clone(ledger);
        let worker = std::thread::spawn(move || {
            // A client that was killed is no failure of the server's.
            drop(serve(&socket, &ledger, idempotent, takes, &ended));
        });
        at_work.push((worker, end));
    }
    for (worker, end) in at_work {
        drop(end);
        drop(worker.join());
    }
}

fn serve(
    mut socket: &TcpStream,
    ledger: &Mutex<Ledger>,
    idempotent: &[&str],
    takes: Duration,
    ended: &Receiver<()>,
) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut line = String::new();
    BufReader::new(socket.try_clone()?).read_line(&mut line)?;
    // A client that was killed while it wrote has asked for nothing.
    let Some(line) = line.strip_suffix('\n') else { return Ok(()) };
    let mut words = line.splitn(3, '\t');
    let (Some(tool), Some(key), Some(what)) = (words.next(), words.next(), words.next()) else {
        return Ok(());
    };
    let (number, first) = begin(&mut locked(ledger), idempotent, (tool, key, what));
    // The work takes its time, unless the test is over.
    let over = ended.recv_timeout(takes) == Err(RecvTimeoutError::Disconnected);
    let answer = json!({ "number": number, "tool": tool, "first": first });
    let written = if over { Ok(()) } else { socket.write_all(format!("{answer}\n").as_bytes()) };
    locked(ledger).under_way -= 1;
    written
}

fn begin(
    ledger: &mut Ledger,
    idempotent: &[&str],
    (tool, key, what): (&str, &str, &str),
) -> (usize, usize) {
    let number = ledger.executions.len() + 1;
    let first = match idempotent.contains(&tool) {
        true => *ledger.applied.entry((tool.to_owned(), key.to_owned())).or_insert(number),
        false => number,
    };
    ledger.executions.push(Execution {
        number,
        tool: tool.to_owned(),
        key: key.to_owned(),
        what: what.to_owned(),
        repeated: first != number,
    });
    ledger.under_way += 1;
    (number, first)
}
