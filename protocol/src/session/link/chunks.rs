//! Chunks that are under way on a link: how many bytes may be, and of which uploads they are. spec §10.6.
//!
//! The invariants: what is under way never passes the credit, but for one chunk when nothing else is; and whatever becomes of
//! an upload, what was counted of it comes back: with the worker's answer, or with the session.

use alloc::collections::BTreeMap;

use crate::{
    id::LinkSessionId,
    message::{Abort, Fault, Message, Scope},
    session::{Amount, window::Window},
};

#[derive(Debug, Default)]
pub(super) struct Chunks {
    window: Window,
    uploads: BTreeMap<(LinkSessionId, u32), Upload>,
}

/// An upload that a session has open at the worker.
#[derive(Clone, Copy, Debug, Default)]
struct Upload {
    /// Where the last chunk that was sent ends.
    end: u64,
    /// What of it is under way.
    bytes: u32,
}

const fn chunks(bytes: u32) -> Amount {
    Amount { events: 0, bytes }
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}

impl Chunks {
    /// What may be under way from now on; what is stays.
    pub(super) const fn limit(&mut self, bytes: u32) {
        self.window.limit(chunks(bytes));
    }

    /// May the message go?
    pub(super) fn takes(&self, session: LinkSessionId, message: &Message<'_>) -> bool {
        let Message::Chunk(chunk) = message else { return true };
        // Of an upload that is over here the worker takes nothing: it costs nothing.
        !self.uploads.contains_key(&(session, chunk.upload))
            || self.window.takes(chunks(length(chunk.payload)))
    }

    /// The message went.
    pub(super) fn sent(&mut self, session: LinkSessionId, message: &Message<'_>) {
        if let Message::Open(open) = message {
            // The number means this opening now. What is under way of the one before comes back with its answer.
            self.uploads.entry((session, open.upload)).or_default().end = 0;
        } else if let Message::Chunk(chunk) = message
            && let Some(upload) = self.uploads.get_mut(&(session, chunk.upload))
        {
            let bytes = length(chunk.payload);
            if self.window.spend(chunks(bytes)) {
                upload.bytes = upload.bytes.saturating_add(bytes);
            }
            upload.end = chunk.offset.saturating_add(u64::from(bytes));
        }
    }

    /// The worker said this to the session.
    pub(super) fn heard(&mut self, session: LinkSessionId, message: &Message<'_>) {
        if let Message::Opened(opened) = message {
            if opened.blob.is_empty() {
                self.stored((session, opened.upload), opened.stored_offset);
            } else {
                self.end((session, opened.upload));
            }
        } else if let Message::Abort(Abort { upload })
        | Message::Fault(Fault { scope: Scope::Upload { upload, .. }, .. }) = message
        {
            self.end((session, *upload));
        }
    }

    fn stored(&mut self, upload: (LinkSessionId, u32), offset: u64) {
        let Some(upload) = self.uploads.get_mut(&upload) else { return };
        let left = upload.end.saturating_sub(offset);
        let left = u32::try_from(left).unwrap_or(u32::MAX).min(upload.bytes);
        self.window.release(chunks(upload.bytes - left));
        upload.bytes = left;
    }

    fn end(&mut self, upload: (LinkSessionId, u32)) {
        if let Some(upload) = self.uploads.remove(&upload) {
            self.window.release(chunks(upload.bytes));
        }
    }

    /// The session is over, and its uploads with it.
    pub(super) fn end_session(&mut self, session: LinkSessionId) {
        while let Some((&upload, _)) = self.uploads.range((session, 0)..=(session, u32::MAX)).next()
        {
            self.end(upload);
        }
    }
}
