//! A durable group over two workers, the real binaries, one of them killed again and again under load: nothing is lost, each
//! key comes in order, and what was answered as settled never comes again.
//!
//! `SPILE_SEED` repeats the moments of an earlier run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use e2e::split::Split;
use e2e::{Gone, Raw, acked, bind, event};
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::json;
use spile_protocol::{
    id::{Position, SubscriptionId},
    message::{At, From, List, Message, Outcome, Scope, Settle, Source, Subscribe},
};

const KEYS: u32 = 8;
/// Events of each key.
const EVENTS: u64 = 300;
/// Events of a key on their way.
const WINDOW: u64 = 50;

fn keys() -> impl Iterator<Item = (u32, String)> {
    (1..=KEYS).map(|lane| (lane, format!("g{lane}")))
}

/// Publishes 1, 2, 3 … under each key, in as many sessions as it takes.
fn publish(address: SocketAddr, tls: &Arc<ClientConfig>) {
    let mut done: HashMap<u32, u64> = keys().map(|(lane, _)| (lane, 0)).collect();
    while done.values().any(|done| *done < EVENTS) {
        for (lane, key) in keys() {
            let done = done.get_mut(&lane).unwrap();
            if *done < EVENTS {
                some(address, tls, &key, done).unwrap_or_default();
            }
        }
    }
}

/// The next events of one key, in a session of their own; `None` where its worker is away.
fn some(address: SocketAddr, tls: &Arc<ClientConfig>, key: &str, done: &mut u64) -> Option<()> {
    let mut raw = Raw::hello(address, tls, [7; 8]).ok()?;
    // Whatever the answer says, the first event has the number that was asked for: all from there on is sent again.
    let first = *done + 1;
    *done = raw.open(1, Some(key), first).ok()?.max(*done);
    let until = EVENTS.min(*done + WINDOW);
    let texts: Vec<_> = (first..=until).map(|number| number.to_string()).collect();
    raw.send(&[bind(1, 1, "g/x")]).ok()?;
    for text in &texts {
        raw.send(&[event(1, text.as_bytes())]).ok()?;
    }
    while *done < until {
        *done = raw.next(acked).ok()??.last();
    }
    Some(())
}

/// Who consumes: what came and what of it was answered.
#[derive(Default)]
struct Consumer {
    /// How many events it takes at once.
    events: u32,
    key: String,
    deliveries: u64,
    /// The last event of each key that came.
    last: HashMap<String, u64>,
    /// The last of each key whose settlement was answered.
    settled: HashMap<String, u64>,
    /// What is settled and not answered: the delivery, its key, its last event.
    waits: VecDeque<(u64, String, u64)>,
}

impl Consumer {
    fn is_done(&self) -> bool {
        keys().all(|(_, key)| self.settled.get(&key) == Some(&EVENTS))
    }

    fn consume(&mut self, raw: &mut Raw) -> Result<(), Gone> {
        raw.send(&[subscribe(self.events)]).map_err(|_| Gone)?;
        while !self.is_done() {
            let settles = raw.next(|message| self.hear(message))?;
            match settles {
                Heard::Settle(settle) => {
                    raw.send(&[Message::Settle(settle)]).map_err(|_| Gone)?;
                }
                // It is over, to be tried again.
                Heard::Over => {
                    (self.deliveries, self.waits) = (0, VecDeque::new());
                    raw.send(&[subscribe(self.events)]).map_err(|_| Gone)?;
                }
                Heard::Nothing => {}
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &Message<'_>) -> Heard {
        match message {
            Message::Deliver(deliver) => {
                if let Some(key) = deliver.key {
                    key.clone_into(&mut self.key);
                }
                self.deliveries += 1;
                let settled = self.settled.get(&self.key).copied().unwrap_or_default();
                let last = self.last.entry(self.key.clone()).or_default();
                let mut number = 0;
                for payload in deliver.lengths.split(deliver.payload) {
                    number = std::str::from_utf8(payload).unwrap().parse().unwrap();
                    let key = &self.key;
                    assert!(number > settled, "{key}: {number} came again, {settled} was answered");
                    assert!(number <= *last + 1, "{key}: {number} came behind {last}");
                    *last = (*last).max(number);
                }
                self.waits.push_back((self.deliveries, self.key.clone(), number));
                Heard::Settle(settle(self.deliveries))
            }
            Message::Settle(answer) => {
                let of = |(delivery, ..): &(u64, String, u64)| *delivery == answer.delivery;
                let at = self.waits.iter().position(of).unwrap();
                let (_, key, number) = self.waits.remove(at).unwrap();
                if answer.outcome == Outcome::Done {
                    let settled = self.settled.entry(key).or_default();
                    *settled = (*settled).max(number);
                }
                Heard::Nothing
            }
            Message::Credit(_) => Heard::Nothing,
            Message::Fault(fault) if matches!(fault.scope, Scope::Subscription(_)) => {
                assert!(fault.retry, "{fault:?}");
                Heard::Over
            }
            other => panic!("{other:?}"),
        }
    }
}

enum Heard {
    Settle(Settle<'static>),
    Over,
    Nothing,
}

fn settle(delivery: u64) -> Settle<'static> {
    let (subscription, outcome) = (SubscriptionId(0), Outcome::Done);
    Settle { subscription, delivery, outcome, events: 0, reason: "" }
}

fn subscribe(events: u32) -> Message<'static> {
    Message::Subscribe(Subscribe {
        subscription: SubscriptionId(0),
        source: Source::Group { name: "g", max_events: 8, max_bytes: 1 << 16 },
        events,
        bytes: 1 << 20,
        live: true,
    })
}

/// xorshift: the moments of a run, from its seed.
fn next(moments: &mut u64, below: u64) -> u64 {
    *moments ^= *moments << 13;
    *moments ^= *moments >> 7;
    *moments ^= *moments << 17;
    *moments % below
}

#[test]
fn a_group_loses_nothing_and_keeps_the_order_of_keys_while_a_worker_is_killed() {
    let seed = std::env::var("SPILE_SEED")
        .map_or(u64::from(std::process::id()) << 20 | 1, |text| text.parse().unwrap());
    println!("SPILE_SEED={seed}");
    let (split, mut running) = Split::started();
    let (address, tls) = (running["edge-e1"].edge(), split.operator());
    let mut operator = loop {
        if let Ok(raw) = Raw::hello(address, &tls, [1; 8]) {
            break raw;
        }
    };
    let group = json!({
        "name": "g", "filter": "g/#", "from": "start",
        "max_attempts": 1000, "backoff_min_ms": 1, "backoff_max_ms": 20,
    });
    operator.call("$group", "create", &group).unwrap();
    let mut moments = seed;
    let mut consumer = Consumer { events: 64, ..Consumer::default() };
    std::thread::scope(|scope| {
        let tls = &tls;
        let publishing = scope.spawn(move || publish(address, tls));
        let consuming = scope.spawn(|| {
            let mut raw = Raw::hello(address, tls, [2; 8]).unwrap();
            consumer.consume(&mut raw).unwrap();
        });
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(next(&mut moments, 150)));
            running.remove("worker-b").unwrap().end(Signal::KILL);
            running.insert("worker-b".to_owned(), split.start("worker", "worker-b"));
        }
        publishing.join().unwrap();
        consuming.join().unwrap();
    });
    assert!(consumer.is_done());
    // What is settled is known, summed over both workers.
    let shown = loop {
        // The link may not be up again after the last kill.
        let shown = operator.call("$group", "show", &json!({"name": "g"})).unwrap();
        if shown.get("partial").is_none() {
            break shown;
        }
    };
    assert_eq!((&shown["lag"], &shown["dead"]), (&json!(0), &json!(0)), "{shown}");
    let all = u64::from(KEYS) * EVENTS;
    assert_eq!((&shown["produced"], &shown["settled"]), (&json!(all), &json!(all)), "{shown}");
    assert_eq!(shown["settled_upto"].as_array().unwrap().len(), 2, "{shown}");
    let listed = operator.call("$group", "ls", &json!({})).unwrap();
    assert_eq!(listed["groups"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_consumer_of_one_at_a_time_gets_all_from_both_workers() {
    let (split, running) = Split::started();
    let (address, tls) = (running["edge-e1"].edge(), split.operator());
    let mut operator = loop {
        if let Ok(raw) = Raw::hello(address, &tls, [1; 8]) {
            break raw;
        }
    };
    // Nothing that is handed out waits so long that its time runs out: one attempt is enough.
    let group = json!({"name": "g", "filter": "g/#", "from": "start", "max_attempts": 1});
    operator.call("$group", "create", &group).unwrap();
    publish(address, &tls);
    let mut consumer = Consumer { events: 1, ..Consumer::default() };
    let mut raw = Raw::hello(address, &tls, [2; 8]).unwrap();
    consumer.consume(&mut raw).unwrap();
    let shown = operator.call("$group", "show", &json!({"name": "g"})).unwrap();
    assert_eq!((&shown["lag"], &shown["dead"]), (&json!(0), &json!(0)), "{shown}");
}

#[test]
fn a_place_of_no_worker_is_refused_before_any_worker_is_asked() {
    let (split, running) = Split::started();
    let (address, tls) = (running["edge-e1"].edge(), split.operator());
    let mut operator = loop {
        if let Ok(raw) = Raw::hello(address, &tls, [1; 8]) {
            break raw;
        }
    };
    let group = |from: &str| json!({"name": "g", "filter": "g/#", "from": from});
    let invalid = Err("invalid".to_owned());
    for from in ["foo:1", "a:1,foo:1", "a:1,b:1,a:2"] {
        assert_eq!(operator.call("$group", "create", &group(from)), invalid, "{from}");
    }
    let ls = |operator: &mut Raw| operator.call("$group", "ls", &json!({})).unwrap();
    assert_eq!(ls(&mut operator)["groups"], json!([]));
    operator.call("$group", "create", &group("a:1")).unwrap();
    let show = |operator: &mut Raw| operator.call("$group", "show", &json!({"name": "g"})).unwrap();
    let before = loop {
        let shown = show(&mut operator);
        if shown["partial"] != json!(true) {
            break shown;
        }
    };
    for to in ["foo:1", "b:1,foo:1", "b:1,b:1"] {
        for dry_run in [false, true] {
            let asked = json!({"name": "g", "to": to, "dry_run": dry_run});
            assert_eq!(operator.call("$group", "seek", &asked), invalid, "{to}");
        }
    }
    assert_eq!(show(&mut operator), before);
    let sought = operator.call("$group", "seek", &json!({"name": "g", "to": "b:1,a:1"})).unwrap();
    assert_eq!(sought["epoch"].as_u64(), before["epoch"].as_u64().map(|epoch| epoch + 1));
    let at = |worker, n| At { worker, position: Position(n) };
    for places in [
        &[at("a", 1)][..],
        &[at("a", 1), at("b", 1), at("foo", 1)],
        &[at("a", 1), at("b", 1), at("b", 2)],
    ] {
        let mut room = [0; 64];
        let from = From::Positions(List::encode(places.iter().copied(), &mut room).unwrap());
        let source = Source::Filter { filter: "g/#", key: None, from };
        let (subscription, events, bytes) = (SubscriptionId(0), 1, 1_000);
        let subscribe = Subscribe { subscription, source, events, bytes, live: true };
        operator.send(&[Message::Subscribe(subscribe)]).unwrap();
        assert!(operator.shown().starts_with("fault invalid Subscription"), "{places:?}");
    }
}
