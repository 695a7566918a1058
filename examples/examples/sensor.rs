//! A sensor: a reading a second, in order, until it is stopped.
//!
//! The client numbers what it sends, comes back when the connection breaks and sends again what was not acknowledged:
//! each reading is stored once. `SENSOR_COUNT` ends it after so many, `SENSOR_EVERY_MS` is the time between two.

use std::time::Duration;

use anyhow::Result;
use spile_client::{Error, Event, wall};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let client = spile_examples::builder()?.connect().await?;
    println!("publishing as {}", client.session().principal);
    let mut ticks = tokio::time::interval(Duration::from_millis(number("SENSOR_EVERY_MS", 1_000)?));
    for n in 0..number("SENSOR_COUNT", u64::MAX)? {
        ticks.tick().await;
        let event =
            Event::new("telemetry/temp", reading(n)).content_type("text/plain").device_time(wall());
        match client.publish(event).await {
            Ok(receipt) => println!("{} {:?}", receipt.durability.name(), receipt.version),
            // Refused for good: this very reading is wrong or not allowed, the next may be fine.
            Err(Error::Refused(refusal)) => eprintln!("refused: {refusal}"),
            Err(over) => return Err(over.into()),
        }
    }
    client.close().await;
    Ok(())
}

/// What a real one would measure: 20.0 to 24.9 and back.
fn reading(n: u64) -> String {
    let tenths = n % 50;
    format!("{}.{}", 20 + tenths / 10, tenths % 10)
}

fn number(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
}
