//! The admin listener: `/livez /readyz /health /metrics` over a small HTTP/1.1 that only knows GET and HEAD.
//!
//! One request a connection. It changes nothing and tells no secrets; it listens on loopback unless the configuration
//! says otherwise. Invariants: at most [`CONNECTIONS`] at once, [`HEAD_MAX`] bytes read of each, and no connection is
//! older than [`DEADLINE`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::metrics::Metrics;

/// Connections at once; one more is closed at once, unanswered.
pub const CONNECTIONS: usize = 64;
/// The longest request head, in bytes; a longer one is answered 431.
pub const HEAD_MAX: usize = 8 << 10;
/// How long a connection may last, from accept to close.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long nothing is accepted after accepting failed, so that a full table of files is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener tells of.
#[derive(Debug, Clone)]
pub struct Admin {
    /// How the process is.
    pub health: Health,
    /// What it counts.
    pub metrics: Metrics,
}

impl Admin {
    /// Serves until shut down; a request that is under way is answered.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok(connection) => self.take(connection, &tasks, &room),
                Err(why) => {
                    tracing::warn!(%why, "admin: accept failed; going on");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    fn take(
        &self,
        (stream, peer): (TcpStream, SocketAddr),
        tasks: &TaskTracker,
        room: &Arc<Semaphore>,
    ) {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
        let admin = self.clone();
        tasks.spawn(async move {
            if let Err(why) = admin.answer(stream).await {
                tracing::debug!(%peer, %why, "admin: cut");
            }
            drop(permit);
        });
    }

    /// Answers one request and closes.
    ///
    /// # Errors
    /// The connection broke, or reached its deadline.
    pub async fn answer<IO>(&self, io: IO) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(DEADLINE, self.exchange(io)).await?
    }

    async fn exchange<IO>(&self, mut io: IO) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = match read_head(&mut io).await? {
            Head::Whole(head) => self.route(&head),
            Head::TooLong => Answer::text(431, "request head above 8 KiB\n"),
            Head::Gone => return Ok(()),
        };
        io.write_all(&answer.bytes()).await?;
        io.shutdown().await
    }

    fn route(&self, head: &str) -> Answer {
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
            (method, target, version, words.next())
        else {
            return Answer::text(400, "not an HTTP/1.1 request\n");
        };
        let mut answer = match method {
            "GET" | "HEAD" => self.page(target.split('?').next().unwrap_or_default()),
            _ => Answer::text(405, "only GET is known here\n"),
        };
        answer.without_body = method == "HEAD";
        answer
    }

    fn page(&self, path: &str) -> Answer {
        match path {
            "/livez" => Answer::text(200, "ok\n"),
            "/readyz" if self.health.is_ready() => Answer::text(200, "ready\n"),
            "/readyz" => Answer::text(503, "not ready; see /health\n"),
            "/health" => self.health_page(),
            "/metrics" => match self.metrics.encode() {
                Ok(text) => Answer::of(200, METRICS, text),
                Err(_) => Answer::text(500, "a collector failed\n"),
            },
            _ => Answer::text(404, "known: /livez /readyz /health /metrics\n"),
        }
    }

    fn health_page(&self) -> Answer {
        let report = self.health.report();
        let status = if report.ready { 200 } else { 503 };
        match serde_json::to_string(&report) {
            Ok(json) => Answer::of(status, "application/json", json + "\n"),
            Err(why) => Answer::of(500, TEXT, format!("{why}\n")),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

enum Head {
    Whole(String),
    TooLong,
    Gone,
}

async fn read_head<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<Head> {
    let mut head = Vec::with_capacity(512);
    loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(Head::Whole(String::from_utf8_lossy(&head).into_owned()));
        }
        if head.len() >= HEAD_MAX {
            return Ok(Head::TooLong);
        }
        let room = HEAD_MAX.saturating_sub(head.len());
        let read = (&mut *io).take(u64::try_from(room).unwrap_or(0)).read_buf(&mut head).await?;
        if read == 0 {
            return Ok(Head::Gone);
        }
    }
}

struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
    without_body: bool,
}

impl Answer {
    fn of(status: u16, kind: &'static str, body: String) -> Self {
        Self { status, kind, body, without_body: false }
    }

    fn text(status: u16, body: &str) -> Self {
        Self::of(status, TEXT, body.to_owned())
    }

    fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let body = if self.without_body { "" } else { self.body.as_str() };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{allow}Connection: close\r\n\r\n{body}",
            self.status,
            self.kind,
            self.body.len(),
        )
        .into_bytes()
    }
}
