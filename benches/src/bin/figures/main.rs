//! What Spile does beside the bare limits of the same machine, disk and minute: one table, a line a figure.
//!
//! `cargo run --release --bin figures -- [SCENARIO|all] [--short|--full]`; `SPILE_BENCH_DIR` is the folder to write in (default: the temporary one). It starts the real `spiled` as a process of its own. It fails
//! only when an event is lost, an error comes, or a figure can't be measured: how fast a shared machine is, is no fact
//! a test may rest on. docs/figures.md says how to read it.

mod acceptor;
mod disk;
mod groups;
mod growth;
mod handshake;
mod idle;
mod load;
mod lone;
mod peer;
mod process;
mod publish;
mod replay;
mod server;
mod split;
mod table;
mod upload;
mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use table::Table;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["acceptor", cert, key, ca] = words.as_slice() {
        return acceptor::serve(cert.as_ref(), key.as_ref(), ca.as_ref());
    }
    let asked = Asked::parse(&words)?;
    build()?;
    println!("load average at the start: {}", process::load_average()?);
    touch_memory(asked.size.memory());
    let mut table = Table::default();
    for (name, scenario) in SCENARIOS {
        if asked.scenario == "all" || asked.scenario == *name {
            let folder = tempfile::tempdir_in(folder())?;
            let measured = scenario(folder.path(), asked.size, &mut table);
            measured.with_context(|| format!("{name}: could not be measured"))?;
        }
    }
    println!("{table}");
    println!("load average at the end: {}", process::load_average()?);
    println!("result: {}", table.summary());
    Ok(())
}

type Scenario = fn(&std::path::Path, Size, &mut Table) -> Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("publish", publish::measure),
    ("replay", replay::measure),
    ("groups", groups::measure),
    ("idle", idle::measure),
    ("handshake", handshake::measure),
    ("bytes", wire::measure),
    ("split", split::measure),
    ("growth", growth::measure),
    ("upload", upload::measure),
];

/// What the command line says.
struct Asked {
    scenario: String,
    size: Size,
}

impl Asked {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut asked = Self { scenario: "all".to_owned(), size: Size::Short };
        for word in words {
            match *word {
                "--short" => asked.size = Size::Short,
                "--full" => asked.size = Size::Full,
                "all" => "all".clone_into(&mut asked.scenario),
                name if SCENARIOS.iter().any(|(known, _)| *known == name) => {
                    name.clone_into(&mut asked.scenario);
                }
                other => bail!("figures: {other:?} is unknown; use {}", usage()),
            }
        }
        Ok(asked)
    }
}

fn usage() -> String {
    let names: String = SCENARIOS.iter().map(|(name, _)| format!("{name}|")).collect();
    format!("[{names}all] [--short|--full]")
}

/// How long each load goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Short,
    Full,
}

impl Size {
    /// Of one repetition; there are three, and the median counts.
    const fn window(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(1_000),
            Self::Full => Duration::from_millis(5_000),
        }
    }

    /// How much of something.
    const fn of(self, short: u64, full: u64) -> u64 {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }

    /// Touched first: memory the machine gives us for the first time costs more than what is measured.
    const fn memory(self) -> usize {
        match self {
            Self::Short => 1 << 30,
            Self::Full => 6 << 30,
        }
    }
}

/// Repetitions of each load.
const ROUNDS: usize = 3;

/// Writes to so much memory once and gives it back, so that the machine behind has it ready.
fn touch_memory(bytes: usize) {
    let mut memory = vec![0_u8; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

fn folder() -> PathBuf {
    std::env::var_os("SPILE_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into)
}

/// Builds the server that is measured, so that it is never an older one; cargo says who it is when it runs us.
fn build() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--release", "--locked", "--bin", "spiled"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()?;
    anyhow::ensure!(built.success(), "figures: spiled does not build; mend it first");
    Ok(())
}

/// The one place that reads the clock.
#[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]
const fn number(count: u64) -> f64 {
    count as f64
}

/// All clients of a load on one thread: they leave the other core to the server.
fn one_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Where the clients' cryptography is most of the work, they may use what the server leaves.
fn two_threads() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
