//! Lists blobs and uploads for a session that asked: LIST, in the order of names. spec §9.3
//!
//! An entry is looked up when there is room to say it: a listing waits in a few bytes, however long it is. The invariant:
//! entries come in the order of (name, key, position), behind the cursor.

use std::{ops::Bound, sync::Arc};

use spile_protocol::{
    code::Code,
    id::RequestId,
    message::{
        Body, Message, Value,
        request::{List as Request, Listing as Of},
    },
};

use crate::{
    answers::Sink,
    core::Core,
    desk::Identity,
    intake::Intake,
    limits::{LISTINGS, PAGE_DEVICES},
    uploads::{form::blob_id, principal_of, read::Told, view::Listed},
};

/// What joins the fields of a cursor: no name has it.
const JOIN: char = '\u{1f}';

/// Entries looked up at once, under the worker's lock.
const STEP: usize = 64;

/// A LIST that is being answered.
#[derive(Debug)]
pub(crate) struct Listing {
    request: RequestId,
    of: Of,
    prefix: String,
    /// The entry it goes on behind: name, key, position.
    after: Option<(String, String, u64)>,
    left: usize,
}

/// What stands at an entry.
struct Entry {
    listed: Listed,
    told: Told,
}

impl Intake<'_> {
    pub(crate) fn list_files(&mut self, list: &Request<'_>) {
        let gate = self.core.next;
        if self.desk.files.listings.len() >= LISTINGS {
            let detail = "too many listings are under way";
            return self.desk.refuse(gate, list.request, Code::BUSY, detail);
        }
        let after = Some(list.after).filter(|after| !after.is_empty()).map(cursor);
        let left = usize::try_from(list.limit).unwrap_or(usize::MAX).clamp(1, PAGE_DEVICES);
        let (request, of, prefix) = (list.request, list.listing, list.prefix.to_owned());
        self.desk.files.listings.push(Listing { request, of, prefix, after, left });
    }
}

/// spec §9.3.2: a cursor need not be an entry's.
fn cursor(text: &str) -> (String, String, u64) {
    let mut fields = text.split(JOIN);
    let mut next = || fields.next().unwrap_or_default();
    let (name, key, at) = (next().to_owned(), next().to_owned(), next());
    (name, key, u64::from_str_radix(at, 16).unwrap_or(0))
}

impl Listing {
    /// Says entries as long as there is room; true: that was all of the page.
    pub(crate) fn poll(
        &mut self,
        core: &mut Core,
        who: &Identity,
        worker: &str,
        room: usize,
        said: &mut usize,
        sink: &mut Sink<'_>,
    ) -> bool {
        let request = self.request;
        loop {
            core.look();
            let step = self.left.min(STEP);
            let mut entries = core.uploads.durably(|uploads| self.entries(uploads, who, step));
            let beyond = entries.len() > step;
            entries.truncate(step);
            // None at all; or what was to follow is gone meanwhile.
            if entries.is_empty() {
                let fields = Value { request, absent: true, ..Value::default() };
                sink(&Message::Value(Body { fields, payload: &[] }), 0);
                *said += 32;
                return true;
            }
            let mut left = entries.len();
            for Entry { listed: (_, name, key, at), told } in entries {
                let size = told.bytes();
                if *said > 0 && *said + size > room {
                    return false;
                }
                *said += size;
                left -= 1;
                self.left -= 1;
                let over = left == 0 && (self.left == 0 || !beyond);
                let cursor = format!("{name}{JOIN}{key}{JOIN}{at:016x}");
                let cursor = if over && beyond { cursor.as_str() } else { "" };
                told.value((request, worker), !over, cursor, |fields| {
                    sink(&Message::Value(Body { fields, payload: &[] }), 0);
                });
                self.after = Some((name.to_string(), key.to_string(), at));
                if over {
                    return true;
                }
            }
        }
    }

    /// The entries that come next, and one more, so that it is known whether there is one.
    fn entries(
        &self,
        uploads: &mut crate::uploads::Uploads,
        who: &Identity,
        left: usize,
    ) -> Vec<Entry> {
        let tenant: Arc<str> = who.tenant.as_str().into();
        let name = |text: &str| Arc::<str>::from(text);
        let from = match &self.after {
            Some((after, key, at)) if after.as_str() >= self.prefix.as_str() => {
                Bound::Excluded((tenant.clone(), name(after), name(key), *at))
            }
            Some(_) | None => Bound::Included((tenant.clone(), name(&self.prefix), name(""), 0)),
        };
        let blobs = matches!(self.of, Of::Blobs);
        let listed = if blobs { &uploads.view.listed_blobs } else { &uploads.view.listed_uploads };
        let ours = |one: &&Listed| one.0 == tenant && one.1.starts_with(&self.prefix);
        let listed: Vec<Listed> = listed
            .range((from, Bound::Unbounded))
            .take_while(ours)
            .take(left + 1)
            .cloned()
            .collect();
        listed
            .into_iter()
            .filter_map(|listed| {
                let at = listed.3;
                let told = if blobs { uploads.told_blob(at)? } else { uploads.told_upload(at)? };
                Some(Entry { listed, told })
            })
            .collect()
    }
}

impl crate::uploads::Uploads {
    fn told_blob(&self, at: u64) -> Option<Told> {
        let blob = self.view.blobs.get(&at)?;
        let id = blob_id(super::view::tenant_of(&blob.who), &blob.key, at);
        Some(Told::blob(id, at, blob))
    }

    fn told_upload(&mut self, at: u64) -> Option<Told> {
        let upload = self.upload(at)?;
        Some(Told {
            id: upload.id.text(),
            name: upload.name.to_string(),
            key: upload.key.to_string(),
            content_type: upload.content_type.clone(),
            principal: principal_of(&upload.who).to_owned(),
            meta: upload.meta.clone(),
            version: 0,
            position: at,
            time_ms: upload.time_ms,
            size: upload.size,
            stored_offset: upload.work.stored.offset,
            revision: 0,
            blake3: None,
        })
    }
}
