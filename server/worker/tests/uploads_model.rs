//! Random uploads over sessions, on disks that lose power, are killed and fill up, compared with what their clients were
//! told.
//!
//! `SPILE_SEED=7 cargo test -p spile-worker --test uploads_model` replays one seed; `SPILE_SEEDS=5000` runs many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test ends on what it did not expect"
)]

mod bulk;
mod shelf;
mod snapped;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bulk::{Heard, Mouth, bytes, config};
use shelf::Shelf;
use spile_log::{
    Log, Options, SimDisk,
    disk::sim::{Choose, Random},
};
use spile_protocol::code::Code;
use spile_worker::{Logs, Polled, Worker};

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Closed,
    Opening,
    Open { next: usize },
    Sealing { wrong: bool },
    Aborting,
    Sealed,
}

/// What a client keeps of a file it uploads.
struct File {
    id: [u8; 16],
    name: &'static str,
    whole: Vec<u8>,
    /// What it was told is stored.
    acked: u64,
    /// The most it ever sent.
    sent: u64,
    /// An ABORT or a wrong SEAL is not answered: the server may have forgotten it.
    doubt: bool,
    /// What it sent may be refused with these.
    wrong: bool,
    phase: Phase,
}

struct Device {
    name: &'static str,
    mouth: Mouth,
    /// Connections that were left and may still be told.
    older: Option<Mouth>,
    files: Vec<File>,
}

/// A blob, as its client was told.
#[derive(Debug)]
struct Kept {
    whole: Vec<u8>,
    name: (&'static str, &'static str),
    revision: u64,
}

struct World {
    random: Random,
    disks: [SimDisk; 2],
    logs: [Log; 2],
    shelf: Shelf,
    worker: Arc<Worker>,
    devices: Vec<Device>,
    operator: Mouth,
    /// What was asked to be removed, in order, and is not answered.
    removing: VecDeque<String>,
    blobs: BTreeMap<String, Kept>,
    /// Blobs whose removal was asked for, and not answered before the disk went.
    doubtful: BTreeSet<String>,
    removed: BTreeSet<String>,
    sealed: BTreeSet<String>,
    runs: u8,
    files: u64,
}

const NAMES: [&str; 2] = ["a.log", "b.log"];

fn start(disks: &[SimDisk; 2], shelf: &Shelf) -> ([Log; 2], Arc<Worker>) {
    let options = Options {
        segment_bytes: 32 << 10,
        reserve_bytes: 0,
        free_bytes_low: 0,
        recent_bytes: 4 << 10,
        inline: true,
        ..Options::default()
    };
    let logs = disks.clone().map(|disk| Log::open(Arc::new(disk), options.clone()).unwrap().0);
    let worker = Worker::open_with(config(), both(&logs), Box::new(shelf.clone())).unwrap();
    (logs, worker)
}

fn both(logs: &[Log; 2]) -> Logs {
    let [events, chunks] = logs.clone();
    Logs { inline: true, ..Logs::new(Arc::new(events), Arc::new(chunks)) }
}

impl File {
    fn new(number: u64, name: &'static str, size: usize) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let whole = bytes(number, size);
        let phase = Phase::Closed;
        Self { id, name, whole, acked: 0, sent: 0, doubt: false, wrong: false, phase }
    }

    fn forgotten(&mut self) {
        (self.acked, self.sent, self.doubt, self.wrong) = (0, 0, false, false);
        self.phase = Phase::Closed;
    }

    fn hear(&mut self, heard: &Heard) {
        match (heard, self.phase.clone()) {
            (Heard::Opened { stored, .. }, Phase::Opening) => {
                // No byte that was told to be stored is asked for again, and none that was not sent is said to be.
                assert!(self.doubt || *stored >= self.acked, "{stored} of {}", self.acked);
                assert!(*stored <= self.sent, "{stored} of {} sent", self.sent);
                (self.acked, self.doubt) = (*stored, false);
                self.phase = Phase::Open { next: *stored as usize };
            }
            (Heard::Opened { stored, .. }, Phase::Open { .. } | Phase::Sealing { .. }) => {
                assert!(*stored >= self.acked && *stored <= self.sent, "{stored}");
                self.acked = *stored;
            }
            (Heard::Opened { .. }, Phase::Aborting) => {}
            (Heard::Sealed { .. }, Phase::Opening | Phase::Sealing { wrong: false }) => {
                self.phase = Phase::Sealed;
            }
            (Heard::Aborted(_), Phase::Aborting) => self.forgotten(),
            (Heard::Failed { code, expected, .. }, phase) => match *code {
                // What failed before the ABORT came: that is answered by itself, last.
                Code::NOT_FOUND if phase == Phase::Aborting => self.phase = Phase::Closed,
                _ if phase == Phase::Aborting => {}
                Code::MISMATCH => {
                    assert_eq!(phase, Phase::Sealing { wrong: true });
                    self.forgotten();
                }
                Code::OUT_OF_ORDER => {
                    let between = *expected >= self.acked && *expected <= self.sent;
                    assert!(self.wrong && between, "{heard:?} in {} to {}", self.acked, self.sent);
                    (self.wrong, self.phase) = (false, Phase::Closed);
                }
                Code::DISK_FULL | Code::UNKNOWN_OUTCOME | Code::BUSY => self.phase = Phase::Closed,
                other => panic!("{other:?} in {phase:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disks = [SimDisk::new(random.choose(u64::MAX)), SimDisk::new(random.choose(u64::MAX))];
        let shelf = Shelf::default();
        let (logs, worker) = start(&disks, &shelf);
        let devices = ["pump-1", "pump-2"].map(|name| Device {
            name,
            mouth: Mouth::new(&worker, name),
            older: None,
            files: Vec::new(),
        });
        let operator = Mouth::new(&worker, "operator");
        let mut world = Self {
            random,
            disks,
            logs,
            shelf,
            worker,
            devices: devices.into(),
            operator,
            removing: VecDeque::new(),
            blobs: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            removed: BTreeSet::new(),
            sealed: BTreeSet::new(),
            runs: 1,
            files: 0,
        };
        for device in 0..2 {
            for _ in 0..2 {
                let file = world.file();
                world.devices[device].files.push(file);
            }
        }
        world
    }

    fn roll(&mut self, n: u64) -> usize {
        usize::try_from(self.random.choose(n)).unwrap()
    }

    fn file(&mut self) -> File {
        self.files += 1;
        let size = match self.roll(8) {
            0 => 0,
            1 => 1,
            2 => self.roll(40_000),
            _ => self.roll(6000),
        };
        let name = NAMES[self.roll(2)];
        File::new(self.files, name, size)
    }

    fn step(&mut self) {
        match self.roll(100) {
            0..50 => self.act(false),
            50..62 => drop(self.logs[0].pump()),
            62..74 => drop(self.logs[1].pump()),
            74..84 => self.poll(),
            84..87 => self.worker.tend_uploads(),
            87..88 => self.worker.checkpoint(),
            88..89 => self.snapshot(),
            89..91 => self.remove(),
            91..94 => self.take_over(),
            94..97 => {
                let disk = self.roll(2);
                let files = self.disks[disk].files();
                let used: usize = files.iter().map(|(_, content)| content.len()).sum();
                let room = self.random.choose(4096);
                self.disks[disk].set_capacity(used as u64 + room);
            }
            _ => self.restart(),
        }
        if self.roll(5) == 0 {
            self.have_room();
        }
    }

    fn have_room(&mut self) {
        for (disk, log) in self.disks.iter().zip(&self.logs) {
            disk.set_capacity(u64::MAX);
            log.tend();
        }
    }

    /// Something a client does with one of its files.
    fn act(&mut self, earnest: bool) {
        let (device, at) = (self.roll(2), self.roll(2));
        let (what, length) = (self.roll(20), 1 + self.roll(3000));
        let Device { mouth, files, .. } = &mut self.devices[device];
        let (file, number) = (&mut files[at], at as u32 + 1);
        match file.phase.clone() {
            Phase::Closed => {
                mouth.open_id(number, file.id, file.whole.len(), file.name);
                file.wrong = false;
                file.phase = Phase::Opening;
                // spec §7.1.3: where it is new, chunks may follow at once.
                if file.sent == 0 && !file.doubt && what < 10 {
                    file.phase = Phase::Opening;
                }
            }
            Phase::Open { next } if !earnest && what == 0 => {
                mouth.chunk(number, next + 3, b"xxx");
                file.wrong = true;
            }
            Phase::Open { .. } if !earnest && what == 1 => {
                mouth.abort(number);
                (file.doubt, file.phase) = (true, Phase::Aborting);
            }
            Phase::Open { next } if next < file.whole.len() => {
                let end = file.whole.len().min(next + length);
                mouth.chunk(number, next, &file.whole[next..end]);
                file.sent = file.sent.max(end as u64);
                file.phase = Phase::Open { next: end };
            }
            Phase::Open { .. } => {
                let wrong = !earnest && what < 4;
                let said = if wrong { b"another".to_vec() } else { file.whole.clone() };
                mouth.seal_as(number, file.whole.len(), &said);
                file.doubt |= wrong;
                file.phase = Phase::Sealing { wrong };
            }
            Phase::Opening | Phase::Sealing { .. } | Phase::Aborting | Phase::Sealed => {}
        }
    }

    fn poll(&mut self) {
        for device in 0..self.devices.len() {
            let Device { mouth, older, .. } = &mut self.devices[device];
            if let Some(older) = older {
                older.poll(1 << 20);
                // It may be told what was stored before, and that it writes no more.
                older.heard.clear();
            }
            assert!(!matches!(mouth.poll(1 << 20), Polled::Gone(_)));
            while let Some(heard) = self.devices[device].mouth.heard.pop_front() {
                self.hear(device, &heard);
            }
        }
        self.operator.poll(1 << 20);
        while let Some(heard) = self.operator.heard.pop_front() {
            let (Heard::Reply { code, .. } | Heard::Refused(code)) = heard else {
                panic!("{heard:?}")
            };
            let blob = self.removing.pop_front().unwrap();
            match code {
                Code(0) => {
                    self.blobs.remove(&blob);
                    self.doubtful.remove(&blob);
                    self.removed.insert(blob);
                }
                Code::NOT_FOUND => {
                    assert!(self.removed.contains(&blob) || self.doubtful.contains(&blob))
                }
                // The disk did not take it.
                _ => {}
            }
        }
    }

    fn hear(&mut self, device: usize, heard: &Heard) {
        let number = match heard {
            Heard::Opened { upload, .. }
            | Heard::Sealed { upload, .. }
            | Heard::Failed { upload, .. }
            | Heard::Aborted(upload) => *upload,
            other => panic!("{other:?}"),
        };
        let at = number as usize - 1;
        self.devices[device].files[at].hear(heard);
        let Heard::Sealed { blob, revision, .. } = heard else { return };
        let next = self.file();
        let owner = self.devices[device].name;
        let file = std::mem::replace(&mut self.devices[device].files[at], next);
        let kept = Kept { whole: file.whole, name: (owner, file.name), revision: *revision };
        for (other, known) in &self.blobs {
            let same = known.name == kept.name && known.revision == kept.revision;
            assert!(!same || self.doubtful.contains(other), "{blob} and {other}: {kept:?}");
        }
        assert!(self.sealed.insert(blob.clone()), "{blob} twice");
        self.blobs.insert(blob.clone(), kept);
    }

    fn remove(&mut self) {
        if self.blobs.is_empty() {
            return;
        }
        let n = self.roll(self.blobs.len() as u64);
        let blob = self.blobs.keys().nth(n).unwrap().clone();
        self.doubtful.insert(blob.clone());
        self.operator.say_call("$blob", "rm", &format!(r#"{{"blob":"{blob}"}}"#));
        self.removing.push_back(blob);
    }

    /// Another connection goes on with a device's files; the older hears of it.
    fn take_over(&mut self) {
        let n = self.roll(2);
        self.runs = self.runs.wrapping_add(1).max(1);
        let device = &mut self.devices[n];
        let mouth = Mouth::of_run(&self.worker, device.name, self.runs);
        device.older = Some(std::mem::replace(&mut device.mouth, mouth));
        device.files.iter_mut().for_each(|file| file.phase = Phase::Closed);
    }

    fn snapshot(&mut self) {
        if snapped::take(&self.worker, &self.disks[0], &mut self.random) {
            self.restart();
        }
    }

    fn restart(&mut self) {
        for disk in &mut self.disks {
            disk.set_capacity(u64::MAX);
            *disk = match self.random.choose(2) {
                0 => disk.kill(),
                _ => disk.power_loss(&mut self.random),
            };
        }
        let (logs, worker) = start(&self.disks, &self.shelf);
        assert_eq!(worker.dump(), Worker::open(config(), both(&logs), None).unwrap().dump());
        for device in &mut self.devices {
            device.mouth = Mouth::new(&worker, device.name);
            device.older = None;
            device.files.iter_mut().for_each(|file| file.phase = Phase::Closed);
        }
        self.operator = Mouth::new(&worker, "operator");
        self.removing.clear();
        (self.logs, self.worker) = (logs, worker);
    }

    fn finish(&mut self) {
        self.have_room();
        let wanted = self.files;
        for _ in 0..10_000 {
            self.logs.iter().for_each(Log::tend);
            self.act(true);
            self.logs.iter().for_each(|log| while log.pump() {});
            self.worker.tend_uploads();
            self.poll();
            // All that were begun are whole; what came in their place is not asked for.
            let begun = |file: &File| file.id[0] as u64 + 256 * u64::from(file.id[1]) <= wanted;
            if !self.devices.iter().any(|device| device.files.iter().any(begun)) {
                self.logs.iter().for_each(|log| while log.pump() {});
                self.poll();
                return;
            }
        }
        panic!("not everything is sealed");
    }

    fn check(&mut self) {
        let worker = self.worker.clone();
        let mut reader = Mouth::new(&worker, "reader");
        for (blob, kept) in &self.blobs {
            match reader.read_now(blob, 0, 0) {
                Ok(read) => assert!(read == kept.whole, "{blob} is another"),
                Err(Code::NOT_FOUND) => assert!(self.doubtful.contains(blob), "{blob} is gone"),
                Err(code) => panic!("{blob}: {code}"),
            }
            if kept.whole.len() > 2 {
                let from = self.random.choose(kept.whole.len() as u64) as usize;
                let read = reader.read_now(blob, from as u64, 1000);
                let to = kept.whole.len().min(from + 1000);
                assert!(read.is_err() || read.as_deref() == Ok(&kept.whole[from..to]), "{blob}");
            }
        }
        for blob in &self.removed {
            assert_eq!(reader.read_now(blob, 0, 0), Err(Code::NOT_FOUND), "{blob}");
        }
        let mut events = support::Client::new(&worker, "reader", 9);
        events.subscribe_from(1, "file.uploaded", 1);
        let mut told = BTreeSet::new();
        loop {
            let (heard, _) = events.poll();
            let before = told.len();
            for one in heard {
                if let support::Told::Event(event) = one {
                    let event: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                    assert!(told.insert(event["blob"].as_str().unwrap().to_owned()), "{event}");
                }
            }
            if told.len() == before {
                break;
            }
            events.settle_all(1);
        }
        assert_eq!(told, self.sealed, "each seal is one event");
        let dump = worker.dump();
        let [events, chunks] = &self.logs;
        let alone = Logs {
            events: snapped::alone(events),
            chunks: Some(Arc::new(chunks.clone())),
            inline: true,
        };
        let anew = Worker::open(config(), alone, None).unwrap();
        assert_eq!(anew.dump(), dump, "from the logs alone");
        snapped::all(&self.worker);
        let anew = Worker::open(config(), both(&self.logs), None).unwrap();
        assert_eq!(anew.dump(), dump, "from the newest snapshot");
        let shelf = Box::new(self.shelf.clone());
        let anew = Worker::open_with(config(), both(&self.logs), shelf).unwrap();
        assert_eq!(anew.dump(), dump, "from the last checkpoint");
    }
}

fn run(seed: u64, steps: usize) {
    println!("SPILE_SEED={seed}");
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    world.check();
}

#[test]
fn whatever_happens_no_byte_is_asked_twice_and_every_blob_is_whole() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SPILE_SEED") {
        return run(seed, 400);
    }
    for seed in 0..number("SPILE_SEEDS").unwrap_or(40) {
        run(seed, 400);
    }
}

/// An UPLOAD that the full disk did not take loses its position to another; a chunk of the lost one that reaches its own
/// disk later is not the other's.
#[test]
fn a_chunk_of_an_upload_that_was_lost_is_nobody_s() {
    let disks = [SimDisk::new(1), SimDisk::new(2)];
    let shelf = Shelf::default();
    let (logs, worker) = start(&disks, &shelf);
    let used: usize = disks[0].files().iter().map(|(_, content)| content.len()).sum();
    disks[0].set_capacity(used as u64);
    let mut lost = Mouth::new(&worker, "pump-1");
    lost.open(1, 1, 10, "a");
    lost.chunk(1, 0, b"01234");
    // The event log is cut back, the chunk is on its way.
    logs[0].pump();
    disks[0].set_capacity(u64::MAX);
    logs[0].tend();
    lost.poll(1 << 20);
    let told = lost.heard.pop_front();
    assert!(matches!(told, Some(Heard::Failed { .. })), "{told:?}");
    let mut other = Mouth::new(&worker, "pump-2");
    other.open(1, 1, 10, "a");
    logs.iter().for_each(|log| while log.pump() {});
    other.poll(1 << 20);
    let told = other.heard.pop_front();
    assert!(matches!(told, Some(Heard::Opened { stored: 0, .. })), "{told:?}");
    let dump = worker.dump();
    let anew = Worker::open(config(), both(&logs), None).unwrap();
    assert_eq!(anew.dump(), dump, "the same position, another mark");
}
