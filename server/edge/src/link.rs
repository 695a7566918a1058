//! The edge's side of a link: many sessions on one connection to one worker.
//!
//! Sessions put envelopes into one buffer, each turn of a session as one piece, in the order they come; one task a worker
//! writes it, reads what the worker says, and lays it into the sessions' inboxes. Chunks wait apart (`bulk`) and go out
//! behind what is in the buffer, as far as there is credit. Not here: what may be said (the machine
//! in `spile_protocol::session::link`) and the task's loop (`driver`). Invariants: what waits here is bounded by the
//! link's credit one way and by windows the other; when the link is gone every port of it is dead, and a port never
//! outlives its link to speak on the next one.

mod bulk;
mod driver;
mod port;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use spile_protocol::{
    code::Code,
    id::LinkSessionId,
    message::{Attach, Changed, List, Registry},
    session::link::{Edge as Machine, Refusal},
};
use tokio::sync::watch;

use self::bulk::Bulk;
pub use self::driver::{Connector, run};
use self::port::{Inbox, LinkPort};
use crate::cache::Cache;
use crate::limits::AWAY_RETRY_MS;
use crate::registry::Copy;
use crate::upstream::{Away, Back, Port, Upstream};

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Sessions may be attached.
    Up,
    /// It is tried again; this is why it is not up.
    Away(String),
}

/// A worker behind a link.
#[derive(Debug)]
pub struct Link {
    name: String,
    slots: [u8; 32],
    registered: Registered,
    wire: Arc<Wire>,
    condition: watch::Sender<Condition>,
    /// What is kept of the worker's answers, and its place there.
    cache: OnceLock<(Arc<Cache>, usize)>,
}

/// What a link has to do with the registry.
#[derive(Clone, Debug)]
pub enum Registered {
    /// To the worker of `$registry`: it feeds the copy.
    Feeds(Arc<Copy>),
    /// To another worker: it hears of the groups in it (spec §10.5.2).
    Hears(Arc<Copy>),
}

/// What sessions and the link's task share.
#[derive(Debug, Default)]
struct Wire(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None` while the link is away.
    machine: Option<Machine>,
    /// Counts links: a port of an earlier one is dead.
    generation: u64,
    /// Frames on their way to the worker.
    out: Vec<u8>,
    inboxes: Vec<Option<Arc<Inbox>>>,
    /// The link's task, when it waits.
    driver: Option<Waker>,
    /// Sessions that wait for room for events on the link.
    blocked: Vec<Waker>,
    /// What sessions say of uploads and waits for credit.
    bulk: Bulk,
}

impl Link {
    /// A worker that has not been reached yet. `slots` is what this edge's configuration gives it.
    #[must_use]
    pub fn new(name: String, slots: [u8; 32], registered: Registered) -> Arc<Self> {
        let condition = watch::Sender::new(Condition::Away("not tried yet".to_owned()));
        let (wire, cache) = (Arc::default(), OnceLock::new());
        Arc::new(Self { name, slots, registered, wire, condition, cache })
    }

    /// What the worker says of changed values goes there, as the word of the worker at `place`. The first one counts.
    pub fn tells(&self, cache: Arc<Cache>, place: usize) {
        self.cache.get_or_init(|| (cache, place));
    }

    /// spec §10.8.2: values with these marks have changed.
    fn changed(&self, changed: &Changed<'_>) {
        if let Some((cache, place)) = self.cache.get() {
            cache.changed(*place, changed.marks.iter());
        }
    }

    /// spec §10.8.2: what changed while there was no link was not told.
    fn forget(&self) {
        if let Some((cache, place)) = self.cache.get() {
            cache.forget(*place);
        }
    }

    /// How it is, as it changes.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Tells the registry's worker that the copy is synced up to there (spec §10.5.1). Nothing where the link is away: the
    /// next one begins with a whole copy, which is confirmed in its turn.
    pub fn confirm(&self, upto: u64) {
        self.say_registry(&known(upto));
    }

    /// Tells a worker that is not the registry's of the groups, where it is there.
    pub fn pass_groups(&self) {
        if let Registered::Hears(copy) = &self.registered {
            copy.tell_groups(|said| self.say_registry(said));
        }
    }

    fn say_registry(&self, said: &Registry<'_>) {
        let mut shared = self.wire.lock();
        shared.say_registry(&self.name, said);
        shared.wake_driver();
    }

    /// The slots this edge's configuration gives it.
    #[must_use]
    pub const fn slots(&self) -> &[u8; 32] {
        &self.slots
    }
}

impl Upstream for Link {
    fn name(&self) -> &str {
        &self.name
    }

    fn attach(&self, attach: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
        let mut shared = self.wire.lock();
        let Shared { machine, out, .. } = &mut *shared;
        let attached = machine.as_mut().map(|machine| machine.attach(attach, out));
        let Some(Ok(session)) = attached else { return Err(AWAY) };
        let inbox = Arc::<Inbox>::default();
        shared.keep(session, Some(Arc::clone(&inbox)));
        let generation = shared.generation;
        shared.wake_driver();
        drop(shared);
        Ok(Box::new(LinkPort::new(Arc::clone(&self.wire), generation, session, inbox)))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn back(&self) -> Back {
        let mut condition = self.condition();
        Box::pin(async move {
            // A link that is never up again ends with its process, and its sessions with it.
            condition.wait_for(|condition| *condition == Condition::Up).await.ok();
        })
    }
}

/// What is said of a worker that is away.
const AWAY: Away = Away { retry_after_ms: AWAY_RETRY_MS };

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What says that the registry is known up to there.
fn known(upto: u64) -> Registry<'static> {
    let (entries, groups) = (List::default(), List::default());
    Registry { upto, whole: false, entries, more: false, groups }
}

impl Shared {
    fn say_registry(&mut self, worker: &str, said: &Registry<'_>) {
        let Self { machine: Some(machine), out, .. } = self else { return };
        if let Err(why) = machine.registry(said, out) {
            tracing::debug!(worker, %why, "the registry was not said; it is when the link is up");
        }
    }

    fn keep(&mut self, session: LinkSessionId, inbox: Option<Arc<Inbox>>) {
        let Ok(at) = usize::try_from(session.0) else { return };
        if self.inboxes.len() <= at {
            self.inboxes.resize_with(at + 1, || None);
        }
        if let Some(place) = self.inboxes.get_mut(at) {
            *place = inbox;
        }
        // Nothing is left of who had the number before.
        self.bulk.forget(session);
    }

    fn inbox(&self, session: LinkSessionId) -> Option<&Arc<Inbox>> {
        self.inboxes.get(usize::try_from(session.0).ok()?)?.as_ref()
    }

    /// Is there room for more events?
    fn has_room(&self) -> bool {
        self.machine.as_ref().is_none_or(Machine::has_room)
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn wake_blocked(&mut self) {
        if self.has_room() {
            self.blocked.drain(..).for_each(Waker::wake);
        }
    }

    /// The link is gone, and with it all that was on its way.
    fn lose(&mut self) {
        self.machine = None;
        self.generation += 1;
        (self.out, self.bulk) = (Vec::new(), Bulk::default());
        for inbox in std::mem::take(&mut self.inboxes).into_iter().flatten() {
            inbox.close();
        }
        self.wake_blocked();
    }

    /// Ends a session from this side; its number is free when the worker has said so too.
    fn detach(&mut self, session: LinkSessionId, code: Code) {
        self.keep(session, None);
        let Self { machine, out, .. } = self;
        match machine.as_mut().map(|machine| machine.detach(session, code, out)) {
            // One that the worker has ended already needs no more; a buffer that grows has room.
            Some(
                Ok(())
                | Err(
                    Refusal::NotAttached
                    | Refusal::NotOpen
                    | Refusal::Full
                    | Refusal::TooMany
                    | Refusal::NoCredit,
                ),
            )
            | None => {}
        }
        self.wake_driver();
    }
}
