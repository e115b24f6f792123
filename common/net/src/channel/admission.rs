//! Whether a node takes channels and circuits at all, whoever asks.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use tunic_proto::counters::Incident;

/// How much a node rests because its bytes are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Not at all.
    #[default]
    Awake,
    /// Nobody may open channels or ask for circuits; what there is goes on.
    NoCircuits,
    /// No channels, whoever opens them.
    NoChannels,
}

/// What a node takes, beside what its limits say of single neighbours.
#[derive(Debug, Default)]
pub struct Admission {
    memory_is_short: AtomicBool,
    rest: AtomicU8,
}

impl Admission {
    /// Memory ran out, or is there again.
    pub fn set_memory_short(&self, is_short: bool) {
        self.memory_is_short.store(is_short, Relaxed);
    }

    /// Whether memory ran out.
    pub fn memory_is_short(&self) -> bool {
        self.memory_is_short.load(Relaxed)
    }

    /// Rests, or awakes. Channels that are open stay: see [`super::Node::close_channels`].
    pub fn set_rest(&self, rest: Rest) {
        self.rest.store(rest as u8, Relaxed);
    }

    /// How much the node rests.
    pub fn rest(&self) -> Rest {
        let number = self.rest.load(Relaxed);
        [Rest::Awake, Rest::NoCircuits]
            .into_iter()
            .find(|rest| *rest as u8 == number)
            .unwrap_or(Rest::NoChannels)
    }

    /// Whether others may open channels and ask for circuits; as what a refusal counts.
    pub(super) fn ask(&self) -> Result<(), Incident> {
        if self.rest() != Rest::Awake {
            Err(Incident::Hibernation)
        } else if self.memory_is_short() {
            Err(Incident::Memory)
        } else {
            Ok(())
        }
    }

    /// Whether this node may open channels.
    pub(super) fn may_call(&self) -> bool {
        self.rest() != Rest::NoChannels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rests_or_has_no_memory_takes_nothing() {
        let admission = Admission::default();
        assert!(admission.ask().is_ok() && admission.may_call());
        admission.set_memory_short(true);
        assert_eq!((admission.ask(), admission.may_call()), (Err(Incident::Memory), true));
        admission.set_rest(Rest::NoCircuits);
        assert_eq!((admission.ask(), admission.may_call()), (Err(Incident::Hibernation), true));
        admission.set_rest(Rest::NoChannels);
        assert_eq!((admission.rest(), admission.may_call()), (Rest::NoChannels, false));
        admission.set_memory_short(false);
        admission.set_rest(Rest::Awake);
        assert!(admission.ask().is_ok());
    }
}
