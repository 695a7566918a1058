//! Bytes of a small telemetry event and its acknowledgement: as they are framed, and as TLS wraps them.

use std::path::Path;

use anyhow::{Result, ensure};
use bytes::BytesMut;
use spile_protocol::codec;
use spile_protocol::crc;
use spile_protocol::id::RouteId;
use spile_protocol::message::{Ack, Batch, Durability, Event, Extras, Lengths, Message};

use crate::Size;
use crate::load::payload;
use crate::table::{Row, Table};

const TELEMETRY: usize = 32;
const TEN: u32 = 10;
/// TLS 1.3 around a record: header 5, inner type 1, tag 16.
const RECORD: usize = 5 + 1 + 16;

pub(crate) fn measure(_: &Path, _: Size, table: &mut Table) -> Result<()> {
    let (one, ten) = (payload(TELEMETRY), payload(TELEMETRY * 10));
    let (route, extras) = (RouteId(0), Extras::default());
    let single =
        framed(&Message::Event(Event { route, extras, payload: &one }))? + framed(&ack(1))?;
    table.push(row("32-byte telemetry and its ack", single, 1, 46)?);
    let lengths = Lengths::same(TEN, u32::try_from(TELEMETRY)?);
    let batch = framed(&Message::Batch(Batch { route, lengths, extras, payload: &ten }))?;
    table.push(row("the same in batches of ten, each", batch + framed(&ack(10))?, 10, 36)?);
    Ok(())
}

const fn ack(step: u8) -> Message<'static> {
    Message::Ack(Ack::Step { durability: Durability::Stored, step })
}

fn framed(message: &Message<'_>) -> Result<usize> {
    let mut out = BytesMut::new();
    codec::append(&mut out, message, crc::of(message.payload()))?;
    Ok(out.len())
}

fn row(what: &str, all: usize, events: usize, must: usize) -> Result<Row> {
    ensure!(all > 0, "nothing was framed");
    let (each, tls) = (all.div_ceil(events), (2 * RECORD).div_ceil(events));
    Ok(Row {
        what: what.into(),
        measured: format!("{each} bytes, and {tls} of TLS records"),
        bare: format!("the payload, {TELEMETRY} bytes"),
        ratio: format!("+{} bytes", each.saturating_sub(TELEMETRY)),
        must: format!("{must} bytes"),
        met: Some(each <= must),
    })
}
