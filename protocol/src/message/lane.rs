//! LANE and BIND: names are given once, then events are short. spec §5.1, §5.2.

use serde::{Deserialize, Serialize};

use super::field::{self, List, fields};
use crate::{
    code::Code,
    id::{LaneId, Number, Position, RouteId, Version},
    limits,
};

fields! {
    /// From the client: this lane carries that key, and this is my first unacked number.
    Lane<'a> {
        /// The client's number for the lane; 0 is its own id's.
        lane: LaneId,
        /// The first number it has not heard an ack of: the number of the next event on the lane.
        first_unacked: Number,
        ;
        /// The key; `None` for the client's own id.
        key: Option<&'a str> [limits::KEY_BYTES] = None,
        /// Goes before other lanes.
        urgent: bool = false,
    }
}

/// A number that was refused for good, as the answer to LANE names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The first number.
    pub number: Number,
    /// How many.
    pub count: u32,
    /// Why.
    pub code: Code,
}

/// Numbers that were stored one after the other: event `i` has `version + i` and `position + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The first number.
    pub number: Number,
    /// How many.
    pub count: u32,
    /// The first one's version.
    pub version: Version,
    /// The first one's position.
    pub position: Position,
}

/// An upload that is open, as the answer to lane 0 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUpload {
    /// The client's id for it.
    #[serde(serialize_with = "field::hex")]
    pub id: [u8; 16],
    /// Bytes that are stored.
    pub stored_offset: u64,
}

fields! {
    /// From the server: the lane is open. The answer to LANE; told apart by direction.
    LaneAnswer<'a> {
        /// The client's number for the lane.
        lane: LaneId,
        /// The last number stored or refused in this run; `None` while the key's worker is away.
        last: Option<Number>,
        ;
        /// The worker that holds the key: the first half of its positions.
        worker: &'a str [limits::NAME_BYTES] = "",
        /// Numbers from the one named on, one window at most, that were refused.
        refused: List<'a, Refused> = List::default(),
        /// With receipts: the numbers from the one named on that were stored.
        receipts: List<'a, Receipt> = List::default(),
        /// Lane 0: uploads that are open.
        uploads: List<'a, OpenUpload> = List::default(),
        /// Lane 0: the inbox cursor, a version of the client's own stream.
        inbox: Version = Version(0),
    }
}

fields! {
    /// From the client: this route means that lane, topic, content type and schema.
    Bind<'a> {
        /// The client's number for the route.
        route: RouteId,
        /// Which lane its events take.
        lane: LaneId,
        /// What they are about.
        topic: &'a str [limits::TOPIC_BYTES],
        ;
        /// What the payload is; empty for not said.
        content_type: &'a str [limits::CONTENT_TYPE_BYTES] = "",
        /// The payload's schema number; 0 for none.
        schema: u32 = 0,
        /// How the payload is encoded (`zstd`); the bus never looks inside.
        encoding: &'a str [limits::CONTENT_TYPE_BYTES] = "",
    }
}
