//! kill -9 of the real binary at random moments under load. A parent keeps the ledger of what was acknowledged, and in
//! the end reads everything back: nothing lost, nothing doubled, nothing out of order for a key.
//!
//! All-in-one first, then one worker of two behind an edge, which a client sees as lanes that are closed for a while and
//! as a subscription of which a part waits, then the edge itself.
//!
//! `SPILE_KILLS` says how often (20), `SPILE_SPLIT_KILLS` how often an edge or a worker of three processes (20), `SPILE_SEED`
//! repeats the moments of an earlier run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;
mod kill;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use e2e::split::{Running, Split, home};
use e2e::{Raw, Server, acked, all_in_one, bind, event, tls};
use kill::reader::{Found, Reader};
use kill::{Publisher, WINDOW, acknowledged, in_flight, until, wait_for_load};
use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

/// xorshift: the moments of a run, from its seed.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below_us: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % below_us)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// How often one is killed, and what was under way then.
struct Kills {
    of: &'static str,
    wanted: u64,
    moments: Moments,
    under_load: u64,
}

impl Kills {
    fn new(of: &'static str, variable: &str) -> Self {
        let wanted = number(variable, 20);
        let seed = number("SPILE_SEED", u64::from(std::process::id()) << 20 | 1);
        println!("SPILE_SEED={seed} {variable}={wanted} of {of}");
        Self { of, wanted, moments: Moments(seed), under_load: 0 }
    }

    /// Lets the load go on for a random time from when it is there, and kills.
    fn kill(&mut self, server: Server, publishers: &[Publisher], at: Option<&str>, below_us: u64) {
        wait_for_load(publishers, at);
        std::thread::sleep(self.moments.next(below_us));
        self.under_load += u64::from(in_flight(publishers, at) > 0);
        server.end(Signal::KILL);
    }

    /// Says what was done; a kill of a server that does nothing proves nothing.
    fn over(self, publishers: &[Publisher]) {
        let Self { of, wanted, under_load, .. } = self;
        let acked = acknowledged(publishers, None);
        println!(
            "result: {wanted} kills of {of}, {under_load} of them with events in flight; {acked} acknowledged: 0 lost, \
             0 doubled, 0 out of order"
        );
        assert!(under_load * 10 >= wanted * 9, "only {under_load} of {wanted} came under load");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_once_and_in_order() {
    let folder = TempDir::new().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let (publishers, never) = (Publisher::all(), AtomicBool::new(false));
    let mut kills = Kills::new("all-in-one", "SPILE_KILLS");
    for _ in 0..kills.wanted {
        let server = Server::start(&mut all_in_one(&data), &log);
        let (address, config) = (server.edge(), tls(&data.join("dev"), Some("operator")));
        std::thread::scope(|scope| {
            for publisher in &publishers {
                let (config, never) = (&config, &never);
                scope.spawn(move || publisher.live(address, config, never));
            }
            kills.kill(server, &publishers, None, 250_000);
        });
    }
    let server = Server::start(&mut all_in_one(&data), &log);
    let found = Reader::read_back(server.edge(), &tls(&data.join("dev"), Some("operator")));
    for lane in publishers.iter().flat_map(|publisher| &publisher.lanes) {
        let (key, acked) = (&lane.key, lane.acked());
        let last = found.get(key).copied().unwrap_or_default();
        assert!(last >= acked, "{key}: lost, {acked} were acknowledged, {last} are there");
        assert!(last <= acked + WINDOW, "{key}: {last} are there, {acked} were acknowledged");
    }
    kills.over(&publishers);
}

/// Ends the load, however its test ends.
struct Ends<'a>([&'a AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|end| end.store(true, Relaxed));
    }
}

/// An edge and two workers under load, one of which is killed again and again.
struct Deployment {
    split: Split,
    running: Running,
    publishers: Vec<Publisher>,
    kills: Kills,
}

impl Deployment {
    fn new(killed: &'static str) -> Self {
        let (split, running) = Split::started();
        let kills = Kills::new(killed, "SPILE_SPLIT_KILLS");
        Self { split, running, publishers: Publisher::all(), kills }
    }

    fn edge(&self) -> (SocketAddr, Arc<ClientConfig>) {
        (self.running.get("edge-e1").unwrap().edge(), self.split.operator())
    }

    /// Publishes all the time, kills, looks at what goes on `meanwhile`, and starts it again; in the end all that was
    /// sent is acknowledged.
    fn run(&mut self, at: Option<&str>, meanwhile: impl Fn(&[Publisher])) {
        let ((address, config), over) = (self.edge(), AtomicBool::new(false));
        let given_up = AtomicBool::new(false);
        let Self { split, running, publishers, kills } = self;
        let publishers: &[Publisher] = publishers;
        std::thread::scope(|scope| {
            let _ends = Ends([&over, &given_up]);
            let (config, over, given_up) = (&config, &over, &given_up);
            let again = move |publisher: &Publisher| {
                publisher.live(address, config, over).is_err() && !given_up.load(Relaxed)
            };
            let alive: Vec<_> = (publishers.iter())
                .map(|publisher| scope.spawn(move || while again(publisher) {}))
                .collect();
            let role = kills.of.split('-').next().unwrap();
            for _ in 0..kills.wanted {
                let server = running.remove(kills.of).unwrap();
                kills.kill(server, publishers, at, 100_000);
                meanwhile(publishers);
                running.insert(kills.of.to_owned(), split.start(role, kills.of));
            }
            over.store(true, Relaxed);
            until("not all is acknowledged", || alive.iter().all(|thread| thread.is_finished()));
        });
    }

    /// What is there is what was acknowledged.
    fn is(&self, found: &Found, who: &str) {
        for lane in self.publishers.iter().flat_map(|publisher| &publisher.lanes) {
            assert_eq!(found.get(&lane.key), Some(&lane.acked()), "{} {who}", lane.key);
        }
    }

    fn read_back(&self) {
        let (address, config) = self.edge();
        self.is(&Reader::read_back(address, &config), "read back");
    }
}

/// One event of each of these keys.
fn publish_one(address: SocketAddr, tls: &Arc<ClientConfig>, keys: &[String]) {
    let mut raw = Raw::hello(address, tls, [0xee; 8]).unwrap();
    for (lane, key) in (1..).zip(keys) {
        assert_eq!(raw.open(lane, Some(key), 1), Ok(0));
        raw.send(&[bind(lane, lane, "ledger/end"), event(lane, b"1")]).unwrap();
        assert!(raw.next(|message| acked(message).is_some()).unwrap());
    }
}

/// A subscription from the start that stays open beside the load hears all of both workers, once and in order, and goes
/// on where it was whenever the killed one is back.
#[test]
fn a_worker_that_is_killed_and_comes_back_loses_nothing_and_holds_up_nobody_else() {
    let mut deployment = Deployment::new("worker-a");
    let (address, config) = deployment.edge();
    let reader = Reader::live(address, &config);
    let ends = ["worker-a", "worker-b"]
        .map(|node| (0..).map(|n| format!("end-{n}")).find(|key| home(key) == node).unwrap());
    let heard = std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.through(&ends));
        deployment.run(Some("worker-a"), |publishers| wait_for_load(publishers, Some("worker-b")));
        // A worker's last event: what it delivered twice would come before it.
        publish_one(address, &config, &ends);
        reading.join().unwrap()
    });
    deployment.is(&heard, "heard");
    deployment.read_back();
    let other = deployment.publishers.get(1).unwrap();
    assert_eq!(other.sessions.load(Relaxed), 1, "who has keys of the other worker only was cut");
    deployment.kills.over(&deployment.publishers);
}

#[test]
fn an_edge_that_is_killed_and_comes_back_loses_nothing() {
    let mut deployment = Deployment::new("edge-e1");
    deployment.run(None, |_| {});
    deployment.read_back();
    deployment.kills.over(&deployment.publishers);
}
