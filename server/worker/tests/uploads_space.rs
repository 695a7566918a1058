//! What uploads cost: syncs, disk space, and what becomes of those that nobody finishes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

mod bulk;

use std::{sync::Arc, time::Duration};

use bulk::{Disks, Heard, Mouth, NOW, bytes};
use spile_protocol::{
    code::Code,
    id::{LaneId, Number},
    message::{Lane, Message, request::Listing},
    time::Millis,
};
use spile_worker::{Logs, Polled, Worker};

async fn upload(mouth: &mut Mouth, id: u8, name: &str, whole: &[u8]) -> String {
    mouth.open(1, id, whole.len(), name);
    mouth.opened(1).await;
    for (n, chunk) in whole.chunks(50_000).enumerate() {
        mouth.chunk(1, n * 50_000, chunk);
    }
    mouth.seal(1, whole);
    mouth.sealed(1).await.0
}

/// Tends uploads until their chunks take less.
async fn tended(worker: &Worker, disks: &Disks, bound: u64) {
    let tending = async {
        worker.tend_uploads();
        while disks.chunk_bytes() >= bound {
            tokio::task::yield_now().await;
            worker.tend_uploads();
        }
    };
    let tended = tokio::time::timeout(Duration::from_secs(20), tending).await;
    assert!(tended.is_ok(), "{} bytes of chunks, not below {bound}", disks.chunk_bytes());
}

/// Commits are made here, so that how many there are is no matter of the disk's speed.
#[test]
fn a_sync_covers_many_uploads() {
    const SESSIONS: u64 = 16;
    const UPLOADS: u32 = 8;
    let disks = Disks::new();
    let (events, chunks) =
        (Arc::new(disks.log_by_hand("events")), Arc::new(disks.log_by_hand("chunks")));
    let logs = Logs { inline: true, ..Logs::new(events.clone(), chunks.clone()) };
    let worker = disks.worker_on(logs);
    let session = |n| Mouth::new(&worker, &format!("pump-{n}"));
    let mut mouths: Vec<_> = (0..SESSIONS).map(session).collect();
    let whole = bytes(7, 40_000);
    // All say what they have before any is waited for, as they would on sixteen wires.
    for upload in 1..=UPLOADS {
        for mouth in &mut mouths {
            mouth.open(upload, upload as u8, whole.len(), "file");
            mouth.chunk(upload, 0, &whole[..20_000]);
            mouth.chunk(upload, 20_000, &whole[20_000..]);
            mouth.seal(upload, &whole);
        }
    }
    let mut sealed = 0_u64;
    for _ in 0..10 {
        while events.pump() | chunks.pump() {}
        for mouth in &mut mouths {
            while matches!(mouth.poll(1 << 20), Polled::More) {}
            for heard in mouth.heard.drain(..) {
                assert!(!matches!(heard, Heard::Failed { .. } | Heard::Refused(_)), "{heard:?}");
                sealed += u64::from(matches!(heard, Heard::Sealed { .. }));
            }
        }
    }
    let all = SESSIONS * u64::from(UPLOADS);
    let status = worker.status();
    let files = status.files;
    assert_eq!((sealed, status.sealed), (all, all));
    assert_eq!((files.blobs as u64, files.open_uploads), (all, 0));
    assert_eq!(status.chunk_bytes, all * 40_000);
    // Alone, 128 uploads would take 128 of each at the least.
    println!("{} syncs of chunks, {} of events", files.chunk_commits, status.commits);
    assert!(files.chunk_commits <= 4, "{} syncs of chunks", files.chunk_commits);
    assert!(status.commits <= 8, "{} syncs of opens and seals", status.commits);
}

#[tokio::test]
async fn space_comes_back_and_what_is_kept_stays_readable() {
    let disks = Disks::new();
    let logs = Logs { inline: true, ..disks.logs() };
    let worker = disks.worker_on(logs);
    let mut mouth = Mouth::new(&worker, "pump-7");
    let mut blobs = Vec::new();
    // Segments have 1 MiB: eight blobs of 900 kB, each beside a small one that is kept.
    for n in 0..8 {
        let (large, small) = (bytes(n, 900_000), bytes(100 + n, 1000));
        let kept = upload(&mut mouth, 2 * n as u8, "small", &small).await;
        blobs.push((upload(&mut mouth, 2 * n as u8 + 1, "large", &large).await, kept, small));
    }
    // An upload that is under way keeps its bytes too.
    let open = bytes(55, 600_000);
    mouth.open(9, 99, open.len(), "open");
    mouth.opened(9).await;
    mouth.chunk(9, 0, &open[..200_000]);
    mouth.stored(9, 200_000).await;
    let before = disks.chunk_bytes();
    for (large, ..) in &blobs {
        let (code, _) = mouth.call("$blob", "rm", &format!(r#"{{"blob":"{large}"}}"#)).await;
        assert_eq!(code, Code(0));
    }
    // Two thirds of a segment are still written to.
    tended(&worker, &disks, before / 3).await;
    let check = async |mouth: &mut Mouth| {
        for (large, kept, small) in &blobs {
            assert_eq!(mouth.read(large, 0, 0).await, Err(Code::NOT_FOUND));
            assert_eq!(mouth.read(kept, 0, 0).await.as_deref(), Ok(&small[..]));
        }
    };
    check(&mut mouth).await;
    let dump = worker.dump();
    drop((mouth, worker));
    let worker = disks.without_views();
    assert_eq!(worker.dump(), dump);
    let mut mouth = Mouth::new(&worker, "pump-7");
    check(&mut mouth).await;
    mouth.open(1, 99, open.len(), "open");
    assert_eq!(mouth.opened(1).await, 200_000);
    mouth.chunk(1, 200_000, &open[200_000..400_000]);
    mouth.chunk(1, 400_000, &open[400_000..]);
    mouth.seal(1, &open);
    let (blob, _) = mouth.sealed(1).await;
    assert_eq!(mouth.read(&blob, 0, 0).await.as_deref(), Ok(&open[..]));
}

#[tokio::test]
async fn what_nobody_goes_on_with_for_a_week_is_forgotten() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let disks = Disks::new();
    let worker = disks.worker_on(Logs { inline: true, ..disks.logs() });
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, 10, "old");
    mouth.open(2, 2, 10, "young");
    mouth.chunk(1, 0, b"01234");
    mouth.stored(1, 5).await;
    mouth.now = Millis(NOW.0 + 5 * DAY_MS);
    mouth.chunk(2, 0, b"01234");
    mouth.stored(2, 5).await;
    worker.expire_uploads(Millis(NOW.0 + 7 * DAY_MS));
    assert_eq!(worker.status().files.open_uploads, 2);
    worker.expire_uploads(Millis(NOW.0 + 7 * DAY_MS + 1));
    assert_eq!(mouth.failed(1).await.0, Code::EXPIRED);
    assert_eq!((worker.status().files.expired, worker.status().files.aborted), (1, 0));
    let (open, _) = mouth.list(Listing::Uploads, "", "", 10).await;
    assert!(
        matches!(&open[..], [Heard::Value { name, stored: 5, .. }] if name == "young"),
        "{open:?}"
    );
    let dump = worker.dump();
    drop((mouth, worker));
    assert_eq!(disks.without_views().dump(), dump);
}

#[tokio::test]
async fn lane_0_is_told_what_is_open() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, 10, "a");
    mouth.chunk(1, 0, b"01234");
    mouth.stored(1, 5).await;
    let mut again = Mouth::of_run(&worker, "pump-7", 2);
    let (lane, first_unacked) = (LaneId(0), Number(1));
    again.say(&Message::Lane(Lane { lane, first_unacked, key: None, urgent: false }));
    let told = again.until(|heard| matches!(heard, Heard::Lane(_))).await;
    assert_eq!(told, Heard::Lane(vec![([1; 16], 5)]));
}

#[tokio::test]
async fn bytes_that_rotted_are_not_handed_out() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    let whole = bytes(3, 120_000);
    let blob = upload(&mut mouth, 1, "a", &whole).await;
    disks.rot_chunk(&whole[60_000..60_100]);
    assert_eq!(mouth.read(&blob, 0, 50_000).await.as_deref(), Ok(&whole[..50_000]));
    assert_eq!(mouth.read(&blob, 0, 0).await, Err(Code::CORRUPT));
    assert_eq!(mouth.read(&blob, 100_000, 0).await.as_deref(), Ok(&whole[100_000..]));
}

#[tokio::test]
async fn a_blob_is_read_on_while_its_segments_are_rewritten() {
    let disks = Disks::new();
    let logs = Logs { inline: true, ..disks.logs() };
    let chunks = logs.chunks.clone().unwrap();
    let worker = disks.worker_on(logs);
    let mut mouth = Mouth::new(&worker, "pump-7");
    let (kept, other) = (bytes(1, 1_200_000), bytes(2, 6_000_000));
    for (number, whole) in [(1, &kept), (2, &other)] {
        mouth.open(number, number as u8, whole.len(), "file");
        mouth.opened(number).await;
    }
    for n in 0..24 {
        mouth.chunk(1, n * 50_000, &kept[n * 50_000..][..50_000]);
        mouth.chunk(2, n * 250_000, &other[n * 250_000..][..250_000]);
        mouth.stored(2, (n as u64 + 1) * 250_000).await;
    }
    let mut blobs = Vec::new();
    for (number, whole) in [(1, &kept), (2, &other)] {
        mouth.seal(number, whole);
        blobs.push(mouth.sealed(number).await.0);
    }
    mouth.get(&blobs[0], 0, 0);
    mouth.poll(1);
    let Some(Heard::Value { payload, more: true, .. }) = mouth.heard.pop_front() else {
        panic!("no beginning")
    };
    let mut read = payload.to_vec();
    let mut operator = Mouth::new(&worker, "operator");
    operator.call("$blob", "rm", &format!(r#"{{"blob":"{}"}}"#, blobs[1])).await;
    let before = disks.chunk_bytes();
    // They are rewritten.
    tended(&worker, &disks, before / 2).await;
    loop {
        let heard = mouth.until(|_| true).await;
        let Heard::Value { payload, more, .. } = heard else { panic!("{heard:?}") };
        read.extend_from_slice(&payload);
        if !more {
            break;
        }
    }
    assert!(read == kept, "another blob");
    assert!(chunks.health().is_good(), "{:?}", chunks.health().damages);
}
