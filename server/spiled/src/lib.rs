//! The `spiled` server's own room: configuration, certificates, TLS, the data folder, health, and the roles' start.
//!
//! What a session, a link or a log does lives in the other crates. Start with [`config`], then `roles`.

pub mod certs;
pub mod clock;
pub mod config;
pub mod data;
pub mod durable;
pub mod logs;
pub mod names;
pub mod tls;
