//! A device that sends each event in a frame of its own, as firmware does; the client would make batches of them.

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use spile_protocol::id::{LaneId, Number, RouteId};
use spile_protocol::message::{Ack, Bind, Event, Extras, Lane, Message, Sender};
use spile_protocol::{codec, crc, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::{self, Side};
use crate::server::Server;

/// In flight; the credit a session begins with takes it.
const WINDOW: u64 = 512;

/// Publishes so many events of `payload`, each in an EVENT without extras, under one key and topic.
pub(crate) async fn publish(
    server: &Server,
    (key, topic): (&str, &str),
    payload: &[u8],
    events: u64,
) -> Result<()> {
    let tls = peer::tls(server, true, false)?;
    let (mut stream, _) = peer::open(Side::Spile(server.edge()), &tls).await?;
    let (lane, route) = (LaneId(1), RouteId(0));
    let mut out = BytesMut::new();
    let opened = Lane { lane, first_unacked: Number(1), key: Some(key), urgent: false };
    codec::append(&mut out, &Message::Lane(opened), 0)?;
    let bound = Bind { route, lane, topic, content_type: "", schema: 0, encoding: "" };
    codec::append(&mut out, &Message::Bind(bound), 0)?;
    let (event, sum) = (Event { route, extras: Extras::default(), payload }, crc::of(payload));
    let (mut sent, mut acked, mut input) = (0, 0, BytesMut::new());
    while acked < events {
        while sent < events.min(acked + WINDOW) {
            codec::append(&mut out, &Message::Event(event), sum)?;
            sent += 1;
        }
        stream.write_all_buf(&mut out).await?;
        ensure!(stream.read_buf(&mut input).await? > 0, "closed with {acked} acked");
        while let Some(whole) = codec::take(&mut input, limits::FRAME_DEFAULT)? {
            acked = acked.max(last(&whole.message(Sender::Server)?)?);
        }
    }
    stream.shutdown().await.context("saying goodbye")
}

/// Up to which number the lane is acked.
fn last(message: &Message<'_>) -> Result<u64> {
    if let Message::Ack(Ack::Spelled { last, .. }) = message {
        return Ok(last.0);
    }
    ensure!(matches!(message, Message::LaneAnswer(_)), "{message:?} where an ACK was awaited");
    Ok(0)
}
