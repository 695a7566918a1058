//! The command line: what was asked, checked, and sent to where it is done.
//!
//! Exit codes as everywhere: 0 done, 1 failed, 2 usage and configuration, 4 not found, 6 data found corrupt. An error is one line on stderr, but for a
//! configuration's mistakes, which are a line each.

mod log;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::certs::deployment;
use crate::clock::unix_seconds;
use crate::config::{Config, ConfigError, Overrides, RoleName};
use crate::names::{is_node, node_rule};
use crate::start;

/// At most this many nodes in one `certs` call, the workers a deployment may have.
const NODES_MAX: usize = 32;

/// The Spile server: all-in-one when nothing is said.
///
/// The first start makes its data folder, certificates and credentials, and prints where they are.
#[derive(Debug, Parser)]
#[command(
    name = "spiled",
    version,
    after_help = "Example: spiled --data ./spile-data --listen 127.0.0.1:7450"
)]
struct Line {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "F", env = "SPILED_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Data folder [default: ./spile-data]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<String>,
    /// Where devices and operators come, or edges to a worker; port 0 takes a free one
    #[arg(long, value_name = "A", global = true)]
    listen: Option<SocketAddr>,
    /// Where /livez /readyz /health /metrics are; port 0 takes a free one
    #[arg(long, value_name = "A", global = true)]
    admin: Option<SocketAddr>,
    /// Form of log lines on stderr [default: text on a terminal, JSON otherwise]
    #[arg(long, value_name = "FORM", global = true)]
    log: Option<LogForm>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogForm {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Only the edge: devices and operators on one side, workers on the other
    #[command(after_help = "Example: spiled edge --config edge-1/spiled.toml")]
    Edge,
    /// Only a worker: edges on one side, the log on the other
    #[command(after_help = "Example: spiled worker --config worker-a/spiled.toml")]
    Worker,
    /// Read a configuration as a start would; print what is in effect, or every mistake with its line
    #[command(after_help = "Example: spiled check-config edge-1/spiled.toml")]
    CheckConfig {
        /// The file
        #[arg(value_name = "F")]
        file: PathBuf,
    },
    /// Make authorities, certificates and configurations for a first deployment; what is there is kept
    #[command(after_help = "Example: spiled certs ./deploy --edge edge-1 --worker a --worker b")]
    Certs {
        /// Where to
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// An edge's name, as devices will call it
        #[arg(long = "edge", value_name = "NAME", required_unless_present = "workers")]
        edges: Vec<String>,
        /// A worker's name, as edges will call it
        #[arg(long = "worker", value_name = "NAME")]
        workers: Vec<String>,
    },
    /// Look at the logs of a data folder that nobody has open: a JSON line a finding; exit 6 when data is corrupt
    #[command(after_help = "Example: spiled log verify ./spile-data")]
    Log {
        #[command(subcommand)]
        what: log::Log,
    },
}

/// Why a command ended badly, and with which code.
enum Ended {
    Usage(String),
    Failed(anyhow::Error),
    NotFound(String),
    Corrupt(String),
}

impl From<anyhow::Error> for Ended {
    fn from(why: anyhow::Error) -> Self {
        Self::Failed(why)
    }
}

/// Does what the arguments ask.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match Line::try_parse_from(arguments) {
        Ok(line) => line,
        Err(why) => return usage(&why),
    };
    let (code, message) = match dispatch(line) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Ended::Usage(message)) => (2, message),
        // Each error of ours tells its cause itself.
        Err(Ended::Failed(why)) => (1, why.to_string()),
        Err(Ended::NotFound(message)) => (4, message),
        Err(Ended::Corrupt(message)) => (6, message),
    };
    // Nothing can be told when stderr is gone; the code still is.
    writeln!(io::stderr(), "spiled: {message}").unwrap_or_default();
    ExitCode::from(code)
}

fn usage(why: &clap::Error) -> ExitCode {
    match why.print() {
        Ok(()) => ExitCode::from(u8::try_from(why.exit_code()).unwrap_or(2)),
        Err(_) => ExitCode::from(1),
    }
}

fn dispatch(line: Line) -> Result<(), Ended> {
    let flags = &line.flags;
    match line.command {
        None => start(flags, RoleName::All),
        Some(Command::Edge) => start(flags, RoleName::Edge),
        Some(Command::Worker) => start(flags, RoleName::Worker),
        Some(Command::CheckConfig { file }) => {
            let over = overrides(flags, "listen.address");
            let config = Config::load(Some(&file), &over, None).map_err(mistaken)?;
            Ok(print(&config.to_toml())?)
        }
        Some(Command::Log { what }) => log::run(&what),
        Some(Command::Certs { folder, edges, workers }) => {
            check_nodes("--edge", &edges)?;
            check_nodes("--worker", &workers)?;
            certs(&folder, &edges, &workers)
        }
    }
}

fn start(flags: &Flags, role: RoleName) -> Result<(), Ended> {
    let listen = match role {
        RoleName::All | RoleName::Edge => "listen.address",
        RoleName::Worker => "links.listen",
    };
    if flags.config.is_none() && role != RoleName::All {
        let word = role.word();
        let remedy = format!("{word}: no configuration; start spiled {word} --config F");
        return Err(Ended::Usage(remedy));
    }
    let over = overrides(flags, listen);
    let config = Config::load(flags.config.as_deref(), &over, Some(role)).map_err(mistaken)?;
    Ok(start::run(config)?)
}

fn overrides(flags: &Flags, listen: &'static str) -> Overrides {
    let form = flags.log.map(|form| match form {
        LogForm::Json => "json".to_owned(),
        LogForm::Text => "text".to_owned(),
    });
    let address = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let said = [
        ("--data", "data", flags.data.clone()),
        ("--listen", listen, address(flags.listen)),
        ("--admin", "admin.address", address(flags.admin)),
        ("--log", "log.format", form),
    ];
    let flags = said.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?)));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Overrides { flags: flags.collect(), environment: environment.collect() }
}

fn mistaken(why: ConfigError) -> Ended {
    let mistakes = match &why {
        ConfigError::Mistakes(mistakes) => mistakes.0.len(),
        ConfigError::Unreadable { .. } | ConfigError::TooLarge { .. } => {
            return Ended::Usage(why.to_string());
        }
    };
    let plural = if mistakes == 1 { "mistake" } else { "mistakes" };
    Ended::Usage(format!("config: {mistakes} {plural}\n{why}"))
}

fn check_nodes(flag: &str, names: &[String]) -> Result<(), Ended> {
    if names.len() > NODES_MAX {
        return Err(Ended::Usage(format!("certs: {} of {flag}; give at most 32", names.len())));
    }
    for (n, name) in names.iter().enumerate() {
        if !is_node(name) {
            let rule = node_rule();
            return Err(Ended::Usage(format!("certs: {flag} {name:?} is no name; use {rule}")));
        }
        if names.iter().take(n).any(|earlier| earlier == name) {
            return Err(Ended::Usage(format!("certs: {flag} {name} twice; name each node once")));
        }
    }
    Ok(())
}

fn certs(folder: &std::path::Path, edges: &[String], workers: &[String]) -> Result<(), Ended> {
    let made = deployment::split(folder, edges, workers, unix_seconds());
    let mut text = String::new();
    for folder in made.map_err(anyhow::Error::from)? {
        text.push_str(&format!("{}\n", folder.display()));
    }
    Ok(print(&text)?)
}

/// Prints to stdout; a reader that has gone away has read enough.
///
/// # Errors
/// stdout can't be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            anyhow::bail!("stdout: write: {why}; send it where there is room")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use crate::config::page;

    #[test]
    fn the_command_line_is_sound() {
        super::Line::command().debug_assert();
    }

    /// docs/configuration.md names each flag beside the key it is for, and no other.
    #[test]
    fn every_flag_stands_beside_its_key() {
        let whole =
            ["spiled", "--data", "d", "--listen", "[::1]:1", "--admin", "[::1]:2", "--log", "json"];
        let flags = <super::Line as clap::Parser>::parse_from(whole).flags;
        let known: BTreeSet<_> = ["listen.address", "links.listen"]
            .into_iter()
            .flat_map(|listen| super::overrides(&flags, listen).flags)
            .map(|(flag, key, _)| (key, flag))
            .collect();
        let rows = page::rows().into_iter().filter(|row| !row.flag.is_empty());
        assert_eq!(rows.map(|row| (row.key, row.flag)).collect::<BTreeSet<_>>(), known);
        let line = super::Line::command();
        let global = line.get_arguments().filter(|flag| flag.is_global_set());
        let named: BTreeSet<_> = global.filter_map(|flag| flag.get_long()).collect();
        let told = known.iter().map(|(_, flag)| flag.trim_start_matches('-')).chain(["config"]);
        assert_eq!(told.collect::<BTreeSet<_>>(), named);
    }
}
