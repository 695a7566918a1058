//! The `spiled` server's own room: configuration, certificates, TLS, the data folder, health, and the roles' start.
//!
//! What a session, a link or a log does lives in the other crates. Start with [`config`], then `roles`.

pub mod admin;
pub mod certs;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counts;
pub mod data;
pub mod door;
pub mod durable;
pub mod gulp;
pub mod health;
pub mod inprocess;
pub mod kept;
pub mod links;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod roles;
pub mod serve;
pub mod signals;
pub mod start;
pub mod store;
pub mod tls;
