//! Workers, as a session sees them: over a link or in the same process, it is the same three calls.
//!
//! A session takes a [`Port`] at each worker it needs. What it brings goes in by [`Port::take`], all of one read at
//! once; what it may be told comes out by [`Port::poll`]. Neither waits. Invariant: an answer that [`Port::poll`] gave is
//! the client's; what did not fit the room stays with the port, so that nothing is held twice.

use std::task::{Context, Poll};

use bytes::Bytes;

use spile_protocol::{
    id::{Number, Slot},
    limits::WORKERS,
    message::{Attach, Message},
    session::Amount,
    time::Millis,
};

/// What a session hands to a worker: a message of the client's, or a VOID of the edge's own, whose session the port fills
/// in.
#[derive(Clone, Copy, Debug)]
pub struct Input<'b> {
    /// The message.
    pub message: Message<'b>,
    /// EVENT, BATCH: the first event's number.
    pub number: Number,
    /// CRC-32 of its payload, as it came.
    pub payload_crc: u32,
    /// The block its payload stands in, where it came in one of its own: what is kept of it need not be copied.
    pub block: Option<&'b Bytes>,
}

/// A worker that is not there at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// When it is worth asking again.
    pub retry_after_ms: u32,
}

/// A worker.
pub trait Upstream: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Tells the worker who the session is. The session is detached when the port is dropped.
    ///
    /// # Errors
    /// The worker is away.
    fn attach(&self, attach: &Attach<'_>) -> Result<Box<dyn Port>, Away>;

    /// Do other edges come to it too? Then every session is attached at the one that has its principal's slot, whatever it
    /// does, so that it is known who is here (spec §10.2.2).
    fn is_shared(&self) -> bool {
        false
    }

    /// Ready when it is worth attaching again, where it was away. One in the same process never is.
    fn back(&self) -> Back {
        Box::pin(std::future::ready(()))
    }
}

/// Ready when a worker is back.
pub type Back = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a port has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// [`Port::poll`] may have something.
    Some,
    /// The worker went away: the port is dead, and what it had not said is gone.
    Away(Away),
}

/// A session's place at a worker.
pub trait Port: Send {
    /// Hands over all of `inputs`, in order.
    fn take<'b>(&mut self, now: Millis, inputs: &mut dyn Iterator<Item = Input<'b>>);

    /// Gives to `sink` what the session may be told now, with the payload's CRC, as long as `room` bytes of frames last.
    /// A single message that is longer than all of `room` may go where nothing else did.
    fn poll(&mut self, room: usize, sink: &mut dyn FnMut(&Message<'_>, u32));

    /// What the session has in flight now, over all its workers.
    fn in_flight(&mut self, _amount: Amount) {}

    /// Does the worker take more now? Where not, nothing more is read from the client until [`Port::poll_ready`] wakes
    /// the task: too much waits for the disk.
    fn has_room(&self) -> bool {
        true
    }

    /// Ready when [`Port::poll`] may have something, which includes what it kept for lack of room; wakes the task
    /// otherwise.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready>;
}

/// All workers of a deployment, and which slots each has.
#[derive(Clone)]
pub struct Workers {
    all: Vec<std::sync::Arc<dyn Upstream>>,
    slots: Box<[u8; 256]>,
}

/// Why workers and slots do not fit together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// None, or too many.
    #[error("workers: {0}; there must be 1 to {WORKERS}")]
    Count(usize),
    /// Two workers, or none, have a slot.
    #[error("slot {slot} is with {workers} workers; each slot must be with exactly one")]
    Shared {
        /// Which slot.
        slot: u8,
        /// How many have it.
        workers: usize,
    },
    /// Two workers of one name: positions could not be told apart.
    #[error("two workers are named {0:?}; each must have a name of its own")]
    Name(String),
}

impl Workers {
    /// One worker that has all slots.
    #[must_use]
    pub fn one(worker: std::sync::Arc<dyn Upstream>) -> Self {
        Self { all: vec![worker], slots: Box::new([0; 256]) }
    }

    /// Several workers, each with one bit a slot.
    ///
    /// # Errors
    /// A slot is with two workers or with none.
    pub fn new(workers: Vec<(std::sync::Arc<dyn Upstream>, [u8; 32])>) -> Result<Self, SlotsError> {
        if !(1..=WORKERS).contains(&workers.len()) {
            return Err(SlotsError::Count(workers.len()));
        }
        let mut slots = Box::new([0; 256]);
        for (slot, owner) in (0..=u8::MAX).zip(slots.iter_mut()) {
            *owner = owner_of(slot, &workers)?;
        }
        let all: Vec<_> = workers.into_iter().map(|(worker, _)| worker).collect();
        let mut names: Vec<_> = all.iter().map(|worker| worker.name()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
            Some(name) => Err(SlotsError::Name((*name).to_owned())),
            None => Ok(Self { all, slots }),
        }
    }

    /// How many workers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The worker with that place.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&dyn Upstream> {
        self.all.get(place).map(AsRef::as_ref)
    }

    /// All workers, by place.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Upstream> {
        self.all.iter().map(AsRef::as_ref)
    }

    /// What is wrong with a list that names workers, where one is none of these or is named twice.
    pub(crate) fn misnamed(&self, named: &[&str]) -> Option<String> {
        for (before, name) in named.iter().enumerate() {
            if !self.iter().any(|worker| worker.name() == *name) {
                let here: Vec<_> = self.iter().map(Upstream::name).collect();
                return Some(format!("{name} is no worker here; there is {}", here.join(", ")));
            }
            if named.iter().take(before).any(|earlier| earlier == name) {
                return Some(format!("{name} is named twice; name each worker once"));
            }
        }
        None
    }

    /// The place of the worker that has `key` of `tenant`.
    #[must_use]
    pub fn of(&self, tenant: &str, key: &str) -> usize {
        if self.all.len() == 1 {
            return 0;
        }
        self.of_slot(Slot::of(tenant, key).0)
    }

    /// The place of the worker that has the slot.
    #[must_use]
    pub fn of_slot(&self, slot: u8) -> usize {
        self.slots.get(usize::from(slot)).copied().map_or(0, usize::from)
    }
}

impl core::fmt::Debug for Workers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter().map(Upstream::name)).finish()
    }
}

/// Is the slot's bit set?
#[must_use]
pub fn has_slot(slots: &[u8; 32], slot: u8) -> bool {
    slots.get(usize::from(slot / 8)).is_some_and(|byte| byte & (1 << (slot % 8)) != 0)
}

fn owner_of(
    slot: u8,
    workers: &[(std::sync::Arc<dyn Upstream>, [u8; 32])],
) -> Result<u8, SlotsError> {
    let mut owners = (0_u8..).zip(workers).filter(|(_, (_, slots))| has_slot(slots, slot));
    match (owners.next(), owners.count()) {
        (Some((owner, _)), 0) => Ok(owner),
        (first, more) => {
            Err(SlotsError::Shared { slot, workers: more + usize::from(first.is_some()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Named(&'static str);

    impl Upstream for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn attach(&self, _: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
            Err(Away { retry_after_ms: 1 })
        }
    }

    fn workers(of: &[(&'static str, [u8; 32])]) -> Result<Workers, SlotsError> {
        Workers::new(
            of.iter()
                .map(|&(name, slots)| (Arc::new(Named(name)) as Arc<dyn Upstream>, slots))
                .collect(),
        )
    }

    const EVEN: [u8; 32] = [0x55; 32];
    const ODD: [u8; 32] = [0xaa; 32];

    #[test]
    fn every_slot_is_with_exactly_one_worker() {
        let mut gap = ODD;
        gap[31] = 0x2a;
        for (of, want) in [
            (&[("a", EVEN), ("b", ODD)][..], None),
            (&[("a", [0xff; 32])], None),
            (&[], Some(SlotsError::Count(0))),
            (&[("a", EVEN), ("b", gap)], Some(SlotsError::Shared { slot: 255, workers: 0 })),
            (&[("a", [0xff; 32]), ("b", ODD)], Some(SlotsError::Shared { slot: 1, workers: 2 })),
            (&[("a", EVEN), ("a", ODD)], Some(SlotsError::Name("a".to_owned()))),
        ] {
            assert_eq!(workers(of).err(), want);
        }
    }

    #[test]
    fn a_key_goes_where_its_slot_is() {
        let two = workers(&[("a", EVEN), ("b", ODD)]).unwrap();
        for key in ["k1", "k2", "k3", "k4"] {
            let odd = Slot::of("main", key).0 % 2;
            assert_eq!(two.of("main", key), usize::from(odd), "{key}");
        }
    }
}
