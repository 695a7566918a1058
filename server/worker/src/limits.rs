//! Every cap of the worker, with what happens at it. What the wire caps stands in `spile_protocol::limits`.

/// A run is forgotten after so long without a record, by record time: 30 days.
pub const RUN_IDLE_MS: u64 = 30 * 24 * 3600 * 1000;
/// Keys one run may number. At the cap: LANE is answered with TOO_MANY.
pub const KEYS_OF_RUN: usize = 65_536;
/// Streams one worker keeps. At the cap: LANE of a key that is not known is answered with TOO_MANY.
pub const STREAMS: usize = 64 << 20;
/// Bytes of records gathered before they are handed to the log, within one intake. At the cap: they are, and the intake
/// goes on.
pub const CALL_BYTES: usize = 2 << 20;
/// Cuts of the log that are remembered for sessions that were not looked at since. At the cap the oldest is forgotten,
/// and such a session is told that the outcome is unknown, which a resend settles.
pub const CUTS: usize = 64;
/// Messages waiting for a session. At the cap: the request that would add one is answered BUSY.
pub const WAITING_MESSAGES: usize = 1024;
/// Receipts in one ACK; more go into further ACKs.
pub const RECEIPTS_OF_ACK: usize = 64;
/// Bytes one subscription reads from the log at once.
pub const READ_BYTES: usize = 256 * 1024;
/// Bytes that subscriptions of one worker that wait hold of what they read. At the cap: one that waits lets go of it, and
/// reads it again when it may deliver.
pub const AHEAD_BYTES: usize = 16 << 20;
/// Bytes of lone events that are joined into one delivery. More go into the next.
pub const JOINED_BYTES: usize = 64 * 1024;
/// The largest window a subscription may ask for. More is lowered to it.
pub const WINDOW_EVENTS: u32 = 1 << 20;
/// The same in bytes of payload.
pub const WINDOW_BYTES: u32 = 64 << 20;
/// Records a subscription looks at in one `poll` before others have their turn.
pub const SCAN_RECORDS: usize = 65_536;
/// Devices of one registry. At the cap: adding one is answered TOO_MANY.
pub const DEVICES: usize = 4 << 20;
/// How long a peer is asked to wait where the queues are full.
pub const RETRY_BUSY_MS: u32 = 50;
/// How long a peer is asked to wait where the disk is full or its outcome unknown.
pub const RETRY_DISK_MS: u32 = 1000;
/// Bytes of an answer's list (receipts, refused numbers) in one message.
pub const LIST_BYTES: usize = 8 * 1024;
/// A checkpoint is written after so many seconds in which anything changed …
pub const CHECKPOINT_S: u64 = 30;
/// … or so many changed rows. It bounds how long the core is locked to copy them: some milliseconds.
pub const CHECKPOINT_ROWS: usize = 65_536;
/// … or so many positions: what a start reads of the log, about a second's work.
pub const CHECKPOINT_POSITIONS: u64 = 4 << 20;
/// Positions a start read of the log behind the last checkpoint: from so many on it writes the next one at once.
pub const CHECKPOINT_START: u64 = 64 << 10;
/// Live sessions that are shown of a device. At the cap: the others are not shown.
pub const SESSIONS_SHOWN: usize = 256;
/// Lanes that are shown of a device. At the cap: the others are not shown.
pub const LANES_SHOWN: usize = 256;
/// How long a change of the registry waits for edges to keep it before those that have not are named.
pub const CONFIRM_MS: u64 = 5000;
/// How long other edges have to say what they know of a device that is shown.
pub const TOLD_MS: u64 = 1000;
/// Questions to one session's edge that wait for its answer. At the cap: the next is not asked, and its answer is missing.
pub const ERRANDS: usize = 16;
/// Changes of the registry one session may have waiting. At the cap: the next is answered BUSY.
pub const CONFIRMS: usize = 64;
/// Devices of one page of a listing, at most.
pub const PAGE_DEVICES: usize = 1000;
/// Bytes of a link's answers that wait for the connection. At the cap: nothing more is read or said until some are taken.
pub const LINK_OUT_BYTES: usize = 1 << 20;
/// Marks of changed values told to an edge at once. At the cap: the rest is told next; each waits once, however often it
/// changed.
pub const CHANGED_MARKS: usize = 4_096;
/// Bytes one session of a link says before the next has its turn; also what is read at once.
pub const LINK_TURN_BYTES: usize = 64 * 1024;
/// How long a link that was told to stop goes on answering what is in flight.
pub const LINK_DRAIN_MS: u64 = 5000;
/// A payload of a link that is this large has a buffer of its own; smaller ones share one.
pub const LARGE_BYTES: usize = 16 * 1024;
/// Entries of the registry in one frame.
pub const REGISTRY_ENTRIES: usize = 1024;
/// Groups in one frame of the registry.
pub const GROUPS_OF_FRAME: usize = 32;
/// Kept values. At the cap: a value of a new (key, topic) is not kept, is counted, and health says so.
pub const VALUES: usize = 4 << 20;
/// Principals with an inbox cursor. At the cap: SETTLE of one more ends its subscription with TOO_MANY.
pub const CURSORS: usize = 4 << 20;
/// Positions a search for a trace looks at, from the end back. What lies before is said to be missing.
pub const TRACE_POSITIONS: u64 = 8 << 20;
/// Positions of one of its windows.
pub const TRACE_WINDOW: u64 = 64 << 10;
/// Records it looks at before others have their turn.
pub const TRACE_TURN: usize = 8192;
/// Steps it tells; with more the answer is partial.
pub const TRACE_STEPS: usize = 256;
/// How long a look-up waits at most; one that asks for longer waits so long.
pub const WAIT_MS: u32 = 60_000;
/// Entries of one page of a listing, at most. spec §9.3
pub const PAGE_VALUES: usize = 1000;
/// A page of a listing ends behind the entry with which its payloads pass so many bytes. spec §9.3.2
pub const PAGE_BYTES: usize = 256 * 1024;
/// Values a look-up reads from the log before others have their turn.
pub const TURN_VALUES: usize = 64;
/// The most the lengths of a block take: 1,024 varints, and how they are spelled.
pub const LENGTHS_BYTES: usize = 5 * 1024;
/// How many versions of a stream are looked through for receipts when a lane is opened again. Beyond: no receipt.
pub const RECEIPT_VERSIONS: u64 = 8192;

/// Services of one worker. At the cap: SERVE of a new one is answered TOO_MANY.
pub const SERVICES: usize = 65_536;
/// Members of one service. At the cap: SERVE is answered TOO_MANY.
pub const MEMBERS: usize = 1024;
/// Calls under way at one worker. At the cap: CALL is answered BUSY.
pub const CALLS: usize = 65_536;
/// Calls under way of one service. At the cap: CALL is answered BUSY.
pub const CALLS_OF_SERVICE: usize = 8192;
/// Payload of calls under way at one worker. At the cap: CALL is answered BUSY.
pub const CALL_BYTES_WAITING: usize = 64 << 20;
/// Streams that are looked at under one lock when a group begins with keys that have something outstanding. With more: the lock
/// is given to others between.
pub const GROUP_STREAMS_AT_ONCE: usize = 2048;
/// Calls that are remembered for who asks what a trace touched, with what became of them. At the cap: the oldest is forgotten.
pub const CALLS_REMEMBERED: usize = 4096;
/// Calls of one trace that are told; of more, the newest.
pub const TRACE_CALLS: usize = 32;
/// How often one call is handed out, where a member after the other goes away. At the cap: UNKNOWN_OUTCOME.
pub const CALL_ATTEMPTS: u32 = 3;
/// Answers and calls that wait for one session, and their bytes. At the cap: a part of an answer ends its call with BUSY.
pub const MAILBOX_LETTERS: usize = 4096;
/// The bytes of those.
pub const MAILBOX_BYTES: usize = 4 << 20;
/// So many failures within a window, no fewer than answers, open a service's breaker.
pub const BREAKER_FAILURES: u64 = 5;
/// The window.
pub const BREAKER_WINDOW_MS: u32 = 10_000;
/// How long an open breaker lets nothing through; doubled each time its probe fails …
pub const BREAKER_PAUSE_MS: u32 = 1000;
/// … up to this.
pub const BREAKER_PAUSE_MAX_MS: u32 = 30_000;
/// How long a caller is asked to wait while a probe is under way.
pub const BREAKER_PROBE_MS: u32 = 100;
/// A call that had less time than this is not held against its service where nobody answered: an impatient caller must not
/// open the breaker for all others.
pub const BREAKER_PATIENCE_MS: u64 = 500;
/// Breakers that are not closed in one status. More are counted by `$service ls`.
pub const BREAKERS_TOLD: usize = 64;
/// Services and members of one page of `$service ls`, at most.
pub const PAGE_SERVICES: usize = 1000;
/// Bytes of one upload: 1 TiB. At the cap: OPEN is answered with TOO_LARGE.
pub const UPLOAD_BYTES: u64 = 1 << 40;
/// Uploads under way on one worker. At the cap: OPEN of another is answered with TOO_MANY.
pub const UPLOADS: usize = 65_536;
/// Uploads one principal may have under way. At the cap: the same.
pub const UPLOADS_OF_PRINCIPAL: usize = 16_384;
/// Uploads named in the answer to lane 0. More are there, and are found by opening them.
pub const UPLOADS_TOLD: usize = 64;
/// Blobs one worker keeps. At the cap: SEAL is answered with TOO_MANY.
pub const BLOBS: usize = 4 << 20;
/// An upload that nobody opened, and of which nothing came, for so long is forgotten: 7 days.
pub const UPLOAD_IDLE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Blobs one session may read at once. At the cap: GET is answered BUSY.
pub const DOWNLOADS: usize = 16;
/// Listings of files one session may have under way. At the cap: LIST is answered BUSY.
pub const LISTINGS: usize = 16;
/// Bytes of a blob in one VALUE, at most; less where the client's frames are shorter.
pub const BLOB_VALUE_BYTES: usize = 256 * 1024;
/// Bytes of chunks that may wait for the disk: what links have of them under way together, each its part, and from where on
/// a session in this process that uploads is asked to stop reading. Keep it at half of the chunk log's queue.
pub const WAITING_CHUNK_BYTES: usize = 32 << 20;
/// A checkpoint is written after so many bytes of chunks, which bounds what a start reads of them.
pub const CHUNK_CHECKPOINT_BYTES: usize = 1 << 30;
/// A segment of chunks is rewritten where less than this part of it is wanted.
pub const FREE_PERCENT: u64 = 50;
/// Uploads that are forgotten at once, since they are that old; more a moment later.
pub const EXPIRED_AT_ONCE: usize = 64;
/// How often the thread that tends uploads looks whether space can be given back.
pub const TEND_MS: u64 = 1000;
/// Groups of one deployment. At the cap: create is answered TOO_MANY.
pub const GROUPS: usize = 4096;
/// Groups the registry remembers, removed ones too. At the cap the one that was removed longest ago is forgotten.
pub const GROUPS_KNOWN: usize = 16_384;
/// Keys of a group with something outstanding, on one worker. At the cap the group reads no further until some are done,
/// and `show` says so.
pub const GROUP_KEYS: usize = 1 << 17;
/// Dead letters of a group on one worker. At the cap the group reads no further until some are replayed or dropped.
pub const GROUP_LETTERS: usize = 1 << 20;
/// Places of a group where its floor may stand. At the cap every second is forgotten: the floor moves in larger steps.
pub const GROUP_PLACES: usize = 4096;
/// Keys of a group that are read through their stream's index at once. At the cap the one used longest ago is closed.
pub const GROUP_READERS: usize = 64;
/// Groups whose numbers metrics tell each by itself, the first by tenant and name. Those beyond are in the sums only.
pub const GROUPS_TOLD: usize = 64;
/// Reads of the log, of [`READ_BYTES`] each, that one look at metrics does for groups that are behind. What they did not reach
/// is told as not looked at, and the next look goes on there.
pub const MEASURE_READS: usize = 32;
/// Bytes of one key that are read ahead.
pub const READ_KEY_BYTES: usize = 16 * 1024;
/// A floor that moved so many positions is recorded, with or without a settlement.
pub const GROUP_FLOOR_EVERY: u64 = 65_536;
/// Keys that are far behind and get marks of their own at once, where too many others need theirs.
pub const GROUP_LAGGARDS: usize = 1024;
/// Groups whose lag a status tells: those that are furthest behind.
pub const LAGS_TOLD: usize = 16;
/// Bytes of entries in one SETTLED; more go into further ones.
pub const GROUP_RECORD_BYTES: usize = 64 * 1024;
/// Settlements of one member that were not looked at. At the cap its session ends with TOO_FAST.
pub const GROUP_SETTLES: usize = 16_384;
/// Deliveries a member is handed before others that would take some have their turn.
pub const GROUP_TURN: u32 = 16;
/// Calls about groups of one session that wait. At the cap: the next is answered BUSY.
pub const GROUP_ASKED: usize = 64;
/// Groups of one page of a listing, at most.
pub const PAGE_GROUPS: usize = 1000;
/// Members of a group that are shown, at most.
pub const PAGE_MEMBERS: usize = 1000;
/// Dead letters of one page of a listing, at most.
pub const PAGE_LETTERS: usize = 1000;
/// The most attempts a group may allow.
pub const ATTEMPTS: u32 = 1000;
/// The longest backoff a group may have: a week.
pub const BACKOFF_MS: u64 = 7 * 24 * 3600 * 1000;
/// The longest time a group may allow for settling: a day.
pub const SETTLE_WITHIN_MS: u64 = 24 * 3600 * 1000;
/// A snapshot is made at most so often, where a sealed segment is behind the last: it costs reading the log twice from
/// there, and writing all rows.
pub const SNAPSHOT_S: u64 = 600;
/// The first look for one, behind a start: who starts has other things to do.
pub const SNAPSHOT_START_S: u64 = 60;
/// A segment is rewritten where what is wanted of it takes at most this part of it.
pub const RETAIN_PERCENT: u64 = 50;
/// A segment that was looked at and not given up is looked at again after so long: what rested on it may not any more …
pub const RETAIN_AGAIN_MS: u64 = 3600 * 1000;
/// … or after so long, where the disk is full.
pub const RETAIN_FULL_AGAIN_MS: u64 = 10_000;
/// Rules of retention. At the cap: the configuration is refused.
pub const RETENTION_RULES: usize = 64;
/// How often it is looked what may go, unless told otherwise.
pub const RETENTION_EVERY_MS: u64 = 60_000;
/// Rows that the records between two snapshots may change: a snapshot that would have to hold more at once is made of fewer
/// records, and the next begins where it ends.
pub const SNAPSHOT_ROWS: usize = 1 << 18;
/// Bytes of one row of a snapshot. A longer one is none.
pub const SNAPSHOT_ROW_BYTES: usize = 16 << 20;
/// Rows of a snapshot that are put into an empty store of checkpoints at once.
pub const RESTOCK_ROWS: usize = 16_384;
