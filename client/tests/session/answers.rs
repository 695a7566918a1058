//! What the small server answers to GET and LIST, out of its log: state is the last event of each key and topic, a blob's
//! bytes are the payload of the event at its place, in parts of three.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use spile_protocol::code::Code;
use spile_protocol::id::{Position, RequestId, Version};
use spile_protocol::message::request::{Get, List, Target};
use spile_protocol::message::{Body, Fault, Message, Scope, Value};

use super::world::{Stored, World};

/// What is to be said, in order.
pub type Said<'a> = dyn FnMut(&Message<'_>) + 'a;

/// A VALUE with nothing in it.
pub fn value(request: RequestId) -> Value<'static> {
    Value { request, ..Value::default() }
}

fn absent(request: RequestId, say: &mut Said<'_>) {
    let fields = Value { absent: true, ..value(request) };
    say(&Message::Value(Body { fields, payload: b"" }));
}

pub fn get(world: &World, get: &Get<'_>, say: &mut Said<'_>) {
    if world.silent.load(Ordering::Relaxed) {
        return;
    }
    let log = world.log();
    let request = get.request;
    match get.target {
        Target::State { key, topic } => {
            let last = log.iter().enumerate().rev();
            match last.into_iter().find(|(_, one)| one.key == key && one.topic == topic) {
                None => absent(request, say),
                Some((at, one)) => say(&Message::Value(Body {
                    fields: Value {
                        name: &one.topic,
                        key: &one.key,
                        version: Version(one.version),
                        position: Some(Position(at as u64 + 1)),
                        worker: "w",
                        ..value(request)
                    },
                    payload: &one.payload,
                })),
            }
        }
        Target::Stream { key } => match world.version(key) {
            0 => absent(request, say),
            version => {
                let fields = Value { key, version: Version(version), ..value(request) };
                say(&Message::Value(Body { fields, payload: b"" }));
            }
        },
        Target::Blob { blob, offset, length } => {
            match blob.parse().ok().and_then(|at: usize| log.get(at)) {
                Some(one) => {
                    let rotten = world.rotten.load(Ordering::Relaxed);
                    parts(request, one, (offset, length, rotten), say);
                }
                None => say(&Message::Fault(Fault {
                    code: Code::NOT_FOUND,
                    scope: Scope::Request(request),
                    retry: false,
                    retry_after_ms: 0,
                    detail: "no such blob",
                })),
            }
        }
    }
}

fn parts(
    request: RequestId,
    one: &Stored,
    (offset, length, rotten): (u64, u32, bool),
    say: &mut Said<'_>,
) {
    let blake3 = Some(*blake3::hash(&one.payload).as_bytes());
    let size = one.payload.len() as u64;
    let end = (offset as usize + length as usize).min(one.payload.len());
    let mut bytes = one.payload[offset as usize..end].to_vec();
    bytes.iter_mut().take(usize::from(rotten)).for_each(|byte| *byte ^= 1);
    // Nothing is said too.
    let count = bytes.len().div_ceil(3).max(1);
    for at in 0..count {
        let part = &bytes[at * 3..(at * 3 + 3).min(bytes.len())];
        let more = at + 1 < count;
        let fields = Value { more, size, blake3, name: &one.topic, ..value(request) };
        say(&Message::Value(Body { fields, payload: part }));
    }
}

pub fn list(world: &World, list: &List<'_>, say: &mut Said<'_>) {
    let log = world.log();
    let latest: BTreeMap<_, _> = log.iter().map(|one| ((&one.key, &one.topic), one)).collect();
    let name = |one: &Stored| format!("{} {}", one.key, one.topic);
    let left: Vec<_> = latest
        .values()
        .filter(|one| one.key.starts_with(list.prefix) && *name(one) > *list.after)
        .collect();
    if left.is_empty() {
        return absent(list.request, say);
    }
    // Pages of this server are small, whatever the client asks for.
    let page = left.len().min(list.limit.min(3) as usize);
    for (at, one) in left.iter().take(page).enumerate() {
        let last = at + 1 == page;
        let cursor = if last && left.len() > page { name(one) } else { String::new() };
        let fields = Value {
            more: !last,
            name: &one.topic,
            key: &one.key,
            version: Version(one.version),
            cursor: &cursor,
            partial: one.key == "away",
            ..value(list.request)
        };
        say(&Message::Value(Body { fields, payload: &one.payload }));
    }
}
