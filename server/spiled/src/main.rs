//! The `spiled` server.
fn main() {}
