//! A simulated disk: it keeps what was synced, may keep or lose everything else, and fails when it is told to.
//!
//! Pure and seeded: no file, no clock. Each operation counts; a power cut or a fault is set at a number. After a cut
//! [`SimDisk::power_loss`] gives the disk as the next start finds it: every sector (512 bytes) written but not synced is old, new
//! or of any version between, each on its own; lengths and names likewise. [`SimDisk::kill`] gives it as a killed process leaves
//! it: everything visible, nothing more durable than it was.

mod choose;
mod inode;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub use choose::{Choose, EveryChoice, Random};
use inode::{Change, Inode};

use super::{Disk, DiskFile};
use crate::format::{narrow, wide};
use crate::lock;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The operation fails and changes nothing.
    Error,
    /// There is no room: a write, an allocation or a new file fails.
    Full,
    /// A write takes only half of its bytes; other operations fail for want of room.
    Short,
    /// A sync fails; what it was for may or may not be on disk, and looks as if it were. Other operations fail.
    LostSync,
    /// A write puts down one wrong bit; other operations work.
    FlippedBit,
    /// A write goes to another place of the file; other operations work.
    Misdirected,
}

/// A fault and when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation, from 1.
    pub at: u64,
    /// Every operation from there on.
    pub sticky: bool,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Shelf>,
}

/// The disk and who waits for it.
#[derive(Debug)]
struct Shelf {
    world: Mutex<World>,
    released: Condvar,
}

/// A set of names, or a set that waits for its sync.
type Names = BTreeMap<String, u64>;

#[derive(Clone, Debug)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    durable_names: Names,
    /// Changes of names since the folder was synced; the parts of one happen together.
    pending_names: Vec<Vec<(String, Option<u64>)>>,
    next_inode: u64,
    operations: u64,
    fault: Option<Fault>,
    cut_at: Option<u64>,
    dead: bool,
    capacity: u64,
    stalled: bool,
    random: Random,
}

/// What an operation came to before it began.
enum Verdict {
    Works,
    /// The power goes as it happens: it may have taken place, nobody hears of it.
    Cut,
    Fails(FaultKind),
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
}

fn broken() -> io::Error {
    io::Error::other("the simulated disk failed")
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(World {
            inodes: BTreeMap::new(),
            names: Names::new(),
            durable_names: Names::new(),
            pending_names: Vec::new(),
            next_inode: 1,
            operations: 0,
            fault: None,
            cut_at: None,
            dead: false,
            capacity: u64::MAX,
            stalled: false,
            random: Random::new(seed),
        })
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Shelf { world: Mutex::new(world), released: Condvar::new() }) }
    }

    fn world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        with(&mut lock(&self.world.world))
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.world(|world| world.operations)
    }

    /// The power goes while this operation is at work, the next ones fail.
    pub fn cut_power_at(&self, operation: u64) {
        self.world(|world| world.cut_at = Some(operation));
    }

    /// The power went.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.world(|world| world.dead)
    }

    /// From its operation on, this goes wrong. `None`: nothing does.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.world(|world| world.fault = fault);
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.world(|world| world.capacity = bytes);
    }

    /// While stalled, no sync returns.
    pub fn set_stalled(&self, stalled: bool) {
        self.world(|world| world.stalled = stalled);
        self.world.released.notify_all();
    }

    /// The disk after the power went: `choose` decides what of the unsynced survived.
    #[must_use]
    pub fn power_loss(&self, choose: &mut dyn Choose) -> Self {
        let mut world = lock(&self.world.world).clone();
        world.lose_power(choose);
        Self::of(world)
    }

    /// The disk after the process was killed: what was written is seen, and still not synced.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut world = lock(&self.world.world).clone();
        world.revive();
        Self::of(world)
    }

    /// The names and the contents, as a reader sees them.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.world(|world| {
            let files = world
                .names
                .iter()
                .filter_map(|(name, inode)| Some((name.clone(), world.inodes.get(inode)?)));
            files.map(|(name, inode)| (name, inode.view.clone())).collect()
        })
    }

    /// Puts a file there, synced, name and all; one of that name is replaced.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        self.world(|world| {
            let id = world.next_inode;
            world.next_inode += 1;
            world.inodes.insert(id, Inode::durable(content));
            world.names.insert(name.to_owned(), id);
            world.durable_names.insert(name.to_owned(), id);
        });
    }

    /// Turns bits of a file over, in what is seen and in what is durable. Says whether there was such a byte.
    pub fn rot(&self, name: &str, offset: u64, mask: u8) -> bool {
        self.world(|world| {
            let inode = world.names.get(name).and_then(|id| world.inodes.get_mut(id));
            inode.is_some_and(|inode| inode.rot(narrow(offset), mask))
        })
    }

    /// Cuts a file, durably.
    pub fn chop(&self, name: &str, bytes: u64) {
        self.world(|world| {
            if let Some(inode) = world.names.get(name).and_then(|id| world.inodes.get_mut(id)) {
                inode.view.truncate(narrow(bytes));
                inode.durable.truncate(narrow(bytes));
            }
        });
    }
}

impl World {
    /// Counts an operation and says how it goes.
    fn begin(&mut self) -> io::Result<Verdict> {
        if self.dead {
            return Err(off());
        }
        self.operations += 1;
        if self.cut_at.is_some_and(|at| self.operations >= at) {
            self.dead = true;
            return Ok(Verdict::Cut);
        }
        let strikes = |fault: &Fault| {
            if fault.sticky { self.operations >= fault.at } else { self.operations == fault.at }
        };
        Ok(self.fault.filter(strikes).map_or(Verdict::Works, |fault| Verdict::Fails(fault.kind)))
    }

    /// An operation that only works or fails. `Ok(true)`: it works and the power goes.
    fn plain(&mut self) -> io::Result<bool> {
        match self.begin()? {
            Verdict::Works | Verdict::Fails(FaultKind::FlippedBit | FaultKind::Misdirected) => {
                Ok(false)
            }
            Verdict::Cut => Ok(true),
            Verdict::Fails(FaultKind::Full | FaultKind::Short) => Err(full()),
            Verdict::Fails(FaultKind::Error | FaultKind::LostSync) => Err(broken()),
        }
    }

    /// The same for one that needs no room.
    fn roomless(&mut self) -> io::Result<bool> {
        match self.begin()? {
            Verdict::Works
            | Verdict::Fails(
                FaultKind::FlippedBit | FaultKind::Misdirected | FaultKind::Full | FaultKind::Short,
            ) => Ok(false),
            Verdict::Cut => Ok(true),
            Verdict::Fails(FaultKind::Error | FaultKind::LostSync) => Err(broken()),
        }
    }

    fn change_names(&mut self, change: Vec<(String, Option<u64>)>) {
        apply(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.inodes.get(id))
            .map(|inode| wide(inode.view.len()))
            .sum()
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    fn revive(&mut self) {
        (self.dead, self.cut_at, self.fault, self.stalled) = (false, None, None, false);
    }

    fn lose_power(&mut self, choose: &mut dyn Choose) {
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.pending_names) {
            if choose.choose(2) == 1 {
                apply(&mut names, &change);
            }
        }
        self.inodes.retain(|id, _| names.values().any(|named| named == id));
        self.inodes.values_mut().for_each(|inode| inode.lose_power(choose));
        self.durable_names.clone_from(&names);
        self.names = names;
        self.revive();
    }
}

fn apply(names: &mut Names, change: &[(String, Option<u64>)]) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {name}"))
}

/// What the caller hears of an operation during which the power went.
fn heard<T>(cut: bool, value: T) -> io::Result<T> {
    if cut { Err(off()) } else { Ok(value) }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.world(|world| {
            let cut = world.roomless()?;
            heard(cut, world.names.keys().cloned().collect())
        })
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.world(|world| {
            let cut = world.plain()?;
            if world.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = world.next_inode;
            world.next_inode += 1;
            world.inodes.insert(id, Inode::default());
            world.change_names(vec![(name.to_owned(), Some(id))]);
            heard(cut, id)
        })?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.world(|world| {
            let cut = world.roomless()?;
            let id = world.names.get(name).copied().ok_or_else(|| missing(name))?;
            heard(cut, id)
        })?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.world(|world| {
            let cut = world.plain()?;
            let id = world.names.get(from).copied().ok_or_else(|| missing(from))?;
            world.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
            heard(cut, ())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.world(|world| {
            let cut = world.roomless()?;
            if !world.names.contains_key(name) {
                return Err(missing(name));
            }
            world.change_names(vec![(name.to_owned(), None)]);
            heard(cut, ())
        })
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.world(|world| {
            if world.roomless()? {
                return Err(off());
            }
            for change in std::mem::take(&mut world.pending_names) {
                apply(&mut world.durable_names, &change);
            }
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.world(|world| {
            let cut = world.roomless()?;
            heard(cut, world.free())
        })
    }

    fn total_bytes(&self) -> io::Result<u64> {
        Ok(self.world(|world| world.capacity))
    }

    /// It takes no time.
    fn passed(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        Ok(self.world(|world| {
            let mut bytes = [0; 32];
            for chunk in bytes.chunks_exact_mut(8) {
                chunk.copy_from_slice(&world.random.next().to_le_bytes());
            }
            bytes
        }))
    }
}

/// An open file: it stays readable when its name is gone.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl SimFile {
    fn with<T>(
        &self,
        begin: impl FnOnce(&mut World) -> io::Result<T>,
        then: impl FnOnce(&mut Inode, T) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.world(|world| {
            let begun = begin(world)?;
            then(world.inodes.entry(self.id).or_default(), begun)
        })
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.world(|world| {
            let cut = world.roomless()?;
            heard(cut, wide(world.inodes.entry(self.id).or_default().view.len()))
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.world(|world| {
            let cut = world.roomless()?;
            heard(cut, world.inodes.entry(self.id).or_default().read(narrow(offset), into))
        })
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        self.disk.world(|world| {
            let verdict = world.begin()?;
            let inode_len = world.inodes.entry(self.id).or_default().view.len();
            let grown = wide(narrow(offset).saturating_add(data.len()).saturating_sub(inode_len));
            let missing_room = grown.saturating_sub(world.free());
            let (mut at, mut cut) = (narrow(offset), false);
            match verdict {
                Verdict::Works => {}
                Verdict::Cut => cut = true,
                Verdict::Fails(FaultKind::Error | FaultKind::LostSync) => return Err(broken()),
                Verdict::Fails(FaultKind::Full) => return Err(full()),
                Verdict::Fails(FaultKind::Short) => data.truncate(data.len() / 2),
                Verdict::Fails(FaultKind::FlippedBit) => {
                    let n = narrow(world.random.choose(wide(data.len()).max(1)));
                    if let Some(byte) = data.get_mut(n) {
                        *byte ^= 1 << (n % 8);
                    }
                }
                Verdict::Fails(FaultKind::Misdirected) => at = at.saturating_sub(512),
            }
            if missing_room > 0 {
                let room = data.len().saturating_sub(narrow(missing_room));
                if room == 0 {
                    return Err(full());
                }
                data.truncate(room);
            }
            let taken = data.len();
            world.inodes.entry(self.id).or_default().change(Change::Write { at, data });
            heard(cut, taken)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = lock(&self.disk.world.world);
        while world.stalled {
            world = self.disk.world.released.wait(world).unwrap_or_else(PoisonError::into_inner);
        }
        let verdict = world.begin()?;
        let mut random = world.random.clone();
        let inode = world.inodes.entry(self.id).or_default();
        match verdict {
            Verdict::Works
            | Verdict::Fails(
                FaultKind::Full | FaultKind::Short | FaultKind::FlippedBit | FaultKind::Misdirected,
            ) => {
                inode.sync();
                Ok(())
            }
            Verdict::Cut => Err(off()),
            Verdict::Fails(FaultKind::Error) => Err(broken()),
            Verdict::Fails(FaultKind::LostSync) => {
                inode.lose_sync(&mut random);
                world.random = random;
                Err(broken())
            }
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let cut = self.with(World::plain, |inode, cut| {
            inode.change(Change::Length(narrow(bytes)));
            Ok(cut)
        })?;
        heard(cut, ())
    }

    fn allocate(&self, _from: u64, bytes: u64) -> io::Result<()> {
        self.disk.world(|world| {
            let cut = world.plain()?;
            let have = wide(world.inodes.entry(self.id).or_default().view.len());
            if bytes.saturating_sub(have) > world.free() {
                return Err(full());
            }
            world
                .inodes
                .entry(self.id)
                .or_default()
                .change(Change::Length(narrow(bytes.max(have))));
            heard(cut, ())
        })
    }
}
