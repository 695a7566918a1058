//! The small server's one group: everything in its log, event by event, one of a key at a time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use spile_protocol::code::Code;
use spile_protocol::id::{Position, SubscriptionId, Version};
use spile_protocol::message::{
    Credit, Deliver, Extras, Fault, Lengths, Message, Outcome, Scope, Settle, Subscribe,
};
use spile_protocol::time::Millis;

use super::server::Connection;

/// How far the group is; over all connections.
#[derive(Default)]
pub struct Group {
    /// Through which version a key is done or dead.
    pub settled: HashMap<String, u64>,
    /// How often a key's next event was handed out.
    pub attempts: HashMap<String, u32>,
    /// Versions that were rejected, and why.
    pub dead: Vec<(String, u64, String)>,
}

/// A connection's membership.
pub struct Member {
    subscription: SubscriptionId,
    /// Every delivery it got, in order; `None` when it is settled.
    deliveries: Vec<Option<(String, u64)>>,
}

impl Connection {
    pub fn join(&mut self, subscribe: &Subscribe<'_>) {
        let subscription = subscribe.subscription;
        self.member = Some(Member { subscription, deliveries: Vec::new() });
        let (events, bytes) = (subscribe.events, subscribe.bytes);
        let subscription = Some(subscription);
        self.say(&Message::Credit(Credit { subscription, events, bytes, chunk_bytes: None }));
        self.hand_out();
    }

    /// The group can't be served for a moment.
    pub fn send_away(&mut self) {
        let Some(member) = self.member.take() else { return };
        let scope = Scope::Subscription(member.subscription);
        let (code, detail) = (Code::UNAVAILABLE, "its worker is away");
        self.say(&Message::Fault(Fault { code, scope, retry: true, retry_after_ms: 20, detail }));
    }

    pub fn settle(&mut self, settle: &Settle<'_>) {
        let Some(member) = &mut self.member else { panic!("nobody is a member: {settle:?}") };
        let at = usize::try_from(settle.delivery - 1).unwrap();
        let taken = member.deliveries[at].take();
        let mut answer = *settle;
        if let Some((key, version)) = taken {
            let mut group = self.world.group.lock().unwrap();
            match settle.outcome {
                Outcome::Retry { .. } => {}
                Outcome::Done | Outcome::Seen | Outcome::Reject => {
                    group.attempts.remove(&key);
                    group.settled.insert(key.clone(), version);
                }
            }
            if settle.outcome == Outcome::Reject {
                group.dead.push((key, version, settle.reason.to_owned()));
            }
        } else {
            answer.outcome = Outcome::Seen; // spec §8.3.5
        }
        self.world.changed.notify_waiters();
        if !self.world.silent.load(Ordering::Relaxed) {
            self.say(&Message::Settle(answer));
            self.hand_out();
        }
    }

    /// Hands out the next event of every key that nobody has.
    pub fn hand_out(&mut self) {
        if self.world.sends_away.swap(false, Ordering::Relaxed) {
            return self.send_away();
        }
        let log = self.world.log();
        let Some(mut member) = self.member.take() else { return };
        for (place, event) in (1..).zip(&log) {
            let busy = member.deliveries.iter().flatten().any(|(key, _)| *key == event.key);
            let room = self.session.delivery_room(member.subscription);
            let mut group = self.world.group.lock().unwrap();
            let next = group.settled.get(&event.key).copied().unwrap_or(0) + 1;
            if busy || event.version != next || room.is_none_or(|room| room.events == 0) {
                continue;
            }
            let attempt = group.attempts.entry(event.key.clone()).or_default();
            *attempt += 1;
            let deliver = Deliver {
                subscription: member.subscription,
                key: Some(&event.key),
                topic: Some(&event.topic),
                kind: None,
                worker: Some("w"),
                attempt: *attempt,
                version: Version(event.version),
                position: Position(place),
                time: Millis(5),
                lengths: Lengths::one(u32::try_from(event.payload.len()).unwrap()),
                extras: Extras::default(),
                payload: &event.payload,
            };
            drop(group);
            self.say(&Message::Deliver(deliver));
            member.deliveries.push(Some((event.key.clone(), event.version)));
        }
        self.member = Some(member);
    }

    /// It goes; what it has is free for others.
    pub fn leave(&mut self, subscription: SubscriptionId) {
        if self.member.as_ref().is_some_and(|member| member.subscription == subscription) {
            self.member = None;
        }
    }
}
