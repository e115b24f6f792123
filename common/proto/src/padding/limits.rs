//! What a relay gives its clients in padding. The operator says, the consensus may say less, and no client can talk the
//! relay out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::budget::Budget;
use super::mode::{LinkMode, Refusal};
use super::spec::MachineSpec;

/// The figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Whether anything is padded at all.
    pub enabled: bool,
    /// Cells per second that one client gets in constant mode; 0 switches the mode off.
    pub constant_rate: u32,
    /// Cells per second for all clients in constant mode together.
    pub constant_total: u32,
    /// Circuits with machines at a time; 0 switches them off.
    pub machines: u32,
    /// What machines may add to one circuit, in each direction.
    pub machine_budget: Budget,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            enabled: true,
            constant_rate: 2_000,
            constant_total: 20_000,
            machines: 1_000,
            machine_budget: Budget { cells: 20_000, percent: 400 },
        }
    }
}

/// The limits of a relay and what is in use, shared by its channels.
#[derive(Debug, Default)]
pub struct Limits {
    enabled: AtomicBool,
    constant_rate: AtomicU32,
    constant_total: AtomicU32,
    used: AtomicU32,
    machines: AtomicU32,
    machine_budget: [AtomicU32; 2],
    machines_used: AtomicU32,
}

impl Limits {
    /// With these figures.
    pub fn new(config: LimitsConfig) -> Arc<Limits> {
        let limits = Limits::default();
        limits.set(config);
        Arc::new(limits)
    }

    /// Uses these figures for what is agreed on from now on.
    pub fn set(&self, config: LimitsConfig) {
        self.enabled.store(config.enabled, Ordering::Relaxed);
        self.constant_rate.store(config.constant_rate, Ordering::Relaxed);
        self.constant_total.store(config.constant_total, Ordering::Relaxed);
        self.machines.store(config.machines, Ordering::Relaxed);
        let Budget { cells, percent } = config.machine_budget;
        self.machine_budget[0].store(cells, Ordering::Relaxed);
        self.machine_budget[1].store(percent.into(), Ordering::Relaxed);
    }

    /// Cells per second promised to clients in constant mode.
    pub fn constant_in_use(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Circuits with machines.
    pub fn machines_in_use(&self) -> u32 {
        self.machines_used.load(Ordering::Relaxed)
    }

    /// Agrees to machines on a circuit.
    pub(crate) fn grant(self: &Arc<Self>, spec: &MachineSpec) -> Result<Grant, Refusal> {
        let most = self.machines.load(Ordering::Relaxed);
        if most == 0 || !self.enabled.load(Ordering::Relaxed) {
            return Err(Refusal::NotOffered);
        }
        let [cells, percent] = [0, 1].map(|n| self.machine_budget[n].load(Ordering::Relaxed));
        let budget = Budget { cells, percent: percent.try_into().unwrap_or(u16::MAX) };
        if !spec.forward.fits(budget) || !spec.backward.fits(budget) {
            return Err(Refusal::TooMuch);
        }
        let add = |used: u32| used.checked_add(1).filter(|sum| *sum <= most);
        match self.machines_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Grant(self.clone())),
            Err(_) => Err(Refusal::Exhausted),
        }
    }

    /// Sets aside what a mode costs.
    pub(super) fn reserve(self: &Arc<Self>, mode: LinkMode) -> Result<Option<Reservation>, Refusal> {
        if mode != LinkMode::Off && !self.enabled.load(Ordering::Relaxed) {
            return Err(Refusal::NotOffered);
        }
        let LinkMode::Constant(rates) = mode else { return Ok(None) };
        let (rate, most) = (rates.backward_rate(), self.constant_rate.load(Ordering::Relaxed));
        if most == 0 {
            return Err(Refusal::NotOffered);
        }
        if rate > most {
            return Err(Refusal::TooMuch);
        }
        let total = self.constant_total.load(Ordering::Relaxed);
        let add = |used: u32| used.checked_add(rate).filter(|sum| *sum <= total);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Some(Reservation { limits: self.clone(), rate })),
            Err(_) => Err(Refusal::Exhausted),
        }
    }
}

/// A promised rate, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    limits: Arc<Limits>,
    rate: u32,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.limits.used.fetch_sub(self.rate, Ordering::Relaxed);
    }
}

/// Machines on a circuit that a relay agreed to; free again when dropped.
#[derive(Debug)]
pub(crate) struct Grant(Arc<Limits>);

impl Drop for Grant {
    fn drop(&mut self) {
        self.0.machines_used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::padding::Rates;

    fn constant(backward: u16) -> LinkMode {
        LinkMode::Constant(Rates { tick_ms: 10, forward: 1, backward })
    }

    #[test]
    fn a_client_gets_no_more_than_its_limit_and_all_no_more_than_theirs() {
        let limits =
            Limits::new(LimitsConfig { constant_rate: 1_000, constant_total: 1_500, ..Default::default() });
        assert_eq!(limits.reserve(constant(11)).unwrap_err(), Refusal::TooMuch);
        let first = limits.reserve(constant(10)).unwrap();
        assert_eq!(limits.reserve(constant(10)).unwrap_err(), Refusal::Exhausted);
        let second = limits.reserve(constant(5)).unwrap();
        assert_eq!(limits.constant_in_use(), 1_500);
        drop((first, second));
        assert_eq!(limits.constant_in_use(), 0);
    }

    #[test]
    fn what_is_switched_off_is_not_offered() {
        let limits = Limits::new(LimitsConfig { constant_rate: 0, ..Default::default() });
        assert_eq!(limits.reserve(constant(1)).unwrap_err(), Refusal::NotOffered);
        assert!(limits.reserve(LinkMode::Normal).is_ok());
        limits.set(LimitsConfig { enabled: false, ..Default::default() });
        assert_eq!(limits.reserve(LinkMode::Normal).unwrap_err(), Refusal::NotOffered);
        assert!(limits.reserve(LinkMode::Off).is_ok());
    }
}
