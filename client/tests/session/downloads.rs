//! Downloads: all bytes in order over cuts, ranges, and a hash that is checked.

use std::sync::atomic::Ordering;

use spile_client::{Client, Error, Event};
use spile_protocol::code::Code;

use super::server::Server;
use super::{connected, patient, refused};

/// A blob of so many bytes: its id at this server.
async fn stored(client: &Client, size: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
    patient(client.publish(Event::new("t", bytes.clone()))).await.unwrap();
    bytes
}

async fn read(
    client: &Client,
    blob: &str,
    range: impl std::ops::RangeBounds<u64>,
) -> Result<Vec<u8>, Error> {
    let mut download = patient(client.download(blob, range)).await?;
    let mut bytes = Vec::new();
    while let Some(part) = patient(download.next()).await {
        bytes.extend_from_slice(&part?);
    }
    assert!(patient(download.next()).await.is_none(), "it is over");
    Ok(bytes)
}

#[tokio::test]
async fn all_of_it_or_a_part_comes_in_order() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let bytes = stored(&client, 9_000).await;
    stored(&client, 0).await;
    assert_eq!(read(&client, "0", ..).await.unwrap(), bytes);
    assert_eq!(read(&client, "0", 5..17).await.unwrap(), bytes[5..17]);
    assert_eq!(read(&client, "0", 8_990..=9_100).await.unwrap(), bytes[8_990..]);
    assert_eq!(read(&client, "0", 9_000..).await.unwrap(), b"");
    assert_eq!(read(&client, "1", ..).await.unwrap(), b"");
    assert_eq!(refused(&read(&client, "0", 9_001..).await.unwrap_err()), Code::INVALID);
    assert_eq!(refused(&read(&client, "7", ..).await.unwrap_err()), Code::NOT_FOUND);
    let about = patient(client.blob("0")).await.unwrap();
    assert_eq!((about.size, &*about.name, &*about.id), (9_000, "t", "0"));
    assert_eq!(about.blake3, Some(*blake3::hash(&bytes).as_bytes()));
}

#[tokio::test]
async fn it_goes_on_where_it_was_when_the_connection_breaks() {
    let server = Server::start().await;
    let client = connected(&server).await;
    let bytes = stored(&client, 200_000).await;
    let mut download = patient(client.download("0", ..)).await.unwrap();
    let mut got = Vec::new();
    for connection in 2..5 {
        // What was asked for is never answered, and asked for again on the next connection.
        server.world.silent.store(true, Ordering::Relaxed);
        let cut = async {
            server.world.cut();
            while server.world.connections.load(Ordering::Relaxed) < connection {
                tokio::task::yield_now().await;
            }
            server.world.silent.store(false, Ordering::Relaxed);
        };
        let (part, ()) = patient(async { tokio::join!(download.next(), cut) }).await;
        got.extend_from_slice(&part.unwrap().unwrap());
    }
    while let Some(part) = patient(download.next()).await {
        got.extend_from_slice(&part.unwrap());
    }
    assert!(got == bytes);
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_sealed_are_told() {
    let server = Server::start().await;
    let client = connected(&server).await;
    stored(&client, 100).await;
    server.world.rotten.store(true, Ordering::Relaxed);
    assert_eq!(refused(&read(&client, "0", ..).await.unwrap_err()), Code::CORRUPT);
    assert_eq!(read(&client, "0", 1..).await.unwrap().len(), 99, "a part has no hash of its own");
}
