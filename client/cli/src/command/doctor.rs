//! `spile doctor`: the way to the server, step by step; the first bad step ends what rests on it.
//!
//! A line each, with a remedy where it is bad. Invariant: exit 0 says that every check was made and was good.

use std::io::stdout;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use spile_client::{Address, Client, wall};
use tokio::net::{TcpStream, lookup_host};

use crate::args::Everywhere;
use crate::command::builtin;
use crate::connect::{builder, effective};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Output, colours};

/// A certificate that ends sooner is told as bad.
const DAYS_LEFT: i64 = 14;
/// Clocks that differ more make times, tokens and certificates wrong.
const SKEW_MS: u64 = 2_000;
/// A disk whose syncs take longer is ill: a busy one that spins stays well below.
const SYNC_MS: f64 = 250.0;
/// With less free than this, and less than a twentieth of the disk, it is nearly full.
const FREE: u64 = 8 << 30;

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    remedy: Option<String>,
}

impl Check {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, ok: true, detail: detail.into(), remedy: None }
    }

    fn bad(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, ok: false, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn judged(check: &'static str, ok: bool, detail: String, remedy: &str) -> Self {
        if ok { Self::good(check, detail) } else { Self::bad(check, detail, remedy) }
    }

    fn line(&self) -> String {
        let (green, red, plain) = if colours(&stdout()) {
            ("\u{1b}[32m", "\u{1b}[31m", "\u{1b}[0m")
        } else {
            ("", "", "")
        };
        let word = if self.ok { format!("{green}ok {plain}") } else { format!("{red}BAD{plain}") };
        let remedy = self.remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}"));
        format!("{word} {:<9} {}{remedy}", self.check, self.detail)
    }
}

pub(crate) async fn run(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let context = effective(typed)?;
    let mut told = Told { output, bad: None };
    told.all(&context, typed).await?;
    match told.bad {
        None => Ok(()),
        Some(exit) => Err(Failure::Quiet(exit)),
    }
}

struct Told<'a> {
    output: &'a mut Output,
    bad: Option<Exit>,
}

impl Told<'_> {
    fn tell(&mut self, check: &Check) -> Result<(), Failure> {
        if !check.ok {
            self.bad.get_or_insert(Exit::Failed);
        }
        self.output.result(check, Check::line)?;
        self.output.flush()
    }

    /// A step that ends the rest; the shell hears why.
    fn end(&mut self, check: &Check, exit: Exit) -> Result<(), Failure> {
        self.bad = Some(exit);
        self.tell(check)
    }

    async fn all(&mut self, context: &Context, typed: &Everywhere) -> Result<(), Failure> {
        let url = context.url.as_deref().unwrap_or_default();
        let address = Address::parse(url).map_err(|error| Failure::client("doctor", &error))?;
        if !self.reach(&address, typed.timeout).await? {
            return Ok(());
        }
        let Some(client) = self.greet(context, typed.timeout).await? else { return Ok(()) };
        let outcome = self.look(&client, typed).await;
        client.close().await;
        outcome
    }

    async fn reach(&mut self, address: &Address, timeout: Duration) -> Result<bool, Failure> {
        let looked_up =
            tokio::time::timeout(timeout, lookup_host((address.host(), address.port()))).await;
        let found = match looked_up {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(why)) => {
                let detail = format!("{} is not known: {why}", address.host());
                let check =
                    Check::bad("name", detail, "correct the URL, or ask who runs your names");
                return self.end(&check, Exit::Unreachable).map(|()| false);
            }
            Err(_) => {
                let check =
                    Check::bad("name", "no answer in time", "look at this machine's name service");
                return self.end(&check, Exit::Unreachable).map(|()| false);
            }
        };
        let list = found.iter().map(|at| at.ip().to_string()).collect::<Vec<_>>().join(" ");
        self.tell(&Check::good("name", format!("{} is {list}", address.host())))?;
        let begun = wall();
        match tokio::time::timeout(timeout, TcpStream::connect(found.as_slice())).await {
            Ok(Ok(_)) => {
                let detail =
                    format!("{address} answers in {} ms", wall().0.saturating_sub(begun.0));
                self.tell(&Check::good("tcp", detail)).map(|()| true)
            }
            Ok(Err(why)) => {
                let check = Check::bad(
                    "tcp",
                    format!("{address}: {why}"),
                    "start `spiled`, or correct the port; look at firewalls",
                );
                self.end(&check, Exit::Unreachable).map(|()| false)
            }
            Err(_) => {
                let check = Check::bad(
                    "tcp",
                    format!("{address}: no answer in time"),
                    "look at firewalls between here and there",
                );
                self.end(&check, Exit::Unreachable).map(|()| false)
            }
        }
    }

    async fn greet(
        &mut self,
        context: &Context,
        timeout: Duration,
    ) -> Result<Option<Client>, Failure> {
        let connected =
            tokio::time::timeout(timeout, builder(context)?.reconnect(false).connect()).await;
        let failure = match connected {
            Ok(Ok(client)) => return self.shown(&client).map(|()| Some(client)),
            Ok(Err(error)) => (step(&error), Failure::client("connect", &error)),
            Err(_) => ("tls", crate::connect::late(timeout, "connect")),
        };
        let (step, failure) = failure;
        let line = failure.line().unwrap_or_default();
        let told = line.strip_prefix("spile: connect: ").unwrap_or(&line);
        let (detail, remedy) = told.split_once("; ").unwrap_or((told, "see `spile errors`"));
        self.end(&Check::bad(step, detail, remedy), failure.exit()).map(|()| None)
    }

    fn shown(&mut self, client: &Client) -> Result<(), Failure> {
        let seen = client.seen();
        if seen.chain.is_empty() {
            self.tell(&Check::bad(
                "tls",
                "the connection is not encrypted",
                "use spile:// and certificates",
            ))?;
        }
        for der in &seen.chain {
            self.tell(&certificate(der, &seen.suite))?;
        }
        let session = client.session();
        let who = format!("{} of {} at edge {}", session.principal, session.tenant, session.edge);
        self.tell(&Check::good("session", who))?;
        let skew = session.server_time.0.abs_diff(session.local_time.0);
        self.tell(&Check::judged(
            "clock",
            skew <= SKEW_MS,
            format!("differs by {skew} ms from the server's"),
            "set the clock of the machine that is wrong, by NTP",
        ))?;
        let versions = format!("spile {}, server {}", env!("CARGO_PKG_VERSION"), session.software);
        let same =
            session.software.ends_with(env!("CARGO_PKG_VERSION")) || session.software.is_empty();
        self.tell(&Check::judged(
            "versions",
            same,
            versions,
            "update the older side; neighbours in version work together",
        ))
    }

    async fn look(&mut self, client: &Client, typed: &Everywhere) -> Result<(), Failure> {
        let status = match builtin::ask(client, typed, "$status", "get", &Value::Null).await {
            Ok(status) => status,
            Err(failure) => {
                let line = failure.line().unwrap_or_default();
                let check = Check::bad(
                    "status",
                    line,
                    "run doctor with an operator's context to see the server's disk",
                );
                return self.end(&check, failure.exit());
            }
        };
        self.tell(&health(&status))?;
        disk(&status).iter().try_for_each(|check| self.tell(check))
    }
}

/// Which step failed.
fn step(error: &spile_client::Error) -> &'static str {
    match error {
        spile_client::Error::Untrusted { .. } | spile_client::Error::Unreachable { .. } => "tls",
        spile_client::Error::Refused(_) | spile_client::Error::OtherTenant { .. } => "session",
        spile_client::Error::Setup { .. }
        | spile_client::Error::File { .. }
        | spile_client::Error::Closed => "context",
    }
}

fn certificate(der: &[u8], suite: &str) -> Check {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return Check::bad("tls", "a certificate can't be read", "issue it anew");
    };
    let now = i64::try_from(wall().0 / 1_000).unwrap_or(i64::MAX);
    let days = (parsed.validity().not_after.timestamp() - now) / 86_400;
    let detail = format!("{} by {}, {days} days left, {suite}", parsed.subject(), parsed.issuer());
    Check::judged(
        "tls",
        days >= DAYS_LEFT,
        detail,
        "renew it: `spiled` does at its next start, in a deployment `spiled certs`",
    )
}

/// What the server itself finds wrong.
fn health(status: &Value) -> Check {
    let wrong = status.get("wrong").and_then(Value::as_array).into_iter().flatten();
    let wrong: Vec<_> = wrong.filter_map(Value::as_str).collect();
    if status.get("healthy").and_then(Value::as_bool).unwrap_or(wrong.is_empty()) {
        return Check::good("server", "healthy");
    }
    let detail = if wrong.is_empty() { "not healthy".to_owned() } else { wrong.join("; ") };
    Check::bad("server", detail, "see the server's log and its /health")
}

/// What the status says of each worker's disk and of how long a sync takes.
fn disk(status: &Value) -> Vec<Check> {
    let mut checks = Vec::new();
    let workers = status.get("workers").and_then(Value::as_array);
    for worker in workers.into_iter().flatten() {
        let name = worker.get("name").and_then(Value::as_str).unwrap_or_default();
        if let Some(free) = worker.get("disk_free_bytes").and_then(Value::as_u64) {
            let total = worker.get("disk_total_bytes").and_then(Value::as_u64).unwrap_or(0);
            let detail = format!("worker {name}: {} MiB of {} MiB free", free >> 20, total >> 20);
            let enough = free >= FREE || free >= total / 20;
            checks.push(Check::judged(
                "disk",
                enough,
                detail,
                "free space, or add a disk: a full one refuses events",
            ));
        }
        if let Some(millis) = worker.get("sync_p99_ms").and_then(Value::as_f64) {
            let detail = format!("worker {name}: a sync takes {millis} ms (p99)");
            checks.push(Check::judged(
                "sync",
                millis <= SYNC_MS,
                detail,
                "put the data folder on a faster disk",
            ));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slow_or_full_disk_is_bad_and_has_a_remedy() {
        for (free, sync, ok) in [
            (500_u64 << 30, 0.2, [true, true]),
            (1 << 20, 0.2, [false, true]),
            (9 << 30, 0.2, [true, true]),
            (500 << 30, 450.0, [true, false]),
        ] {
            let status = json!({ "workers": [{
                "name": "a", "disk_free_bytes": free, "disk_total_bytes": 1_u64 << 40, "sync_p99_ms": sync,
            }]});
            let checks = disk(&status);
            let found: Vec<_> = checks.iter().map(|check| check.ok).collect();
            assert_eq!(found, ok);
            assert!(checks.iter().all(|check| check.ok == check.remedy.is_none()));
        }
    }

    #[test]
    fn what_the_server_finds_wrong_is_told() {
        assert!(health(&json!({ "healthy": true, "wrong": [] })).ok);
        let check = health(&json!({ "healthy": false, "wrong": ["the disk is full", "b"] }));
        assert!(!check.ok && check.detail == "the disk is full; b");
        assert!(!health(&json!({ "healthy": false })).ok);
    }

    #[test]
    fn a_line_has_the_fields_of_the_contract() {
        let value = serde_json::to_value(Check::bad("tcp", "d", "r")).unwrap();
        assert_eq!(value, json!({ "check": "tcp", "ok": false, "detail": "d", "remedy": "r" }));
        assert_eq!(serde_json::to_value(Check::good("tcp", "d")).unwrap()["remedy"], Value::Null);
    }
}
