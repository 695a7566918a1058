//! The admin listener's answers, and what it does with those who ask wrongly, slowly or too often.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::time::Duration;

use spiled::admin::{Admin, CONNECTIONS, DEADLINE, HEAD_MAX};
use spiled::health::{Colour, Health, Phase};
use spiled::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

fn admin() -> Admin {
    let health = Health::default();
    Admin { metrics: Metrics::new("all", &health), health }
}

async fn ask(admin: &Admin, request: &[u8]) -> String {
    let (mut near, far) = duplex(1 << 20);
    near.write_all(request).await.unwrap();
    near.shutdown().await.unwrap();
    admin.answer(far).await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(admin: &Admin, path: &str) -> (u16, String) {
    let answer = ask(admin, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn pages_follow_health() {
    let admin = admin();
    assert_eq!(get(&admin, "/livez").await.0, 200);
    assert_eq!(get(&admin, "/readyz").await.0, 503);
    admin.health.enter(Phase::Serving);
    assert_eq!(get(&admin, "/readyz?verbose").await.0, 200);
    admin.health.set("log", Colour::Red, "sync failed: disk gone; restart on a good disk");
    let (status, body) = get(&admin, "/health").await;
    assert_eq!(status, 503);
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["status"], "red");
    assert_eq!(report["ready"], false);
    assert_eq!(report["phase"], "serving");
    assert_eq!(report["facts"][0]["name"], "log");
    let (status, body) = get(&admin, "/metrics").await;
    assert!(
        status == 200 && body.contains("spiled_ready 0") && body.ends_with("# EOF\n"),
        "{body}"
    );
    assert_eq!(get(&admin, "/livez").await.0, 200, "alive even when red");
}

#[tokio::test]
async fn wrong_requests_are_told_so() {
    let admin = admin();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX));
    for (request, status) in [
        ("GET /nonsense HTTP/1.1\r\n\r\n", "404"),
        ("POST /health HTTP/1.1\r\n\r\n", "405"),
        ("GET /health\r\n\r\n", "400"),
        ("GET /health HTTP/2\r\n\r\n", "400"),
        ("GET / health HTTP/1.1\r\n\r\n", "400"),
        ("\r\n\r\n", "400"),
        ("\u{fffd}\0 \r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let answer = ask(&admin, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    assert_eq!(ask(&admin, b"GET /livez HTT").await, "", "gone before its end");
    let head = ask(&admin, b"HEAD /livez HTTP/1.1\r\n\r\n").await;
    assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn the_silent_and_the_deaf_are_cut() {
    let admin = admin();
    let (_near, far) = duplex(1 << 10);
    let in_time = timeout(DEADLINE + Duration::from_secs(1), admin.answer(far)).await.unwrap();
    assert_eq!(in_time.unwrap_err().kind(), ErrorKind::TimedOut);

    // It asks and does not read: the pipe is smaller than the answer.
    let (mut near, far) = duplex(64);
    near.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    let in_time = timeout(DEADLINE + Duration::from_secs(1), admin.answer(far)).await.unwrap();
    assert_eq!(in_time.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn one_too_many_is_closed_and_the_others_stay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let test = async {
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut extra = TcpStream::connect(address).await.unwrap();
        let mut none = [0; 1];
        assert!(matches!(extra.read(&mut none).await, Ok(0) | Err(_)));
        for mut stream in silent {
            let open = stream.try_read(&mut none).unwrap_err();
            assert_eq!(open.kind(), ErrorKind::WouldBlock);
            stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
        stop.cancel();
    };
    tokio::join!(admin().serve(listener, stop.clone()), test);
}
