//! Durable groups on one worker: created, consumed, settled, retried, dead, sent elsewhere, and found again after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test"
)]

mod support;

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Value, json};
use spile_protocol::{code::Code, message::Outcome};
use spile_worker::Worker;
use support::{Client, Delivered, Told, open};

use spile_protocol::message::Source;

const RETRY: Outcome = Outcome::Retry { after_ms: 0 };

async fn publish(worker: &Arc<Worker>, key: &str, count: u64) {
    let mut client = Client::new(worker, key, 1);
    client.ready_to_publish(1);
    for number in 1..=count {
        client.event(0, number, format!("{key} {number}").as_bytes());
    }
    client.acked(0, count).await;
}

async fn ask(worker: &Arc<Worker>, service: &str, method: &str, request: Value) -> (Code, Value) {
    Client::new(worker, "operator", 9).reply(service, method, &request.to_string()).await
}

async fn create(worker: &Arc<Worker>, more: Value) {
    let mut request = json!({ "name": "g", "filter": "t/#", "from": "start", "backoff_min_ms": 0, "backoff_max_ms": 0 });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (code, shown) = ask(worker, "$group", "create", request).await;
    assert_eq!(code, Code(0), "{shown}");
    assert_eq!(shown["name"], "g");
}

async fn show(worker: &Arc<Worker>) -> Value {
    let (code, shown) = ask(worker, "$group", "show", json!({ "name": "g" })).await;
    assert_eq!(code, Code(0), "{shown}");
    let count = |field: &str| shown[field].as_u64().unwrap();
    let sum =
        count("settled") + count("dropped") + count("dead") + count("waiting") + count("in_flight");
    assert_eq!(sum, count("produced"), "{shown}");
    shown
}

fn counts<const N: usize>(shown: &Value, fields: [&str; N]) -> [u64; N] {
    fields.map(|field| shown[field].as_u64().unwrap())
}

/// A member, and what it was told.
struct Member {
    client: Client,
    events: VecDeque<Delivered>,
    outcomes: VecDeque<(u64, Outcome)>,
}

impl Member {
    fn join(worker: &Arc<Worker>, who: &str, events: u32, max_events: u32) -> Self {
        let mut client = Client::new(worker, who, 7);
        let source = Source::Group { name: "g", max_events, max_bytes: 1 << 20 };
        client.subscribe(1, source, events, true);
        Self { client, events: VecDeque::new(), outcomes: VecDeque::new() }
    }

    fn take(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Event(event) => self.events.push_back(event),
                Told::Settled { delivery, outcome, .. } => {
                    self.outcomes.push_back((delivery, outcome));
                }
                Told::Credit { .. } => {}
                other => panic!("a member was told {other:?}"),
            }
        }
    }

    async fn next(&mut self) -> Delivered {
        while self.events.is_empty() {
            let told = self.client.told(1).await;
            self.take(told);
        }
        self.events.pop_front().unwrap()
    }

    fn says(&mut self, event: &Delivered, outcome: Outcome, events: u32) {
        self.client.settle_as(1, event.delivery, outcome, events);
    }

    async fn answer(&mut self) -> (u64, Outcome) {
        while self.outcomes.is_empty() {
            let told = self.client.told(1).await;
            self.take(told);
        }
        self.outcomes.pop_front().unwrap()
    }

    async fn settles(&mut self, event: &Delivered, outcome: Outcome) {
        self.says(event, outcome, 0);
        assert_eq!(self.answer().await, (event.delivery, outcome));
    }

    /// What there is to be told now.
    fn idle(&mut self) -> bool {
        let (told, _) = self.client.poll();
        self.take(told);
        self.events.is_empty()
    }
}

fn of(event: &Delivered) -> (&str, u64, u32) {
    (&event.key, event.version, event.attempt)
}

#[tokio::test]
async fn what_is_done_does_not_come_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let worker = open(folder.path());
        create(&worker, json!({ "filter": "t" })).await;
        publish(&worker, "a", 3).await;
        publish(&worker, "b", 2).await;
        let mut member = Member::join(&worker, "m", 10, 1);
        let (first, other) = (member.next().await, member.next().await);
        assert_eq!((of(&first), of(&other)), (("a", 1, 1), ("b", 1, 1)));
        member.settles(&first, Outcome::Done).await;
        assert_eq!(of(&member.next().await), ("a", 2, 1));
        let shown = show(&worker).await;
        assert_eq!(counts(&shown, ["produced", "settled", "in_flight"]), [5, 1, 2]);
    }
    let worker = open(folder.path());
    let mut member = Member::join(&worker, "m", 10, 1);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = member.next().await;
        member.settles(&event, Outcome::Done).await;
        seen.push((event.key, event.version));
    }
    seen.sort();
    assert_eq!(seen, [("a".into(), 2), ("a".into(), 3), ("b".into(), 1), ("b".into(), 2)]);
    assert_eq!(counts(&show(&worker).await, ["settled", "lag", "in_flight"]), [5, 0, 0]);
}

#[tokio::test]
async fn a_failing_event_holds_back_its_own_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    create(&worker, json!({ "filter": "t", "max_attempts": 3 })).await;
    publish(&worker, "a", 2).await;
    let mut member = Member::join(&worker, "m", 10, 1);
    for attempt in 1..=3 {
        let event = member.next().await;
        assert_eq!(of(&event), ("a", 1, attempt));
        if attempt == 2 {
            publish(&worker, "b", 1).await;
            let other = member.next().await;
            assert_eq!(of(&other), ("b", 1, 1));
            member.settles(&other, Outcome::Done).await;
        }
        member.settles(&event, RETRY).await;
    }
    let behind = member.next().await;
    assert_eq!(of(&behind), ("a", 2, 1));
    member.settles(&behind, Outcome::Reject).await;
    let (code, page) = ask(&worker, "$dlq", "ls", json!({ "group": "g" })).await;
    assert_eq!(code, Code(0), "{page}");
    let letters: Vec<_> = page["letters"].as_array().unwrap().iter().collect();
    let attempts: Vec<_> = letters.iter().map(|it| it["attempts"].as_u64().unwrap()).collect();
    assert_eq!(
        (attempts, &letters[0]["key"], &letters[0]["topic"]),
        (vec![3, 1], &json!("a"), &json!("t"))
    );
    assert_eq!(counts(&show(&worker).await, ["produced", "settled", "dead"]), [3, 1, 2]);
    // A dead letter goes out again, and is done.
    let position = letters[0]["position"].clone();
    let request = json!({ "group": "g", "positions": [position] });
    let (code, replayed) = ask(&worker, "$dlq", "replay", request).await;
    assert_eq!((code, &replayed["replayed"]), (Code(0), &json!(1)), "{replayed}");
    let again = member.next().await;
    assert_eq!(of(&again), ("a", 1, 4));
    member.settles(&again, Outcome::Done).await;
    let (_, dropped) = ask(&worker, "$dlq", "drop", json!({ "group": "g", "all": true })).await;
    assert_eq!(dropped["dropped"], 1);
    assert_eq!(counts(&show(&worker).await, ["settled", "dropped", "dead", "lag"]), [2, 1, 0, 0]);
    assert!(member.idle());
}
