//! The cache with a time of the test's own: what is kept, what makes it go, and that nothing old is told whatever happens.

use super::*;

const AGE: Duration = Duration::from_secs(5);

fn name(key: &str) -> Name<'_> {
    Name { tenant: "main", key, topic: "state/a" }
}

fn at(ms: u64) -> Instant {
    Instant(0).after(Duration::from_millis(ms))
}

fn told(cache: &Arc<Cache>, ms: u64, place: usize, key: &str, version: u64) {
    let asked = cache.ask(at(ms), place, name(key)).unwrap();
    asked.keep(version, 0, vec![0; 100].into());
}

fn version(cache: &Cache, ms: u64, place: usize, key: &str) -> Option<u64> {
    cache.get(at(ms), place, name(key), 0).map(|kept| kept.version)
}

#[test]
fn what_was_told_is_told_again_until_its_age_is_over() {
    let cache = Cache::new(AGE);
    assert_eq!(version(&cache, 0, 0, "a"), None);
    let asked = cache.ask(at(0), 0, name("a")).unwrap();
    // Its age counts from the question, not from the answer.
    asked.keep(3, 0, Box::from([1]));
    assert_eq!(version(&cache, 4_999, 0, "a"), Some(3));
    assert_eq!(version(&cache, 5_000, 0, "a"), None);
    assert_eq!(cache.get(at(1), 0, Name { tenant: "other", ..name("a") }, 0), None);
    assert_eq!(cache.get(at(1), 0, name("a"), 3), None, "nothing newer");
    assert!(cache.get(at(1), 0, name("a"), 2).is_some());
    assert_eq!((cache.counts.hits.get(), cache.counts.misses.get()), (2, 4));
    assert_eq!(cache.counts.hit_rate(), Some(0.333));
}

#[test]
fn what_ends_is_not_told_past_its_end_nor_past_its_age() {
    let cache = Cache::new(AGE);
    for (key, left_ms) in [("a", 300), ("b", 60_000), ("c", 1), ("d", u64::MAX)] {
        let asked = cache.ask(at(1_000), 0, name(key)).unwrap();
        asked.keep(1, left_ms, Box::from([1]));
    }
    let told = |ms| ["a", "b", "c", "d"].map(|key| version(&cache, ms, 0, key).is_some());
    assert_eq!(told(1_000), [true; 4]);
    assert_eq!(told(1_001), [true, true, false, true]);
    assert_eq!(told(1_299), [true, true, false, true]);
    assert_eq!(told(1_300), [false, true, false, true]);
    assert_eq!(told(5_999), [false, true, false, true]);
    assert_eq!(told(6_000), [false; 4]);
    // What is said of what is left counts from the question that is answered.
    let asked = cache.ask(at(7_000), 0, name("a")).unwrap();
    asked.keep(1, 300, Box::from([1]));
    let left = |ms| cache.get(at(ms), 0, name("a"), 0).unwrap().left_ms(at(ms));
    assert_eq!([7_000, 7_100, 7_299].map(left), [300, 200, 1]);
    let endless = Kept { version: 1, frame: Box::from([]), ends: None };
    assert_eq!(endless.left_ms(at(9)), 0);
}

#[test]
fn a_change_lets_go_of_its_mark_at_its_worker() {
    let cache = Cache::new(AGE);
    for (place, key) in [(0, "a"), (0, "b"), (1, "a")] {
        told(&cache, 0, place, key, 1);
    }
    cache.changed(0, [name("a").mark()]);
    let versions = |ms| [(0, "a"), (0, "b"), (1, "a")].map(|(p, key)| version(&cache, ms, p, key));
    assert_eq!(versions(1), [None, Some(1), Some(1)]);
    assert_eq!((cache.counts.changed.get(), cache.counts.entries()), (1, 2));
    cache.forget(0);
    assert_eq!(versions(1), [None, None, Some(1)]);
    cache.forget(1);
    assert_eq!((cache.counts.entries(), cache.counts.bytes()), (0, 0));
}

#[test]
fn an_answer_to_a_question_older_than_a_change_is_not_kept() {
    let cache = Cache::new(AGE);
    let before = cache.ask(at(0), 0, name("a")).unwrap();
    let other = cache.ask(at(0), 0, name("b")).unwrap();
    cache.changed(0, [name("a").mark()]);
    let after = cache.ask(at(1), 0, name("a")).unwrap();
    before.keep(1, 0, Box::from([1]));
    assert_eq!(version(&cache, 2, 0, "a"), None);
    after.keep(2, 0, Box::from([2]));
    other.keep(7, 0, Box::from([2]));
    assert_eq!((version(&cache, 2, 0, "a"), version(&cache, 2, 0, "b")), (Some(2), Some(7)));
    // What was asked over a link that is gone, too.
    let cut = cache.ask(at(3), 0, name("c")).unwrap();
    cache.forget(0);
    cut.keep(1, 0, Box::from([1]));
    assert_eq!(version(&cache, 4, 0, "c"), None);
}

#[test]
fn of_two_answers_the_newer_stays() {
    let cache = Cache::new(AGE);
    let [first, second] = [0, 1].map(|ms| cache.ask(at(ms), 0, name("a")).unwrap());
    second.keep(5, 0, Box::from([5]));
    first.keep(4, 0, Box::from([4]));
    assert_eq!(version(&cache, 2, 0, "a"), Some(5));
    assert_eq!(cache.counts.entries(), 1);
}

#[test]
fn at_a_cap_the_oldest_goes_and_what_is_too_large_is_not_kept() {
    let cache = Cache::capped(AGE, Caps { entries: 2, ..CAPS });
    for (ms, key) in (0..).zip(["a", "b", "c"]) {
        told(&cache, ms, 0, key, 1);
    }
    assert_eq!(["a", "b", "c"].map(|key| version(&cache, 3, 0, key)), [None, Some(1), Some(1)]);
    assert_eq!(cache.counts.evicted.get(), 1);
    let one = 100 + "main\0a\0state/a".len() + OVERHEAD;
    let cache = Cache::capped(AGE, Caps { bytes: 2 * one, ..CAPS });
    for (ms, key) in (0..).zip(["a", "b", "c"]) {
        told(&cache, ms, 0, key, 1);
    }
    assert_eq!((version(&cache, 3, 0, "a"), cache.counts.bytes()), (None, 2 * one as u64));
    let asked = cache.ask(at(4), 0, name("large")).unwrap();
    asked.keep(1, 0, vec![0; CACHE_VALUE + 1].into());
    assert_eq!(version(&cache, 5, 0, "large"), None);
}

#[test]
fn questions_on_their_way_are_bounded_and_forgotten_when_they_end() {
    let cache = Cache::capped(AGE, Caps { asked: 1, ..CAPS });
    let first = cache.ask(at(0), 0, name("a"));
    assert!(first.is_some() && cache.ask(at(0), 0, name("b")).is_none());
    drop(first);
    assert!(cache.ask(at(0), 0, name("b")).is_some());
}

#[test]
fn one_that_is_off_keeps_and_counts_nothing() {
    let cache = Cache::new(Duration::ZERO);
    assert!(cache.ask(at(0), 0, name("a")).is_none());
    assert_eq!(version(&cache, 0, 0, "a"), None);
    assert_eq!(cache.counts.hit_rate(), None);
}

/// Any order of questions, answers, changes and cuts against what the worker has: nothing is told that was not the value at
/// some time within the age, nor what a change was told of. `SPILE_SEED` replays one run.
#[test]
fn nothing_older_than_the_age_or_a_change_is_told_whatever_happens() {
    let asked_for = std::env::var("SPILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = asked_for.map_or(0..200, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("SPILE_SEED={seed}");
        run(seed);
    }
}

/// One key's life at its worker: when each version began, and up to which the edge was told of changes.
struct Truth {
    began: Vec<u64>,
    told: usize,
    interested: bool,
}

fn run(seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let cache = Cache::capped(AGE, Caps { entries: 3, bytes: 1 << 20, asked: 3 });
    let keys = ["a", "b", "c", "d"];
    let mut truth: Vec<Truth> =
        keys.iter().map(|_| Truth { began: vec![0], told: 1, interested: false }).collect();
    let mut flying: Vec<(usize, u64, Option<Asked>)> = Vec::new();
    let mut now = 0;
    for _ in 0..400 {
        now += next(900);
        let of = usize::try_from(next(4)).unwrap();
        match next(6) {
            0 => {
                // Asked: the worker takes note, and answers with what it has now or has a little later.
                truth[of].interested = true;
                let version = truth[of].began.len() as u64;
                flying.push((of, version, cache.ask(at(now), 0, name(keys[of]))));
            }
            1 if !flying.is_empty() => {
                let at = usize::try_from(next(flying.len() as u64)).unwrap();
                let (_, version, asked) = flying.swap_remove(at);
                if let Some(asked) = asked {
                    asked.keep(version, 0, Box::from([0]));
                }
            }
            2 => truth[of].began.push(now),
            3 => {
                let behind = truth[of].told < truth[of].began.len();
                if behind && truth[of].interested {
                    cache.changed(0, [name(keys[of]).mark()]);
                    truth[of].interested = false;
                }
                truth[of].told = truth[of].began.len();
            }
            4 if next(9) == 0 => {
                cache.forget(0);
                flying.clear();
                truth.iter_mut().for_each(|one| {
                    (one.told, one.interested) = (one.began.len(), false);
                });
            }
            _ => {
                let Some(version) = version(&cache, now, 0, keys[of]) else { continue };
                let Truth { began, told, .. } = &truth[of];
                // What came behind it is not told yet, and it was still the value within the age.
                assert!(usize::try_from(version).unwrap() >= *told, "told of {told}: {version}");
                let ended = began.get(usize::try_from(version).unwrap()).copied();
                assert!(ended.is_none_or(|ended| now < ended + 5_000), "{now} {ended:?}");
            }
        }
    }
}
