//! The table `[padding]`: what the relay gives its clients.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tunic_proto::cell::CELL_LEN;
use tunic_proto::padding::LimitsConfig;

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
}

impl Default for PaddingConfig {
    fn default() -> Self {
        PaddingConfig { enabled: true, constant_rate: 1 << 20, constant_total: 10 << 20 }
    }
}

impl PaddingConfig {
    /// The limits, with the parameters of a consensus: `padding` (0 or 1), `padding_constant_rate` and
    /// `padding_constant_total` (bytes per second).
    pub fn limits(&self, params: &BTreeMap<String, i64>) -> LimitsConfig {
        let param = |name| params.get(name).map_or(u64::MAX, |value| (*value).try_into().unwrap_or(0));
        let cells = |bytes: u64| (bytes / CELL_LEN as u64).try_into().unwrap_or(u32::MAX);
        LimitsConfig {
            enabled: self.enabled && param("padding") > 0,
            constant_rate: cells(self.constant_rate.min(param("padding_constant_rate"))),
            constant_total: cells(self.constant_total.min(param("padding_constant_total"))),
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
        assert_eq!(limits(&[]), LimitsConfig { enabled: true, constant_rate: 2_048, constant_total: 20_480 });
        assert_eq!(limits(&[("padding_constant_rate", i64::MAX)]).constant_rate, 2_048);
        assert_eq!(limits(&[("padding_constant_rate", 51_200)]).constant_rate, 100);
        assert_eq!(limits(&[("padding_constant_total", -1)]).constant_total, 0);
        assert!(!limits(&[("padding", 0)]).enabled);
    }
}
