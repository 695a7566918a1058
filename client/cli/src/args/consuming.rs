//! What can be typed of durable groups: `group`, `consume`, `dlq`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Until;
use crate::value::duration;
use crate::value::place::{self, Place, Spot};

/// `spile group`.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make a durable group: who consumes from it goes on where it ended, together with the other members
    #[command(after_help = "Examples:
  spile group create billing --filter 'telemetry/#'
  spile group create alerts --filter 'alarm/+' --from end --max-attempts 10 --backoff 500ms..1m --on-dead hold")]
    Create(GroupCreate),
    /// List the groups
    Ls,
    /// Show one: how far it is, what waits, who its members are
    Show {
        /// Its name
        name: String,
    },
    /// Begin again elsewhere: members go on from there, and what is unsettled is forgotten
    #[command(after_help = "Examples:
  spile group seek billing --to -2h --dry-run
  spile group seek billing --to start")]
    Seek(GroupSeek),
    /// Remove one, with its dead letters
    Rm {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `spile group create`.
#[derive(Debug, Args)]
pub(crate) struct GroupCreate {
    /// Its name
    pub(crate) name: String,
    /// Which topics: + stands for one level, # for the rest
    #[arg(long)]
    pub(crate) filter: String,
    /// Where it begins: start, end, a position of each worker (a:5,b:9), or a time (RFC 3339, or -2h)
    #[arg(long, value_parser = place::parse, default_value = "start", value_name = "PLACE", allow_hyphen_values = true)]
    pub(crate) from: Place,
    /// After so many attempts an event is a dead letter
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: u32,
    /// How long a retry waits: at first, and at most
    #[arg(long, value_parser = backoff, value_name = "MIN..MAX", default_value = "1s..5m")]
    pub(crate) backoff: Backoff,
    /// A delivery that is not settled within so long is handed out again
    #[arg(long, value_parser = duration::parse, value_name = "D", default_value = "30s")]
    pub(crate) settle_within: Duration,
    /// What a dead letter does to its key: the next event goes on, or waits until it is replayed or dropped
    #[arg(long, value_parser = ["skip", "hold"], default_value = "skip")]
    pub(crate) on_dead: String,
    /// While the disk is full: new events are refused, or what it has not settled and no rule keeps may go
    #[arg(long, value_parser = ["refuse", "drop"], default_value = "refuse")]
    pub(crate) behind: String,
}

/// `spile group seek`.
#[derive(Debug, Args)]
pub(crate) struct GroupSeek {
    /// Its name
    pub(crate) name: String,
    /// Where it goes on: as group create --from
    #[arg(long, value_parser = place::parse, value_name = "PLACE", allow_hyphen_values = true)]
    pub(crate) to: Place,
    /// Only count the events that would come again or be skipped
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How long retries wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The first.
    pub(crate) min: Duration,
    /// None waits longer.
    pub(crate) max: Duration,
}

fn backoff(text: &str) -> Result<Backoff, String> {
    let (min, max) = text
        .split_once("..")
        .ok_or_else(|| format!("{text:?} is no range of durations; write MIN..MAX, as 1s..5m"))?;
    let (min, max) = (duration::parse(min)?, duration::parse(max)?);
    if min > max {
        return Err(format!("{text:?} ends before it begins; write the shorter one first"));
    }
    Ok(Backoff { min, max })
}

/// `spile consume`.
#[derive(Debug, Args)]
#[command(after_help = "Without --exec and --pipe each event is printed and settled as done.

--exec: a shell runs CMD for each event, its payload on stdin; SPILE_KEY, SPILE_TOPIC, SPILE_VERSION, SPILE_POSITION,
SPILE_ATTEMPT and SPILE_TRACE are set. Exit 0 is done, 65 rejects the event (a dead letter at once), any other retries it.
Where the shell does not find what CMD begins with, consume ends with 1 before it takes anything.
--pipe: one child for all. A delivery is a line of JSON on its stdin; it answers each with a line on its stdout:
done KEY VERSION, retry KEY VERSION or reject KEY VERSION. Events of a key come one at a time.

Examples:
  spile consume billing --count 10 --json
  spile consume billing --exec './bill.sh' --parallel 8
  spile consume billing --pipe 'python3 worker.py' --batch 16 --parallel 32")]
pub(crate) struct Consume {
    /// The group
    pub(crate) group: String,
    /// Run this for each event
    #[arg(long, value_name = "CMD", conflicts_with = "pipe")]
    pub(crate) exec: Option<String>,
    /// Run this once and talk to it
    #[arg(long, value_name = "CMD")]
    pub(crate) pipe: Option<String>,
    /// Take up to so many consecutive events of a key at once; their time runs for all of them [default: 1, or 64 where
    /// events are only printed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) batch: Option<u32>,
    #[command(flatten)]
    pub(crate) until: Until,
    /// So many keys at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) parallel: u32,
}

/// `spile dlq`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List a group's dead letters
    Ls {
        /// The group
        group: String,
    },
    /// Show one, with its payload
    Show {
        /// The group
        group: String,
        /// Its place, as dlq ls prints it
        #[arg(value_parser = place::spot)]
        position: Spot,
    },
    /// Hand dead letters out again
    #[command(after_help = "Examples:
  spile dlq replay billing a:17
  spile dlq replay billing --all --rate 10 --dry-run")]
    Replay(DlqReplay),
    /// Forget dead letters
    #[command(after_help = "Example:\n  spile dlq drop billing a:17 --yes")]
    Drop(DlqDrop),
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Letters {
    /// Their places, as dlq ls prints them
    #[arg(value_parser = place::spot, value_name = "POSITION")]
    pub(crate) positions: Vec<Spot>,
    /// All of the group
    #[arg(long)]
    pub(crate) all: bool,
}

/// `spile dlq replay`.
#[derive(Debug, Args)]
pub(crate) struct DlqReplay {
    /// The group
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Only count them
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
}

/// `spile dlq drop`.
#[derive(Debug, Args)]
pub(crate) struct DlqDrop {
    /// The group
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Only count them
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Typed;

    #[test]
    fn values_are_checked_where_they_are_typed() {
        for (line, fits) in [
            ("spile group create g --filter # --backoff 1s..5m --on-dead hold", true),
            ("spile group create g --filter # --from -2h --settle-within 1m", true),
            ("spile group create g --filter # --from a:5,b:9", true),
            ("spile group create g", false),
            ("spile group create g --filter # --backoff 1s", false),
            ("spile group create g --filter # --backoff 5m..1s", false),
            ("spile group create g --filter # --max-attempts 0", false),
            ("spile group create g --filter # --on-dead wait", false),
            ("spile group create g --filter # --behind drop", true),
            ("spile group create g --filter # --behind wait", false),
            ("spile group seek g", false),
            ("spile group seek g --to end --dry-run", true),
            ("spile group rm g --yes", true),
            ("spile group rm", false),
            ("spile consume g", true),
            ("spile consume g --exec a --pipe b", false),
            ("spile consume g --exec a --batch 10 --count 5 --wait 1s --parallel 4", true),
            ("spile consume g --parallel 0", false),
            ("spile consume g --batch 0", false),
            ("spile dlq ls g", true),
            ("spile dlq ls", false),
            ("spile dlq show g", false),
            ("spile dlq show g a:5", true),
            ("spile dlq show g a:5,b:6", false),
            ("spile dlq show g five", false),
            ("spile dlq replay g", false),
            ("spile dlq replay g a:5 b:6 --rate 5", true),
            ("spile dlq replay g --all --dry-run", true),
            ("spile dlq replay g a:5 --all", false),
            ("spile dlq replay g --all --rate 0", false),
            ("spile dlq drop g", false),
            ("spile dlq drop g a:5 --yes", true),
            ("spile dlq drop g --all --dry-run", true),
            ("spile dlq drop g --dry-run", false),
        ] {
            assert_eq!(Typed::try_parse_from(line.split(' ')).is_ok(), fits, "{line}");
        }
    }
}
