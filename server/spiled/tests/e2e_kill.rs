//! kill -9 of the real binary at random moments under load. A parent keeps the ledger of what was acknowledged, and in
//! the end reads everything back: nothing lost, nothing doubled, nothing out of order for a key.
//!
//! All-in-one first, then one worker of two behind an edge, which a client sees as lanes that are closed for a while, then
//! the edge itself.
//!
//! `SPILE_KILLS` says how often (20), `SPILE_SPLIT_KILLS` how often an edge or a worker of three processes (10), `SPILE_SEED`
//! repeats the moments of an earlier run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::split::Split;
use e2e::{Acked, Gone, Raw, Server, acked, all_in_one, bind, catch_up, event, seen, tls};
use rustix::process::Signal;
use rustls::ClientConfig;
use spile_protocol::message::Message;
use tempfile::TempDir;

const PUBLISHERS: u8 = 4;
const LANES: u32 = 3;
/// In flight on each lane.
const WINDOW: u64 = 24;
/// A life's events on each lane, so that many lives do not make a log that takes long to read.
const A_LIFE: u64 = 1_500;

/// One lane, as its publisher knows it.
#[derive(Debug, Default)]
struct Lane {
    acked: u64,
    sent: u64,
    /// The highest number ever sent.
    most: u64,
}

/// Who publishes, over all lives of the server: one run, one key a lane.
#[derive(Debug)]
struct Publisher {
    id: u8,
    lanes: Vec<Lane>,
}

impl Publisher {
    fn new(id: u8) -> Self {
        Self { id, lanes: (0..LANES).map(|_| Lane::default()).collect() }
    }

    fn key(&self, lane: u32) -> String {
        format!("p{}-{lane}", self.id)
    }

    /// Publishes until the server is gone, or enough for one life; never more in flight than the window.
    fn live(&mut self, address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<(), Gone> {
        let mut raw = Raw::hello(address, tls, [self.id; 8]).map_err(|_| Gone)?;
        self.open(&mut raw)?;
        let limits: Vec<u64> = self.lanes.iter().map(|lane| lane.acked + A_LIFE).collect();
        while self.lanes.iter().zip(&limits).any(|(lane, limit)| lane.acked < *limit) {
            self.send(&mut raw, &limits)?;
            match raw.next(acked)? {
                Some(Acked::Through(lane, last)) => self.lane(lane).acked = last,
                // A lane whose worker is away: the client comes back, here with a new session.
                None => return Err(Gone),
                Some(other) => panic!("{other:?}"),
            }
        }
        Ok(())
    }

    fn lane(&mut self, lane: u32) -> &mut Lane {
        self.lanes.get_mut(usize::try_from(lane).unwrap() - 1).unwrap()
    }

    fn open(&mut self, raw: &mut Raw) -> Result<(), Gone> {
        for lane in 1..=LANES {
            let key = self.key(lane);
            let first = self.lane(lane).acked + 1;
            let last = raw.open(lane, Some(&key), first).map_err(|text| {
                let away = text == "closed" || text.contains("retry: true");
                assert!(away, "a lane was refused: {text}");
                Gone
            })?;
            let known = self.lane(lane);
            assert!(
                last >= known.acked,
                "{key}: {} were acknowledged, {last} are known",
                known.acked
            );
            assert!(last <= known.most, "{key}: {} were sent, {last} are known", known.most);
            // All from the first that was not acknowledged is sent again: numbers make that safe.
            known.sent = first - 1;
            // The answer is an acknowledgement too.
            known.acked = last;
            raw.send(&[bind(lane, lane, "ledger/t")]).map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn send(&mut self, raw: &mut Raw, limits: &[u64]) -> Result<(), Gone> {
        let mut payloads = Vec::new();
        for (lane, limit) in (1..=LANES).zip(limits) {
            let known = self.lane(lane);
            while known.sent < (known.acked + WINDOW).min(*limit) {
                known.sent += 1;
                known.most = known.most.max(known.sent);
                payloads.push((lane, known.sent.to_string()));
            }
        }
        let events: Vec<_> =
            payloads.iter().map(|(lane, payload)| event(*lane, payload.as_bytes())).collect();
        raw.send(&events).map_err(|_| Gone)
    }
}

fn kill_under_load(killed: &str) {
    let seed = number("SPILE_SEED", u64::from(std::process::id()) << 20 | 1);
    let kills = number("SPILE_SPLIT_KILLS", 10);
    println!("SPILE_SEED={seed} SPILE_SPLIT_KILLS={kills} of {killed}");
    let (split, mut running) = Split::started();
    let address = running.get("edge-e1").unwrap().edge();
    let config = split.operator();
    let mut publishers: Vec<_> = (1..=PUBLISHERS).map(Publisher::new).collect();
    let mut moments = Moments(seed);
    let role = killed.split('-').next().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for publisher in &mut publishers {
            let (config, over) = (&config, &over);
            // A life that ended well after the last kill has all of its events acknowledged.
            scope.spawn(move || {
                while publisher.live(address, config).is_err() || !over.load(Ordering::Acquire) {}
            });
        }
        for _ in 0..kills {
            std::thread::sleep(Duration::from_micros(moments.next(100_000)));
            running.remove(killed).unwrap().end(Signal::KILL);
            running.insert(killed.to_owned(), split.start(role, killed));
        }
        over.store(true, Ordering::Release);
    });
    let found = read_back(address, &config);
    for publisher in &publishers {
        for (lane, known) in (1..=LANES).zip(&publisher.lanes) {
            let key = publisher.key(lane);
            assert_eq!(found.get(&key), Some(&known.acked), "{key}");
        }
    }
}

#[test]
fn a_worker_that_is_killed_and_comes_back_loses_nothing_and_holds_up_nobody_else() {
    kill_under_load("worker-a");
}

#[test]
fn an_edge_that_is_killed_and_comes_back_loses_nothing() {
    kill_under_load("edge-e1");
}

/// xorshift: the moments of a run, from its seed.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn what_was_acknowledged_survives_kill_9_once_and_in_order() {
    let kills = number("SPILE_KILLS", 20);
    let seed = number("SPILE_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("SPILE_SEED={seed} SPILE_KILLS={kills}");
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let mut moments = Moments(seed);
    let mut publishers: Vec<_> = (1..=PUBLISHERS).map(Publisher::new).collect();
    for _ in 0..kills {
        let server = Server::start(&mut all_in_one(&data), &log);
        let (address, config) = (server.edge(), tls(&data.join("dev"), Some("operator")));
        std::thread::scope(|scope| {
            for publisher in &mut publishers {
                let config = &config;
                scope.spawn(move || publisher.live(address, config));
            }
            std::thread::sleep(Duration::from_micros(moments.next(250_000)));
            server.end(Signal::KILL);
        });
    }
    let acked: u64 =
        publishers.iter().flat_map(|publisher| &publisher.lanes).map(|lane| lane.acked).sum();
    assert!(acked > kills * 100, "only {acked} were acknowledged: the load was none");
    let server = Server::start(&mut all_in_one(&data), &log);
    let found = read_back(server.edge(), &tls(&data.join("dev"), Some("operator")));
    for publisher in &publishers {
        for (lane, known) in (1..=LANES).zip(&publisher.lanes) {
            let key = publisher.key(lane);
            let last = found.get(&key).copied().unwrap_or_default();
            assert!(
                last >= known.acked,
                "{key}: lost, {} were acknowledged, {last} are there",
                known.acked
            );
            assert!(
                last <= known.acked + WINDOW,
                "{key}: {last} are there, {} were acknowledged",
                known.acked
            );
        }
    }
    println!("{acked} acknowledged");
}

/// Reads everything; for each key the payloads must be 1, 2, 3 … at versions 1, 2, 3 …: how far they go.
fn read_back(address: SocketAddr, tls: &Arc<ClientConfig>) -> HashMap<String, u64> {
    let mut raw = Raw::hello(address, tls, [9; 8]).unwrap();
    raw.send(&[catch_up("ledger/#")]).unwrap();
    let mut found = HashMap::<String, u64>::new();
    let (mut key, mut deliveries) = (String::new(), 0);
    loop {
        let more = raw.next(|message| match message {
            Message::Deliver(deliver) => {
                if let Some(named) = deliver.key {
                    named.clone_into(&mut key);
                }
                let last = found.entry(key.clone()).or_default();
                for (at, payload) in (0..).zip(deliver.lengths.split(deliver.payload)) {
                    let payload = std::str::from_utf8(payload).unwrap();
                    assert_eq!(
                        payload,
                        (*last + 1).to_string(),
                        "{key}: doubled, lost or out of order"
                    );
                    assert_eq!(
                        deliver.version.0 + at,
                        *last + 1,
                        "{key}: the version of {payload}"
                    );
                    *last += 1;
                }
                deliveries += 1;
                true
            }
            Message::Credit(_) => true,
            Message::End(_) => false,
            other => panic!("{other:?}"),
        });
        if !more.unwrap() {
            return found;
        }
        if deliveries > 0 && deliveries % 256 == 0 {
            raw.send(&[seen(deliveries)]).unwrap();
        }
    }
}
