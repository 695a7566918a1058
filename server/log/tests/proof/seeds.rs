//! Random lives by seed, and the mistakes that must be found by them.

use spile_log::planted::Mistake;

use crate::run::life;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_was_promised_survives_every_seed() {
    if let Some(seed) = number("SPILE_LOG_SEED") {
        life(seed, None).unwrap_or_else(|text| panic!("seed {seed}: {text}"));
        return;
    }
    for seed in 0..number("SPILE_LOG_SEEDS").unwrap_or(300) {
        life(seed, None).unwrap_or_else(|text| panic!("SPILE_LOG_SEED={seed}: {text}"));
    }
}

/// Each mistake is found within 1,000 seeds.
#[test]
fn planted_mistakes_are_found() {
    let all = [
        Mistake::AckBeforeSync,
        Mistake::NoFolderSync,
        Mistake::RetryFailedSync,
        Mistake::CutAtAnyBadCrc,
        Mistake::ScanForRecords,
        Mistake::IgnoreShortWrite,
        Mistake::TrustTheTail,
    ];
    for mistake in all {
        let found =
            (0..1000).find_map(|seed| life(seed, Some(mistake)).err().map(|text| (seed, text)));
        let (seed, text) =
            found.unwrap_or_else(|| panic!("{mistake:?} is not found within 1,000 seeds"));
        println!("{mistake:?}: seed {seed}: {text}");
    }
}
