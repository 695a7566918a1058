//! A connection from its first byte to its last, over a pipe in memory and against a worker that does as it is told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't go on ends")]

mod desk;

use desk::*;

#[tokio::test]
async fn a_whole_first_flight_is_one_turn() {
    let fake = Fake::new("w");
    let mut client = Client::connect(std::slice::from_ref(&fake), None, 1 << 16);
    let signed = key::Signed { tenant: "main", device: "d1", binding: key::Binding::Tls(EXPORTER) };
    let proof = Proof::DeviceKey {
        tenant: "main",
        device: "d1",
        nonce: [0; 16],
        proof: key::prove(&KEY, &signed),
    };
    let auth = Message::Auth(Auth { proof });
    client
        .send(&[hello(), auth, lane(0, None), bind(0, 0, "t"), event(0, b"a"), event(0, b"bb")])
        .await;
    assert_eq!(client.shown().await, "welcome d1");
    fake.say(&opened(0, 0));
    fake.say(&stored(0, 2));
    assert_eq!(client.shown().await, "lane 0 Some(Number(0))");
    assert_eq!(client.shown().await, "Step { durability: Stored, step: 2 }");
    let want =
        ["attach d1 device", "lane 0 None", "bind 0 t", "event 1 1 bytes", "event 2 2 bytes"];
    assert_eq!(fake.desk().heard, want);
    let metrics = &client.edge.metrics;
    assert_eq!(
        (metrics.events.get(), metrics.event_bytes.get(), metrics.sessions.get()),
        (2, 3, 1)
    );
}

#[tokio::test]
async fn many_frames_of_one_read_reach_the_worker_in_one_call() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), bind(0, 0, "t")]).await;
    fake.say(&opened(0, 0));
    client.shown().await;
    let before = fake.desk().takes;
    let many = vec![event(0, &[5; 40]); 1000];
    client.send(&many).await;
    fake.say(&stored(0, 1000));
    assert_eq!(
        client.shown().await,
        "Spelled { durability: Stored, lane: LaneId(0), last: Number(1000), receipts: [] }"
    );
    assert_eq!(fake.desk().takes, before + 1);
}

#[tokio::test]
async fn who_is_not_known_is_told_and_cut() {
    let mut client = Client::connect(&[Fake::new("w")], None, 1 << 16);
    client.send(&[hello(), Message::Auth(Auth { proof: Proof::Token("a.b.c") })]).await;
    assert_eq!(client.shown().await, "fault unauthenticated Session 0");
    assert_eq!(client.shown().await, "closed");
    drop(client.stream);
    client.task.join_next().await.unwrap().unwrap();
    assert_eq!(client.edge.metrics.refused.get(), 1);
}

#[tokio::test]
async fn what_the_policy_denies_is_answered_and_the_rest_goes_on() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), lane(1, Some("other"))]).await;
    assert!(client.shown().await.starts_with("fault forbidden Lane { lane: LaneId(1)"));
    fake.say(&opened(0, 0));
    client.shown().await;
    client
        .send(&[bind(0, 0, "$audit/x"), event(0, b"a"), subscribe(everything(From::Start), 9)])
        .await;
    assert_eq!(client.shown().await, "fault forbidden Route(RouteId(0)) 0");
    assert_eq!(client.shown().await, "fault forbidden Subscription(SubscriptionId(0)) 0");
    client.send(&[bind(1, 0, "t"), event(1, b"bb")]).await;
    fake.say(&stored(0, 2));
    assert!(
        client
            .shown()
            .await
            .starts_with("fault forbidden Number { lane: LaneId(0), number: Number(1), count: 1")
    );
    assert_eq!(client.shown().await, "Step { durability: Stored, step: 2 }");
    let want = [
        "attach d1 device",
        "lane 0 None",
        "bind 0 $audit/x",
        "void 1+1 forbidden",
        "bind 1 t",
        "event 2 2 bytes",
    ];
    assert_eq!(fake.desk().heard, want);
}

#[tokio::test]
async fn a_worker_that_goes_away_closes_its_lanes_and_is_told_the_binds_again() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None), bind(0, 0, "t"), event(0, b"a")]).await;
    fake.say(&opened(0, 0));
    client.shown().await;
    fake.leave();
    let closed = "fault unavailable Lane { lane: LaneId(0), expected: Number(1) } 77";
    assert_eq!(client.shown().await, closed);
    client.send(&[event(0, b"dropped"), lane(0, None)]).await;
    assert_eq!(client.shown().await, closed);
    fake.desk().away = false;
    fake.desk().heard.clear();
    client.send(&[lane(0, None), event(0, b"a")]).await;
    fake.say(&opened(0, 0));
    assert_eq!(client.shown().await, "lane 0 Some(Number(0))");
    let want = ["attach d1 device", "lane 0 None", "bind 0 t", "event 1 1 bytes"];
    assert_eq!(fake.desk().heard, want);
}

#[tokio::test]
async fn a_session_another_replaced_is_told_so() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "d1", Role::Device).await;
    client.send(&[lane(0, None)]).await;
    fake.say(&Message::Detach(Detach { session: LinkSessionId(0), code: Code::REPLACED }));
    assert_eq!(client.shown().await, "goaway replaced");
    assert_eq!(client.shown().await, "closed");
}

#[tokio::test]
async fn whoever_is_told_to_go_hears_why() {
    for (code, want) in [(Code::REVOKED, "goaway revoked"), (Code::SHUTDOWN, "goaway shutdown")] {
        let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
        client.signal.end(code);
        assert_eq!(client.shown().await, want);
        assert_eq!(client.shown().await, "closed");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_in_time() {
    let mut client = Client::connect(&[Fake::new("w")], None, 1 << 16);
    let begin = client.edge.clock.now();
    assert_eq!(client.shown().await, "fault deadline Session 0");
    let took = client.edge.clock.now().since(begin);
    assert!((29..32).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_crawls_is_cut_in_time() {
    let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
    let mut frame = Vec::new();
    frame.put(&lane(1, Some("a key that is longer than the time allows")), 0).unwrap();
    let begin = client.edge.clock.now();
    for byte in frame {
        if client.stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.shown().await, "fault deadline Session 0");
    assert!(client.edge.clock.now().since(begin).as_secs() < 60);
}

#[tokio::test]
async fn garbage_and_what_is_too_long_end_the_session_with_their_code() {
    let mut damaged = Vec::new();
    damaged.put(&lane(0, None), 0).unwrap();
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    for (bytes, want) in [
        (damaged, "fault damaged Session 0"),
        (vec![10, 0xff, 0xff, 0xff, 0xff, 0x0f], "fault too-large Session 0"),
        (vec![10, 0x80, 0x00], "fault malformed Session 0"),
    ] {
        let mut client = Client::welcome(&[Fake::new("w")], "d1", Role::Device).await;
        client.stream.write_all(&bytes).await.unwrap();
        assert_eq!(client.shown().await, want);
        assert_eq!(client.shown().await, "closed");
    }
}

/// A client that reads nothing: more waits for it than its pipe holds, deliveries within their credit.
async fn deaf(fake: &Fake) -> Client {
    let mut client = Client::connect(std::slice::from_ref(fake), Some(("ada", Role::User)), 4096);
    client.send(&[hello(), Message::Auth(Auth { proof: Proof::Certificate })]).await;
    client
        .send(&[lane(1, Some("k")), bind(0, 1, "t"), subscribe(everything(From::Start), 4000)])
        .await;
    let (subscription, chunk_bytes) = (Some(SubscriptionId(0)), None);
    fake.say(&Message::Credit(Credit { subscription, events: 4_000, bytes: 1 << 20, chunk_bytes }));
    for version in 1..=400 {
        fake.say(&deliver(Some("k"), version));
    }
    client
}

#[tokio::test]
async fn a_peer_that_does_not_read_does_not_stop_what_it_sends() {
    let fake = Fake::new("w");
    let mut client = deaf(&fake).await;
    for _ in 0..500 {
        client.send(&[event(0, &[1; 100])]).await;
    }
    fake.say(&opened(1, 0));
    fake.has_heard(504).await;
    assert_eq!(client.shown().await, "welcome ada");
}

/// Nobody wakes it: what is to be said waits for its peer, and room is told to who speaks.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_read_soon_when_there_is_room_again() {
    let fake = Fake::new("w");
    let mut client = deaf(&fake).await;
    fake.has_heard(4).await;
    fake.desk().full = true;
    let looks = fake.desk().looks;
    client.send(&[event(0, &[1; 100])]).await;
    fake.until(|desk| desk.looks > looks).await;
    assert_eq!(fake.desk().heard.len(), 4, "there is no room");
    fake.desk().full = false;
    tokio::time::advance(Duration::from_millis(200)).await;
    fake.has_heard(5).await;
}

#[tokio::test]
async fn lanes_go_to_the_worker_of_their_key() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
    let (even, odd) = (key_on(0), key_on(1));
    client
        .send(&[lane(1, Some(&even)), lane(2, Some(&odd)), bind(1, 1, "t"), bind(2, 2, "t")])
        .await;
    client.send(&[event(1, b"a"), event(1, b"a"), event(2, b"bb")]).await;
    a.say(&opened(1, 0));
    client.shown().await;
    b.leave();
    assert!(client.shown().await.starts_with("fault unavailable Lane { lane: LaneId(2)"));
    a.say(&stored(1, 2));
    assert!(client.shown().await.starts_with("Spelled"));
    let lane = |n: u32, key: &str| format!("lane {n} {:?}", Some(key));
    assert_eq!(
        a.desk().heard,
        ["attach ada user", &lane(1, &even), "bind 1 t", "event 1 1 bytes", "event 2 1 bytes"]
    );
    assert_eq!(b.desk().heard, ["attach ada user", &lane(2, &odd), "bind 2 t", "event 1 2 bytes"]);
}

#[tokio::test]
async fn a_subscription_on_two_workers_is_one_under_one_credit() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
    client.send(&[subscribe(everything(From::Start), 3)]).await;
    for fake in [&a, &b] {
        fake.say(&Message::Credit(Credit {
            subscription: Some(SubscriptionId(0)),
            events: 1,
            bytes: 500,
            chunk_bytes: None,
        }));
    }
    assert_eq!(client.shown().await, "credit 2 1000");
    a.say(&deliver(Some("ka"), 1));
    assert_eq!(client.shown().await, r#"deliver Some("a") Some("ka") 1 Some("t")"#);
    b.say(&deliver(Some("kb"), 1));
    assert_eq!(client.shown().await, r#"deliver Some("b") Some("kb") 1 None"#);
    // One more than the client's credit: it is held back until the client settles.
    a.say(&deliver(None, 2));
    let settle = Settle {
        subscription: SubscriptionId(0),
        delivery: 2,
        outcome: Outcome::Seen,
        events: 0,
        reason: "",
    };
    client.send(&[Message::Settle(settle)]).await;
    assert_eq!(client.shown().await, r#"deliver Some("a") Some("ka") 2 None"#);
    client.send(&[Message::Settle(Settle { delivery: 3, ..settle })]).await;
    for fake in [&b, &a] {
        fake.say(&Message::End(End { subscription: SubscriptionId(0) }));
    }
    assert_eq!(client.shown().await, "end");
    assert_eq!(
        a.desk().heard,
        ["attach ada user", "subscribe 1 events", "settle 1 Seen", "settle 2 Seen"]
    );
    assert_eq!(b.desk().heard, ["attach ada user", "subscribe 1 events", "settle 1 Seen"]);
}

#[tokio::test]
async fn deliveries_above_the_clients_credit_wait_and_keep_their_order() {
    let fake = Fake::new("w");
    let mut client = Client::welcome(std::slice::from_ref(&fake), "ada", Role::User).await;
    client.send(&[subscribe(everything(From::Start), 2)]).await;
    let (subscription, chunk_bytes) = (Some(SubscriptionId(0)), None);
    fake.say(&Message::Credit(Credit { subscription, events: 2, bytes: 1_000, chunk_bytes }));
    assert_eq!(client.shown().await, "credit 2 1000");
    for version in 1..=4 {
        fake.say(&deliver(Some("k"), version));
    }
    fake.say(&Message::End(End { subscription: SubscriptionId(0) }));
    fake.say(&Message::Reply(spile_protocol::message::Body {
        fields: spile_protocol::message::Reply {
            request: spile_protocol::id::RequestId(7),
            code: Code(0),
            more: false,
            content_type: "",
            detail: "",
        },
        payload: b"",
    }));
    for (settled, version) in [(0, 1), (0, 2), (1, 3), (2, 4)] {
        if settled > 0 {
            let settle = Settle {
                subscription: SubscriptionId(0),
                delivery: settled,
                outcome: Outcome::Seen,
                events: 0,
                reason: "",
            };
            client.send(&[Message::Settle(settle)]).await;
        }
        let shown = client.shown().await;
        assert!(shown.contains(&format!(" {version} ")), "{version}: {shown}");
    }
    assert_eq!(client.shown().await, "end");
}

#[tokio::test]
async fn positions_must_name_every_worker_and_each_hears_its_own() {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    for (named, want) in
        [(&["a", "b"][..], None), (&["a"], Some("invalid")), (&["a", "b", "c"], Some("invalid"))]
    {
        let mut client = Client::welcome(&[a.clone(), b.clone()], "ada", Role::User).await;
        let mut room = [0; 128];
        let at = |(&worker, position)| spile_protocol::message::At {
            worker,
            position: Position(position),
        };
        let positions = List::encode(named.iter().zip(5..).map(at), &mut room).unwrap();
        client.send(&[subscribe(everything(From::Positions(positions)), 100)]).await;
        if let Some(code) = want {
            assert_eq!(
                client.shown().await,
                format!("fault {code} Subscription(SubscriptionId(0)) 0")
            );
            continue;
        }
        let fault = Fault {
            code: Code::NOT_FOUND,
            scope: Scope::Subscription(SubscriptionId(0)),
            retry: false,
            retry_after_ms: 0,
            detail: "",
        };
        a.say(&Message::Fault(fault));
        assert_eq!(client.shown().await, "fault not-found Subscription(SubscriptionId(0)) 0");
        drop(client);
    }
    assert_eq!(a.desk().heard[1], "subscribe 50 events from a:5");
    assert_eq!(b.desk().heard[1..], ["subscribe 50 events from b:6", "end"]);
}
