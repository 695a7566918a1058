//! `$device show`, `kick` and `debug` (admin §3.3, §3.5, §3.7): what this edge knows of a device's sessions, and what the
//! workers' answers about those of other edges come to.
//!
//! Invariant: an edge's own sessions are told of by the edge alone, those of others by the workers, each once, however many
//! workers a session is attached to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use spile_protocol::{code::Code, id::Role, message::Call, time::Millis};

use super::aim::{self, Wrong, wrong};
use super::errands;
use super::fold::{Fold, Outcome, all_away};
use super::gate::Gate;
use crate::sessions::Live;

/// What this edge itself says.
#[derive(Debug)]
pub(super) struct Own {
    id: String,
    tenant: String,
    edge: String,
    /// The registry has it.
    registered: bool,
    /// Its live sessions of the device, as they are shown.
    sessions: Vec<Value>,
    /// The newest FAULT the device was told here.
    last_fault: Value,
    /// Until when this edge logs its frames, where it was asked to and does.
    debugged: Option<Millis>,
}

/// What is done with a device's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Show,
    Kick,
    Debug,
}

impl Gate<'_, '_, '_> {
    /// What becomes of a call about a device's sessions; `None`: it is another call. Those of this edge are told to go at
    /// once where they are to be kicked.
    pub(super) fn about_device(
        &self,
        call: &Call<'_>,
        payload: &[u8],
    ) -> Option<Result<Fold, Wrong>> {
        let act = match (call.service, call.method) {
            ("$device", "show") => Act::Show,
            ("$device", "kick") => Act::Kick,
            ("$device", "debug") => Act::Debug,
            _ => return None,
        };
        let fields: &[&str] =
            if act == Act::Debug { &["id", "tenant", "for_ms"] } else { &["id", "tenant"] };
        Some(aim::object(payload).and_then(|asked| {
            // admin §1.3: an act is not done half.
            if let Some(field) = asked.keys().find(|field| !fields.contains(&&***field)) {
                return Err(wrong(Code::INVALID, format!("{field} is no field of this call")));
            }
            let own = self.own(&asked, act)?;
            Ok(match act {
                Act::Show => Fold::Seen(own),
                Act::Kick => Fold::Kicked(own),
                Act::Debug => Fold::Debugged(own),
            })
        }))
    }

    fn own(&self, asked: &Map<String, Value>, act: Act) -> Result<Own, Wrong> {
        let text = |field| asked.get(field).and_then(Value::as_str);
        let caller = &*self.who.tenant;
        let (id, tenant) = (text("id").unwrap_or_default(), text("tenant").unwrap_or(caller));
        // admin §1.5: the workers refuse it otherwise.
        let may =
            tenant == caller || (self.who.role == Role::Operator && caller == aim::REGISTRY.0);
        let live = match (may, act) {
            (false, _) => Vec::new(),
            (true, Act::Kick) => self.edge.sessions.kick(tenant, id),
            (true, Act::Show | Act::Debug) => self.edge.sessions.of(tenant, id),
        };
        let edge = self.edge.session.edge.to_string();
        let sessions: Vec<_> = live.iter().map(|live| shown(live, &edge)).collect();
        let registered = may && self.edge.registry.lookup(tenant, id).is_some();
        let last_fault = if may { errands::last_fault(self.edge, tenant, id) } else { Value::Null };
        let for_ms = if act == Act::Debug { Some(errands::for_ms(asked)?) } else { None };
        // Nobody of that name may ever come: whoever mistyped it hears so.
        let debugs = for_ms.filter(|_| registered || !sessions.is_empty());
        let debug = |for_ms| errands::debug(self.edge, self.wall, (tenant, id), for_ms);
        let debugged = debugs.map(debug).transpose()?;
        let (id, tenant) = (id.to_owned(), tenant.to_owned());
        Ok(Own { id, tenant, edge, registered, sessions, last_fault, debugged })
    }
}

fn shown(live: &Arc<Live>, edge: &str) -> Value {
    let run: String = live.run.0.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "edge": edge, "peer": live.peer.to_string(), "run": run, "role": live.role.name(),
        "since_ms": live.since.0, "in_flight": live.in_flight(),
    })
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// What came of the workers: their objects, and how many were away. A refusal is the answer.
fn came(parts: Vec<(&str, Outcome)>) -> Result<(Vec<Map<String, Value>>, usize), Wrong> {
    let (mut objects, mut away) = (Vec::new(), 0);
    for (_, outcome) in parts {
        match outcome {
            Outcome::Came(object) => objects.push(object),
            Outcome::Refused(wrong) => return Err(wrong),
            Outcome::Away => away += 1,
        }
    }
    Ok((objects, away))
}

fn take(object: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match object.remove(field) {
        Some(Value::Array(list)) => list,
        Some(_) | None => Vec::new(),
    }
}

impl Own {
    /// Those of other edges, each once.
    fn others(&self, all: impl Iterator<Item = Value>) -> Vec<Value> {
        let mut known = BTreeSet::new();
        all.filter(|one| text(one, "edge") != self.edge)
            .filter(|one| known.insert((text(one, "edge").to_owned(), text(one, "run").to_owned())))
            .collect()
    }

    fn nobody(&self) -> Wrong {
        wrong(Code::NOT_FOUND, format!("{} is not registered, and has no session", self.id))
    }

    /// admin §3.3
    pub(super) fn seen(&self, parts: Vec<(&str, Outcome)>) -> Result<Map<String, Value>, Wrong> {
        let (mut objects, away) = came(parts)?;
        let (mut told, mut lanes) = (Vec::new(), Vec::new());
        let (mut uploads, mut seen) = (0_u64, None);
        let (mut whole, mut fault, mut lost) = (Map::new(), self.last_fault.clone(), away > 0);
        for object in &mut objects {
            for (_, answer) in answers(object) {
                lost |= answer.is_null();
                let theirs = answer.get("last_fault").cloned().unwrap_or_default();
                if number(&theirs, "time_ms") > number(&fault, "time_ms") {
                    fault = theirs;
                }
            }
            told.extend(take(object, "sessions"));
            lanes.extend(take(object, "lanes"));
            let count = object.remove("open_uploads").and_then(|count| count.as_u64());
            uploads = uploads.saturating_add(count.unwrap_or_default());
            seen = seen.max(object.remove("last_seen_ms").and_then(|ms| ms.as_u64()));
            // What is left is said by the registry's worker only.
            whole.append(object);
        }
        let mut sessions = self.sessions.clone();
        sessions.extend(self.others(told.into_iter()));
        let newest = sessions.iter().max_by_key(|one| number(one, "since_ms"));
        if !whole.contains_key("device") {
            let Some(newest) = newest else {
                return Err(if away > 0 { all_away() } else { self.nobody() });
            };
            // It comes by a certificate, for which the authority vouches, or the registry's worker is away.
            whole.insert("device".to_owned(), Value::from(&*self.id));
            whole.insert("tenant".to_owned(), Value::from(&*self.tenant));
            whole.insert("role".to_owned(), Value::from(text(newest, "role")));
        }
        whole.insert("edge".to_owned(), newest.map_or(Value::Null, |one| text(one, "edge").into()));
        whole.insert("last_seen_ms".to_owned(), Value::from(seen));
        whole.insert("sessions".to_owned(), Value::Array(sessions));
        whole.insert("lanes".to_owned(), Value::Array(lanes));
        whole.insert("open_uploads".to_owned(), Value::from(uploads));
        whole.insert("last_fault".to_owned(), fault);
        // admin §3.3: there are no quotas and no spool yet.
        whole.insert("throttled_until_ms".to_owned(), Value::Null);
        whole.insert("spooled".to_owned(), Value::Null);
        if lost {
            whole.insert("partial".to_owned(), Value::Bool(true));
        }
        Ok(whole)
    }

    /// admin §3.5
    pub(super) fn kicked(&self, parts: Vec<(&str, Outcome)>) -> Result<Map<String, Value>, Wrong> {
        let (mut objects, away) = came(parts)?;
        let told: Vec<_> = objects.iter_mut().flat_map(|object| take(object, "kicked")).collect();
        // A session is gone where any worker heard so: the edge ends it everywhere at once.
        let gone = |one: &&Value| one.get("confirmed") == Some(&Value::Bool(true));
        let run = |one: &Value| (text(one, "edge").to_owned(), text(one, "run").to_owned());
        let confirmed: BTreeSet<_> = told.iter().filter(gone).map(run).collect();
        let others = self.others(told.into_iter());
        if away == 0 && !self.registered && self.sessions.is_empty() && others.is_empty() {
            return Err(self.nobody());
        }
        let mut edges: BTreeSet<_> = others.iter().map(|one| text(one, "edge")).collect();
        let missing: BTreeSet<_> = others
            .iter()
            .filter(|one| !confirmed.contains(&run(one)))
            .map(|one| text(one, "edge"))
            .collect();
        edges.retain(|edge| !missing.contains(edge));
        if !self.sessions.is_empty() {
            edges.insert(&self.edge);
        }
        let mut whole = Map::from_iter([
            ("device".to_owned(), Value::from(&*self.id)),
            ("sessions".to_owned(), Value::from(self.sessions.len() + others.len())),
            ("confirmed".to_owned(), edges.into_iter().map(Value::from).collect()),
            ("missing".to_owned(), missing.into_iter().map(Value::from).collect()),
        ]);
        if away > 0 {
            whole.insert("partial".to_owned(), Value::Bool(true));
        }
        Ok(whole)
    }

    /// admin §3.7
    pub(super) fn debugged(
        &self,
        parts: Vec<(&str, Outcome)>,
    ) -> Result<Map<String, Value>, Wrong> {
        let (mut objects, away) = came(parts)?;
        let (mut edges, mut until) = (BTreeMap::new(), self.debugged.map_or(0, |until| until.0));
        for (edge, answer) in objects.iter_mut().flat_map(answers) {
            let theirs = answer.get("until_ms").and_then(Value::as_u64);
            until = until.max(theirs.unwrap_or_default());
            *edges.entry(edge).or_insert(false) |= theirs.is_some();
        }
        if away == 0 && self.debugged.is_none() && edges.is_empty() {
            return Err(self.nobody());
        }
        if self.debugged.is_some() {
            edges.insert(self.edge.clone(), true);
        }
        let of = |done: bool| {
            let those = edges.iter().filter(|(_, confirmed)| **confirmed == done);
            those.map(|(edge, _)| Value::from(&**edge)).collect()
        };
        let mut whole = Map::from_iter([
            ("device".to_owned(), Value::from(&*self.id)),
            ("until_ms".to_owned(), Value::from(until)),
            ("confirmed".to_owned(), of(true)),
            ("missing".to_owned(), of(false)),
        ]);
        if away > 0 {
            whole.insert("partial".to_owned(), Value::Bool(true));
        }
        Ok(whole)
    }
}

/// Who of a page of devices is here (admin §3.2).
#[derive(Debug)]
pub(super) struct Here {
    edge: String,
    /// By name: how many sessions, and since when the newest.
    sessions: HashMap<Box<str>, (u64, u64)>,
}

impl Gate<'_, '_, '_> {
    /// What this edge adds to a page of devices.
    pub(super) fn here(&self, payload: &[u8]) -> Here {
        let asked = aim::object(payload).unwrap_or_default();
        let tenant = asked.get("tenant").and_then(Value::as_str).unwrap_or(&self.who.tenant);
        let mut sessions = HashMap::new();
        // Of several workers none knows the sessions of other edges, and so ours are not told. Whoever may not name that
        // tenant hears it from the worker.
        let all = if self.workers.count() == 1 { self.edge.sessions.list() } else { Vec::new() };
        for live in all.iter().filter(|live| &*live.tenant == tenant) {
            let (count, since) = sessions.entry(live.principal.clone()).or_insert((0, 0));
            (*count, *since) = (*count + 1, live.since.0.max(*since));
        }
        Here { edge: self.edge.session.edge.to_string(), sessions }
    }
}

impl Here {
    /// Each device with its sessions, where the one worker there is knows those of other edges; else they are `null`.
    pub(super) fn page(&self, mut page: Map<String, Value>) -> Map<String, Value> {
        let devices = page.get_mut("devices").and_then(Value::as_array_mut);
        for device in devices.into_iter().flatten().filter_map(Value::as_object_mut) {
            let (edge, sessions) = match device.remove("elsewhere") {
                Some(theirs) => self.with(device, &theirs),
                None => (Value::Null, Value::Null),
            };
            device.entry("last_seen_ms").or_insert(Value::Null);
            device.insert("edge".to_owned(), edge);
            device.insert("sessions".to_owned(), sessions);
        }
        page
    }

    fn with(&self, device: &Map<String, Value>, theirs: &Value) -> (Value, Value) {
        let name = device.get("device").and_then(Value::as_str).unwrap_or_default();
        let (count, since) = self.sessions.get(name).copied().unwrap_or_default();
        let edge = match (count, number(theirs, "sessions")) {
            (0, 0) => Value::Null,
            (_, others) if others == 0 || since >= number(theirs, "since_ms") => {
                Value::from(&*self.edge)
            }
            _ => Value::from(text(theirs, "edge")),
        };
        (edge, Value::from(count + number(theirs, "sessions")))
    }
}

/// What other edges answered a worker, with their names; null for one that has not.
fn answers(object: &mut Map<String, Value>) -> Vec<(String, Value)> {
    let told = take(object, "told").into_iter();
    let pair = |one: Value| {
        let answer = one.get("answer").cloned().unwrap_or_default();
        (text(&one, "edge").to_owned(), answer)
    };
    told.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(sessions: &[Value]) -> Own {
        let (id, tenant) = ("pump-7".to_owned(), "main".to_owned());
        let (edge, registered) = ("e1".to_owned(), false);
        let (sessions, last_fault, debugged) = (sessions.to_vec(), Value::Null, None);
        Own { id, tenant, edge, registered, sessions, last_fault, debugged }
    }

    fn session(edge: &str, run: &str, since_ms: u64) -> Value {
        json!({ "edge": edge, "run": run, "since_ms": since_ms, "role": "device" })
    }

    fn part(value: Value) -> (&'static str, Outcome) {
        let Value::Object(object) = value else { unreachable!() };
        ("w", Outcome::Came(object))
    }

    #[test]
    fn each_session_is_shown_once_and_by_whom_it_is_known() {
        let own = own(&[session("e1", "1", 5)]);
        let a = json!({
            "device": "pump-7", "state": "active", "last_seen_ms": 3, "open_uploads": 1,
            "sessions": [session("e1", "1", 6), session("e2", "2", 7)], "lanes": [{"key": "a"}],
        });
        let b = json!({
            "last_seen_ms": 9, "open_uploads": 2, "sessions": [session("e2", "2", 8)],
            "lanes": [{"key": "b"}],
        });
        let seen = Value::Object(own.seen(vec![part(a), part(b)]).unwrap());
        assert_eq!(seen["sessions"], json!([session("e1", "1", 5), session("e2", "2", 7)]));
        assert_eq!((&seen["edge"], &seen["last_seen_ms"]), (&json!("e2"), &json!(9)));
        assert_eq!((&seen["open_uploads"], &seen["state"]), (&json!(3), &json!("active")));
        assert_eq!(seen["lanes"], json!([{"key": "a"}, {"key": "b"}]));
        assert!(seen.get("partial").is_none());
    }

    #[test]
    fn who_is_not_registered_is_shown_while_there_is_a_session_of_it() {
        let nothing = || part(json!({ "last_seen_ms": null, "open_uploads": 0 }));
        let shown = own(&[session("e1", "1", 5)]).seen(vec![nothing(), ("x", Outcome::Away)]);
        let shown = Value::Object(shown.unwrap());
        assert_eq!((&shown["device"], &shown["role"]), (&json!("pump-7"), &json!("device")));
        assert_eq!((&shown["partial"], &shown["last_seen_ms"]), (&json!(true), &Value::Null));
        let nobody = own(&[]).seen(vec![nothing()]).unwrap_err();
        assert_eq!(nobody.code, Code::NOT_FOUND);
        let unknown = own(&[]).seen(vec![nothing(), ("x", Outcome::Away)]).unwrap_err();
        assert_eq!(unknown.code, Code::UNAVAILABLE);
        let refused = Outcome::Refused(wrong(Code::FORBIDDEN, "no"));
        assert_eq!(own(&[]).seen(vec![("w", refused)]).unwrap_err().code, Code::FORBIDDEN);
    }

    #[test]
    fn a_kick_names_the_edges_that_confirmed_and_those_that_did_not() {
        let told = |edge: &str, run: &str, confirmed: bool| json!({ "edge": edge, "run": run, "confirmed": confirmed });
        let a = json!({ "kicked": [told("e2", "2", false), told("e3", "3", false)] });
        let b = json!({ "kicked": [told("e2", "2", true)] });
        let whole = own(&[session("e1", "1", 5)]).kicked(vec![part(a), part(b)]).unwrap();
        let want = json!({
            "device": "pump-7", "sessions": 3, "confirmed": ["e1", "e2"], "missing": ["e3"],
        });
        assert_eq!(Value::Object(whole), want);
        let none = || part(json!({ "kicked": [] }));
        assert_eq!(own(&[]).kicked(vec![none()]).unwrap_err().code, Code::NOT_FOUND);
        let unknown = own(&[]).kicked(vec![none(), ("x", Outcome::Away)]).unwrap();
        assert_eq!(unknown["partial"], json!(true));
        let registered = Own { registered: true, ..own(&[]) };
        let nobody = registered.kicked(vec![none()]).unwrap();
        let want = json!({ "device": "pump-7", "sessions": 0, "confirmed": [], "missing": [] });
        assert_eq!(Value::Object(nobody), want);
    }

    #[test]
    fn the_newest_fault_of_all_edges_is_shown_and_what_is_not_there_yet_is_null() {
        let fault =
            |edge: &str, time_ms: u64| json!({ "edge": edge, "time_ms": time_ms, "code": 202 });
        let told = |edge: &str, time_ms: u64| json!({ "edge": edge, "answer": { "last_fault": fault(edge, time_ms) } });
        let part = |told: Value| part(json!({ "device": "pump-7", "told": told }));
        let mine = Own { last_fault: fault("e1", 5), ..own(&[]) };
        let seen = |told: Value| Value::Object(mine.seen(vec![part(told)]).unwrap());
        assert_eq!(seen(json!([told("e2", 4)]))["last_fault"], fault("e1", 5));
        let shown = seen(json!([{ "edge": "e3", "answer": null }, told("e2", 6)]));
        assert_eq!(shown["last_fault"], fault("e2", 6));
        for field in ["throttled_until_ms", "spooled"] {
            assert_eq!(shown.get(field), Some(&Value::Null), "{field}");
        }
        assert!(shown.get("told").is_none(), "{shown}");
        assert_eq!(shown["partial"], json!(true), "e3 has not answered");
    }

    #[test]
    fn a_page_tells_of_sessions_where_one_worker_knows_of_all_of_them() {
        let sessions = HashMap::from([(Box::from("a"), (2, 5)), (Box::from("b"), (1, 5))]);
        let here = Here { edge: "e1".to_owned(), sessions };
        let elsewhere = |edge: &str, count: u64, since: u64| json!({ "edge": edge, "sessions": count, "since_ms": since });
        let page = json!({ "devices": [
            { "device": "a", "elsewhere": elsewhere("", 0, 0), "last_seen_ms": 3 },
            { "device": "b", "elsewhere": elsewhere("e2", 2, 6) },
            { "device": "c", "elsewhere": elsewhere("", 0, 0) },
            { "device": "d" },
        ]});
        let Value::Object(page) = page else { unreachable!() };
        let page = Value::Object(here.page(page));
        let want = json!({ "devices": [
            { "device": "a", "edge": "e1", "sessions": 2, "last_seen_ms": 3 },
            { "device": "b", "edge": "e2", "sessions": 3, "last_seen_ms": null },
            { "device": "c", "edge": null, "sessions": 0, "last_seen_ms": null },
            { "device": "d", "edge": null, "sessions": null, "last_seen_ms": null },
        ]});
        assert_eq!(page, want);
    }

    #[test]
    fn a_debug_names_the_edges_that_log_and_those_that_have_not_said_so() {
        let told = json!([{ "edge": "e2", "answer": { "until_ms": 9 } }, { "edge": "e3", "answer": null }]);
        let mine = Own { debugged: Some(Millis(7)), ..own(&[]) };
        let whole = mine.debugged(vec![part(json!({ "told": told }))]).unwrap();
        let want = json!({
            "device": "pump-7", "until_ms": 9, "confirmed": ["e1", "e2"], "missing": ["e3"],
        });
        assert_eq!(Value::Object(whole), want);
        let nobody = own(&[]).debugged(vec![part(json!({ "told": [] }))]).unwrap_err();
        assert_eq!(nobody.code, Code::NOT_FOUND);
    }
}
