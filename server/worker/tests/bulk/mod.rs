//! A worker on two logs in a temporary folder, and a session that speaks of files to it.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::{collections::VecDeque, io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use spile_log::{Log, Options, RealDisk};
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId, Role, Run, Version},
    message::{
        Abort, Body, Call, Chunk, Get, List, Message, Open, Scope, Seal, Target,
        request::{List as Listed, Listing},
    },
    time::Millis,
};
use spile_worker::{Config, Logs, Polled, Session, Worker, attach_of};

pub const NOW: Millis = Millis(1_700_000_000_000);

/// Bytes that are the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; length];
    reader.fill(&mut bytes);
    bytes
}

/// The folders of a worker.
pub struct Disks(tempfile::TempDir);

impl Disks {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn log(&self, name: &str, segment_bytes: u64) -> Log {
        self.log_with(name, Options { segment_bytes, ..Options::default() })
    }

    /// Commits when the test says so.
    pub fn log_by_hand(&self, name: &str) -> Log {
        self.log_with(name, Options { inline: true, ..Options::default() })
    }

    fn log_with(&self, name: &str, options: Options) -> Log {
        let folder = self.0.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let disk = Arc::new(RealDisk::open(&folder).unwrap());
        let options = Options {
            prefill: false,
            reserve_bytes: 0,
            free_bytes_low: 0,
            recent_bytes: 0,
            ..options
        };
        Log::open(disk, options).unwrap().0
    }

    pub fn logs(&self) -> Logs {
        let (events, chunks) = (self.log("events", 1 << 20), self.log("chunks", 1 << 20));
        Logs::new(Arc::new(events), Arc::new(chunks))
    }

    pub fn worker(&self) -> Arc<Worker> {
        let views = self.0.path().join("views");
        Worker::open(config(), self.logs(), Some(&views)).unwrap()
    }

    pub fn worker_big(&self) -> Arc<Worker> {
        let folder = self.0.path().join("chunks");
        std::fs::create_dir_all(&folder).unwrap();
        let disk = Arc::new(RealDisk::open(&folder).unwrap());
        let options = Options {
            prefill: false,
            reserve_bytes: 0,
            recent_bytes: 0,
            queue_bytes: 64 << 20,
            ..Options::default()
        };
        let chunks = Log::open(disk, options).unwrap().0;
        Worker::open(
            config(),
            Logs::new(Arc::new(self.log("events", 256 << 20)), Arc::new(chunks)),
            None,
        )
        .unwrap()
    }

    /// On logs that no thread tends; uploads are abandoned after the usual time.
    pub fn worker_on(&self, logs: Logs) -> Arc<Worker> {
        let upload_idle_ms = Config::default().upload_idle_ms;
        Worker::open(Config { upload_idle_ms, ..config() }, logs, None).unwrap()
    }

    /// Puts a wrong bit where the chunk log has these bytes.
    pub fn rot_chunk(&self, bytes: &[u8]) {
        for file in std::fs::read_dir(self.0.path().join("chunks")).unwrap() {
            let path = file.unwrap().path();
            let mut content = std::fs::read(&path).unwrap();
            if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
                content[at] ^= 1;
                std::fs::write(&path, content).unwrap();
                return;
            }
        }
        panic!("no file has them");
    }

    /// From the logs alone.
    pub fn without_views(&self) -> Arc<Worker> {
        Worker::open(config(), self.logs(), None).unwrap()
    }

    pub fn chunk_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.0.path().join("chunks")).unwrap();
        let bytes = files.map(|file| match file.unwrap().metadata() {
            // The log has removed or renamed it since it was listed.
            Err(gone) if gone.kind() == ErrorKind::NotFound => 0,
            known => known.unwrap().len(),
        });
        bytes.sum()
    }
}

pub fn config() -> Config {
    Config {
        name: "w".to_owned(),
        // Every topic is kept, so that values are compared wherever views are.
        keep: vec!["#".to_owned()],
        // Few rows at once, so that a snapshot of what there is takes several.
        snapshot_rows: 5,
        // The thread that looks for abandoned uploads has another clock than the test.
        upload_idle_ms: u64::MAX,
        ..Config::default()
    }
}

/// What a session was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Opened {
        upload: u32,
        stored: u64,
        epoch: u32,
    },
    Sealed {
        upload: u32,
        blob: String,
        revision: u64,
    },
    Aborted(u32),
    Failed {
        upload: u32,
        code: Code,
        expected: u64,
    },
    Refused(Code),
    Value {
        id: String,
        name: String,
        more: bool,
        absent: bool,
        cursor: String,
        revision: u64,
        size: u64,
        stored: u64,
        payload: Bytes,
    },
    Reply {
        code: Code,
        payload: Bytes,
    },
    /// Lane 0 is open, and these uploads are.
    Lane(Vec<([u8; 16], u64)>),
}

/// A session.
pub struct Mouth {
    pub session: Session,
    pub heard: VecDeque<Heard>,
    pub now: Millis,
}

impl Mouth {
    pub fn new(worker: &Arc<Worker>, principal: &str) -> Self {
        Self::of_run(worker, principal, 1)
    }

    pub fn of_run(worker: &Arc<Worker>, principal: &str, run: u8) -> Self {
        Self::of(worker, "main", principal, run)
    }

    pub fn of_tenant(worker: &Arc<Worker>, tenant: &str, principal: &str) -> Self {
        Self::of(worker, tenant, principal, 1)
    }

    fn of(worker: &Arc<Worker>, tenant: &str, principal: &str, run: u8) -> Self {
        let session = worker.attach(&attach_of(tenant, Role::Device, principal, Run([run; 8])));
        Self { session, heard: VecDeque::new(), now: NOW }
    }

    pub fn say(&mut self, message: &Message<'_>) {
        let payload = Bytes::copy_from_slice(message.payload());
        let crc = crc::of(&payload);
        self.session.intake().message(self.now, Number(0), message, &payload, crc);
    }

    pub fn open(&mut self, upload: u32, id: u8, size: usize, name: &str) {
        self.open_id(upload, [id; 16], size, name);
    }

    pub fn open_id(&mut self, upload: u32, id: [u8; 16], size: usize, name: &str) {
        let size = size as u64;
        let (key, content_type, meta) = (None, "text/plain", List::default());
        self.say(&Message::Open(Open { upload, id, size, key, name, content_type, meta }));
    }

    pub fn chunk(&mut self, upload: u32, offset: usize, payload: &[u8]) {
        self.say(&Message::Chunk(Chunk { upload, offset: offset as u64, payload }));
    }

    pub fn seal(&mut self, upload: u32, whole: &[u8]) {
        let blake3 = *blake3::hash(whole).as_bytes();
        self.say(&Message::Seal(Seal { upload, size: whole.len() as u64, blake3 }));
    }

    /// A seal that says another whole than was sent.
    pub fn seal_as(&mut self, upload: u32, size: usize, whole: &[u8]) {
        let blake3 = *blake3::hash(whole).as_bytes();
        self.say(&Message::Seal(Seal { upload, size: size as u64, blake3 }));
    }

    pub fn abort(&mut self, upload: u32) {
        self.say(&Message::Abort(Abort { upload }));
    }

    /// What may be said now.
    pub fn poll(&mut self, room: usize) -> Polled {
        let heard = &mut self.heard;
        self.session.poll(room, &mut |message, payload_crc| {
            assert_eq!(crc::of(message.payload()), payload_crc, "{message:?}");
            let mut frame = vec![0; 1 << 20];
            message.encode(&mut frame).unwrap();
            heard.push_back(heard_of(message));
        })
    }

    /// Waits for what is wanted; what came before it is dropped.
    pub async fn until(&mut self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let mut dropped = Vec::new();
        loop {
            while let Some(heard) = self.heard.pop_front() {
                if wanted(&heard) {
                    return heard;
                }
                dropped.push(heard);
            }
            match self.poll(1 << 20) {
                Polled::Gone(code) => panic!("gone: {code}"),
                Polled::More => {}
                Polled::Idle if self.heard.is_empty() => {
                    let ready = tokio::time::timeout(Duration::from_secs(20), self.session.ready());
                    assert!(ready.await.is_ok(), "nothing more is told; so far: {dropped:?}");
                }
                Polled::Idle => {}
            }
        }
    }

    /// The offset an upload goes on at.
    pub async fn opened(&mut self, number: u32) -> u64 {
        let told = self
            .until(|heard| matches!(heard, Heard::Opened { upload, .. } if *upload == number))
            .await;
        match told {
            Heard::Opened { stored, .. } => stored,
            other => panic!("{other:?}"),
        }
    }

    pub async fn stored(&mut self, number: u32, offset: u64) {
        let enough = |heard: &Heard| matches!(heard, Heard::Opened { upload, stored, .. } if *upload == number && *stored >= offset);
        self.until(enough).await;
    }

    pub async fn sealed(&mut self, number: u32) -> (String, u64) {
        let over = |heard: &Heard| matches!(heard, Heard::Sealed { upload, .. } | Heard::Failed { upload, .. } if *upload == number);
        match self.until(over).await {
            Heard::Sealed { blob, revision, .. } => (blob, revision),
            other => panic!("{other:?}"),
        }
    }

    pub async fn failed(&mut self, number: u32) -> (Code, u64) {
        let failed =
            |heard: &Heard| matches!(heard, Heard::Failed { upload, .. } if *upload == number);
        match self.until(failed).await {
            Heard::Failed { code, expected, .. } => (code, expected),
            other => panic!("{other:?}"),
        }
    }

    pub fn get(&mut self, blob: &str, offset: u64, length: u32) {
        let target = Target::Blob { blob, offset, length };
        let (newer_than, at_least) = (Version(0), Version(0));
        let request = RequestId(7);
        self.say(&Message::Get(Get { request, target, newer_than, at_least, wait_ms: 0 }));
    }

    /// Bytes of a blob.
    pub async fn read(&mut self, blob: &str, offset: u64, length: u32) -> Result<Vec<u8>, Code> {
        self.get(blob, offset, length);
        let mut whole = Vec::new();
        loop {
            match self.until(|heard| matches!(heard, Heard::Value { .. } | Heard::Refused(_))).await
            {
                Heard::Value { more, payload, .. } => {
                    whole.extend_from_slice(&payload);
                    if !more {
                        return Ok(whole);
                    }
                }
                Heard::Refused(code) => return Err(code),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The same where nothing is waited for.
    pub fn read_now(&mut self, blob: &str, offset: u64, length: u32) -> Result<Vec<u8>, Code> {
        self.get(blob, offset, length);
        let mut whole = Vec::new();
        loop {
            // Little room, so that an answer is said in parts.
            self.poll(3000);
            while let Some(heard) = self.heard.pop_front() {
                match heard {
                    Heard::Value { more, payload, .. } => {
                        whole.extend_from_slice(&payload);
                        if !more {
                            return Ok(whole);
                        }
                    }
                    Heard::Refused(code) => return Err(code),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// A page and its cursor.
    pub async fn list(
        &mut self,
        listing: Listing,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> (Vec<Heard>, String) {
        let request = RequestId(8);
        self.say(&Message::List(Listed { request, listing, prefix, after, limit }));
        let mut page = Vec::new();
        loop {
            let value = self.until(|heard| matches!(heard, Heard::Value { .. })).await;
            let Heard::Value { more, absent, cursor, .. } = value.clone() else { unreachable!() };
            if !absent {
                page.push(value);
            }
            if !more {
                return (page, cursor);
            }
        }
    }

    pub fn say_call(&mut self, service: &str, method: &str, payload: &str) {
        let fields = Call {
            request: RequestId(9),
            service,
            method,
            remaining_ms: 1000,
            idempotent: false,
            content_type: "",
            caller: "",
            trace: None,
        };
        self.say(&Message::Call(Body { fields, payload: payload.as_bytes() }));
    }

    pub async fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: &str,
    ) -> (Code, serde_json::Value) {
        self.say_call(service, method, payload);
        match self.until(|heard| matches!(heard, Heard::Reply { .. })).await {
            Heard::Reply { code, payload } => {
                (code, serde_json::from_slice(&payload).unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn heard_of(message: &Message<'_>) -> Heard {
    match *message {
        Message::Opened(opened) if !opened.blob.is_empty() => {
            let (blob, revision) = (opened.blob.to_owned(), opened.revision);
            Heard::Sealed { upload: opened.upload, blob, revision }
        }
        Message::Opened(opened) => Heard::Opened {
            upload: opened.upload,
            stored: opened.stored_offset,
            epoch: opened.epoch,
        },
        Message::Abort(abort) => Heard::Aborted(abort.upload),
        Message::Fault(fault) => match fault.scope {
            Scope::Upload { upload, expected } => {
                Heard::Failed { upload, code: fault.code, expected }
            }
            _ => Heard::Refused(fault.code),
        },
        Message::Value(body) => Heard::Value {
            id: body.fields.id.to_owned(),
            name: body.fields.name.to_owned(),
            more: body.fields.more,
            absent: body.fields.absent,
            cursor: body.fields.cursor.to_owned(),
            revision: body.fields.revision,
            size: body.fields.size,
            stored: body.fields.stored_offset,
            payload: Bytes::copy_from_slice(body.payload),
        },
        Message::Reply(body) => {
            Heard::Reply { code: body.fields.code, payload: Bytes::copy_from_slice(body.payload) }
        }
        Message::LaneAnswer(answer) => {
            Heard::Lane(answer.uploads.iter().map(|open| (open.id, open.stored_offset)).collect())
        }
        ref other => panic!("a worker said {other:?}"),
    }
}
