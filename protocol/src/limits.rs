//! Every cap of the wire, with what happens at it. Nothing else in this crate makes up a limit.

/// The longest frame body (header and payload) any peer may agree to: a 256 KiB chunk with room for its header.
/// At the cap: the frame is refused before a byte of its body is kept.
pub const FRAME_MAX: u32 = 1 << 20;
/// The frame body agreed when HELLO says nothing smaller.
pub const FRAME_DEFAULT: u32 = 272 * 1024;
/// The smallest frame cap a peer may ask for. At the cap: HELLO is refused.
pub const FRAME_MIN: u32 = 256;
/// The longest frame body before a session is authenticated, and the cap on what is kept of a first flight.
pub const FRAME_UNAUTHENTICATED: u32 = 2 * 1024;
/// How many bytes of a first flight are kept while AUTH is being decided. At the cap: the session ends.
pub const FIRST_FLIGHT_KEPT: usize = 4 * 1024;
/// The longest frame body on a link: an envelope around the longest frame.
pub const FRAME_LINK: u32 = FRAME_MAX + 4 * 1024;

/// The longest payload of one event. At the cap: the event is refused for good (VOID).
pub const PAYLOAD_MAX: usize = 256 * 1024;
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
/// Longest keep-alive a peer may ask for: a day. Zero means none.
pub const KEEP_ALIVE_MAX_S: u32 = 86_400;
