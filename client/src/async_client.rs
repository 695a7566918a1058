//! The async client: one task a connection, on tokio, over TLS 1.3.
//!
//! ```text
//!  callers ── lock ──▶ state: gathered events, the machine, who waits ◀── lock ── driver ◀──▶ TLS ◀──▶ server
//! ```
//!
//! What to say and what it means is `spile_protocol::session::device`'s; here are the callers' side ([`Client`]), what
//! both sides share (`state`), and the task that moves bytes (`driver`). Invariants: no task and no channel an event;
//! everything that waits is bounded by credit or by what callers hold; no lock is held over an `.await`.

mod address;
mod aggregate;
mod backoff;
mod builder;
mod client;
mod clock;
mod consume;
mod download;
mod driver;
mod error;
mod event;
mod handed;
mod inbox;
mod lookup;
mod outbox;
mod pipe;
mod publish;
mod request;
mod serve;
mod slab;
mod state;
mod subscription;
mod tls;
mod upload;

pub use address::Address;
pub use aggregate::Aggregate;
pub use builder::{Builder, Prepared};
pub use client::Client;
pub use clock::wall;
pub use consume::{Consume, Consumer, GroupDelivery, Settled, Settling, Tally};
pub use download::Download;
pub use error::{Error, Refusal};
pub use event::{Block, Deliveries, Delivery, Event, Facts, From, Kind, Position, Receipt};
pub use inbox::Interest;
pub use lookup::{Found, Fresh, Listed, Listing, PAGE, PIECE, Page, Values};
pub use outbox::Outcomes;
pub use pipe::Seen;
pub use publish::{Given, Pending, Producer, PublishAll};
pub use request::{Ask, Parts, Reply};
pub use serve::{Answer, Call, NotDone, Serving};
pub use spile_protocol::code::Code;
pub use spile_protocol::message::{Durability, Expect, Happened, Trace};
pub use state::Session;
pub use subscription::Subscription;
pub use upload::{Blob, Progress, Upload};
