//! Paused time that stands still while a thread works that tokio does not know of, as the writer of a file
//! does: otherwise time would run ahead to the next timer whenever everybody waits for the disk.

use std::sync::mpsc::{Sender, channel};

use tokio::task::spawn_blocking;

/// Time stands still until it is dropped.
pub(crate) struct Still {
    _ends: Sender<()>,
}

impl Still {
    pub(crate) fn begin() -> Self {
        let (ends, ended) = channel();
        // Time does not run ahead while a task of this kind is at work.
        drop(spawn_blocking(move || ended.recv().is_err()));
        Self { _ends: ends }
    }
}
