//! Who is called each time the durable end moved, or the state changed: on the thread that moved it, behind the watch.
//!
//! For one owner with many sleepers, who knows which of them it concerns; a watch wakes all. The invariant: whoever looks at the
//! watch behind a call sees what the call said, or what came later.

use std::sync::Mutex;

use crate::{Durable, lock};

/// It is called; false: it is not called again. It must be short, and may not append.
pub type Listener = Box<dyn Fn(Durable) -> bool + Send + Sync>;

/// All of them.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Listener>>);

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

impl Listeners {
    pub(crate) fn add(&self, listener: Listener) {
        lock(&self.0).push(listener);
    }

    pub(crate) fn tell(&self, durable: Durable) {
        lock(&self.0).retain(|listener| listener(durable));
    }
}
