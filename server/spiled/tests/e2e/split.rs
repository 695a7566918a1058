//! A deployment of one edge and two workers, each the real binary in its own folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use spile_protocol::id::Slot;
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

/// The worker, `worker-a` or `worker-b`, that has the slot of a key.
pub fn home(key: &str) -> &'static str {
    if Slot::of("main", key).0 < 128 { "worker-a" } else { "worker-b" }
}

impl Split {
    fn new(edges: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let made = spiled()
            .args(["certs", folder.path().to_str().unwrap()])
            .args(["--worker", "a", "--worker", "b"])
            .args(edges.iter().flat_map(|edge| ["--edge", edge]))
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
        Self::with_edges(&["e1"], |split, node| split.add(node, more))
    }

    /// The same with these edges, `edge-NAME` each; `prepare` may change each node's file before it starts, once the
    /// workers' addresses are in. Each edge knows who may come and has its links to both workers.
    pub fn with_edges(edges: &[&str], prepare: impl Fn(&Self, &str)) -> (Self, Running) {
        let mut split = Self::new(edges);
        let mut running = Running::new();
        for name in ["a", "b"] {
            let node = format!("worker-{name}");
            let address = split.listens(&node, "0.0.0.0:7451");
            for edge in edges {
                split.edit(&format!("edge-{edge}"), &format!("{name}:7451"), &address);
            }
            prepare(&split, &node);
            running.insert(node.clone(), split.start("worker", &node));
        }
        for edge in edges {
            let node = format!("edge-{edge}");
            split.listens(&node, "0.0.0.0:7450");
            prepare(&split, &node);
            let edge = split.start("edge", &node);
            split.wait_for_registry(&edge);
            while edge.metric("spile_edge_links") < 2 {}
            running.insert(node, edge);
        }
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

    /// Adds lines to a node's file.
    pub fn add(&self, node: &str, lines: &str) {
        let file = self.of(node).join("spiled.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, format!("{text}\n{lines}\n")).unwrap();
    }

    pub fn edit(&self, node: &str, from: &str, to: &str) {
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
