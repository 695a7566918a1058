//! What the small server does with uploads: keeps them over its connections, cuts after so many chunks, and holds every
//! chunk against what it has said it has.

use std::collections::{HashMap, VecDeque};

use spile_protocol::code::Code;
use spile_protocol::message::{Abort, Chunk, Fault, Message, Open, Opened, Scope, Seal};

use super::world::World;

/// An upload, by its id.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub size: u64,
    pub name: String,
    pub key: Option<String>,
    pub content_type: String,
    pub meta: Vec<(String, String)>,
    pub bytes: Vec<u8>,
    /// What OPEN's answer or a later one said is stored.
    pub told: u64,
    pub opened: u32,
    pub blob: Option<String>,
}

#[derive(Default)]
pub struct Receiving {
    pub uploads: HashMap<[u8; 16], Received>,
    /// Which chunks came, of all uploads: whose, from where, how long.
    pub chunks: Vec<([u8; 16], u64, usize)>,
    /// Chunks that were sent from before what had been told as stored: that, and where they began.
    pub again: Vec<(u64, u64)>,
    /// Answers to the next OPENs.
    pub refusals: VecDeque<(Code, Option<u32>)>,
    /// Cut the connection when so many chunks have come from then on.
    pub cut_after: Option<usize>,
    /// Chunks that are stored and not acknowledged, before one answer says all of them.
    pub lazy: usize,
    /// The next ABORT is done, and the connection cut before it is answered.
    pub cut_abort: bool,
    /// Chunks are taken and never acknowledged.
    pub mute: bool,
}

/// One connection's: which id has which number.
pub type Numbers = HashMap<u32, [u8; 16]>;

/// What is to be said, in order.
pub type Said<'a> = dyn FnMut(&Message<'_>) + 'a;

/// A chunk came, and nobody has judged it yet: does it begin before what its client was told?
pub fn look(world: &World, numbers: &Numbers, chunk: &Chunk<'_>) {
    let mut receiving = world.receiving.lock().unwrap();
    let received = numbers.get(&chunk.upload).and_then(|id| receiving.uploads.get(id));
    if let Some(told) = received.map(|received| received.told).filter(|&told| chunk.offset < told) {
        receiving.again.push((told, chunk.offset));
    }
}

fn answer(upload: u32, received: &mut Received, say: &mut Said<'_>) {
    received.told = received.bytes.len() as u64;
    let blob = received.blob.as_deref().unwrap_or_default();
    let (stored_offset, epoch) = (received.told, received.opened);
    let revision = u64::from(received.blob.is_some());
    say(&Message::Opened(Opened { upload, stored_offset, epoch, blob, revision }));
}

fn fault(upload: u32, code: Code, after: Option<u32>, say: &mut Said<'_>) {
    let scope = Scope::Upload { upload, expected: 0 };
    let (retry, retry_after_ms) = (after.is_some(), after.unwrap_or(0));
    say(&Message::Fault(Fault { code, scope, retry, retry_after_ms, detail: "" }));
}

pub fn open(world: &World, numbers: &mut Numbers, open: &Open<'_>, say: &mut Said<'_>) {
    let mut receiving = world.receiving.lock().unwrap();
    if let Some((code, after)) = receiving.refusals.pop_front() {
        return fault(open.upload, code, after, say);
    }
    let received = receiving.uploads.entry(open.id).or_insert_with(|| Received {
        size: open.size,
        name: open.name.to_owned(),
        key: open.key.map(str::to_owned),
        content_type: open.content_type.to_owned(),
        meta: open.meta.iter().map(|one| (one.name.to_owned(), one.value.to_owned())).collect(),
        ..Received::default()
    });
    if received.size != open.size || received.name != open.name {
        return fault(open.upload, Code::CONFLICT, None, say);
    }
    // spec §7.1.1: the newest writes.
    let older = |(number, id): &(&u32, &[u8; 16])| **id == open.id && **number != open.upload;
    if let Some(older) = numbers.iter().find(older).map(|(number, _)| *number) {
        numbers.remove(&older);
        fault(older, Code::REPLACED, None, say);
    }
    numbers.insert(open.upload, open.id);
    received.opened += 1;
    answer(open.upload, received, say);
}

pub fn chunk(world: &World, numbers: &mut Numbers, chunk: &Chunk<'_>, say: &mut Said<'_>) {
    let mut receiving = world.receiving.lock().unwrap();
    // What was on its way behind a fault is dropped.
    let Some(&id) = numbers.get(&chunk.upload) else { return };
    receiving.chunks.push((id, chunk.offset, chunk.payload.len()));
    if let Some(left) = receiving.cut_after.as_mut() {
        *left = left.saturating_sub(1);
        if *left == 0 {
            receiving.cut_after = None;
            // What came with it is lost too.
            numbers.clear();
            return world.cut();
        }
    }
    let (lazy, mute) = (receiving.lazy, receiving.mute);
    let received = receiving.uploads.get_mut(&id).unwrap();
    assert!(chunk.offset >= received.told, "{} was told, {} is sent", received.told, chunk.offset);
    assert_eq!(chunk.offset, received.bytes.len() as u64, "without gaps and overlap");
    received.bytes.extend_from_slice(chunk.payload);
    let unsaid = received.bytes.len() as u64 - received.told;
    let last = received.bytes.len() as u64 == received.size;
    if !mute && (last || unsaid > (lazy * chunk.payload.len()) as u64) {
        answer(chunk.upload, received, say);
    }
}

pub fn abort(world: &World, numbers: &mut Numbers, abort: Abort, say: &mut Said<'_>) {
    let mut receiving = world.receiving.lock().unwrap();
    let Some(id) = numbers.remove(&abort.upload) else {
        return fault(abort.upload, Code::NOT_FOUND, None, say);
    };
    receiving.uploads.remove(&id);
    if std::mem::take(&mut receiving.cut_abort) {
        numbers.clear();
        return world.cut();
    }
    say(&Message::Abort(abort));
}

pub fn seal(world: &World, numbers: &mut Numbers, seal: &Seal, say: &mut Said<'_>) {
    let mut receiving = world.receiving.lock().unwrap();
    let Some(id) = numbers.remove(&seal.upload) else { return };
    let received = receiving.uploads.get_mut(&id).unwrap();
    if *blake3::hash(&received.bytes).as_bytes() == seal.blake3 {
        received.blob = Some(format!("00-{}", id[0]));
        return answer(seal.upload, received, say);
    }
    receiving.uploads.remove(&id);
    fault(seal.upload, Code::MISMATCH, None, say);
}
