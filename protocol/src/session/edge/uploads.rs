//! Uploads: what OPEN, CHUNK, SEAL and ABORT must satisfy before the driver sees them. spec §7.

use super::{
    Input, Session,
    tables::{UploadState, bytes},
    upstream::{Taken, UNEXPECTED, through},
};
use crate::{
    code::Code,
    id::{self, LaneId, Number},
    limits,
    message::{Abort, Chunk, Message, Open, Scope, Seal},
};

impl Session {
    pub(super) fn open<'b>(&mut self, message: Message<'b>, open: &Open<'b>) -> Taken<'b> {
        let refused = if open.key.is_none_or(|key| id::key(key).is_ok()) {
            (!self.tables.open_upload(open.upload, open.size)).then_some(Code::TOO_MANY)
        } else {
            Some(Code::INVALID)
        };
        match refused {
            Some(code) => {
                self.fault_upload(open.upload, code);
                Ok(None)
            }
            None => Ok(through(message)),
        }
    }

    /// Closes an upload on this session: what is behind it is dropped until a new OPEN.
    fn fault_upload(&mut self, upload: u32, code: Code) {
        let expected = self.tables.upload_mut(upload).map_or(0, |upload| upload.next);
        self.tables.end_upload(upload);
        self.due.scoped(Scope::Upload { upload, expected }, code, code.retry().then_some(0));
    }

    pub(super) fn chunk<'b>(
        &mut self,
        message: Message<'b>,
        chunk: &Chunk<'b>,
        crc: u32,
    ) -> Taken<'b> {
        // spec §7.2.1: what comes behind a fault is dropped until a new OPEN.
        let Some(upload) = self.tables.upload_mut(chunk.upload) else { return Ok(None) };
        let length = u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
        let end = chunk.offset.checked_add(length);
        let refused = match upload.state {
            UploadState::Sealing | UploadState::Aborting => {
                return Err((UNEXPECTED, "CHUNK behind SEAL or ABORT"));
            }
            UploadState::Opening | UploadState::Open if chunk.payload.len() > limits::CHUNK_MAX => {
                Some(Code::TOO_LARGE)
            }
            UploadState::Opening | UploadState::Open if chunk.offset != upload.next => {
                Some(Code::OUT_OF_ORDER)
            }
            UploadState::Opening | UploadState::Open => {
                (length == 0 || end.is_none_or(|end| end > upload.size)).then_some(Code::INVALID)
            }
        };
        if let Some(code) = refused {
            self.fault_upload(chunk.upload, code);
            return Ok(None);
        }
        upload.next = upload.next.saturating_add(length);
        if !self.tables.chunks.spend(bytes(length)) {
            return Err((Code::TOO_FAST, "more was sent than the credit allows"));
        }
        Ok(Some(Input::Upstream { lane: LaneId(0), first: Number(0), message, payload_crc: crc }))
    }

    pub(super) fn seal<'b>(&mut self, message: Message<'b>, seal: Seal) -> Taken<'b> {
        let Some(upload) = self.tables.upload_mut(seal.upload) else { return Ok(None) };
        match upload.state {
            UploadState::Sealing | UploadState::Aborting => {
                Err((UNEXPECTED, "SEAL behind SEAL or ABORT"))
            }
            // spec §7.3.1: where the size is not what was sent its worker says so, and forgets the upload.
            UploadState::Opening | UploadState::Open => {
                upload.state = UploadState::Sealing;
                Ok(through(message))
            }
        }
    }

    pub(super) fn abort<'b>(&mut self, message: Message<'b>, abort: Abort) -> Taken<'b> {
        let Some(upload) = self.tables.upload_mut(abort.upload) else {
            self.fault_upload(abort.upload, Code::NOT_FOUND);
            return Ok(None);
        };
        upload.state = UploadState::Aborting;
        Ok(through(message))
    }
}
