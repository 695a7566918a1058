//! A deployment of one edge and two workers, each the real binary in its own folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use tempfile::TempDir;

use super::port::Port;
use super::{Raw, Server, spiled, tls};

/// Its folder, made by the real command, with addresses of this machine.
pub struct Split {
    folder: TempDir,
    /// Where they listen: theirs also while they are down.
    ports: Vec<Port>,
}

/// What runs, by the name of its folder.
pub type Running = HashMap<String, Server>;

impl Split {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let made = spiled()
            .args(["certs", folder.path().to_str().unwrap()])
            .args(["--edge", "e1", "--worker", "a", "--worker", "b"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { folder, ports: Vec::new() }
    }

    /// Edge `edge-e1`, workers `worker-a` and `worker-b`: each comes back where it was.
    pub fn started() -> (Self, Running) {
        Self::configured("")
    }

    /// The same, with more in each node's configuration.
    pub fn configured(more: &str) -> (Self, Running) {
        let mut split = Self::new();
        for node in ["worker-a", "worker-b", "edge-e1"] {
            let file = split.of(node).join("spiled.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, format!("{text}\n{more}\n")).unwrap();
        }
        let mut running = Running::new();
        for name in ["a", "b"] {
            let node = format!("worker-{name}");
            let address = split.listens(&node, "0.0.0.0:7451");
            split.edit("edge-e1", &format!("{name}:7451"), &address);
            running.insert(node.clone(), split.start("worker", &node));
        }
        split.listens("edge-e1", "0.0.0.0:7450");
        let edge = split.start("edge", "edge-e1");
        split.wait_for_registry(&edge);
        running.insert("edge-e1".to_owned(), edge);
        (split, running)
    }

    /// A new edge lets nobody in before it knows who may come.
    fn wait_for_registry(&self, edge: &Server) {
        let operator = tls(&self.folder.path().join("operator"), Some("operator"));
        while Raw::hello(edge.edge(), &operator, [0xee; 8]).is_err() {}
    }

    /// Gives the node a port of its own, in the place of the one in its configuration.
    fn listens(&mut self, node: &str, default: &str) -> String {
        let port = Port::kept();
        let address = port.address().to_string();
        self.edit(node, default, &address);
        self.ports.push(port);
        address
    }

    fn edit(&self, node: &str, from: &str, to: &str) {
        let file = self.folder.path().join(node).join("spiled.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(file, text.replace(from, to)).unwrap();
    }

    pub fn start(&self, role: &str, node: &str) -> Server {
        let folder = self.folder.path().join(node);
        let mut command = spiled();
        command.args([role, "--admin", "127.0.0.1:0", "--config"]).arg(folder.join("spiled.toml"));
        Server::start(&mut command, &folder.join("log"))
    }

    /// The folder of a node, or of the operator.
    pub fn of(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    /// TLS with the operator's certificate.
    pub fn operator(&self) -> Arc<ClientConfig> {
        tls(&self.of("operator"), Some("operator"))
    }
}
