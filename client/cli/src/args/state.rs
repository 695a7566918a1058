//! What can be typed of `spile state`, `spile inbox` and `spile trace`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Until;
use crate::value::duration;

/// `spile state`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Print the latest value of a kept topic under a key
    Get(StateGet),
    /// List kept values, in the order of keys and topics
    Ls(StateLs),
}

/// `spile state get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile state get pump-7 state/mode
  spile state get pump-7 state/mode --at-least 12 --wait 5s
  spile state get pump-7 state/mode --newer-than 12 --wait 30s")]
pub(crate) struct StateGet {
    /// Whose
    pub(crate) key: String,
    /// Which topic
    pub(crate) topic: String,
    /// Only from a view that holds this version of the key's stream
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    pub(crate) at_least: u64,
    /// Only a value above this version
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    pub(crate) newer_than: u64,
    /// Wait so long for what is not there yet, at most 60s [default: 5s with --at-least, else 0s]
    #[arg(long, value_parser = duration::parse, value_name = "D")]
    pub(crate) wait: Option<Duration>,
}

/// `spile state ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile state ls
  spile state ls pump-7
  spile state ls --prefix pump- --json")]
pub(crate) struct StateLs {
    /// Only this key's
    #[arg(conflicts_with = "prefix")]
    pub(crate) key: Option<String>,
    /// Only of keys that begin so
    #[arg(long, value_name = "P", default_value = "")]
    pub(crate) prefix: String,
}

/// `spile inbox`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile --context spile-data/dev/device.toml inbox --count 1
  spile publish inbox/set 21.5 --key device      # what sends it")]
pub(crate) struct InboxArgs {
    /// When to end
    #[command(flatten)]
    pub(crate) until: Until,
    /// Only look: what is printed stays unread
    #[arg(long)]
    pub(crate) peek: bool,
}

/// `spile trace`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  spile trace 4bf92f3577b34da6a3ce929d0e0e4736")]
pub(crate) struct TraceArgs {
    /// 32 hexadecimal digits, as subscribe prints them
    pub(crate) id: String,
}
