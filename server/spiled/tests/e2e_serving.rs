//! Serving with the async client through the real server: bounded, in parts, and answered whatever the handler does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for what it begins"
)]

mod e2e;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use e2e::{Server, all_in_one};
use spile_client::{Call, Client, Code, Error, NotDone, Reply, Trace};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    folder: TempDir,
    server: Server,
}

fn started() -> Place {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&mut all_in_one(&data), &folder.path().join("log"));
    Place { folder, server }
}

impl Place {
    async fn client(&self) -> Client {
        let dev: &Path = &self.folder.path().join("data").join("dev");
        Client::builder()
            .url(&format!("spile://{}", self.server.edge()))
            .ca(dev.join("ca.pem"))
            .cert(dev.join("operator.pem"))
            .client_key(dev.join("operator.key"))
            .connect()
            .await
            .unwrap()
    }
}

fn code(answer: &Result<Reply, Error>) -> Option<Code> {
    answer.as_ref().err().and_then(Error::code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_at_once_than_the_window_and_each_call_is_done_once() {
    let place = started();
    let (serves, asks) = (place.client().await, place.client().await);
    let (running, most, done) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now, peak, all) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
    let handler = move |call: Call| {
        let (now, peak, all) = (Arc::clone(&now), Arc::clone(&peak), Arc::clone(&all));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            all.fetch_add(1, Ordering::SeqCst);
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Reply::from(call.payload))
        }
    };
    let serving = serves.serve("jobs", 4, handler).await.unwrap();
    let mut calls = JoinSet::new();
    for n in 0..200_u32 {
        let asks = asks.clone();
        calls.spawn(async move {
            loop {
                let answer =
                    asks.ask("jobs", "x").payload(n.to_string()).within(PATIENCE).send().await;
                match answer {
                    Ok(reply) => break assert_eq!(reply.payload, n.to_string()),
                    // What was refused was surely not done.
                    Err(why) => {
                        let code = why.code().unwrap();
                        assert!([Code::BUSY, Code::TOO_MANY].contains(&code), "{why}");
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.unwrap();
    }
    assert_eq!(done.load(Ordering::SeqCst), 200, "each once");
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
    serving.stop().await;
    assert_eq!(code(&asks.ask("jobs", "x").send().await), Some(Code::NOT_FOUND));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_come_while_the_handler_works() {
    let place = started();
    let (serves, asks) = (place.client().await, place.client().await);
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let handler = move |call: Call| {
        let wait = Arc::clone(&wait);
        async move {
            assert_eq!(call.trace.map(|trace| trace.id), Some([7; 16]));
            assert_eq!(call.content_type, "text/plain");
            call.part("one").await?;
            wait.notified().await;
            Ok(Reply::from("two").content_type("text/x"))
        }
    };
    let _serving = serves.serve("jobs", 1, handler).await.unwrap();
    let trace = Trace { id: [7; 16], span: [1; 8], flags: 1 };
    let ask = asks.ask("jobs", "x").trace(trace).content_type("text/plain").within(PATIENCE);
    let mut parts = ask.clone().parts().unwrap();
    assert_eq!(parts.next().await.unwrap().unwrap().payload, "one");
    assert!(!parts.is_whole());
    go.notify_one();
    let last = parts.next().await.unwrap().unwrap();
    assert_eq!((&last.payload[..], last.content_type.as_str()), (&b"two"[..], "text/x"));
    assert!(parts.next().await.is_none());
    go.notify_one();
    let whole = ask.send().await.unwrap();
    assert_eq!((&whole.payload[..], whole.content_type.as_str()), (&b"onetwo"[..], "text/x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_panics_or_is_late_is_answered_and_its_place_is_free() {
    let place = started();
    let (serves, asks) = (place.client().await, place.client().await);
    let handler = |call: Call| async move {
        match call.method.as_str() {
            "panics" => panic!("on purpose"),
            "fails" => Err(std::io::Error::other("the disk is gone"))?,
            "gave up" => Err(NotDone::new(Code::TIMED_OUT, "another did not answer")),
            "says no" => Err(NotDone::new(Code::CONFLICT, "not twice")),
            "is late" => std::future::pending().await,
            _ => Ok(Reply::from("well")),
        }
    };
    let _serving = serves.serve("jobs", 1, handler).await.unwrap();
    let ask = |method: &str, within| asks.ask("jobs", method).within(within).send();
    for (method, want, again) in [
        ("panics", Code::INTERNAL, true),
        ("fails", Code::INTERNAL, true),
        ("says no", Code::CONFLICT, false),
        // The handler may have done it: its own word of that says no more than the worker's.
        ("gave up", Code::TIMED_OUT, false),
    ] {
        let answer = ask(method, PATIENCE).await;
        assert_eq!(code(&answer), Some(want), "{method}");
        assert_eq!(answer.unwrap_err().retry_after().is_some(), again, "{method}");
    }
    let late = ask("is late", Duration::from_millis(200)).await;
    assert_eq!(code(&late), Some(Code::TIMED_OUT));
    assert_eq!(late.unwrap_err().retry_after(), None, "it may have been done");
    // With a window of one: a place that stayed taken would refuse for ever.
    let answer = loop {
        let answer = ask("is well", PATIENCE).await;
        if code(&answer) != Some(Code::BUSY) {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.unwrap().payload, "well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_served_once_a_client_and_gone_with_its_handle() {
    let place = started();
    let (serves, asks) = (place.client().await, place.client().await);
    let handler = |_: Call| async { Ok(Reply::from("here")) };
    let serving = serves.serve("jobs", 1, handler).await.unwrap();
    let second = serves.serve("jobs", 1, handler).await;
    assert!(matches!(second, Err(Error::Setup { .. })), "{second:?}");
    assert!(matches!(serves.serve("a b", 1, handler).await, Err(Error::Setup { .. })));
    let refused = serves.serve("$mine", 1, handler).await;
    assert_eq!(refused.err().and_then(|why| why.code()), Some(Code::FORBIDDEN));
    drop(serving);
    while asks.ask("jobs", "x").send().await.is_ok() {}
    // The name is free again.
    let _again = serves.serve("jobs", 1, handler).await.unwrap();
    assert_eq!(asks.ask("jobs", "x").send().await.unwrap().payload, "here");
    serves.close().await;
    while code(&asks.ask("jobs", "x").send().await) != Some(Code::NOT_FOUND) {}
}
