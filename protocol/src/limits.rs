//! Every cap of the wire, with what happens at it. Nothing else in this crate makes up a limit.

/// A cap as the specification lists it.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Its name here.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it bounds, and what happens at it.
    pub meaning: &'static str,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[doc = $doc])* pub const $name: $type = $value;)*
        /// Every cap, in order: what spec §12.3 lists.
        pub const TABLE: &[Limit] =
            &[$(Limit { name: stringify!($name), value: $name as u64, meaning: concat!($($doc),*) }),*];
    };
}

limits! {
    /// The longest frame body (header and payload) any peer may agree to: a 256 KiB chunk with room for its header.
    /// At the cap: the frame is refused before a byte of its body is kept.
    FRAME_MAX: u32 = 1 << 20;
    /// The frame body agreed when HELLO says nothing smaller.
    FRAME_DEFAULT: u32 = 272 * 1024;
    /// The smallest frame cap a peer may ask for, so that WELCOME, FAULT and LANE always fit. Below: HELLO is refused.
    FRAME_MIN: u32 = 512;
    /// The longest frame body before a session is authenticated, and the cap on what is kept of a first flight.
    FRAME_UNAUTHENTICATED: u32 = 2 * 1024;
    /// How many bytes of a first flight are kept while AUTH is being decided. At the cap: the session ends.
    FIRST_FLIGHT_KEPT: usize = 4 * 1024;
    /// The longest frame body on a link: an envelope around the longest frame.
    FRAME_LINK: u32 = FRAME_MAX + 4 * 1024;

    /// The longest payload of one event. At the cap: the event is refused for good (VOID).
    PAYLOAD_MAX: usize = 256 * 1024;
    /// The longest payload of one event where WELCOME does not say.
    PAYLOAD_DEFAULT: u32 = 256 * 1024;
    /// The most events in one BATCH.
    BATCH_EVENTS: u32 = 1024;
    /// The longest key, in bytes of UTF-8.
    KEY_BYTES: usize = 128;
    /// The longest topic or filter, in bytes of UTF-8.
    TOPIC_BYTES: usize = 128;
    /// The most levels of a topic.
    TOPIC_LEVELS: usize = 16;
    /// The longest tenant name.
    TENANT_BYTES: usize = 32;
    /// The longest name of a principal, a worker, a group or a service.
    NAME_BYTES: usize = 64;
    /// The longest content type.
    CONTENT_TYPE_BYTES: usize = 64;
    /// The most headers of one event, and their bytes together.
    HEADERS: usize = 8;
    /// The most bytes the headers of one event take, as encoded.
    HEADERS_BYTES: usize = 512;
    /// The longest text in a FAULT or GOAWAY; longer is cut.
    DETAIL_BYTES: usize = 256;
    /// The fields of a VALUE, CALL or REPLY, which has a payload behind them.
    BODY_FIELDS: usize = 2048;
    /// A principal with its role before it, `device/pump-7`; also a service, which may be a device.
    PRINCIPAL_BYTES: usize = NAME_BYTES + 8;
    /// The name of a sealed upload, and what names in a listing begin with.
    BLOB_NAME_BYTES: usize = 256;
    /// What a page of a listing begins after.
    CURSOR_BYTES: usize = 512;
    /// An upload's metadata, as encoded.
    META_BYTES: usize = 512;
    /// What a peer is, for logs.
    SOFTWARE_BYTES: usize = 64;
    /// Where a session comes from, for logs: an address and a port.
    PEER_BYTES: usize = 64;
    /// The server's proof that it knows a device key.
    PROOF_BYTES: usize = 32;
    /// A position for each worker, as encoded.
    POSITIONS_BYTES: usize = WORKERS * (1 + NAME_BYTES + 10);
    /// The longest token in an AUTH.
    TOKEN_BYTES: usize = 1536;

    /// Lanes a session may hold open. At the cap: LANE is answered with a FAULT, other lanes go on.
    LANES: u32 = 1024;
    /// Routes a session may bind. At the cap: BIND is answered with a FAULT.
    ROUTES: u32 = 1024;
    /// Subscriptions a session may hold. At the cap: SUBSCRIBE is answered with a FAULT.
    SUBSCRIPTIONS: u32 = 64;
    /// Runs remembered for a principal. At the cap: the one idle longest is forgotten.
    RUNS: usize = 64;
    /// Requests (GET, LIST, CALL, SERVE) of a session that are not answered yet. At the cap: FAULT for the next.
    REQUESTS: usize = 64;
    /// Payload of the CALLs of a session that are not answered yet. At the cap: FAULT for the next.
    REQUEST_BYTES: usize = 1 << 20;
    /// Uploads a session may have open. At the cap: OPEN is answered with a FAULT.
    UPLOADS: usize = 64;
    /// Services a session may serve. At the cap: SERVE is answered with a FAULT.
    SERVICES: usize = 16;
    /// Deliveries of one subscription that are not settled. At the cap: the next waits.
    DELIVERIES: usize = 4096;
    /// Cheap frames (spec §6.5) that may come at once: a client that opens all its lanes and binds all its routes, twice.
    /// At the cap: FAULT, the session ends.
    CHEAP_BURST: u32 = 4096;
    /// Cheap frames a second beyond that.
    CHEAP_PER_S: u32 = 1024;
    /// Cheap frames a session gets back for each event of its that is acknowledged.
    CHEAP_PER_EVENT: u32 = 4;
    /// Calls to a session that it has not answered. At the cap: no other is handed to it.
    CALLS: usize = 256;
    /// Faults that wait to be said to a session. At the cap: it asks and never reads, and ends.
    FAULTS: usize = 4096;
    /// How long a session that goes away answers what is in flight. At the deadline: it is closed.
    DRAIN_S: u32 = 10;
    /// PINGs that may come at once. At the cap: FAULT, the session ends.
    PING_BURST: u32 = 16;
    /// PINGs a second beyond that.
    PING_PER_S: u32 = 4;
    /// The longest chunk of an upload. At the cap: FAULT for the upload.
    CHUNK_MAX: usize = 256 * 1024;
    /// VOIDs a LANE's answer names: one window.
    VOIDS: usize = 1024;
    /// Sessions attached to one link.
    LINK_SESSIONS: u32 = 65_536;
    /// Workers of one deployment.
    WORKERS: usize = 32;
    /// Slots keys are spread over.
    SLOTS: u16 = 256;

    /// Events in flight a session starts with.
    CREDIT_EVENTS: u32 = 1024;
    /// Bytes in flight a session starts with.
    CREDIT_BYTES: u32 = 1 << 20;
    /// Bytes of chunks in flight a session starts with, over all uploads.
    CREDIT_CHUNK_BYTES: u32 = 1 << 20;
    /// Events in flight a link starts with, over all sessions.
    CREDIT_LINK_EVENTS: u32 = 1 << 17;
    /// Bytes of events' payload in flight a link starts with, over all sessions.
    CREDIT_LINK_BYTES: u32 = 1 << 26;
    /// Bytes of chunks in flight on a link whose worker does not say, over all sessions.
    CREDIT_LINK_CHUNK_BYTES: u32 = 8 << 20;
    /// Longest keep-alive a peer may ask for: a day. Zero means none.
    KEEP_ALIVE_MAX_S: u32 = 86_400;
    /// A client's keep-alive when HELLO does not say.
    KEEP_ALIVE_S: u32 = 60;
    /// A link's keep-alive when LINK_HELLO does not say.
    LINK_KEEP_ALIVE_S: u32 = 5;

    /// How long a whole TLS ClientHello may take. At the deadline: the connection is closed.
    CLIENT_HELLO_S: u32 = 5;
    /// How long TLS and AUTH may take together. At the deadline: the connection is closed.
    AUTH_S: u32 = 30;
    /// How long a frame may take whatever its length. At the deadline: FAULT deadline, the session ends.
    FRAME_S: u32 = 10;
    /// How many bytes of a frame must come in each second beyond that.
    FRAME_RATE: u32 = 256;
    /// The same four where the listener says `slow`, for NB-IoT and the like.
    SLOW_CLIENT_HELLO_S: u32 = 15;
    /// How long TLS and AUTH may take together on a slow listener.
    SLOW_AUTH_S: u32 = 120;
    /// How long a frame may take on a slow listener, whatever its length.
    SLOW_FRAME_S: u32 = 120;
    /// How many bytes of a frame must come in each second beyond that on a slow listener.
    SLOW_FRAME_RATE: u32 = 32;
    /// Connections of a listener that are not authenticated yet. At the cap: the oldest goes.
    HALF_OPEN: u32 = 4096;
    /// Of those, from one address. At the cap: its oldest goes.
    HALF_OPEN_ADDRESS: u32 = HALF_OPEN / 4;
}
