//! Every cap of the edge, with what happens at it. Caps of the wire stand in `spile_protocol::limits`.

use std::time::Duration;

/// Live sessions. At the cap: a new one is told BUSY and when to come back.
pub const SESSIONS: usize = 65_536;
/// What is collected before one write to the peer, in bytes. At the cap: the rest waits where it is, in the log or in
/// state; only a single frame longer than this may go above it.
pub const WRITE: usize = 64 * 1024;
/// What one read takes from the peer at most, in bytes, before what it brought is worked off.
pub const READ: usize = 64 * 1024;
/// Reads worked off in one turn before other sessions have theirs.
pub const READS_A_TURN: usize = 4;

/// How often a session looks for room itself whose peer does not read: who has nothing to say is not told of room.
pub const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);
/// How long a session that was told to go may still read what is on its way to it.
pub const LINGER: Duration = Duration::from_secs(2);
/// When a lane whose worker is away is worth opening again, in milliseconds; the client adds its own jitter.
pub const AWAY_RETRY_MS: u32 = 500;

/// Groups whose lag a status tells: those that are furthest behind.
pub const LAGS_TOLD: usize = 16;

/// What a worker has said to one session over a link and its task has not taken, in bytes. At the cap: the session ends.
pub const LINK_INBOX: usize = 8 << 20;
/// What waits for the chunk credit of one link, in bytes it takes. At the cap: a session whose chunks wait reads nothing more until
/// they are gone; others go on.
pub const LINK_BULK: usize = 8 << 20;
/// The largest window, in bytes, a subscription has: what is delivered may have to wait at the edge while its client does
/// not read or settle. More is lowered to it, and the client hears so.
pub const WINDOW: u32 = 4 << 20;
/// The first wait before a link is tried again; it doubles, and a random part of it is taken.
pub const LINK_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait before a link is tried again.
pub const LINK_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Until a link is connected, TLS included. After it: it is tried again.
pub const LINK_CONNECT: Duration = Duration::from_secs(10);
/// What is held of workers' answers to requests that several were asked, in bytes a session. At the cap: a page ends
/// sooner and goes on with the next; a worker whose reply does not fit is missing from the answer.
pub const GATHERED: usize = 4 << 20;
/// Requests of one session that several workers were asked and that are not answered. At the cap: the next is told BUSY.
pub const SPREADS: usize = 16;
/// How long a listing waits for a worker that does not answer; without it the page is partial.
pub const LIST_WAIT: Duration = Duration::from_secs(5);
/// Calls that are remembered for who asks what a trace touched. At the cap: the oldest is forgotten.
pub const CALLS_REMEMBERED: usize = 4096;
/// Calls of one trace that are told; of more, the newest.
pub const TRACE_CALLS: usize = 32;
/// Deliveries of a merged subscription that are not settled, or whose settlement was not answered. At the cap: the next
/// is held back.
pub const UNANSWERED: usize = 65_536;
/// How long a worker whose turn it is to deliver to a group's consumer may have nothing, before the next has it …
pub const TURN: Duration = Duration::from_millis(20);
/// … twice as long each time nobody has, up to this.
pub const TURN_MOST: Duration = Duration::from_millis(500);
/// Values of kept topics that are held to be told again. At the cap: the one that was asked for first goes.
pub const CACHE_ENTRIES: usize = 65_536;
/// What they take, in bytes. At the cap: the same.
pub const CACHE_BYTES: usize = 64 << 20;
/// The longest VALUE that is held, in bytes. A longer one is asked for each time.
pub const CACHE_VALUE: usize = 64 * 1024;
/// Questions on their way whose answers may be held. At the cap: the next one's is not.
pub const CACHE_ASKED: usize = 16_384;
/// Answers out of the cache that one session has not taken. At the cap: the worker is asked, and its pace is the session's.
pub const CACHE_WAITING: usize = 16;

/// Principals whose newest FAULT is remembered. At the cap: the one it was told longest ago is forgotten.
pub const FAULTS_REMEMBERED: usize = 4_096;
/// Principals whose frames are logged at once. At the cap: one more is told TOO_MANY.
pub const DEBUGGED: usize = 64;
/// Frames of one session that are logged in a second. At the cap: the others are counted.
pub const FRAMES_LOGGED: u32 = 1_000;
