//! What goes out because of what is kept: the greeting, lanes and routes, events within the credit, goodbyes.
//! spec §4.0.1, §6.4.

use super::{
    Auth, Credential, Device, LaneSlot, LaneState, State, Storage,
    storage::{Flight, Progress},
};
use crate::{
    code::Code,
    frame,
    id::{LaneId, Number, RouteId},
    limits,
    message::{
        Auth as AuthMessage, Bind, Extras, Full, GoAway, Happened, Hello, Lane, Message, Ping,
        Proof, Sender, hello,
    },
    session::{
        Transmit,
        key::{self, Signed},
    },
    time::Instant,
};

/// The longest LANE and BIND: names at their limits and a few numbers.
const NAMES: usize = 512;

impl<S: Storage, T: AsRef<str>> Device<S, T> {
    /// Says what is due, as far as there is room: control first, then events within the credit. Call it again when the
    /// buffer has been written.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut impl Transmit) {
        // A frame that does not fit now is due still, and goes out next time.
        let _all: Result<(), Full> = self.say(now, out);
    }

    fn say(&mut self, now: Instant, out: &mut impl Transmit) -> Result<(), Full> {
        match self.state {
            State::Greeting { .. } => {
                self.say_greeting(out)?;
                if matches!(self.state, State::Greeting { auth: Auth::Sent(_), .. }) {
                    self.say_kept(now, out)?;
                }
                Ok(())
            }
            State::Open => {
                self.say_control(out)?;
                self.say_kept(now, out)?;
                self.say_goodbye(out)
            }
            State::Draining | State::Closed(_) => {
                self.say_control(out)?;
                self.say_goodbye(out)
            }
            State::Idle => Ok(()),
        }
    }

    fn say_greeting(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        let State::Greeting { deadline, hello, auth } = self.state else { return Ok(()) };
        if !hello {
            let before = out.room();
            out.put(&Message::Hello(self.hello()), 0)?;
            self.early = self.early.saturating_sub(before.saturating_sub(out.room()));
            self.state = State::Greeting { deadline, hello: true, auth };
        }
        if let Auth::Due(binding) = auth {
            let before = out.room();
            out.put(&Message::Auth(AuthMessage { proof: self.proof(binding) }), 0)?;
            self.early = self.early.saturating_sub(before.saturating_sub(out.room()));
            self.state = State::Greeting { deadline, hello: true, auth: Auth::Sent(binding) };
        }
        Ok(())
    }

    fn hello(&self) -> Hello<'_> {
        Hello {
            version: hello::VERSION,
            oldest: hello::VERSION,
            frame_max: self.config.frame_max,
            run: self.config.run,
            receipts: self.config.receipts,
            keep_alive_s: self.config.keep_alive_s,
            software: self.config.software.as_ref(),
            abandoned: self.abandoned,
        }
    }

    fn proof(&self, binding: Option<key::Binding>) -> Proof<'_> {
        match (&self.config.credential, binding) {
            (Credential::Token(token), _) => Proof::Token(token.as_ref()),
            (Credential::Key { tenant, device, key }, Some(binding)) => {
                let (tenant, device) = (tenant.as_ref(), device.as_ref());
                let proof = key::prove(key, &Signed { tenant, device, binding });
                Proof::DeviceKey { tenant, device, nonce: self.nonce, proof }
            }
            // A key on TLS without an exporter proves nothing: the certificate may.
            (Credential::Certificate | Credential::Key { .. }, _) => Proof::Certificate,
        }
    }

    fn say_control(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        if let Some(number) = self.due.pong {
            out.put(&Message::Ping(Ping { number, answer: true }), 0)?;
            self.due.pong = None;
        }
        if self.due.ping {
            let number = self.due.pings.wrapping_add(1);
            out.put(&Message::Ping(Ping { number, answer: false }), 0)?;
            (self.due.pings, self.due.ping) = (number, false);
        }
        Ok(())
    }

    fn say_goodbye(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        if self.closing && self.state == State::Open && self.outbox.live() == 0 {
            self.due.goaway = Some(Code(0));
            self.state = State::Draining;
        }
        if let Some(code) = self.due.goaway {
            out.put(&Message::GoAway(GoAway { code, retry_after_ms: 0, detail: "" }), 0)?;
            self.due.goaway = None;
        }
        Ok(())
    }

    /// Lanes, routes and events, in the order the server needs them.
    fn say_kept(&mut self, now: Instant, out: &mut impl Transmit) -> Result<(), Full> {
        if self.lost {
            return Ok(()); // spec §5.7.3: nothing more in this run
        }
        if self.wanted {
            self.say_lanes(out)?;
        }
        if self.untold {
            self.say_routes(out)?;
        }
        self.say_events(now, out)
    }

    fn say_lanes(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        let mut frame = [0; NAMES];
        for at in 0..self.lanes {
            let parts = self.storage.parts();
            let Some(lane) = parts.lanes.get_mut(at).filter(|lane| lane.state == LaneState::Wanted)
            else {
                continue;
            };
            let first = parts
                .flights
                .get(usize::try_from(lane.head).unwrap_or(usize::MAX))
                .map_or(Number(lane.acked.0 + 1), |entry| entry.first);
            let message = Message::Lane(Lane {
                lane: LaneId(u32::try_from(at).unwrap_or(u32::MAX)),
                first_unacked: first,
                key: lane.key.as_ref().map(super::Text::as_str),
                urgent: lane.urgent,
            });
            let length = message.encode(&mut frame)?;
            self.say_early(frame.get(..length).unwrap_or_default(), out)?;
            if let Some(lane) = self.storage.parts().lanes.get_mut(at) {
                (lane.state, lane.wire_next) = (LaneState::Opening, first);
                // spec §5.6.1: what short acks count from.
                lane.acked = Number(first.0 - 1);
            }
            self.outbox.rewind();
        }
        self.wanted = false;
        Ok(())
    }

    fn say_routes(&mut self, out: &mut impl Transmit) -> Result<(), Full> {
        let mut frame = [0; NAMES];
        for at in 0..self.routes {
            let parts = self.storage.parts();
            let Some(route) = parts.routes.get(at).filter(|route| !route.told) else { continue };
            let message = Message::Bind(Bind {
                route: RouteId(u32::try_from(at).unwrap_or(u32::MAX)),
                lane: route.lane,
                topic: route.topic.as_str(),
                content_type: route.content_type.as_str(),
                schema: route.schema,
                encoding: route.encoding.as_str(),
            });
            let length = message.encode(&mut frame)?;
            self.say_early(frame.get(..length).unwrap_or_default(), out)?;
            if let Some(route) = self.storage.parts().routes.get_mut(at) {
                route.told = true;
            }
            self.outbox.rewind();
        }
        self.untold = false;
        Ok(())
    }

    /// spec §4.0.1: before WELCOME so much and no more.
    fn say_early(&mut self, frame: &[u8], out: &mut impl Transmit) -> Result<(), Full> {
        let greeting = matches!(self.state, State::Greeting { .. });
        if greeting && frame.len() > self.early {
            return Err(Full);
        }
        out.put_frame(frame)?;
        self.early = self.early.saturating_sub(frame.len());
        Ok(())
    }

    fn say_events(&mut self, now: Instant, out: &mut impl Transmit) -> Result<(), Full> {
        loop {
            let parts = self.storage.parts();
            let told = |entry: &Flight| {
                usize::try_from(entry.route)
                    .is_ok_and(|at| parts.routes.get(at).is_some_and(|route| route.told))
            };
            let sends = |lane: &LaneSlot, entry: &Flight| match lane.state {
                LaneState::Opening | LaneState::Open => told(entry),
                LaneState::Wanted | LaneState::Closed { .. } => false,
            };
            let Some(at) = self.outbox.next(&parts, self.urgent, sends) else { return Ok(()) };
            let Some(&entry) = parts.flights.get(at) else { return Ok(()) };
            if !self.window.takes(entry.amount()) {
                return Ok(());
            }
            self.say_event(now, &entry, out)?;
            let spent = self.window.spend(entry.amount());
            debug_assert!(spent && entry.progress == Progress::Unsent, "what takes also spends");
            self.outbox.sent(&mut self.storage.parts(), at);
        }
    }

    /// The frame as it was made, unless its number must be spelled or its age has grown.
    fn say_event(
        &mut self,
        now: Instant,
        entry: &Flight,
        out: &mut impl Transmit,
    ) -> Result<(), Full> {
        let greeting = matches!(self.state, State::Greeting { .. });
        let parts = self.storage.parts();
        let at = usize::try_from(entry.at).unwrap_or(usize::MAX);
        let length = usize::try_from(entry.length).unwrap_or(usize::MAX);
        let frame = parts.window.get(at..at.saturating_add(length)).ok_or(Full)?;
        let lane =
            usize::try_from(entry.lane).ok().and_then(|at| parts.lanes.get(at)).ok_or(Full)?;
        let implied = lane.wire_next == entry.first;
        // A number or an age takes at most ten bytes more, the mask two, a longer length one.
        let longest = if implied && !entry.aged { length } else { length + 13 };
        if greeting && longest > self.early {
            return Err(Full);
        }
        let before = out.room();
        if implied && !entry.aged {
            out.put_frame(frame)?;
        } else {
            let number = (!implied).then_some(entry.first);
            let waited = u64::try_from(now.since(entry.born).as_millis()).unwrap_or(u64::MAX);
            respell(frame, number, waited, out)?;
        }
        self.early = self.early.saturating_sub(before.saturating_sub(out.room()));
        Ok(())
    }
}

/// The same event or batch with its number spelled and its age grown. The payload's checksum is the one it was made with.
fn respell(
    bytes: &[u8],
    number: Option<Number>,
    waited_ms: u64,
    out: &mut impl Transmit,
) -> Result<(), Full> {
    let (frame, _) = frame::decode(bytes, limits::FRAME_MAX).ok().flatten().ok_or(Full)?;
    let change = |extras: Extras<'_>| match extras.happened {
        Some(Happened::Ago(age)) => (number, Some(Happened::Ago(age.saturating_add(waited_ms)))),
        other @ (Some(Happened::At(_)) | None) => (number, other),
    };
    let mut message = Message::decode(&frame, Sender::Client).map_err(|_| Full)?;
    if let Message::Event(event) = &mut message {
        (event.extras.number, event.extras.happened) = change(event.extras);
    } else if let Message::Batch(batch) = &mut message {
        (batch.extras.number, batch.extras.happened) = change(batch.extras);
    }
    out.put(&message, frame.payload_crc)
}
