//! Who visits which site when: rounds in which every client makes one visit, all at nearly the same time, so that visits
//! can hide among each other if anything hides them.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::sites::{self, Object};

/// Clients that are busy at once.
pub const CLIENTS: usize = 12;
/// Clients of a round begin within this time.
const JITTER_MS: u64 = 300;
/// The random stream from which the order comes; visits have small numbers.
const ORDER: u64 = u64::MAX - 1;

/// One visit as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Who visits, from 0.
    pub client: usize,
    /// What, from 0.
    pub site: usize,
    /// How long after the beginning of the round.
    pub after: Duration,
    /// What it fetches.
    pub objects: Vec<Object>,
}

/// Every site `per_site` times, in random order, dealt to the clients round by round. The last round may be smaller.
pub fn rounds(seed: u64, per_site: usize) -> Vec<Vec<Planned>> {
    let sites = sites::sites(seed);
    let mut rng = sites::generator(seed, ORDER);
    let mut order: Vec<usize> = (0..per_site).flat_map(|_| 0..sites.len()).collect();
    order.shuffle(&mut rng);
    let mut planned = order.into_iter().enumerate().map(|(number, site)| Planned {
        client: number % CLIENTS,
        site,
        after: Duration::from_millis(rng.random_range(0..JITTER_MS)),
        objects: sites::visited(&sites[site], seed, number as u64),
    });
    let count = (per_site * sites.len()).div_ceil(CLIENTS);
    (0..count).map(|_| planned.by_ref().take(CLIENTS).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::sites::SITES;

    #[test]
    fn a_seed_makes_the_same_rounds_every_time() {
        assert_eq!(rounds(9, 2), rounds(9, 2));
        assert_ne!(rounds(9, 2), rounds(10, 2));
    }

    #[test]
    fn every_site_is_visited_as_often_as_asked_and_every_client_once_a_round() {
        let rounds = rounds(1, 30);
        assert_eq!(rounds.len(), 38);
        let mut visits = [0; SITES];
        for round in &rounds {
            let clients: Vec<usize> = round.iter().map(|visit| visit.client).collect();
            assert_eq!(clients, (0..round.len()).collect::<Vec<_>>());
            round.iter().for_each(|visit| visits[visit.site] += 1);
        }
        assert_eq!(visits, [30; SITES]);
    }
}
