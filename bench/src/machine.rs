//! What the machine says of this process.

use std::time::{Duration, Instant};

/// The real clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Bytes that this process has sent to the disk, where the system counts them (Linux: `proc_pid_io(5)`).
pub(crate) fn written() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// Memory that this process has resident, in bytes (Linux: `proc_pid_status(5)`).
pub(crate) fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Processor time that this process and the system for it have used so far, in steps of 10 ms (Linux:
/// `utime` and `stime` of `proc_pid_stat(5)`, in hundredths of a second).
pub(crate) fn cpu() -> Option<Duration> {
    let counters = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program is in brackets and may hold spaces; what follows it begins with field 3.
    let mut fields = counters.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}
