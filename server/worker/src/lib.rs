//! Spile's worker: from links to the log, and back to consumers.
//!
//! [`Worker`] is a log and the views that rest on it; [`Session`] is one session's place in it, driven by a call from the
//! edge in the same process or by a link. Both take protocol messages and give protocol messages. Start with
//! [`Worker::attach`], [`Session::intake`] and [`Session::poll`]; what is written is drawn in `spec/record.md`.
//!
//! The invariant: nothing is said to a session before what it rests on is durable.

mod ahead;
mod answers;
mod bell;
mod block;
mod calls;
pub mod changes;
mod checkpoint;
mod clock;
mod core;
mod credit;
mod desk;
mod errands;
pub mod groups;
mod inbox;
mod intake;
mod joined;
mod keeper;
pub mod limits;
pub mod links;
pub mod log;
mod lookups;
mod presence;
mod rates;
mod rebuild;
mod receipts;
pub mod record;
pub mod registry;
mod requests;
mod retention;
mod said;
mod services;
mod session;
mod slab;
mod snapshot;
mod source;
mod spelling;
pub mod status;
mod subscription;
mod tables;
mod tide;
mod time_of_day;
mod trace;
mod turns;
mod undo;
pub mod unread;
mod uploads;
mod values;
pub mod views;
mod worker;

pub use self::{
    answers::Sink,
    intake::Intake,
    log::{ChunkLog, EventLog},
    rebuild::ApplyError,
    retention::{RetentionCounts, Rule},
    session::{Polled, Session, attach_of},
    snapshot::SnapshotError,
    status::{Counters, Status},
    time_of_day::TimeOfDay,
    worker::{Config, Logs, OpenError, Worker},
};
