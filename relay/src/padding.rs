//! The table `[padding]`: what the relay gives its clients.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tunic_proto::cell::CELL_LEN;
use tunic_proto::padding::{Budget, LimitsConfig};

/// What the relay gives its clients in padding. The consensus may say less, never more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PaddingConfig {
    /// Whether clients may ask for padding at all.
    pub enabled: bool,
    /// Bytes per second that one client may have sent to it at a fixed rate.
    pub constant_rate: u64,
    /// The same for all clients together.
    pub constant_total: u64,
    /// Circuits that may have machines at a time.
    pub machines: u32,
    /// Bytes of padding that machines may add to one circuit in each direction, and that its client may send.
    pub machine_bytes: u64,
    /// What they may add beyond that, as percent of everything else on the circuit.
    pub machine_percent: u16,
}

impl Default for PaddingConfig {
    fn default() -> Self {
        PaddingConfig {
            enabled: true,
            constant_rate: 1 << 20,
            constant_total: 10 << 20,
            machines: 1_000,
            machine_bytes: 10 << 20,
            machine_percent: 400,
        }
    }
}

impl PaddingConfig {
    /// The limits, with the parameters of a consensus: `padding` (0 or 1), `padding_constant_rate` and
    /// `padding_constant_total` (bytes per second), `padding_machines` (circuits), `padding_machine_bytes` and
    /// `padding_machine_percent`.
    pub fn limits(&self, params: &BTreeMap<String, i64>) -> LimitsConfig {
        let param = |name| params.get(name).map_or(u64::MAX, |value| (*value).try_into().unwrap_or(0));
        let cells = |bytes: u64| (bytes / CELL_LEN as u64).try_into().unwrap_or(u32::MAX);
        let least = |own: u64, said: u64| own.min(said).try_into().unwrap_or(u32::MAX);
        LimitsConfig {
            enabled: self.enabled && param("padding") > 0,
            constant_rate: cells(self.constant_rate.min(param("padding_constant_rate"))),
            constant_total: cells(self.constant_total.min(param("padding_constant_total"))),
            machines: least(self.machines.into(), param("padding_machines")),
            machine_budget: Budget {
                cells: cells(self.machine_bytes.min(param("padding_machine_bytes"))),
                percent: least(self.machine_percent.into(), param("padding_machine_percent"))
                    .try_into()
                    .unwrap_or(u16::MAX),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consensus_may_say_less_and_never_more() {
        let config = PaddingConfig::default();
        let limits = |params: &[(&str, i64)]| {
            config.limits(&params.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
        };
        let own = limits(&[]);
        assert_eq!((own.enabled, own.constant_rate, own.constant_total), (true, 2_048, 20_480));
        assert_eq!((own.machines, own.machine_budget), (1_000, Budget { cells: 20_480, percent: 400 }));
        assert_eq!(limits(&[("padding_constant_rate", i64::MAX)]).constant_rate, 2_048);
        assert_eq!(limits(&[("padding_constant_rate", 51_200)]).constant_rate, 100);
        assert_eq!(limits(&[("padding_constant_total", -1)]).constant_total, 0);
        assert!(!limits(&[("padding", 0)]).enabled);
        let less = limits(&[
            ("padding_machines", 7),
            ("padding_machine_bytes", 511),
            ("padding_machine_percent", 50),
        ]);
        assert_eq!((less.machines, less.machine_budget), (7, Budget { cells: 0, percent: 50 }));
        assert_eq!(limits(&[("padding_machines", i64::MAX)]).machines, 1_000);
    }
}
