//! Rows as the bytes of a snapshot, and back. record §8.3
//!
//! The invariant: what is read is what was written, in the same order, or an error: decoding is total.

use bytes::{Buf, Bytes, BytesMut};
use spile_log::KeepError;
use spile_protocol::varint;

use crate::{
    limits::{READ_BYTES, SNAPSHOT_ROW_BYTES},
    log::{Pieces, PutPieces},
    snapshot::SnapshotError,
};

/// The layout this build writes: the first byte of all.
const FORM: u8 = 1;

/// Writes rows.
pub(crate) struct PutRows {
    to: Box<dyn PutPieces>,
    buffer: Vec<u8>,
}

impl PutRows {
    pub(crate) fn new(to: Box<dyn PutPieces>) -> Self {
        Self { to, buffer: vec![FORM] }
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KeepError> {
        for part in [key, value] {
            let mut length = [0; varint::MAX_BYTES];
            let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
            let used = varint::encode(bytes, &mut length).unwrap_or_default();
            self.buffer.extend_from_slice(length.get(..used).unwrap_or_default());
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() >= READ_BYTES {
            self.to.put(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<(), KeepError> {
        self.to.put(&self.buffer)?;
        self.to.finish()
    }
}

/// What is done with a key and its value.
type EachRow<'e> = dyn FnMut(&[u8], &[u8]) -> Result<(), SnapshotError> + 'e;

/// Reads rows.
pub(crate) struct Rows {
    from: Box<dyn Pieces>,
    buffer: BytesMut,
    begun: bool,
}

impl Rows {
    pub(crate) fn new(from: Box<dyn Pieces>) -> Self {
        Self { from, buffer: BytesMut::new(), begun: false }
    }

    /// Gives every row to `each`, in the order of keys.
    pub(crate) fn each(&mut self, each: &mut EachRow<'_>) -> Result<(), SnapshotError> {
        self.from.rewind();
        self.buffer.clear();
        self.begun = false;
        while let Some((key, value)) = self.next()? {
            each(&key, &value)?;
        }
        Ok(())
    }

    /// The next row; `None` behind the last.
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, SnapshotError> {
        if !self.begun {
            self.begun = true;
            if !self.fill(1)? || self.buffer.get_u8() != FORM {
                return Err(SnapshotError::Form);
            }
        }
        if !self.fill(1)? {
            return Ok(None);
        }
        let key = self.part()?;
        Ok(Some((key, self.part()?)))
    }

    fn part(&mut self) -> Result<Bytes, SnapshotError> {
        let mut bytes = 1;
        let length = loop {
            if !self.fill(bytes)? || bytes > varint::MAX_BYTES {
                return Err(SnapshotError::Form);
            }
            match varint::decode(self.buffer.get(..bytes).unwrap_or_default()) {
                Ok((length, _)) => break length,
                Err(_) => bytes += 1,
            }
        };
        self.buffer.advance(bytes);
        let length = usize::try_from(length).ok().filter(|&length| length <= SNAPSHOT_ROW_BYTES);
        let length = length.ok_or(SnapshotError::Form)?;
        if !self.fill(length)? {
            return Err(SnapshotError::Form);
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Has at least so many bytes at hand; false where there are not so many.
    fn fill(&mut self, bytes: usize) -> Result<bool, SnapshotError> {
        while self.buffer.len() < bytes {
            let Some(more) = self.from.next()? else { return Ok(false) };
            self.buffer.extend_from_slice(&more);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::checkpoint::Row;

    #[derive(Clone, Default)]
    struct Shelf(Arc<Mutex<Vec<u8>>>, usize, usize);

    impl PutPieces for Shelf {
        fn put(&mut self, bytes: &[u8]) -> Result<(), KeepError> {
            self.0.lock().unwrap().extend(bytes);
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<(), KeepError> {
            Ok(())
        }
    }

    impl Pieces for Shelf {
        fn next(&mut self) -> Result<Option<Bytes>, KeepError> {
            let bytes = self.0.lock().unwrap();
            let piece: Vec<u8> = bytes.iter().skip(self.2).take(self.1).copied().collect();
            self.2 += piece.len();
            Ok(Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()))
        }
        fn rewind(&mut self) {
            self.2 = 0;
        }
    }

    fn read(bytes: &[u8], at_once: usize) -> Result<Vec<Row>, SnapshotError> {
        let shelf = Shelf(Arc::new(Mutex::new(bytes.to_vec())), at_once, 0);
        let mut rows = Rows::new(Box::new(shelf));
        let mut found = Vec::new();
        for _ in 0..2 {
            found.clear();
            rows.each(&mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                Ok(())
            })?;
        }
        Ok(found)
    }

    #[test]
    fn rows_are_read_as_they_were_written_however_they_are_cut() {
        let rows = vec![
            (b"a".to_vec(), Vec::new()),
            (b"bb".to_vec(), vec![7; 300]),
            (Vec::new(), b"x".to_vec()),
        ];
        let shelf = Shelf::default();
        let mut out = PutRows::new(Box::new(shelf.clone()));
        rows.iter().for_each(|(key, value)| out.put(key, value).unwrap());
        out.finish().unwrap();
        let bytes: Vec<u8> = shelf.0.lock().unwrap().clone();
        for at_once in [1, 2, 5, 1000] {
            assert_eq!(read(&bytes, at_once).unwrap(), rows);
        }
        let whole = |cut: usize| read(&bytes[..cut], 3);
        for cut in 0..bytes.len() {
            assert!(whole(cut).is_err() || whole(cut).unwrap().len() < rows.len(), "cut at {cut}");
        }
        assert!(read(&[2], 1).is_err(), "another form");
    }
}
