//! What a relay gives its clients in padding. The operator says, the consensus may say less, and no client can talk the
//! relay out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::budget::Budget;
use super::mode::{LinkMode, Refusal};
use super::spec::MachineSpec;

/// Circuits with machines that one client may have at a relay.
const MACHINES_PER_CLIENT: usize = 128;
/// One client may have this part of a relay's machines; so may all other relays together, whose clients nobody can tell apart.
const SHARE: u32 = 2;

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
    /// Those of them that run on channels with other relays.
    relayed_used: AtomicU32,
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

    /// Agrees to machines on a circuit of a client that has so many already or, if it is `None`, of another relay's client.
    pub(crate) fn grant(
        self: &Arc<Self>,
        spec: &MachineSpec,
        of_client: Option<usize>,
    ) -> Result<Grant, Refusal> {
        let most = self.machines.load(Ordering::Relaxed);
        if most == 0 || !self.enabled.load(Ordering::Relaxed) {
            return Err(Refusal::NotOffered);
        }
        let [cells, percent] = [0, 1].map(|n| self.machine_budget[n].load(Ordering::Relaxed));
        let budget = Budget { cells, percent: percent.try_into().unwrap_or(u16::MAX) };
        if !spec.forward.fits(budget) || !spec.backward.fits(budget) {
            return Err(Refusal::TooMuch);
        }
        // Its decisions would cost time for nothing.
        if spec.backward.is_empty() {
            return Err(Refusal::BadParameters);
        }
        let share = most.div_ceil(SHARE);
        if of_client.is_some_and(|count| count >= MACHINES_PER_CLIENT.min(share as usize)) {
            return Err(Refusal::TooMuch);
        }
        let is_relayed = of_client.is_none();
        if is_relayed && !add_one(&self.relayed_used, share) {
            return Err(Refusal::Exhausted);
        }
        if !add_one(&self.machines_used, most) {
            self.relayed_used.fetch_sub(is_relayed.into(), Ordering::Relaxed);
            return Err(Refusal::Exhausted);
        }
        Ok(Grant { limits: self.clone(), is_relayed })
    }

    /// Sets aside what a mode costs, in place of what the same channel had set aside before. After a refusal that stays.
    pub(super) fn reserve(
        self: &Arc<Self>,
        mode: LinkMode,
        before: &mut Option<Reservation>,
    ) -> Result<(), Refusal> {
        if mode != LinkMode::Off && !self.enabled.load(Ordering::Relaxed) {
            return Err(Refusal::NotOffered);
        }
        let LinkMode::Constant(rates) = mode else {
            *before = None;
            return Ok(());
        };
        let (rate, most) = (rates.backward_rate(), self.constant_rate.load(Ordering::Relaxed));
        if most == 0 {
            return Err(Refusal::NotOffered);
        }
        if rate > most {
            return Err(Refusal::TooMuch);
        }
        let total = self.constant_total.load(Ordering::Relaxed);
        let held = before.as_ref().map_or(0, |reservation| reservation.rate);
        let exchange = |used: u32| {
            let sum = used.saturating_sub(held).checked_add(rate)?;
            (sum <= total || rate <= held).then_some(sum)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, exchange)
            .map_err(|_| Refusal::Exhausted)?;
        if let Some(before) = before {
            before.rate = 0;
        }
        *before = Some(Reservation { limits: self.clone(), rate });
        Ok(())
    }
}

/// Counts one more, up to so many.
fn add_one(count: &AtomicU32, most: u32) -> bool {
    let add = |used: u32| used.checked_add(1).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
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
pub(crate) struct Grant {
    limits: Arc<Limits>,
    is_relayed: bool,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.limits.machines_used.fetch_sub(1, Ordering::Relaxed);
        self.limits.relayed_used.fetch_sub(self.is_relayed.into(), Ordering::Relaxed);
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
        let (mut first, mut second) = (None, None);
        assert_eq!(limits.reserve(constant(11), &mut first), Err(Refusal::TooMuch));
        assert_eq!(limits.reserve(constant(10), &mut first), Ok(()));
        assert_eq!(limits.reserve(constant(10), &mut second), Err(Refusal::Exhausted));
        assert_eq!(limits.reserve(constant(4), &mut second), Ok(()));
        assert_eq!(limits.reserve(constant(5), &mut second), Ok(()), "in place of the four");
        assert_eq!(limits.constant_in_use(), 1_500);
        assert_eq!(limits.reserve(constant(6), &mut second), Err(Refusal::Exhausted));
        assert_eq!(limits.constant_in_use(), 1_500, "what was agreed on stays");
        drop((first, second));
        assert_eq!(limits.constant_in_use(), 0);
    }

    #[test]
    fn nobody_gets_all_machines_and_nobody_those_that_may_not_pad() {
        let limits = Limits::new(LimitsConfig { machines: 300, ..Default::default() });
        let budget = Budget { cells: 1, percent: 0 };
        let spec = MachineSpec::new(super::super::MachineKind::BreakPad, &[], budget, budget).unwrap();
        let grant = |of_client| limits.grant(&spec, of_client);
        let refusal = |of_client| grant(of_client).err();
        assert_eq!((refusal(Some(127)), refusal(Some(128))), (None, Some(Refusal::TooMuch)));
        let silent = MachineSpec { backward: Budget { cells: 0, percent: 0 }, ..spec.clone() };
        assert_eq!(limits.grant(&silent, Some(0)).err(), Some(Refusal::BadParameters));
        // Over however many relays a client asks: half are left to those that ask themselves.
        let relayed: Vec<_> = (0..150).map(|_| grant(None).unwrap()).collect();
        assert_eq!(refusal(None), Some(Refusal::Exhausted));
        let direct: Vec<_> = (0..150).map(|n| grant(Some(n % 128)).unwrap()).collect();
        assert_eq!(refusal(Some(0)), Some(Refusal::Exhausted));
        drop(relayed);
        let direct_again: Vec<_> = (0..150).map(|n| grant(Some(n % 128)).unwrap()).collect();
        assert_eq!(refusal(None), Some(Refusal::Exhausted));
        drop((direct, direct_again));
        assert_eq!(limits.machines_in_use(), 0);
        let _relayed: Vec<_> = (0..150).map(|_| grant(None).unwrap()).collect();
    }

    #[test]
    fn what_is_switched_off_is_not_offered() {
        let limits = Limits::new(LimitsConfig { constant_rate: 0, ..Default::default() });
        let reserve = |mode| limits.reserve(mode, &mut None);
        assert_eq!(reserve(constant(1)), Err(Refusal::NotOffered));
        assert_eq!(reserve(LinkMode::Normal), Ok(()));
        limits.set(LimitsConfig { enabled: false, ..Default::default() });
        assert_eq!(reserve(LinkMode::Normal), Err(Refusal::NotOffered));
        assert_eq!(reserve(LinkMode::Off), Ok(()));
    }
}
