//! The normal publisher beside an attack: numbers its payloads, counts its acks, and in the end finds all of it stored.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ClientConfig;
use spile_protocol::message::Message;

use crate::e2e::{Acked, Raw, acked, bind, catch_up, event, seen};

const RUN: [u8; 8] = *b"beside!!";
const TOPIC: &str = "telemetry/beside";
/// In flight.
const WINDOW: u64 = 4;
/// A publisher that hears no ack for so long was harmed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Beside {
    shared: Arc<Shared>,
    thread: JoinHandle<u64>,
}

#[derive(Default)]
struct Shared {
    acked: Mutex<u64>,
    moved: Condvar,
    stop: AtomicBool,
}

impl Beside {
    /// Publishes under the device's own key until it is told to end.
    pub fn start(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        let shared = Arc::<Shared>::default();
        let mine = Arc::clone(&shared);
        let thread = std::thread::spawn(move || publish(address, &tls, &mine));
        Self { shared, thread }
    }

    /// Waits until this many more events are acknowledged.
    pub fn goes_on(&self, more: u64) {
        let acked = self.shared.acked.lock().unwrap();
        let wanted = *acked + more;
        let waited =
            self.shared.moved.wait_timeout_while(acked, PATIENCE, |acked| *acked < wanted).unwrap();
        assert!(!waited.1.timed_out(), "the publisher beside stands at {} of {wanted}", *waited.0);
    }

    /// Ends it: what was acknowledged is there, once and in order, and nothing else.
    pub fn end(self, address: SocketAddr, operator: &Arc<ClientConfig>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let acked = self.thread.join().unwrap();
        assert_eq!(read_back(address, operator), acked, "events of the publisher beside");
    }
}

fn publish(address: SocketAddr, tls: &Arc<ClientConfig>, shared: &Shared) -> u64 {
    let mut raw = Raw::hello(address, tls, RUN).unwrap();
    assert_eq!(raw.open(0, None, 1), Ok(0));
    raw.send(&[bind(0, 0, TOPIC)]).unwrap();
    let (mut sent, mut done) = (0, 0);
    loop {
        while sent < done + WINDOW && !shared.stop.load(Ordering::Relaxed) {
            sent += 1;
            raw.send(&[event(0, sent.to_string().as_bytes())]).unwrap();
        }
        if done == sent {
            return done;
        }
        match raw.next(acked).unwrap() {
            Some(Acked::Step(step)) => done += step,
            other => panic!("{other:?}"),
        }
        assert!(done <= sent, "{done} acknowledged of {sent}");
        *shared.acked.lock().unwrap() = done;
        shared.moved.notify_all();
    }
}

/// How many payloads are stored, which must be 1, 2, 3 … at versions 1, 2, 3 ….
fn read_back(address: SocketAddr, tls: &Arc<ClientConfig>) -> u64 {
    let mut raw = Raw::hello(address, tls, *b"readback").unwrap();
    raw.send(&[catch_up(TOPIC)]).unwrap();
    let (mut last, mut deliveries) = (0, 0);
    loop {
        let more = raw.next(|message| match message {
            Message::Deliver(deliver) => {
                for (at, payload) in (0..).zip(deliver.lengths.split(deliver.payload)) {
                    last += 1;
                    assert_eq!(String::from_utf8_lossy(payload), last.to_string());
                    assert_eq!(deliver.version.0 + at, last);
                }
                deliveries += 1;
                true
            }
            Message::Credit(_) => true,
            Message::End(_) => false,
            other => panic!("{other:?}"),
        });
        if !more.unwrap() {
            return last;
        }
        if deliveries > 0 && deliveries % 256 == 0 {
            raw.send(&[seen(deliveries)]).unwrap();
        }
    }
}
