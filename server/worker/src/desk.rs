//! What a session of a worker is made of: who it is, its lanes and routes, and what it waits to be told.
//!
//! How it is driven is [`crate::session`]'s, what it asks for is taken by [`crate::intake`]. The invariant: whatever rests
//! on a position that the log was cut back behind is told as lost, once, and its lane is closed.

use std::sync::Arc;

use spile_log::{Durable, State as LogState};
use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, Number, RequestId, Role, Run, SubscriptionId},
    message::{Scope, Trace, deliver::Kind},
};
use tokio::sync::watch;

use crate::{
    answers::{Answers, What, request_of},
    bell::Bell,
    calls::Confirm,
    changes::Asking,
    core::Core,
    groups::polling::Part,
    limits::{RETRY_BUSY_MS, RETRY_DISK_MS},
    lookups::Lookup,
    presence::About,
    record::Names,
    said::Said,
    services::desk::Calling,
    subscription::Subscription,
    tables::At,
    uploads::writing::Files,
    values::Values,
    worker::Worker,
};

/// Who a session is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: String,
    pub(crate) principal: String,
    pub(crate) role: Role,
    pub(crate) run: Run,
    pub(crate) receipts: bool,
    pub(crate) trace_base: [u8; 8],
    pub(crate) frame_max: usize,
    /// Through which edge it came; empty where nobody said.
    pub(crate) edge: Arc<str>,
}

impl Identity {
    /// The prefix of what it publishes under these names.
    pub(crate) fn prefix(&self, key: &str, topic: &str, kind: Kind<'_>) -> Vec<u8> {
        let Self { tenant, principal, role, run, trace_base, .. } = self;
        let (role, run, trace_base) = (*role, *run, *trace_base);
        Names { role, run, trace_base, tenant, principal, key, topic, kind }.prefix()
    }

    /// The trace of what it uploads under a key: the one its `file.uploaded` has, which has no number. spec §5.5.5
    pub(crate) fn sealing(&self, key: &str) -> Trace {
        Trace::made(self.trace_base, crc::of(key.as_bytes()), Number(0))
    }
}

/// One key's events of the session.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) at: At,
    pub(crate) key: String,
    /// Events are taken; else the session was told that the lane is closed, and opens it again.
    pub(crate) open: bool,
    /// The call that last changed what the lane leads to.
    pub(crate) touched: u64,
    /// The head's prefix of its VOIDs.
    pub(crate) prefix: Vec<u8>,
}

/// Names that were bound.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) lane: LaneId,
    /// The head's prefix of its events.
    pub(crate) prefix: Vec<u8>,
    /// The value its events change, where its topic's latest is kept.
    pub(crate) kept: Option<Arc<str>>,
    /// Its events are messages of an inbox.
    pub(crate) inbox: bool,
}

/// All of a session but its worker.
pub(crate) struct Desk {
    pub(crate) who: Identity,
    pub(crate) scoped: Arc<str>,
    pub(crate) number: u64,
    pub(crate) bell: Arc<Bell>,
    /// Under which everything in `answers` was appended.
    pub(crate) generation: u64,
    pub(crate) durable: watch::Receiver<Durable>,
    pub(crate) lanes: Vec<Option<Lane>>,
    pub(crate) routes: Vec<Option<Route>>,
    pub(crate) answers: Answers,
    pub(crate) subscriptions: Vec<Subscription>,
    /// GETs and LISTs that were not answered yet.
    pub(crate) lookups: Vec<Lookup>,
    /// Changes of the registry that were not answered yet.
    pub(crate) confirms: Vec<Confirm>,
    /// Calls and services; nothing where the session has to do with none.
    pub(crate) calling: Option<Box<Calling>>,
    /// Uploads it writes, blobs it reads.
    pub(crate) files: Files,
    /// Its part in groups.
    pub(crate) groups: Part,
    /// What of it is shown to operators.
    pub(crate) about: Arc<About>,
    /// Its edge hears of changes of the values it asks for.
    pub(crate) asking: Option<Asking>,
    /// The bell was heard, and who watches a stream has not looked yet.
    pub(crate) heard: bool,
}

impl Desk {
    pub(crate) fn lane(&mut self, lane: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::try_from(lane.0).ok()?)?.as_mut()
    }

    /// spec §5.1.6: routes that are bound to the lane stay, and mean its new key.
    pub(crate) fn rename_routes(&mut self, values: &Values, id: LaneId, key: &str) {
        if self.lane(id).is_none_or(|lane| lane.key == key) {
            return;
        }
        for route in self.routes.iter_mut().flatten().filter(|route| route.lane == id) {
            let renamed = Names::parse(&route.prefix).map(|names| {
                (Names { key, ..names }.prefix(), values.name(names.tenant, key, names.topic))
            });
            if let Ok(renamed) = renamed {
                (route.prefix, route.kept) = renamed;
            }
        }
    }

    /// The log may have been cut back since this session last looked.
    pub(crate) fn catch_up(&mut self, core: &mut Core) {
        let durable = core.look();
        if core.generation == self.generation {
            return;
        }
        let end = core.cut_after(self.generation);
        self.generation = core.generation;
        let full = durable.state == LogState::Full;
        self.lose(core, end, if full { Code::DISK_FULL } else { Code::UNKNOWN_OUTCOME });
    }

    /// What rests on positions beyond `end` is not stored: the lanes that lost something are closed, and say from where to
    /// send again.
    pub(crate) fn lose(&mut self, core: &Core, end: u64, code: Code) {
        let mut closed: Vec<LaneId> = Vec::new();
        self.lookups.iter_mut().for_each(Lookup::cut);
        self.files.lose(end, code);
        let lost: Vec<_> = self.confirms.iter().filter_map(|one| one.lost(end)).collect();
        self.confirms.retain(|one| one.lost(end).is_none());
        for request in lost {
            self.said(end, Said::fault(code, Scope::Request(request), ""));
        }
        for answer in self.answers.lose(end) {
            let lane = answer.lane;
            match (request_of(&answer), answer.what) {
                (Some(request), _) => {
                    self.said(end, Said::fault(code, Scope::Request(request), ""))
                }
                (None, What::Said(said)) => {
                    if let Said::Settled { subscription, .. } = *said {
                        // It did not count: whoever reads begins again behind what did.
                        if let Some(subscription) = self.subscription(subscription) {
                            subscription.fail(code, "the settlement is not stored");
                        } else {
                            self.said(end, said.into_lost());
                        }
                    } else {
                        self.said(end, *said);
                    }
                }
                (None, What::Closed { code, expected, retry_after_ms }) => {
                    self.answers.push(end, lane, What::Closed { code, expected, retry_after_ms });
                }
                (None, _) if closed.contains(&lane) => {}
                (None, _) => closed.push(lane),
            }
        }
        closed.into_iter().for_each(|lane| self.close(core, lane, end, code));
    }

    /// Closes a lane; the session is told once the log is durable up to `gate`.
    pub(crate) fn close(&mut self, core: &Core, id: LaneId, gate: u64, code: Code) {
        let Some(lane) = self.lane(id) else { return };
        if !std::mem::replace(&mut lane.open, false) {
            return;
        }
        let last = core.tables.producers.get(lane.at.producer).map_or(0, |producer| producer.last);
        let expected = Number(last.saturating_add(1));
        let retry_after_ms = match code {
            Code::DISK_FULL | Code::UNKNOWN_OUTCOME | Code::FROZEN => RETRY_DISK_MS,
            Code::BUSY => RETRY_BUSY_MS,
            _ => 0,
        };
        self.answers.push(gate, id, What::Closed { code, expected, retry_after_ms });
    }

    /// Changes of the registry that can be answered now.
    pub(crate) fn answer_confirms(&mut self, worker: &Worker, end: u64) {
        let Self { confirms, answers, .. } = self;
        confirms.retain(|one| {
            let said = one.answer(worker, end);
            let answered = said.is_some();
            if let Some(said) = said {
                answers.push(0, LaneId(0), What::Said(Box::new(said)));
            }
            !answered
        });
    }

    pub(crate) fn said(&mut self, gate: u64, said: Said) {
        self.answers.push(gate, LaneId(0), What::Said(Box::new(said)));
    }

    pub(crate) fn refuse(&mut self, gate: u64, request: RequestId, code: Code, detail: &str) {
        self.said(gate, Said::fault(code, Scope::Request(request), detail));
    }

    pub(crate) fn subscription(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.id() == id)
    }
}
