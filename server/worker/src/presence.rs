//! Who is here: what operators hear of a principal's live sessions at this worker, and how those are told to go.
//!
//! Invariant: a session that was kicked counts as gone when its edge has said so, not when it was told (admin §3.5); what is
//! not known by the call's end is missing from the answer. An edge's own sessions are the edge's to name and to end.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use spile_protocol::{
    code::Code,
    id::{RequestId, Role, Run},
    message::Attach,
    time::Millis,
};

use crate::{
    bell::Bell,
    calls::{Not, Shown, json},
    core::{Attached, Core},
    errands::Errands,
    intake::Intake,
    limits::{CONFIRM_MS, LANES_SHOWN, SESSIONS_SHOWN},
    tables::{Tables, principal},
};

/// What is known of a session beside its desk: shared with who asks.
#[derive(Debug)]
pub(crate) struct About {
    /// Through which edge it came.
    edge: OnceLock<Arc<str>>,
    peer: Box<str>,
    since: Millis,
    /// Events that were taken and are not acknowledged.
    in_flight: AtomicU64,
    kicked: Mutex<Option<Kicked>>,
    /// What its edge is asked.
    pub(crate) errands: Errands,
}

impl About {
    pub(crate) fn new(attach: &Attach<'_>, since: Millis) -> Self {
        Self {
            edge: OnceLock::new(),
            peer: attach.peer.into(),
            since,
            in_flight: AtomicU64::new(0),
            kicked: Mutex::default(),
            errands: Errands::default(),
        }
    }

    /// It came through that edge. The first word counts.
    pub(crate) fn of_edge(&self, edge: &Arc<str>) {
        self.edge.get_or_init(|| Arc::clone(edge));
    }

    pub(crate) fn has_in_flight(&self, events: u64) {
        self.in_flight.store(events, Ordering::Relaxed);
    }

    pub(crate) fn since(&self) -> Millis {
        self.since
    }

    pub(crate) fn edge(&self) -> &str {
        self.edge.get().map_or("", |edge| edge)
    }

    /// What has to be said when the session is gone, where it was kicked.
    pub(crate) fn take_kicked(&self) -> Option<Kicked> {
        self.kicked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Sessions that are attached, those of a principal side by side.
pub(crate) type Sessions = BTreeMap<(Arc<str>, Run), Attached>;

/// Live sessions of whoever has that name, each with its run and role.
pub(crate) fn live<'s>(
    sessions: &'s Sessions,
    tenant: &str,
    name: &str,
) -> impl Iterator<Item = (&'s Arc<str>, Run, Role, &'s Attached)> + use<'s> {
    let scoped = Role::ALL.map(|role| (role, Arc::<str>::from(principal(tenant, role, name))));
    scoped.into_iter().flat_map(|(role, scoped)| {
        let (first, last) = (Run([0; 8]), Run([0xff; 8]));
        let range = (Bound::Included((scoped.clone(), first)), Bound::Included((scoped, last)));
        sessions.range(range).map(move |((scoped, run), attached)| (scoped, *run, role, attached))
    })
}

/// One live session, as it is shown.
#[derive(Serialize)]
struct Session {
    edge: String,
    peer: String,
    run: String,
    role: &'static str,
    since_ms: u64,
    in_flight: u64,
}

#[derive(Serialize)]
struct Lane {
    key: String,
    run: String,
    last: u64,
}

/// This worker's part of what is shown of a device (admin §3.3).
#[derive(Serialize)]
pub(crate) struct Seen<'a> {
    /// Only from the registry's worker, where it is registered.
    #[serde(flatten)]
    registered: Option<Shown<'a>>,
    last_seen_ms: Option<u64>,
    sessions: Vec<Session>,
    lanes: Vec<Lane>,
    open_uploads: usize,
}

/// What is told of a device in a listing, beside what the asker's edge knows (admin §3.2).
#[derive(Serialize)]
pub(crate) struct Elsewhere {
    last_seen_ms: Option<u64>,
    elsewhere: Newest,
}

/// Its sessions through other edges.
#[derive(Default, Serialize)]
struct Newest {
    sessions: u64,
    edge: String,
    since_ms: u64,
}

impl Elsewhere {
    pub(crate) fn new(core: &Core, (tenant, name): (&str, &str), own: &str) -> Self {
        let mut elsewhere = Newest::default();
        for (_, _, _, attached) in live(&core.sessions, tenant, name) {
            let about = &attached.about;
            if about.edge() == own {
                continue;
            }
            elsewhere.sessions += 1;
            if about.since.0 >= elsewhere.since_ms {
                (elsewhere.edge, elsewhere.since_ms) = (about.edge().to_owned(), about.since.0);
            }
        }
        let scoped = Role::ALL.map(|role| principal(tenant, role, name));
        let last_seen_ms = scoped.iter().filter_map(|scoped| seen(&core.tables, scoped)).max();
        Self { last_seen_ms, elsewhere }
    }
}

fn hex(run: Run) -> String {
    run.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<'a> Seen<'a> {
    pub(crate) fn new(
        core: &Core,
        (tenant, name): (&str, &str),
        registered: Option<Shown<'a>>,
    ) -> Self {
        let (mut sessions, mut lanes) = (Vec::new(), Vec::new());
        for (scoped, run, role, attached) in live(&core.sessions, tenant, name) {
            let about = &attached.about;
            if sessions.len() < SESSIONS_SHOWN {
                sessions.push(Session {
                    edge: about.edge().to_owned(),
                    peer: about.peer.to_string(),
                    run: hex(run),
                    role: role.name(),
                    since_ms: about.since.0,
                    in_flight: about.in_flight.load(Ordering::Relaxed),
                });
            }
            let room = LANES_SHOWN.saturating_sub(lanes.len());
            lanes.extend(lanes_of(&core.tables, scoped, run).take(room));
        }
        let all = Role::ALL.map(|role| principal(tenant, role, name));
        let seen = all.iter().filter_map(|scoped| seen(&core.tables, scoped)).max();
        let open_uploads = all.iter().map(|scoped| core.uploads.view.open_of(scoped)).sum();
        Self { registered, last_seen_ms: seen, sessions, lanes, open_uploads }
    }
}

/// The keys a run publishes under here.
fn lanes_of<'t>(
    tables: &'t Tables,
    scoped: &str,
    run: Run,
) -> impl Iterator<Item = Lane> + use<'t> {
    let runs = tables.principals.get(scoped).into_iter().flatten();
    let entries = runs.filter_map(|ix| tables.runs.get(*ix)).filter(move |one| one.run == run);
    let keys = entries.flat_map(|entry| &entry.keys);
    keys.filter_map(move |(stream, producer)| {
        let key = Tables::halves(&tables.streams.get(*stream)?.name).1.to_owned();
        Some(Lane { key, run: hex(run), last: tables.producers.get(*producer)?.last })
    })
}

/// When it last published here.
fn seen(tables: &Tables, scoped: &str) -> Option<u64> {
    let runs = tables.principals.get(scoped)?.iter().filter_map(|ix| tables.runs.get(*ix));
    runs.map(|entry| entry.idle_ms).max().filter(|&ms| ms > 0)
}

/// Sessions that were told to go, until their edges have said that they are gone.
#[derive(Debug)]
pub(crate) struct Kick {
    /// Who waits for that.
    asker: Arc<Bell>,
    told: Mutex<Vec<Told>>,
}

#[derive(Clone, Debug, Serialize)]
struct Told {
    edge: String,
    run: String,
    confirmed: bool,
}

/// One session's part in a kick.
#[derive(Debug)]
pub(crate) struct Kicked {
    kick: Arc<Kick>,
    at: usize,
}

impl Kicked {
    /// Its edge has said that it is gone.
    pub(crate) fn confirm(&self) {
        if let Some(told) = self.kick.told().get_mut(self.at) {
            told.confirmed = true;
        }
        self.kick.asker.ring();
    }
}

#[derive(Serialize)]
struct Gone {
    kicked: Vec<Told>,
}

impl Kick {
    fn told(&self) -> MutexGuard<'_, Vec<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, where all are gone, or `late`.
    pub(crate) fn answer(&self, late: bool) -> Option<Result<Bytes, Not>> {
        let told = self.told();
        let whole = late || told.iter().all(|one| one.confirmed);
        whole.then(|| json(&Gone { kicked: told.clone() }))
    }
}

impl Intake<'_> {
    /// admin §3.5: sessions that came through other edges than the asker's, which ends its own.
    pub(crate) fn kick(
        &mut self,
        request: RequestId,
        (tenant, name): (&str, &str),
        remaining_ms: u32,
    ) -> Result<(), Not> {
        let kick = Arc::new(Kick { asker: self.desk.bell.clone(), told: Mutex::default() });
        let own = &self.desk.who.edge;
        let others = live(&self.core.sessions, tenant, name)
            .filter(|(_, _, _, attached)| attached.about.edge() != &**own);
        for (_, run, _, attached) in others {
            let about = &attached.about;
            let mut told = kick.told();
            let at = told.len();
            told.push(Told { edge: about.edge().to_owned(), run: hex(run), confirmed: false });
            drop(told);
            let kicked = Some(Kicked { kick: Arc::clone(&kick), at });
            *about.kicked.lock().unwrap_or_else(PoisonError::into_inner) = kicked;
            attached.bell.send_away(Code::SHUTDOWN);
        }
        // The edge that asks waits for a little longer than this.
        let most = u64::from(remaining_ms) * 9 / 10;
        self.await_kick(request, kick, Duration::from_millis(most.min(CONFIRM_MS)))
    }
}
