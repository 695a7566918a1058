//! Who may come to which port: certificates of other authorities and other roles, and clients of yesterday.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use spile_protocol::id::Role;
use spile_protocol::message::{Auth, Message, Proof};
use spiled::certs::identity::Identity;
use spiled::certs::{Authority, Kind};
use spiled::clock::unix_seconds;

use super::{Arena, rest, wire};
use crate::AT_ONCE;
use crate::e2e::Raw;

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
    let gone = refused("edge");
    assert!(gone != "answered" && gone != "kept", "an edge at the devices' port: {gone}");
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
