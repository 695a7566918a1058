//! SUBSCRIBE, SETTLE and END: asking for events, saying what became of them, and stopping. spec §8.1, §8.3, §8.4.

use serde::{Deserialize, Serialize};

use super::field::{Fits, List, fields};
use crate::{
    id::{Position, SubscriptionId, Version},
    limits,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source<'a> {
    /// Every event whose topic falls under the filter, and of one key where one is named.
    Filter {
        /// Levels, `+` and `#`.
        filter: &'a str,
        /// Only this key's.
        key: Option<&'a str>,
        /// Where to begin.
        from: From<'a>,
    },
    /// One key's events in order.
    Stream {
        /// Whose.
        key: &'a str,
        /// The first version wanted.
        from: Version,
    },
    /// Deliveries of a durable group.
    Group {
        /// Its name.
        name: &'a str,
        /// The most events of one delivery.
        max_events: u32,
        /// The most bytes of one delivery.
        max_bytes: u32,
    },
    /// The client's own inbox, behind its cursor; a SETTLE that says done moves the cursor.
    Inbox,
}

impl Fits for Source<'_> {
    fn fits(&self, longest: usize) -> bool {
        match self {
            Self::Filter { filter, key, from } => {
                filter.len() <= limits::TOPIC_BYTES && key.fits(longest) && from.fits(longest)
            }
            Self::Stream { key, .. } => key.len() <= longest,
            Self::Group { name, .. } => name.len() <= limits::NAME_BYTES,
            Self::Inbox => true,
        }
    }
}

/// Where a subscription by filter begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From<'a> {
    /// With the first event that is kept.
    Start,
    /// With what is stored from now on.
    End,
    /// At a time: milliseconds since 1970.
    Time(u64),
    /// At a position of each worker; a worker that is not named is refused.
    Positions(#[serde(borrow)] List<'a, At<'a>>),
}

impl Fits for From<'_> {
    fn fits(&self, _: usize) -> bool {
        match self {
            Self::Start | Self::End | Self::Time(_) => true,
            Self::Positions(list) => list.fits(limits::POSITIONS_BYTES),
        }
    }
}

/// A position of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At<'a> {
    /// The worker's name.
    pub worker: &'a str,
    /// The position of the first record wanted.
    pub position: Position,
}

fields! {
    /// From the client: deliver these. Answered by a CREDIT with the window that is kept, or a FAULT.
    Subscribe<'a> {
        /// The client's number for it.
        subscription: SubscriptionId,
        /// What is asked for.
        source: Source<'a> [limits::KEY_BYTES],
        /// Events that may be delivered and not settled.
        events: u32,
        /// Bytes of payload that may be delivered and not settled.
        bytes: u32,
        ;
        /// Go on with what is stored later; else the subscription ends when it has caught up.
        live: bool = true,
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was received: the credit it held is free. All that a plain subscription says.
    Seen,
    /// Done, for good.
    Done,
    /// Try it again, no earlier than after so many milliseconds; 0 for the group's own backoff.
    Retry {
        /// How long.
        after_ms: u64,
    },
    /// It is dead at once.
    Reject,
}

fields! {
    /// From the consumer: what became of a delivery. From the server, for a group: that is durable.
    Settle<'a> {
        /// Which subscription.
        subscription: SubscriptionId,
        /// The delivery's number in it: 1, 2, 3 … in the order they were delivered. SEEN counts for all up to it.
        delivery: u64,
        /// What became of it.
        outcome: Outcome,
        ;
        /// How many of the delivery's unsettled events, from the first of them; 0 for all.
        events: u32 = 0,
        /// Why, for a dead letter.
        reason: &'a str [limits::DETAIL_BYTES] = "",
    }
}

fields! {
    /// From the server: the subscription has delivered all that was asked for and ends. From the client: end it.
    End {
        /// Which.
        subscription: SubscriptionId,
        ;
    }
}
