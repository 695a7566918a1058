//! A port that stays one server's, also while that server is down.
//!
//! Bound here and never listened at, so that the kernel gives it to nobody who asks for a free one; a server that is
//! told to listen there may, since it shares the address as every listener does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tokio::net::TcpSocket;

use super::spiled;

pub struct Port(TcpSocket);

impl Port {
    pub fn kept() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// An all-in-one that listens at it.
    pub fn all_in_one(&self, data: &Path) -> Command {
        let mut command = spiled();
        command.args(["--listen", &self.address().to_string(), "--admin", "127.0.0.1:0", "--data"]);
        command.arg(data);
        command
    }
}
