//! What a killed instance left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, getpgrp, getpid, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};

use super::OWNER_VARIABLE;

const POLL: Duration = Duration::from_millis(20);

/// Ends all processes that carry the owner's mark: SIGTERM to their groups, up to `grace` to be gone, then
/// SIGKILL. Returns how many there were. To be called at start, before the first child.
///
/// Found by `/proc/*/environ`, which shows what a process was started with and only for processes of the
/// same user; the whole value is compared. Never this process, nor its own group. Where there is no
/// `/proc` (macOS, the BSDs) nothing is found and 0 is returned. If dropped, some may be left.
pub async fn sweep_orphans(owner_id: &str, grace: Duration) -> usize {
    let found = marked(owner_id).await;
    signal_all(&found, Signal::TERM);
    let patience = Instant::now() + grace;
    let mut left = found.clone();
    while !left.is_empty() && Instant::now() < patience {
        sleep(POLL).await;
        left = marked(owner_id).await;
    }
    // Looked up afresh: a number seen before may be another process by now.
    signal_all(&left, Signal::KILL);
    found.len()
}

async fn marked(owner_id: &str) -> BTreeSet<i32> {
    let mark = format!("{OWNER_VARIABLE}={owner_id}").into_bytes();
    match tokio::task::spawn_blocking(move || scan(&mark)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the search for processes left behind was cut off");
            BTreeSet::new()
        }
    }
}

fn scan(mark: &[u8]) -> BTreeSet<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let own = getpid().as_raw_nonzero().get();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark))
        })
        .collect()
}

/// A group is signalled as a whole only if its leader carries the mark: another leader's group may hold
/// processes that are not ours.
fn signal_all(pids: &BTreeSet<i32>, signal: Signal) {
    let own_group = getpgrp();
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let group = getpgid(Some(pid)).ok();
        let sent = match group {
            Some(group) if group == pid && group != own_group => kill_process_group(pid, signal),
            Some(_) => kill_process(pid, signal),
            None => continue,
        };
        if let Err(error) = sent {
            tracing::debug!(pid = pid.as_raw_nonzero(), %error, "cannot signal a process left behind");
        }
    }
}
