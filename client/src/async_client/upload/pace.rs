//! How long a chunk may be and how many may be under way on this link, so that an event never waits long behind them.
//! spec §6.4: at most half a second of the link.
//!
//! Measured as bytes that were stored while something was in flight; time is an argument. Invariant: what a source gave
//! too slowly is never taken for what the link carries.

use std::time::Duration;

use spile_protocol::limits;
use spile_protocol::time::Instant;

/// A chunk while nothing is known of the link, and the fewest worth their frame.
const FIRST: u64 = 8 * 1024;
const LEAST: u64 = 1024;
/// How many of those may be under way then.
const FIRST_CHUNKS: u64 = 4;
/// A rate is measured over so long, or until nothing is in flight.
const MEASURED_OVER: Duration = Duration::from_millis(100);

/// What is known of a link.
#[derive(Debug, Default)]
pub(in super::super) struct Pace {
    in_flight: u64,
    since: Instant,
    stored: u64,
    /// Was all sent that might be, since then?
    full: bool,
    /// Bytes a second.
    rate: Option<u64>,
}

impl Pace {
    /// A chunk went out.
    pub(in super::super) fn sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            (self.since, self.stored, self.full) = (now, 0, false);
        }
        self.in_flight += bytes;
    }

    /// Bytes that were in flight are stored.
    pub(in super::super) fn stored(&mut self, now: Instant, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.stored += bytes;
        let took = now.since(self.since);
        if took < MEASURED_OVER && self.in_flight > 0 {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let seen = self.stored.saturating_mul(1_000_000) / micros;
        let known = self.rate.unwrap_or(0);
        self.rate = Some(match self.full {
            true if seen < known => known.midpoint(seen),
            true | false => known.max(seen),
        });
        (self.since, self.stored, self.full) = (now, 0, false);
    }

    /// Bytes that were in flight are not any more, and were not stored.
    pub(in super::super) const fn dropped(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// The connection is gone. The next one's link is mostly the same.
    pub(in super::super) const fn disconnected(&mut self) {
        self.in_flight = 0;
    }

    /// How long a chunk may be.
    fn chunk(&self) -> u64 {
        let longest = u64::try_from(limits::CHUNK_MAX).unwrap_or(u64::MAX);
        self.rate.map_or(FIRST, |rate| (rate / 2).clamp(LEAST, longest))
    }

    /// How long the next chunk of an upload may be that has so much left to send, where the credit leaves so much: nothing
    /// while a second's worth is under way, or while only a crumb of a chunk could go.
    pub(in super::super) fn room(&mut self, credit: usize, left: u64) -> usize {
        let most = self.rate.map_or(FIRST * FIRST_CHUNKS, |rate| rate.max(2 * LEAST));
        let wanted = self.chunk().min(left);
        let credit = u64::try_from(credit).unwrap_or(u64::MAX);
        let waits = credit < wanted / 2 || self.in_flight + wanted > most;
        if credit == 0 || (self.in_flight > 0 && waits) {
            self.full = true;
            return 0;
        }
        usize::try_from(wanted.min(credit)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries so many bytes a second and answers a while later: what is in flight at most, and the longest
    /// chunk.
    fn run(rate: u64, latency_us: u64) -> (u64, u64) {
        go_on(&mut Pace::default(), &mut 0, rate, latency_us)
    }

    fn go_on(pace: &mut Pace, now: &mut u64, rate: u64, latency_us: u64) -> (u64, u64) {
        let (mut most, mut longest, mut free_at) = (0, 0, *now);
        let mut flight = std::collections::VecDeque::new();
        for _ in 0..20_000 {
            let credit = usize::try_from((1 << 20) - pace.in_flight).unwrap();
            let chunk = u64::try_from(pace.room(credit, u64::MAX)).unwrap();
            if chunk > 0 {
                pace.sent(Instant(*now), chunk);
                free_at = free_at.max(*now) + chunk * 1_000_000 / rate;
                flight.push_back((free_at + latency_us, chunk));
                (most, longest) = (most.max(pace.in_flight), longest.max(chunk));
                continue;
            }
            let (at, bytes) = flight.pop_front().unwrap();
            *now = at;
            pace.stored(Instant(*now), bytes);
        }
        while let Some((at, bytes)) = flight.pop_front() {
            *now = at;
            pace.stored(Instant(at), bytes);
        }
        (most, longest)
    }

    #[test]
    fn a_fast_link_gets_the_longest_chunks_and_all_of_the_credit() {
        let (most, longest) = run(500 << 20, 300);
        assert_eq!((most, longest), (1 << 20, 256 << 10));
        assert_eq!(run(100 << 20, 50_000), (1 << 20, 256 << 10), "far away");
    }

    #[test]
    fn on_a_slow_link_little_is_ahead_of_an_event() {
        for rate in [4 << 10, 20 << 10, 100 << 10] {
            let (most, longest) = run(rate, 100_000);
            // What goes before the link is known is four short chunks.
            assert!(most <= (2 * rate).max(FIRST * FIRST_CHUNKS), "{rate}: {most}");
            assert!(longest <= (rate / 2 + rate / 8).max(FIRST), "{rate}: {longest}");
        }
    }

    #[test]
    fn a_link_that_becomes_slow_is_found_out() {
        let (mut pace, mut now) = (Pace::default(), 0);
        go_on(&mut pace, &mut now, 100 << 20, 1_000);
        go_on(&mut pace, &mut now, 20 << 10, 100_000);
        let (most, longest) = go_on(&mut pace, &mut now, 20 << 10, 100_000);
        assert!(most <= 40 << 10 && longest <= 12 << 10, "{most}, {longest}");
    }

    #[test]
    fn no_crumbs_are_sent_but_the_end_of_a_file() {
        let mut pace = Pace::default();
        pace.sent(Instant(0), 1 << 20);
        pace.stored(Instant(10_000), (1 << 20) - 9);
        pace.stored(Instant(200_000), 8);
        assert_eq!(pace.room(1_000, 1 << 20), 0, "more credit comes soon");
        assert_eq!(pace.room(1_000, 700), 700);
        pace.dropped(1);
        assert_eq!(pace.room(1_000, 1 << 20), 1_000, "nothing is under way: no credit comes");
    }

    #[test]
    fn a_slow_source_is_no_slow_link() {
        let mut pace = Pace::default();
        pace.sent(Instant(0), 1 << 20);
        pace.stored(Instant(1_000), 1 << 20);
        let fast = pace.rate;
        for second in 1..10 {
            pace.sent(Instant(second * 1_000_000), 10);
            pace.stored(Instant(second * 1_000_000 + 500), 10);
        }
        assert_eq!(pace.rate, fast);
    }
}
