//! Authorities and certificates: who may speak to whom, as files.
//!
//! Here: making, keeping and renewing them. Who a presented one says it is: [`identity`]. Which a deployment needs:
//! [`deployment`]. Invariants: a key's file is its owner's only; a certificate in its place has its key beside it.

pub mod deployment;
pub mod identity;
mod pair;

pub use pair::{Authority, CertError, Issued, Kind};
