//! `$trace get`: what one trace id touched, made or given, found in the log from its end back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends on what it did not expect"
)]

mod support;

use serde_json::Value;
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, RequestId, RouteId, Version},
    message::{Body, Call, Event, Expect, Extras, Message, Outcome, Reply, Serve, Source, Trace},
};
use spile_worker::attach_of;
use support::{Client, NOW, Told, open};

fn hex(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace the edge of these tests makes.
fn made(key: &str, number: u64) -> String {
    hex(Trace::made([3; 8], crc::of(key.as_bytes()), Number(number)).id)
}

/// What is told of a trace: where and what, a line each.
async fn steps(client: &mut Client, id: &str) -> (Vec<String>, bool) {
    let (code, answer) = client.reply("$trace", "get", &format!("{{\"id\":\"{id}\"}}")).await;
    assert_eq!(code, Code(0), "{answer}");
    let text = |step: &Value, name: &str| step[name].as_str().unwrap().to_owned();
    let line = |step: &Value| {
        // A session here is told that it is always NOW: what is remembered lies so long before it.
        assert!(step["time_ms"].as_u64().unwrap() >= NOW.0 - 60_000);
        format!("{}: {}", text(step, "where"), text(step, "what"))
    };
    (answer["steps"].as_array().unwrap().iter().map(line).collect(), answer["partial"] == true)
}

#[tokio::test]
async fn an_event_is_found_by_the_trace_that_was_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "pump", 1);
    client.lane(0, None, 1);
    client.bind(0, 0, "state/mode");
    client.batch(0, 1, &[b"off", b"on", b"off"], None);
    client.event_if(0, 4, b"late", Some(Expect::Version(Version(9))));
    client.acked(0, 4).await;
    let (told, partial) = steps(&mut client, &made("pump", 2)).await;
    assert_eq!(
        told,
        [
            "edge: state/mode of pump accepted from device/pump",
            "w: stored at w:2 as version 2 of pump"
        ]
    );
    assert!(!partial);
    let (told, _) = steps(&mut client, &made("pump", 3)).await;
    assert_eq!(told[2], "w: is the latest value of state/mode of pump");
    let (told, _) = steps(&mut client, &made("pump", 4)).await;
    assert!(told[1].contains("number 4 of pump refused for good"), "{told:?}");
    assert!(told[1].contains("stale-version"), "{told:?}");
}

#[tokio::test]
async fn a_trace_that_was_given_is_found_wherever_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let trace = Trace { id: [0xab; 16], span: [1; 8], flags: 1 };
    let extras = Extras { trace: Some(trace), ..Extras::default() };
    let mut office = Client::new(&worker, "office", 1);
    office.lane(0, Some("pump"), 1);
    office.bind(0, 0, "inbox/set");
    office.say(1, &Message::Event(Event { route: RouteId(0), extras, payload: b"21" }));
    office.acked(0, 1).await;
    let mut pump = Client::new(&worker, "pump", 1);
    assert!(
        steps(&mut pump, &hex(trace.id))
            .await
            .0
            .contains(&"w: unread in the inbox of pump".to_owned())
    );
    pump.subscribe(1, Source::Inbox, 10, true);
    pump.events(1).await;
    pump.settle_as(1, 1, Outcome::Done, 0);
    pump.told(1).await;
    assert!(
        steps(&mut pump, &hex(trace.id))
            .await
            .0
            .contains(&"w: done in the inbox of pump".to_owned())
    );
}

#[tokio::test]
async fn a_trace_far_back_is_found_and_one_that_is_not_there_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "pump", 1);
    client.ready_to_publish(1);
    client.event(0, 1, b"first");
    let block = [&b"x"[..]; 1000];
    // Some windows of positions behind it.
    for batch in 0..200_u64 {
        client.batch(0, 2 + batch * 1000, &block, None);
    }
    client.acked(0, 200_001).await;
    let (told, partial) = steps(&mut client, &made("pump", 1)).await;
    assert_eq!((told.len(), partial), (2, false), "{told:?}");
    let (told, _) = steps(&mut client, &made("pump", 131_072)).await;
    assert_eq!(told.len(), 2, "a block over the edge of a window is seen once: {told:?}");
    for (id, want) in [(made("pump", 300_000), Code::NOT_FOUND), ("xyz".to_owned(), Code::INVALID)]
    {
        let request = format!("{{\"id\":\"{id}\"}}");
        assert_eq!(client.reply("$trace", "get", &request).await.0, want);
    }
    let request = format!("{{\"id\":\"{}\",\"tenant\":\"other\"}}", made("pump", 1));
    assert_eq!(client.reply("$trace", "get", &request).await.0, Code::FORBIDDEN);
    client.call(2, "$trace", "get", "{}");
    assert!(matches!(client.told(1).await[..], [Told::Reply { code: Code::INVALID, .. }]));
}

#[tokio::test]
async fn what_groups_made_of_an_event_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut client = Client::new(&worker, "pump", 1);
    for (name, filter) in [("all", "#"), ("state", "state/#"), ("others", "telemetry/#")] {
        let request = format!("{{\"name\":\"{name}\",\"filter\":\"{filter}\",\"from\":\"start\"}}");
        let (code, answer) = client.reply("$group", "create", &request).await;
        assert_eq!(code, Code(0), "{answer}");
    }
    client.lane(0, None, 1);
    client.bind(0, 0, "state/mode");
    client.event(0, 1, b"on");
    client.event(0, 2, b"off");
    client.acked(0, 2).await;
    let groups = |told: Vec<String>| -> Vec<String> {
        told.into_iter().filter(|step| step.contains("in group")).collect()
    };
    let told = groups(steps(&mut client, &made("pump", 1)).await.0);
    assert_eq!(told, ["w: not settled in group all", "w: not settled in group state"]);
    let source = Source::Group { name: "all", max_events: 1, max_bytes: 1 << 20 };
    let mut member = Client::new(&worker, "service", 1);
    member.subscribe(1, source, 10, true);
    let event = |told: &[Told]| told.iter().any(|told| matches!(told, Told::Event(_)));
    let settled = |told: &[Told]| told.iter().any(|told| matches!(told, Told::Settled { .. }));
    member.until(event).await;
    member.settle_as(1, 1, Outcome::Done, 0);
    // The key's next goes out when the one before is done for good.
    member.until(|told| event(told) && settled(told)).await;
    member.settle_as(1, 2, Outcome::Reject, 0);
    member.until(settled).await;
    let told = groups(steps(&mut client, &made("pump", 1)).await.0);
    assert_eq!(told, ["w: done in group all", "w: not settled in group state"]);
    let told = groups(steps(&mut client, &made("pump", 2)).await.0);
    assert!(told[0].starts_with("w: dead after 1 attempts: "), "{told:?}");
}

const CALLED: Trace = Trace { id: [0xca; 16], span: [1; 8], flags: 0 };

fn ask(client: &mut Client, service: &str, remaining_ms: u32) {
    let (request, trace) = (RequestId(1), Some(CALLED));
    let (method, idempotent, content_type, caller) = ("do", true, "", "");
    let fields =
        Call { request, service, method, remaining_ms, idempotent, content_type, caller, trace };
    client.say(0, &Message::Call(Body { fields, payload: b"question" }));
}

async fn serves(client: &mut Client, service: &str) {
    let serve = Serve { request: RequestId(9), service, window: 4 };
    client.say(0, &Message::Serve(serve));
    client.told(1).await;
}

async fn answers(client: &mut Client, code: Code) {
    let Told::Call(called) = &client.told(1).await[0] else { panic!("no call") };
    let request = RequestId(called.request);
    let fields = Reply { request, code, more: false, content_type: "", detail: "" };
    client.say(0, &Message::Reply(Body { fields, payload: b"" }));
}

/// Without how long it took.
async fn calls(client: &mut Client) -> Vec<String> {
    let (told, _) = steps(client, &hex(CALLED.id)).await;
    let untimed = |step: String| match step.split_once(" after ") {
        Some((what, rest)) => format!("{what} {}", rest.split_once(" ms").unwrap().1),
        None => step,
    };
    told.into_iter().map(untimed).collect()
}

#[tokio::test]
async fn what_became_of_calls_is_told_with_who_asked_and_who_answered() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut asker = Client::new(&worker, "asks", 1);
    ask(&mut asker, "jobs", 60_000);
    asker.told(1).await;
    let taken = "w: call of jobs do from device/asks taken".to_owned();
    assert_eq!(calls(&mut asker).await, [&*taken, "w: device/asks told 401 not-found of jobs "]);

    // The first that serves it goes away with it, the second answers, and the third call nobody answers in time.
    let mut first = Client::new(&worker, "first", 2);
    serves(&mut first, "jobs").await;
    ask(&mut asker, "jobs", 60_000);
    first.told(1).await;
    drop(first);
    // Until it has another member it is refused: so there is one before it looks.
    asker.told(1).await;
    let told = calls(&mut asker).await;
    assert_eq!(told[2..4], [&*taken, "w: call of jobs handed to device/first at edge "]);
    assert!(told[4].starts_with("w: device/asks told "), "{told:?}");

    let mut second = Client::new(&worker, "second", 3);
    serves(&mut second, "jobs").await;
    for code in [Code(0), Code::INVALID] {
        ask(&mut asker, "jobs", 60_000);
        answers(&mut second, code).await;
        asker.told(1).await;
    }
    let told = calls(&mut asker).await;
    let handed = "w: call of jobs handed to device/second at edge ";
    assert_eq!(
        told[5..],
        [
            &*taken,
            handed,
            "w: call of jobs answered by device/second : done",
            &*taken,
            handed,
            "w: call of jobs answered by device/second : 403 invalid"
        ]
    );

    ask(&mut asker, "jobs", 20);
    asker.told(1).await;
    let told = calls(&mut asker).await;
    assert_eq!(told.last().unwrap(), "w: device/asks told 507 timed-out of jobs ");
    // Of so many only the newest are told.
    for _ in 0..40 {
        ask(&mut asker, "nobody", 60_000);
        asker.told(1).await;
    }
    let told = calls(&mut asker).await;
    assert_eq!((told.len(), told[0].contains("nobody")), (64, true), "{told:?}");
}

#[tokio::test]
async fn a_call_of_another_tenant_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut asker = Client::new(&worker, "asks", 1);
    ask(&mut asker, "jobs", 60_000);
    asker.told(1).await;
    let mut attach = attach_of(
        "other",
        spile_protocol::id::Role::Operator,
        "o",
        spile_protocol::id::Run([5; 8]),
    );
    attach.trace_base = [4; 8];
    let mut other = Client::of(&worker, &attach);
    let request = format!("{{\"id\":\"{}\"}}", hex(CALLED.id));
    assert_eq!(other.reply("$trace", "get", &request).await.0, Code::NOT_FOUND);
}
