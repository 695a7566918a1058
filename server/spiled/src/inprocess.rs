//! Edge and worker in one process: the session's own task calls the worker, no channel, no other task. And the registry,
//! which the edge follows as it would over a link.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use spile_edge::cache::Cache;
use spile_edge::registry::{Copy, Entry, Part};
use spile_edge::upstream::{Away, Input, Port, Ready, Upstream};
use spile_protocol::{
    code::Code,
    id::LinkSessionId,
    message::{Attach, Detach, Message},
    time::Millis,
};
use spile_worker::changes::{Asking, Changes};
use spile_worker::registry::Device;
use spile_worker::{Polled, Session, Worker};

use crate::start::Room;

/// Payloads wait for the log in blocks of about this many bytes, shared by all sessions of a thread, so that an event
/// costs no allocation and an idle session holds none.
const BLOCK: usize = 256 * 1024;

thread_local! {
    static PAYLOADS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The worker of the same process.
#[derive(Debug)]
pub struct InProcess {
    /// The worker.
    pub worker: Arc<Worker>,
    /// The name of the edge beside it.
    pub edge: String,
    /// By which the edge hears what changed of what it asked for.
    pub asking: Asking,
}

impl Upstream for InProcess {
    fn name(&self) -> &str {
        self.worker.name()
    }

    fn attach(&self, attach: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
        let session = self.worker.attach(attach).of_edge(&self.edge);
        let session = session.asking(self.asking.clone());
        Ok(Box::new(Desk { session, more: false, gone: None }))
    }
}

/// A session's place at the worker.
struct Desk {
    session: Session,
    /// The last poll had no room for all.
    more: bool,
    /// The worker has let go of the session, and the edge was told.
    gone: Option<Code>,
}

impl Port for Desk {
    fn take<'b>(&mut self, now: Millis, inputs: &mut dyn Iterator<Item = Input<'b>>) {
        PAYLOADS.with_borrow_mut(|block| {
            let mut next = inputs.next();
            // The first is copied before the worker is locked: a chunk, which is large, mostly comes alone.
            let mut payload = next.as_ref().map(|input| kept(block, input));
            let mut intake = self.session.intake();
            while let (Some(Input { message, number, payload_crc, .. }), Some(copied)) =
                (next, payload.take())
            {
                if let Message::Void(void) = &message {
                    intake.void(now, void.lane, number, void.count, void.code);
                } else {
                    intake.message(now, number, &message, &copied, payload_crc);
                }
                next = inputs.next();
                payload = next.as_ref().map(|input| kept(block, input));
            }
            intake.finish();
        });
    }

    fn poll(&mut self, room: usize, sink: &mut dyn FnMut(&Message<'_>, u32)) {
        if self.gone.is_some() {
            return;
        }
        match self.session.poll(room, sink) {
            Polled::Idle => self.more = false,
            Polled::More => self.more = true,
            Polled::Gone(code) => {
                self.gone = Some(code);
                sink(&Message::Detach(Detach { session: LinkSessionId(0), code }), 0);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.session.has_room()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        if self.gone.is_some() {
            return Poll::Pending;
        }
        if self.more {
            return Poll::Ready(Ready::Some);
        }
        self.session.poll_ready(cx).map(|()| Ready::Some)
    }
}

/// The edge's copy of the registry of the worker beside it: never old, and told of each change when it is durable.
#[must_use]
pub fn registry(room: &Room, worker: &Arc<Worker>) -> Arc<Copy> {
    let copy = Arc::new(Copy::new(u64::MAX));
    let Some(mut follower) = worker.follow_registry(&room.config.name) else { return copy };
    let learn = {
        let copy = Arc::clone(&copy);
        move |part: spile_worker::registry::Copy| {
            let spile_worker::registry::Copy { upto, whole, devices, .. } = part;
            // The time is no matter: a copy that never gets old is fresh once it is there.
            copy.learn(
                Millis(0),
                Part { upto, whole, more: false },
                devices.into_iter().map(entry),
                // The one worker has the groups' definitions itself.
                std::iter::empty(),
            );
            upto
        }
    };
    // Whole before the first session comes.
    if let Some(whole) = follower.poll() {
        follower.confirm(learn(whole));
    }
    let shutdown = room.told.shutdown.clone();
    room.tasks.spawn(async move {
        while let Some(part) = shutdown.run_until_cancelled(follower.next()).await {
            follower.confirm(learn(part));
        }
    });
    copy
}

/// Marks that are worked off at once.
const MARKS: usize = 4_096;

/// The edge's cache lets go of what changed, as it would over a link: its one worker has the first place.
pub fn follow_changes(room: &Room, mut changes: Changes, cache: Arc<Cache>) {
    let shutdown = room.told.shutdown.clone();
    room.tasks.spawn(async move {
        while let Some(marks) = shutdown.run_until_cancelled(changes.next(MARKS)).await {
            cache.changed(0, marks);
        }
        // Sessions that still drain hear of no change any more.
        cache.forget(0);
    });
}

fn entry(device: Device) -> (Box<str>, Box<str>, Entry) {
    let Device { tenant, principal, role, key_hash, revoked, expires_ms } = device;
    (tenant.into(), principal.into(), Entry { role, key_hash, revoked, expires_ms })
}

/// A payload that outlives the read it came in.
fn kept(block: &mut BytesMut, input: &Input<'_>) -> Bytes {
    let payload = input.message.payload();
    if payload.is_empty() {
        return Bytes::new();
    }
    if payload.len() > BLOCK / 4 {
        let shared = input.block.and_then(|whole| spile_log::share(whole, payload));
        return shared.unwrap_or_else(|| Bytes::copy_from_slice(payload));
    }
    if block.capacity() < payload.len() {
        block.reserve(BLOCK);
    }
    block.extend_from_slice(payload);
    block.split().freeze()
}
