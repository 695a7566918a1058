//! Who may come to which port: certificates of other authorities and other roles, and clients of yesterday.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use spile_protocol::id::Role;
use spile_protocol::message::{Auth, LinkHello, Message, Proof};
use spiled::certs::identity::Identity;
use spiled::certs::{Authority, Kind};
use spiled::clock::unix_seconds;

use super::{Arena, rest, wire};
use crate::AT_ONCE;
use crate::e2e::{Raw, Server};

/// A client with the certificate `name.pem` of a folder, which trusts this authority.
fn client(ca: &Path, folder: &Path, name: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let mut config = ClientConfig::builder_with_provider(spiled::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"spile/1".to_vec()];
    Arc::new(config)
}

/// How a connection is ended that says HELLO and AUTH: what TLS says, or `kept`, or `answered`.
fn ended(address: SocketAddr, config: &Arc<ClientConfig>) -> String {
    let mut raw = match Raw::connect(address, config) {
        Ok(raw) => raw,
        Err(error) => return error.to_string(),
    };
    raw.stream.sock.set_read_timeout(Some(AT_ONCE)).unwrap();
    // With TLS 1.3 a client is through before the server has judged its certificate.
    let auth = Message::Auth(Auth { proof: Proof::Certificate });
    let greeting = wire::encoded(&[crate::e2e::hello([1; 8]), auth]);
    raw.stream.write_all(&greeting).unwrap_or_default();
    match raw.stream.read(&mut [0; 64]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "answered".to_owned(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            "kept".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

fn issue(authority: &Authority, folder: &Path, file: &str, role: Role, name: &str) {
    let identity = Identity { tenant: "main".to_owned(), role, name: name.to_owned() };
    authority.issue(folder, file, &Kind::Client(identity), unix_seconds()).unwrap();
}

#[test]
fn certificates_of_others_do_not_come_in() {
    let arena = Arena::new();
    let strange = arena.data().join("strange");
    std::fs::create_dir(&strange).unwrap();
    let ca = arena.dev().join("ca.pem");
    let open = |folder: &Path, name| {
        Authority::open(folder, name, "an authority", unix_seconds()).unwrap()
    };
    let (ours, theirs) = (open(&arena.data().join("certs"), "device-ca"), open(&strange, "theirs"));
    issue(&theirs, &strange, "operator", Role::Operator, "operator");
    issue(&ours, &strange, "edge", Role::Edge, "edge-1");
    issue(&ours, &strange, "good", Role::Device, "good");
    let refused = |name: &str| ended(arena.edge(), &client(&ca, &strange, name));
    let alert = refused("operator");
    assert!(alert.contains("alert"), "an operator of another authority: {alert}");
    let said = words(arena.edge(), &client(&ca, &strange, "edge"));
    assert!(said.contains("Code(200)"), "an edge at the devices' port: {said}");
    assert_eq!(arena.server.metric("spile_edge_sessions"), 1, "only the publisher is in");
    let good = client(&ca, &strange, "good");
    Raw::hello(arena.edge(), &good, [5; 8]).unwrap();
    arena.over("after certificates of others");
}

#[test]
fn other_protocols_and_tls_1_2_are_refused() {
    let arena = Arena::new();
    for protocols in [vec![], vec![b"http/1.1".to_vec()], vec![b"spile/2".to_vec(), b"h2".to_vec()]]
    {
        let mut config = (*client(&arena.dev().join("ca.pem"), &arena.dev(), "device")).clone();
        let what = format!("{protocols:?}");
        config.alpn_protocols = protocols;
        let said = ended(arena.edge(), &Arc::new(config));
        assert!(said.contains("NoApplicationProtocol"), "{what}: {said}");
    }
    let mut socket = arena.socket();
    socket.write_all(&wire::client_hello_of_tls12()).unwrap();
    let answer = rest(&mut socket, AT_ONCE).expect("a client of TLS 1.2 is not cut");
    // alert, fatal, protocol_version
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
    arena.over("after other protocols");
}

#[test]
fn only_its_own_edges_come_to_a_workers_port() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    let mut certs = crate::e2e::spiled();
    certs.arg("certs").arg(folder).args(["--edge", "e1", "--worker", "a"]);
    assert!(certs.output().unwrap().status.success());
    let mut worker = crate::e2e::spiled();
    worker.args(["worker", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    worker.arg(folder.join("worker-a/spiled.toml"));
    let worker = Server::start(&mut worker, &folder.join("log"));
    let address: SocketAddr = worker.said("worker").parse().unwrap();
    let open = |name| Authority::open(folder, name, "an authority", unix_seconds()).unwrap();
    let (links, devices) = (open("link-ca"), open("device-ca"));
    issue(&devices, folder, "device", Role::Device, "sensor");
    issue(&devices, folder, "edge-by-devices", Role::Edge, "e1");
    issue(&links, folder, "device-by-links", Role::Device, "sensor");
    issue(&links, folder, "stranger", Role::Edge, "e2");
    let ca = folder.join("link-ca.pem");
    let said_to = |folder: &Path, name| words(address, &client(&ca, folder, name));
    let edge = said_to(&folder.join("edge-e1"), "link");
    assert!(edge.contains("LinkHello"), "the edge itself: {edge}");
    for (name, why) in [
        ("device", "alert"),
        ("edge-by-devices", "alert"),
        ("device-by-links", "Code(204)"),
        ("stranger", "Code(204)"),
    ] {
        let said = said_to(folder, name);
        // Who wrote before the alert was read may hear that the connection is gone instead.
        let refused = said.contains(why) || (why == "alert" && said.contains("reset"));
        assert!(refused && !said.contains("LinkHello"), "{name}: {said}");
    }
    std::fs::copy(&ca, folder.join("ca.pem")).unwrap();
    let nobody = words(address, &crate::e2e::tls(folder, None));
    let refused = nobody.contains("alert") || nobody.contains("reset");
    assert!(refused, "without a certificate: {nobody}");
    assert_eq!(worker.end(Signal::TERM).code(), Some(0));
}

/// What a port says to who greets as an edge does: the first message, or how the connection ends.
fn words(address: SocketAddr, config: &Arc<ClientConfig>) -> String {
    let greeting = LinkHello {
        version: 1,
        name: "e1",
        slots: [0xff; 32],
        time_ms: 0,
        next: 0,
        oldest: 1,
        credit_events: 1,
        credit_bytes: 1,
        keep_alive_s: 0,
        software: "",
        chunk_bytes: 1,
    };
    let mut raw = match Raw::connect(address, config) {
        Ok(raw) => raw,
        Err(error) => return error.to_string(),
    };
    let sent = raw.stream.write_all(&wire::encoded(&[Message::LinkHello(greeting)]));
    let heard = raw.next(|message| format!("{message:?}"));
    match (sent, heard) {
        (_, Ok(said)) => said,
        (Err(error), Err(_)) => error.to_string(),
        (Ok(()), Err(_)) => match raw.stream.read(&mut [0; 64]) {
            Err(error) => error.to_string(),
            Ok(n) => format!("{n} bytes more"),
        },
    }
}
