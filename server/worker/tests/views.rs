//! The views are the log's: made anew from it, from a checkpoint or from garbage, they are the same, bit for bit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    reason = "a test ends on what it did not expect"
)]

mod support;

use std::{path::Path, sync::Arc};

use spile_protocol::{id::Version, message::Expect};
use spile_worker::{
    Worker,
    views::{SledViews, Views},
};
use support::{Client, config, log, open};

fn open_with_views(folder: &Path) -> Arc<Worker> {
    let log = log(&folder.join("log"));
    Worker::open(config(), Arc::new(log), Some(&folder.join("views"))).unwrap()
}

/// Some of everything that a view rests on.
async fn publish(worker: &Arc<Worker>, run: u8) {
    for principal in ["a", "b", "c"] {
        let mut client = Client::new(worker, principal, run);
        client.ready_to_publish(1);
        client.lane(1, Some("shared"), 1);
        client.bind(1, 1, "u");
        for number in 1..=5 {
            client.event(0, number, b"own");
            client.event(1, number, b"shared");
        }
        client.batch(0, 6, &[b"x", b"y"], None);
        client.event_if(0, 8, b"stale", Some(Expect::Version(Version(999))));
        client.all_acked(&[(0, 8), (1, 5)]).await;
    }
}

#[tokio::test]
async fn views_from_the_log_alone_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open(folder.path());
    publish(&worker, 1).await;
    publish(&worker, 2).await;
    let before = worker.dump();
    assert!(before.contains("shared") && before.lines().count() > 10, "{before}");
    drop(worker);
    assert_eq!(open(folder.path()).dump(), before);
}

#[tokio::test]
async fn a_checkpoint_and_the_log_behind_it_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    worker.checkpoint();
    publish(&worker, 2).await;
    assert_eq!(worker.status().checkpoints, 1);
    let before = worker.dump();
    drop(worker);
    let worker = open_with_views(folder.path());
    assert_eq!(worker.dump(), before);
    // And once more from the checkpoint that now holds all.
    worker.checkpoint();
    drop(worker);
    let worker = open_with_views(folder.path());
    assert_eq!(worker.dump(), before);
    publish(&worker, 3).await;
    let before = worker.dump();
    drop(worker);
    assert_eq!(open(&folder.path().join("log")).dump(), before);
}

#[tokio::test]
async fn views_that_are_gone_or_garbage_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let views = folder.path().join("views");
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    worker.checkpoint();
    let before = worker.dump();
    drop(worker);
    type Spoil = fn(&Path);
    let gone: Spoil = |views| std::fs::remove_dir_all(views).unwrap();
    let a_file: Spoil = |views| {
        std::fs::remove_dir_all(views).unwrap();
        std::fs::write(views, b"not a folder").unwrap();
    };
    let garbage: Spoil = |views| {
        for file in std::fs::read_dir(views).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let length = std::fs::metadata(&path).unwrap().len();
                std::fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
            }
        }
    };
    for spoil in [gone, garbage, a_file, garbage] {
        spoil(&views);
        let worker = open_with_views(folder.path());
        assert_eq!(worker.dump(), before);
        // It is kept again.
        worker.checkpoint();
        drop(worker);
        assert_eq!(open_with_views(folder.path()).dump(), before);
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    worker.checkpoint();
    drop(worker);
    std::fs::remove_dir_all(folder.path().join("log")).unwrap();
    let worker = open_with_views(folder.path());
    assert!(!worker.dump().contains("shared"), "{}", worker.dump());
}

#[tokio::test]
async fn a_checkpoint_holds_only_what_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    for number in 1..=2000 {
        client.event(0, number, b"x");
        if number % 100 == 0 {
            worker.checkpoint();
        }
    }
    client.acked(0, 2000).await;
    let before = worker.dump();
    drop(client);
    drop(worker);
    assert_eq!(open_with_views(folder.path()).dump(), before);
}

#[tokio::test]
async fn a_principal_keeps_its_64_newest_runs() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    for run in 1..=70 {
        let mut client = Client::new(&worker, "a", run);
        client.ready_to_publish(1);
        client.event(0, 1, b"x");
        client.acked(0, 1).await;
        if run == 40 {
            worker.checkpoint();
        }
    }
    let before = worker.dump();
    assert_eq!(worker.status().runs, 64);
    let opened = |last| support::Told::Opened { lane: 0, last, refused: vec![] };
    let mut client = Client::new(&worker, "a", 7);
    client.lane(0, None, 1);
    assert_eq!(client.told(1).await, [opened(1)]);
    // Nobody has the worker, and with it its store, beyond its end.
    drop(client);
    let mut client = Client::new(&worker, "a", 6);
    client.lane(0, None, 2);
    let code = spile_protocol::code::Code::UNKNOWN_RUN;
    assert_eq!(client.told(1).await, [support::Told::Closed { lane: 0, code, expected: 1 }]);
    drop(client);
    drop(worker);
    let worker = open_with_views(folder.path());
    assert_eq!(worker.dump(), before);
    worker.checkpoint();
    drop(worker);
    assert_eq!(open_with_views(folder.path()).dump(), before);
    assert_eq!(open(&folder.path().join("log")).dump(), before);
}

/// Sled's own threads keep its file for a moment after it was dropped: who opens it then gets the checkpoint all the same.
#[tokio::test]
async fn a_store_that_is_still_let_go_of_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    worker.checkpoint();
    drop(worker);
    let views = folder.path().join("views");
    let held = std::fs::File::open(views.join("db")).unwrap();
    held.lock().unwrap();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let applied = SledViews::open(&views).and_then(|views| views.load(&mut |_, _| true));
        tell.send(applied.map_err(|error| error.to_string())).unwrap();
    });
    let early = told.recv_timeout(std::time::Duration::from_millis(100));
    assert!(early.is_err(), "opened while it was held: {early:?}");
    drop(held);
    assert!(told.recv().unwrap().unwrap() > 0, "the checkpoint was not found");
}

/// A worker that is killed within seconds, again and again, never comes to its checkpoint by time.
#[tokio::test]
async fn a_start_that_read_much_of_the_log_leaves_it_to_no_other() {
    const EVENTS: u64 = 1024;
    let folder = tempfile::tempdir().unwrap();
    let held = || SledViews::open(&folder.path().join("views")).unwrap().load(&mut |_, _| true);
    let worker = open_with_views(folder.path());
    let mut client = Client::new(&worker, "a", 1);
    client.ready_to_publish(1);
    let payloads = [&b"x"[..]; 1024];
    let positions = spile_worker::limits::CHECKPOINT_START;
    for batch in 0..=positions / EVENTS {
        client.batch(0, 1 + batch * EVENTS, &payloads, None);
    }
    client.acked(0, positions + EVENTS).await;
    let end = worker.status().end;
    drop(client);
    drop(worker);
    assert_eq!(held().unwrap(), 0, "nothing asked for a checkpoint yet");
    drop(open_with_views(folder.path()));
    assert_eq!(held().unwrap(), end);
}

fn snapshots(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder.join("log")).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "snapshot")).collect();
    found.sort();
    found
}

/// Removes the store of checkpoints, so that a start has snapshots and the log.
fn without_views(folder: &Path) -> Arc<Worker> {
    std::fs::remove_dir_all(folder.join("views")).unwrap();
    open_with_views(folder)
}

#[tokio::test]
async fn a_snapshot_and_the_log_behind_it_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    // Few rows at once: it takes more than one until nothing is new.
    let mut made = 0;
    while worker.snapshot().unwrap().is_some() {
        made += 1;
    }
    assert!(made > 2, "{made}");
    publish(&worker, 2).await;
    let before = worker.dump();
    drop(worker);
    assert_eq!(snapshots(folder.path()).len(), 2, "two are kept");
    let worker = without_views(folder.path());
    assert_eq!(worker.dump(), before);
    // The store was filled from the snapshot: with the next checkpoint it holds all.
    publish(&worker, 3).await;
    worker.checkpoint();
    let before = worker.dump();
    drop(worker);
    assert_eq!(open_with_views(folder.path()).dump(), before);
}

#[tokio::test]
async fn a_snapshot_that_rotted_leaves_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    worker.snapshot().unwrap().unwrap();
    worker.snapshot().unwrap().unwrap();
    let before = worker.dump();
    drop(worker);
    for newest in snapshots(folder.path()).into_iter().rev() {
        let mut bytes = std::fs::read(&newest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        assert_eq!(without_views(folder.path()).dump(), before, "without {}", newest.display());
    }
}

/// A store of checkpoints that lies does not reach a snapshot: that is made from the last one and the log.
#[tokio::test]
async fn a_snapshot_rests_on_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let worker = open_with_views(folder.path());
    publish(&worker, 1).await;
    let before = worker.dump();
    worker.checkpoint();
    drop(worker);
    let mut views = SledViews::open(&folder.path().join("views")).unwrap();
    let mut applied = 0;
    let mut rows = Vec::new();
    applied += views
        .load(&mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    // What begins with `s` is a stream: its version becomes another.
    let stream = rows.iter_mut().find(|(key, _)| key.ends_with(b"shared") && key[0] == b's');
    stream.unwrap().1[1] ^= 1;
    views.store(&[], rows, applied).unwrap();
    drop(views);
    let worker = open_with_views(folder.path());
    assert_ne!(worker.dump(), before, "the lie is told");
    while worker.snapshot().unwrap().is_some() {}
    drop(worker);
    assert_eq!(without_views(folder.path()).dump(), before);
}
