//! What concerns several workers at once: requests that all answer, calls that come from each, groups merged over them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on ends"
)]

mod desk;

use desk::*;
use spile_protocol::id::RequestId;
use spile_protocol::message::{Body, Call, Reply, Serve, request};

async fn two(name: &str, role: Role) -> (Fake, Fake, Client) {
    let (a, b) = (Fake::new("a"), Fake::new("b"));
    let client = Client::welcome(&[a.clone(), b.clone()], name, role).await;
    (a, b, client)
}

fn call<'a>(service: &'a str, method: &'a str, payload: &'a str) -> Message<'a> {
    let fields = Call {
        request: RequestId(7),
        service,
        method,
        remaining_ms: 1_000,
        idempotent: false,
        content_type: "",
        caller: "device/liar",
        trace: None,
    };
    Message::Call(Body { fields, payload: payload.as_bytes() })
}

fn reply(request: u32, code: Code, payload: &str) -> Message<'_> {
    let request = RequestId(request);
    let fields = Reply { request, code, more: false, content_type: "", detail: "" };
    Message::Reply(Body { fields, payload: payload.as_bytes() })
}

/// Waits until the worker has heard so much, and says it.
async fn heard(fake: &Fake, count: usize) -> Vec<String> {
    for _ in 0..10_000 {
        if fake.desk().heard.len() >= count {
            return fake.heard();
        }
        tokio::task::yield_now().await;
    }
    panic!("{} heard {:?} only, not {count}", fake.0, fake.heard());
}

#[tokio::test(start_paused = true)]
async fn what_all_answer_is_one_answer_and_half_of_the_time_is_theirs() {
    let (a, b, mut client) = two("ada", Role::Operator).await;
    client.send(&[call("$service", "ls", "{}")]).await;
    for fake in [&a, &b] {
        assert_eq!(
            heard(fake, 2).await,
            ["attach ada operator", "call 7 $service ls by operator/ada in 500 {}"]
        );
    }
    a.say(&reply(7, Code(0), r#"{"services":[{"service":"resize"}]}"#));
    b.say(&reply(7, Code(0), r#"{"services":[{"service":"ocr"}]}"#));
    let want = r#"reply 7 0 {"services":[{"service":"ocr"},{"service":"resize"}]}"#;
    assert_eq!(client.shown().await, want);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_in_time_is_missing_and_the_answer_says_so() {
    let (a, b, mut client) = two("ada", Role::Operator).await;
    let begun = client.edge.clock.now();
    client.send(&[call("$service", "ls", "{}")]).await;
    a.say(&reply(7, Code(0), r#"{"services":[]}"#));
    assert_eq!(client.shown().await, r#"reply 7 0 {"partial":true,"services":[]}"#);
    let took = client.edge.clock.now().since(begun);
    assert!((500..600).contains(&took.as_millis()), "{took:?}");
    // Its answer comes too late, and the number means another request by then.
    b.say(&reply(7, Code(0), r#"{"services":[{"service":"late"}]}"#));
    b.leave();
    client.send(&[call("$service", "ls", "{}")]).await;
    a.say(&reply(7, Code(0), r#"{"services":[]}"#));
    assert_eq!(client.shown().await, r#"reply 7 0 {"partial":true,"services":[]}"#);
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_merged_and_ends_without_who_is_silent() {
    let (a, _b, mut client) = two("ada", Role::Operator).await;
    let (request, listing, prefix) = (RequestId(7), request::Listing::State, "k");
    let list = request::List { request, listing, prefix, after: "", limit: 2 };
    client.send(&[Message::List(list)]).await;
    for (key, more) in [("k1", true), ("k2", true), ("k3", false)] {
        a.say(&Message::Value(Body { fields: value(key, more), payload: b"21.5" }));
    }
    assert_eq!(client.shown().await, r#"value k1 more true cursor "" partial true"#);
    let last = "value k2 more false cursor \"k2\\u{1f}t\" partial true";
    assert_eq!(client.shown().await, last);
}

fn value(key: &str, more: bool) -> request::Value<'_> {
    let (request, name, version) = (RequestId(7), "t", Version(1));
    request::Value { request, more, name, key, version, ..request::Value::default() }
}

#[tokio::test]
async fn a_request_with_a_number_of_the_edges_own_is_refused() {
    let (_a, _b, mut client) = two("ada", Role::Operator).await;
    let message = call("$service", "ls", "{}");
    let Message::Call(mut own) = message else { panic!("{message:?}") };
    own.fields.request = RequestId(u32::MAX);
    client.send(&[Message::Call(own)]).await;
    assert_eq!(client.shown().await, "fault invalid Request(RequestId(4294967295)) 0");
}

/// The workers in the order of a service's: its own first.
fn home(service: &str, a: Fake, b: Fake) -> (Fake, Fake) {
    if Slot::of("main", service).0.is_multiple_of(2) { (a, b) } else { (b, a) }
}

#[tokio::test]
async fn a_worker_that_comes_back_hears_what_is_served_and_replies_find_their_worker() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    let (own, other) = home("resize", a, b);
    let serve = Serve { request: RequestId(3), service: "resize", window: 4 };
    client.send(&[Message::Serve(serve)]).await;
    assert_eq!(heard(&own, 2).await, ["attach svc service", "serve resize 4"]);
    own.say(&reply(3, Code(0), ""));
    assert_eq!(client.shown().await, "reply 3 0 ");
    own.say(&call("resize", "one", ""));
    let first = client.shown().await;
    assert_eq!(first, "call 0 device/liar", "who calls was set by the edge of the caller");
    client.send(&[reply(0, Code(0), "done")]).await;
    assert_eq!(heard(&own, 1).await, ["reply 7 0 done"]);
    own.say(&call("resize", "two", ""));
    assert_eq!(client.shown().await, "call 1 device/liar");
    own.go().await;
    own.come();
    assert_eq!(heard(&own, 2).await, ["attach svc service", "serve resize 4"]);
    // The reply to a call of before is nobody's.
    client.send(&[reply(1, Code(0), "late")]).await;
    own.say(&call("resize", "three", ""));
    assert_eq!(client.shown().await, "call 2 device/liar");
    client.send(&[reply(2, Code(0), "done")]).await;
    assert_eq!(heard(&own, 1).await, ["reply 7 0 done"]);
    assert!(other.heard().is_empty());
}

fn group(events: u32) -> Message<'static> {
    subscribe(Source::Group { name: "thumbs", max_events: 9, max_bytes: 0 }, events)
}

fn kept(events: u32) -> Message<'static> {
    let subscription = Some(SubscriptionId(0));
    Message::Credit(Credit { subscription, events, bytes: 500, chunk_bytes: None })
}

fn settle(delivery: u64, outcome: Outcome, events: u32) -> Message<'static> {
    let subscription = SubscriptionId(0);
    Message::Settle(Settle { subscription, delivery, outcome, events, reason: "" })
}

#[tokio::test]
async fn settlements_find_their_worker_and_their_answers_the_client() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    client.send(&[group(8)]).await;
    for fake in [&a, &b] {
        assert_eq!(heard(fake, 2).await, ["attach svc service", "subscribe 4 events"]);
        fake.say(&kept(4));
    }
    assert_eq!(client.shown().await, "credit 8 1000");
    a.say(&deliver(Some("k1"), 1));
    assert!(client.shown().await.starts_with("deliver"));
    b.say(&deliver(Some("k2"), 1));
    assert!(client.shown().await.starts_with("deliver"));
    client.send(&[settle(2, Outcome::Done, 0), settle(1, Outcome::Reject, 0)]).await;
    assert_eq!(heard(&a, 1).await, ["settle 1 Reject"]);
    assert_eq!(heard(&b, 1).await, ["settle 1 Done"]);
    b.say(&settle(1, Outcome::Done, 0));
    assert_eq!(client.shown().await, "settle 2 Done");
    a.say(&settle(1, Outcome::Reject, 0));
    assert_eq!(client.shown().await, "settle 1 Reject");
}

#[tokio::test]
async fn a_group_goes_on_with_one_worker_and_is_joined_by_the_other_when_it_is_back() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    b.leave();
    client.send(&[group(8)]).await;
    // The whole credit is that worker's as long as it is alone.
    let all = heard(&a, 3).await;
    assert_eq!(all, ["attach svc service", "subscribe 4 events", "credit 8 1000"]);
    // It says what it keeps once for all it was told before: the deliveries do not wait for a second answer.
    a.say(&kept(4));
    assert_eq!(client.shown().await, "credit 4 500");
    a.say(&kept(8));
    assert_eq!(client.shown().await, "credit 8 500");
    a.say(&deliver(Some("k1"), 1));
    assert!(client.shown().await.starts_with("deliver Some(\"a\")"));
    b.come();
    assert_eq!(heard(&b, 2).await, ["attach svc service", "subscribe 4 events"]);
    assert_eq!(heard(&a, 1).await, ["credit 4 500"]);
    b.say(&kept(4));
    assert_eq!(client.shown().await, "credit 8 1000");
    b.say(&deliver(Some("k2"), 1));
    assert!(client.shown().await.starts_with("deliver Some(\"b\")"));
    // It goes with a delivery that was settled and not answered, and one that was not settled: neither counts as far as
    // is known.
    b.say(&deliver(Some("k3"), 1));
    assert!(client.shown().await.starts_with("deliver None Some(\"k3\")"));
    client.send(&[settle(2, Outcome::Done, 0)]).await;
    assert_eq!(heard(&b, 1).await, ["settle 1 Done"]);
    b.leave();
    assert_eq!(client.shown().await, "settle 2 Seen");
    client.send(&[settle(3, Outcome::Done, 0)]).await;
    assert_eq!(client.shown().await, "settle 3 Seen");
    client.send(&[settle(1, Outcome::Done, 0)]).await;
    assert_eq!(heard(&a, 2).await, ["credit 8 1000", "settle 1 Done"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_know_a_group_yet_is_asked_again() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    client.send(&[group(8)]).await;
    assert_eq!(heard(&b, 2).await.len(), 2);
    let missing = Message::Fault(Fault {
        code: Code::NOT_FOUND,
        scope: Scope::Subscription(SubscriptionId(0)),
        retry: false,
        retry_after_ms: 0,
        detail: "",
    });
    a.say(&kept(4));
    b.say(&missing);
    assert!(client.shown().await.starts_with("credit "));
    let again = async {
        loop {
            if let Some(heard) = b.heard().pop() {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(again.await, "subscribe 4 events");
    // Where nobody knows it, it is not there.
    a.say(&missing);
    b.say(&missing);
    assert_eq!(client.shown().await, "fault not-found Subscription(SubscriptionId(0)) 0");
}

#[tokio::test]
async fn a_group_that_no_worker_is_there_for_is_refused() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    a.leave();
    b.leave();
    client.send(&[group(8)]).await;
    assert_eq!(client.shown().await, "fault unavailable Subscription(SubscriptionId(0)) 500");
}

#[tokio::test]
async fn the_end_of_a_subscription_is_not_taken_for_the_next_ones_of_its_number() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    let all = subscribe(everything(From::Start), 8);
    client.send(&[all]).await;
    a.say(&kept(4));
    b.say(&kept(4));
    assert!(client.shown().await.starts_with("credit"));
    assert_eq!((heard(&a, 2).await.len(), heard(&b, 2).await.len()), (2, 2));
    let gone = Fault {
        code: Code::CORRUPT,
        scope: Scope::Subscription(SubscriptionId(0)),
        retry: false,
        retry_after_ms: 0,
        detail: "",
    };
    b.say(&Message::Fault(gone));
    assert!(client.shown().await.starts_with("fault corrupt"));
    assert_eq!(heard(&a, 1).await, ["end"]);
    client.send(&[all]).await;
    assert_eq!(heard(&a, 1).await, ["subscribe 4 events"]);
    // What is said of the first one is not the second's, up to its end.
    a.say(&deliver(Some("k9"), 1));
    a.say(&Message::End(End { subscription: SubscriptionId(0) }));
    a.say(&kept(4));
    b.say(&kept(4));
    assert!(client.shown().await.starts_with("credit"));
    a.say(&deliver(Some("k1"), 1));
    assert!(client.shown().await.contains("k1"));
    assert!(b.heard().iter().all(|heard| heard != "end"), "it had ended by itself");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_one_at_a_time_is_delivered_to_in_turns() {
    let (a, b, mut client) = two("svc", Role::Service).await;
    client.send(&[group(1)]).await;
    assert_eq!(heard(&a, 2).await, ["attach svc service", "subscribe 1 events"]);
    assert_eq!(heard(&b, 2).await, ["attach svc service", "subscribe 0 events"]);
    a.say(&kept(1));
    b.say(&kept(0));
    assert_eq!(client.shown().await, "credit 1 1000");
    a.say(&deliver(Some("k1"), 1));
    assert!(client.shown().await.starts_with("deliver"));
    // The turn passes before the settlement makes room at the one that had it.
    client.send(&[settle(1, Outcome::Done, 0)]).await;
    assert_eq!(heard(&a, 2).await, ["credit 0 1000", "settle 1 Done"]);
    assert_eq!(heard(&b, 1).await, ["credit 1 1000"]);
    a.say(&settle(1, Outcome::Done, 0));
    assert_eq!(client.shown().await, "settle 1 Done");
    // It has nothing: the turn passes by itself.
    while a.desk().heard.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(a.heard(), ["credit 1 1000"]);
    assert_eq!(heard(&b, 1).await, ["credit 0 1000"]);
}
