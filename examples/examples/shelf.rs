//! An aggregate: a shelf that is never taken from when it is empty, whoever takes at the same time.
//!
//! ```sh
//! cargo run -p spile-examples --example shelf -- shelf-7 put 3
//! cargo run -p spile-examples --example shelf -- shelf-7 take
//! ```
//!
//! The shelf's stream is its history; the state is folded from it. What is decided is appended only if the state it was
//! decided on is still the newest; else the newer events are folded in and it is decided anew.

use anyhow::{Context, bail};
use spile_client::{Delivery, Event};

/// How many are on the shelf: each event says by how much that changed.
fn fold(stock: &mut i64, event: &Delivery) {
    let change = std::str::from_utf8(&event.payload).ok().and_then(|text| text.parse().ok());
    // What is not a number is somebody else's mistake, and no reason to lose count.
    *stock += change.unwrap_or(0_i64);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (shelf, change) = match words[..] {
        [shelf, "take"] => (shelf, -1),
        [shelf, "put", count] => (shelf, count.parse().context("how many is a number")?),
        _ => bail!("say SHELF take, or SHELF put COUNT"),
    };
    let client = spile_examples::builder()?.connect().await?;
    let mut stock = client.aggregate(shelf, 0_i64, fold).await?;
    println!("{} on {shelf} at version {}", stock.state(), stock.version());
    let changed = stock
        .decide(|stock| {
            let enough = stock + change >= 0;
            enough.then(|| Event::new("shelf/moved", change.to_string()))
        })
        .await?;
    match changed {
        Some(receipt) => println!("{} now; stored at {:?}", stock.state(), receipt.position),
        None => println!("{shelf} is empty"),
    }
    client.close().await;
    Ok(())
}
