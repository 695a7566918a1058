//! Handshakes a second with authentication by certificate, full and resumed, beside the bare acceptor.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::acceptor::Bare;
use crate::disk::micros;
use crate::peer::{self, Side};
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, now, number, two_threads};

/// Handshakes under way at once.
const AT_ONCE: usize = 32;

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let server = Server::start(folder)?;
    let bare = Bare::start(&server)?;
    // The machine keeps closed connections a while; short repetitions leave it ports.
    let time = size.window().min(Duration::from_secs(1));
    for resume in [false, true] {
        let (mut own, mut limit) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let runtime = two_threads()?;
            limit.push(runtime.block_on(turn(
                Side::Bare(bare.address()),
                &server,
                &bare,
                resume,
                time,
            ))?);
            own.push(runtime.block_on(turn(
                Side::Spile(server.edge()),
                &server,
                &bare,
                resume,
                time,
            ))?);
        }
        table.push(row(resume, &own, &limit));
    }
    Ok(())
}

fn row(resume: bool, own: &[Seen], limit: &[Seen]) -> Row {
    let rate = |seen: &[Seen]| median(seen.iter().map(|seen| seen.per_s).collect());
    let cost = |seen: &[Seen]| median(seen.iter().map(|seen| seen.server_us).collect());
    let (kind, ratio) = (if resume { "resumed" } else { "full" }, rate(own) / rate(limit));
    Row {
        what: format!("handshakes with authentication by certificate, {kind}"),
        measured: format!("{}/s, server {:.0} µs each", grouped(rate(own)), cost(own)),
        bare: format!("bare acceptor {}/s, {:.0} µs each", grouped(rate(limit)), cost(limit)),
        ratio: format!("{ratio:.2} × (CPU {:.2} ×)", cost(own) / cost(limit)),
        must: "0.90 × bare".into(),
        met: Some(ratio >= 0.9),
    }
}

struct Seen {
    per_s: f64,
    server_us: f64,
}

async fn turn(
    side: Side,
    server: &Server,
    bare: &Bare,
    resume: bool,
    time: Duration,
) -> Result<Seen> {
    let mut peers = Vec::new();
    for _ in 0..AT_ONCE {
        let tls = peer::tls(server, true, resume)?;
        // The first fetches the ticket and is not counted.
        shake(side, &tls).await?;
        peers.push(tls);
    }
    let cpu = || match side {
        Side::Spile(_) => server.cpu(),
        Side::Bare(_) => bare.cpu(),
    };
    let (before, begun, mut tasks) = (cpu()?, now(), JoinSet::new());
    for tls in peers {
        tasks.spawn(until(side, tls, resume, begun + time));
    }
    let mut count = 0;
    while let Some(ended) = tasks.join_next().await {
        count += ended??;
    }
    let (spent, shaken) = (cpu()?.saturating_sub(before), number(count));
    Ok(Seen { per_s: shaken / begun.elapsed().as_secs_f64(), server_us: micros(spent) / shaken })
}

async fn until(side: Side, tls: TlsConnector, resume: bool, deadline: Instant) -> Result<u64> {
    let wanted = if resume { HandshakeKind::Resumed } else { HandshakeKind::Full };
    let mut count = 0;
    while now() < deadline {
        let kind = shake(side, &tls).await?;
        ensure!(kind == wanted, "a {kind:?} handshake where {wanted:?} was wanted");
        count += 1;
    }
    Ok(count)
}

async fn shake(side: Side, tls: &TlsConnector) -> Result<HandshakeKind> {
    let (mut stream, kind) = peer::open(side, tls).await?;
    stream.shutdown().await?;
    Ok(kind)
}
