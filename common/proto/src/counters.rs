//! Counts of what was refused, for logs and metrics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! incidents {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Something that a peer did and that was refused, or that could not go on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Incident { $($(#[$doc])* $name,)* }

        impl Incident {
            /// Every kind, in the order of [`Counters`].
            pub const ALL: &'static [Incident] = &[$(Incident::$name,)*];

            /// The kind as it stands in logs and metrics.
            pub fn label(self) -> &'static str {
                match self { $(Incident::$name => $label,)* }
            }
        }
    };
}

incidents! {
    /// A connection that never became a channel: no TLS, or not ours.
    BadConnection => "bad_connection",
    /// `HELLO`, `AUTH` or `NETINFO` was wrong.
    ChannelHandshake => "channel_handshake",
    /// A relay was not who it should be.
    WrongIdentity => "wrong_identity",
    /// A malformed or unknown cell, or one on a circuit that is not in use.
    BadCell => "bad_cell",
    /// Padding that was not agreed on, or more than was.
    Padding => "padding",
    /// Machines that a client asked for on a circuit and did not get.
    MachinesRefused => "machines_refused",
    /// A cell beyond the credit.
    Credit => "credit",
    /// A layer that did not open: somebody tampered.
    Tampered => "tampered",
    /// A circuit that ended because a layer of this end could not go on: its key had sealed as many cells as it may. Also counts
    /// what only a mistake of ours could cause, a layer that has failed before or that is not there.
    KeyUsedUp => "key_used_up",
    /// A relay message that is malformed or not legal here and now.
    BadMessage => "bad_message",
    /// A circuit handshake that failed.
    CircuitHandshake => "circuit_handshake",
    /// A circuit handshake that was seen before.
    Replay => "replay",
    /// A circuit or stream refused for want of room.
    Resources => "resources",
    /// A circuit that was ended because memory ran out, the one with the oldest queued data first.
    Shed => "shed",
    /// A channel or circuit that was refused because memory ran out.
    Memory => "memory",
    /// A channel or circuit that was refused because the relay's bytes are used up, or nearly.
    Hibernation => "hibernation",
    /// An address or subnet that has as many channels as it may.
    ChannelCount => "channel_count",
    /// An address or subnet that opened channels too fast.
    ChannelRate => "channel_rate",
    /// A channel that has as many circuits as one neighbour may have.
    CircuitCount => "circuit_count",
    /// An address or subnet that asked for circuits too fast.
    CircuitRate => "circuit_rate",
    /// A channel over which as many streams come as may.
    StreamCount => "stream_count",
    /// A circuit that began streams too fast.
    StreamRate => "stream_rate",
    /// A stream that was given up because it waited too long to be started.
    StreamLoad => "stream_load",
    /// A circuit handshake that was given up because too many waited.
    HandshakeLoad => "handshake_load",
    /// A neighbour did not answer in time.
    Timeout => "timeout",
    /// An exit target that the policy does not allow.
    ExitPolicy => "exit_policy",
    /// A document or directory request that was refused.
    Directory => "directory",
}

/// One counter for each [`Incident`].
#[derive(Default)]
pub struct Counters([AtomicU64; Incident::ALL.len()]);

impl Counters {
    /// Counts one.
    pub fn count(&self, incident: Incident) {
        self.0[incident as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self, incident: Incident) -> u64 {
        self.0[incident as usize].load(Ordering::Relaxed)
    }
}

/// The counts that are not zero: `tampered=1 bad_cell=3`, or `none`.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Incident::ALL.iter().map(|kind| (kind.label(), self.get(*kind)));
        let text: Vec<_> = counts.filter(|(_, n)| *n > 0).map(|(label, n)| format!("{label}={n}")).collect();
        f.write_str(if text.is_empty() { "none".to_owned() } else { text.join(" ") }.as_str())
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counters({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_by_name() {
        let counters = Counters::default();
        assert_eq!(counters.to_string(), "none");
        counters.count(Incident::Tampered);
        counters.count(Incident::Directory);
        counters.count(Incident::Directory);
        assert_eq!(counters.to_string(), "tampered=1 directory=2");
    }
}
