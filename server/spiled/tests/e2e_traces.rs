//! One trace id leads through everything it touched: in what `spile trace` tells, and in the logs of an edge and two workers,
//! the real binaries.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]
#![allow(dead_code, reason = "what is shared is used in part")]

mod e2e;
#[path = "commands/spile.rs"]
mod spile;

use e2e::split::{Running, Split};
use e2e::{Raw, acked, bind};
use serde_json::Value;
use spile_protocol::{
    code::Code,
    id::{RequestId, RouteId, SubscriptionId},
    message::{
        Body, Call, Event, Extras, Message, Outcome, Reply, Serve, Settle, Source, Subscribe, Trace,
    },
};

const TRACE: Trace = Trace { id: [0x7a; 16], span: [1; 8], flags: 1 };
const LOUD: &str = "[log]\nfilter = \"info,spile_worker=debug,spile_edge=trace\"\n";

fn call(service: &'static str) -> Message<'static> {
    let fields = Call {
        request: RequestId(1),
        service,
        method: "resize",
        remaining_ms: 20_000,
        idempotent: false,
        content_type: "",
        caller: "",
        trace: Some(TRACE),
    };
    Message::Call(Body { fields, payload: b"question" })
}

/// Serves `jobs`, and answers one call.
fn serve(raw: &mut Raw) {
    let request = raw.next(|message| match message {
        Message::Call(call) => call.fields.request,
        other => panic!("{other:?}"),
    });
    let (code, detail) = (Code(0), "");
    let fields = Reply { request: request.unwrap(), code, more: false, content_type: "", detail };
    raw.send(&[Message::Reply(Body { fields, payload: b"answer" })]).unwrap();
}

fn replied(raw: &mut Raw) -> u16 {
    raw.next(|message| match message {
        Message::Reply(reply) => reply.fields.code.0,
        Message::Fault(fault) => fault.code.0,
        other => panic!("{other:?}"),
    })
    .unwrap()
}

/// Publishes one event with the trace, consumes it in a group, and settles it.
fn consume(raw: &mut Raw) {
    let group = serde_json::json!({ "name": "g", "filter": "t/#" });
    raw.call("$group", "create", &group).unwrap();
    assert_eq!(raw.open(1, Some("k"), 1), Ok(0));
    let extras = Extras { trace: Some(TRACE), ..Extras::default() };
    let event = Event { route: RouteId(1), extras, payload: b"x" };
    raw.send(&[bind(1, 1, "t/x"), Message::Event(event)]).unwrap();
    assert_eq!(raw.next(acked).unwrap().unwrap().last(), 1);
    let (subscription, delivery) = (SubscriptionId(0), 1);
    let source = Source::Group { name: "g", max_events: 1, max_bytes: 0 };
    let (events, bytes, live) = (10, 1 << 20, true);
    raw.send(&[Message::Subscribe(Subscribe { subscription, source, events, bytes, live })])
        .unwrap();
    while !raw.next(|message| matches!(message, Message::Deliver(_))).unwrap() {}
    let (outcome, reason) = (Outcome::Done, "");
    raw.send(&[Message::Settle(Settle { subscription, delivery, outcome, events: 1, reason })])
        .unwrap();
    while !raw.next(|message| matches!(message, Message::Settle(_))).unwrap() {}
}

struct Operator<'a>(&'a Split, String);

impl Operator<'_> {
    fn told(&self, words: &[&str]) -> Vec<Value> {
        let folder = self.0.of("operator");
        let mut command = spile::spile(&folder);
        command.arg("--context").arg(folder.join("operator.toml")).args(["--url", &self.1]);
        let ran =
            spile::ran(command.args(["--json", "--timeout", "30s"]).args(words).output().unwrap());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What is told of a trace: where and what.
    fn trace(&self, id: &str) -> Vec<String> {
        let line = |step: &Value| {
            format!("{}: {}", step["where"].as_str().unwrap(), step["what"].as_str().unwrap())
        };
        self.told(&["trace", id]).iter().map(line).collect()
    }
}

/// Log lines about a trace, of one node or of both workers: their messages.
fn lines(running: &Running, role: &str, id: &str) -> Vec<String> {
    let nodes = running.iter().filter(|(name, _)| name.starts_with(role));
    let text: String = nodes.map(|(_, node)| std::fs::read_to_string(&node.log).unwrap()).collect();
    let of = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["trace"] == id).then(|| {
            let what = line["what"].as_str().filter(|_| line["message"] == "upload");
            format!(
                "{}{}",
                line["message"].as_str().unwrap(),
                what.map_or(String::new(), |what| format!(": {what}"))
            )
        })
    };
    text.lines().filter_map(of).collect()
}

/// Waits until these lines are there: they are written beside what a client hears.
fn logged(running: &Running, role: &str, id: &str, want: &[&str]) {
    let mut missing = Vec::new();
    for _ in 0..20_000 {
        let lines = lines(running, role, id);
        missing = want.iter().filter(|want| !lines.iter().any(|line| line == *want)).collect();
        if missing.is_empty() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the logs of {role} lack {missing:?}");
}

#[test]
fn one_id_leads_through_calls_events_and_uploads_and_through_the_logs() {
    let (split, running) = Split::configured(LOUD);
    let (address, tls) = (running["edge-e1"].edge(), split.operator());
    let operator = Operator(&split, format!("spile://{address}"));
    let id = TRACE.to_string();
    let mut asks = Raw::hello(address, &tls, [1; 8]).unwrap();
    consume(&mut asks);
    let (mut asks, mut serves) =
        (Raw::hello(address, &tls, [2; 8]).unwrap(), Raw::hello(address, &tls, [3; 8]).unwrap());
    let serving = Serve { request: RequestId(5), service: "jobs", window: 1 };
    serves.send(&[Message::Serve(serving)]).unwrap();
    assert_eq!(replied(&mut serves), 0);
    asks.send(&[call("jobs")]).unwrap();
    serve(&mut serves);
    assert_eq!(replied(&mut asks), 0);
    asks.send(&[call("nobody")]).unwrap();
    assert_eq!(replied(&mut asks), Code::NOT_FOUND.0);
    asks.send(&[call("$group")]).unwrap();
    assert_eq!(replied(&mut asks), Code::NOT_FOUND.0, "$group has no such method");

    let called = ["a call came", "a call is handed out", "a call is answered", "a call ends"];
    logged(&running, "edge", &id, &[&called[..], &["delivered"]].concat());
    logged(&running, "worker", &id, &[&called[1..], &["settled"]].concat());
    let told = operator.trace(&id);
    for part in [
        "edge: call of jobs resize from operator/operator",
        "edge: call of jobs resize from operator/operator answered: done, after ",
        "call of jobs handed to operator/operator at edge e1",
        "call of jobs answered by operator/operator after ",
        "call of nobody resize from operator/operator taken",
        "operator/operator told 401 not-found of nobody after ",
        "edge: call of $group resize from operator/operator answered: 401 not-found, after ",
        "edge: t/x of k accepted from operator/operator",
        "done in group g",
    ] {
        assert!(told.iter().any(|step| step.contains(part)), "{part} is not in {told:#?}");
    }

    // An upload has the trace that its event has.
    std::fs::write(split.of("operator").join("file"), b"content").unwrap();
    operator.told(&["upload", "file", "--key", "k"]);
    let event = operator.told(&["subscribe", "file.uploaded", "--from", "start", "--count", "1"]);
    let id = event[0]["trace"].as_str().unwrap();
    logged(&running, "edge", id, &["upload: open", "upload: seal", "delivered"]);
    logged(&running, "worker", id, &["an upload is opened", "an upload is sealed"]);
    let told = operator.trace(id);
    assert!(told.iter().any(|step| step.contains(": stored at ")), "{told:#?}");
}
