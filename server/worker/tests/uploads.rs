//! Uploads and blobs of one worker, said in messages: open, chunk, seal, read, list, free.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod bulk;

use bulk::{Disks, Heard, Mouth, bytes};
use spile_protocol::{code::Code, message::request::Listing};
use spile_worker::Worker;

async fn upload(
    mouth: &mut Mouth,
    number: u32,
    id: u8,
    name: &str,
    whole: &[u8],
    step: usize,
) -> String {
    mouth.open(number, id, whole.len(), name);
    assert_eq!(mouth.opened(number).await, 0);
    for (n, chunk) in whole.chunks(step).enumerate() {
        mouth.chunk(number, n * step, chunk);
    }
    mouth.seal(number, whole);
    mouth.sealed(number).await.0
}

#[tokio::test]
async fn a_file_is_sent_sealed_and_read_back() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    let whole = bytes(1, 700_001);
    let blob = upload(&mut mouth, 1, 1, "a.bin", &whole, 65_536).await;
    assert_eq!(mouth.read(&blob, 0, 0).await, Ok(whole.clone()));
    for (offset, length) in
        [(0, 1), (65_535, 2), (65_536, 65_536), (131_000, 300_000), (700_000, 0)]
    {
        let end = if length == 0 { whole.len() } else { offset + length };
        let read = mouth.read(&blob, offset as u64, length as u32).await;
        assert_eq!(read.as_deref(), Ok(&whole[offset..end]), "{offset} {length}");
    }
    assert_eq!(mouth.read(&blob, 700_001, 0).await, Ok(Vec::new()));
    assert_eq!(mouth.read(&blob, 700_002, 0).await, Err(Code::INVALID));
    assert_eq!(mouth.read("00-1", 0, 0).await, Err(Code::NOT_FOUND));
    // It is told once more to who opens it again.
    mouth.open(2, 1, whole.len(), "a.bin");
    assert_eq!(mouth.sealed(2).await, (blob, 1));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_after_a_reconnect_and_a_restart() {
    let disks = Disks::new();
    let worker = disks.worker();
    let whole = bytes(2, 300_000);
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, whole.len(), "a.bin");
    mouth.opened(1).await;
    mouth.chunk(1, 0, &whole[..100_000]);
    mouth.stored(1, 100_000).await;
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(9, 1, whole.len(), "a.bin");
    assert_eq!(mouth.opened(9).await, 100_000);
    mouth.chunk(9, 100_000, &whole[100_000..200_000]);
    mouth.stored(9, 200_000).await;
    drop((mouth, worker));
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(3, 1, whole.len(), "a.bin");
    assert_eq!(mouth.opened(3).await, 200_000);
    mouth.chunk(3, 200_000, &whole[200_000..]);
    mouth.seal(3, &whole);
    let (blob, revision) = mouth.sealed(3).await;
    assert_eq!(revision, 1);
    assert_eq!(mouth.read(&blob, 0, 0).await.as_deref(), Ok(&whole[..]));
    drop((mouth, worker));
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    assert_eq!(mouth.read(&blob, 150_000, 100_000).await.as_deref(), Ok(&whole[150_000..250_000]));
    let dump = worker.dump();
    drop((mouth, worker));
    assert_eq!(disks.without_views().dump(), dump, "views are the logs'");
}

#[tokio::test]
async fn what_is_not_in_order_says_from_where_to_go_on() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, 10, "a");
    mouth.chunk(1, 0, b"01234");
    mouth.chunk(1, 6, b"6789");
    mouth.chunk(1, 5, b"56789");
    assert_eq!(mouth.failed(1).await, (Code::OUT_OF_ORDER, 5));
    mouth.open(1, 1, 10, "a");
    assert_eq!(mouth.opened(1).await, 5);
    mouth.chunk(1, 5, b"");
    assert_eq!(mouth.failed(1).await, (Code::INVALID, 5));
    mouth.open(1, 1, 10, "a");
    mouth.opened(1).await;
    mouth.chunk(1, 5, b"567890");
    assert_eq!(mouth.failed(1).await, (Code::INVALID, 5));
    for (size, name) in [(11, "a"), (10, "b")] {
        mouth.open(2, 1, size, name);
        assert_eq!(mouth.failed(2).await.0, Code::CONFLICT);
    }
}

#[tokio::test]
async fn the_newest_session_writes() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut older = Mouth::new(&worker, "pump-7");
    older.open(1, 1, 10, "a");
    older.chunk(1, 0, b"01234");
    older.stored(1, 5).await;
    let mut newer = Mouth::of_run(&worker, "pump-7", 2);
    newer.open(1, 1, 10, "a");
    assert_eq!(newer.opened(1).await, 5);
    older.chunk(1, 5, b"xxxxx");
    assert_eq!(older.failed(1).await.0, Code::REPLACED);
    newer.chunk(1, 5, b"56789");
    newer.seal(1, b"0123456789");
    let (blob, _) = newer.sealed(1).await;
    assert_eq!(newer.read(&blob, 0, 0).await.as_deref(), Ok(&b"0123456789"[..]));
}

#[tokio::test]
async fn another_hash_or_size_forgets_the_upload() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    for (sent, whole) in [(&b"0123456789"[..], &b"012345678x"[..]), (b"01234", b"0123456789")] {
        mouth.open(1, 1, 10, "a");
        assert_eq!(mouth.opened(1).await, 0, "it was forgotten");
        mouth.chunk(1, 0, sent);
        mouth.seal(1, whole);
        assert_eq!(mouth.failed(1).await.0, Code::MISMATCH);
    }
    let blob = upload(&mut mouth, 1, 1, "a", b"0123456789", 3).await;
    assert_eq!(mouth.read(&blob, 0, 0).await.as_deref(), Ok(&b"0123456789"[..]));
    let dump = worker.dump();
    drop((mouth, worker));
    assert_eq!(disks.without_views().dump(), dump);
}

#[tokio::test]
async fn revisions_count_under_key_and_name_and_listings_show_them() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    let mut blobs = Vec::new();
    for (n, name) in ["b", "a", "b", "c/1", "b", ""].into_iter().enumerate() {
        blobs.push(upload(&mut mouth, 1, n as u8, name, name.as_bytes(), 7).await);
    }
    mouth.open(5, 77, 9, "under way");
    mouth.opened(5).await;
    let names = |entries: &[Heard]| {
        let of = |entry: &Heard| match entry {
            Heard::Value { name, revision, .. } => format!("{name}:{revision}"),
            other => panic!("{other:?}"),
        };
        entries.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    let (all, cursor) = mouth.list(Listing::Blobs, "", "", 100).await;
    assert_eq!((names(&all).as_str(), cursor.as_str()), (":1 a:1 b:1 b:2 b:3 c/1:1", ""));
    let (page, cursor) = mouth.list(Listing::Blobs, "", "", 4).await;
    assert_eq!(names(&page), ":1 a:1 b:1 b:2");
    let (page, cursor) = mouth.list(Listing::Blobs, "", &cursor, 4).await;
    assert_eq!((names(&page).as_str(), cursor.as_str()), ("b:3 c/1:1", ""));
    let (page, _) = mouth.list(Listing::Blobs, "c/", "", 4).await;
    assert_eq!(names(&page), "c/1:1");
    let (none, _) = mouth.list(Listing::Blobs, "x", "", 4).await;
    assert!(none.is_empty());
    let (open, _) = mouth.list(Listing::Uploads, "", "", 4).await;
    assert_eq!(names(&open), "under way:0");
    let mut other = Mouth::of_tenant(&worker, "other", "pump-7");
    assert!(other.list(Listing::Blobs, "", "", 4).await.0.is_empty());
    assert_eq!(other.read(&blobs[0], 0, 0).await, Err(Code::NOT_FOUND), "nothing crosses");
    // The newest goes, its number is not used again.
    let (code, reply) = mouth.call("$blob", "rm", &format!(r#"{{"blob":"{}"}}"#, blobs[4])).await;
    assert_eq!((code, reply["freed_bytes"].as_u64()), (Code(0), Some(1)));
    worker.checkpoint();
    let dump = worker.dump();
    drop((mouth, other, worker));
    let worker = disks.worker();
    assert_eq!(worker.dump(), dump);
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 99, 1, "b");
    mouth.opened(1).await;
    mouth.chunk(1, 0, b"b");
    mouth.seal(1, b"b");
    assert_eq!(mouth.sealed(1).await.1, 4);
    assert_eq!(mouth.read(&blobs[4], 0, 0).await, Err(Code::NOT_FOUND));
    assert_eq!(
        mouth.call("$blob", "show", &format!(r#"{{"blob":"{}"}}"#, blobs[4])).await.0,
        Code::NOT_FOUND
    );
    let (_, shown) = mouth.call("$blob", "show", &format!(r#"{{"blob":"{}"}}"#, blobs[3])).await;
    assert_eq!(
        (shown["name"].as_str(), shown["device"].as_str()),
        (Some("c/1"), Some("device/pump-7"))
    );
}

#[tokio::test]
async fn an_upload_that_is_aborted_or_cancelled_is_forgotten() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, 10, "a");
    mouth.chunk(1, 0, b"01234");
    mouth.stored(1, 5).await;
    mouth.abort(1);
    assert_eq!(mouth.until(|heard| matches!(heard, Heard::Aborted(1))).await, Heard::Aborted(1));
    mouth.abort(1);
    assert_eq!(mouth.failed(1).await.0, Code::NOT_FOUND);
    mouth.open(2, 1, 10, "b");
    assert_eq!(mouth.opened(2).await, 0);
    let mut operator = Mouth::new(&worker, "operator");
    let id = "01".repeat(16);
    let (code, reply) = operator.call("$upload", "cancel", &format!(r#"{{"id":"{id}"}}"#)).await;
    assert_eq!((code, reply["upload"].as_str()), (Code(0), Some(id.as_str())));
    assert_eq!(mouth.failed(2).await.0, Code::NOT_FOUND);
    let (code, _) = operator.call("$upload", "cancel", &format!(r#"{{"id":"{id}"}}"#)).await;
    assert_eq!(code, Code::NOT_FOUND);
    let dump = worker.dump();
    drop((mouth, operator, worker));
    assert_eq!(disks.without_views().dump(), dump);
}

#[tokio::test]
async fn the_seal_is_an_event_of_the_key_s_stream() {
    let disks = Disks::new();
    let worker = disks.worker();
    let mut mouth = Mouth::new(&worker, "pump-7");
    let mut reader = support::Client::new(&worker, "reader", 5);
    reader.subscribe_from(1, "file.uploaded", 1);
    let blob = upload(&mut mouth, 1, 1, "a", b"0123456789", 3).await;
    let events = reader.events(1).await;
    let event: serde_json::Value = serde_json::from_slice(&events[0].payload).unwrap();
    assert_eq!((events[0].key.as_str(), events[0].version), ("pump-7", 1));
    assert_eq!((event["blob"].as_str(), event["size"].as_u64()), (Some(blob.as_str()), Some(10)));
    let hash = blake3::hash(b"0123456789").to_hex().to_string();
    assert_eq!(event["blake3"].as_str(), Some(hash.as_str()));
}

mod support;

#[tokio::test]
async fn a_worker_without_a_chunk_log_takes_no_uploads() {
    let folder = tempfile::tempdir().unwrap();
    let worker =
        Worker::open(support::config(), std::sync::Arc::new(support::log(folder.path())), None);
    let worker = worker.unwrap();
    let mut mouth = Mouth::new(&worker, "pump-7");
    mouth.open(1, 1, 10, "a");
    mouth.chunk(1, 0, b"01234");
    assert_eq!(mouth.failed(1).await.0, Code::NOT_FOUND);
}
