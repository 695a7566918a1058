//! The client of Spile, a device-ingest bus.
//!
//! Here is the async client (feature `tokio`, on by default): [`Client`]. A device without an operating system has no
//! wrapper here yet: it uses `spile_protocol::session::device`, which needs no allocator, directly.
//!
//! ```no_run
//! # async fn example() -> Result<(), spile_client::Error> {
//! use spile_client::{Client, Event, From};
//!
//! let client = Client::builder()
//!     .url("spile://127.0.0.1:7450")
//!     .ca("spile-data/dev/ca.pem")
//!     .cert("spile-data/dev/operator.pem")
//!     .client_key("spile-data/dev/operator.key")
//!     .connect()
//!     .await?;
//! let receipt = client.publish(Event::new("telemetry/temp", "21.5").key("sensor-7")).await?;
//! println!("{} at {:?}", receipt.durability.name(), receipt.position);
//! let mut events = client.subscribe_to("telemetry/#", From::Start).await?;
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event?.payload);
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(feature = "tokio"), no_std)]

#[cfg(feature = "tokio")]
mod async_client;

#[cfg(feature = "tokio")]
pub use async_client::*;
