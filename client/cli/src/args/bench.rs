//! What can be typed of measurements: `bench`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::BenchCall;
use crate::value::place::{self, Place};
use crate::value::{duration, size};

/// `spile bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Publish and await the acks
    #[command(
        after_help = "Example:\n  spile bench publish --connections 64 --window 16 --size 256 --duration 10s"
    )]
    Publish(BenchPublish),
    /// Receive what is stored, or what comes
    #[command(
        after_help = "Examples:\n  spile bench subscribe --topic 'bench/#' --from start --count 1000000\n  spile bench subscribe --size 1KiB --count 100000"
    )]
    Subscribe(BenchSubscribe),
    /// Open sessions, hold them, and close them
    #[command(
        after_help = "Examples:\n  spile bench sessions --count 5000 --connections 16 --hold 10s\n  spile bench sessions --count 500 --window 10 --size 64"
    )]
    Sessions(BenchSessions),
    /// Send uploads until each is sealed; they stay on the server
    #[command(
        after_help = "Example:\n  spile bench upload --connections 32 --size 1MiB --count 1000"
    )]
    Upload(BenchUpload),
    /// Call a service and await the answers
    #[command(
        after_help = "Example:\n  spile bench call --connections 4 --window 16 --duration 10s"
    )]
    Call(BenchCall),
}

/// How long a measurement goes on.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Extent {
    /// For so long [default: 10s]
    #[arg(long, value_parser = duration::parse, value_name = "D", conflicts_with = "count")]
    pub(crate) duration: Option<Duration>,
    /// For so many, all connections together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// `spile bench publish`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchPublish {
    /// Connections, each with a run of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Bytes of each payload
    #[arg(long, value_parser = size::parse, value_name = "SIZE", default_value = "256")]
    pub(crate) size: u64,
    /// Events in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: u32,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// What the events are about
    #[arg(long, default_value = "bench/load")]
    pub(crate) topic: String,
    /// Their keys: this and the connection's number
    #[arg(long, default_value = "bench-", conflicts_with = "own_key")]
    pub(crate) key: String,
    /// Under our own id instead, as a device does
    #[arg(long)]
    pub(crate) own_key: bool,
}

/// `spile bench subscribe`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchSubscribe {
    /// Connections, each of which receives everything
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Publish first what is then received, under the filter's topic: events of so many bytes, as many as --count says, else
    /// as many as --window
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) size: Option<u64>,
    /// Events in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) window: u32,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// The filter
    #[arg(long, default_value = "bench/#")]
    pub(crate) topic: String,
    /// Where to begin [default: start, with --size what was published first]
    #[arg(long, value_parser = place::parse, value_name = "PLACE", allow_hyphen_values = true)]
    pub(crate) from: Option<Place>,
}

/// `spile bench sessions`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchSessions {
    /// How many are being opened at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    /// Each session publishes so many events at once when it is open, and awaits their acks [default: 0, with --size 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: Option<u32>,
    /// Bytes of each payload it publishes [default: 256]
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) size: Option<u64>,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Keep them open for so long once all are there; without it each is closed at once
    #[arg(long, value_parser = duration::parse, value_name = "D")]
    pub(crate) hold: Option<Duration>,
}

/// `spile bench upload`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchUpload {
    /// Connections, each with a run of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Bytes of each upload
    #[arg(long, value_parser = size::parse, value_name = "SIZE", default_value = "1MiB")]
    pub(crate) size: u64,
    /// Uploads under way at once on each connection
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) window: u32,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Their keys: this and the connection's number
    #[arg(long, default_value = "bench-")]
    pub(crate) key: String,
}
