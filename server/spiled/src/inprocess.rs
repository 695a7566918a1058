//! Edge and worker in one process: the session's own task calls the worker, no channel, no other task.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use spile_edge::upstream::{Away, Input, Port, Ready, Upstream};
use spile_protocol::{
    code::Code,
    id::LinkSessionId,
    message::{Attach, Detach, Message},
    time::Millis,
};
use spile_worker::{Polled, Session, Worker};

/// Payloads wait for the log in blocks of about this many bytes, shared by all sessions of a thread, so that an event
/// costs no allocation and an idle session holds none.
const BLOCK: usize = 256 * 1024;

thread_local! {
    static PAYLOADS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The worker of the same process.
#[derive(Debug)]
pub struct InProcess(pub Arc<Worker>);

impl Upstream for InProcess {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn attach(&self, attach: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
        let session = self.0.attach(attach);
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
        let mut intake = self.session.intake();
        PAYLOADS.with_borrow_mut(|block| {
            for Input { message, number, payload_crc } in inputs {
                if let Message::Void(void) = &message {
                    intake.void(now, void.lane, number, void.count, void.code);
                } else {
                    let payload = kept(block, message.payload());
                    intake.message(now, number, &message, &payload, payload_crc);
                }
            }
        });
        intake.finish();
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

/// A payload that outlives the read it came in.
fn kept(block: &mut BytesMut, payload: &[u8]) -> Bytes {
    if payload.is_empty() {
        return Bytes::new();
    }
    if payload.len() > BLOCK / 4 {
        return Bytes::copy_from_slice(payload);
    }
    if block.capacity() < payload.len() {
        block.reserve(BLOCK);
    }
    block.extend_from_slice(payload);
    block.split().freeze()
}
