//! What can be typed of `spile call`, `spile serve`, `spile service` and `spile bench call`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use spile_client::Trace;

use super::Extent;
use crate::value::{size, trace};

/// `spile call`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile call jobs start '{\"of\":\"report\"}'
  spile call device/pump-7 restart --timeout 5s
  spile call jobs start --file job.json --content-type application/json --idempotent
The answer is awaited for --timeout; the service is told how long that is.")]
pub(crate) struct CallArgs {
    /// The service, or device/ID
    pub(crate) service: String,
    /// What of it
    pub(crate) method: String,
    /// The payload; nothing where it is left out
    #[arg(conflicts_with = "file")]
    pub(crate) data: Option<String>,
    /// The payload is in this file; - is stdin
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// What the payload is
    #[arg(long, value_name = "T", default_value = "")]
    pub(crate) content_type: String,
    /// It may be done twice: where it is not known whether it was done, another member is asked
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// The trace it belongs to: 32 hexadecimal digits, or a traceparent
    #[arg(long, value_name = "ID", value_parser = trace::parse)]
    pub(crate) trace: Option<Trace>,
    /// Print each part of the answer as it comes
    #[arg(long)]
    pub(crate) parts: bool,
}

/// `spile serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile serve jobs --exec ./job.sh --parallel 4
  spile --context spile-data/dev/device.toml serve device/device --exec 'cat'
Where the shell does not find what CMD begins with, serve ends with 1 before it serves.
The command gets the payload on stdin, and SPILE_SERVICE, SPILE_METHOD, SPILE_CALLER, SPILE_TRACE and SPILE_REMAINING_MS.
Exit 0: stdout is the reply. 65: the request is wrong (invalid), 66: no such thing (not-found), 75: later (busy), 77: may
not (forbidden); anything else says that the service is broken (internal), which counts for its breaker. The last line of
stderr goes with it. At the deadline the command is killed. Ctrl-C takes no more calls and waits for those that run; a
second one does not wait.")]
pub(crate) struct ServeArgs {
    /// The service; a device serves device/ID with its own id
    pub(crate) service: String,
    /// A shell runs this, once a call
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: String,
    /// Calls at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: u32,
}

/// `spile service`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List who serves what, and how that goes
    #[command(after_help = "Example:\n  spile service ls")]
    Ls,
}

/// `spile bench call`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchCall {
    /// Connections that call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Bytes of each payload, there and back
    #[arg(long, value_parser = size::parse, value_name = "SIZE", default_value = "256")]
    pub(crate) size: u64,
    /// Calls under way at once on each connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) window: u32,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Call this service, served elsewhere; without it this process serves one that answers what it is asked
    #[arg(long, value_name = "S")]
    pub(crate) service: Option<String>,
    /// The method
    #[arg(long, value_name = "M", default_value = "echo")]
    pub(crate) method: String,
}
