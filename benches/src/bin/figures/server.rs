//! The server that is measured: the real `spiled`, a process of its own, on free ports, in a folder of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spile_client::{Builder, Client};

use crate::process;

const PATIENCE: Duration = Duration::from_secs(10);

/// It runs, and is killed when the figures are taken.
pub(crate) struct Server {
    child: Child,
    edge: SocketAddr,
    data: PathBuf,
}

impl Server {
    /// Starts an all-in-one and waits until it is ready.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let (data, log) = (folder.join("data"), folder.join("log"));
        let mut child = Command::new(binary()?)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut ready = String::new();
        if let Some(said) = child.stdout.take() {
            BufReader::new(said).read_line(&mut ready)?;
        }
        let edge = ready.split_whitespace().find_map(|word| word.strip_prefix("edge="));
        let Some(edge) = edge else {
            child.kill()?;
            child.wait()?;
            bail!("spiled is not ready: {}", std::fs::read_to_string(&log)?);
        };
        Ok(Self { child, edge: edge.parse()?, data })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) const fn edge(&self) -> SocketAddr {
        self.edge
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid())
    }

    /// A file of the development credentials.
    pub(crate) fn dev(&self, name: &str) -> PathBuf {
        self.data.join("dev").join(name)
    }

    /// A file of the server's own.
    pub(crate) fn certs(&self, name: &str) -> PathBuf {
        self.data.join("certs").join(name)
    }

    /// A client that trusts it and says nothing of who it is.
    pub(crate) fn nobody(&self) -> Builder {
        Client::builder().url(&format!("spile://{}", self.edge)).ca(self.dev("ca.pem"))
    }

    pub(crate) fn operator(&self) -> Builder {
        self.nobody().cert(self.dev("operator.pem")).client_key(self.dev("operator.key"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(why) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("figures: spiled could not be ended: {why}");
        }
    }
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

async fn call(client: &Client, service: &str, method: &str, request: &Value) -> Result<Value> {
    let reply = client.call(service, method, request.to_string().into_bytes(), PATIENCE).await?;
    Ok(serde_json::from_slice(&reply.payload)?)
}

/// How often the worker's log has synced. admin §2.1
pub(crate) async fn commits(operator: &Client) -> Result<u64> {
    let status = call(operator, "$status", "get", &json!({})).await?;
    let commits = status.pointer("/workers/0/commits").and_then(Value::as_u64);
    commits.with_context(|| format!("$status tells no commits: {status}"))
}

/// Registers a device that comes with this key. admin §3.1
pub(crate) async fn add_device(operator: &Client, device: &str, key: &[u8; 32]) -> Result<()> {
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    call(operator, "$device", "add", &json!({ "id": device, "key_hash": hash })).await?;
    Ok(())
}
