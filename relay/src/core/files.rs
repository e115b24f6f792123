//! How the open files that the system allows are shared.

/// Open files that channels and streams leave for everything else: the runtime, name lookups, files that are written.
const RESERVED: u64 = 64;
/// What every kind gets at the least: enough to be of some use, and to say what is wrong.
const MIN_SHARE: usize = 16;

/// How many of each there may be at a time; each takes one open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Channels that others open.
    pub incoming: usize,
    /// Channels that this relay opens.
    pub outgoing: usize,
    /// Streams to targets.
    pub streams: usize,
}

impl Shares {
    /// The limit of open files that leaves all of them whole.
    pub fn files(self) -> u64 {
        (self.incoming + self.outgoing + self.streams) as u64 + RESERVED
    }

    /// As much of what is wanted as a limit of open files allows, all cut by the same factor. `None` is no limit.
    pub fn within(self, limit: Option<u64>) -> Shares {
        let wanted = (self.incoming + self.outgoing + self.streams) as u64;
        let there = limit.unwrap_or(u64::MAX).saturating_sub(RESERVED);
        if wanted <= there {
            return self;
        }
        let cut = |share: usize| ((share as u64).saturating_mul(there) / wanted) as usize;
        let cut = |share: usize| cut(share).max(MIN_SHARE).min(share);
        Shares { incoming: cut(self.incoming), outgoing: cut(self.outgoing), streams: cut(self.streams) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Shares = Shares { incoming: 8_192, outgoing: 4_096, streams: 16_384 };

    #[test]
    fn what_fits_is_granted_and_the_rest_cut_alike() {
        assert_eq!(WANTED.within(None), WANTED);
        assert_eq!(WANTED.within(Some(28_672 + RESERVED)), WANTED);
        let half = Shares { incoming: 4_096, outgoing: 2_048, streams: 8_192 };
        assert_eq!(WANTED.within(Some(14_336 + RESERVED)), half);
        let little = Shares { incoming: 274, outgoing: 137, streams: 548 };
        assert_eq!(WANTED.within(Some(1_024)), little);
        let none = Shares { incoming: MIN_SHARE, outgoing: MIN_SHARE, streams: MIN_SHARE };
        assert_eq!(WANTED.within(Some(0)), none);
        let no_exit = Shares { streams: 0, ..WANTED };
        assert_eq!(no_exit.within(Some(1_024)).streams, 0);
    }
}
