//! What a device's machine keeps its state in: lent by the caller, so that the machine allocates nothing.
//!
//! [`Fixed`] holds everything in arrays (a static on a microcontroller), [`Growable`] in vectors up to the caps of
//! [`limits`]; [`Parts`] itself is slices lent from anywhere.

use crate::{
    id::{LaneId, Number, SubscriptionId},
    limits,
    time::Instant,
};

/// A short text in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    pub(super) const EMPTY: Self = Self { length: 0, bytes: [0; N] };

    /// Keeps `text`; `None` where it is too long.
    pub(super) fn new(text: &str) -> Option<Self> {
        let mut new = Self { length: u8::try_from(text.len()).ok()?, bytes: [0; N] };
        new.bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(new)
    }

    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// How far a lane is. spec §17.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// LANE goes out with the next flight.
    Wanted,
    /// LANE went out.
    Opening,
    /// Answered.
    Open,
    /// Closed by a FAULT: LANE goes out again at that time; `None`: when the caller says so.
    Closed { until: Option<Instant> },
}

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// One lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneSlot {
    pub(super) key: Option<Text<{ limits::KEY_BYTES }>>,
    pub(super) urgent: bool,
    pub(super) state: LaneState,
    /// The number of the next event that is published.
    pub(super) next: Number,
    /// The last number of which we know that it is stored or refused.
    pub(super) acked: Number,
    /// The number the server takes the next event for, where none is spelled.
    pub(super) wire_next: Number,
    /// Where its entries in the window begin and end.
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The first of them that has not been sent on this connection.
    pub(super) unsent: u32,
    /// How often in a row it was closed without an ack between.
    pub(super) closed: u8,
}

impl Default for LaneSlot {
    fn default() -> Self {
        Self {
            key: None,
            urgent: false,
            state: LaneState::Wanted,
            next: Number(1),
            acked: Number(0),
            wire_next: Number(1),
            head: NONE,
            tail: NONE,
            unsent: NONE,
            closed: 0,
        }
    }
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct RouteSlot {
    pub(super) lane: LaneId,
    pub(super) topic: Text<{ limits::TOPIC_BYTES }>,
    pub(super) content_type: Text<{ limits::CONTENT_TYPE_BYTES }>,
    pub(super) encoding: Text<{ limits::CONTENT_TYPE_BYTES }>,
    pub(super) schema: u32,
    /// Did BIND go out on this connection?
    pub(super) told: bool,
}

impl Default for RouteSlot {
    fn default() -> Self {
        Self {
            lane: LaneId(0),
            topic: Text::EMPTY,
            content_type: Text::EMPTY,
            encoding: Text::EMPTY,
            schema: 0,
            told: false,
        }
    }
}

/// How far an event or a batch in the window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not sent on this connection.
    Unsent,
    /// Sent, and in the credit.
    Sent,
    /// Stored or refused: its place is free.
    Done,
}

/// One event or batch in the window.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub(super) lane: u32,
    pub(super) route: u32,
    pub(super) first: Number,
    pub(super) count: u32,
    pub(super) payload: u32,
    /// Its frame in the window's bytes.
    pub(super) at: u32,
    pub(super) length: u32,
    pub(super) born: Instant,
    /// Its age is spelled, and grows while it waits.
    pub(super) aged: bool,
    pub(super) progress: Progress,
    /// The lane's next entry.
    pub(super) next: u32,
}

impl Flight {
    /// Its last number.
    pub(super) const fn last(&self) -> Number {
        Number(self.first.0 + (self.count as u64).saturating_sub(1))
    }
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            lane: 0,
            route: 0,
            first: Number(0),
            count: 0,
            payload: 0,
            at: 0,
            length: 0,
            born: Instant(0),
            aged: false,
            progress: Progress::Done,
            next: NONE,
        }
    }
}

/// One subscription: how much came, and what its last delivery spelled.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionSlot {
    pub(super) id: Option<SubscriptionId>,
    pub(super) delivered: u64,
    pub(super) key: Text<{ limits::KEY_BYTES }>,
    pub(super) topic: Text<{ limits::TOPIC_BYTES }>,
    pub(super) worker: Text<{ limits::NAME_BYTES }>,
    pub(super) content_type: Text<{ limits::CONTENT_TYPE_BYTES }>,
    pub(super) encoding: Text<{ limits::CONTENT_TYPE_BYTES }>,
    pub(super) schema: u32,
}

impl Default for SubscriptionSlot {
    fn default() -> Self {
        Self {
            id: None,
            delivered: 0,
            key: Text::EMPTY,
            topic: Text::EMPTY,
            worker: Text::EMPTY,
            content_type: Text::EMPTY,
            encoding: Text::EMPTY,
            schema: 0,
        }
    }
}

/// How far an upload is. spec §7
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UploadState {
    /// The place is free.
    #[default]
    Free,
    /// OPEN went out.
    Opening,
    /// Answered: chunks go.
    Open,
    /// SEAL went out.
    Sealing,
    /// ABORT went out.
    Aborting,
}

/// One upload.
#[derive(Clone, Copy, Debug, Default)]
pub struct UploadSlot {
    pub(super) number: u32,
    pub(super) state: UploadState,
    pub(super) size: u64,
    /// The offset of the next chunk, and how far the server has stored.
    pub(super) next: u64,
    pub(super) stored: u64,
    pub(super) epoch: u32,
}

/// All tables of a machine, each as long as the caller makes it.
#[derive(Debug)]
pub struct Parts<'s> {
    /// Lanes that may be open.
    pub lanes: &'s mut [LaneSlot],
    /// Routes that may be bound.
    pub routes: &'s mut [RouteSlot],
    /// Events and batches in flight.
    pub flights: &'s mut [Flight],
    /// Their frames.
    pub window: &'s mut [u8],
    /// Subscriptions that may be open.
    pub subscriptions: &'s mut [SubscriptionSlot],
    /// Uploads that may be open.
    pub uploads: &'s mut [UploadSlot],
}

/// A table that may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// [`Parts::lanes`]
    Lanes,
    /// [`Parts::routes`]
    Routes,
    /// [`Parts::flights`]
    Flights,
    /// [`Parts::window`]
    Window,
    /// [`Parts::subscriptions`]
    Subscriptions,
    /// [`Parts::uploads`]
    Uploads,
}

/// Where a machine's state lies.
pub trait Storage {
    /// All tables.
    fn parts(&mut self) -> Parts<'_>;

    /// The subscriptions, to read.
    fn subscriptions(&self) -> &[SubscriptionSlot];

    /// The lanes, to read.
    fn lanes(&self) -> &[LaneSlot];

    /// Makes a table longer, keeping what is in it, so that `more` fit besides or as many as there can be; `false` where
    /// it is at its end.
    fn grow(&mut self, table: Table, more: usize) -> bool {
        let _: (Table, usize) = (table, more);
        false
    }
}

impl Storage for Parts<'_> {
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            lanes: self.lanes,
            routes: self.routes,
            flights: self.flights,
            window: self.window,
            subscriptions: self.subscriptions,
            uploads: self.uploads,
        }
    }

    fn subscriptions(&self) -> &[SubscriptionSlot] {
        self.subscriptions
    }

    fn lanes(&self) -> &[LaneSlot] {
        self.lanes
    }
}

/// Everything in arrays: `LANES` lanes and so on, and `WINDOW` bytes of frames in flight.
#[derive(Debug)]
pub struct Fixed<
    const LANES: usize,
    const ROUTES: usize,
    const FLIGHTS: usize,
    const WINDOW: usize,
    const SUBSCRIPTIONS: usize,
    const UPLOADS: usize,
> {
    lanes: [LaneSlot; LANES],
    routes: [RouteSlot; ROUTES],
    flights: [Flight; FLIGHTS],
    window: [u8; WINDOW],
    subscriptions: [SubscriptionSlot; SUBSCRIPTIONS],
    uploads: [UploadSlot; UPLOADS],
}

impl<const L: usize, const R: usize, const F: usize, const W: usize, const S: usize, const U: usize>
    Fixed<L, R, F, W, S, U>
{
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lanes: [LaneSlot::default(); L],
            routes: [RouteSlot::default(); R],
            flights: [Flight::default(); F],
            window: [0; W],
            subscriptions: [SubscriptionSlot::default(); S],
            uploads: [UploadSlot::default(); U],
        }
    }
}

impl<const L: usize, const R: usize, const F: usize, const W: usize, const S: usize, const U: usize>
    Default for Fixed<L, R, F, W, S, U>
{
    fn default() -> Self {
        Self::new()
    }
}

impl<const L: usize, const R: usize, const F: usize, const W: usize, const S: usize, const U: usize>
    Storage for Fixed<L, R, F, W, S, U>
{
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            lanes: &mut self.lanes,
            routes: &mut self.routes,
            flights: &mut self.flights,
            window: &mut self.window,
            subscriptions: &mut self.subscriptions,
            uploads: &mut self.uploads,
        }
    }

    fn subscriptions(&self) -> &[SubscriptionSlot] {
        &self.subscriptions
    }

    fn lanes(&self) -> &[LaneSlot] {
        &self.lanes
    }
}

#[cfg(feature = "alloc")]
mod growable {
    use alloc::vec::Vec;

    use super::{Flight, LaneSlot, Parts, RouteSlot, Storage, SubscriptionSlot, Table, UploadSlot};
    use crate::limits;

    /// Everything in vectors that grow as they are needed, up to the caps.
    #[derive(Debug)]
    pub struct Growable {
        lanes: Vec<LaneSlot>,
        routes: Vec<RouteSlot>,
        flights: Vec<Flight>,
        window: Vec<u8>,
        subscriptions: Vec<SubscriptionSlot>,
        uploads: Vec<UploadSlot>,
        most_flights: usize,
        most_bytes: usize,
    }

    impl Growable {
        /// At most so many events and batches, and bytes of their frames, in flight.
        #[must_use]
        pub const fn new(flights: usize, bytes: usize) -> Self {
            Self {
                lanes: Vec::new(),
                routes: Vec::new(),
                flights: Vec::new(),
                window: Vec::new(),
                subscriptions: Vec::new(),
                uploads: Vec::new(),
                most_flights: flights,
                most_bytes: bytes,
            }
        }
    }

    /// Doubles a table, at least by what is needed and at most to its cap.
    fn grow<T: Clone + Default>(table: &mut Vec<T>, more: usize, most: usize) -> bool {
        let wanted = (table.len() * 2).max(table.len() + more.max(4)).min(most);
        let grows = wanted > table.len();
        if grows {
            table.resize(wanted, T::default());
        }
        grows
    }

    impl Storage for Growable {
        fn parts(&mut self) -> Parts<'_> {
            Parts {
                lanes: &mut self.lanes,
                routes: &mut self.routes,
                flights: &mut self.flights,
                window: &mut self.window,
                subscriptions: &mut self.subscriptions,
                uploads: &mut self.uploads,
            }
        }

        fn subscriptions(&self) -> &[SubscriptionSlot] {
            &self.subscriptions
        }

        fn lanes(&self) -> &[LaneSlot] {
            &self.lanes
        }

        fn grow(&mut self, table: Table, more: usize) -> bool {
            let cap = |cap: u32| usize::try_from(cap).unwrap_or(usize::MAX);
            match table {
                Table::Lanes => grow(&mut self.lanes, more, cap(limits::LANES)),
                Table::Routes => grow(&mut self.routes, more, cap(limits::ROUTES)),
                Table::Flights => grow(&mut self.flights, more, self.most_flights),
                Table::Window => grow(&mut self.window, more, self.most_bytes),
                Table::Subscriptions => {
                    grow(&mut self.subscriptions, more, cap(limits::SUBSCRIPTIONS))
                }
                Table::Uploads => grow(&mut self.uploads, more, limits::UPLOADS),
            }
        }
    }
}
#[cfg(feature = "alloc")]
pub use growable::Growable;
