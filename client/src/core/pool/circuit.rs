//! A circuit in the pool, and what it is good for.

use std::time::Instant;

use tunic_proto::dir::ExitPolicy;
use tunic_proto::ids::RelayId;

use super::shares::Application;
use super::{Build, DIRTY_AFTER, SPARE_LIFETIME, Standing, Want};
use crate::core::isolation::Isolation;

/// A circuit that is built.
#[derive(Debug)]
pub(super) struct Circuit {
    pub(super) exit: RelayId,
    pub(super) policy: ExitPolicy,
    pub(super) started: Instant,
    pub(super) usage: Usage,
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
    /// Whose it is.
    pub(super) application: Application,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// Whether it was held back by the pace.
    pub(super) held: bool,
}

impl Circuit {
    /// For a circuit of the want's isolation, or a spare one.
    pub(super) fn suits(&self, Waiting { want, since: asked, .. }: &Waiting, now: Instant) -> bool {
        if want.fresh && self.started < *asked {
            return false;
        }
        let free = match &self.usage {
            Usage::Spare => true,
            Usage::Assigned { isolation, first_used } => {
                *isolation == want.isolation && now < *first_used + DIRTY_AFTER
            }
            Usage::Retired => false,
        };
        free && !want.not_exits.contains(&self.exit) && want.need.met_by(&self.policy)
    }

    pub(super) fn is_spare(&self) -> bool {
        self.usage == Usage::Spare
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.usage {
            Usage::Spare => Standing::Spare,
            Usage::Assigned { first_used, .. } if now < first_used + DIRTY_AFTER => Standing::InUse,
            Usage::Assigned { .. } | Usage::Retired => Standing::Leaving,
        }
    }

    /// From when on the circuit is closed if it is idle.
    pub(super) fn ends(&self, now: Instant) -> Instant {
        match self.usage {
            Usage::Spare => self.started + SPARE_LIFETIME,
            Usage::Assigned { first_used, .. } => first_used + DIRTY_AFTER,
            Usage::Retired => now,
        }
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
