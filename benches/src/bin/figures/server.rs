//! The server that is measured: the real `spiled`, a process of its own, on free ports, in a folder of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spile_client::{Builder, Client, Fresh};

use crate::process;

const PATIENCE: Duration = Duration::from_secs(10);

/// It runs, and is killed when the figures are taken.
pub(crate) struct Server {
    /// The edge first; an all-in-one is alone.
    processes: Vec<Process>,
    edge: SocketAddr,
    credentials: PathBuf,
    certs: PathBuf,
}

impl Server {
    /// Starts an all-in-one and waits until it is ready.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        let words = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"];
        let process = Process::start(Command::new(binary()?).args(words).arg(&data), folder)?;
        let (credentials, certs) = (data.join("dev"), data.join("certs"));
        Ok(Self { edge: process.said("edge")?, processes: vec![process], credentials, certs })
    }

    /// Starts an edge and a worker, joined by a link.
    pub(crate) fn split(folder: &Path) -> Result<Self> {
        let certs = ["--edge", "e1", "--worker", "w1"];
        let made = Command::new(binary()?).arg("certs").arg(folder).args(certs).output()?;
        ensure!(made.status.success(), "certs: {}", String::from_utf8_lossy(&made.stderr));
        edit(&folder.join("worker-w1"), "0.0.0.0:7451", "127.0.0.1:0")?;
        let worker = Process::role("worker", &folder.join("worker-w1"))?;
        let address: SocketAddr = worker.said("worker")?;
        edit(&folder.join("edge-e1"), "w1:7451", &address.to_string())?;
        edit(&folder.join("edge-e1"), "0.0.0.0:7450", "127.0.0.1:0")?;
        let edge = Process::role("edge", &folder.join("edge-e1"))?;
        let (credentials, certs) = (folder.join("operator"), folder.join("edge-e1"));
        Ok(Self { edge: edge.said("edge")?, processes: vec![edge, worker], credentials, certs })
    }

    /// Kills an all-in-one as a power cut would, and starts it again in its folder.
    pub(crate) fn kill_and_start(&mut self, folder: &Path) -> Result<()> {
        self.processes.clear();
        *self = Self::start(folder)?;
        Ok(())
    }

    /// The process that clients come to.
    pub(crate) fn pid(&self) -> u32 {
        self.processes.first().map_or(0, |process| process.0.id())
    }

    pub(crate) const fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Of all its processes.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.processes.iter().map(|process| process::cpu(process.0.id())).sum()
    }

    /// How many events a key has.
    pub(crate) async fn version(&self, key: &str) -> Result<u64> {
        let operator = self.operator().connect().await?;
        Ok(operator.get_version(key, Fresh::default()).await?.map_or(0, |version| version.0))
    }

    /// How many positions its log has.
    pub(crate) async fn stored(&self) -> Result<u64> {
        let operator = self.operator().connect().await?;
        let status = call(&operator, "$status", "get", &json!({})).await?;
        let end = status.pointer("/workers/0/end").and_then(Value::as_u64);
        end.with_context(|| format!("$status tells no end: {status}"))
    }

    /// A file of the development credentials.
    pub(crate) fn dev(&self, name: &str) -> PathBuf {
        self.credentials.join(name)
    }

    /// A file of the server's own.
    pub(crate) fn certs(&self, name: &str) -> PathBuf {
        self.certs.join(name)
    }

    /// A client that trusts it and says nothing of who it is.
    pub(crate) fn nobody(&self) -> Builder {
        Client::builder().url(&format!("spile://{}", self.edge)).ca(self.dev("ca.pem"))
    }

    pub(crate) fn operator(&self) -> Builder {
        self.nobody().cert(self.dev("operator.pem")).client_key(self.dev("operator.key"))
    }
}

/// One process, killed when it is dropped, and what it said when it was ready.
struct Process(Child, String);

impl Process {
    fn start(command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join("log");
        let err = File::options().create(true).append(true).open(&log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err).spawn()?;
        let out = child.stdout.take();
        let mut process = Self(child, String::new());
        if let Some(said) = out {
            BufReader::new(said).read_line(&mut process.1)?;
        }
        let ready = process.1.starts_with("spiled ready ");
        ensure!(ready, "spiled is not ready: {}", std::fs::read_to_string(&log)?);
        Ok(process)
    }

    fn role(role: &str, folder: &Path) -> Result<Self> {
        let words = [role, "--admin", "127.0.0.1:0", "--config"];
        Self::start(Command::new(binary()?).args(words).arg(folder.join("spiled.toml")), folder)
    }

    /// Where it listens, as its ready line says.
    fn said(&self, listener: &str) -> Result<SocketAddr> {
        let start = format!("{listener}=");
        let address = self.1.split_whitespace().find_map(|word| word.strip_prefix(&start));
        Ok(address.with_context(|| format!("no {listener} in {:?}", self.1))?.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(why) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("figures: spiled could not be ended: {why}");
        }
    }
}

/// Another address in a node's configuration.
fn edit(node: &Path, from: &str, to: &str) -> Result<()> {
    let file = node.join("spiled.toml");
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(from), "{from} is not in {}", file.display());
    Ok(std::fs::write(file, text.replace(from, to))?)
}

/// The server beside us, where cargo puts both.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("we lie in a folder")?.join("spiled");
    anyhow::ensure!(
        path.exists(),
        "no {}; build it: cargo build --release --bin spiled",
        path.display()
    );
    Ok(path)
}

pub(crate) async fn call(
    client: &Client,
    service: &str,
    method: &str,
    request: &Value,
) -> Result<Value> {
    let reply = client.call(service, method, request.to_string().into_bytes(), PATIENCE).await?;
    Ok(serde_json::from_slice(&reply.payload)?)
}

/// What the deployment tells of itself. admin §2.1
pub(crate) async fn status(operator: &Client) -> Result<Value> {
    call(operator, "$status", "get", &json!({})).await
}

/// How often the worker's log has synced. admin §2.1
pub(crate) async fn commits(operator: &Client) -> Result<u64> {
    let status = status(operator).await?;
    let commits = status.pointer("/workers/0/commits").and_then(Value::as_u64);
    commits.with_context(|| format!("$status tells no commits: {status}"))
}

/// Makes a durable group. admin §6
pub(crate) async fn create_group(operator: &Client, definition: Value) -> Result<()> {
    call(operator, "$group", "create", &definition).await?;
    Ok(())
}

/// Registers a device that comes with this key. admin §3.1
pub(crate) async fn add_device(operator: &Client, device: &str, key: &[u8; 32]) -> Result<()> {
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    call(operator, "$device", "add", &json!({ "id": device, "key_hash": hash })).await?;
    Ok(())
}
