//! Dead letters that are made, replayed and made again: what members know of every version of every key, and what must
//! never be, whenever the server is killed.
//!
//! Members live as long as one life of their server. So of two deliveries of one life it is known which came first, and
//! what a life left open is known to come again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use serde_json::json;
use spile_client::{Client, Consume, Event, GroupDelivery, Settled};
use tokio::task::JoinSet;

use crate::{Dice, ask};

const KEYS: u64 = 6;
/// Events of each key that are published in each life.
const EACH: u64 = 6;
/// Every so many is dead again, however often it is replayed, until the last life: so that letters never run out.
const POISON: u64 = 4;

/// How many events there are at the end of a life.
pub(crate) fn published(life: u64) -> u64 {
    KEYS * EACH * (life + 1)
}

/// What became of a version, as far as its members know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Dead,
    /// It comes again before whatever is behind it.
    Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    Asked(Outcome),
    Answered(Outcome),
}

#[derive(Default)]
struct Key {
    versions: BTreeMap<u64, State>,
    /// Those that were asked to die at least once.
    letters: BTreeSet<u64>,
}

/// What the members know together.
#[derive(Default)]
pub(crate) struct Replayed {
    keys: HashMap<String, Key>,
    /// Letters that came again in this life.
    pub(crate) again: u64,
    /// The last life has begun, in which nothing fails any more.
    mended: bool,
}

impl Replayed {
    /// A life of the server begins. What was out and not asked about comes again, as if it had never come.
    pub(crate) fn begin(&mut self, last: bool) {
        (self.mended, self.again) = (last, 0);
        for key in self.keys.values_mut() {
            key.versions.retain(|_, state| *state != State::Out);
        }
    }

    fn key(&mut self, key: &str) -> &mut Key {
        self.keys.entry(key.to_owned()).or_default()
    }

    /// A member has got it: nothing else of its key is out, nothing before it is open, and none of it was done.
    fn delivered(&mut self, delivery: &GroupDelivery) {
        let (name, first) = (delivery.key.to_string(), delivery.version.0);
        self.again += u64::from(self.key(&name).letters.contains(&first));
        let key = self.key(&name);
        let beside = key.versions.iter().find(|(_, state)| **state == State::Out);
        assert_eq!(beside, None, "{name} {first} comes beside it");
        let last =
            key.versions.last_key_value().map_or((0, State::Out), |(at, state)| (*at, *state));
        if first > last.0 {
            assert_eq!(first, last.0 + 1, "{name} {first} comes behind {last:?}");
            // What was a letter holds back nothing any more, also where its replay is to be tried again (admin §7.1).
            let open = !key.letters.contains(&last.0)
                && matches!(last.1, State::Asked(Outcome::Retry) | State::Answered(Outcome::Retry));
            assert!(!open, "{name} {first} comes before {last:?} came again");
        }
        for (version, event) in (first..).zip(delivery.events()) {
            assert_eq!(event.payload, version.to_string().as_bytes(), "{name} {version}");
            let before = key.versions.insert(version, State::Out);
            let done = before == Some(State::Answered(Outcome::Done));
            assert!(!done, "{name} {version} comes again and was done");
        }
    }

    /// How a member settles the first of what it has.
    fn decide(&mut self, key: &str, version: u64, dice: &mut Dice) -> Outcome {
        let mended = self.mended;
        let key = self.key(key);
        let outcome = match dice.below(10) {
            _ if mended => Outcome::Done,
            0 => Outcome::Retry,
            _ if version % POISON == 1 => Outcome::Dead,
            1..4 => Outcome::Dead,
            _ => Outcome::Done,
        };
        if outcome == Outcome::Dead {
            key.letters.insert(version);
        }
        key.versions.insert(version, State::Asked(outcome));
        if outcome == Outcome::Retry {
            // A retry is all of the delivery that is left.
            key.versions.retain(|_, state| *state != State::Out);
        }
        outcome
    }

    fn answered(&mut self, key: &str, version: u64, outcome: Outcome) {
        // The next of its key may have come before this line, and be this version again.
        let state = self.key(key).versions.get_mut(&version);
        if let Some(state) = state.filter(|state| **state == State::Asked(outcome)) {
            *state = State::Answered(outcome);
        }
    }

    /// Letters that were replayed, are with a member, and not settled.
    pub(crate) fn letters_out(&self) -> usize {
        let out = |key: &Key| {
            let out = |version: &&u64| key.versions.get(*version) == Some(&State::Out);
            key.letters.iter().filter(out).count()
        };
        self.keys.values().map(out).sum()
    }

    pub(crate) fn failed(&self) -> usize {
        self.keys.values().map(|key| key.letters.len()).sum()
    }

    /// Every event of all lives up to this one was done as far as its member knows.
    pub(crate) fn all_done(&self, life: u64) -> bool {
        let done = |state: &&State| {
            matches!(state, State::Asked(Outcome::Done) | State::Answered(Outcome::Done))
        };
        let done: usize =
            self.keys.values().map(|key| key.versions.values().filter(done).count()).sum();
        u64::try_from(done).unwrap() == published(life)
    }
}

pub(crate) async fn publish(client: &Client, life: u64) {
    for version in life * EACH + 1..=(life + 1) * EACH {
        for key in 0..KEYS {
            let event = Event::new("t/x", version.to_string()).key(format!("k{key}"));
            client.publish(event).await.unwrap();
        }
    }
}

/// Takes deliveries and settles each event by itself, until its life is over.
pub(crate) async fn member(client: Client, ledger: Arc<Mutex<Replayed>>, mut dice: Dice) {
    let options = Consume::default().batch(4, 1 << 20).window(16, 1 << 20);
    let mut deliveries = client.consume("g", options).await.unwrap();
    // A connection that is cut is the end of this life.
    while let Some(Ok(mut delivery)) = deliveries.next().await {
        ledger.lock().unwrap().delivered(&delivery);
        let key = delivery.key.to_string();
        while let Some(event) = delivery.first() {
            // A letter is held for a moment, so that more than one is out at a time.
            tokio::task::yield_now().await;
            let outcome = ledger.lock().unwrap().decide(&key, event.version.0, &mut dice);
            let settling = match outcome {
                Outcome::Done => delivery.done_first(1),
                Outcome::Dead => delivery.reject_first(1, "the dice"),
                Outcome::Retry => {
                    let _settled = delivery.retry(None, "the dice").await;
                    break;
                }
            };
            match settling.await {
                Ok(Settled::Durable) => {
                    ledger.lock().unwrap().answered(&key, event.version.0, outcome);
                }
                Ok(Settled::TooLate) => panic!("{key} {} was in time", event.version),
                // Of it nothing is known; the rest comes again.
                Err(_) => return,
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Has all letters replayed, again and again, some of the time at a pace.
pub(crate) async fn replay(client: Client) {
    for round in 0_u64.. {
        let mut request = json!({ "group": "g", "all": true });
        if round % 4 == 3 {
            request["rate"] = json!(200);
        }
        let _replayed = ask(&client, "$dlq", "replay", request).await;
        // What is refused at once, since the server is gone, must not keep the end of this life from coming.
        tokio::task::yield_now().await;
    }
}

/// Waits until it is so; a member that fails ends the wait.
pub(crate) async fn until(members: &mut JoinSet<()>, so: impl Fn() -> bool) {
    while !so() {
        if let Some(Err(failed)) = members.try_join_next() {
            panic!("a member: {failed}");
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn until_nothing_is_left(client: &Client, members: &mut JoinSet<()>) {
    loop {
        let shown = ask(client, "$group", "show", json!({ "name": "g" })).await;
        let none = |field| shown.as_ref().is_some_and(|shown| shown[field] == 0);
        if none("lag") && none("in_flight") && none("waiting") && none("dead") {
            return;
        }
        if let Some(Err(failed)) = members.try_join_next() {
            panic!("a member: {failed}");
        }
        tokio::task::yield_now().await;
    }
}
