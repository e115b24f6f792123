//! The circuits that there are for those that wait, looked up once for all of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::circuit::{Circuit, Waiting};
use super::{CircuitId, Load, MAX_STREAMS};
use crate::core::isolation::Isolation;

pub(super) struct Offers<'a> {
    own: BTreeMap<&'a Isolation, Vec<Offer<'a>>>,
    /// The oldest first.
    spares: Vec<Offer<'a>>,
    now: Instant,
}

struct Offer<'a> {
    id: CircuitId,
    circuit: &'a Circuit,
    /// Those that were given it in this round included: they do not show yet.
    streams: usize,
}

impl<'a> Offers<'a> {
    pub(super) fn new(circuits: &'a BTreeMap<CircuitId, Circuit>, now: Instant, load: Load<'_>) -> Self {
        let mut offers = Offers { own: BTreeMap::new(), spares: Vec::new(), now };
        for (id, circuit) in circuits {
            let offer = Offer { id: *id, circuit, streams: load(*id) };
            if circuit.is_spare() {
                offers.spares.push(offer);
            } else if let Some(isolation) = circuit.isolation() {
                offers.own.entry(isolation).or_default().push(offer);
            }
        }
        offers
    }

    /// A circuit of the want's own isolation, the least loaded; else the oldest spare, which from then on is of that isolation.
    pub(super) fn take(&mut self, waiting: &'a Waiting) -> Option<CircuitId> {
        let own = self.own.entry(&waiting.want.isolation).or_default();
        let fitting = own
            .iter_mut()
            .filter(|offer| offer.streams < MAX_STREAMS && offer.circuit.suits(waiting, self.now));
        if let Some(best) = fitting.min_by_key(|offer| (offer.streams, offer.id)) {
            best.streams += 1;
            return Some(best.id);
        }
        let at = self.spares.iter().position(|offer| offer.circuit.suits(waiting, self.now))?;
        let spare = self.spares.remove(at);
        let id = spare.id;
        own.push(Offer { streams: spare.streams + 1, ..spare });
        Some(id)
    }
}
