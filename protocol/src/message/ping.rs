//! PING and GOAWAY: still there, and leaving. spec §4.4, §4.5.

use super::field::fields;
use crate::{code::Code, limits};

fields! {
    /// Are you there; answered with the same number and `answer` set.
    Ping {
        /// Chosen by who asks.
        number: u32,
        /// Is this the answer?
        answer: bool,
        ;
    }
}

fields! {
    /// The sender will close the session: nothing new is taken, what is in flight is still answered until it closes.
    GoAway<'a> {
        /// Why.
        code: Code,
        ;
        /// When to come back; 0 for at once.
        retry_after_ms: u32 = 0,
        /// For people.
        detail: &'a str [limits::DETAIL_BYTES] = "",
    }
}
