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
    id::{Number, RouteId, Version},
    message::{Event, Expect, Extras, Message, Outcome, Source, Trace},
};
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
        assert!(step["time_ms"].as_u64().unwrap() >= NOW.0);
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
