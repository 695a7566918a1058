//! The rules of `[state]`: what a worker keeps, and for how long an edge tells it again.

use std::time::Duration;

use super::check::wrong;
use super::reader::{Reader, Wrong};
use super::units::parse_duration;

/// Filters that are asked for each topic that is bound; more is a mistake.
const KEEP_MAX: usize = 16;
/// How old a value may be that an edge tells again, unless told otherwise …
const CACHE_AGE: Duration = Duration::from_secs(5);
/// … and at most: what is older is a mistake, not a cache.
const CACHE_AGE_MOST: Duration = Duration::from_secs(60);

/// Topics whose latest event is kept. The bus's own are not: their values are views already.
pub(super) fn kept_topics(reader: &mut Reader) -> Vec<String> {
    let Some(read) = reader.texts("state.keep") else { return vec!["state/#".to_owned()] };
    if read.value.len() > KEEP_MAX {
        let what = format!("{} filters", read.value.len());
        reader.wrong(read.source.clone(), "state.keep", wrong(what, "name at most 16"));
    }
    for text in &read.value {
        if spile_protocol::id::filter(text).is_err() || text.starts_with('$') {
            let remedy = "write one such as state/#, not of the bus's own ($…)";
            let what = format!("{text:?} is no filter of topics that are kept");
            reader.wrong(read.source.clone(), "state.keep", wrong(what, remedy));
        }
    }
    read.value
}

/// spec §9.1.2: zero keeps nothing.
pub(super) fn cache_max_age(reader: &mut Reader) -> Duration {
    reader.scalar("state.cache_max_age", age).map_or(CACHE_AGE, |read| read.value)
}

fn age(text: &str) -> Result<Duration, Wrong> {
    match parse_duration(text) {
        Some(age) if age <= CACHE_AGE_MOST => Ok(age),
        Some(_) => Err(wrong(format!("{text} is above 1m"), "write at most 1m; 0s keeps nothing")),
        None => Err(wrong(format!("{text:?} is no duration"), "write such as 500ms or 5s")),
    }
}
