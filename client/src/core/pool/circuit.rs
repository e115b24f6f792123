//! The states of a circuit in the pool, and what it is good for.

use std::time::Instant;

use tunic_proto::dir::ExitPolicy;
use tunic_proto::ids::RelayId;

use super::{Build, DEMAND_WINDOW, DIRTY_AFTER, SPARE_LIFETIME, Standing, Want};
use crate::core::isolation::Isolation;
use crate::core::path::Need;

/// A circuit, from the decision to build it on.
#[derive(Debug)]
pub(super) enum Circuit {
    Building(Build),
    Ready { exit: RelayId, policy: ExitPolicy, started: Instant, usage: Usage },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Spare,
    Assigned {
        isolation: Isolation,
        first_used: Instant,
    },
    /// No new streams.
    Retired,
}

/// A want that waits.
pub(super) struct Waiting {
    pub(super) want: Want,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// Whether it was held back by the pace.
    pub(super) held: bool,
}

impl Circuit {
    pub(super) fn suits(&self, Waiting { want, since: asked, .. }: &Waiting, now: Instant) -> bool {
        let Circuit::Ready { exit, policy, started, usage } = self else { return false };
        if want.fresh && started < asked {
            return false;
        }
        let free = match usage {
            Usage::Spare => true,
            Usage::Assigned { isolation, first_used } => {
                *isolation == want.isolation && now < *first_used + DIRTY_AFTER
            }
            Usage::Retired => false,
        };
        free && !want.not_exits.contains(exit) && want.need.met_by(policy)
    }

    /// Whom the circuit belongs to.
    pub(super) fn isolation(&self) -> Option<&Isolation> {
        match self {
            Circuit::Ready { usage: Usage::Assigned { isolation, .. }, .. } => Some(isolation),
            _ => None,
        }
    }

    /// Whom the circuit was given to, if that was in the last minute.
    pub(super) fn given_lately(&self, now: Instant) -> Option<&Isolation> {
        let Circuit::Ready { usage: Usage::Assigned { isolation, first_used }, .. } = self else {
            return None;
        };
        (now < *first_used + DEMAND_WINDOW).then_some(isolation)
    }

    pub(super) fn is_spare(&self) -> bool {
        matches!(self, Circuit::Ready { usage: Usage::Spare, .. })
    }

    pub(super) fn is_spare_for(&self, need: &Need) -> bool {
        match self {
            Circuit::Ready { usage: Usage::Spare, policy, .. } => need.met_by(policy),
            Circuit::Building(build) => build.for_want.is_none() && build.need == *need,
            Circuit::Ready { .. } => false,
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self {
            Circuit::Building(_) => Standing::Building,
            Circuit::Ready { usage: Usage::Spare, .. } => Standing::Spare,
            Circuit::Ready { usage: Usage::Assigned { first_used, .. }, .. }
                if now < *first_used + DIRTY_AFTER =>
            {
                Standing::InUse
            }
            Circuit::Ready { .. } => Standing::Leaving,
        }
    }

    /// From when on the circuit is closed if it is idle.
    pub(super) fn ends(&self, now: Instant) -> Option<Instant> {
        let Circuit::Ready { started, usage, .. } = self else { return None };
        Some(match usage {
            Usage::Spare => *started + SPARE_LIFETIME,
            Usage::Assigned { first_used, .. } => *first_used + DIRTY_AFTER,
            Usage::Retired => now,
        })
    }
}

impl Build {
    /// Whether the circuit will likely do for this want. That it does is only known when its exit is.
    pub(super) fn may_serve(&self, Waiting { want, since: asked, .. }: &Waiting) -> bool {
        if want.fresh && self.started < *asked {
            return false;
        }
        let port_fits = match (self.need.port(), want.need.port()) {
            (Some(port), Some(wanted)) => port == wanted,
            _ => true,
        };
        port_fits && want.not_exits.iter().all(|exit| self.not_exits.contains(exit))
    }
}
