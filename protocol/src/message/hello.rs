//! HELLO and WELCOME: what both sides can, before anything else. spec §4.1, §4.2.

use super::field::fields;
use crate::{id::Run, limits, message::field};

/// The protocol version this build speaks.
pub const VERSION: u16 = 1;

fields! {
    /// The first frame of a session, from who connects. Its fields up to `run` are frozen for ever.
    Hello<'a> {
        /// The newest version the sender speaks.
        version: u16,
        /// The oldest version the sender speaks.
        oldest: u16,
        /// The longest frame body the sender takes.
        frame_max: u32,
        /// The run it numbers in.
        run: Run,
        ;
        /// Ask for receipts (number, version, position of each event) instead of short acks.
        receipts: bool = false,
        /// After how many silent seconds the sender will ping, and wants to be pinged; 0 for never.
        keep_alive_s: u32 = 60,
        /// What the sender is, for logs: `spile-client/0.1.0`.
        software: &'a str [limits::SOFTWARE_BYTES] = "",
        /// The newest run of this principal's that the sender gave up, so that the server may forget it; zero for none.
        abandoned: Run = Run([0; 8]),
    }
}

fields! {
    /// The server's answer, when AUTH is decided. It waits for no worker.
    Welcome<'a> {
        /// The version that is spoken from here on.
        version: u16,
        /// The server's wall clock, in milliseconds since 1970.
        server_time_ms: u64,
        /// The longest frame body the server takes from now on.
        frame_max: u32,
        /// Events that may be sent and unacked.
        credit_events: u32,
        /// Bytes of payload that may be sent and unacked.
        credit_bytes: u32,
        ;
        /// After how many silent seconds the server gives the session up; 0 for never.
        idle_timeout_s: u32 = 0,
        /// Who the session is.
        principal: &'a str [limits::NAME_BYTES] = "",
        /// In which tenant.
        tenant: &'a str [limits::TENANT_BYTES] = "",
        /// The server's proof that it knows the device key; empty otherwise.
        #[serde(serialize_with = "field::hex")]
        proof: &'a [u8] [limits::PROOF_BYTES] = <&[u8]>::default(),
        /// Lanes that may be open.
        lanes: u32 = limits::LANES,
        /// Routes that may be bound.
        routes: u32 = limits::ROUTES,
        /// The longest payload of one event.
        payload_max: u32 = limits::PAYLOAD_DEFAULT,
        /// What the server is, for logs.
        software: &'a str [limits::SOFTWARE_BYTES] = "",
        /// The session's number at this edge, as it stands in logs.
        session: u64 = 0,
        /// The edge's name.
        edge: &'a str [limits::NAME_BYTES] = "",
        /// Bytes of chunks that may be sent and unacked, over all uploads.
        chunk_bytes: u32 = limits::CREDIT_CHUNK_BYTES,
    }
}
