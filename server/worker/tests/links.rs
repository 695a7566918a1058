//! A link, from an edge's machine over a pipe to a worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    reason = "a test ends on what it did not expect"
)]

mod support;

use std::sync::Arc;

use spile_protocol::{
    code::Code,
    crc,
    id::{LaneId, LinkSessionId, Mark, Number, RequestId, Role, RouteId, Run, Version},
    message::{Ack, Bind, Event, Extras, Get, Lane, List, Message, Registry, Scope, Target, Void},
    session::{
        Transmit,
        link::{Config, Edge as Machine, EdgeInput},
    },
    time::{Instant, Millis},
};
use spile_worker::{
    Worker, attach_of,
    links::{self, Edge, LinkError},
};
use support::{NOW, open};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// What an edge heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Ready(u64),
    Acked(u32, u64),
    Refused(u32, u64, Code),
    Opened(u32, u64),
    Detached(u32, Code),
    Registry { whole: bool, devices: Vec<(String, bool)> },
    Value(u32, u64),
    Changed(Vec<Mark>),
    Leaving(Code),
    Closed(Code),
}

/// An edge's end.
struct End {
    machine: Machine,
    stream: DuplexStream,
    input: Vec<u8>,
    out: Vec<u8>,
    heard: Vec<Heard>,
    registry: u64,
}

type Served = JoinHandle<Result<(), LinkError>>;

fn link(
    worker: &Arc<Worker>,
    edge: Edge,
    name: &str,
    slots: [u8; 32],
) -> (End, Served, CancellationToken) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a test waits for its handle")]
    let served = tokio::spawn(links::serve(worker.clone(), edge, theirs, stop.clone()));
    let config = Config::new(Arc::from(name), slots);
    let machine = Machine::new(Instant(0), NOW, config);
    let (input, out, heard) = (Vec::new(), Vec::new(), Vec::new());
    (End { machine, stream: ours, input, out, heard, registry: 0 }, served, stop)
}

fn edge(name: &str) -> Edge {
    Edge { name: name.to_owned(), tenants: None }
}

async fn up(worker: &Arc<Worker>, name: &str) -> (End, Served, CancellationToken) {
    let (mut end, served, stop) = link(worker, edge(name), name, [0xff; 32]);
    end.until(|heard| heard.iter().any(|heard| matches!(heard, Heard::Registry { .. }))).await;
    (end, served, stop)
}

impl End {
    /// Moves bytes until enough was heard; what was heard is given and forgotten.
    async fn until(&mut self, mut enough: impl FnMut(&[Heard]) -> bool) -> Vec<Heard> {
        while !enough(&self.heard) {
            self.machine.poll_transmit(&mut self.out);
            self.stream.write_all(&self.out).await.unwrap();
            self.out.clear();
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer);
            let read = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
            match read.expect("nothing more is heard").unwrap() {
                0 => self.heard.push(Heard::Closed(Code(0))),
                read => self.input.extend_from_slice(&buffer[..read]),
            }
            self.hear();
        }
        std::mem::take(&mut self.heard)
    }

    fn hear(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(next) = self.machine.handle_input(Instant(0), &mut rest) {
            let heard = match next {
                EdgeInput::Ready(peer) => Heard::Ready(peer.next),
                EdgeInput::Message { session, message, payload_crc } => {
                    assert_eq!(payload_crc, crc::of(message.payload()));
                    match message {
                        Message::Ack(Ack::Spelled { last, .. }) => Heard::Acked(session.0, last.0),
                        Message::LaneAnswer(answer) => {
                            Heard::Opened(session.0, answer.last.unwrap().0)
                        }
                        Message::Fault(fault) => match fault.scope {
                            Scope::Number { number, .. } => {
                                Heard::Refused(session.0, number.0, fault.code)
                            }
                            other => panic!("{other:?}"),
                        },
                        Message::Value(value) => Heard::Value(session.0, value.fields.version.0),
                        other => panic!("{other:?}"),
                    }
                }
                EdgeInput::Changed(changed) => Heard::Changed(changed.marks.iter().collect()),
                EdgeInput::Detached { session, code } => {
                    self.machine.detached(session, &mut self.out).unwrap();
                    Heard::Detached(session.0, code)
                }
                EdgeInput::Registry(registry) => {
                    self.registry = registry.upto;
                    let entries = registry.entries.iter();
                    let devices = entries.map(|entry| (entry.principal.to_owned(), entry.revoked));
                    Heard::Registry { whole: registry.whole, devices: devices.collect() }
                }
                EdgeInput::Leaving(code) => Heard::Leaving(code),
                EdgeInput::Closed(code) => {
                    self.heard.push(Heard::Closed(code));
                    break;
                }
            };
            self.heard.push(heard);
        }
        self.input = rest.to_vec();
    }

    fn attach(&mut self, principal: &str, run: u8) -> LinkSessionId {
        let attach = attach_of("main", Role::Device, principal, Run([run; 8]));
        let session = self.machine.attach(&attach, &mut self.out).unwrap();
        let lane = Lane { lane: LaneId(0), first_unacked: Number(1), key: None, urgent: false };
        self.say(session, 0, &Message::Lane(lane));
        let (route, lane, topic) = (RouteId(0), LaneId(0), "t");
        let bind = Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" };
        self.say(session, 0, &Message::Bind(bind));
        session
    }

    fn say(&mut self, session: LinkSessionId, number: u64, message: &Message<'_>) {
        let time = if number == 0 { Millis(0) } else { NOW };
        let payload_crc = crc::of(message.payload());
        self.machine
            .send(session, Number(number), time, message, payload_crc, &mut self.out)
            .unwrap();
    }

    fn event(&mut self, session: LinkSessionId, number: u64, payload: &[u8]) {
        let event = Event { route: RouteId(0), extras: Extras::default(), payload };
        self.say(session, number, &Message::Event(event));
    }

    async fn acked(&mut self, wanted: &[(LinkSessionId, u64)]) {
        let all = |heard: &[Heard]| {
            wanted.iter().all(|(session, last)| heard.contains(&Heard::Acked(session.0, *last)))
        };
        self.until(all).await;
    }
}

#[tokio::test]
async fn what_an_edge_asked_for_is_told_it_when_it_changes_before_the_publisher_hears() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut end, _served, _stop) = up(&worker, "edge-1").await;
    let (mut other, _other_served, _other_stop) = up(&worker, "edge-2").await;
    let session = end.attach("d", 1);
    let (route, lane) = (RouteId(0), LaneId(0));
    let bind = Bind { route, lane, topic: "state/a", content_type: "", schema: 0, encoding: "" };
    end.say(session, 0, &Message::Bind(bind));
    let reader = other.attach("reader", 1);
    let get = |end: &mut End, session| {
        let target = Target::State { key: "d", topic: "state/a" };
        let (newer_than, at_least) = (Version(0), Version(0));
        let get = Get { request: RequestId(1), target, newer_than, at_least, wait_ms: 0 };
        end.say(session, 0, &Message::Get(get));
    };
    let mark = Mark::of("main", "d", "state/a");
    for version in 1..=3 {
        // Both asked, so both hear; asked once, each hears once.
        get(&mut end, session);
        get(&mut other, reader);
        let told = Heard::Value(session.0, version - 1);
        end.until(|heard| heard.contains(&told)).await;
        let told = Heard::Value(reader.0, version - 1);
        other.until(|heard| heard.contains(&told)).await;
        end.event(session, version, b"x");
        let heard = end.until(|heard| heard.contains(&Heard::Acked(session.0, version))).await;
        let changed = heard.iter().filter(|one| **one == Heard::Changed(vec![mark])).count();
        assert_eq!(changed, 1, "{heard:?}");
        let heard = other.until(|heard| heard.contains(&Heard::Changed(vec![mark]))).await;
        assert_eq!(heard.len(), 1, "{heard:?}");
    }
    // Nobody asked since: nothing is told.
    end.event(session, 4, b"x");
    let heard = end.until(|heard| heard.contains(&Heard::Acked(session.0, 4))).await;
    assert!(!heard.iter().any(|one| matches!(one, Heard::Changed(_))), "{heard:?}");
}

#[tokio::test]
async fn many_sessions_publish_over_one_link() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut end, served, _stop) = up(&worker, "edge-1").await;
    let sessions: Vec<_> = (0..100).map(|n| end.attach(&format!("device-{n}"), 1)).collect();
    for number in 1..=3 {
        for &session in &sessions {
            end.event(session, number, &[7; 300]);
        }
    }
    let wanted: Vec<_> = sessions.iter().map(|&session| (session, 3)).collect();
    end.acked(&wanted).await;
    assert_eq!(
        (worker.status().events, worker.status().sessions, worker.status().links),
        (300, 100, 1)
    );
    let number = Number(4);
    let (lane, count, code, time_ms) = (LaneId(0), 1, Code::FORBIDDEN, NOW.0);
    let void = Void { session: sessions[5], lane, number, count, code, time_ms };
    end.machine.void(&void, &mut end.out).unwrap();
    let refused = Heard::Refused(sessions[5].0, 4, Code::FORBIDDEN);
    end.until(|heard| heard.contains(&refused)).await;
    // A link that ends detaches all its sessions.
    drop(end);
    served.await.unwrap().unwrap();
    assert_eq!((worker.status().sessions, worker.status().links), (0, 0));
}

#[tokio::test]
async fn a_session_that_comes_by_another_edge_replaces_the_older() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut first, _served, _stop) = up(&worker, "edge-1").await;
    let (mut second, _served, _stop) = up(&worker, "edge-2").await;
    let older = first.attach("a", 1);
    first.event(older, 1, b"1");
    first.acked(&[(older, 1)]).await;
    let newer = second.attach("a", 1);
    second.event(newer, 2, b"2");
    second.acked(&[(newer, 2)]).await;
    let replaced = Heard::Detached(older.0, Code::REPLACED);
    assert_eq!(first.until(|heard| !heard.is_empty()).await, [replaced]);
    // The number may be used again after both have said so.
    let again = first.attach("b", 1);
    first.event(again, 1, b"1");
    first.acked(&[(again, 1)]).await;
}

#[tokio::test]
async fn an_edge_follows_the_registry_and_confirms() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let mut operator = support::Client::new(&worker, "op", 1);
    operator.reply("$device", "add", r#"{"id":"pump"}"#).await;
    let (mut end, _served, _stop) = link(&worker, edge("edge-1"), "edge-1", [0xff; 32]);
    let pump = |revoked| vec![("pump".to_owned(), revoked)];
    let heard = end.until(|heard| heard.len() == 2).await;
    assert_eq!(heard, [Heard::Ready(2), Heard::Registry { whole: true, devices: pump(false) }]);
    operator.call(2, "$device", "revoke", r#"{"id":"pump"}"#);
    let heard = end.until(|heard| !heard.is_empty()).await;
    assert_eq!(heard, [Heard::Registry { whole: false, devices: pump(true) }]);
    let (entries, groups) = (List::default(), List::default());
    let known = Registry { upto: end.registry, whole: false, entries, more: false, groups };
    end.machine.registry(&known, &mut end.out).unwrap();
    end.machine.poll_transmit(&mut end.out);
    end.stream.write_all(&end.out).await.unwrap();
    let told = operator.told(1).await;
    let support::Told::Reply { payload, .. } = &told[0] else { panic!("{told:?}") };
    let said: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!(
        (&said["state"], &said["confirmed"]),
        (&"revoked".into(), &serde_json::json!(["edge-1"]))
    );
}

#[tokio::test]
async fn a_link_whose_sides_disagree_carries_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut end, served, _stop) = link(&worker, edge("edge-1"), "edge-1", [0x0f; 32]);
    let heard = end.until(|heard| !heard.is_empty()).await;
    assert_eq!(heard, [Heard::Closed(Code::CONFLICT)]);
    assert!(matches!(served.await.unwrap(), Err(LinkError::Closed { code: Code::CONFLICT, .. })));
    let (_end, served, _stop) = {
        let (mut end, served, stop) = link(&worker, edge("edge-1"), "edge-2", [0xff; 32]);
        end.until(|heard| heard.iter().any(|heard| matches!(heard, Heard::Closed(_)))).await;
        (end, served, stop)
    };
    let ended = served.await.unwrap();
    assert!(
        matches!(ended, Err(LinkError::Closed { code: Code::UNAUTHENTICATED, .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_tenant_that_is_not_the_edges_is_not_attached() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let of_acme = Edge { name: "edge-1".to_owned(), tenants: Some(vec!["acme".to_owned()]) };
    let (mut end, _served, _stop) = link(&worker, of_acme, "edge-1", [0xff; 32]);
    end.until(|heard| heard.iter().any(|heard| matches!(heard, Heard::Ready(_)))).await;
    let session = end.attach("a", 1);
    let detached = Heard::Detached(session.0, Code::FORBIDDEN);
    end.until(|heard| heard.contains(&detached)).await;
    assert_eq!(worker.status().sessions, 0);
}

#[tokio::test]
async fn garbage_and_what_no_edge_says_end_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    for garbage in [&[0xff; 64][..], &[10, 1, 0, 0, 0, 0, 0]] {
        let (mut end, served, _stop) = up(&worker, "edge-1").await;
        end.out.put_frame(garbage).unwrap();
        end.until(|heard| heard.iter().any(|heard| matches!(heard, Heard::Closed(_)))).await;
        assert!(matches!(served.await.unwrap(), Err(LinkError::Closed { .. })));
    }
}

#[tokio::test]
async fn a_worker_that_stops_says_goodbye_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    let (mut end, served, stop) = up(&worker, "edge-1").await;
    let session = end.attach("a", 1);
    end.event(session, 1, b"1");
    end.acked(&[(session, 1)]).await;
    stop.cancel();
    let leaving = Heard::Leaving(Code::SHUTDOWN);
    end.until(|heard| heard.contains(&leaving)).await;
    // What is in flight is answered.
    end.event(session, 2, b"2");
    end.acked(&[(session, 2)]).await;
    drop(end);
    served.await.unwrap().unwrap();
}
