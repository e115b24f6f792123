//! What the system says about the process.

use std::fs;

use super::{Kind, Text, up};
use crate::daemon::open_file_limit;

/// Memory is shown in multiples of this.
const BIN: u64 = super::BYTES;

/// Memory and open files of the process, and since when it runs (Unix seconds).
pub fn process(text: &mut Text, started: u64) {
    text.family("process_start_time_seconds", "When the process started, Unix time.", Kind::Gauge)
        .sample(&[], started);
    if let Some(bytes) = resident_bytes() {
        text.family("process_resident_memory_bytes", "Memory that the process holds.", Kind::Gauge)
            .sample(&[], up(bytes, BIN));
    }
    if let Some(files) = open_files() {
        text.family("process_open_fds", "Open files, in multiples of 8.", Kind::Gauge)
            .sample(&[], up(files, super::PEOPLE));
    }
    if let Some(limit) = open_file_limit() {
        text.family("process_max_fds", "Files that may be open.", Kind::Gauge).sample(&[], limit);
    }
}

/// The resident set, by proc_pid_status(5).
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Files that the process has open.
pub fn open_files() -> Option<u64> {
    fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_of_this_process() {
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(open_files().unwrap() >= 3);
        let mut text = Text::default();
        process(&mut text, 5);
        assert!(text.into_string().contains("process_start_time_seconds 5\n"));
    }
}
