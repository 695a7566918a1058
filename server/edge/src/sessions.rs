//! Live sessions: who is here, and how all of them, or those of whoever was revoked, are told to go.
//!
//! Invariant: a session is in the table from its admission to its end, so that a revocation that comes a moment after the
//! look at the registry still finds it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spile_protocol::{
    code::Code,
    id::{Role, Run},
    time::Millis,
};

use crate::metrics::{Gauge, Held};
use crate::registry::Registry;
use crate::signal::Signal;
use crate::watch::Until;

/// May a session still be attached? Not once a newer one of its principal and run was taken in: attached behind that one,
/// the older would take its place.
#[derive(Debug, Default)]
pub struct Newest(Mutex<bool>);

impl Newest {
    /// Attaches, unless a newer session was taken in; one that comes now waits until it is done.
    pub(crate) fn attach<T>(&self, attach: impl FnOnce() -> T) -> Option<T> {
        let over = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!*over).then(attach)
    }

    fn give_way(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Who a live session is.
#[derive(Debug)]
pub struct Live {
    /// Its number at this edge.
    pub number: u64,
    /// In which tenant.
    pub tenant: Box<str>,
    /// As what.
    pub role: Role,
    /// Who.
    pub principal: Box<str>,
    /// When it was admitted.
    pub since: Millis,
    /// The run it numbers in.
    pub run: Run,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Events that were taken from it and are not acknowledged.
    in_flight: AtomicU32,
    /// Of its principal and run.
    pub(crate) newest: Arc<Newest>,
    /// Until when its frames are logged.
    pub(crate) logged: Arc<Until>,
    signal: Arc<Signal>,
}

impl Live {
    /// So much of it is in flight now.
    pub(crate) fn has_in_flight(&self, events: u32) {
        self.in_flight.store(events, Ordering::Relaxed);
    }

    /// Events that were taken from it and are not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// All live sessions of an edge.
#[derive(Debug)]
pub struct Sessions {
    cap: usize,
    gauge: Arc<Gauge>,
    next: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    /// The number of the newest of each principal and run, by their hash.
    newest: Mutex<HashMap<u64, u64>>,
    hasher: RandomState,
}

/// A session's place in the table; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    live: Arc<Live>,
    table: Arc<Sessions>,
    _held: Held,
}

impl Seat {
    /// Who sits here.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.lock().remove(&self.live.number);
        let mut newest = self.table.newest();
        let hash = self.table.hash(&self.live);
        if newest.get(&hash) == Some(&self.live.number) {
            newest.remove(&hash);
        }
    }
}

impl Sessions {
    /// None yet; at most `cap`, and `gauge` shows how many.
    #[must_use]
    pub fn new(cap: usize, gauge: Arc<Gauge>) -> Arc<Self> {
        let (live, newest, hasher) = Default::default();
        Arc::new(Self { cap, gauge, next: AtomicU64::new(1), live, newest, hasher })
    }

    /// The number of the next session.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a session in; `None` at the cap. An older one of the same principal and run is told to go: spec §5.7.7
    pub fn admit(
        self: &Arc<Self>,
        number: u64,
        (tenant, role, principal): (&str, Role, &str),
        since: Millis,
        (run, peer): (Run, SocketAddr),
        signal: Arc<Signal>,
    ) -> Option<Seat> {
        let (tenant, principal) = (Box::from(tenant), Box::from(principal));
        let (in_flight, newest, logged) = (AtomicU32::new(0), Arc::default(), Arc::default());
        let live = Arc::new(Live {
            number,
            tenant,
            role,
            principal,
            since,
            run,
            peer,
            in_flight,
            newest,
            logged,
            signal,
        });
        let mut table = self.lock();
        if table.len() >= self.cap {
            return None;
        }
        table.insert(number, Arc::clone(&live));
        let older = self.newest().insert(self.hash(&live), number);
        let older = older.and_then(|older| table.get(&older).cloned());
        drop(table);
        if let Some(older) = older {
            older.newest.give_way();
            older.signal.end(Code::REPLACED);
        }
        Some(Seat { live, table: Arc::clone(self), _held: self.gauge.hold() })
    }

    /// Who is here at the moment.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Sessions of whoever has that name.
    #[must_use]
    pub fn of(&self, tenant: &str, principal: &str) -> Vec<Arc<Live>> {
        let same = |live: &&Arc<Live>| &*live.tenant == tenant && &*live.principal == principal;
        let mut found: Vec<_> = self.lock().values().filter(same).cloned().collect();
        found.sort_by_key(|live| live.number);
        found
    }

    /// Tells those sessions to go; they may come back.
    pub fn kick(&self, tenant: &str, principal: &str) -> Vec<Arc<Live>> {
        let found = self.of(tenant, principal);
        found.iter().for_each(|live| live.signal.end(Code::SHUTDOWN));
        found
    }

    /// Logs the frames of those sessions until then.
    pub(crate) fn log_frames(&self, tenant: &str, principal: &str, until: Millis) {
        self.of(tenant, principal).iter().for_each(|live| live.logged.set(until));
    }

    /// Tells all sessions to go.
    pub fn end_all(&self, code: Code) {
        self.lock().values().for_each(|live| live.signal.end(code));
    }

    /// Tells those to go whom the registry does not let in any more: how many.
    pub fn end_unwelcome(&self, registry: &dyn Registry, now: Millis) -> usize {
        let judged = self.list().into_iter().filter_map(|live| {
            let entry = registry.lookup(&live.tenant, &live.principal)?;
            let welcome = !entry.revoked && entry.role == live.role;
            match (welcome, entry.lasts(now)) {
                (false, _) => Some((live, Code::REVOKED)),
                (true, false) => Some((live, Code::UNAUTHENTICATED)),
                (true, true) => None,
            }
        });
        judged.inspect(|(live, code)| live.signal.end(*code)).count()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, live: &Live) -> u64 {
        self.hasher.hash_one((&live.tenant, live.role, &live.principal, live.run))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the live sessions again with each change of the registry, until the registry is gone.
pub async fn follow(sessions: &Sessions, registry: &dyn Registry, clock: crate::clock::Clock) {
    let mut changes = registry.changes();
    while changes.changed().await.is_ok() {
        let ended = sessions.end_unwelcome(registry, clock.wall());
        if ended > 0 {
            tracing::info!(ended, "sessions cut: the registry does not let them in any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Copy, Entry};
    use tokio::sync::watch;

    fn admit(sessions: &Arc<Sessions>, name: &str) -> Option<(Seat, Arc<Signal>)> {
        let signal = Arc::new(Signal::default());
        let who = ("main", Role::Device, name);
        let from = (Run([1; 8]), SocketAddr::from(([127, 0, 0, 1], 9)));
        let seat = sessions.admit(sessions.number(), who, Millis(1), from, Arc::clone(&signal))?;
        Some((seat, signal))
    }

    struct Only(&'static str, Entry);

    impl Registry for Only {
        fn lookup(&self, _: &str, principal: &str) -> Option<Entry> {
            (principal == self.0).then_some(self.1)
        }
        fn is_fresh(&self, _: Millis) -> bool {
            true
        }
        fn changes(&self) -> watch::Receiver<u64> {
            Copy::new(0).changes()
        }
    }

    /// Attached behind the newer, the older would take its place.
    #[test]
    fn the_newest_of_a_run_wins_and_the_older_is_attached_no_more() {
        let sessions = Sessions::new(9, Arc::default());
        let older = admit(&sessions, "a").unwrap();
        assert_eq!(older.0.live().newest.attach(|| 1), Some(1));
        let other = admit(&sessions, "b").unwrap();
        let newer = admit(&sessions, "a").unwrap();
        assert_eq!(older.1.ended(), Some(Code::REPLACED));
        assert_eq!(older.0.live().newest.attach(|| 1), None);
        drop(older);
        let newest = admit(&sessions, "a").unwrap();
        assert_eq!((newer.1.ended(), newest.1.ended()), (Some(Code::REPLACED), None));
        assert_eq!((other.1.ended(), other.0.live().newest.attach(|| 1)), (None, Some(1)));
        drop((newer, other, newest));
        assert!(sessions.newest().is_empty());
    }

    #[test]
    fn only_who_is_not_welcome_any_more_is_ended() {
        let sessions = Sessions::new(9, Arc::default());
        let (a, b) = (admit(&sessions, "a").unwrap(), admit(&sessions, "b").unwrap());
        let entry = Entry { role: Role::Device, key_hash: None, revoked: false, expires_ms: 10 };
        for (entry, now, want) in [
            (entry, 9, None),
            (Entry { revoked: true, ..entry }, 9, Some(Code::REVOKED)),
            (Entry { role: Role::User, ..entry }, 9, Some(Code::REVOKED)),
            (entry, 10, Some(Code::UNAUTHENTICATED)),
        ] {
            let (_seat, signal) = admit(&sessions, "c").unwrap();
            sessions.end_unwelcome(&Only("c", entry), Millis(now));
            assert_eq!(signal.ended(), want);
        }
        assert_eq!((a.1.ended(), b.1.ended()), (None, None));
    }

    #[test]
    fn the_cap_holds_and_a_seat_is_given_back() {
        let sessions = Sessions::new(1, Arc::default());
        let first = admit(&sessions, "a");
        assert!(first.is_some() && admit(&sessions, "b").is_none());
        drop(first);
        assert!(admit(&sessions, "b").is_some());
        assert_eq!(sessions.count(), 0);
    }

    #[tokio::test]
    async fn a_change_of_the_registry_is_followed() {
        let registry = Arc::new(Copy::new(1_000));
        let sessions = Sessions::new(1, Arc::default());
        let (_seat, signal) = admit(&sessions, "a").unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        let (known, all) = (Arc::clone(&registry), Arc::clone(&sessions));
        tasks.spawn(async move { follow(&all, &*known, crate::clock::Clock::start()).await });
        tokio::task::yield_now().await;
        let mut room = [0; 128];
        let entry = spile_protocol::message::Entry {
            tenant: "main",
            principal: "a",
            role: Role::Device,
            key_hash: None,
            revoked: true,
            expires_ms: 0,
            later: &[],
        };
        let entries = spile_protocol::message::List::encode([entry], &mut room).unwrap();
        let groups = spile_protocol::message::List::default();
        let said = spile_protocol::message::Registry {
            upto: 1,
            whole: true,
            entries,
            more: false,
            groups,
        };
        registry.apply(Millis(1), &said);
        let code = std::future::poll_fn(|cx| signal.poll_ended(cx)).await;
        assert_eq!(code, Code::REVOKED);
    }
}
