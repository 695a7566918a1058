//! Uploads that are open and blobs that are kept, as the event log says, and how a change of them is taken back.
//!
//! One [`View::apply`] for what is taken and for what is read back, so that a rebuild gives the same. The invariant: undoing
//! the changes newest first gives what was before them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    tables::Tables,
    uploads::{
        form::{Blake3, Freed, Metadata, Opened, Place, Sealed, UploadId},
        work::{Part, Work},
    },
};

/// Who uploads: tenant, role and name; and what the upload is called by it.
pub(crate) type Called = (Arc<str>, UploadId);

/// Under what a listing shows something: tenant, name, key, position. spec §9.3
pub(crate) type Listed = (Arc<str>, Arc<str>, Arc<str>, u64);

/// What revisions are counted under: tenant, name, key.
pub(crate) type Name = (Arc<str>, Arc<str>, Arc<str>);

/// An upload that is under way.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) who: Arc<str>,
    pub(crate) id: UploadId,
    pub(crate) key: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) content_type: String,
    pub(crate) meta: Metadata,
    pub(crate) size: u64,
    pub(crate) epoch: u32,
    pub(crate) from: u64,
    pub(crate) mark: u64,
    /// When it was opened last.
    pub(crate) time_ms: u64,
    pub(crate) work: Work,
}

/// A sealed upload.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) who: Arc<str>,
    pub(crate) id: UploadId,
    pub(crate) epoch: u32,
    pub(crate) key: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) content_type: String,
    pub(crate) meta: Metadata,
    pub(crate) size: u64,
    pub(crate) blake3: Blake3,
    pub(crate) revision: u64,
    pub(crate) version: u64,
    pub(crate) time_ms: u64,
    pub(crate) place: Place,
}

/// The first half of a scoped name: the tenant.
pub(crate) fn tenant_of(who: &str) -> &str {
    Tables::halves(who).0
}

impl Upload {
    /// Where its bytes are: stream, last chunk, and how many.
    pub(crate) fn keeps(&self) -> Option<(u64, u64, u64)> {
        let Part { offset, stream, last } = self.work.taken();
        (stream != 0).then_some((stream, last, offset))
    }

    pub(crate) fn listed(&self, at: u64) -> Listed {
        (tenant_of(&self.who).into(), self.name.clone(), self.key.clone(), at)
    }
}

impl Blob {
    /// What its revision is counted under.
    fn name(&self) -> Name {
        let (tenant, name, key, _) = self.listed(0);
        (tenant, name, key)
    }

    /// Where its bytes are: stream, last chunk, and how many.
    pub(crate) fn keeps(&self) -> Option<(u64, u64, u64)> {
        let Place { stream, last, .. } = self.place;
        (stream != 0).then_some((stream, last, self.size))
    }

    pub(crate) fn listed(&self, at: u64) -> Listed {
        (tenant_of(&self.who).into(), self.name.clone(), self.key.clone(), at)
    }
}

/// What a record changes.
#[derive(Debug)]
pub(crate) enum Change {
    /// UPLOAD.
    Opened { at: u64, who: Arc<str>, key: Arc<str>, time_ms: u64, opened: Opened },
    /// BLOB.
    Sealed { at: u64, version: u64, time_ms: u64, place: Place, sealed: Sealed },
    /// FREED.
    Freed(Freed),
}

/// How a change is taken back; taking that back gives the change again.
#[derive(Debug)]
pub(crate) enum Undo {
    /// It changed nothing.
    Nothing,
    /// Forget the upload.
    Forget(u64),
    /// The upload is there again.
    Upload(u64, Box<Upload>),
    /// It had this epoch, at this time.
    Again { at: u64, epoch: u32, time_ms: u64 },
    /// Forget the blob; it is an upload again.
    Unseal { blob: u64, upload: u64, was: Box<Upload> },
    /// Forget the upload; it is a blob again.
    Seal { blob: u64, upload: u64, is: Box<Blob> },
    /// Forget the blob.
    ForgetBlob(u64),
    /// The blob is there again, and its name counted so far.
    Blob(u64, Box<Blob>, u64),
}

impl Undo {
    /// The upload that it would bring back.
    pub(crate) fn upload_mut(&mut self) -> Option<&mut Upload> {
        match self {
            Self::Upload(_, upload) | Self::Unseal { was: upload, .. } => Some(upload),
            Self::Nothing
            | Self::Forget(_)
            | Self::Again { .. }
            | Self::Seal { .. }
            | Self::ForgetBlob(_)
            | Self::Blob(..) => None,
        }
    }

    /// The place of what it would bring back: stream, last chunk, bytes.
    pub(crate) fn keeps(&self) -> Option<(u64, u64, u64)> {
        match self {
            Self::Upload(_, upload) | Self::Unseal { was: upload, .. } => upload.keeps(),
            Self::Blob(_, blob, _) => blob.keeps(),
            Self::Nothing
            | Self::Forget(_)
            | Self::Again { .. }
            | Self::Seal { .. }
            | Self::ForgetBlob(_) => None,
        }
    }
}

/// How far revisions of a name are counted, and how many blobs have it.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    last: u64,
    blobs: u64,
}

/// The view.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) uploads: BTreeMap<u64, Upload>,
    pub(crate) blobs: BTreeMap<u64, Blob>,
    pub(crate) open: BTreeMap<Called, u64>,
    pub(crate) sealed: HashMap<Called, u64>,
    of_principal: HashMap<Arc<str>, usize>,
    pub(crate) listed_uploads: BTreeSet<Listed>,
    pub(crate) listed_blobs: BTreeSet<Listed>,
    revisions: HashMap<Name, Counted>,
    /// What changed since the last checkpoint.
    pub(crate) dirty_uploads: BTreeSet<u64>,
    pub(crate) dirty_blobs: BTreeSet<u64>,
    pub(crate) dirty_names: BTreeSet<Name>,
}

impl View {
    /// Nothing changed since the last checkpoint.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty_uploads.is_empty() && self.dirty_blobs.is_empty() && self.dirty_names.is_empty()
    }

    /// What was loaded stands in the checkpoint already.
    pub(crate) fn loaded(&mut self) {
        self.dirty_uploads.clear();
        self.dirty_blobs.clear();
        self.dirty_names.clear();
    }

    /// How many uploads a principal has open.
    pub(crate) fn open_of(&self, who: &str) -> usize {
        self.of_principal.get(who).copied().unwrap_or(0)
    }

    /// The revision the next blob of the name has. record §11.4
    pub(crate) fn next_revision(&self, upload: &Upload) -> u64 {
        let (tenant, name, key, _) = upload.listed(0);
        self.revisions.get(&(tenant, name, key)).map_or(0, |counted| counted.last) + 1
    }

    /// How far the revisions of a name are counted, where it has blobs.
    pub(crate) fn counted(&self, name: &Name) -> Option<u64> {
        self.revisions.get(name).map(|counted| counted.last)
    }

    /// The name was counted so far, though the blob with that revision is gone.
    pub(crate) fn count_to(&mut self, name: &Name, last: u64) {
        if let Some(counted) = self.revisions.get_mut(name) {
            counted.last = counted.last.max(last);
        }
    }

    /// Names whose newest blob is gone: how far each was counted.
    pub(crate) fn names_ahead(&self) -> Vec<(Name, u64)> {
        let mut newest: HashMap<Name, u64> = HashMap::new();
        for blob in self.blobs.values() {
            let last = newest.entry(blob.name()).or_default();
            *last = blob.revision.max(*last);
        }
        let counted = self.revisions.iter().map(|(name, counted)| (name.clone(), counted.last));
        counted.filter(|(name, last)| newest.get(name).is_none_or(|kept| kept < last)).collect()
    }

    pub(crate) fn apply(&mut self, change: Change) -> Undo {
        match change {
            Change::Opened { at, who, key, time_ms, opened } => match opened.first {
                None => self.open_first(at, who, key, time_ms, opened),
                Some(first) => self.open_again(first, time_ms, opened.epoch),
            },
            Change::Sealed { at, version, time_ms, place, sealed } => {
                self.seal(at, (version, time_ms), place, sealed)
            }
            Change::Freed(Freed { upload: Some(at), .. }) => self.forget(at),
            Change::Freed(Freed { blob: Some(at), .. }) => self.forget_blob(at),
            Change::Freed(Freed { upload: None, blob: None, .. }) => Undo::Nothing,
        }
    }

    /// Takes a change back: how that is taken back.
    pub(crate) fn undo(&mut self, undo: Undo) -> Undo {
        match undo {
            Undo::Nothing => Undo::Nothing,
            Undo::Forget(at) => self.forget(at),
            Undo::Upload(at, upload) => {
                self.put_upload(at, *upload);
                Undo::Forget(at)
            }
            Undo::Again { at, epoch, time_ms } => self.open_again(at, time_ms, epoch),
            Undo::Unseal { blob, upload, was } => {
                let Some((is, _)) = self.take_blob(blob) else { return Undo::Nothing };
                self.put_upload(upload, *was);
                if let Some(counted) = self.revisions.get_mut(&is.name()) {
                    counted.last = is.revision.saturating_sub(1);
                }
                Undo::Seal { blob, upload, is: Box::new(is) }
            }
            Undo::Seal { blob, upload, is } => {
                let Some(was) = self.take_upload(upload) else { return Undo::Nothing };
                self.put_blob(blob, *is);
                Undo::Unseal { blob, upload, was: Box::new(was) }
            }
            Undo::ForgetBlob(at) => self.forget_blob(at),
            Undo::Blob(at, blob, last) => {
                let name = blob.name();
                self.put_blob(at, *blob);
                self.count_to(&name, last);
                Undo::ForgetBlob(at)
            }
        }
    }

    fn forget(&mut self, at: u64) -> Undo {
        let upload = self.take_upload(at);
        upload.map_or(Undo::Nothing, |upload| Undo::Upload(at, Box::new(upload)))
    }

    fn forget_blob(&mut self, at: u64) -> Undo {
        let Some((blob, last)) = self.take_blob(at) else { return Undo::Nothing };
        Undo::Blob(at, Box::new(blob), last)
    }

    fn open_first(
        &mut self,
        at: u64,
        who: Arc<str>,
        key: Arc<str>,
        time_ms: u64,
        opened: Opened,
    ) -> Undo {
        let Opened { epoch, id, from, mark, size, name, content_type, meta, .. } = opened;
        let name = name.into();
        let work = Work::default();
        let upload = Upload {
            who,
            id,
            key,
            name,
            content_type,
            meta,
            size,
            epoch,
            from,
            mark,
            time_ms,
            work,
        };
        self.put_upload(at, upload);
        Undo::Forget(at)
    }

    fn open_again(&mut self, at: u64, time_ms: u64, epoch: u32) -> Undo {
        let Some(upload) = self.uploads.get_mut(&at) else { return Undo::Nothing };
        self.dirty_uploads.insert(at);
        let undo = Undo::Again { at, epoch: upload.epoch, time_ms: upload.time_ms };
        (upload.epoch, upload.time_ms) = (epoch, time_ms);
        undo
    }

    fn seal(
        &mut self,
        at: u64,
        (version, time_ms): (u64, u64),
        place: Place,
        sealed: Sealed,
    ) -> Undo {
        let Some(upload) = self.take_upload(place.upload) else { return Undo::Nothing };
        let Sealed { revision, size, blake3, .. } = sealed;
        let blob = Blob {
            who: upload.who.clone(),
            id: upload.id,
            epoch: upload.epoch,
            key: upload.key.clone(),
            name: upload.name.clone(),
            content_type: upload.content_type.clone(),
            meta: upload.meta.clone(),
            size,
            blake3,
            revision,
            version,
            time_ms,
            place,
        };
        self.put_blob(at, blob);
        Undo::Unseal { blob: at, upload: place.upload, was: Box::new(upload) }
    }

    pub(crate) fn put_upload(&mut self, at: u64, upload: Upload) {
        self.dirty_uploads.insert(at);
        self.listed_uploads.insert(upload.listed(at));
        self.open.insert((upload.who.clone(), upload.id), at);
        *self.of_principal.entry(upload.who.clone()).or_default() += 1;
        self.uploads.insert(at, upload);
    }

    fn take_upload(&mut self, at: u64) -> Option<Upload> {
        let upload = self.uploads.remove(&at)?;
        self.dirty_uploads.insert(at);
        self.listed_uploads.remove(&upload.listed(at));
        self.open.remove(&(upload.who.clone(), upload.id));
        if let Some(count) = self.of_principal.get_mut(&upload.who) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_principal.remove(&upload.who);
            }
        }
        Some(upload)
    }

    pub(crate) fn put_blob(&mut self, at: u64, blob: Blob) {
        self.dirty_blobs.insert(at);
        let listed = blob.listed(at);
        let counted = self.revisions.entry(blob.name()).or_default();
        counted.last = counted.last.max(blob.revision);
        counted.blobs = counted.blobs.saturating_add(1);
        self.listed_blobs.insert(listed);
        self.sealed.insert((blob.who.clone(), blob.id), at);
        self.blobs.insert(at, blob);
    }

    /// The blob, and how far its name was counted.
    fn take_blob(&mut self, at: u64) -> Option<(Blob, u64)> {
        let blob = self.blobs.remove(&at)?;
        self.dirty_blobs.insert(at);
        let listed = blob.listed(at);
        self.listed_blobs.remove(&listed);
        let called = (blob.who.clone(), blob.id);
        if self.sealed.get(&called) == Some(&at) {
            self.sealed.remove(&called);
        }
        let name = blob.name();
        let mut last = blob.revision;
        if let Some(counted) = self.revisions.get_mut(&name) {
            last = counted.last;
            counted.blobs = counted.blobs.saturating_sub(1);
            self.dirty_names.insert(name.clone());
            // record §11.4: where no blob of the name is kept, its revisions begin anew.
            if counted.blobs == 0 {
                self.revisions.remove(&name);
            }
        }
        Some((blob, last))
    }
}
