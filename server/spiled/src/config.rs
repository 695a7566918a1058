//! The configuration: one TOML file, the environment and flags, checked once into a type that can't be wrong.
//!
//! Here live the checked types and the way in. Not here: reading text (`reader`), the list of keys (`keys`), the rules
//! (`check`), showing it (`show`). Invariant: a [`Config`] that exists has passed every rule, files named in it included.

mod check;
mod keys;
mod mistake;
#[cfg(test)]
pub(crate) mod page;
mod reader;
mod retention;
mod show;
mod slots;
mod state;
mod units;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::RoleName;
pub use mistake::{Mistake, Mistakes, Source};
pub use reader::Overrides;
pub use retention::{Retention, RetentionRule};
pub use slots::{SLOTS, SlotError, SlotSet};
pub use units::{parse_duration, parse_size, show_duration, show_size};

/// The longest configuration file that is read, in bytes; a longer one is refused.
const FILE_MAX: u64 = 1 << 20;

/// What a process runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's name: an edge's in its link certificate, a worker's in positions and in the edges' lists.
    pub name: String,
    /// The data folder.
    pub data: PathBuf,
    /// The admin listener.
    pub admin: AdminListen,
    /// Caps that may be set.
    pub limits: Limits,
    /// Filters of topics whose latest event a worker keeps.
    pub keep: Vec<String>,
    /// How long an edge may tell a value again that a worker told it; zero: not at all.
    pub cache_max_age: Duration,
    /// Which events a worker keeps for how long.
    pub retention: Retention,
    /// How log lines are written.
    pub log: LogChoice,
    /// What the process is, with what only that role has.
    pub role: Role,
}

/// What the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Edge and worker in one process; certificates are made on the first start.
    All {
        /// Tenants that exist.
        tenants: Vec<String>,
        /// Where devices and operators come.
        listen: DeviceListen,
        /// The worker's log.
        durability: Durability,
    },
    /// An edge of a split deployment.
    Edge {
        /// Tenants that exist.
        tenants: Vec<String>,
        /// Where devices and operators come.
        listen: DeviceListen,
        /// Certificate and key, and the authority for devices; absent only when the listener is insecure.
        tls: Option<TlsFiles>,
        /// The workers; their slots cover all 256, each once.
        workers: Vec<WorkerLink>,
        /// The edge's own certificate and key on links, and the authority for workers.
        link_tls: TlsFiles,
    },
    /// A worker of a split deployment.
    Worker {
        /// Where edges come.
        listen: SocketAddr,
        /// The slots this worker has.
        slots: SlotSet,
        /// The edges that may attach, and for which tenants.
        edges: Vec<EdgeLink>,
        /// The worker's certificate and key, and the authority for edges.
        link_tls: TlsFiles,
        /// The worker's log.
        durability: Durability,
    },
}

impl Role {
    /// The word for it.
    pub fn name(&self) -> RoleName {
        match self {
            Self::All { .. } => RoleName::All,
            Self::Edge { .. } => RoleName::Edge,
            Self::Worker { .. } => RoleName::Worker,
        }
    }

    /// Has it a listener whose clients may take their time?
    pub fn is_slow(&self) -> bool {
        match self {
            Self::All { listen, .. } | Self::Edge { listen, .. } => listen.slow,
            Self::Worker { .. } => false,
        }
    }
}

/// Where devices and operators come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceListen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Plaintext; only ever on a loopback address.
    pub insecure: bool,
    /// For networks where a handshake takes a minute, as NB-IoT: the deadlines are longer.
    pub slow: bool,
}

/// The admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminListen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The configuration said that it may be reached from other machines.
    pub public: bool,
}

/// A certificate chain, its key, and the authority that peers are checked against; PEM files that exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities for the other side.
    pub ca: PathBuf,
}

/// A worker as an edge sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerLink {
    /// Its name; its certificate must carry it as a DNS name.
    pub name: String,
    /// Where it listens: `HOST:PORT`.
    pub address: String,
    /// Its slots.
    pub slots: SlotSet,
}

/// An edge as a worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLink {
    /// Its name, as in its certificate.
    pub name: String,
    /// The tenants it may speak for.
    pub tenants: Vec<String>,
}

/// Caps that may be set; each is checked against its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions an edge holds; more are refused with a retryable fault.
    pub sessions: u32,
    /// Connections that have not proven who they are; at the cap the oldest goes.
    pub half_open: u32,
    /// The same for one address; at the cap that address's oldest goes.
    pub half_open_per_address: u32,
    /// The largest frame body, in bytes, that is taken after authentication.
    pub frame: u32,
    /// How long a drain may take before what is left is cut.
    pub drain: Duration,
}

/// The logs' sizes, and what of uploads they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// An event segment's size, in bytes.
    pub segment: u64,
    /// A chunk segment's size, in bytes.
    pub chunk_segment: u64,
    /// The largest upload that is taken, in bytes.
    pub upload_bytes: u64,
    /// An upload nobody goes on with for so long is forgotten.
    pub upload_idle: Duration,
}

/// How log lines are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChoice {
    /// Their form.
    pub format: LogFormat,
    /// Which are written: `info`, `spile_edge=debug,info`.
    pub filter: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("config: read {path}: {why}; name a file that exists and may be read", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: std::io::Error,
    },
    /// It is not a configuration's size.
    #[error("config: {path} has {size} bytes, the most is {FILE_MAX}; name a configuration file", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// It has mistakes.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
}

impl Config {
    /// Reads and checks. `role` is what the command asks for; `None` takes the file's word, else `all`.
    ///
    /// # Errors
    /// Every mistake at once, with its line, flag or variable.
    pub fn load(
        file: Option<&Path>,
        overrides: &Overrides,
        role: Option<RoleName>,
    ) -> Result<Self, ConfigError> {
        let text = file.map(read_file).transpose()?;
        let reader = reader::Reader::new(file.zip(text.as_deref()), overrides);
        Ok(check::check(reader, role)?)
    }

    /// The effective configuration as TOML; reading it again gives the same.
    pub fn to_toml(&self) -> String {
        show::show(self)
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |why| ConfigError::Unreadable { path: path.to_owned(), why };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), size });
    }
    fs::read_to_string(path).map_err(unreadable)
}
