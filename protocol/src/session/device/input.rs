//! What comes from the server, and what it means for what is kept. spec §17.1.

use core::time::Duration;

use super::{
    Auth, Credential, Device, LaneState, State, Storage, SubscriptionSlot, Text,
    storage::UploadState,
};
use crate::{
    code::Code,
    frame::{self, Frame},
    id::{LaneId, Number, SubscriptionId, Version},
    limits,
    message::{
        Ack, Auth as AuthMessage, Body, Call, Credit, DecodeError, Deliver, Durability, Fault,
        GoAway, LaneAnswer, List, Message, Opened, Ping, Proof, Receipt, Reply, Scope, Sender,
        Settle, Value, Welcome, deliver::Kind,
    },
    session::{
        Amount, frame_code,
        key::{self, Binding, Signed},
    },
    time::Instant,
};

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// The server let us in; lanes open and what is in flight goes out. Subscribe now.
    Welcomed(Welcome<'b>),
    /// A lane was answered: numbers through `last` are stored, but for those it names as refused.
    LaneOpen(LaneAnswer<'b>),
    /// Everything of the lane through this number is stored, but for what was said to be refused.
    Acked {
        /// Which.
        lane: LaneId,
        /// The last number.
        through: Number,
        /// How far the promise goes.
        durability: Durability,
        /// Versions and positions, where they were wanted.
        receipts: List<'b, Receipt>,
    },
    /// These numbers were refused for good; they leave the window with the ack that follows.
    Refused {
        /// In which lane.
        lane: LaneId,
        /// The first.
        number: Number,
        /// How many.
        count: u32,
        /// Why.
        code: Code,
        /// The stream's version, where the code is about it.
        version: Version,
    },
    /// The server closed a lane. What is in flight on it stays in the window.
    LaneClosed {
        /// Which.
        lane: LaneId,
        /// Why.
        code: Code,
        /// The number the server expects.
        expected: Number,
        /// When the machine opens it again by itself; `None`: it waits for [`Device::reopen_lane`].
        retry_after_ms: Option<u32>,
    },
    /// The server does not have what this run's numbers rest on, or has more than we gave: nothing more is sent. Cut the
    /// connection, then [`Device::renew`] the run; what is in flight may come twice.
    UnknownRun(LaneId),
    /// A delivery; [`Device::spelled`] says key, topic, type and worker in full.
    Deliver {
        /// Its number, to settle it by.
        delivery: u64,
        /// The delivery as it was spelled.
        deliver: Deliver<'b>,
        /// CRC-32 of its payload.
        payload_crc: u32,
    },
    /// A subscription is open, or has another window.
    SubscriptionOpen(Credit),
    /// A SETTLE is durable; with the outcome *seen*: it did not count.
    Settled(Settle<'b>),
    /// A subscription is over: all was delivered, or we ended it.
    Ended(SubscriptionId),
    /// An upload is open or goes on, or is sealed where it names a blob.
    Stored(Opened<'b>),
    /// An upload is forgotten, as was asked.
    Aborted(u32),
    /// An answer to GET or LIST.
    Value(Body<'b, Value<'b>>),
    /// An answer to CALL or SERVE.
    Reply(Body<'b, Reply<'b>>),
    /// A call to a service we serve.
    Call(Body<'b, Call<'b>>),
    /// A route, subscription, request or upload failed.
    Failed(Fault<'b>),
    /// The server goes away: nothing new is sent, what is in flight is answered still.
    GoAway(GoAway<'b>),
    /// The session is over: cut the connection. What is in flight waits for the next.
    Closed {
        /// Why.
        code: Code,
        /// After how long to come back; `None` where that is no use.
        retry_after_ms: Option<u32>,
        /// For people.
        detail: &'b str,
    },
}

/// What a subscription's last delivery was about, in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelled<'a> {
    /// The key.
    pub key: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// What the payload is.
    pub kind: Kind<'a>,
    /// The worker: the first half of the position.
    pub worker: &'a str,
}

impl<S: Storage, T: AsRef<str>> Device<S, T> {
    /// Takes frames off the front of `bytes` until one means something to the caller. `None`: more bytes are needed.
    pub fn handle_input<'b>(&mut self, now: Instant, bytes: &mut &'b [u8]) -> Option<Event<'b>> {
        while !matches!(self.state, State::Idle | State::Closed(_)) {
            match frame::decode(bytes, self.config.frame_max) {
                Ok(Some((frame, used))) => {
                    *bytes = bytes.get(used..).unwrap_or_default();
                    (self.heard, self.asked) = (now, false);
                    if let Some(event) = self.take(now, &frame) {
                        return Some(event);
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(self.fail(frame_code(error), "a frame")),
            }
        }
        None
    }

    fn take<'b>(&mut self, now: Instant, frame: &Frame<'b>) -> Option<Event<'b>> {
        match Message::decode(frame, Sender::Server) {
            Ok(message) if matches!(self.state, State::Greeting { .. }) => self.greeted(&message),
            Ok(message) => self.told(now, &message, frame.payload_crc),
            Err(DecodeError { code, what }) => Some(self.fail(code, what)),
        }
    }

    /// The server broke the protocol, or is not who it should be: it is told, where it listens. spec §17.0: a client says
    /// no FAULT.
    fn fail<'b>(&mut self, code: Code, detail: &'static str) -> Event<'b> {
        self.due.goaway = Some(code);
        self.state = State::Closed(code);
        Event::Closed { code, retry_after_ms: code.retry().then_some(0), detail }
    }

    fn greeted<'b>(&mut self, message: &Message<'b>) -> Option<Event<'b>> {
        let State::Greeting { deadline, hello, auth } = self.state else { return None };
        if let Message::Welcome(welcome) = message {
            return Some(self.welcomed(welcome, auth));
        }
        if let (
            Message::Auth(AuthMessage { proof: Proof::Challenge { nonce } }),
            Auth::Unchallenged,
        ) = (message, auth)
        {
            let binding = Binding::Nonces { client: self.nonce, server: *nonce };
            self.state = State::Greeting { deadline, hello, auth: Auth::Due(Some(binding)) };
            return None;
        }
        if let Message::Fault(fault @ Fault { scope: Scope::Session, .. }) = message {
            return Some(self.faulted(Instant(0), fault));
        }
        if let Message::GoAway(goaway) = message {
            return Some(self.server_leaves(goaway));
        }
        Some(self.fail(Code::UNEXPECTED, "WELCOME comes first"))
    }

    fn welcomed<'b>(&mut self, welcome: &Welcome<'b>, auth: Auth) -> Event<'b> {
        if !self.is_proven(welcome.proof, auth) {
            // spec §4.2.2
            return self.fail(Code::UNAUTHENTICATED, "the server does not know the device key");
        }
        if self.outbox.holds_longer(&self.storage.parts(), welcome.frame_max) {
            return self
                .fail(Code::TOO_LARGE, "what is in flight is longer than this server takes");
        }
        self.state = State::Open;
        self.server_frame_max = welcome.frame_max;
        self.payload_max = welcome.payload_max;
        self.window.limit(Amount { events: welcome.credit_events, bytes: welcome.credit_bytes });
        self.chunks.limit(Amount { events: 0, bytes: welcome.chunk_bytes });
        Event::Welcomed(*welcome)
    }

    fn is_proven(&self, proof: &[u8], auth: Auth) -> bool {
        match (&self.config.credential, auth) {
            (Credential::Key { tenant, device, key }, Auth::Sent(Some(binding))) => {
                let (tenant, device) = (tenant.as_ref(), device.as_ref());
                key::server_knows(key, proof, &Signed { tenant, device, binding })
            }
            (_, Auth::Sent(None)) => true,
            (Credential::Certificate | Credential::Token(_), Auth::Sent(Some(_)))
            | (_, Auth::Unchallenged | Auth::Due(_)) => false,
        }
    }

    fn told<'b>(
        &mut self,
        now: Instant,
        message: &Message<'b>,
        payload_crc: u32,
    ) -> Option<Event<'b>> {
        Some(match *message {
            Message::Ack(ack) => return self.acked(&ack),
            Message::Deliver(deliver) => return self.delivered(deliver, payload_crc),
            Message::LaneAnswer(answer) => return self.lane_answered(&answer),
            Message::Ping(ping) => return self.pinged(ping),
            Message::Credit(credit) => return self.credited(credit),
            Message::Opened(opened) => return self.stored(opened),
            Message::Fault(fault) => self.faulted(now, &fault),
            Message::GoAway(goaway) => self.server_leaves(&goaway),
            Message::Settle(settle) => Event::Settled(settle),
            Message::End(end) => {
                self.forget_subscription(end.subscription)?;
                Event::Ended(end.subscription)
            }
            Message::Abort(abort) => {
                self.forget_upload(abort.upload)?;
                Event::Aborted(abort.upload)
            }
            Message::Value(value) => Event::Value(value),
            Message::Reply(reply) => Event::Reply(reply),
            Message::Call(call) => Event::Call(call),
            Message::Skipped(_) => return None,
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Auth(_)
            | Message::Lane(_)
            | Message::Bind(_)
            | Message::Event(_)
            | Message::Batch(_)
            | Message::Open(_)
            | Message::Chunk(_)
            | Message::Seal(_)
            | Message::Subscribe(_)
            | Message::Get(_)
            | Message::List(_)
            | Message::Serve(_)
            | Message::Attach(_)
            | Message::Detach(_)
            | Message::Envelope(_)
            | Message::Registry(_)
            | Message::Void(_)
            | Message::LinkHello(_)
            | Message::Changed(_) => self.fail(Code::UNEXPECTED, "a message no server sends here"),
        })
    }

    const fn pinged<'b>(&mut self, ping: Ping) -> Option<Event<'b>> {
        if !ping.answer {
            self.due.pong = Some(ping.number);
        }
        None
    }

    fn acked<'b>(&mut self, ack: &Ack<'b>) -> Option<Event<'b>> {
        let none = List::default();
        let (durability, id, last, receipts) = match *ack {
            Ack::Spelled { durability, lane, last, receipts } => {
                (durability, lane, Some(last), receipts)
            }
            Ack::Step { durability, step } => {
                let acked =
                    self.lane(LaneId(0)).map(|lane| lane.acked.0.saturating_add(u64::from(step)));
                (durability, LaneId(0), acked.map(Number), none)
            }
        };
        let (Some(lane), Some(last)) = (self.lane(id), last) else {
            return Some(self.fail(Code::UNEXPECTED, "ACK of a lane that was not opened"));
        };
        match lane.state {
            LaneState::Open => {}
            // What was on its way when the lane closed, or opens again, is told by LANE's answer.
            LaneState::Closed { .. } | LaneState::Wanted | LaneState::Opening => return None,
        }
        if last >= lane.next {
            return Some(self.fail(Code::UNEXPECTED, "ACK past what was published")); // spec §5.6.6
        }
        if last <= lane.acked && receipts == none {
            return None;
        }
        lane.closed = 0;
        self.settled_through(id, last);
        Some(Event::Acked { lane: id, through: last, durability, receipts })
    }

    fn settled_through(&mut self, id: LaneId, last: Number) {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        self.outbox.ack(&mut self.storage.parts(), at, last, &mut self.window);
    }

    pub(super) fn lane(&mut self, id: LaneId) -> Option<&mut super::LaneSlot> {
        super::slot(self.storage.parts().lanes, id.0, self.lanes)
    }

    fn lane_answered<'b>(&mut self, answer: &LaneAnswer<'b>) -> Option<Event<'b>> {
        let Some(lane) = self.lane(answer.lane) else {
            return Some(self.fail(Code::UNEXPECTED, "LANE of a lane that was not opened"));
        };
        match lane.state {
            LaneState::Opening | LaneState::Open => lane.state = LaneState::Open,
            LaneState::Closed { .. } | LaneState::Wanted => return None,
        }
        if let Some(last) = answer.last {
            if last >= lane.next {
                // More is stored than we gave: ours would be taken for those. Nothing new is mistaken for old.
                return Some(self.lose_run(answer.lane));
            }
            self.settled_through(answer.lane, last);
        }
        Some(Event::LaneOpen(*answer))
    }

    fn lose_run<'b>(&mut self, lane: LaneId) -> Event<'b> {
        self.lost = true;
        if let Some(lane) = self.lane(lane) {
            lane.state = LaneState::Closed { until: None };
        }
        Event::UnknownRun(lane)
    }

    fn faulted<'b>(&mut self, now: Instant, fault: &Fault<'b>) -> Event<'b> {
        let retry_after_ms = fault.retry.then_some(fault.retry_after_ms);
        match fault.scope {
            Scope::Session => {
                self.state = State::Closed(fault.code);
                Event::Closed { code: fault.code, retry_after_ms, detail: fault.detail }
            }
            Scope::Lane { lane, expected } => {
                self.lane_closed(now, lane, fault.code, expected, retry_after_ms)
            }
            Scope::Number { lane, number, count, version } => {
                Event::Refused { lane, number, count, code: fault.code, version }
            }
            Scope::Subscription(id) => {
                self.forget_subscription(id);
                Event::Failed(*fault)
            }
            Scope::Upload { upload, .. } => {
                self.forget_upload(upload);
                Event::Failed(*fault)
            }
            Scope::Route(_) | Scope::Request(_) => Event::Failed(*fault),
        }
    }

    /// spec §5.9: what is in flight on the lane leaves the credit and stays in the window.
    fn lane_closed<'b>(
        &mut self,
        now: Instant,
        id: LaneId,
        code: Code,
        expected: Number,
        retry_after_ms: Option<u32>,
    ) -> Event<'b> {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        self.outbox.unsend(&mut self.storage.parts(), at, &mut self.window);
        self.outbox.rewind();
        let gone = self.first_unacked(id).is_some_and(|first| expected < first);
        if code == Code::UNKNOWN_RUN || gone {
            return self.lose_run(id); // spec §5.7.3: it is expected to send what it no longer holds
        }
        let times = self.lane(id).map_or(0, |lane| lane.closed);
        // A lane that closes again and again without an ack between waits longer each time.
        let backoff = if times == 0 { 0 } else { 50_u32 << times.min(8) };
        let wait_ms = retry_after_ms.map(|after| after.saturating_add(backoff));
        let jitter = self.jitter(wait_ms.unwrap_or_default() / 2);
        let wait_ms = wait_ms.map(|wait| wait.saturating_add(jitter));
        if let Some(lane) = self.lane(id) {
            lane.closed = times.saturating_add(1);
            let until = wait_ms.map(|wait| now.after(Duration::from_millis(u64::from(wait))));
            lane.state = LaneState::Closed { until };
        }
        Event::LaneClosed { lane: id, code, expected, retry_after_ms: wait_ms }
    }

    fn server_leaves<'b>(&mut self, goaway: &GoAway<'b>) -> Event<'b> {
        let leaving = self.state == State::Draining;
        if leaving || matches!(self.state, State::Greeting { .. }) {
            // It answers our own goodbye, or never let us in.
            self.state = State::Closed(goaway.code);
            let retry_after_ms = Some(goaway.retry_after_ms);
            return Event::Closed { code: goaway.code, retry_after_ms, detail: goaway.detail };
        }
        self.state = State::Draining;
        Event::GoAway(*goaway)
    }

    fn credited<'b>(&mut self, credit: Credit) -> Option<Event<'b>> {
        if credit.subscription.is_some() {
            return Some(Event::SubscriptionOpen(credit));
        }
        self.window.limit(Amount { events: credit.events, bytes: credit.bytes });
        if let Some(bytes) = credit.chunk_bytes {
            self.chunks.limit(Amount { events: 0, bytes });
        }
        None
    }

    fn subscription(&mut self, id: SubscriptionId) -> Option<&mut SubscriptionSlot> {
        self.storage.parts().subscriptions.iter_mut().find(|slot| slot.id == Some(id))
    }

    fn forget_subscription(&mut self, id: SubscriptionId) -> Option<()> {
        self.subscription(id).map(|slot| *slot = SubscriptionSlot::default())
    }

    fn forget_upload(&mut self, number: u32) -> Option<()> {
        let parts = self.storage.parts();
        let slot = parts
            .uploads
            .iter_mut()
            .find(|slot| slot.state != UploadState::Free && slot.number == number)?;
        self.chunks.release(Amount {
            events: 0,
            bytes: u32::try_from(slot.next - slot.stored).unwrap_or(u32::MAX),
        });
        slot.state = UploadState::Free;
        Some(())
    }

    fn delivered<'b>(&mut self, deliver: Deliver<'b>, payload_crc: u32) -> Option<Event<'b>> {
        // What is on its way when we have ended the subscription is dropped.
        let slot = self.subscription(deliver.subscription)?;
        slot.delivered += 1;
        let delivery = slot.delivered;
        if slot.keep(&deliver).is_none() {
            return Some(self.fail(Code::MALFORMED, "a delivery's names"));
        }
        Some(Event::Deliver { delivery, deliver, payload_crc })
    }

    /// What the last delivery of a subscription was about.
    #[must_use]
    pub fn spelled(&self, id: SubscriptionId) -> Option<Spelled<'_>> {
        let slot = self.storage.subscriptions().iter().find(|slot| slot.id == Some(id))?;
        Some(Spelled {
            key: slot.key.as_str(),
            topic: slot.topic.as_str(),
            kind: Kind {
                content_type: slot.content_type.as_str(),
                schema: slot.schema,
                encoding: slot.encoding.as_str(),
            },
            worker: slot.worker.as_str(),
        })
    }

    fn stored<'b>(&mut self, opened: Opened<'b>) -> Option<Event<'b>> {
        let parts = self.storage.parts();
        let slot = parts
            .uploads
            .iter_mut()
            .find(|slot| slot.state != UploadState::Free && slot.number == opened.upload)?;
        if slot.state == UploadState::Aborting || opened.epoch < slot.epoch {
            return None; // of an earlier opening of the same upload
        }
        slot.epoch = opened.epoch;
        if slot.state == UploadState::Opening {
            slot.state = UploadState::Open;
            // What was stored before is nothing that was sent here: it gives back no credit.
            (slot.next, slot.stored) = (opened.stored_offset, opened.stored_offset);
        }
        let through = opened.stored_offset.clamp(slot.stored, slot.next);
        let bytes = u32::try_from(through - slot.stored).unwrap_or(u32::MAX);
        slot.stored = through;
        self.chunks.release(Amount { events: 0, bytes });
        if !opened.blob.is_empty() {
            self.forget_upload(opened.upload);
        }
        Some(Event::Stored(opened))
    }
}

impl SubscriptionSlot {
    /// Keeps what a delivery spells; `None` where a name is longer than any is.
    fn keep(&mut self, deliver: &Deliver<'_>) -> Option<()> {
        if let Some(key) = deliver.key {
            self.key = Text::new(key)?;
        }
        if let Some(topic) = deliver.topic {
            self.topic = Text::new(topic)?;
        }
        if let Some(worker) = deliver.worker {
            self.worker = Text::new(worker)?;
        }
        if let Some(kind) = deliver.kind {
            self.content_type = Text::new(kind.content_type)?;
            self.encoding = Text::new(kind.encoding)?;
            self.schema = kind.schema;
        }
        Some(())
    }
}

/// A delivery's names are at most as long as the slots that keep them.
const _: () = assert!(limits::KEY_BYTES < 256 && limits::TOPIC_BYTES < 256);
