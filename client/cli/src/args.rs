//! What can be typed: every command, flag and value, parsed into types that can't be wrong.
//!
//! Values are checked here by [`crate::value`]; whether flags go together is checked by each command, once, before it
//! connects. Help texts carry an example each.

mod bench;
mod calling;
mod consuming;
mod files;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use bench::{Bench, BenchPublish, BenchSessions, BenchSubscribe, BenchUpload, Extent};
pub(crate) use calling::{BenchCall, CallArgs, ServeArgs, ServiceCommand};
pub(crate) use consuming::{
    Consume, Dlq, DlqDrop, DlqReplay, Group, GroupCreate, GroupSeek, Letters,
};

pub(crate) use files::{Blob, Download, Upload, UploadCommand, UploadSend};
pub(crate) use state::{InboxArgs, StateCommand, StateGet, StateLs, TraceArgs};

use crate::value::header::Pair;
use crate::value::moment::{self, Moment};
use crate::value::place::{self, Place};
use crate::value::{duration, header};

const EXAMPLES: &str = "\
Examples, one a command:
  spile publish telemetry/temp 21.5 --key sensor-7
  spile subscribe 'telemetry/#' --from start --count 10
  spile stream sensor-7 --from 1
  spile state get pump-7 state/mode
  spile inbox --count 1
  spile trace 4bf92f3577b34da6a3ce929d0e0e4736
  spile group create billing --filter 'telemetry/#'
  spile consume billing --exec ./bill.sh --parallel 8
  spile dlq replay billing --all
  spile upload trace.bin --key pump-7
  spile download 05-1a2b -o trace.bin
  spile blob ls trace
  spile call jobs start report --timeout 5s
  spile serve jobs --exec ./job.sh --parallel 4
  spile service ls
  spile retention show
  spile status
  spile doctor
  spile device add sensor-7 --device-key --out ./sensor-7
  spile bench publish --connections 4 --window 64 --duration 10s
  spile errors forbidden
  spile completions bash > ~/.local/share/bash-completion/completions/spile
  spile context show
  spile help publish

Exit: 0 done, 1 failed, 2 usage, 3 refused, 4 not found, 5 unreachable or timed out, 6 data found corrupt.";

/// Everything that was typed.
#[derive(Debug, Parser)]
#[command(name = "spile", version, about = "Publish to, read from and look after a Spile bus", after_help = EXAMPLES, max_term_width = 120)]
pub(crate) struct Typed {
    #[command(flatten)]
    pub(crate) everywhere: Everywhere,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Everywhere {
    /// A context: a file, or a name in the folder of contexts [default: ./spile-data/dev/operator.toml]
    #[arg(
        long,
        global = true,
        env = "SPILE_CONTEXT",
        value_name = "F",
        help_heading = "Where and who"
    )]
    pub(crate) context: Option<String>,
    /// The server, as spile://HOST:PORT
    #[arg(long, global = true, help_heading = "Where and who")]
    pub(crate) url: Option<String>,
    /// The authority that signs the server's certificate
    #[arg(long, global = true, value_name = "F", help_heading = "Where and who")]
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate
    #[arg(long, global = true, value_name = "F", help_heading = "Where and who")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of our certificate
    #[arg(long, global = true, value_name = "F", help_heading = "Where and who")]
    pub(crate) client_key: Option<PathBuf>,
    /// A file with a signed token (JWT)
    #[arg(long, global = true, value_name = "F", help_heading = "Where and who")]
    pub(crate) token: Option<PathBuf>,
    /// The tenant
    #[arg(long, global = true, value_name = "NAME", help_heading = "Where and who")]
    pub(crate) tenant: Option<String>,
    /// Print one JSON object a line on stdout, and nothing else there
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// No notices, no progress, and no line for each event, file or call that went well; what was asked for is printed
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Give up after so long: reaching the server, and every answer
    #[arg(long, global = true, value_parser = duration::parse, value_name = "D", default_value = "10s", help_heading = "Output")]
    pub(crate) timeout: Duration,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish events and print each acknowledgement
    Publish(Publish),
    /// Print events as they are stored
    Subscribe(Subscribe),
    /// Print one key's events in order
    Stream(Stream),
    /// Read the latest values of kept topics
    #[command(subcommand)]
    State(StateCommand),
    /// Print our own messages (inbox/#) and mark them as done
    Inbox(InboxArgs),
    /// Tell everything one trace id touched
    Trace(TraceArgs),
    /// Make and steer durable groups of consumers
    #[command(subcommand)]
    Group(Group),
    /// Take a group's deliveries and settle them
    Consume(Consume),
    /// See, replay and drop a group's dead letters
    #[command(subcommand)]
    Dlq(Dlq),
    /// Send files; the same command again goes on where the last one ended
    Upload(Upload),
    /// Fetch a sealed upload, and check that it is whole
    Download(Download),
    /// List, show and remove sealed uploads
    #[command(
        subcommand,
        after_help = "Examples:\n  spile blob ls trace --json\n  spile blob rm 05-1a2b"
    )]
    Blob(Blob),
    /// Ask a service or a device, and print its answer
    Call(CallArgs),
    /// Answer calls: a command is run for each
    Serve(ServeArgs),
    /// See who serves what
    #[command(subcommand)]
    Service(ServiceCommand),
    /// See which events are kept for how long
    #[command(subcommand, after_help = "Example:\n  spile retention show --json")]
    Retention(Retention),
    /// Tell the server's health, rates and what it holds
    Status,
    /// Check the way to the server, step by step, with a remedy where it is bad
    Doctor,
    /// Say who may come
    #[command(subcommand)]
    Device(Device),
    /// Measure: load and percentiles
    #[command(subcommand)]
    Bench(Bench),
    /// Explain a code: cause and remedy
    Errors(Errors),
    /// Print the completions for a shell
    #[command(
        after_help = "Example:\n  spile completions bash > ~/.local/share/bash-completion/completions/spile"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Choose and show contexts: where the server is and who we are
    #[command(subcommand)]
    Context(ContextCommand),
}

/// `spile publish`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile publish telemetry/temp 21.5 --key sensor-7
  spile publish state/mode on --expect new --header source=panel
  seq 1000 | spile publish telemetry/count --lines --json")]
pub(crate) struct Publish {
    /// What the event is about
    pub(crate) topic: String,
    /// The payload; without it, stdin is read
    #[arg(conflicts_with_all = ["file", "lines"])]
    pub(crate) data: Option<String>,
    /// Whose order it keeps [default: our own id]
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<String>,
    /// Store it only if the stream is at this version, has no event (new), or has one (exists)
    #[arg(long, value_parser = expect, value_name = "VERSION|new|exists", conflicts_with = "lines")]
    pub(crate) expect: Option<Expected>,
    /// Read the payload from a file; - is stdin
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// An event a line of stdin (or of --file), pipelined
    #[arg(long)]
    pub(crate) lines: bool,
    /// What the payload is, as application/json
    #[arg(long, value_name = "T", default_value = "")]
    pub(crate) content_type: String,
    /// The payload's schema number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) schema: u32,
    /// A header; at most 8, in 512 bytes
    #[arg(long, value_parser = header::parse, value_name = "K=V")]
    pub(crate) header: Vec<Pair>,
    /// When it happened: RFC 3339, or -2h
    #[arg(long, value_parser = moment::parse, value_name = "T", allow_hyphen_values = true)]
    pub(crate) time: Option<Moment>,
    /// After how long it is worth nothing
    #[arg(long, value_parser = duration::parse, value_name = "D")]
    pub(crate) ttl: Option<Duration>,
}

/// What must be true of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It is at this version.
    Version(u64),
    /// It has no event.
    New,
    /// It has one.
    Exists,
}

fn expect(text: &str) -> Result<Expected, String> {
    match text {
        "new" => Ok(Expected::New),
        "exists" => Ok(Expected::Exists),
        text => text
            .parse()
            .map(Expected::Version)
            .map_err(|_| format!("{text:?} is no version, nor new, nor exists")),
    }
}

/// `spile subscribe`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spile subscribe 'telemetry/#'
  spile subscribe '#' --from start --count 10 --json
  spile subscribe 'telemetry/+' --from a:5,b:9 --wait 2s")]
pub(crate) struct Subscribe {
    /// Topics: + stands for one level, # for the rest
    pub(crate) filter: String,
    /// Where to begin: start, end, a position of each worker (a:5,b:9), or a time (RFC 3339, or -2h)
    #[arg(long, value_parser = place::parse, default_value = "end", value_name = "PLACE", allow_hyphen_values = true)]
    pub(crate) from: Place,
    /// Only this key's events
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) until: Until,
}

/// When a command that follows events ends.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Until {
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after so long without anything new
    #[arg(long, value_parser = duration::parse, value_name = "D")]
    pub(crate) wait: Option<Duration>,
}

/// `spile stream`.
#[derive(Debug, Args)]
#[command(after_help = "Without --count, --wait and --follow it ends with the last event there is.

Examples:
  spile stream sensor-7
  spile stream sensor-7 --from 40 --count 2 --json")]
pub(crate) struct Stream {
    /// Whose events
    pub(crate) key: String,
    /// The first version wanted; without it the first that is kept
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    #[command(flatten)]
    pub(crate) until: Until,
    /// Go on with what is stored later
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `spile retention`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Retention {
    /// Tell the rules, and what each worker keeps
    Show,
}

/// `spile device`.
#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Register a device and make its credentials
    #[command(after_help = "Examples:
  spile device add sensor-7 --device-key --out ./sensor-7
  spile device add line-4 --role service --cert --ttl 365d --out ./line-4")]
    Add(DeviceAdd),
    /// List who is registered
    Ls,
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// End its live sessions, on every edge; it may come back
    #[command(after_help = "Example:\n  spile device kick sensor-7")]
    Kick {
        /// Its id
        id: String,
    },
    /// Not offered yet: bound what it may send and store
    #[command(hide = true, disable_help_flag = true)]
    Quota {
        /// Its id and its quotas
        #[arg(num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Log its frames on the edges it comes to, never their payloads, for a while
    #[command(after_help = "Examples:
  spile device debug sensor-7 --for 5m
  spile device debug sensor-7 --for 0s")]
    Debug {
        /// Its id
        id: String,
        /// For so long, a day at most; 0s ends it
        #[arg(long = "for", value_parser = duration::parse, value_name = "D", default_value = "5m")]
        time: Duration,
    },
    /// Take its right away; live sessions are cut
    Revoke {
        /// Its id
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `spile device add`.
#[derive(Debug, Args)]
pub(crate) struct DeviceAdd {
    /// Its id
    pub(crate) id: String,
    /// What it may be
    #[arg(long, default_value = "device", value_parser = ["device", "user", "service", "operator"])]
    pub(crate) role: String,
    /// Issue a certificate; the context must name the authority's key (device_ca_key)
    // The id is that of the flag everywhere, in whose place it stands here: so it has the same type, and no value.
    #[arg(
        id = "cert",
        long,
        num_args = 0,
        default_missing_value = "issue",
        conflicts_with_all = ["device_key", "token"],
        required_unless_present_any = ["device_key", "token"]
    )]
    pub(crate) cert: Option<PathBuf>,
    /// Not offered yet: issue a token
    // As with the certificate.
    #[arg(
        id = "token",
        long,
        hide = true,
        num_args = 0,
        default_missing_value = "issue",
        conflicts_with = "device_key"
    )]
    pub(crate) token: Option<PathBuf>,
    /// Make a device key: 32 random bytes, of which the server keeps the hash only
    #[arg(long)]
    pub(crate) device_key: bool,
    /// How long the credential lasts [default: 730d for a certificate, no end for a device key]
    #[arg(long, value_parser = duration::parse, value_name = "D")]
    pub(crate) ttl: Option<Duration>,
    /// Take the place of what is registered under this name: a new key, another role
    #[arg(long)]
    pub(crate) replace: bool,
    /// Where its credentials and context are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

/// `spile errors`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  spile errors forbidden")]
pub(crate) struct Errors {
    /// A code's name or number; without it, all are listed
    pub(crate) code: Option<String>,
}

/// `spile context`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts of the user's folder and of ./spile-data/dev
    Ls,
    /// Choose one for the commands to come
    Use {
        /// Its name, or its file
        context: String,
    },
    /// Show the one in use
    Show,
}

impl Command {
    /// Is `--cert` or `--token`, where it was typed, a wish of this command's own? Otherwise it says who we are.
    pub(crate) const fn asks_for_credential(&self) -> bool {
        matches!(self, Self::Device(Device::Add(add)) if !add.device_key)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_the_help() {
        let mut command = Typed::command();
        let help = command.render_help().to_string();
        for name in command.get_subcommands().map(clap::Command::get_name) {
            assert!(help.contains(&format!("\n  spile {name}")), "{name}");
        }
    }

    #[test]
    fn whose_certificate_is_meant_follows_from_the_command() {
        for (line, own) in [
            ("spile device add d --cert", true),
            ("spile --cert f device add d --cert", true),
            ("spile --cert f --client-key k device add d --device-key", false),
            ("spile --cert f status", false),
        ] {
            let typed = Typed::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(typed.command.asks_for_credential(), own, "{line}");
            let ours = line.contains("--cert f") && !own;
            assert_eq!(!own && typed.everywhere.cert.is_some(), ours, "{line}");
        }
    }

    #[test]
    fn values_are_checked_where_they_are_typed() {
        for (line, fits) in [
            ("spile publish t d --expect new", true),
            ("spile publish t d --expect 5", true),
            ("spile publish t d --expect old", false),
            ("spile publish t d --lines", false),
            ("spile publish t --lines --expect new", false),
            ("spile publish t d --header a", false),
            ("spile publish t d --time -2h", true),
            ("spile publish t d --ttl 5", false),
            ("spile subscribe # --from -2h", true),
            ("spile subscribe # --from a:0", false),
            ("spile subscribe", false),
            ("spile stream k --from 0", false),
            ("spile device add d", false),
            ("spile device add d --cert", true),
            ("spile device add --cert d", true),
            ("spile --cert f device add d --device-key", true),
            ("spile device add d --cert --device-key", false),
            ("spile device add d --token", true),
            ("spile device add d --token --cert", false),
            ("spile device quota d --events-per-s 5", true),
            ("spile device debug d", true),
            ("spile device debug d --for 5", false),
            ("spile device add d --role edge --cert", false),
            ("spile bench publish --duration 1s --count 5", false),
            ("spile bench publish --connections 0", false),
            ("spile status --timeout 5", false),
            ("spile status --timeout 5s --json --quiet", true),
            ("spile nonsense", false),
        ] {
            assert_eq!(Typed::try_parse_from(line.split(' ')).is_ok(), fits, "{line}");
        }
    }
}
