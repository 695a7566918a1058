//! `$group`: create, ls, show, seek, rm, for this worker's part. JSON in, JSON out. admin §6
//!
//! A call waits for the session's poll, since it may look at the reading state; what takes reading the log is a [`Job`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spile_protocol::{
    code::Code,
    id::{RequestId, Role},
    message::Call,
};

use crate::{
    groups::{
        change::{look_up, publish},
        definition::{Begin, Defined, Definition},
        jobs::{Count, Job},
        live::Stored,
        measure::GroupMeasured,
        member::Turn,
        view::{Group, Name},
    },
    intake::Intake,
    limits::{GROUP_ASKED, GROUPS, PAGE_GROUPS, PAGE_MEMBERS},
    registry::TENANT,
    said::Said,
    worker::Worker,
};

/// What the payload of calls and replies is.
pub(crate) const JSON: &str = "application/json";

/// Why a call is not done; the service's own answer.
#[derive(Debug)]
pub(crate) struct Not {
    pub(crate) code: Code,
    pub(crate) detail: String,
}

pub(crate) fn not(code: Code, detail: impl Into<String>) -> Not {
    Not { code, detail: detail.into() }
}

/// A call that was not looked at.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    service: String,
    method: String,
    payload: Bytes,
}

/// What a call came to: what it rests on, and its answer; or what it takes to answer it.
pub(crate) type Answered = Result<(Option<Stored>, Bytes), Not>;

/// What a call came to, or a job.
pub(crate) enum Outcome {
    Now(Answered),
    Later(Box<Job>),
}

/// A request that names a tenant, or not.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Named {
    tenant: Option<String>,
    name: String,
    to: Option<Begin>,
    dry_run: bool,
}

/// The request of create: the definition, and beside it the tenant.
#[derive(Debug, Deserialize)]
struct Created {
    tenant: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Listed {
    tenant: Option<String>,
    after: String,
    limit: Option<usize>,
}

/// A member, as it is shown.
#[derive(Debug, Serialize)]
struct Seated {
    principal: String,
    edge: String,
    in_flight: u64,
}

/// A group, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    definition: Definition,
    id: u64,
    epoch: u32,
    settled_upto: Vec<String>,
    lag: u64,
    in_flight: u64,
    waiting: u64,
    dead: u64,
    settled: u64,
    dropped: u64,
    produced: u64,
    members: Vec<Seated>,
    /// It looks at no further keys until some are done: too many have something outstanding.
    full: bool,
    /// Keys with something outstanding, and about the memory that takes.
    keys: usize,
    keys_bytes: usize,
}

impl Shown {
    /// The same as numbers.
    pub(super) fn measured(&self, (tenant, name): &Name) -> GroupMeasured {
        let Self { lag, waiting, in_flight, dead, full, .. } = *self;
        let (tenant, name, full) = (tenant.clone(), name.clone(), u64::from(full));
        GroupMeasured { tenant, name, lag, waiting, in_flight, dead, unread: 0, full }
    }
}

#[derive(Serialize)]
struct Page {
    groups: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Sought<'a> {
    name: &'a str,
    epoch: u32,
    events: u64,
}

#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    dead: u64,
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Bytes, Not> {
    let bytes = serde_json::to_vec(value).map_err(|why| not(Code::INTERNAL, why.to_string()))?;
    Ok(Bytes::from(bytes))
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Not> {
    let payload = if payload.is_empty() { b"{}" } else { payload };
    serde_json::from_slice(payload).map_err(|why| not(Code::INVALID, why.to_string()))
}

/// admin §1.5: a call acts in the caller's tenant; an operator of `main` may name another.
pub(crate) fn tenant(turn: Turn<'_>, asked: Option<String>) -> Result<String, Not> {
    let who = turn.who;
    match asked {
        None => Ok(who.tenant.clone()),
        Some(tenant) if tenant == who.tenant => Ok(tenant),
        Some(tenant) if who.role == Role::Operator && who.tenant == TENANT => Ok(tenant),
        Some(_) => Err(not(Code::FORBIDDEN, "only an operator of main names another tenant")),
    }
}

pub(crate) fn unknown(name: &str) -> Not {
    not(Code::NOT_FOUND, format!("there is no group {name}"))
}

pub(crate) fn reply(request: RequestId, answer: Result<Bytes, Not>) -> Said {
    match answer {
        Ok(payload) => {
            let (code, detail) = (Code(0), String::new());
            Said::Reply { request, code, detail, content_type: JSON, payload }
        }
        Err(Not { code, detail }) => {
            Said::Reply { request, code, detail, content_type: "", payload: Bytes::new() }
        }
    }
}

pub(crate) fn answered(request: RequestId, answer: Answered) -> (Option<Stored>, Said) {
    match answer {
        Ok((stored, payload)) => (stored, reply(request, Ok(payload))),
        Err(why) => (None, reply(request, Err(why))),
    }
}

impl Intake<'_> {
    /// A call of `$group` or `$dlq`: it is answered when the session is polled.
    pub(crate) fn ask_groups(&mut self, call: &Call<'_>, payload: &Bytes) {
        let groups = &mut self.desk.groups;
        let request = call.request;
        if groups.asked.len() + groups.jobs.len() >= GROUP_ASKED {
            let busy = not(Code::BUSY, "too many calls of this session wait");
            return self.desk.said(0, reply(request, Err(busy)));
        }
        let (service, method) = (call.service.to_owned(), call.method.to_owned());
        // The payload is a slice of a read: kept, it would keep all of that.
        let payload = Bytes::copy_from_slice(payload);
        groups.asked.push_back(Asked { request, service, method, payload });
    }
}

impl Asked {
    /// The answer; or what it takes to find it.
    pub(crate) fn answer(self, turn: Turn<'_>) -> Result<(Option<Stored>, Said), Box<Job>> {
        let request = self.request;
        let outcome = match self.service.as_str() {
            "$group" => self.group(turn),
            _ => self.letters(turn, &self.method, &self.payload),
        };
        match outcome {
            Ok(Outcome::Now(answer)) => Ok(answered(request, answer)),
            Ok(Outcome::Later(job)) => Err(job),
            Err(why) => Ok(answered(request, Err(why))),
        }
    }

    fn group(&self, turn: Turn<'_>) -> Result<Outcome, Not> {
        match self.method.as_str() {
            "create" => self.create(turn),
            "ls" => self.list(turn),
            "show" => self.show(turn),
            "seek" => self.seek(turn),
            "rm" => self.remove(turn).map(|answer| Outcome::Now(Ok(answer))),
            _ => Err(not(Code::NOT_FOUND, "$group does create, ls, show, seek and rm")),
        }
    }

    fn create(&self, turn: Turn<'_>) -> Result<Outcome, Not> {
        let Created { tenant: named, rest } = parse(&self.payload)?;
        let tenant = tenant(turn, named)?;
        let definition: Definition = serde_json::from_value(rest.into())
            .map_err(|why| not(Code::INVALID, why.to_string()))?;
        definition.check().map_err(|(code, detail)| not(code, detail))?;
        has_registry(turn.worker)?;
        let name = (tenant.clone(), definition.name.clone());
        let at_time = look_up(turn.worker, &definition)?;
        let mut core = turn.worker.core();
        core.look();
        let there = core.registered.newest_group(&name).filter(|there| !there.removed);
        if let Some(there) = there {
            if !same(&there.definition, &definition) {
                let detail =
                    format!("{} is defined otherwise; remove it or take another name", name.1);
                return Err(not(Code::EXISTS, detail));
            }
            // admin §1.7: the same again is answered as the first was.
            let stored = Stored { gate: core.registered.latest(), generation: core.generation };
            return Ok(Job::show(self.request, name, Some(stored)));
        }
        if core.registered.groups() >= GROUPS {
            return Err(not(Code::TOO_MANY, "there are too many groups"));
        }
        let defined =
            Defined { tenant, name: name.1.clone(), id: 0, epoch: 1, removed: false, definition };
        let who = (turn.who, turn.now_ms);
        let (stored, _) = publish(turn.worker, &mut core, who, defined, at_time)?;
        Ok(Job::show(self.request, name, Some(stored)))
    }

    fn list(&self, turn: Turn<'_>) -> Result<Outcome, Not> {
        let Listed { tenant: named, after, limit } = parse(&self.payload)?;
        let tenant = tenant(turn, named)?;
        // A group that is shown takes about a kilobyte, and the page must fit the client's frame.
        let fits = (turn.who.frame_max / 2048).max(1);
        let limit = limit.unwrap_or(100).clamp(1, PAGE_GROUPS).min(fits);
        let mut names: Vec<Name> = {
            let mut core = turn.worker.core();
            core.look();
            let of = |(name, group): &(&std::sync::Arc<Name>, &Group)| {
                name.0 == tenant && name.1 > after && !group.removed
            };
            core.groups
                .iter()
                .filter(of)
                .take(limit + 1)
                .map(|(name, _)| Name::clone(name))
                .collect()
        };
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).map(|name| name.1.clone());
        let groups = names.iter().filter_map(|name| shown(turn.worker, name)).collect();
        Ok(Outcome::Now(json(&Page { groups, next }).map(|page| (None, page))))
    }

    fn show(&self, turn: Turn<'_>) -> Result<Outcome, Not> {
        let Named { tenant: named, name, .. } = parse(&self.payload)?;
        let name = (tenant(turn, named)?, name);
        known(turn.worker, &name)?;
        Ok(Job::show(self.request, name, None))
    }

    fn seek(&self, turn: Turn<'_>) -> Result<Outcome, Not> {
        let Named { tenant: named, name, to, dry_run } = parse(&self.payload)?;
        let name = (tenant(turn, named)?, name);
        let to = to.ok_or_else(|| not(Code::INVALID, "to: where it is sent is not said"))?;
        if !dry_run {
            has_registry(turn.worker)?;
        }
        let definition = Definition { from: to, ..known(turn.worker, &name)? };
        definition.check().map_err(|(code, detail)| not(code, detail))?;
        let to = Count::target(turn.worker, &definition)?;
        Ok(Outcome::Later(Box::new(Job::seek(self.request, name, definition, to, dry_run))))
    }

    fn remove(&self, turn: Turn<'_>) -> Result<(Option<Stored>, Bytes), Not> {
        let Named { tenant: named, name, .. } = parse(&self.payload)?;
        let name = (tenant(turn, named)?, name);
        has_registry(turn.worker)?;
        let mut core = turn.worker.core();
        core.look();
        let there = core.registered.newest_group(&name).filter(|there| !there.removed);
        let there = there.ok_or_else(|| unknown(&name.1))?.clone();
        let dead = core.groups.get(&name).map_or(0, |group| group.letters.len());
        let defined = Defined { removed: true, epoch: there.epoch.saturating_add(1), ..there };
        let who = (turn.who, turn.now_ms);
        let (stored, _) = publish(turn.worker, &mut core, who, defined, None)?;
        let dead = u64::try_from(dead).unwrap_or(u64::MAX);
        Ok((Some(stored), json(&Removed { name: &name.1, dead })?))
    }
}

/// Another place to begin does not make it another group: it began, and may have been sent elsewhere since.
fn same(one: &Definition, other: &Definition) -> bool {
    let begin = Begin::default;
    Definition { from: begin(), ..one.clone() } == Definition { from: begin(), ..other.clone() }
}

fn has_registry(worker: &Worker) -> Result<(), Not> {
    if worker.has_registry() {
        return Ok(());
    }
    Err(not(Code::NOT_FOUND, "the registry is on another worker"))
}

/// The definition of a group there is.
fn known(worker: &Worker, name: &Name) -> Result<Definition, Not> {
    let mut core = worker.core();
    core.look();
    let (_, group) = core.groups.find(&name.0, &name.1).ok_or_else(|| unknown(&name.1))?;
    Ok(Definition::clone(&group.definition))
}

/// Sends a group elsewhere: a new epoch. What it answers, with how many events come again or are skipped.
pub(crate) fn seek(turn: Turn<'_>, name: &Name, definition: Definition, events: u64) -> Answered {
    let at_time = look_up(turn.worker, &definition)?;
    let mut core = turn.worker.core();
    core.look();
    let there = core.registered.newest_group(name).filter(|there| !there.removed);
    let there = there.ok_or_else(|| unknown(&name.1))?.clone();
    let epoch = there.epoch.saturating_add(1);
    let defined = Defined { epoch, definition, ..there };
    let (stored, _) = publish(turn.worker, &mut core, (turn.who, turn.now_ms), defined, at_time)?;
    Ok((Some(stored), json(&Sought { name: &name.1, epoch, events })?))
}

/// What seeking would do.
pub(crate) fn dry(turn: Turn<'_>, name: &Name, events: u64) -> Answered {
    let epoch = turn.worker.core().groups.get(name).map_or(0, |group| group.epoch);
    Ok((None, json(&Sought { name: &name.1, epoch, events })?))
}

/// A group as it is now, as far as the log was looked at.
pub(crate) fn shown(worker: &Worker, name: &Name) -> Option<Shown> {
    let shared = {
        let mut core = worker.core();
        core.look();
        core.groups.find(&name.0, &name.1)?.1.shared.clone()
    };
    let mut live = shared.live();
    if !live.follow(worker, name, &shared) {
        return None;
    }
    let core = worker.core();
    let (_, group) = core.groups.find(&name.0, &name.1)?;
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    // Dead letters from before its start are counted as if it had produced them: the sum holds.
    let produced = live.produced().saturating_add(group.carried);
    let (dead, in_flight) = (wide(group.letters.len()), live.keys.in_flight());
    let (settled, dropped) = (group.settled, group.dropped);
    let lag = produced.saturating_sub(settled).saturating_sub(dropped).saturating_sub(dead);
    let members = live.members.values().take(PAGE_MEMBERS).map(|seat| {
        let (principal, edge) = (seat.principal.clone(), seat.edge.to_string());
        Seated { principal, edge, in_flight: seat.in_flight }
    });
    Some(Shown {
        definition: Definition::clone(&group.definition),
        id: group.id,
        epoch: group.epoch,
        settled_upto: vec![format!("{}:{}", worker.name(), group.floor)],
        lag,
        in_flight,
        waiting: lag.saturating_sub(in_flight),
        dead,
        settled,
        dropped,
        produced,
        members: members.collect(),
        full: !live.has_room(),
        keys: live.keys.len(),
        keys_bytes: live.keys.bytes(),
    })
}
