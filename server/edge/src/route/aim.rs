//! Where a call to what is built in goes when there are several workers: to the registry's, to the one that has what is
//! named, or to all of them. What their answers come to is [`fold`](super::fold)'s.
//!
//! Pure: the call, its payload and the workers come in. Invariant: what is asked of a worker is about its part only.

use serde_json::{Map, Value};
use spile_protocol::{code::Code, message::Call};

use super::fold::{self, Fold, Steps};
use crate::upstream::Workers;

/// Tenant and key of what is registered: its slot's worker answers for it (admin §3, §6).
pub(super) const REGISTRY: (&str, &str) = ("main", "$registry");

/// Whom a call is for.
#[derive(Debug)]
pub(super) enum Aim {
    /// One worker, as it came.
    One(usize),
    /// Several, each with what came or with a payload of its own.
    Many(Vec<(usize, Option<Vec<u8>>)>, Fold),
}

/// Why a call goes nowhere, or what it came to is no answer: the reply's code and detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: Code,
    pub(super) detail: String,
}

pub(super) fn wrong(code: Code, detail: impl Into<String>) -> Wrong {
    Wrong { code, detail: detail.into() }
}

/// Where a call goes.
pub(super) fn aim(
    call: &Call<'_>,
    payload: &[u8],
    tenant: &str,
    workers: &Workers,
) -> Result<Aim, Wrong> {
    let every =
        |fold| Ok(Aim::Many((0..workers.count()).map(|place| (place, None)).collect(), fold));
    match (call.service, call.method) {
        ("$group", "create") => begins_here(&object(payload)?, "from", workers)?,
        ("$group", "seek") => begins_here(&object(payload)?, "to", workers)?,
        _ => {}
    }
    match (call.service, call.method) {
        ("$status", "get") => every(Fold::Status),
        // The edge knows of calls too.
        ("$trace", "get") => every(Fold::Steps(Steps::default())),
        _ if workers.count() == 1 => Ok(Aim::One(0)),
        ("$group", "ls") => every(Fold::page(&fold::GROUPS, &object(payload)?)),
        ("$group", "show") => every(Fold::Whole(&fold::GROUPS.rule)),
        ("$group", "seek") if is_dry(payload)? => every(Fold::Whole(&fold::COUNTED)),
        ("$dlq", "ls") => letters(object(payload)?, workers),
        ("$dlq", "show") => named(&object(payload)?, "position", workers),
        ("$dlq", "replay" | "drop") => positions(object(payload)?, workers),
        ("$retention", "show") => every(Fold::Whole(&fold::RETENTION)),
        ("$service", "ls") => every(Fold::page(&fold::SERVICES, &object(payload)?)),
        ("$upload", "cancel") => every(Fold::Any),
        ("$blob", _) => {
            let asked = object(payload)?;
            let blob = asked.get("blob").and_then(Value::as_str).unwrap_or_default();
            Ok(Aim::One(blob_place(blob, workers)))
        }
        ("$device" | "$group" | "$registry", _) => Ok(Aim::One(workers.of(REGISTRY.0, REGISTRY.1))),
        (service, _) => Ok(Aim::One(workers.of(tenant, service_key(service)))),
    }
}

/// spec §15.8: a service lives on the slot of its name, a call to a device on that of the device's.
pub(super) fn service_key(service: &str) -> &str {
    service.strip_prefix("device/").unwrap_or(service)
}

/// Blob ids begin with the slot of their key, in two hexadecimal digits. What is no id is nowhere: any worker says so.
pub(super) fn blob_place(blob: &str, workers: &Workers) -> usize {
    let slot = blob.split_once('-').filter(|(slot, _)| slot.len() == 2);
    let slot = slot.and_then(|(slot, _)| u8::from_str_radix(slot, 16).ok());
    slot.map_or(0, |slot| workers.of_slot(slot))
}

/// What is asked, as an object; nothing is an empty one (admin §1.1).
pub(super) fn object(payload: &[u8]) -> Result<Map<String, Value>, Wrong> {
    if payload.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(payload).map_err(|why| wrong(Code::INVALID, why.to_string()))
}

fn is_dry(payload: &[u8]) -> Result<bool, Wrong> {
    Ok(object(payload)?.get("dry_run") == Some(&Value::Bool(true)))
}

/// Positions a group begins at are of workers there are, one each: a worker knows only itself (admin §1.3, §6.3). What
/// has another form is for the worker to read.
fn begins_here(asked: &Map<String, Value>, field: &str, workers: &Workers) -> Result<(), Wrong> {
    let text = asked.get(field).and_then(Value::as_str).unwrap_or_default();
    let names = text.split(',').map(|one| one.split_once(':').map(|(worker, _)| worker));
    let Some(names) = names.collect::<Option<Vec<_>>>() else { return Ok(()) };
    match workers.misnamed(&names) {
        Some(why) => Err(wrong(Code::INVALID, format!("{field}: {why}"))),
        None => Ok(()),
    }
}

/// A position's worker, `WORKER:N` (admin §1.2).
fn worker_of(position: &str, workers: &Workers) -> Result<usize, Wrong> {
    let name = position.rsplit_once(':').map_or("", |(worker, _)| worker);
    let place = workers.iter().position(|worker| worker.name() == name);
    place.ok_or_else(|| {
        wrong(Code::INVALID, format!("{position} is no position of a worker here; write WORKER:N"))
    })
}

fn named(asked: &Map<String, Value>, field: &str, workers: &Workers) -> Result<Aim, Wrong> {
    let position = asked.get(field).and_then(Value::as_str).unwrap_or_default();
    worker_of(position, workers).map(Aim::One)
}

/// Dead letters are paged worker by worker, in the order of names: `after` says where in whose part.
fn letters(asked: Map<String, Value>, workers: &Workers) -> Result<Aim, Wrong> {
    let fold = Fold::Letters(fold::limit(&asked));
    let Some(after) = asked.get("after").and_then(Value::as_str).filter(|after| !after.is_empty())
    else {
        let all = by_name(workers).into_iter().map(|place| (place, None));
        return Ok(Aim::Many(all.collect(), fold));
    };
    let begins = worker_of(after, workers)?;
    let mut rest = asked.clone();
    rest.remove("after");
    let behind = by_name(workers).into_iter().skip_while(|place| *place != begins);
    let parts = behind.map(|place| (place, (place != begins).then(|| encode(&rest))));
    Ok(Aim::Many(parts.collect(), fold))
}

/// The places of the workers in the order of their names.
fn by_name(workers: &Workers) -> Vec<usize> {
    let mut named: Vec<_> = workers.iter().map(crate::upstream::Upstream::name).zip(0..).collect();
    named.sort_unstable();
    named.into_iter().map(|(_, place)| place).collect()
}

/// Each worker hears of its own positions; with `all` every one does. Those that are asked keep a rate
/// together: each takes its turn (admin §7.1).
fn positions(asked: Map<String, Value>, workers: &Workers) -> Result<Aim, Wrong> {
    let mut own = vec![Vec::new(); workers.count()];
    let all = asked.get("all") == Some(&Value::Bool(true));
    let listed = asked.get("positions").and_then(Value::as_array);
    if all && listed.is_some() {
        return Err(wrong(Code::INVALID, "positions or all, not both"));
    }
    for position in listed.into_iter().flatten() {
        let text = position.as_str().unwrap_or_default();
        if let Some(own) = own.get_mut(worker_of(text, workers)?) {
            own.push(position.clone());
        }
    }
    let asks = |positions: &Vec<Value>| all || !positions.is_empty();
    let count = own.iter().filter(|own| asks(own)).count();
    if count == 0 {
        // Neither positions nor all: any worker says what is missing.
        return Ok(Aim::One(0));
    }
    let theirs = own.into_iter().enumerate().filter(|(_, own)| asks(own));
    let parts = theirs.zip(0_usize..).map(|((place, own), turn)| {
        let mut part = asked.clone();
        if !own.is_empty() {
            part.insert("positions".to_owned(), Value::Array(own));
        }
        if asked.contains_key("rate") {
            part.insert("share".to_owned(), Value::from(vec![turn, count]));
        }
        (place, Some(encode(&part)))
    });
    Ok(Aim::Many(parts.collect(), Fold::Act(&fold::COUNTED)))
}

fn encode(object: &Map<String, Value>) -> Vec<u8> {
    // A map of JSON values is always written.
    serde_json::to_vec(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Away, Port, Upstream};
    use spile_protocol::{id::RequestId, message::Attach};
    use std::sync::Arc;

    struct Named(&'static str);

    impl Upstream for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn attach(&self, _: &Attach<'_>) -> Result<Box<dyn Port>, Away> {
            Err(Away { retry_after_ms: 1 })
        }
    }

    /// `b` has the even slots and the first place, `a` the odd ones.
    fn workers() -> Workers {
        let of = |name| Arc::new(Named(name)) as Arc<dyn Upstream>;
        Workers::new(vec![(of("b"), [0x55; 32]), (of("a"), [0xaa; 32])]).unwrap()
    }

    fn aimed(service: &str, method: &str, payload: &str) -> String {
        let call = Call {
            request: RequestId(1),
            service,
            method,
            remaining_ms: 1_000,
            idempotent: false,
            content_type: "",
            caller: "",
            trace: None,
        };
        match aim(&call, payload.as_bytes(), "main", &workers()) {
            Ok(Aim::One(place)) => format!("{place}"),
            Ok(Aim::Many(parts, _)) => {
                let text = |payload: Option<Vec<u8>>| {
                    payload.map_or_else(String::new, |own| String::from_utf8(own).unwrap())
                };
                parts
                    .into_iter()
                    .map(|(place, own)| format!("{place}{}", text(own)))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Err(wrong) => wrong.code.name().to_owned(),
        }
    }

    #[test]
    fn each_call_goes_where_its_part_is() {
        for (service, method, payload, want) in [
            ("$status", "get", "", "0 1"),
            ("$device", "ls", "", "1"),
            ("$group", "create", "{}", "1"),
            ("$group", "ls", "", "0 1"),
            ("$group", "show", r#"{"name":"g"}"#, "0 1"),
            ("$group", "seek", r#"{"name":"g"}"#, "1"),
            ("$group", "seek", r#"{"name":"g","dry_run":true}"#, "0 1"),
            ("$service", "ls", "", "0 1"),
            ("$retention", "show", "", "0 1"),
            ("$upload", "cancel", "{}", "0 1"),
            ("$blob", "show", r#"{"blob":"05-1a2b"}"#, "1"),
            ("$blob", "rm", r#"{"blob":"04-1a2b"}"#, "0"),
            ("$blob", "show", r#"{"blob":"nonsense"}"#, "0"),
            ("$dlq", "show", r#"{"position":"a:7"}"#, "1"),
            ("$dlq", "show", r#"{"position":"c:7"}"#, "invalid"),
            ("$dlq", "ls", r#"{"group":"g"}"#, "1 0"),
            ("$dlq", "ls", r#"{"after":"a:3","group":"g"}"#, r#"1 0{"group":"g"}"#),
            ("$dlq", "ls", r#"{"after":"b:3","group":"g"}"#, "0"),
            ("$dlq", "drop", r#"{"positions":["a:1","a:2"]}"#, r#"1{"positions":["a:1","a:2"]}"#),
            (
                "$dlq",
                "replay",
                r#"{"all":true,"rate":7}"#,
                r#"0{"all":true,"rate":7,"share":[0,2]} 1{"all":true,"rate":7,"share":[1,2]}"#,
            ),
            (
                "$dlq",
                "replay",
                r#"{"positions":["a:1"],"rate":7}"#,
                r#"1{"positions":["a:1"],"rate":7,"share":[0,1]}"#,
            ),
            ("$dlq", "replay", "{}", "0"),
            ("$dlq", "replay", r#"{"all":true,"positions":["a:1"]}"#, "invalid"),
            ("$group", "create", r#"{"from":"end"}"#, "1"),
            ("$group", "create", r#"{"from":7}"#, "1"),
            ("$group", "create", r#"{"from":"b:5"}"#, "1"),
            ("$group", "create", r#"{"from":"c:5"}"#, "invalid"),
            ("$group", "create", r#"{"from":"b:5,a:1,b:6"}"#, "invalid"),
            ("$group", "seek", r#"{"to":"a:5,b:1"}"#, "1"),
            ("$group", "seek", r#"{"to":"a:5,c:1"}"#, "invalid"),
            ("$group", "seek", r#"{"dry_run":true,"to":"a:5,a:5"}"#, "invalid"),
            // Of no such form: the worker says so.
            ("$group", "seek", r#"{"to":"c:5,nonsense"}"#, "1"),
            ("$dlq", "ls", "nonsense", "invalid"),
            // Slots 1 and 8 of the names.
            ("device/sensor-1", "reset", "", "1"),
            ("sensor-1", "reset", "", "1"),
        ] {
            assert_eq!(aimed(service, method, payload), want, "{service} {method} {payload}");
        }
    }
}
