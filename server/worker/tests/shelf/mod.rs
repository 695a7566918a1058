//! A store of checkpoints in memory.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use spile_worker::views::{Views, ViewsError};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows, and up to where they hold. Clones are the same store.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<(Rows, u64)>>);

impl Views for Shelf {
    fn load(&self, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<u64, ViewsError> {
        let shelf = self.0.lock().unwrap();
        if shelf.0.iter().all(|(key, value)| each(key, value)) {
            Ok(shelf.1)
        } else {
            Err(ViewsError::Row)
        }
    }

    fn store(
        &mut self,
        removed: &[Vec<u8>],
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        applied: u64,
    ) -> Result<(), ViewsError> {
        let mut shelf = self.0.lock().unwrap();
        shelf.0.retain(|key, _| !removed.iter().any(|prefix| key.starts_with(prefix)));
        shelf.0.extend(rows);
        shelf.1 = applied;
        Ok(())
    }
}
