//! The ledger of the tests that kill: publishers that know what was acknowledged to them, and a reader of what is there.
//!
//! Not here: who is killed, and when. Invariant: a lane's counters are all that is kept of it, however long it publishes.

pub mod reader;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustls::ClientConfig;
use spile_protocol::code::Code;
use spile_protocol::message::Message;

use crate::e2e::split::home;
use crate::e2e::{Acked, Gone, Raw, acked, bind, event};

pub const PUBLISHERS: u8 = 4;
const LANES: u32 = 3;
/// In flight on each lane.
pub const WINDOW: u64 = 24;
/// Whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One lane, as its publisher knows it; who kills looks on.
pub struct Lane {
    pub key: String,
    /// The worker, of two, that has the key.
    pub home: &'static str,
    acked: AtomicU64,
    /// The last number that was written, of this session.
    sent: AtomicU64,
    /// The highest number ever sent.
    most: AtomicU64,
}

impl Lane {
    fn new(id: u8, lane: u32, wanted: &str) -> Self {
        let key = (0..).map(|n| format!("p{id}-{lane}-{n}")).find(|key| home(key) == wanted);
        let key = key.unwrap();
        let (home, [acked, sent, most]) = (home(&key), [0, 0, 0].map(AtomicU64::new));
        Self { key, home, acked, sent, most }
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Events that were written and not acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.sent.load(Relaxed).saturating_sub(self.acked())
    }

    /// The server says the last number it has: an acknowledgement too.
    fn opened(&self, last: u64) {
        let (acked, most, key) = (self.acked(), self.most.load(Relaxed), &self.key);
        assert!(last >= acked, "{key}: {acked} were acknowledged, {last} are known");
        assert!(last <= most, "{key}: {most} were sent, {last} are known");
        // All from the first that was not acknowledged is sent again: numbers make that safe.
        self.sent.store(acked, Relaxed);
        self.acked.store(last, Relaxed);
    }

    fn acknowledged(&self, last: u64) {
        let (acked, sent, key) = (self.acked(), self.sent.load(Relaxed), &self.key);
        assert!(last >= acked, "{key}: {acked} were acknowledged, now only {last}");
        assert!(last <= sent.max(acked), "{key}: {sent} were sent, {last} are acknowledged");
        self.acked.store(last, Relaxed);
    }
}

/// Who publishes, over all lives of the server: one run, one key a lane.
pub struct Publisher {
    id: u8,
    pub lanes: Vec<Lane>,
    /// How many sessions it had.
    pub sessions: AtomicU64,
}

/// What a publisher hears.
enum Heard {
    Through(u32, u64),
    /// A lane's worker is away: the client comes back, here with a new session.
    Away,
    Nothing,
}

impl Publisher {
    /// The first has keys of the one worker only, the second of the other, the rest of both.
    pub fn all() -> Vec<Self> {
        let homes = |id| match id {
            1 => ["worker-a"; 3],
            2 => ["worker-b"; 3],
            _ => ["worker-a", "worker-b", "worker-a"],
        };
        let lanes = |id| (1..=LANES).zip(homes(id)).map(move |(lane, at)| Lane::new(id, lane, at));
        let one = |id| Self { id, lanes: lanes(id).collect(), sessions: AtomicU64::new(0) };
        (1..=PUBLISHERS).map(one).collect()
    }

    /// Publishes in one session until it is cut, or it is over and all is acknowledged; never more in flight than the
    /// window.
    pub fn live(
        &self,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        over: &AtomicBool,
    ) -> Result<(), Gone> {
        let mut raw = Raw::hello(address, tls, [self.id; 8]).map_err(|_| Gone)?;
        self.sessions.fetch_add(1, Relaxed);
        let lived = self.open(&mut raw).and_then(|()| self.publish(&mut raw, over));
        // What was in flight is sent again by the next session.
        self.lanes.iter().for_each(|lane| lane.sent.store(lane.acked(), Relaxed));
        lived
    }

    fn open(&self, raw: &mut Raw) -> Result<(), Gone> {
        for (number, lane) in (1..).zip(&self.lanes) {
            let last = raw.open(number, Some(&lane.key), lane.acked() + 1).map_err(|text| {
                let away = text == "closed" || text.contains("retry: true");
                assert!(away, "a lane was refused: {text}");
                Gone
            })?;
            lane.opened(last);
            raw.send(&[bind(number, number, "ledger/t")]).map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn publish(&self, raw: &mut Raw, over: &AtomicBool) -> Result<(), Gone> {
        loop {
            if !over.load(Relaxed) {
                self.send(raw)?;
            } else if self.lanes.iter().all(|lane| lane.in_flight() == 0) {
                return Ok(());
            }
            match raw.next(heard)? {
                Heard::Through(lane, last) => {
                    let at = usize::try_from(lane).unwrap() - 1;
                    self.lanes.get(at).unwrap().acknowledged(last);
                }
                Heard::Away => return Err(Gone),
                Heard::Nothing => {}
            }
        }
    }

    /// Fills the windows.
    fn send(&self, raw: &mut Raw) -> Result<(), Gone> {
        let mut payloads = Vec::new();
        for (route, lane) in (1..).zip(&self.lanes) {
            let through = lane.acked() + WINDOW;
            lane.most.fetch_max(through, Relaxed);
            let numbers = lane.sent.load(Relaxed) + 1..=through;
            payloads.extend(numbers.map(|number| (route, number.to_string())));
        }
        let events: Vec<_> =
            payloads.iter().map(|(route, payload)| event(*route, payload.as_bytes())).collect();
        raw.send(&events).map_err(|_| Gone)?;
        self.lanes.iter().for_each(|lane| lane.sent.store(lane.acked() + WINDOW, Relaxed));
        Ok(())
    }
}

fn heard(message: &Message<'_>) -> Heard {
    match (acked(message), message) {
        (Some(Acked::Through(lane, last)), _) => Heard::Through(lane, last),
        (_, Message::Fault(fault)) if fault.code == Code::UNAVAILABLE => Heard::Away,
        (None, Message::Credit(_)) => Heard::Nothing,
        (_, other) => panic!("{other:?}"),
    }
}

/// All lanes of a worker; of all, where none is named.
fn lanes<'p>(
    publishers: &'p [Publisher],
    of: Option<&'p str>,
) -> impl Iterator<Item = &'p Lane> + 'p {
    let all = publishers.iter().flat_map(|publisher| &publisher.lanes);
    all.filter(move |lane| of.is_none_or(|home| home == lane.home))
}

/// How much was acknowledged.
pub fn acknowledged(publishers: &[Publisher], of: Option<&str>) -> u64 {
    lanes(publishers, of).map(Lane::acked).sum()
}

/// How much is in flight now.
pub fn in_flight(publishers: &[Publisher], of: Option<&str>) -> u64 {
    lanes(publishers, of).map(Lane::in_flight).sum()
}

/// Waits until events are acknowledged and others are in flight.
pub fn wait_for_load(publishers: &[Publisher], of: Option<&str>) {
    let before = acknowledged(publishers, of);
    until("no load", || acknowledged(publishers, of) > before && in_flight(publishers, of) > 0);
}

/// Looks until it is so.
pub fn until(or: &str, mut so: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test that hangs ends")]
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "{or} after {PATIENCE:?}");
        std::thread::yield_now();
    }
}
