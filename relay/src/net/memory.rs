//! Holds the process to the memory that it may have, measured as what the system counts for it: its resident set.
//!
//! 1. Near the limit, circuits end, those with the oldest queued data first, until a tenth is free again, unless something else
//!    holds it; the allocator gives back what became free.
//! 2. Meanwhile new channels and circuits are refused.

use std::fs;

use rustix::system::sysinfo;
use tunic_net::channel::Node;
use tunic_net::memory::give_back;
use tunic_net::metrics::resident_bytes;

use super::clock;
use crate::config::Config;
use crate::core::memory::{control_groups, default_max, group_limit};
use crate::core::relief::{Relief, Surplus};

/// What the process may hold: what the operator says, or a share of the memory that there is.
pub(super) fn max(config: &Config) -> u64 {
    config.memory_max.unwrap_or_else(|| default_max(available()))
}

/// The memory of the machine, or of the control group that the process is in (version 2), whichever is less.
pub(crate) fn available() -> u64 {
    let read = |path: String| fs::read_to_string(path).ok();
    let groups = control_groups(&read("/proc/self/cgroup".to_owned()).unwrap_or_default());
    let limits =
        groups.iter().filter_map(|group| group_limit(&read(format!("/sys/fs/cgroup{group}/memory.max"))?));
    limits.min().unwrap_or(u64::MAX).min(machine())
}

/// By sysinfo(2), as units may hide /proc/meminfo (`ProcSubset=pid`).
#[expect(clippy::useless_conversion, reason = "the number is shorter where addresses are")]
fn machine() -> u64 {
    let info = sysinfo();
    u64::from(info.totalram).saturating_mul(info.mem_unit.into())
}

/// Looks after the memory of the process until dropped.
pub(super) async fn watch(node: Node, max: u64) {
    let (mut relief, mut was_high) = (Relief::new(max), false);
    let mut resident = 0;
    loop {
        tokio::time::sleep(relief.interval(resident)).await;
        if relief.poll_give_back(clock()) {
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
        let Some(bytes) = resident_bytes() else { continue };
        resident = bytes;
        let surplus = relief.handle_resident(resident, clock());
        node.admission().set_memory_short(relief.is_high());
        if let Some(Surplus { bytes, min_age }) = surplus {
            let shed = node.shed(usize::try_from(bytes).unwrap_or(usize::MAX), min_age).await;
            relief.handle_shed(bytes, shed.bytes as u64, resident, clock());
            tracing::debug!("memory: {} circuits with {} bytes ended", shed.circuits, shed.bytes);
        }
        if relief.is_high() != was_high {
            was_high = relief.is_high();
            tell(was_high, resident, max);
        }
    }
}

fn tell(is_high: bool, resident: u64, max: u64) {
    if is_high {
        let (resident, max) = (resident >> 20, max >> 20);
        tracing::warn!(
            "memory: {resident} MiB of {max}: circuits whose data nobody takes end, and no new channels and circuits are taken"
        );
    } else {
        tracing::info!("memory: enough again; channels and circuits are taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_known() {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
        let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        // Some containers show themselves less there.
        assert!(machine() >= kib << 10, "{} and {kib} KiB", machine());
        assert!((1..=machine()).contains(&available()));
    }
}
