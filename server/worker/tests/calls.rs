//! Calls between sessions of a worker: who gets them, who answers, and what the asker hears.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends on what it did not expect"
)]

mod support;

use spile_protocol::{
    code::Code,
    id::{RequestId, Role, Run},
    message::{
        Body, Call, Message, Reply, Scope, Serve,
        request::{List, Listing},
    },
};
use spile_worker::attach_of;
use support::{Called, Client, Told, open};

fn serve(client: &mut Client, service: &str, window: u32) {
    client.say(0, &Message::Serve(Serve { request: RequestId(100), service, window }));
}

fn ask(client: &mut Client, request: u32, service: &str, remaining_ms: u32, idempotent: bool) {
    let fields = Call {
        request: RequestId(request),
        service,
        method: "do",
        remaining_ms,
        idempotent,
        content_type: "text/plain",
        caller: "operator/liar",
        trace: None,
    };
    client.say(0, &Message::Call(Body { fields, payload: b"the question" }));
}

fn answer(client: &mut Client, request: u32, code: Code, more: bool, payload: &[u8]) {
    let request = RequestId(request);
    let fields = Reply { request, code, more, content_type: "", detail: "" };
    client.say(0, &Message::Reply(Body { fields, payload }));
}

/// Waits until it serves.
async fn serves(client: &mut Client, service: &str, window: u32) {
    serve(client, service, window);
    assert!(matches!(&client.told(1).await[..], [Told::Reply { code: Code(0), .. }]));
}

/// The request that is handed to it.
async fn called(client: &mut Client) -> u32 {
    match &client.told(1).await[..] {
        [Told::Call(Called { request, caller, remaining_ms, .. })] => {
            assert_eq!(caller, "device/asks", "who asks is who was let in, not who it says it is");
            assert!(*remaining_ms > 0 && *remaining_ms <= 60_000);
            *request
        }
        other => panic!("{other:?}"),
    }
}

fn fault(told: &[Told]) -> (Code, u32) {
    match told {
        [Told::Fault { code, scope: Scope::Request(request) }] => (*code, request.0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_answered_in_parts_with_the_sums_that_came() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut asker, mut server) =
        (Client::new(&worker, "asks", 1), Client::new(&worker, "serves", 2));
    ask(&mut asker, 1, "jobs", 1000, false);
    assert_eq!(fault(&asker.told(1).await), (Code::NOT_FOUND, 1), "nobody serves");
    serves(&mut server, "jobs", 4).await;
    ask(&mut asker, 2, "jobs", 60_000, false);
    let request = called(&mut server).await;
    answer(&mut server, request, Code(0), true, b"half, ");
    answer(&mut server, request, Code(0), false, b"and half");
    let payloads: Vec<_> = asker
        .told(2)
        .await
        .into_iter()
        .map(|told| match told {
            Told::Reply { code: Code(0), payload, .. } => payload,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(payloads, ["half, ", "and half"]);
    // An answer to what is over goes nowhere.
    answer(&mut server, request, Code(0), false, b"again");
    assert_eq!(asker.poll().0, []);
    let status = worker.calls();
    assert_eq!((status.calls, status.refused, status.failed, status.in_flight), (2, 1, 0, 0));
    assert_eq!(status.services, 1);
    drop(server);
    assert_eq!(worker.calls().services, 0, "who is gone serves nothing");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_asker_hears_so_and_the_late_answer_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut asker, mut server) =
        (Client::new(&worker, "asks", 1), Client::new(&worker, "serves", 2));
    serves(&mut server, "jobs", 1).await;
    #[expect(clippy::disallowed_methods, reason = "a test looks how long it waited")]
    let begun = tokio::time::Instant::now();
    ask(&mut asker, 1, "jobs", 800, true);
    let request = called(&mut server).await;
    assert_eq!(fault(&asker.told(1).await), (Code::TIMED_OUT, 1));
    let took = begun.elapsed().as_millis();
    assert!((800..900).contains(&took), "{took}");
    answer(&mut server, request, Code(0), false, b"late");
    assert_eq!(asker.poll().0, []);
    assert_eq!(worker.calls().in_flight, 0, "its place is free");
    // One that was not handed out when its time was over never is.
    ask(&mut asker, 2, "jobs", 800, true);
    assert_eq!(fault(&asker.told(1).await), (Code::TIMED_OUT, 2));
    assert_eq!(server.poll().0, []);
}

#[tokio::test]
async fn a_member_that_goes_leaves_its_calls_to_others_or_to_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut asker = Client::new(&worker, "asks", 1);
    let (mut first, mut second) = (Client::new(&worker, "a", 2), Client::new(&worker, "b", 3));
    serves(&mut first, "jobs", 4).await;
    ask(&mut asker, 1, "jobs", 60_000, false);
    ask(&mut asker, 2, "jobs", 60_000, true);
    let both = first.told(2).await;
    assert!(both.iter().all(|told| matches!(told, Told::Call(_))), "{both:?}");
    serves(&mut second, "jobs", 4).await;
    drop(first);
    assert_eq!(fault(&asker.told(1).await), (Code::UNKNOWN_OUTCOME, 1));
    let request = called(&mut second).await;
    answer(&mut second, request, Code(0), false, b"done");
    assert!(matches!(&asker.told(1).await[..], [Told::Reply { code: Code(0), .. }]));
}

#[tokio::test]
async fn names_that_are_not_ones_own_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut pump = Client::new(&worker, "pump", 1);
    for (service, code) in [("$status", Code::FORBIDDEN), ("device/other", Code::FORBIDDEN)] {
        serve(&mut pump, service, 1);
        assert_eq!(fault(&pump.told(1).await), (code, 100), "{service}");
    }
    serves(&mut pump, "device/pump", 1).await;
    // A tenant's services are its own.
    let attach = attach_of("other", Role::Device, "asks", Run([9; 8]));
    let mut elsewhere = Client::new(&worker, "asks", 9);
    elsewhere.session = worker.attach(&attach);
    ask(&mut elsewhere, 1, "device/pump", 1000, false);
    assert_eq!(fault(&elsewhere.told(1).await), (Code::NOT_FOUND, 1));
    // A session serves so many, and another in place of one it stops.
    for n in 1..16 {
        serves(&mut pump, &format!("s{n}"), 1).await;
    }
    serve(&mut pump, "s16", 1);
    assert_eq!(fault(&pump.told(1).await), (Code::TOO_MANY, 100));
    serves(&mut pump, "s1", 0).await;
    serves(&mut pump, "s16", 1).await;
}

#[tokio::test]
async fn names_of_services_are_listed_in_order_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut pump = Client::new(&worker, "pump", 1);
    for service in ["b2", "a", "b1", "b3", "c"] {
        serves(&mut pump, service, 1).await;
    }
    serves(&mut pump, "b2", 0).await;
    for (prefix, after, limit, want) in [
        ("", "", 9, ["a", "b1", "b3", "c"].as_slice()),
        ("", "a", 2, &["b1", "b3"]),
        ("b", "", 1, &["b1"]),
        ("b", "b1", 9, &["b3"]),
        ("b", "zz", 9, &[""]),
        ("x", "", 9, &[""]),
    ] {
        let (request, listing) = (RequestId(7), Listing::Services);
        pump.say(0, &Message::List(List { request, listing, prefix, after, limit }));
        let mut names = Vec::new();
        pump.session.poll(support::ROOM, &mut |message, _| {
            let Message::Value(value) = message else { panic!("{message:?}") };
            let fields = value.fields;
            assert_eq!(fields.revision, u64::from(!fields.absent), "one serves each");
            assert_eq!(fields.more, names.len() + 1 < want.len());
            assert_eq!(!fields.cursor.is_empty(), !fields.more && limit == 2 || limit == 1);
            names.push(fields.name.to_owned());
        });
        assert_eq!(names, want, "{prefix} {after} {limit}");
    }
}

#[tokio::test]
async fn operators_see_who_serves_what() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut operator = Client::new(&worker, "asks", 1);
    let mut server = Client::new(&worker, "serves", 2);
    for service in ["a", "b", "c"] {
        serves(&mut server, service, 3).await;
    }
    ask(&mut operator, 5, "b", 60_000, false);
    called(&mut server).await;
    let (code, page) = operator.reply("$service", "ls", r#"{"limit":2}"#).await;
    assert_eq!(code, Code(0));
    assert_eq!(page["next"], "b");
    let b = &page["services"][1];
    assert_eq!((&b["service"], &b["breaker"]), (&"b".into(), &"closed".into()));
    assert_eq!((&b["calls"], &b["failed"], &b["in_flight"]), (&1.into(), &0.into(), &1.into()));
    let member =
        serde_json::json!({"principal": "device/serves", "edge": "", "window": 3, "in_flight": 1});
    assert_eq!(b["members"], serde_json::json!([member]));
    let (_, page) = operator.reply("$service", "ls", r#"{"after":"b"}"#).await;
    assert_eq!(page["services"][0]["service"], "c");
    assert_eq!(page.get("next"), None);
    let (code, _) = operator.reply("$service", "ls", r#"{"wrong":1}"#).await;
    assert_eq!(code, Code::INVALID);
    let (_, status) = operator.reply("$status", "get", "").await;
    assert_eq!((&status["services"], &status["calls_in_flight"]), (&3.into(), &1.into()));
}
