//! What the answers of several workers to one call come to: one JSON object, as admin.md has it.
//!
//! Pure. Numbers that count are summed, lists are joined, all else is the first's. Invariant: where a worker is missing
//! from an answer, the answer says `partial`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use spile_protocol::code::Code;

use super::aim::{Wrong, wrong};
use super::devices::{Here, Own};
use crate::limits::LAGS_TOLD;

/// How objects about the same thing become one.
#[derive(Debug)]
pub(super) struct Rule {
    summed: &'static [&'static str],
    joined: &'static [&'static str],
}

/// A list of named things, a page at a time.
#[derive(Debug)]
pub(super) struct Listed {
    items: &'static str,
    name: &'static str,
    pub(super) rule: Rule,
}

/// `$group ls` and, with its rule, `$group show` (admin §6).
pub(super) static GROUPS: Listed = Listed {
    items: "groups",
    name: "name",
    rule: Rule {
        summed: &[
            "lag",
            "in_flight",
            "waiting",
            "dead",
            "produced",
            "settled",
            "dropped",
            "keys",
            "keys_bytes",
        ],
        joined: &["settled_upto", "members"],
    },
};

/// `$service ls` (admin §9).
pub(super) static SERVICES: Listed = Listed {
    items: "services",
    name: "service",
    rule: Rule { summed: &["calls", "failed"], joined: &["members"] },
};

/// `$retention show` (admin §14).
pub(super) static RETENTION: Rule = Rule { summed: &[], joined: &["kept"] };

/// What counts what was done, or would be (admin §6 seek, §7 replay and drop).
pub(super) static COUNTED: Rule =
    Rule { summed: &["events", "replayed", "waiting", "dropped"], joined: &[] };

/// How the answers to a call become one.
#[derive(Debug)]
pub(super) enum Fold {
    /// An object a worker, and the edge's own (admin §2).
    Status,
    /// Lists of named things, merged in the order of names: at most so many.
    Page(&'static Listed, usize),
    /// Dead letters, one worker's behind the other's: at most so many.
    Letters(usize),
    /// Objects about the same thing.
    Whole(&'static Rule),
    /// The same for what was done: where a worker refused, that is the answer, and asking again is safe (admin §1.7).
    Act(&'static Rule),
    /// The first that has it.
    Any,
    /// Steps in the order of time (admin §12), with the edge's own.
    Steps(Steps),
    /// Of a device (admin §3.3), with what the edge knows of it.
    Seen(Own),
    /// Sessions of a device that were told to go (admin §3.5), with the edge's own.
    Kicked(Own),
    /// A page of devices (admin §3.2), with who of them is here.
    Devices(Here),
    /// Edges that log a device's frames (admin §3.7), with this one.
    Debugged(Own),
}

/// The edge's own steps: what came to it, and what it passed back.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) came: Vec<Value>,
    pub(super) ended: Vec<Value>,
}

/// What one worker said.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its answer.
    Came(Map<String, Value>),
    /// It refused.
    Refused(Wrong),
    /// It is away, or did not answer in time.
    Away,
}

/// Things of one page where the request does not say (admin §1.7).
const PAGE: usize = 100;
/// The most things of one page.
const PAGE_MOST: usize = 1_000;

/// How many things a page may have.
pub(super) fn limit(asked: &Map<String, Value>) -> usize {
    let asked = asked.get("limit").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    asked.unwrap_or(PAGE).clamp(1, PAGE_MOST)
}

impl Fold {
    pub(super) fn page(listed: &'static Listed, asked: &Map<String, Value>) -> Self {
        Self::Page(listed, limit(asked))
    }

    /// One answer of all. `edge` is this edge's own part, where it is wanted.
    pub(super) fn fold(
        &self,
        parts: Vec<(&str, Outcome)>,
        edge: impl FnOnce() -> Map<String, Value>,
    ) -> Result<Map<String, Value>, Wrong> {
        if let Self::Status = self {
            return Ok(status(parts, edge()));
        } else if let Self::Seen(own) = self {
            return own.seen(parts);
        } else if let Self::Kicked(own) = self {
            return own.kicked(parts);
        } else if let Self::Debugged(own) = self {
            return own.debugged(parts);
        }
        let workers = parts.len();
        let (mut came, mut refused) = (Vec::new(), Vec::new());
        for (worker, outcome) in parts {
            match outcome {
                Outcome::Came(object) => came.push((worker, object)),
                Outcome::Refused(wrong) => refused.push((worker, wrong)),
                Outcome::Away => {}
            }
        }
        let away = workers - came.len() - refused.len();
        let knows = matches!(self, Self::Steps(own) if !own.came.is_empty());
        if matches!(self, Self::Act(_)) || (came.is_empty() && !knows) {
            none_came(&refused, came.is_empty(), away)?;
        } else {
            // Whoever lacks what others have says nothing of it; else its part is missing.
            let lacks = |wrong: &Wrong| wrong.code == Code::NOT_FOUND && self.may_lack();
            refused.retain(|(_, wrong)| !lacks(wrong));
        }
        let partial =
            away > 0 || !refused.is_empty() || came.iter().any(|(_, one)| is_partial(one));
        let came = came.into_iter().map(|(_, object)| object);
        let mut whole = match self {
            Self::Page(listed, limit) => listed.page(came.collect(), *limit),
            Self::Letters(limit) => letters(came, *limit),
            Self::Whole(rule) | Self::Act(rule) => rule.whole(came),
            Self::Steps(own) => steps(own, came),
            Self::Any | Self::Status | Self::Seen(_) | Self::Kicked(_) | Self::Debugged(_) => {
                came.into_iter().next().unwrap_or_default()
            }
            Self::Devices(here) => here.page(came.into_iter().next().unwrap_or_default()),
        };
        // Of what one has, one answer is all.
        if partial && !matches!(self, Self::Any) {
            whole.insert("partial".to_owned(), Value::Bool(true));
        }
        Ok(whole)
    }

    /// Is it usual that a worker knows nothing of what is asked?
    const fn may_lack(&self) -> bool {
        matches!(self, Self::Any | Self::Steps(_) | Self::Letters(_))
    }
}

/// Nobody answered, or an act was refused: why.
fn none_came(refused: &[(&str, Wrong)], none: bool, away: usize) -> Result<(), Wrong> {
    let told = |(_, wrong): &&(&str, Wrong)| wrong.code != Code::NOT_FOUND;
    let worst = refused.iter().find(told).or_else(|| refused.first().filter(|_| none));
    match worst {
        // What is asked for may be with one that is away.
        None if none => Err(all_away()),
        None => Ok(()),
        Some((_, wrong)) if wrong.code == Code::NOT_FOUND && away > 0 => Err(all_away()),
        Some((_, wrong)) if wrong.code == Code::NOT_FOUND => Err(wrong.clone()),
        Some((worker, Wrong { code, detail })) => {
            Err(Wrong { code: *code, detail: format!("worker {worker}: {detail}") })
        }
    }
}

pub(super) fn all_away() -> Wrong {
    wrong(Code::UNAVAILABLE, "a worker that is needed is away; ask again when it is back")
}

fn is_partial(object: &Map<String, Value>) -> bool {
    object.get("partial") == Some(&Value::Bool(true))
}

fn take_list(object: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match object.remove(field) {
        Some(Value::Array(list)) => list,
        Some(_) | None => Vec::new(),
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl Rule {
    fn whole(&self, objects: impl IntoIterator<Item = Map<String, Value>>) -> Map<String, Value> {
        let mut objects = objects.into_iter();
        let mut whole = objects.next().unwrap_or_default();
        objects.for_each(|other| self.add(&mut whole, other));
        whole
    }

    fn add(&self, whole: &mut Map<String, Value>, mut other: Map<String, Value>) {
        for field in self.joined {
            let more = take_list(&mut other, field);
            match whole.get_mut(*field) {
                Some(Value::Array(list)) => list.extend(more),
                Some(_) | None if more.is_empty() => {}
                Some(_) | None => drop(whole.insert((*field).to_owned(), Value::Array(more))),
            }
        }
        for field in self.summed {
            let Some(more) = other.remove(*field).as_ref().and_then(Value::as_u64) else {
                continue;
            };
            let sum = whole.get(*field).and_then(Value::as_u64).unwrap_or_default();
            whole.insert((*field).to_owned(), Value::from(sum.saturating_add(more)));
        }
        for (field, value) in other {
            whole.entry(field).or_insert(value);
        }
    }
}

impl Listed {
    /// Pages become one. Behind the last name of a page that goes on its worker may have others: they come next time.
    fn page(&self, mut pages: Vec<Map<String, Value>>, limit: usize) -> Map<String, Value> {
        let mut bound: Option<String> = None;
        let mut all: Vec<Value> = Vec::new();
        for page in &mut pages {
            let items = take_list(page, self.items);
            if let Some(next) = page.get("next").and_then(Value::as_str) {
                bound = Some(bound.map_or_else(|| next.to_owned(), |low| low.min(next.to_owned())));
            }
            all.extend(items);
        }
        all.sort_by(|a, b| text(a, self.name).cmp(text(b, self.name)));
        let mut merged: Vec<Value> = Vec::new();
        for item in all {
            match (merged.last_mut(), item) {
                (Some(Value::Object(whole)), Value::Object(other))
                    if whole.get(self.name) == other.get(self.name) =>
                {
                    self.rule.add(whole, other);
                }
                (_, item) => merged.push(item),
            }
        }
        let known =
            |item: &Value| bound.as_deref().is_none_or(|bound| text(item, self.name) <= bound);
        let count = merged.iter().take(limit).take_while(|item| known(item)).count();
        let more = count < merged.len() || bound.is_some();
        merged.truncate(count);
        let next = merged.last().filter(|_| more).map(|last| Value::from(text(last, self.name)));
        let mut whole = Map::new();
        whole.extend(next.map(|next| ("next".to_owned(), next)));
        whole.insert(self.items.to_owned(), Value::Array(merged));
        whole
    }
}

/// One worker's letters behind the other's: where one's page goes on, nobody's behind it are shown yet.
fn letters(pages: impl Iterator<Item = Map<String, Value>>, limit: usize) -> Map<String, Value> {
    let (mut all, mut more) = (Vec::new(), false);
    for mut page in pages {
        if more {
            break;
        }
        all.extend(take_list(&mut page, "letters"));
        // The next worker's are not asked for in vain: a page that is full may go on with them.
        more = page.contains_key("next") || all.len() >= limit;
    }
    all.truncate(limit);
    let next = all.last().filter(|_| more).map(|last| Value::from(text(last, "position")));
    let mut whole = Map::new();
    whole.extend(next.map(|next| ("next".to_owned(), next)));
    whole.insert("letters".to_owned(), Value::Array(all));
    whole
}

fn steps(own: &Steps, parts: impl Iterator<Item = Map<String, Value>>) -> Map<String, Value> {
    // What is of one moment stays in this order: it came, it was done, it was passed back.
    let mut all = own.came.clone();
    all.extend(parts.flat_map(|mut part| take_list(&mut part, "steps")));
    all.extend(own.ended.iter().cloned());
    all.sort_by_key(|step| step.get("time_ms").and_then(Value::as_u64).unwrap_or_default());
    Map::from_iter([("steps".to_owned(), Value::Array(all))])
}

/// admin §2.1: the edge's object, and one a worker.
fn status(parts: Vec<(&str, Outcome)>, edge: Map<String, Value>) -> Map<String, Value> {
    let mut partial = false;
    let mut workers = Vec::new();
    let mut named: Vec<_> = parts;
    named.sort_by_key(|(worker, _)| (*worker).to_owned());
    for (worker, outcome) in named {
        let mut object = match outcome {
            Outcome::Came(object) => object,
            Outcome::Refused(Wrong { code, detail }) => {
                partial = true;
                unreachable(true, &format!("it refused: {} {detail}", code.name()))
            }
            Outcome::Away => {
                partial = true;
                unreachable(
                    false,
                    "it is away or did not answer in time; its keys wait, others go on",
                )
            }
        };
        object.insert("name".to_owned(), Value::from(worker));
        object.entry("reachable").or_insert(Value::Bool(true));
        workers.push(object);
    }
    let mut wrong = Vec::new();
    for object in &workers {
        let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
        let said = object.get("wrong").and_then(Value::as_array).into_iter().flatten();
        wrong.extend(
            said.filter_map(Value::as_str).map(|why| Value::from(format!("worker {name}: {why}"))),
        );
    }
    let sums = sums(&mut workers);
    let fine = |object: &Map<String, Value>| object.get("healthy") == Some(&Value::Bool(true));
    let healthy = wrong.is_empty() && workers.iter().all(fine);
    let mut whole = Map::from_iter([
        ("healthy".to_owned(), Value::Bool(healthy)),
        ("wrong".to_owned(), Value::Array(wrong)),
        ("version".to_owned(), Value::from(env!("CARGO_PKG_VERSION"))),
        ("edge".to_owned(), Value::Object(edge)),
        ("workers".to_owned(), workers.into_iter().map(Value::Object).collect()),
    ]);
    whole.extend(sums);
    if partial {
        whole.insert("partial".to_owned(), Value::Bool(true));
    }
    whole
}

/// Rates and lags of all workers together (admin §2.2); the groups are told here, not with each worker.
fn sums(workers: &mut [Map<String, Value>]) -> Map<String, Value> {
    let mut whole = Map::new();
    for field in ["bytes_per_s", "lag", "unread"] {
        let known = workers.iter().filter_map(|worker| worker.get(field)?.as_u64());
        let sum = known.reduce(u64::saturating_add);
        whole.extend(sum.map(|sum| (field.to_owned(), Value::from(sum))));
    }
    for field in ["events_per_s", "delivered_per_s"] {
        let known = workers.iter().filter_map(|worker| worker.get(field)?.as_f64());
        let sum = known.reduce(|one, other| one + other);
        let tenth = |sum: f64| (sum * 10.0).round() / 10.0;
        whole.extend(sum.map(|sum| (field.to_owned(), Value::from(tenth(sum)))));
    }
    whole.insert("lags".to_owned(), Value::Array(lags(workers)));
    whole
}

/// The groups that are furthest behind, the furthest first.
fn lags(workers: &mut [Map<String, Value>]) -> Vec<Value> {
    const SUMMED: Rule = Rule { summed: &["lag", "unread"], joined: &[] };
    let mut of = BTreeMap::<(String, String), Map<String, Value>>::new();
    for lag in workers.iter_mut().flat_map(|worker| take_list(worker, "lags")) {
        let name = (text(&lag, "tenant").to_owned(), text(&lag, "name").to_owned());
        if let Value::Object(lag) = lag {
            SUMMED.add(of.entry(name).or_default(), lag);
        }
    }
    let number = |lag: &Map<String, Value>, field| lag.get(field).and_then(Value::as_u64);
    let behind = |lag: &Map<String, Value>| {
        let [lag, unread] = ["lag", "unread"].map(|field| number(lag, field).unwrap_or_default());
        Reverse(lag.saturating_add(unread))
    };
    let mut lags: Vec<_> = of.into_values().collect();
    lags.sort_by_key(behind);
    lags.truncate(LAGS_TOLD);
    lags.into_iter().map(Value::Object).collect()
}

fn unreachable(reachable: bool, why: &str) -> Map<String, Value> {
    Map::from_iter([
        ("reachable".to_owned(), Value::Bool(reachable)),
        ("wrong".to_owned(), Value::Array(vec![Value::from(why)])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn came(value: Value) -> Outcome {
        let Value::Object(object) = value else { unreachable!() };
        Outcome::Came(object)
    }

    fn not_found() -> Outcome {
        Outcome::Refused(wrong(Code::NOT_FOUND, "no such thing"))
    }

    fn folded(fold: &Fold, parts: Vec<Outcome>) -> Result<Value, Code> {
        let parts = ["a", "b", "c"].into_iter().zip(parts).collect();
        let edge = || Map::from_iter([("name".to_owned(), Value::from("e1"))]);
        fold.fold(parts, edge).map(Value::Object).map_err(|wrong| wrong.code)
    }

    #[test]
    fn what_counts_is_summed_and_lists_are_joined() {
        let one =
            json!({"name": "g", "lag": 3, "members": [1], "settled_upto": ["a:1"], "epoch": 2});
        let two = json!({"name": "g", "lag": 4, "dead": 1, "members": [], "settled_upto": ["b:9"]});
        let want = json!({"name": "g", "lag": 7, "dead": 1, "members": [1],
            "settled_upto": ["a:1", "b:9"], "epoch": 2});
        let show = Fold::Whole(&GROUPS.rule);
        assert_eq!(folded(&show, vec![came(one.clone()), came(two.clone())]), Ok(want.clone()));
        let mut partial = want;
        partial["partial"] = json!(true);
        let parts = vec![came(one.clone()), came(two), Outcome::Away];
        assert_eq!(folded(&show, parts), Ok(partial));
        // A worker that has not heard of the group yet is missing from the answer.
        assert_eq!(folded(&show, vec![came(one), not_found()]).unwrap()["partial"], json!(true));
        assert_eq!(folded(&show, vec![not_found(), not_found()]), Err(Code::NOT_FOUND));
        assert_eq!(folded(&show, vec![not_found(), Outcome::Away]), Err(Code::UNAVAILABLE));
    }

    #[test]
    fn pages_are_merged_by_name_and_cut_where_a_worker_may_have_more() {
        let item = |name: &str| json!({"name": name, "lag": 1});
        let one = json!({"groups": [item("a"), item("c")], "next": "c"});
        let two = json!({"groups": [item("b"), item("c"), item("d")]});
        let page = |limit| {
            folded(&Fold::Page(&GROUPS, limit), vec![came(one.clone()), came(two.clone())]).unwrap()
        };
        let both = json!({"name": "c", "lag": 2});
        assert_eq!(page(9), json!({"groups": [item("a"), item("b"), both], "next": "c"}));
        assert_eq!(page(2), json!({"groups": [item("a"), item("b")], "next": "b"}));
        let last = json!({"groups": [item("d")]});
        let whole = folded(&Fold::Page(&GROUPS, 9), vec![came(last.clone()), came(json!({}))]);
        assert_eq!(whole, Ok(last));
    }

    #[test]
    fn letters_come_worker_by_worker() {
        let letter = |position: &str| json!({"position": position});
        let page = |of: &[&str], more: bool| {
            let letters: Vec<_> = of.iter().map(|at| letter(at)).collect();
            match (more, of.last()) {
                (true, Some(last)) => json!({"letters": letters, "next": last}),
                _ => json!({"letters": letters}),
            }
        };
        for (limit, one, two, want) in [
            (9, page(&["a:1"], false), page(&["b:1"], false), page(&["a:1", "b:1"], false)),
            (9, page(&["a:1"], true), page(&["b:1"], false), page(&["a:1"], true)),
            (2, page(&["a:1"], false), page(&["b:1", "b:2"], true), page(&["a:1", "b:1"], true)),
        ] {
            assert_eq!(folded(&Fold::Letters(limit), vec![came(one), came(two)]), Ok(want));
        }
    }

    #[test]
    fn an_act_that_one_worker_refused_says_so() {
        let act = Fold::Act(&COUNTED);
        let done = || came(json!({"group": "g", "replayed": 2, "waiting": 0}));
        assert_eq!(folded(&act, vec![done(), done()]).unwrap()["replayed"], json!(4));
        let full = Outcome::Refused(wrong(Code::DISK_FULL, "no room"));
        assert_eq!(folded(&act, vec![done(), full]), Err(Code::DISK_FULL));
        assert_eq!(folded(&act, vec![done(), Outcome::Away]).unwrap()["partial"], json!(true));
        let any = vec![not_found(), came(json!({"upload": "u"}))];
        assert_eq!(folded(&Fold::Any, any), Ok(json!({"upload": "u"})));
    }

    #[test]
    fn steps_are_in_the_order_of_time_and_one_that_knows_none_is_no_gap() {
        let one = came(json!({"steps": [{"time_ms": 5}, {"time_ms": 1}]}));
        let two = came(json!({"steps": [{"time_ms": 3}]}));
        let want = json!({"steps": [{"time_ms": 1}, {"time_ms": 3}, {"time_ms": 5}]});
        assert_eq!(folded(&Fold::Steps(Steps::default()), vec![one, two, not_found()]), Ok(want));
    }

    #[test]
    fn what_the_edge_knows_of_a_trace_is_told_also_where_no_worker_does() {
        let step = |time_ms, what: &str| json!({"time_ms": time_ms, "what": what});
        let own = || Steps { came: vec![step(3, "came")], ended: vec![step(3, "ended")] };
        let at = came(json!({"steps": [step(3, "done")]}));
        let want = json!({"steps": [step(3, "came"), step(3, "done"), step(3, "ended")]});
        assert_eq!(folded(&Fold::Steps(own()), vec![at, not_found()]), Ok(want));
        let want = json!({"steps": [step(3, "came"), step(3, "ended")]});
        assert_eq!(folded(&Fold::Steps(own()), vec![not_found(), not_found()]), Ok(want));
        let partial = folded(&Fold::Steps(own()), vec![not_found(), Outcome::Away]);
        assert_eq!(partial.unwrap()["partial"], json!(true));
        let none = vec![not_found(), not_found()];
        assert_eq!(folded(&Fold::Steps(Steps::default()), none), Err(Code::NOT_FOUND));
    }

    #[test]
    fn rates_and_lags_are_those_of_all_workers() {
        let worker = |events_per_s, lag, lags: &[(&str, &str, u64, u64)]| {
            let lags: Vec<_> = (lags.iter())
                .map(|(tenant, name, lag, unread)| {
                    json!({"tenant": tenant, "name": name, "lag": lag, "unread": unread})
                })
                .collect();
            let (bytes_per_s, delivered_per_s, unread) = (10, 0.2, 3);
            came(json!({
                "events_per_s": events_per_s, "bytes_per_s": bytes_per_s, "lag": lag, "lags": lags,
                "delivered_per_s": delivered_per_s, "unread": unread,
            }))
        };
        let one = worker(0.1, 12, &[("main", "mail", 8, 0), ("north", "mail", 4, 3)]);
        let two = worker(0.2, 7, &[("main", "bills", 6, 3), ("north", "mail", 1, 0)]);
        let status = folded(&Fold::Status, vec![one, two, Outcome::Away]).unwrap();
        for (field, sum) in [("bytes_per_s", 20), ("lag", 19), ("unread", 6)] {
            assert_eq!(status[field], json!(sum), "{field}");
        }
        assert_eq!(status["events_per_s"], json!(0.3));
        assert_eq!(status["delivered_per_s"], json!(0.4));
        let row = |tenant: &str, name: &str, lag: u64, unread: u64| json!({"tenant": tenant, "name": name, "lag": lag, "unread": unread});
        let rows = json!([
            row("main", "bills", 6, 3),
            row("main", "mail", 8, 0),
            row("north", "mail", 5, 3)
        ]);
        assert_eq!(status["lags"], rows);
        assert_eq!(status["workers"][0].get("lags"), None);
        // More than are told: the furthest behind, and all of them in the sum.
        let many: Vec<_> = (0..40_u64).map(|n| ("main", format!("g{n:02}"), n, 0)).collect();
        let many: Vec<_> = many.iter().map(|(t, name, n, u)| (*t, name.as_str(), *n, *u)).collect();
        let status = folded(&Fold::Status, vec![worker(0.0, 780, &many)]).unwrap();
        let told = status["lags"].as_array().unwrap();
        assert_eq!((told.len(), &told[0]["name"]), (LAGS_TOLD, &json!("g39")));
        // In a worker's first second there is no rate.
        let first = folded(&Fold::Status, vec![came(json!({"lag": 0, "lags": []}))]).unwrap();
        assert_eq!((first.get("events_per_s"), &first["lag"]), (None, &json!(0)));
    }

    #[test]
    fn the_status_names_every_worker_and_what_is_wrong() {
        let parts = vec![came(json!({"healthy": true, "wrong": [], "end": 9})), Outcome::Away];
        let status = folded(&Fold::Status, parts).unwrap();
        assert_eq!(status["healthy"], json!(false));
        assert_eq!(status["partial"], json!(true));
        assert_eq!(status["edge"]["name"], json!("e1"));
        assert_eq!(status["workers"][0]["reachable"], json!(true));
        assert_eq!(status["workers"][1]["name"], json!("b"));
        assert_eq!(status["workers"][1]["reachable"], json!(false));
        assert!(status["wrong"][0].as_str().unwrap().starts_with("worker b: "), "{status}");
        let well = vec![came(json!({"healthy": true, "wrong": []}))];
        assert_eq!(folded(&Fold::Status, well).unwrap()["healthy"], json!(true));
    }
}
