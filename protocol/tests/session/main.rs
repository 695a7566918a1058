//! What a session must do in one situation at a time: greetings, deadlines, credit, uploads, subscriptions, floods.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

mod consuming;
mod floods;
mod greeting;
mod links;
mod publishing;
mod talk;
mod uploads;
