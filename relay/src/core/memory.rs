//! How much memory the process may hold where the operator does not say.

/// Machines with less than this leave the relay three quarters, others two fifths, as C Tor does.
const LARGE_MACHINE: u64 = 8 << 30;
/// More than this is not taken unasked, and less is not worth running with.
const DEFAULT_RANGE: std::ops::RangeInclusive<u64> = (256 << 20)..=(8 << 30);
/// Of the process's memory, in quarters: what queues may be granted of it. The rest is for everything else, and for what the
/// allocator does not give back.
const QUEUE_QUARTERS: u64 = 3;

/// What the process may hold where there is so much memory (0: nobody knows), in bytes; never more than that.
pub fn default_max(machine: u64) -> u64 {
    let share = if machine >= LARGE_MACHINE { machine / 5 * 2 } else { machine / 4 * 3 };
    let all = if machine == 0 { u64::MAX } else { machine };
    share.clamp(*DEFAULT_RANGE.start(), *DEFAULT_RANGE.end()).min(all)
}

/// What queues may be granted, of what the operator allows them and what the process may hold.
pub fn queue_budget(budget: usize, max: u64) -> usize {
    budget.min(usize::try_from(max / 4 * QUEUE_QUARTERS).unwrap_or(usize::MAX))
}

/// The control group of the process and those above it, as folders below the hierarchy's root, by `/proc/self/cgroup`
/// (cgroups(7), version 2).
pub fn control_groups(cgroup: &str) -> Vec<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let mut groups = vec![path.trim_end_matches('/').to_owned()];
    while let Some((above, _)) = groups.last().and_then(|group| group.rsplit_once('/')) {
        groups.push(above.to_owned());
    }
    groups
}

/// The limit in a group's `memory.max`; `None` without one.
pub fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_is_a_share_of_the_machine() {
        assert_eq!(default_max(16 * GIB), 16 * GIB / 5 * 2);
        assert_eq!(default_max(4 * GIB), 3 * GIB);
        assert_eq!(default_max(64 * GIB), 8 * GIB);
        assert_eq!(default_max(0), 256 << 20);
        assert_eq!(default_max(300 << 20), 256 << 20);
        assert_eq!(
            default_max(128 << 20),
            128 << 20,
            "a small control group would be ended before anything is let go"
        );
    }

    #[test]
    fn queues_get_three_quarters_at_the_most() {
        assert_eq!(queue_budget(512 << 20, GIB), 512 << 20);
        assert_eq!(queue_budget(512 << 20, 512 << 20), 384 << 20);
    }

    #[test]
    fn what_the_system_says_is_read() {
        assert_eq!(
            control_groups("0::/system.slice/relay.service\n"),
            ["/system.slice/relay.service", "/system.slice", ""]
        );
        assert_eq!(control_groups("0::/\n"), [""]);
        assert_eq!(control_groups("2:cpu:/old\n"), [""]);
        assert_eq!((group_limit("max\n"), group_limit("1073741824\n")), (None, Some(GIB)));
    }
}
