//! Figures as people read them.

/// What `--once` draws on where the environment tells no size.
const USUAL_SIZE: (u16, u16) = (80, 24);
/// Sizes that make sense: below, nothing can be read; beyond, nobody reads it.
const SIZES: std::ops::RangeInclusive<u16> = 10..=1_000;

/// Bytes in at most seven characters: `512 B`, `1.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let unit = (count.ilog2() / 10 - 1) as usize;
    let tenths = u128::from(count) * 10 / (1_u128 << (10 * (unit + 1)));
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

/// A time as its two largest units: `3 d 4 h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, _) => format!("{hours} h {} min", minutes % 60),
        (days, ..) => format!("{days} d {} h", hours % 24),
    }
}

/// `COLUMNS` and `LINES`, or the size of an old terminal.
pub(super) fn size_of_environment() -> (u16, u16) {
    let of = |name| std::env::var(name).ok()?.parse().ok().filter(|size| SIZES.contains(size));
    (of("COLUMNS").unwrap_or(USUAL_SIZE.0), of("LINES").unwrap_or(USUAL_SIZE.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let expect =
            [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (10 << 30, "10 GiB")];
        for (count, text) in expect {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "15 EiB");
        let expect = [(59, "59 s"), (61, "1 min 1 s"), (3_660, "1 h 1 min"), (2 * 86_400 + 3_600, "2 d 1 h")];
        for (seconds, text) in expect {
            assert_eq!(duration(seconds), text);
        }
    }
}
