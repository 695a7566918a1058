//! What is said at once into the caller's buffer and forgotten with the connection: subscriptions, settling, requests,
//! uploads. spec §7 to §9.
//!
//! After a connection is lost the caller subscribes, asks and opens uploads again; an upload goes on where the answer to
//! its OPEN says.

use super::{
    Device, Refusal, State, Storage, SubscriptionSlot, Table,
    storage::{UploadSlot, UploadState},
};
use crate::{
    id::SubscriptionId,
    limits,
    message::{Abort, Chunk, Credit, End, Message, Open, Outcome, Seal, Settle, Subscribe},
    session::{Amount, Transmit},
    time::Instant,
};

impl<S: Storage, T: AsRef<str>> Device<S, T> {
    /// May something new be asked?
    const fn asks(&self) -> Result<(), Refusal> {
        match self.state {
            State::Open => Ok(()),
            State::Draining => Err(Refusal::Leaving),
            State::Idle | State::Greeting { .. } | State::Closed(_) => Err(Refusal::NotConnected),
        }
    }

    /// May something that was asked be answered?
    const fn answers(&self) -> Result<(), Refusal> {
        match self.state {
            State::Open | State::Draining => Ok(()),
            State::Idle | State::Greeting { .. } | State::Closed(_) => Err(Refusal::NotConnected),
        }
    }

    /// Subscribes; deliveries come behind [`super::Event::SubscriptionOpen`].
    pub fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.asks()?;
        let id = Some(subscribe.subscription);
        if self.storage.subscriptions().iter().any(|slot| slot.id == id) {
            return Err(Refusal::InUse);
        }
        let free = |slots: &[SubscriptionSlot]| slots.iter().position(|slot| slot.id.is_none());
        if free(self.storage.subscriptions()).is_none() {
            self.storage.grow(Table::Subscriptions, 1);
        }
        let at = free(self.storage.subscriptions()).ok_or(Refusal::TooMany("subscriptions"))?;
        out.put(&Message::Subscribe(*subscribe), 0)?;
        if let Some(slot) = self.storage.parts().subscriptions.get_mut(at) {
            *slot = SubscriptionSlot { id, ..SubscriptionSlot::default() };
        }
        Ok(())
    }

    fn delivered_on(&self, id: SubscriptionId) -> Result<u64, Refusal> {
        let mut slots = self.storage.subscriptions().iter();
        let slot =
            slots.find(|slot| slot.id == Some(id)).ok_or(Refusal::Unknown("the subscription"))?;
        Ok(slot.delivered)
    }

    /// Says what became of a delivery. Its credit is free with this.
    pub fn settle(&mut self, settle: &Settle<'_>, out: &mut impl Transmit) -> Result<(), Refusal> {
        self.answers()?;
        if settle.delivery == 0 || settle.delivery > self.delivered_on(settle.subscription)? {
            return Err(Refusal::Unknown("the delivery"));
        }
        Ok(out.put(&Message::Settle(*settle), 0)?)
    }

    /// Everything of a subscription up to `delivery` was received.
    pub fn seen(
        &mut self,
        subscription: SubscriptionId,
        delivery: u64,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.settle(
            &Settle { subscription, delivery, outcome: Outcome::Seen, events: 0, reason: "" },
            out,
        )
    }

    /// Takes more or less of a subscription from here on.
    pub fn set_window(
        &mut self,
        subscription: SubscriptionId,
        window: Amount,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.answers()?;
        self.delivered_on(subscription)?;
        let Amount { events, bytes } = window;
        let credit = Credit { subscription: Some(subscription), events, bytes, chunk_bytes: None };
        Ok(out.put(&Message::Credit(credit), 0)?)
    }

    /// Ends a subscription: over with [`super::Event::Ended`]; what still comes before is for the caller to drop.
    pub fn end(
        &mut self,
        subscription: SubscriptionId,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.answers()?;
        self.delivered_on(subscription)?;
        Ok(out.put(&Message::End(End { subscription }), 0)?)
    }

    /// Asks: GET, LIST, CALL or SERVE. The caller keeps the numbers of what is not answered.
    pub fn request(
        &mut self,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.asks()?;
        let asks = matches!(
            message,
            Message::Get(_) | Message::List(_) | Message::Call(_) | Message::Serve(_)
        );
        self.say_whole(asks, message, payload_crc, out)
    }

    /// Answers a CALL with REPLY.
    pub fn reply(
        &mut self,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        self.answers()?;
        self.say_whole(matches!(message, Message::Reply(_)), message, payload_crc, out)
    }

    fn say_whole(
        &self,
        fits: bool,
        message: &Message<'_>,
        payload_crc: u32,
        out: &mut impl Transmit,
    ) -> Result<(), Refusal> {
        if !fits {
            return Err(Refusal::Invalid("the kind of message"));
        }
        let longest = usize::try_from(self.server_frame_max).unwrap_or(usize::MAX);
        if message.payload().len().saturating_add(limits::BODY_FIELDS) > longest {
            return Err(Refusal::TooLarge);
        }
        Ok(out.put(message, payload_crc)?)
    }

    fn upload(&mut self, number: u32) -> Result<&mut UploadSlot, Refusal> {
        let mut slots = self.storage.parts().uploads.iter_mut();
        slots
            .find(|slot| slot.state != UploadState::Free && slot.number == number)
            .ok_or(Refusal::Unknown("the upload"))
    }

    /// Opens an upload, or goes on with it; chunks go when [`super::Event::Stored`] says from where.
    pub fn open_upload(&mut self, open: &Open<'_>, out: &mut impl Transmit) -> Result<(), Refusal> {
        self.asks()?;
        if self.upload(open.upload).is_ok() {
            return Err(Refusal::InUse);
        }
        let free = |slots: &mut [UploadSlot]| {
            slots.iter().position(|slot| slot.state == UploadState::Free)
        };
        if free(self.storage.parts().uploads).is_none() {
            self.storage.grow(Table::Uploads, 1);
        }
        let at = free(self.storage.parts().uploads).ok_or(Refusal::TooMany("uploads"))?;
        out.put(&Message::Open(*open), 0)?;
        if let Some(slot) = self.storage.parts().uploads.get_mut(at) {
            let (number, size, state) = (open.upload, open.size, UploadState::Opening);
            *slot = UploadSlot { number, size, state, ..UploadSlot::default() };
        }
        Ok(())
    }

    /// From where an upload goes on, and how many bytes may go now: zero while the credit is spent.
    pub fn chunk_room(&mut self, upload: u32) -> Result<(u64, usize), Refusal> {
        let slot = *self.upload(upload)?;
        if slot.state != UploadState::Open {
            return Ok((slot.next, 0));
        }
        let room = if self.chunks.is_idle() { u32::MAX } else { self.chunks.room().bytes };
        let frame = self.server_frame_max.saturating_sub(CHUNK_HEADER);
        let most = room.min(frame).min(u32::try_from(limits::CHUNK_MAX).unwrap_or(u32::MAX));
        let left = slot.size.saturating_sub(slot.next);
        let bytes = u64::from(most).min(left);
        Ok((slot.next, usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// Sends the next part of an upload, behind every event that may go now (spec §6.4): where the next one begins.
    pub fn chunk(
        &mut self,
        now: Instant,
        upload: u32,
        payload: &[u8],
        out: &mut impl Transmit,
    ) -> Result<u64, Refusal> {
        self.asks()?;
        self.poll_transmit(now, out);
        let (offset, room) = self.chunk_room(upload)?;
        if payload.is_empty() || payload.len() > room {
            return Err(Refusal::Busy);
        }
        out.put(&Message::Chunk(Chunk { upload, offset, payload }), crate::crc::of(payload))?;
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let spent = self.chunks.spend(Amount { events: 0, bytes });
        debug_assert!(spent, "within the room");
        let slot = self.upload(upload)?;
        slot.next += u64::from(bytes);
        Ok(slot.next)
    }

    /// Says that all of an upload was sent: sealed with [`super::Event::Stored`] that names a blob.
    pub fn seal(&mut self, seal: &Seal, out: &mut impl Transmit) -> Result<(), Refusal> {
        self.asks()?;
        let slot = self.upload(seal.upload)?;
        if slot.state != UploadState::Open || slot.next != seal.size {
            return Err(Refusal::Invalid("SEAL before all was sent"));
        }
        out.put(&Message::Seal(*seal), 0)?;
        slot.state = UploadState::Sealing;
        Ok(())
    }

    /// Gives an upload up: forgotten with [`super::Event::Aborted`].
    pub fn abort(&mut self, upload: u32, out: &mut impl Transmit) -> Result<(), Refusal> {
        self.answers()?;
        let slot = self.upload(upload)?;
        out.put(&Message::Abort(Abort { upload }), 0)?;
        slot.state = UploadState::Aborting;
        Ok(())
    }
}

/// The longest header of a CHUNK.
const CHUNK_HEADER: u32 = 5 + 10;
