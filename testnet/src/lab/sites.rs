//! The synthetic sites, and what a visit to one fetches: all of it from a seed, so that every class of padding meets the
//! very same visits.
//!
//! 1. A site is a page and the objects that it names, each with a size (log-normal), a time after which the page asks for
//!    it, and a time that the server thinks about it.
//! 2. The last [`TWINS`] sites are nearly those at the beginning: same objects, one of them of another size and one more.
//! 3. A visit is a site with the day's noise: sizes, times and thinking differ a little every time.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// How many sites there are.
pub const SITES: usize = 15;
/// How many of them nearly equal another one.
pub const TWINS: usize = 3;
/// Objects of a site, its page included.
const OBJECTS: std::ops::RangeInclusive<usize> = 4..=14;
/// Bytes of an object: the median, the spread of its logarithm, and the bounds.
const MEDIAN_BYTES: f64 = 15_000.0;
const SPREAD: f64 = 0.9;
const BYTES: (f64, f64) = (600.0, 120_000.0);
/// Bytes of a request.
const REQUEST_BYTES: std::ops::Range<u32> = 250..900;
/// How long after the page an object may be asked for.
const LATEST_OFFSET_MS: f64 = 1_500.0;
/// The longest that a server thinks by itself.
const MOST_THINKING_MS: f64 = 60.0;
/// The mean of what is added to thinking at each visit, and to offsets: nobody's browser is as punctual as a server.
const THINKING_NOISE_MS: f64 = 25.0;
const OFFSET_NOISE_MS: f64 = 120.0;
/// The share by which a size differs from visit to visit, at most.
const SIZE_NOISE: f64 = 0.02;

/// Something to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Bytes that ask for it.
    pub request_len: u32,
    /// Bytes that come.
    pub response_len: u32,
    /// How long the server waits before it answers.
    pub think: Duration,
    /// How long after the page has come it is asked for.
    pub offset: Duration,
}

/// A page and what belongs to it, in the order in which it is asked for; the page comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site(pub Vec<Object>);

/// All sites of a seed.
pub fn sites(seed: u64) -> Vec<Site> {
    let mut rng = generator(seed, u64::MAX);
    let mut sites: Vec<Site> = (0..SITES - TWINS).map(|_| site(&mut rng)).collect();
    for twin in 0..TWINS {
        let twin = nearly(&sites[twin], &mut rng);
        sites.push(twin);
    }
    sites
}

/// What visit number `visit` fetches from `site`.
pub fn visited(site: &Site, seed: u64, visit: u64) -> Vec<Object> {
    let mut rng = generator(seed, visit);
    let mut objects: Vec<Object> = site.0.iter().map(|object| today(object, &mut rng)).collect();
    objects[0].offset = Duration::ZERO;
    objects[1..].sort_by_key(|object| object.offset);
    objects
}

/// A generator for one purpose.
pub fn generator(seed: u64, stream: u64) -> ChaCha20Rng {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

fn site(rng: &mut impl Rng) -> Site {
    let count = rng.random_range(OBJECTS);
    let mut objects: Vec<Object> = (0..count).map(|_| object(rng)).collect();
    objects[1..].sort_by_key(|object| object.offset);
    Site(objects)
}

fn object(rng: &mut impl Rng) -> Object {
    let size = (MEDIAN_BYTES.ln() + SPREAD * normal(rng)).exp().clamp(BYTES.0, BYTES.1);
    Object {
        request_len: rng.random_range(REQUEST_BYTES),
        response_len: size as u32,
        think: millis(rng.random_range(0.0..MOST_THINKING_MS)),
        offset: millis(rng.random_range(0.0..LATEST_OFFSET_MS)),
    }
}

fn nearly(site: &Site, rng: &mut impl Rng) -> Site {
    let mut objects = site.0.clone();
    let changed = rng.random_range(1..objects.len());
    objects[changed].response_len = objects[changed].response_len * 3 / 2;
    objects.push(object(rng));
    objects[1..].sort_by_key(|object| object.offset);
    Site(objects)
}

fn today(object: &Object, rng: &mut impl Rng) -> Object {
    let factor = 1.0 + rng.random_range(-SIZE_NOISE..SIZE_NOISE);
    Object {
        request_len: object.request_len,
        response_len: (f64::from(object.response_len) * factor) as u32,
        think: object.think + millis(exponential(THINKING_NOISE_MS, rng)),
        offset: object.offset + millis(exponential(OFFSET_NOISE_MS, rng)),
    }
}

/// A standard normal, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn exponential(mean: f64, rng: &mut impl Rng) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_sites_and_visits_every_time() {
        assert_eq!(sites(1), sites(1));
        assert_ne!(sites(1), sites(2));
        let site = &sites(1)[0];
        assert_eq!(visited(site, 1, 7), visited(site, 1, 7));
        assert_ne!(visited(site, 1, 7), visited(site, 1, 8));
        assert_ne!(visited(site, 1, 7), visited(site, 2, 7));
    }

    #[test]
    fn sites_have_the_promised_shape() {
        let sites = sites(3);
        assert_eq!(sites.len(), SITES);
        for Site(objects) in &sites[..SITES - TWINS] {
            assert!(OBJECTS.contains(&objects.len()));
            let range = BYTES.0 as u32..=BYTES.1 as u32;
            assert!(objects.iter().all(|object| range.contains(&object.response_len)));
        }
    }

    #[test]
    fn twins_differ_a_little() {
        let sites = sites(4);
        for twin in 0..TWINS {
            let (one, other) = (&sites[twin].0, &sites[SITES - TWINS + twin].0);
            assert_eq!(one.len() + 1, other.len());
            let shared = one.iter().filter(|object| other.contains(object)).count();
            assert_eq!(shared + 1, one.len(), "all but one object are the same");
        }
    }

    #[test]
    fn a_visit_asks_for_the_page_first_and_then_in_order() {
        for (number, site) in sites(5).iter().enumerate() {
            let objects = visited(site, 5, number as u64);
            assert_eq!(objects[0].offset, Duration::ZERO);
            assert!(objects[1..].is_sorted_by_key(|object| object.offset));
        }
    }
}
