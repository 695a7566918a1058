//! Built-in services, answered by the worker itself: `$status`, and `$device`, which changes the registry. JSON in, JSON out;
//! spec/admin.md says which.
//!
//! The edge's policy has decided whether the caller may. The invariant: a change is answered when it is durable and every
//! edge that follows has kept it, or names after five seconds those that have not.

use std::{pin::Pin, sync::Arc, task::Context, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as object};
use spile_protocol::{
    code::Code,
    crc,
    id::{self, Number, RequestId, Role, Run},
    message::{Call, Extras, deliver::Kind},
    time::Millis,
};
use tokio::time::{Sleep, sleep};

use crate::{
    core::Put,
    errands::{self, Errand},
    intake::Intake,
    limits::{CONFIRM_MS, CONFIRMS, DEVICES, PAGE_DEVICES, TOLD_MS},
    presence::{Elsewhere, Kick, Seen},
    record::{self, Names, kind},
    registry::{Device, KEY, TENANT, TOPIC, unhex},
    said::Said,
    worker::Worker,
};

/// What the payload of calls and replies is.
pub(crate) const JSON: &str = "application/json";

/// Where the answers of other edges stand.
const TOLD: &str = "told";

/// Why a call is not done; the service's own answer.
pub(crate) struct Not {
    pub(crate) code: Code,
    pub(crate) detail: String,
}

pub(crate) fn not(code: Code, detail: impl Into<String>) -> Not {
    Not { code, detail: detail.into() }
}

/// What `$device` is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    id: String,
    tenant: Option<String>,
    role: Option<String>,
    state: Option<String>,
    key_hash: Option<String>,
    expires_ms: u64,
    replace: bool,
    for_ms: u64,
    after: String,
    limit: Option<usize>,
}

/// A device as it is shown: never its hash.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    device: &'a str,
    role: &'static str,
    tenant: &'a str,
    state: &'static str,
    key: bool,
    expires_ms: u64,
}

fn shown(device: &Device, now: Millis) -> Shown<'_> {
    let expired = device.expires_ms != 0 && device.expires_ms <= now.0;
    Shown {
        device: &device.principal,
        role: device.role.name(),
        tenant: &device.tenant,
        state: match (device.revoked, expired) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => "active",
        },
        key: device.key_hash.is_some(),
        expires_ms: device.expires_ms,
    }
}

/// A device of a page: with what only a worker knows that has all slots (admin §3.2).
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    shown: Shown<'a>,
    #[serde(flatten)]
    elsewhere: Option<Elsewhere>,
}

#[derive(Serialize)]
struct Page<'a> {
    devices: Vec<Listed<'a>>,
    /// What the next page begins after; absent where this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct Changed<'a> {
    #[serde(flatten)]
    device: Shown<'a>,
    /// Edges that have it, and edges that have not.
    confirmed: Vec<String>,
    missing: Vec<String>,
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Bytes, Not> {
    let bytes = serde_json::to_vec(value).map_err(|why| not(Code::INTERNAL, why.to_string()))?;
    Ok(Bytes::from(bytes))
}

/// What a call's payload asks; empty is `{}` (admin §1.1).
pub(crate) fn asked<T: Default + serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Not> {
    if payload.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(payload).map_err(|why| not(Code::INVALID, why.to_string()))
}

/// What a call waits for.
enum Awaited {
    /// Edges that follow have to keep a change of the registry.
    Kept { device: Device, now: Millis },
    /// Sessions have to be gone.
    Gone(Arc<Kick>),
    /// Other edges have to answer; beside what is known here.
    Told(Arc<Errand>, Map<String, Value>),
}

/// A call that edges have to confirm, and that was not answered yet.
pub(crate) struct Confirm {
    request: RequestId,
    /// The position behind its record; 0 where it has none.
    end: u64,
    awaited: Awaited,
    deadline: Pin<Box<Sleep>>,
    late: bool,
}

impl Confirm {
    /// The request, where what it changed is not stored after all.
    pub(crate) fn lost(&self, end: u64) -> Option<RequestId> {
        Some(self.request).filter(|_| self.end > end)
    }

    /// The answer, where it can be given: when the log is durable up to `end`.
    pub(crate) fn answer(&self, worker: &Worker, end: u64) -> Option<Said> {
        if self.end > end {
            return None;
        }
        let (device, now) = match &self.awaited {
            Awaited::Gone(kick) => {
                return kick.answer(self.late).map(|answer| reply(self.request, answer));
            }
            Awaited::Told(errand, whole) => {
                let told = errand.answers(self.late)?;
                let mut whole = whole.clone();
                whole.insert(TOLD.to_owned(), Value::Array(told));
                return Some(reply(self.request, json(&whole)));
            }
            Awaited::Kept { device, now } => (device, *now),
        };
        let (confirmed, missing) = worker.core().registered.confirmed(self.end);
        if !missing.is_empty() && !self.late {
            return None;
        }
        let changed = Changed { device: shown(device, now), confirmed, missing };
        Some(reply(self.request, json(&changed)))
    }

    /// Is its time over? Wakes the task when it is.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.late && self.deadline.as_mut().poll(cx).is_ready() {
            self.late = true;
            return true;
        }
        false
    }
}

pub(crate) fn reply(request: RequestId, answer: Result<Bytes, Not>) -> Said {
    match answer {
        Ok(payload) => {
            let (code, detail) = (Code(0), String::new());
            Said::Reply { request, code, detail, content_type: JSON, payload }
        }
        Err(Not { code, detail }) => {
            let payload = Bytes::new();
            Said::Reply { request, code, detail, content_type: "", payload }
        }
    }
}

impl Intake<'_> {
    pub(crate) fn call(&mut self, now: Millis, call: &Call<'_>, payload: &Bytes) {
        let request = call.request;
        let answer = match (call.service, call.method) {
            ("$status", "get") => Some(self.status()),
            ("$retention", "show") => Some(self.show_retention()),
            ("$service", "ls") => Some(self.list_services(payload)),
            ("$trace", "get") => self.trace(now, call, payload).err().map(Err),
            ("$device", _) => self.device(now, call, payload).transpose(),
            (service @ ("$upload" | "$blob"), method) => {
                if self.files_call(now, request, (service, method), payload).is_some() {
                    return;
                }
                let detail = format!("{service} {method} is not offered");
                return self.refuse_request(request, &detail);
            }
            ("$group" | "$dlq", _) => return self.ask_groups(call, payload),
            (service, method) => {
                let detail = format!("{service} {method} is not offered");
                return self.refuse_request(request, &detail);
            }
        };
        if let Some(answer) = answer {
            self.desk.said(0, reply(request, answer));
        }
    }

    fn status(&mut self) -> Result<Bytes, Not> {
        let tenant = &*self.desk.who.tenant;
        // admin §1.5: other tenants' groups are told to operators of `main` only.
        let lags_of = (tenant != TENANT).then_some(tenant);
        json(&self.worker.status_of(&self.core, lags_of))
    }

    /// `None`: it is answered later.
    fn device(
        &mut self,
        now: Millis,
        call: &Call<'_>,
        payload: &Bytes,
    ) -> Result<Option<Bytes>, Not> {
        let request = call.request;
        let asked: Asked = asked(payload)?;
        let tenant = self.tenant_of(asked.tenant.as_deref())?;
        match call.method {
            // Every worker has its part of these (admin §3.3, §3.5).
            "show" => return self.show(now, call, &tenant, &asked),
            "debug" => {
                let whole = Map::new();
                let part = object!({ "for_ms": asked.for_ms });
                let most = CONFIRM_MS;
                return self.tell_edges(call, (&tenant, &asked.id), part, (whole, most));
            }
            "kick" => {
                self.kick(request, (&tenant, &asked.id), call.remaining_ms)?;
                return Ok(None);
            }
            _ if !self.worker.has_registry() => {
                return Err(not(Code::NOT_FOUND, "the registry is on another worker"));
            }
            _ => {}
        }
        match call.method {
            "ls" => self.list(now, &tenant, &asked).map(Some),
            "add" => self.add(now, request, tenant, &asked).map(|()| None),
            "revoke" => self.revoke(now, request, &tenant, &asked).map(|()| None),
            _ => Err(not(Code::NOT_FOUND, "$device does add, ls, show, revoke, kick and debug")),
        }
    }

    /// admin §1.5: a call acts in the caller's tenant; an operator of `main` may name another.
    pub(crate) fn tenant_of(&self, asked: Option<&str>) -> Result<String, Not> {
        let who = &self.desk.who;
        match asked {
            None => Ok(who.tenant.clone()),
            Some(tenant) if tenant == who.tenant => Ok(tenant.to_owned()),
            Some(tenant) if who.role == Role::Operator && who.tenant == TENANT => {
                Ok(tenant.to_owned())
            }
            Some(_) => Err(not(Code::FORBIDDEN, "only an operator of main names another tenant")),
        }
    }

    fn list(&mut self, now: Millis, tenant: &str, asked: &Asked) -> Result<Bytes, Not> {
        self.core.look();
        let limit = asked.limit.unwrap_or(100).clamp(1, PAGE_DEVICES);
        // A device shown takes less than this, and the page must fit the client's frame.
        let limit = limit.min((self.desk.who.frame_max / 512).max(1));
        let chosen = |shown: &Shown<'_>| {
            asked.role.as_deref().is_none_or(|role| role == shown.role)
                && asked.state.as_deref().is_none_or(|state| state == shown.state)
        };
        let behind = self.core.registered.page(tenant, &asked.after).map(|it| shown(it, now));
        let mut devices: Vec<_> = behind.filter(chosen).take(limit + 1).collect();
        let more = devices.len() > limit;
        devices.truncate(limit);
        let next = devices.last().filter(|_| more).map(|last| last.device);
        let knows_all = self.worker.slots() == [0xff; 32];
        let own = &*self.desk.who.edge;
        let elsewhere =
            |device: &str| knows_all.then(|| Elsewhere::new(&self.core, (tenant, device), own));
        let listed = devices.into_iter().map(|shown| {
            let elsewhere = elsewhere(shown.device);
            Listed { shown, elsewhere }
        });
        let devices = listed.collect();
        json(&Page { devices, next })
    }

    fn show(
        &mut self,
        now: Millis,
        call: &Call<'_>,
        tenant: &str,
        asked: &Asked,
    ) -> Result<Option<Bytes>, Not> {
        self.core.look();
        let device = self.core.registered.get(tenant, &asked.id);
        let device = device.filter(|_| self.worker.has_registry()).map(|it| shown(it, now));
        let seen = serde_json::to_value(Seen::new(&self.core, (tenant, &asked.id), device));
        let Ok(Value::Object(seen)) = seen else {
            return Err(not(Code::INTERNAL, "what is seen is no object"));
        };
        self.tell_edges(call, (tenant, &asked.id), Value::Object(Map::new()), (seen, TOLD_MS))
    }

    /// Asks other edges that have sessions of the device; their answers are `told` beside what is there already.
    fn tell_edges(
        &mut self,
        call: &Call<'_>,
        device: (&str, &str),
        part: Value,
        (mut whole, most_ms): (Map<String, Value>, u64),
    ) -> Result<Option<Bytes>, Not> {
        if self.desk.confirms.len() >= CONFIRMS {
            return Err(not(Code::BUSY, "too many calls wait for edges"));
        }
        let method = if call.method == "debug" { "debug" } else { "told" };
        let Some(errand) = self.ask_edges(device, method, &part)? else {
            whole.insert(TOLD.to_owned(), Value::Array(Vec::new()));
            return json(&whole).map(Some);
        };
        let deadline = Box::pin(sleep(errands::wait(call.remaining_ms, most_ms)));
        let (request, awaited) = (call.request, Awaited::Told(errand, whole));
        self.desk.confirms.push(Confirm { request, end: 0, awaited, deadline, late: false });
        Ok(None)
    }

    fn add(
        &mut self,
        now: Millis,
        request: RequestId,
        tenant: String,
        asked: &Asked,
    ) -> Result<(), Not> {
        let invalid = |what: &str, why: id::NameError| {
            not(Code::INVALID, format!("the {what} is not one: {why}"))
        };
        id::tenant(&tenant).map_err(|why| invalid("tenant", why))?;
        id::name(&asked.id).map_err(|why| invalid("device", why))?;
        let role = asked.role.as_deref().map_or(Some(Role::Device), Role::find);
        let role = role.filter(|&role| role != Role::Edge);
        let role = role
            .ok_or_else(|| not(Code::INVALID, "the role is device, user, service or operator"))?;
        let key_hash = match asked.key_hash.as_deref() {
            None => None,
            Some(text) => Some(
                unhex(text)
                    .ok_or_else(|| not(Code::INVALID, "key_hash is 64 hexadecimal digits"))?,
            ),
        };
        let registered = &self.core.registered;
        let (principal, expires_ms) = (asked.id.clone(), asked.expires_ms);
        let device = Device { tenant, principal, role, key_hash, revoked: false, expires_ms };
        let there = registered.newest(&device.tenant, &device.principal);
        // admin §1.7: the same again is answered as the first was.
        if there == Some(&device) {
            let end = registered.latest();
            return self.confirm(now, request, end, device);
        }
        if there.is_some_and(|there| !there.revoked) && !asked.replace {
            let detail = format!("{} is registered otherwise; revoke or replace it", asked.id);
            return Err(not(Code::EXISTS, detail));
        }
        if registered.len() >= DEVICES {
            return Err(not(Code::TOO_MANY, "the registry is full"));
        }
        self.change(now, request, device)
    }

    fn revoke(
        &mut self,
        now: Millis,
        request: RequestId,
        tenant: &str,
        asked: &Asked,
    ) -> Result<(), Not> {
        let device = self.core.registered.newest(tenant, &asked.id);
        let device = device.ok_or_else(|| unknown(&asked.id))?.clone();
        self.change(now, request, Device { revoked: true, ..device })
    }

    /// Puts a change into the log, in the stream of `$registry`.
    fn change(&mut self, now: Millis, request: RequestId, device: Device) -> Result<(), Not> {
        if self.desk.confirms.len() >= CONFIRMS {
            return Err(not(Code::BUSY, "too many changes wait for edges"));
        }
        self.commit();
        let who = &self.desk.who;
        let names = Names {
            role: who.role,
            run: Run([0; 8]),
            trace_base: who.trace_base,
            tenant: TENANT,
            principal: &who.principal,
            key: KEY,
            topic: TOPIC,
            kind: Kind { content_type: JSON, ..Kind::default() },
        };
        let prefix = names.prefix();
        let core = &mut *self.core;
        core.heads.extend_from_slice(&prefix);
        let written = record::put_event(&mut core.heads, now.0, Number(0), &Extras::default());
        let head = core.heads.split().freeze();
        written.map_err(|full| not(Code::INTERNAL, full.to_string()))?;
        let payload = json(&device)?;
        let payload_crc = crc::of(&payload);
        let stream =
            core.tables.stream(TENANT, KEY).map_err(|code| not(code, "too many streams"))?;
        let put =
            Put { kind: kind::EVENT, positions: 1, time_ms: now.0, head, payload, payload_crc };
        core.put_own(stream, put)
            .ok_or_else(|| not(Code::INTERNAL, "the registry's stream is gone"))?;
        let end = core.next;
        // A device must be revocable when the disk is full: there is room in reserve.
        if let Err(refusal) = core.commit(true) {
            self.lose(refusal);
            return Err(not(refusal.code, "the log does not take it"));
        }
        self.core.registered.put(end, device.clone());
        self.confirm(now, request, end, device)
    }

    /// Answers when the change behind `end` is durable and kept by all who follow.
    fn confirm(
        &mut self,
        now: Millis,
        request: RequestId,
        end: u64,
        device: Device,
    ) -> Result<(), Not> {
        if self.desk.confirms.len() >= CONFIRMS {
            return Err(not(Code::BUSY, "too many changes wait for edges"));
        }
        self.core.confirmers.push(std::sync::Arc::downgrade(&self.desk.bell));
        let deadline = Box::pin(sleep(Duration::from_millis(CONFIRM_MS)));
        let awaited = Awaited::Kept { device, now };
        self.desk.confirms.push(Confirm { request, end, awaited, deadline, late: false });
        Ok(())
    }

    /// Answers when all sessions of the kick are gone, or after that time.
    pub(crate) fn await_kick(
        &mut self,
        request: RequestId,
        kick: Arc<Kick>,
        most: Duration,
    ) -> Result<(), Not> {
        if self.desk.confirms.len() >= CONFIRMS {
            return Err(not(Code::BUSY, "too many calls wait for edges"));
        }
        let (awaited, deadline) = (Awaited::Gone(kick), Box::pin(sleep(most)));
        self.desk.confirms.push(Confirm { request, end: 0, awaited, deadline, late: false });
        Ok(())
    }
}

fn unknown(device: &str) -> Not {
    not(Code::NOT_FOUND, format!("{device} is not registered"))
}
