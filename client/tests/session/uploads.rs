//! Uploads: whole whatever is cut, and nothing twice that the server has said it has.

use std::sync::{Arc, Mutex};

use spile_client::{Blob, Client, Error, Event, Progress, Upload};
use spile_protocol::code::Code;
use tokio::task::JoinSet;

use super::receiving::Received;
use super::server::Server;
use super::{connected, patient, refused};

fn content(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|n| ((n * 31 + n / 251 + seed) % 256) as u8).collect()
}

async fn upload(client: &Client, upload: Upload) -> Result<Blob, Error> {
    patient(client.upload(upload)).await
}

fn received(server: &Server, id: [u8; 16]) -> Received {
    server.world.receiving.lock().unwrap().uploads.get(&id).cloned().unwrap()
}

#[tokio::test]
async fn a_file_a_reader_and_bytes_arrive_whole() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.txt");
    for (n, size) in [0, 1, 8 * 1024, 300_000, 1 << 20, (1 << 20) + 1].into_iter().enumerate() {
        let (bytes, n) = (content(size, n), n as u8);
        std::fs::write(&path, &bytes).unwrap();
        let reader = std::io::Cursor::new(bytes.clone());
        for (kind, given) in [
            Upload::path(&path),
            Upload::bytes(bytes.clone()),
            Upload::reader(reader, size as u64).name("r"),
        ]
        .into_iter()
        .enumerate()
        {
            let id = [n * 3 + kind as u8 + 1; 16];
            let given = given.id(id).key("k").content_type("text/plain").meta("a", "b");
            let blob = upload(&client, given).await.unwrap();
            let stored = received(&server, id);
            assert_eq!(stored.bytes, bytes);
            assert_eq!((blob.size, blob.sent, blob.resumed_at), (size as u64, size as u64, 0));
            assert_eq!(blob.blake3, *blake3::hash(&bytes).as_bytes());
            assert_eq!((&*blob.key, blob.revision), ("k", 1));
            assert_eq!(blob.blob, stored.blob.unwrap());
            assert_eq!(stored.name, ["log.txt", "", "r"][kind]);
            assert_eq!((&*stored.content_type, stored.key.as_deref()), ("text/plain", Some("k")));
            assert_eq!(stored.meta, [("a".to_owned(), "b".to_owned())]);
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_again_and_again_ends_whole() {
    for lazy in [0, 3] {
        let server = Server::start().await;
        let client = connected(&server).await;
        let bytes = content(6 << 20, lazy);
        server.world.receiving.lock().unwrap().lazy = lazy;
        let (cuts, told) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::<Progress>::new())));
        let (world, seen) = (Arc::clone(&server.world), Arc::clone(&told));
        let counted = Arc::clone(&cuts);
        let progress = move |progress: Progress| {
            seen.lock().unwrap().push(progress);
            // Another connection, another cut: soon after it began.
            let mut receiving = world.receiving.lock().unwrap();
            let mut cuts = counted.lock().unwrap();
            if receiving.cut_after.is_none() && *cuts < 10 {
                *cuts += 1;
                receiving.cut_after = Some(2 + *cuts % 3);
            }
        };
        let blob = upload(&client, Upload::bytes(bytes.clone()).id([1; 16]).progress(progress));
        let blob = blob.await.unwrap();
        assert_eq!(received(&server, [1; 16]).bytes, bytes);
        assert_eq!(*cuts.lock().unwrap(), 10);
        let receiving = server.world.receiving.lock().unwrap();
        assert!(receiving.uploads[&[1; 16]].opened > 10);
        // Sent again was only what was under way when it was cut, at most the credit each time; and nothing of it that
        // was told as stored, which the server looks at when it ends.
        assert!(blob.sent >= 6 << 20 && blob.sent <= (6 << 20) + (10 << 20), "{}", blob.sent);
        let told = told.lock().unwrap();
        assert!(told.windows(2).all(|two| two[0].stored <= two[1].stored));
        assert_eq!(told.last().unwrap().stored, 6 << 20);
    }
}

#[tokio::test]
async fn many_go_interleaved_beside_events_and_more_than_a_session_may_open_wait() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let mut tasks = JoinSet::new();
    for n in 0..150_u8 {
        let client = client.clone();
        tasks.spawn(async move {
            let bytes = content(40_000 + usize::from(n), usize::from(n));
            client.upload(Upload::bytes(bytes).id([n; 16])).await
        });
    }
    for n in 0..100 {
        patient(client.publish(Event::new("t/n", n.to_string()))).await.unwrap();
    }
    while let Some(ended) = patient(tasks.join_next()).await {
        ended.unwrap().unwrap();
    }
    let receiving = server.world.receiving.lock().unwrap();
    assert_eq!(receiving.uploads.len(), 150);
    for (id, received) in &receiving.uploads {
        assert!(received.bytes == content(40_000 + usize::from(id[0]), usize::from(id[0])));
    }
    let turns = receiving.chunks.windows(2).filter(|two| two[0].0 != two[1].0).count();
    assert!(turns * 2 > receiving.chunks.len(), "each in its turn: {turns}");
    assert_eq!(server.world.log().len(), 100);
}

#[tokio::test]
async fn refusals_are_told_and_those_that_pass_are_waited_for() {
    let server = Server::start().await;
    let client = connected(&server).await;
    for code in [Code::REPLACED, Code::CONFLICT, Code::NOT_FOUND, Code::FORBIDDEN] {
        server.world.receiving.lock().unwrap().refusals.push_back((code, None));
        let why = upload(&client, Upload::bytes("x")).await.unwrap_err();
        assert_eq!(refused(&why), code);
    }
    for code in [Code::UNAVAILABLE, Code::DISK_FULL, Code::BUSY, Code::TOO_MANY] {
        server.world.receiving.lock().unwrap().refusals.push_back((code, Some(5)));
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let progress = move |progress: Progress| {
        seen.lock().unwrap().extend(progress.waits.map(|why| why.code));
    };
    upload(&client, Upload::bytes("x").progress(progress)).await.unwrap();
    assert!(told.lock().unwrap().contains(&Code::DISK_FULL), "{told:?}");
}

#[tokio::test]
async fn another_file_is_not_glued_to_the_half_of_one() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let half = Received {
        size: 200_000,
        bytes: content(100_000, 1),
        name: "n".to_owned(),
        ..Received::default()
    };
    server.world.receiving.lock().unwrap().uploads.insert([5; 16], half);
    let whole = content(200_000, 2);
    let again = || Upload::bytes(whole.clone()).id([5; 16]).name("n");
    let why = upload(&client, again()).await.unwrap_err();
    assert_eq!(refused(&why), Code::MISMATCH);
    let blob = upload(&client, again()).await.unwrap();
    assert_eq!((blob.resumed_at, blob.sent), (0, 200_000), "the half was forgotten");
    let other = upload(&client, again().name("m")).await.unwrap_err();
    assert_eq!(refused(&other), Code::CONFLICT);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_goes_on_under_the_same_id() {
    let server = Server::start().await;
    let client = connected(&server).await;
    server.world.receiving.lock().unwrap().mute = true;
    let bytes = content(3 << 20, 9);
    let given = || Upload::bytes(bytes.clone()).id([7; 16]);
    let world = Arc::clone(&server.world);
    let some = async {
        loop {
            if world.receiving.lock().unwrap().chunks.len() >= 3 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = client.upload(given()) => panic!("{ended:?}"),
        () = patient(some) => {}
    }
    server.world.receiving.lock().unwrap().mute = false;
    let stored = received(&server, [7; 16]).bytes.len() as u64;
    let blob = upload(&client, given()).await.unwrap();
    assert!(blob.resumed_at >= stored && blob.resumed_at < 3 << 20, "{}", blob.resumed_at);
    assert_eq!(blob.sent, (3 << 20) - blob.resumed_at);
    assert_eq!(received(&server, [7; 16]).bytes, bytes);
    let again = upload(&client, given()).await.unwrap();
    assert_eq!(
        (again.sent, again.resumed_at, again.blob),
        (0, 3 << 20, blob.blob),
        "sealed before"
    );
    assert_eq!(again.blake3, *blake3::hash(&bytes).as_bytes());
}

#[tokio::test]
async fn what_can_not_be_read_or_said_is_told_before_anything_is_sent() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let why = upload(&client, Upload::path("/nowhere/at all")).await.unwrap_err();
    assert!(matches!(&why, Error::File { path, .. } if path == "/nowhere/at all"), "{why}");
    let long = Upload::bytes("x").name("n".repeat(300));
    assert!(matches!(upload(&client, long).await.unwrap_err(), Error::Setup { what: "name", .. }));
    let meta = Upload::bytes("x").meta("m", "v".repeat(600));
    assert!(matches!(upload(&client, meta).await.unwrap_err(), Error::Setup { what: "meta", .. }));
    let short = Upload::reader(std::io::Cursor::new(b"123".to_vec()), 4);
    assert!(matches!(upload(&client, short).await.unwrap_err(), Error::File { .. }));
    patient(client.close()).await;
    assert_eq!(upload(&client, Upload::bytes("x")).await.unwrap_err(), Error::Closed);
}

#[tokio::test]
async fn an_upload_that_was_left_is_forgotten_also_where_the_answer_is_lost() {
    for cut in [false, true] {
        let server = Server::start().await;
        let client = connected(&server).await;
        let bytes = content(3 << 20, 1);
        server.world.receiving.lock().unwrap().mute = true;
        let given = || Upload::bytes(bytes.clone()).id([1; 16]).key("k");
        let left = client.upload(given());
        let begun = async {
            while server.world.receiving.lock().unwrap().chunks.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = left => panic!("{ended:?}"),
            () = patient(begun) => {}
        }
        {
            let mut receiving = server.world.receiving.lock().unwrap();
            assert_eq!(receiving.uploads.len(), 1, "dropped, it is kept");
            (receiving.mute, receiving.cut_abort) = (false, cut);
        }
        patient(client.abort_upload(given())).await.unwrap();
        assert_eq!(server.world.receiving.lock().unwrap().uploads.len(), 0);
        // Its number is free, and so is its id.
        let blob = upload(&client, given()).await.unwrap();
        assert_eq!((blob.resumed_at, blob.sent), (0, 3 << 20));
        let sealed = patient(client.abort_upload(given())).await.unwrap_err();
        assert_eq!(refused(&sealed), Code::CONFLICT);
        let no_id = patient(client.abort_upload(Upload::bytes(bytes.clone()))).await;
        assert!(matches!(no_id, Err(Error::Setup { .. })), "{no_id:?}");
    }
}
