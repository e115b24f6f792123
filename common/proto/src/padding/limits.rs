//! What a relay gives its clients in padding. The operator says, the consensus may say less, and no client can talk the
//! relay out of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::budget::Budget;
use super::mode::{LinkMode, Refusal};
use super::spec::MachineSpec;
use crate::sync::lock;

/// Circuits with machines that one client may have at a relay: one channel, for many people may share an address.
const MACHINES_PER_CLIENT: usize = 128;
/// One subnet may have this part of what a relay gives to all, over however many channels; so may all relays of the network
/// together, whose clients nobody can tell apart.
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
    /// What the subnets have of both that have any.
    subnets: Mutex<HashMap<IpAddr, Used>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    machines: u32,
    constant: u32,
}

/// Who asks for machines.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    /// A client on whose channel so many run already, from this subnet if that is known.
    Client { count: usize, subnet: Option<IpAddr> },
    /// Another relay's client.
    Relayed,
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
    pub(crate) fn grant(self: &Arc<Self>, spec: &MachineSpec, asker: Asker) -> Result<Grant, Refusal> {
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
        let subnet = match asker {
            Asker::Client { count, .. } if count >= MACHINES_PER_CLIENT.min(share as usize) => {
                return Err(Refusal::TooMuch);
            }
            Asker::Client { subnet, .. } => subnet,
            Asker::Relayed => None,
        };
        // From here on it gives back what it has when it is dropped.
        let mut grant = Grant { limits: self.clone(), subnet: None, is_relayed: false, is_counted: false };
        if let Some(subnet) = subnet {
            let has_room = self.change(subnet, |used| (used.machines < share).then(|| used.machines += 1));
            has_room.ok_or(Refusal::TooMuch)?;
            grant.subnet = Some(subnet);
        }
        if matches!(asker, Asker::Relayed) {
            grant.is_relayed = add_one(&self.relayed_used, share);
            grant.is_relayed.then_some(()).ok_or(Refusal::Exhausted)?;
        }
        grant.is_counted = add_one(&self.machines_used, most);
        grant.is_counted.then_some(grant).ok_or(Refusal::Exhausted)
    }

    /// Changes what a subnet has, and forgets one that has nothing.
    fn change<T>(&self, subnet: IpAddr, change: impl FnOnce(&mut Used) -> T) -> T {
        let mut subnets = lock(&self.subnets);
        let used = subnets.entry(subnet).or_default();
        let result = change(used);
        if *used == Used::default() {
            subnets.remove(&subnet);
        }
        result
    }

    /// Sets aside what a mode costs, in place of what the same channel had set aside before. After a refusal that stays.
    pub(super) fn reserve(
        self: &Arc<Self>,
        mode: LinkMode,
        subnet: Option<IpAddr>,
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
        // It stays where it was counted first.
        let subnet = before.as_ref().map_or(subnet, |reservation| reservation.subnet);
        let exchange = |used: u32, most: u32| {
            let sum = used.saturating_sub(held).checked_add(rate)?;
            (sum <= most || rate <= held).then_some(sum)
        };
        if let Some(subnet) = subnet {
            let share = total.div_ceil(SHARE).max(most.min(total));
            let fits = |used: &mut Used| exchange(used.constant, share).map(|sum| used.constant = sum);
            self.change(subnet, fits).ok_or(Refusal::TooMuch)?;
        }
        let all = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| exchange(used, total));
        if all.is_err() {
            if let Some(subnet) = subnet {
                self.change(subnet, |used| used.constant = used.constant + held - rate);
            }
            return Err(Refusal::Exhausted);
        }
        if let Some(before) = before {
            (before.rate, before.subnet) = (0, None);
        }
        *before = Some(Reservation { limits: self.clone(), rate, subnet });
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
    subnet: Option<IpAddr>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.limits.used.fetch_sub(self.rate, Ordering::Relaxed);
        if let Some(subnet) = self.subnet {
            self.limits.change(subnet, |used| used.constant -= self.rate);
        }
    }
}

/// Machines on a circuit that a relay agreed to; free again when dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    limits: Arc<Limits>,
    subnet: Option<IpAddr>,
    is_relayed: bool,
    is_counted: bool,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.limits.machines_used.fetch_sub(self.is_counted.into(), Ordering::Relaxed);
        self.limits.relayed_used.fetch_sub(self.is_relayed.into(), Ordering::Relaxed);
        if let Some(subnet) = self.subnet {
            self.limits.change(subnet, |used| used.machines -= 1);
        }
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
        assert_eq!(limits.reserve(constant(11), None, &mut first), Err(Refusal::TooMuch));
        assert_eq!(limits.reserve(constant(10), None, &mut first), Ok(()));
        assert_eq!(limits.reserve(constant(10), None, &mut second), Err(Refusal::Exhausted));
        assert_eq!(limits.reserve(constant(4), None, &mut second), Ok(()));
        assert_eq!(limits.reserve(constant(5), None, &mut second), Ok(()), "in place of the four");
        assert_eq!(limits.constant_in_use(), 1_500);
        assert_eq!(limits.reserve(constant(6), None, &mut second), Err(Refusal::Exhausted));
        assert_eq!(limits.constant_in_use(), 1_500, "what was agreed on stays");
        drop((first, second));
        assert_eq!(limits.constant_in_use(), 0);
    }

    #[test]
    fn nobody_gets_all_machines_and_nobody_those_that_may_not_pad() {
        let limits = Limits::new(LimitsConfig { machines: 300, ..Default::default() });
        let budget = Budget { cells: 1, percent: 0 };
        let spec = MachineSpec::new(super::super::MachineKind::BreakPad, &[], budget, budget).unwrap();
        let asker = |count: Option<usize>| match count {
            Some(count) => Asker::Client { count, subnet: None },
            None => Asker::Relayed,
        };
        let grant = |count| limits.grant(&spec, asker(count));
        let refusal = |of_client| grant(of_client).err();
        assert_eq!((refusal(Some(127)), refusal(Some(128))), (None, Some(Refusal::TooMuch)));
        let silent = MachineSpec { backward: Budget { cells: 0, percent: 0 }, ..spec.clone() };
        assert_eq!(limits.grant(&silent, asker(Some(0))).err(), Some(Refusal::BadParameters));
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
    fn a_subnet_gets_no_more_than_half_over_however_many_channels() {
        let limits = Limits::new(LimitsConfig {
            machines: 20,
            constant_rate: 1_000,
            constant_total: 3_000,
            ..Default::default()
        });
        let budget = Budget { cells: 1, percent: 0 };
        let spec = MachineSpec::new(super::super::MachineKind::BreakPad, &[], budget, budget).unwrap();
        let [one, other] = [[192, 0, 2, 0], [198, 51, 100, 0]].map(|subnet| Some(IpAddr::from(subnet)));
        let grant = |subnet| limits.grant(&spec, Asker::Client { count: 0, subnet });
        let grants: Vec<_> = (0..10).map(|_| grant(one).unwrap()).collect();
        assert_eq!(grant(one).err(), Some(Refusal::TooMuch));
        let others: Vec<_> = (0..10).map(|_| grant(other).unwrap()).collect();
        assert_eq!(grant(None).err(), Some(Refusal::Exhausted));
        drop((grants, others));
        assert_eq!(limits.machines_in_use(), 0);

        let [mut a, mut b, mut c, mut d] = [None, None, None, None];
        assert_eq!(limits.reserve(constant(10), one, &mut a), Ok(()));
        assert_eq!(limits.reserve(constant(6), one, &mut b), Err(Refusal::TooMuch));
        assert_eq!(limits.reserve(constant(5), one, &mut b), Ok(()));
        assert_eq!(
            limits.reserve(constant(6), one, &mut b),
            Err(Refusal::TooMuch),
            "what was agreed on stays"
        );
        assert_eq!(limits.reserve(constant(9), one, &mut a), Ok(()));
        assert_eq!(limits.reserve(constant(6), one, &mut b), Ok(()));
        assert_eq!(limits.reserve(constant(10), None, &mut c), Ok(()));
        assert_eq!(limits.reserve(constant(6), other, &mut d), Err(Refusal::Exhausted));
        assert_eq!(limits.reserve(constant(5), other, &mut d), Ok(()));
        drop((a, b, c, d));
        assert_eq!(limits.constant_in_use(), 0);
        assert!(lock(&limits.subnets).is_empty(), "nothing is remembered of who has nothing");
        assert_eq!(limits.reserve(constant(10), one, &mut None), Ok(()));
        // Who may have one client's rate may have it wherever there is nobody else.
        limits.set(LimitsConfig { constant_rate: 1_000, constant_total: 1_000, ..Default::default() });
        assert_eq!(limits.reserve(constant(10), one, &mut None), Ok(()));
    }

    #[test]
    fn what_is_switched_off_is_not_offered() {
        let limits = Limits::new(LimitsConfig { constant_rate: 0, ..Default::default() });
        let reserve = |mode| limits.reserve(mode, None, &mut None);
        assert_eq!(reserve(constant(1)), Err(Refusal::NotOffered));
        assert_eq!(reserve(LinkMode::Normal), Ok(()));
        limits.set(LimitsConfig { enabled: false, ..Default::default() });
        assert_eq!(reserve(LinkMode::Normal), Err(Refusal::NotOffered));
        assert_eq!(reserve(LinkMode::Off), Ok(()));
    }
}
