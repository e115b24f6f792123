//! What a stranger can tell from the time of answers, on a clock that only moves when everybody waits.

use super::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::net::IpAddr;
use tunic_proto::resolve::Record;

const MS: Duration = Duration::from_millis(1);

/// A name server that is far away, remembers what it was asked for, and then answers quickly.
struct Far {
    asked: Mutex<HashMap<Query, u32>>,
    rng: Mutex<ChaCha20Rng>,
    ttl: Duration,
    reason: Option<EndReason>,
}

impl Far {
    fn new(ttl: Duration) -> Self {
        let rng = Mutex::new(ChaCha20Rng::seed_from_u64(6));
        Far { asked: Mutex::default(), rng, ttl, reason: None }
    }
}

impl Upstream for Far {
    async fn ask(&self, query: Query) -> Reply {
        let first = {
            let mut asked = self.asked.lock().unwrap();
            let times = asked.entry(query).or_default();
            *times += 1;
            *times == 1
        };
        let jitter = self.rng.lock().unwrap().next_u64() % 60;
        tokio::time::sleep(if first { (40 + jitter as u32) * MS } else { (1 + jitter as u32 % 3) * MS })
            .await;
        let address = Record::Addr(IpAddr::from([93, 184, 215, 14]));
        let outcome = self.reason.map_or_else(|| Ok(vec![address].into()), Err);
        Reply { outcome, ttl: self.ttl, bogus: false }
    }
}

fn resolver(upstream: Far) -> Resolver<Far> {
    Resolver::new(upstream, Arc::default())
}

fn name(number: usize) -> Query {
    Query::Name(format!("{number}.example."))
}

async fn time(resolver: &Resolver<Far>, query: Query) -> Duration {
    let begun = now();
    let _ = resolver.look_up(query).await;
    begun.elapsed()
}

fn times_asked(resolver: &Resolver<Far>, query: &Query) -> u32 {
    resolver.0.upstream.asked.lock().unwrap().get(query).copied().unwrap_or(0)
}

/// How often the best rule "faster than so much: somebody asked before" is right, of names of which half were asked for.
fn best_guess(before: &[Duration], never: &[Duration]) -> f64 {
    let thresholds = before.iter().chain(never);
    let right = |limit: &Duration| {
        let hits = before.iter().filter(|time| *time < limit).count();
        hits + never.iter().filter(|time| *time >= limit).count()
    };
    let best = thresholds.map(right).max().unwrap_or(0);
    best as f64 / (before.len() + never.len()) as f64
}

async fn guessing(ttl: Duration, wait: Duration) -> f64 {
    const NAMES: usize = 400;
    let resolver = resolver(Far::new(ttl));
    for number in (0..NAMES).step_by(2) {
        time(&resolver, name(number)).await;
    }
    tokio::time::sleep(wait).await;
    let (mut before, mut never) = (Vec::new(), Vec::new());
    for number in 0..NAMES {
        let list = if number % 2 == 0 { &mut before } else { &mut never };
        list.push(time(&resolver, name(number)).await);
    }
    best_guess(&before, &never)
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_answer_does_not_tell_whether_somebody_asked_before() {
    // With 400 names, guessing blindly is right for up to 57 % (best of all thresholds, 5 % level).
    let soon = guessing(Duration::from_secs(600), Duration::from_secs(1)).await;
    assert!(soon < 0.58, "{soon}");
    // The name server remembers for a day; our own memory of the answer has ended.
    let later = guessing(Duration::from_secs(86_400), Duration::from_secs(7_200)).await;
    assert!(later < 0.58, "{later}");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_answers_at_once_would_be_found_out() {
    // What the test above measures: the name server itself, whose memory shows.
    let far = Far::new(Duration::from_secs(600));
    let (mut before, mut never) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let begun = now();
        far.ask(name(number)).await;
        never.push(begun.elapsed());
        let begun = now();
        far.ask(name(number)).await;
        before.push(begun.elapsed());
    }
    assert!(best_guess(&before, &never) > 0.99);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_same_meanwhile_waits_as_long() {
    let resolver = resolver(Far::new(Duration::from_secs(600)));
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { time(&resolver, name(1)).await }
    });
    tokio::time::sleep(20 * MS).await;
    let second = time(&resolver, name(1)).await;
    assert_eq!((second, times_asked(&resolver, &name(1))), (first.await.unwrap(), 1));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_remembered_like_one_that_does() {
    let upstream = Far { reason: Some(EndReason::NameNotFound), ..Far::new(Duration::from_secs(600)) };
    let resolver = resolver(upstream);
    let first = time(&resolver, name(1)).await;
    assert_eq!((time(&resolver, name(1)).await, times_asked(&resolver, &name(1))), (first, 1));
    assert_eq!(resolver.look_up(name(1)).await, Err(EndReason::NameNotFound));
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_remembered() {
    let upstream = Far { reason: Some(EndReason::Timeout), ..Far::new(Duration::from_secs(600)) };
    let resolver = resolver(upstream);
    time(&resolver, name(1)).await;
    time(&resolver, name(1)).await;
    assert_eq!(times_asked(&resolver, &name(1)), 2);
    assert_eq!(resolver.0.counters.failed.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_lives_five_minutes_to_an_hour_whatever_its_name_server_says() {
    for (ttl, asked_again_within) in [(0, 2), (60, 2), (1_000_000, 1)] {
        let resolver = resolver(Far::new(Duration::from_secs(ttl)));
        time(&resolver, name(1)).await;
        tokio::time::sleep(Duration::from_secs(299)).await;
        time(&resolver, name(1)).await;
        assert_eq!(times_asked(&resolver, &name(1)), 1, "{ttl}");
        tokio::time::sleep(Duration::from_secs(130)).await;
        time(&resolver, name(1)).await;
        assert_eq!(times_asked(&resolver, &name(1)), asked_again_within, "{ttl}");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        time(&resolver, name(1)).await;
        assert_eq!(times_asked(&resolver, &name(1)), asked_again_within + 1, "{ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_one_who_left_is_remembered() {
    let resolver = resolver(Far::new(Duration::from_secs(600)));
    let left = timeout(MS, resolver.look_up(name(1))).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(resolver.look_up(name(1)).await.is_ok());
    assert_eq!(times_asked(&resolver, &name(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_that_wait_are_bounded() {
    let resolver = resolver(Far::new(Duration::from_secs(600)));
    let asking: Vec<_> = (0..=MAX_RUNNING)
        .map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.look_up(name(number)).await })
        })
        .collect();
    let mut refused = 0;
    for asking in asking {
        refused += usize::from(asking.await.unwrap() == Err(EndReason::Resources));
    }
    assert_eq!(refused, 1);
}
