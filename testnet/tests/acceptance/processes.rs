//! Other processes, as the kernel sees them, and waiting for what they do.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub const POLL: Duration = Duration::from_millis(20);

/// Waits for a condition; past the limit the test fails with what it waited for.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether the process runs. One that has ended and whose exit nobody has read does not.
pub fn is_alive(pid: u32) -> bool {
    !matches!(state(&format!("/proc/{pid}")), Some('Z' | 'X') | None)
}

/// Stops the process, and waits until none of its threads runs any more: each stops when it is its turn.
#[track_caller]
pub fn stop(pid: u32) {
    send(pid, Signal::STOP);
    wait_until(Duration::from_secs(60), "every thread stands still", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.map(Result::unwrap).all(|thread| state(&thread.path().display().to_string()) == Some('T'))
    });
}

/// What a process or a thread does, by its directory; `None` if there is none. proc(5): it follows the command's name, which
/// stands in parentheses and may hold any character.
fn state(directory: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// The processes that this one started, of its main thread.
pub fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Memory that the process holds, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

pub fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[track_caller]
pub fn assert_all_end(pids: &[u32], limit: Duration) {
    wait_until(limit, "every node has ended", || !pids.iter().any(|pid| is_alive(*pid)));
}
