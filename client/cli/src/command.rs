//! The commands, one file each: from checked arguments to results.

pub(crate) mod answer;
pub(crate) mod bench;
pub(crate) mod blob;
pub(crate) mod builtin;
pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod download;
pub(crate) mod errors;
mod family;
pub(crate) mod follow;
pub(crate) mod group;
pub(crate) mod inbox;
pub(crate) mod publish;
pub(crate) mod retention;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod upload;
