//! A node: the real program, serving, and the ways in which it is ended.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::tools::ToolServer;

/// How long a node may take until it serves, at most.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// The program with a clean environment.
pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for variable in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "STEADFAST_CONFIG", "STEADFAST_SERVER"]
    {
        command.env_remove(variable);
    }
    command
}

/// What a program has said on standard error.
pub(crate) type Said = Arc<Mutex<Vec<String>>>;

/// A started program.
pub(crate) struct Node {
    child: Arc<Mutex<Child>>,
    said: Said,
    address: Receiver<String>,
    listening: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a program that says `marker` and an address once it serves.
    pub(crate) fn start(mut command: Command, marker: &'static str) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let said = Said::default();
        let (tell, address) = channel();
        let kept = Arc::clone(&said);
        let listening = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(marker) {
                    let end = rest.find([' ', ',', '/']).unwrap_or(rest.len());
                    // Nobody waits for it any more if the program was killed meanwhile.
                    drop(tell.send(rest[..end].to_owned()));
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let child = Arc::new(Mutex::new(child));
        Self { child, said, address, listening: Some(listening) }
    }

    /// Waits until it serves; its address.
    pub(crate) fn address(&self) -> String {
        let address = self.address.recv_timeout(STARTS_WITHIN);
        address.unwrap_or_else(|_| panic!("it does not serve; it said:\n{}", self.said()))
    }

    /// All that it has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// What kills it, for others to hold.
    pub(crate) fn killer(&self) -> Killer {
        Killer { child: Arc::clone(&self.child) }
    }

    /// Waits until it is gone; all that it said.
    pub(crate) fn gone(mut self) -> String {
        self.killer().reap();
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
        self.said()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Ends a node.
#[derive(Clone)]
pub(crate) struct Killer {
    child: Arc<Mutex<Child>>,
}

impl Killer {
    /// `kill -9`; how many executions were under way then.
    pub(crate) fn kill(&self, tools: &ToolServer) -> usize {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.kill().expect("still there to be killed");
        tools.under_way()
    }

    /// Stops it as it stands, or lets it go on: it does not notice either by itself.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a number");
        kill_process(pid, signal).expect("still there to be signalled");
    }

    fn reap(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.wait().expect("reaped");
    }
}
