//! How much is allowed: from the consensus, held within sense, and overridden by the operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Rate;

macro_rules! params {
    ($($(#[$doc:meta])* $field:ident: $name:literal = $default:literal in $min:literal..=$max:literal,)*) => {
        /// How much one neighbour may ask for. The defaults hold until a consensus says otherwise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Params { $($(#[$doc])* pub $field: u32,)* }

        impl Default for Params {
            fn default() -> Self {
                Params { $($field: $default,)* }
            }
        }

        impl Params {
            /// The parameters of a consensus; what it leaves out is the default, what is out of range is brought into it.
            pub fn from_consensus(params: &BTreeMap<String, i64>) -> Params {
                let get = |name: &str, default: i64, min: i64, max: i64| {
                    params.get(name).copied().unwrap_or(default).clamp(min, max) as u32
                };
                Params { $($field: get($name, $default, $min, $max),)* }
            }
        }

        /// What an operator sets in place of the consensus: the table `[limits]`.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Overrides { $($(#[$doc])* pub $field: Option<u32>,)* }

        impl Overrides {
            /// Sets all of them, to these.
            pub fn all(params: Params) -> Overrides {
                Overrides { $($field: Some(params.$field),)* }
            }

            /// These parameters with what is set here in their place.
            pub fn apply(&self, params: Params) -> Params {
                Params { $($field: self.$field.unwrap_or(params.$field),)* }
            }

            /// The first value out of range, as a sentence.
            pub fn problem(&self) -> Option<String> {
                let all = [$((stringify!($field), self.$field, $min, $max),)*];
                let bad = |value: u32, min: u32, max: u32| !(min..=max).contains(&value);
                let (name, _, min, max) =
                    *all.iter().find(|(_, value, min, max)| value.is_some_and(|value| bad(value, *min, *max)))?;
                Some(format!("[limits] `{name}` must be {min} to {max}"))
            }
        }

        #[cfg(test)]
        const ALL: &[(&str, &str, i64, i64, i64)] = &[$((stringify!($field), $name, $default, $min, $max),)*];
    };
}

params! {
    /// Channels that one address may have open at a time.
    channels_per_address: "dos_channels" = 100 in 1..=1_000_000,
    /// Channels that one address may open each second. 0: without limit.
    channels_per_second: "dos_channels_per_second" = 20 in 0..=100_000,
    /// The same at once.
    channels_burst: "dos_channels_burst" = 40 in 1..=1_000_000,
    /// Circuits that one address may ask for each second. 0: without limit.
    circuits_per_second: "dos_circuits_per_second" = 3 in 0..=100_000,
    /// The same at once.
    circuits_burst: "dos_circuits_burst" = 90 in 1..=1_000_000,
    /// Only an address with so many channels is held to the rate of circuits: many people may share one.
    circuits_min_channels: "dos_circuits_min_channels" = 3 in 1..=1_000_000,
    /// For so many seconds, an address that asked for more gets no circuit.
    refusal_s: "dos_refusal_s" = 3_600 in 0..=86_400,
    /// How many times of what one address may a subnet may: IPv4 /24, IPv6 /48.
    subnet_factor: "dos_subnet_factor" = 4 in 1..=65_536,
    /// Circuits at a time on the channel of a client.
    circuits_per_client: "dos_circuits_per_client" = 2_048 in 8..=65_536,
    /// Circuits at a time on the channel of a relay of the network.
    circuits_per_relay: "dos_circuits_per_relay" = 32_768 in 1_024..=65_536,
    /// Streams at a time that come here over one channel.
    streams_per_neighbour: "dos_streams_per_neighbour" = 8_192 in 64..=65_536,
    /// Streams that one circuit may begin here each second. 0: without limit.
    streams_per_second: "dos_streams_per_second" = 100 in 0..=100_000,
    /// The same at once.
    streams_burst: "dos_streams_burst" = 300 in 1..=1_000_000,
    /// Circuit handshakes that may wait for a core.
    handshakes_waiting: "dos_handshakes_waiting" = 4_096 in 16..=65_536,
    /// A circuit handshake that has waited for so many milliseconds is given up.
    handshake_wait_ms: "dos_handshake_wait_ms" = 5_000 in 50..=60_000,
}

impl Params {
    /// Of channels, for one address.
    pub fn channels(&self) -> Rate {
        Rate { per_second: self.channels_per_second, burst: self.channels_burst }
    }

    /// Of circuits, for one address.
    pub fn circuits(&self) -> Rate {
        Rate { per_second: self.circuits_per_second, burst: self.circuits_burst }
    }

    /// Of streams, for one circuit.
    pub fn streams(&self) -> Rate {
        Rate { per_second: self.streams_per_second, burst: self.streams_burst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consensus_sets_parameters_within_their_ranges() {
        assert_eq!(Params::from_consensus(&BTreeMap::new()), Params::default());
        for (_, name, default, min, max) in ALL {
            assert!((min..=max).contains(&default), "{name}");
            // What a consensus can hold (docs/protocol.md §9.3).
            assert!(name.len() <= 32 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')));
        }
        let extreme = |value| Params::from_consensus(&ALL.iter().map(|p| (p.1.to_owned(), value)).collect());
        assert_eq!((extreme(i64::MIN).channels_per_address, extreme(i64::MIN).refusal_s), (1, 0));
        assert_eq!((extreme(i64::MAX).subnet_factor, extreme(i64::MAX).refusal_s), (65_536, 86_400));
    }

    #[test]
    fn an_operator_overrides_the_consensus_and_is_told_of_nonsense() {
        let ours = Overrides { channels_burst: Some(7), ..Overrides::default() };
        let expect = Params { channels_burst: 7, ..Params::default() };
        assert_eq!((ours.apply(Params::default()), ours.problem()), (expect, None));
        let nonsense = Overrides { subnet_factor: Some(0), ..Overrides::default() };
        assert_eq!(nonsense.problem().as_deref(), Some("[limits] `subnet_factor` must be 1 to 65536"));
    }
}
