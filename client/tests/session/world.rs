//! What the small server keeps while its connections come and go, and what tests do to it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use spile_protocol::id::Run;
use spile_protocol::message::Receipt;
use tokio::sync::Notify;

use super::handing::Group;

use super::receiving::Receiving;

/// One stored event. Its position is its place in the log, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub topic: String,
    pub version: u64,
    pub payload: Vec<u8>,
}

/// What one (run, key) has come to.
#[derive(Default)]
pub struct Lane {
    pub last: u64,
    pub receipts: Vec<Receipt>,
}

#[derive(Default)]
pub struct World {
    pub log: Mutex<Vec<Stored>>,
    pub lanes: Mutex<HashMap<(Run, String), Lane>>,
    pub changed: Notify,
    /// Ends every connection that began before so many cuts.
    pub cuts: AtomicU64,
    pub cut: Notify,
    /// Takes events, and does not say so.
    pub silent: AtomicBool,
    /// The key `forbidden` is allowed after all.
    pub allows_all: AtomicBool,
    /// Closes lanes of the key `away` for a while.
    pub away: AtomicBool,
    pub connections: AtomicU64,
    /// Another tenant than the one that was asked for.
    pub tenant: Mutex<Option<String>>,
    /// Where a subscription from the end began.
    pub subscribed_at: AtomicUsize,
    pub batches: AtomicU64,
    pub group: Mutex<Group>,
    /// The next look ends a membership for a while.
    pub sends_away: AtomicBool,
    /// Says other bytes of a blob than were stored.
    pub rotten: AtomicBool,
    pub receiving: Mutex<Receiving>,
}

impl World {
    pub fn log(&self) -> Vec<Stored> {
        self.log.lock().unwrap().clone()
    }

    /// Cuts every connection that is there.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        self.cut.notify_waiters();
    }

    pub fn forget_runs(&self) {
        self.lanes.lock().unwrap().clear();
    }

    /// Waits until so many events are stored.
    pub async fn stored(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.log.lock().unwrap().len() >= count {
                return;
            }
            changed.await;
        }
    }

    /// Waits until a key is settled so far.
    pub async fn settled(&self, key: &str, version: u64) {
        loop {
            let changed = self.changed.notified();
            if self.group.lock().unwrap().settled.get(key) == Some(&version) {
                return;
            }
            changed.await;
        }
    }

    pub fn version(&self, key: &str) -> u64 {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|event| event.key == key)
            .map(|event| event.version)
            .max()
            .unwrap_or(0)
    }

    pub fn store(&self, key: &str, topic: &str, payload: &[u8]) -> (u64, u64) {
        let version = self.version(key) + 1;
        let mut log = self.log.lock().unwrap();
        log.push(Stored {
            key: key.to_owned(),
            topic: topic.to_owned(),
            version,
            payload: payload.to_vec(),
        });
        (version, log.len() as u64)
    }
}
