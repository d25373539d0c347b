//! A way to a server that can go silent: what is sent over it is taken, acknowledged and thrown away, as by
//! a network that has forgotten its connections or a server that stands still. No error tells of it.
//!
//! Other crates include this file by its path.
#![expect(
    clippy::expect_used,
    reason = "it forwards bytes in threads, and what cannot be begun fails its test"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Forwards a port of this machine to another one until it is dropped.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    accepted: AtomicUsize,
    /// Connections with a smaller number are silent for good.
    silent_below: AtomicUsize,
    /// Whether connections that are made now are silent for good.
    deaf: AtomicBool,
    over: AtomicBool,
}

impl Proxy {
    /// Begins to forward to this port.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let deaf = shared.deaf.load(Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                    connect(&client, &server, &shared, number, deaf);
                }
            }
        });
        Self { port, state }
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Makes every connection that there is silent. New ones work.
    pub(crate) fn silence(&self) {
        let accepted = self.state.accepted.load(Ordering::SeqCst);
        self.state.silent_below.store(accepted, Ordering::SeqCst);
    }

    /// Makes every connection silent, also those that are made until [`Proxy::hear`].
    pub(crate) fn deafen(&self) {
        self.state.deaf.store(true, Ordering::SeqCst);
        self.silence();
    }

    /// Lets new connections work again.
    pub(crate) fn hear(&self) {
        self.silence();
        self.state.deaf.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        // So that it looks.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn connect(client: &TcpStream, server: &TcpStream, state: &Arc<State>, number: usize, deaf: bool) {
    for (from, to) in [(client, server), (server, client)] {
        let from = from.try_clone().expect("a handle");
        let to = to.try_clone().expect("a handle");
        let state = Arc::clone(state);
        thread::spawn(move || {
            let is_silent = || deaf || number < state.silent_below.load(Ordering::SeqCst);
            forward(from, to, is_silent);
        });
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, is_silent: impl Fn() -> bool) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).unwrap_or(0);
        if is_silent() {
            // Nor does the other side hear that this one is over.
            if read == 0 {
                return;
            }
            continue;
        }
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // It may be closed already.
    drop((to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both)));
}
