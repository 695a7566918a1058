//! Idle sessions: what each keeps of the server's memory beside the bare acceptor, and what they cost while nothing happens.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use spile_client::{Builder, Client};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::acceptor::Bare;
use crate::peer::{self, Side};
use crate::server::{self, Server};
use crate::table::{Row, Table};
use crate::{Size, number, process, two_threads};

const SESSIONS: usize = 5_000;
/// Being opened at once.
const AT_ONCE: usize = 32;
/// Opened and closed first: what the process needs once is not a session's.
const WARM: usize = 64;
/// What the server has given back by then, it gives back.
const SETTLED: Duration = Duration::from_secs(2);
/// How long the idle server's time is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// Longer than the measurement: an idle session says nothing in it.
const KEEP_ALIVE_S: u32 = 600;
const DEVICE: (&str, [u8; 32]) = ("figures", [42; 32]);

pub(crate) fn measure(folder: &Path, _: Size, table: &mut Table) -> Result<()> {
    let sessions = raise_files()?;
    let plain = bare_kib(&folder.join("plain"), sessions, false)?;
    let certain = bare_kib(&folder.join("certain"), sessions, true)?;
    for (how, certificate, more) in [("device key", false, 3.0), ("certificate", true, 4.5)] {
        let (own, idle) = own_kib(&folder.join(how.replace(' ', "-")), sessions, certificate)?;
        table.push(Row {
            what: format!("idle session, {} of them, by {how}", sessions),
            measured: format!("{own:.1} KiB"),
            bare: format!("bare acceptor {plain:.1} KiB, {certain:.1} with client certificates"),
            ratio: format!("{:+.1} KiB ({:.2} ×)", own - plain, own / plain),
            must: format!("bare + {more} KiB"),
            met: Some(own - plain <= more),
        });
        table.push(Row {
            what: format!("CPU of the server holding them for {} s", WATCHED.as_secs()),
            measured: format!("{} ms", idle.as_millis()),
            bare: "a process that waits: 0 ms, told in steps of 10 ms".into(),
            ratio: format!("{:.2} % of a core", idle.as_secs_f64() / WATCHED.as_secs_f64() * 100.0),
            must: "none".into(),
            met: Some(idle <= Duration::from_millis(20)),
        });
    }
    Ok(())
}

/// As many sessions as this process may have files for.
fn raise_files() -> Result<usize> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let files =
        limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let sessions = SESSIONS.min(files.saturating_sub(256));
    if sessions < SESSIONS {
        eprintln!(
            "figures: only {files} files may be open, so {sessions} sessions, not {SESSIONS}"
        );
    }
    Ok(sessions)
}

/// KiB of the bare acceptor for each connection.
fn bare_kib(folder: &Path, sessions: usize, certificate: bool) -> Result<f64> {
    std::fs::create_dir(folder)?;
    // Only its certificates are wanted.
    let server = Server::start(folder)?;
    let bare = Bare::start(&server)?;
    two_threads()?.block_on(async {
        let tls = peer::tls(&server, certificate, false)?;
        let open = || {
            let (tls, side) = (tls.clone(), Side::Bare(bare.address()));
            async move { Ok(peer::open(side, &tls).await?.0) }
        };
        drop(many::<TlsStream<TcpStream>, _>(WARM, open).await?);
        let before = settled_kib(bare.pid()).await?;
        let held = many(sessions, open).await?;
        let each = number(settled_kib(bare.pid()).await? - before) / number(count(&held));
        Ok(each)
    })
}

/// KiB of the server for each session, and its processor time while it watches them.
fn own_kib(folder: &Path, sessions: usize, certificate: bool) -> Result<(f64, Duration)> {
    std::fs::create_dir(folder)?;
    let server = Server::start(folder)?;
    two_threads()?.block_on(async {
        let operator = server.operator().connect().await?;
        server::add_device(&operator, DEVICE.0, &DEVICE.1).await?;
        operator.close().await;
        let builder = if certificate { server.operator() } else { by_key(&server) };
        let prepared = builder.keep_alive_s(KEEP_ALIVE_S).socket_buffer(1024).prepare()?;
        let open = || {
            let prepared = prepared.clone();
            async move { Ok(prepared.connect().await?) }
        };
        for client in many::<Client, _>(WARM, open).await? {
            client.close().await;
        }
        let before = settled_kib(server.pid()).await?;
        let held = many(sessions, open).await?;
        let each = number(settled_kib(server.pid()).await? - before) / number(count(&held));
        let cpu = server.cpu()?;
        tokio::time::sleep(WATCHED).await;
        let idle = server.cpu()?.saturating_sub(cpu);
        ensure!(held.iter().all(|client| !client.is_closed()), "a session was cut while idle");
        Ok((each, idle))
    })
}

fn by_key(server: &Server) -> Builder {
    server.nobody().device_key(DEVICE.0, DEVICE.1)
}

fn count<T>(held: &[T]) -> u64 {
    u64::try_from(held.len()).unwrap_or(u64::MAX)
}

async fn settled_kib(pid: u32) -> Result<u64> {
    tokio::time::sleep(SETTLED).await;
    process::resident_kib(pid)
}

/// Opens so many, some at a time.
async fn many<T, F>(sessions: usize, open: impl Fn() -> F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (mut held, mut tasks) = (Vec::with_capacity(sessions), JoinSet::new());
    for _ in 0..sessions {
        if tasks.len() == AT_ONCE
            && let Some(opened) = tasks.join_next().await
        {
            held.push(opened??);
        }
        tasks.spawn(open());
    }
    while let Some(opened) = tasks.join_next().await {
        held.push(opened??);
    }
    Ok(held)
}
