//! A group with more keys that wait than are looked at under one lock goes on, after a restart, with each where it was.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test"
)]

mod support;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use spile_protocol::{
    code::Code,
    message::{Outcome, Source},
};
use spile_worker::{Config, TimeOfDay, Worker, limits::GROUP_STREAMS_AT_ONCE};
use support::{Client, Delivered, Told, config, log};

const LANES: u32 = 200;
const KEYS: usize = GROUP_STREAMS_AT_ONCE + 100;

/// A worker whose clock is set.
fn open_at(folder: &Path, now_ms: u64) -> Arc<Worker> {
    let clock = TimeOfDay::Set(Arc::new(AtomicU64::new(now_ms)));
    Worker::open(Config { clock, ..config() }, Arc::new(log(folder)), None).unwrap()
}

/// Two events of each key.
async fn publish(client: &mut Client) {
    let keys: Vec<_> = (0..KEYS).map(|key| format!("k{key}")).collect();
    for keys in keys.chunks(LANES as usize) {
        let lanes: Vec<_> = (1..=LANES).zip(keys).collect();
        for (lane, key) in &lanes {
            client.lane(*lane, Some(key), 1);
            client.bind(*lane, *lane, "t");
            client.events_at_once(&[(*lane, 1, b"x"), (*lane, 2, b"y")]);
        }
        client.all_acked(&lanes.iter().map(|(lane, _)| (*lane, 2)).collect::<Vec<_>>()).await;
    }
}

struct Member(Client, VecDeque<Delivered>, usize);

impl Member {
    fn join(worker: &Arc<Worker>) -> Self {
        let mut client = Client::new(worker, "m", 7);
        let source = Source::Group { name: "g", max_events: 1, max_bytes: 1 << 20 };
        client.subscribe(1, source, 1000, true);
        Self(client, VecDeque::new(), 0)
    }

    async fn hear(&mut self) {
        for told in self.0.told(1).await {
            match told {
                Told::Event(event) => self.1.push_back(event),
                Told::Settled { outcome, .. } => {
                    assert_ne!(outcome, Outcome::Seen, "it did not count");
                    self.2 += 1;
                }
                Told::Credit { .. } => {}
                other => panic!("a member was told {other:?}"),
            }
        }
    }

    /// The next event, settled as this.
    async fn next(&mut self, outcome: Outcome) -> Delivered {
        while self.1.is_empty() {
            self.hear().await;
        }
        let event = self.1.pop_front().unwrap();
        self.0.settle_as(1, event.delivery, outcome, 0);
        event
    }
}

#[tokio::test]
async fn more_keys_than_are_looked_at_under_one_lock_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open_at(folder.path(), 1_000_000);
        let mut client = Client::new(&worker, "a", 1);
        let group = r#"{"name":"g","filter":"t"}"#;
        assert_eq!(client.reply("$group", "create", group).await.0, Code(0));
        publish(&mut client).await;
        // The first of each key failed, and waits.
        let mut member = Member::join(&worker);
        for _ in 0..KEYS {
            let event = member.next(Outcome::Retry { after_ms: 60_000 }).await;
            assert_eq!((event.version, event.attempt), (1, 1));
        }
        while member.2 < KEYS {
            member.hear().await;
        }
    }
    let worker = open_at(folder.path(), 2_000_000);
    let mut member = Member::join(&worker);
    let mut last = HashMap::new();
    for _ in 0..2 * KEYS {
        let event = member.next(Outcome::Done).await;
        let before = last.insert(event.key.clone(), event.version);
        let want = if before.is_none() { (1, 2) } else { (2, 1) };
        assert_eq!((event.version, event.attempt), want, "{}", event.key);
    }
}
