//! A record of no stream and no meaning, as most tests store it.
#![allow(unreachable_pub, reason = "a part of several test programs")]

use bytes::Bytes;
use spile_log::Append;

pub fn record(time_ms: u64, payload: Bytes) -> Append {
    Append {
        kind: 1,
        positions: 1,
        time_ms,
        stream: 0,
        version: 0,
        prev: 0,
        head: Bytes::new(),
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}
