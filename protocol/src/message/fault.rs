//! FAULT: what went wrong, how far it reaches, and whether to come back. spec §4.6.

use serde::{Deserialize, Serialize};

use super::field::fields;
use crate::{
    code::Code,
    id::{LaneId, Number, RequestId, RouteId, SubscriptionId, Version},
    limits,
};

/// How far a fault reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The session: it is closed behind this frame.
    Session,
    /// The lane is closed; what is in flight on it is dropped and leaves the credit. A new LANE opens it.
    Lane {
        /// Which.
        lane: LaneId,
        /// The number the server expects next.
        expected: Number,
    },
    /// Numbers refused for good (VOID): their place is taken, the lane goes on.
    Number {
        /// In which lane.
        lane: LaneId,
        /// The first number refused.
        number: Number,
        /// How many.
        count: u32,
        /// The stream's version, where the fault is about it.
        version: Version,
    },
    /// The route was not bound.
    Route(RouteId),
    /// The subscription ended.
    Subscription(SubscriptionId),
    /// The request failed.
    Request(RequestId),
    /// The upload is closed or was not opened.
    Upload {
        /// The session's number for it.
        upload: u32,
        /// The offset the server expects next.
        expected: u64,
    },
}

fields! {
    /// Something was refused or failed.
    Fault<'a> {
        /// Why.
        code: Code,
        /// How far it reaches.
        scope: Scope,
        ;
        /// May the same be tried again as it is.
        retry: bool = false,
        /// After how long.
        retry_after_ms: u32 = 0,
        /// For people, one line.
        detail: &'a str [limits::DETAIL_BYTES] = "",
    }
}
