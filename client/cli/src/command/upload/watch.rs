//! How far uploads are: for the bar, and to give up on one that does not go on.
//!
//! An upload may be silent for long while a large file is hashed, here or there. It is given up only where the server is
//! away, has not answered at all, or says again and again that it can't now, for as long as `--timeout` says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spile_client::{Client, Progress as Went, Refusal};
use spile_protocol::time::Millis;

use super::Given;
use crate::connect::late;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::value::size;

/// How often it is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How far one is.
#[derive(Clone, Debug, Default)]
struct Far {
    what: String,
    size: u64,
    stored: u64,
    resumed_at: Option<u64>,
    /// Why it does not go on now.
    waits: Option<Refusal>,
}

/// How far all are.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    far: Arc<Mutex<Vec<Far>>>,
    timeout: Duration,
    begun: Millis,
}

impl Watch {
    pub(super) fn new(given: &[Given], timeout: Duration, begun: Millis) -> Self {
        let far = given
            .iter()
            .map(|given| Far { what: given.what(), size: given.size, ..Far::default() })
            .collect();
        Self { far: Arc::new(Mutex::new(far)), timeout, begun }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Vec<Far>) -> R) -> R {
        act(&mut self.far.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The client says how far one is.
    pub(super) fn went_on(&self, number: usize, went: Went) {
        self.with(|far| {
            let Some(far) = far.get_mut(number) else { return };
            (far.stored, far.resumed_at, far.waits) = (went.stored, went.resumed_at, went.waits);
        });
    }

    pub(super) fn resumed_at(&self, number: usize) -> Option<u64> {
        self.with(|far| far.get(number)?.resumed_at)
    }

    /// Waits for an upload, but not longer than it may stand still.
    pub(super) async fn within<T>(
        self,
        number: usize,
        client: Client,
        sending: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut sending = std::pin::pin!(sending);
        let (mut look, mut stands) = (tokio::time::interval(LOOK_EVERY), Duration::ZERO);
        loop {
            tokio::select! {
                ended = &mut sending => return ended,
                _ = look.tick() => {
                    stands = if client.is_open() && self.goes_on(number) { Duration::ZERO } else { stands + LOOK_EVERY };
                }
            }
            if stands > self.timeout {
                return Err(self.late(number));
            }
        }
    }

    /// It was answered, and nothing is in its way.
    fn goes_on(&self, number: usize) -> bool {
        self.with(|far| {
            far.get(number).is_none_or(|far| far.resumed_at.is_some() && far.waits.is_none())
        })
    }

    fn late(&self, number: usize) -> Failure {
        let far = self.with(|far| far.get(number).cloned().unwrap_or_default());
        match &far.waits {
            Some(why) => Failure::code(far.what, why.code, why)
                .remedy("the same command again goes on where this one ended"),
            None => late(self.timeout, &far.what),
        }
    }

    /// The bar of all of them.
    pub(super) fn progress(&self, output: &Output) -> Progress {
        let total = self.with(|far| far.iter().map(|far| far.size).sum());
        Progress::new("upload", total, output)
    }

    pub(super) fn show(&self, progress: &mut Progress, now: Millis) {
        let (stored, here, total) = self.with(|far| {
            let stored: u64 = far.iter().map(|far| far.stored).sum();
            let before: u64 = far.iter().map(|far| far.resumed_at.unwrap_or(0)).sum();
            (stored, stored.saturating_sub(before), far.iter().map(|far| far.size).sum())
        });
        let millis = now.0.saturating_sub(self.begun.0);
        let per_s = here.saturating_mul(1_000) / millis.max(1);
        let told =
            format!("{} of {}, {}/s", size::show(stored), size::show(total), size::show(per_s));
        progress.update(stored, Duration::from_millis(millis), &told);
    }
}
