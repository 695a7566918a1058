//! CREDIT: how much may be sent and unacked. spec §6.

use super::field::fields;
use crate::id::SubscriptionId;

fields! {
    /// An absolute limit on what is in flight; the last one said counts.
    Credit {
        /// `None`: what the receiver publishes. Else: what is delivered on that subscription.
        subscription: Option<SubscriptionId>,
        /// Events in flight.
        events: u32,
        /// Bytes of payload in flight.
        bytes: u32,
        ;
        /// Without a subscription: bytes of chunks in flight over all uploads; `None` leaves it as it is.
        chunk_bytes: Option<u32> = None,
    }
}
