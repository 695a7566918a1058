//! Every cap of the wire, with what happens at it. Nothing else in this crate makes up a limit.

/// The longest frame body (header and payload) any peer may agree to: a 256 KiB chunk with room for its header.
/// At the cap: the frame is refused before a byte of its body is kept.
pub const FRAME_MAX: u32 = 1 << 20;
/// The frame body agreed when HELLO says nothing smaller.
pub const FRAME_DEFAULT: u32 = 272 * 1024;
/// The smallest frame cap a peer may ask for, so that WELCOME, FAULT and LANE always fit. Below: HELLO is refused.
pub const FRAME_MIN: u32 = 512;
/// The longest frame body before a session is authenticated, and the cap on what is kept of a first flight.
pub const FRAME_UNAUTHENTICATED: u32 = 2 * 1024;
/// How many bytes of a first flight are kept while AUTH is being decided. At the cap: the session ends.
pub const FIRST_FLIGHT_KEPT: usize = 4 * 1024;
/// The longest frame body on a link: an envelope around the longest frame.
pub const FRAME_LINK: u32 = FRAME_MAX + 4 * 1024;

/// The longest payload of one event. At the cap: the event is refused for good (VOID).
pub const PAYLOAD_MAX: usize = 256 * 1024;
/// The longest payload of one event where WELCOME does not say.
pub const PAYLOAD_DEFAULT: u32 = 256 * 1024;
/// The most events in one BATCH.
pub const BATCH_EVENTS: u32 = 1024;
/// The longest key, in bytes of UTF-8.
pub const KEY_BYTES: usize = 128;
/// The longest topic or filter, in bytes of UTF-8.
pub const TOPIC_BYTES: usize = 128;
/// The most levels of a topic.
pub const TOPIC_LEVELS: usize = 16;
/// The longest tenant name.
pub const TENANT_BYTES: usize = 32;
/// The longest name of a principal, a worker, a group or a service.
pub const NAME_BYTES: usize = 64;
/// The longest content type.
pub const CONTENT_TYPE_BYTES: usize = 64;
/// The most headers of one event, and their bytes together.
pub const HEADERS: usize = 8;
/// The most bytes the headers of one event take, as encoded.
pub const HEADERS_BYTES: usize = 512;
/// The longest text in a FAULT or GOAWAY; longer is cut.
pub const DETAIL_BYTES: usize = 256;
/// The fields of a VALUE, CALL or REPLY, which has a payload behind them.
pub const BODY_FIELDS: usize = 2048;
/// A principal with its role before it, `device/pump-7`; also a service, which may be a device.
pub const PRINCIPAL_BYTES: usize = NAME_BYTES + 8;
/// The name of a sealed upload, and what names in a listing begin with.
pub const BLOB_NAME_BYTES: usize = 256;
/// What a page of a listing begins after.
pub const CURSOR_BYTES: usize = 512;
/// An upload's metadata, as encoded.
pub const META_BYTES: usize = 512;
/// What a peer is, for logs.
pub const SOFTWARE_BYTES: usize = 64;
/// Where a session comes from, for logs: an address and a port.
pub const PEER_BYTES: usize = 64;
/// The server's proof that it knows a device key.
pub const PROOF_BYTES: usize = 32;
/// A position for each worker, as encoded.
pub const POSITIONS_BYTES: usize = WORKERS * (1 + NAME_BYTES + 10);
/// The longest token in an AUTH.
pub const TOKEN_BYTES: usize = 1536;

/// Lanes a session may hold open. At the cap: LANE is answered with a FAULT, other lanes go on.
pub const LANES: u32 = 1024;
/// Routes a session may bind. At the cap: BIND is answered with a FAULT.
pub const ROUTES: u32 = 1024;
/// Subscriptions a session may hold. At the cap: SUBSCRIBE is answered with a FAULT.
pub const SUBSCRIPTIONS: u32 = 64;
/// Runs remembered for a principal. At the cap: the one idle longest is forgotten.
pub const RUNS: usize = 64;
/// Requests (GET, LIST, CALL, SERVE) of a session that are not answered yet. At the cap: FAULT for the next.
pub const REQUESTS: u32 = 64;
/// Payload of the CALLs of a session that are not answered yet. At the cap: FAULT for the next.
pub const REQUEST_BYTES: usize = 1 << 20;
/// Uploads a session may have open. At the cap: OPEN is answered with a FAULT.
pub const UPLOADS: u32 = 64;
/// Services a session may serve. At the cap: SERVE is answered with a FAULT.
pub const SERVICES: u32 = 16;
/// The longest chunk of an upload. At the cap: FAULT for the upload.
pub const CHUNK_MAX: usize = 256 * 1024;
/// VOIDs a LANE's answer names: one window.
pub const VOIDS: usize = 1024;
/// Sessions attached to one link.
pub const LINK_SESSIONS: u32 = 65_536;
/// Workers of one deployment.
pub const WORKERS: usize = 32;
/// Slots keys are spread over.
pub const SLOTS: u16 = 256;

/// Events in flight a session starts with.
pub const CREDIT_EVENTS: u32 = 1024;
/// Bytes in flight a session starts with.
pub const CREDIT_BYTES: u32 = 1 << 20;
/// Bytes of chunks in flight a session starts with, over all uploads.
pub const CREDIT_CHUNK_BYTES: u32 = 1 << 20;
/// Events in flight a link starts with, over all sessions.
pub const CREDIT_LINK_EVENTS: u32 = 1 << 17;
/// Bytes of payload in flight a link starts with, over all sessions; chunks count too.
pub const CREDIT_LINK_BYTES: u32 = 1 << 26;
/// Longest keep-alive a peer may ask for: a day. Zero means none.
pub const KEEP_ALIVE_MAX_S: u32 = 86_400;
/// A client's keep-alive when HELLO does not say.
pub const KEEP_ALIVE_S: u32 = 60;
/// A link's keep-alive when LINK_HELLO does not say.
pub const LINK_KEEP_ALIVE_S: u32 = 5;

/// How long a whole TLS ClientHello may take. At the deadline: the connection is closed.
pub const CLIENT_HELLO_S: u32 = 5;
/// How long TLS and AUTH may take together. At the deadline: the connection is closed.
pub const AUTH_S: u32 = 30;
/// How long a frame may take whatever its length. At the deadline: FAULT deadline, the session ends.
pub const FRAME_S: u32 = 10;
/// How many bytes of a frame must come in each second beyond that.
pub const FRAME_RATE: u32 = 256;
/// The same four where the listener says `slow`, for NB-IoT and the like.
pub const SLOW_CLIENT_HELLO_S: u32 = 15;
/// How long TLS and AUTH may take together on a slow listener.
pub const SLOW_AUTH_S: u32 = 120;
/// How long a frame may take on a slow listener, whatever its length.
pub const SLOW_FRAME_S: u32 = 120;
/// How many bytes of a frame must come in each second beyond that on a slow listener.
pub const SLOW_FRAME_RATE: u32 = 32;
/// Connections of a listener that are not authenticated yet. At the cap: the oldest goes.
pub const HALF_OPEN: u32 = 4096;
/// Of those, from one address. At the cap: its oldest goes.
pub const HALF_OPEN_ADDRESS: u32 = HALF_OPEN / 4;
