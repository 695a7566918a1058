//! Who gets through TLS, who does not, and what stays while certificates are swapped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use spiled::certs::deployment;
use spiled::config::TlsFiles;
use spiled::tls::{ALPN, AcceptError, Accepted, Acceptor, Deadlines, LinkConnector, ORIGIN_MAX};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const IN_TIME: Deadlines = Deadlines::ORDINARY;

/// Certificates are verified against the real clock, so that tests use it too.
fn now() -> u64 {
    spiled::clock::unix_seconds()
}

struct Deployment {
    folder: TempDir,
    tls: TlsFiles,
}

impl Deployment {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let local = deployment::local(folder.path(), "local", "main", now()).unwrap();
        Self { folder, tls: local.tls }
    }

    fn dev(&self, file: &str) -> PathBuf {
        self.folder.path().join("dev").join(file)
    }

    fn client(&self, principal: Option<&str>) -> ClientConfig {
        let files = principal
            .map(|name| (self.dev(&format!("{name}.pem")), self.dev(&format!("{name}.key"))));
        client(&self.dev("ca.pem"), files)
    }
}

fn client(ca: &Path, files: Option<(PathBuf, PathBuf)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(spiled::tls::provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match files {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

type Met = (Result<Accepted<DuplexStream>, AcceptError>, std::io::Result<TlsStream<DuplexStream>>);

async fn meet(acceptor: &Acceptor, client: &Arc<ClientConfig>, at: u64) -> Met {
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::clone(client));
    tokio::join!(acceptor.accept(far, IN_TIME, at), connector.connect(name, near))
}

/// Lets the client read what came after the handshake: its ticket.
async fn exchange(met: Met) {
    let (accepted, connected) = met;
    let (mut server, mut client) = (accepted.unwrap().stream, connected.unwrap());
    server.write_all(b"hi").await.unwrap();
    let mut two = [0; 2];
    client.read_exact(&mut two).await.unwrap();
    assert_eq!(&two, b"hi");
}

#[tokio::test]
async fn a_certificate_says_who_and_none_says_nobody() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    for (principal, who) in [
        (Some("device"), Some("spile://main/device/device")),
        (Some("operator"), Some("spile://main/operator/operator")),
        (None, None),
    ] {
        let client = Arc::new(deployment.client(principal));
        let (accepted, connected) = meet(&acceptor, &client, now()).await;
        let accepted = accepted.unwrap();
        assert_eq!(accepted.identity.map(|who| who.to_string()).as_deref(), who);
        let two_years_ms = 2 * 365 * 86_400 * 1_000;
        assert_eq!(accepted.ends_ms.abs_diff(now() * 1_000 + two_years_ms) < 60_000, who.is_some());
        let connected = connected.unwrap();
        let (_, connection) = connected.get_ref();
        assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(connection.alpn_protocol(), Some(ALPN));
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn small_groups_are_taken_from_small_devices() {
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    for group in [X25519, SECP256R1] {
        let mut client = deployment.client(None);
        let mut provider = (*spiled::tls::provider()).clone();
        provider.kx_groups = vec![group];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(deployment.dev("ca.pem")).unwrap()).unwrap();
        let alpn = std::mem::take(&mut client.alpn_protocols);
        client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = alpn;
        let (accepted, _connected) = meet(&acceptor, &Arc::new(client), now()).await;
        accepted.unwrap();
    }
}

#[tokio::test]
async fn without_the_protocol_nobody_comes_in() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    for offered in [vec![], vec![b"h2".to_vec()]] {
        let mut client = deployment.client(Some("device"));
        client.alpn_protocols = offered;
        let (accepted, connected) = meet(&acceptor, &Arc::new(client), now()).await;
        assert!(matches!(accepted, Err(AcceptError::NoProtocol)), "{accepted:?}");
        let why = connected.unwrap_err().to_string();
        assert!(why.contains("NoApplicationProtocol"), "{why}");
    }
}

#[tokio::test]
async fn garbage_and_foreign_certificates_are_cut() {
    let (deployment, other) = (Deployment::new(), Deployment::new());
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();

    let foreign = (other.dev("device.pem"), other.dev("device.key"));
    let foreign = Arc::new(client(&deployment.dev("ca.pem"), Some(foreign)));
    let (accepted, _connected) = meet(&acceptor, &foreign, now()).await;
    assert!(matches!(accepted, Err(AcceptError::Handshake(_))), "{accepted:?}");

    for garbage in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 64], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]]
    {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(garbage).await.unwrap();
        near.shutdown().await.unwrap();
        let accepted = acceptor.accept(far, IN_TIME, now()).await;
        assert!(matches!(accepted, Err(AcceptError::Handshake(_))), "{accepted:?}");
    }
}

/// A whole TLS 1.2 ClientHello: it offers `spile/1`, a 1.2 suite and a group of ours, and says nothing of 1.3.
fn tls_1_2_hello() -> Vec<u8> {
    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }
    let extension = |kind: u16, body: &[u8]| [kind.to_be_bytes().to_vec(), sized(body)].concat();
    let extensions = [
        extension(16, &sized(&[&[7], ALPN].concat())),
        extension(10, &sized(&[0, 29])),
        extension(13, &sized(&[4, 3])),
        extension(23, &[]),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &sized(&[0xc0, 0x2b]), &[1, 0], &sized(&extensions)].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

#[tokio::test]
async fn a_tls_1_2_client_is_told_that_its_version_is_too_old() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&tls_1_2_hello()).await.unwrap();
    let accepted = acceptor.accept(far, IN_TIME, now()).await;
    let why = accepted.unwrap_err();
    assert!(matches!(why, AcceptError::Handshake(_)), "{why:?}");
    // Which of the two depends on whether TLS 1.2 is built in at all.
    let said = why.to_string();
    let known = ["SupportedVersionsExtensionRequired", "Tls12NotOffered"];
    assert!(known.iter().any(|known| said.contains(known)), "{said}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert.first(), Some(&21), "an alert, not silence: {alert:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_and_slowness_are_cut_in_time() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let (_near, far) = duplex(1 << 16);
    let accepted = acceptor.accept(far, IN_TIME, now()).await;
    assert!(matches!(accepted, Err(AcceptError::SilentHello(after)) if after == IN_TIME.hello));

    // A whole ClientHello, and then nothing.
    let client = Arc::new(deployment.client(None));
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(client, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&hello).await.unwrap();
    let accepted = acceptor.accept(far, IN_TIME, now()).await;
    assert!(matches!(accepted, Err(AcceptError::Slow(after)) if after == IN_TIME.whole));
}

#[tokio::test]
async fn a_session_resumes_for_a_day_after_its_full_handshake_and_no_longer() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let client = Arc::new(deployment.client(Some("device")));
    let start = now();
    exchange(meet(&acceptor, &client, start).await).await;
    // Each resumption hands out a new ticket; all of them go back to the first handshake.
    for at in [start + 10, start + ORIGIN_MAX - 1, start + ORIGIN_MAX] {
        let met = meet(&acceptor, &client, at).await;
        let accepted = met.0.as_ref().unwrap();
        assert!(accepted.resumed);
        assert_eq!(accepted.identity.as_ref().unwrap().name, "device");
        exchange(met).await;
    }
    let (accepted, _connected) = meet(&acceptor, &client, start + ORIGIN_MAX + 1).await;
    assert!(matches!(accepted, Err(AcceptError::StaleOrigin)), "{accepted:?}");
}

#[tokio::test]
async fn a_resumed_certificate_is_checked_for_its_time_again() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let client = Arc::new(deployment.client(Some("device")));
    let years = 3 * 365 * 86_400;
    // A handshake in three years, as far as origins go; the certificate ended in two.
    let (accepted, _connected) = meet(&acceptor, &client, now() + years).await;
    assert!(matches!(accepted, Err(AcceptError::Identity(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_keeps_open_sessions() {
    let deployment = Deployment::new();
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let client = Arc::new(deployment.client(None));
    let (accepted, connected) = meet(&acceptor, &client, now()).await;
    let (mut server, mut old) = (accepted.unwrap().stream, connected.unwrap());
    let before = old.get_ref().1.peer_certificates().unwrap().to_vec();

    fs::remove_file(&deployment.tls.cert).unwrap();
    deployment::local(deployment.folder.path(), "local", "main", now()).unwrap();
    acceptor.reload().unwrap();
    let fresh = Arc::new(deployment.client(None));
    let (accepted, connected) = meet(&acceptor, &fresh, now()).await;
    accepted.unwrap();
    assert_ne!(connected.unwrap().get_ref().1.peer_certificates().unwrap(), before);

    server.write_all(b"still").await.unwrap();
    let mut five = [0; 5];
    old.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"still");
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing_and_one_of_trust_ends_tickets() {
    let (deployment, other) = (Deployment::new(), Deployment::new());
    let acceptor = Acceptor::for_devices(&deployment.tls).unwrap();
    let client = Arc::new(deployment.client(Some("device")));
    exchange(meet(&acceptor, &client, now()).await).await;

    let ca = fs::read(&deployment.tls.ca).unwrap();
    fs::write(&deployment.tls.ca, "not PEM").unwrap();
    assert!(acceptor.reload().unwrap_err().to_string().contains("no certificate in it"));
    fs::write(&deployment.tls.ca, &ca).unwrap();
    acceptor.reload().unwrap();
    let met = meet(&acceptor, &client, now()).await;
    assert!(met.0.as_ref().unwrap().resumed, "same authorities, same tickets");
    exchange(met).await;

    fs::copy(&other.tls.ca, &deployment.tls.ca).unwrap();
    acceptor.reload().unwrap();
    let (accepted, _connected) = meet(&acceptor, &client, now()).await;
    assert!(matches!(accepted, Err(AcceptError::Handshake(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_link_needs_an_edges_certificate_and_the_workers_name() {
    let folder = TempDir::new().unwrap();
    let names = |name: &str| vec![name.to_owned()];
    deployment::split(folder.path(), &names("edge-1"), &names("a"), now()).unwrap();
    let link = |node: &str| TlsFiles {
        cert: folder.path().join(node).join("link.pem"),
        key: folder.path().join(node).join("link.key"),
        ca: folder.path().join(node).join("link-ca.pem"),
    };
    let acceptor = Acceptor::for_links(&link("worker-a")).unwrap();
    let connector = LinkConnector::new(&link("edge-edge-1")).unwrap();
    let (near, far) = duplex(1 << 16);
    let (accepted, connected) =
        tokio::join!(acceptor.accept(far, IN_TIME, now()), connector.connect(near, "a"));
    assert_eq!(accepted.unwrap().identity.unwrap().to_string(), "spile://main/edge/edge-1");
    connected.unwrap();

    let (near, far) = duplex(1 << 16);
    let (_accepted, connected) =
        tokio::join!(acceptor.accept(far, IN_TIME, now()), connector.connect(near, "b"));
    assert!(connected.unwrap_err().to_string().contains("handshake with worker b"));

    // Nobody without a certificate, and no operator of the device authority.
    let ca = folder.path().join("worker-a/link-ca.pem");
    let operator = folder.path().join("operator");
    let operator = (operator.join("operator.pem"), operator.join("operator.key"));
    for files in [None, Some(operator)] {
        let (accepted, _) = meet(&acceptor, &Arc::new(client(&ca, files)), now()).await;
        assert!(matches!(accepted, Err(AcceptError::Handshake(_))), "{accepted:?}");
    }

    // And at the devices' port no edge, even by an authority that both trust.
    let mixed = TlsFiles {
        cert: folder.path().join("edge-edge-1/listen.pem"),
        key: folder.path().join("edge-edge-1/listen.key"),
        ca,
    };
    let devices = Acceptor::for_devices(&mixed).unwrap();
    let edge = folder.path().join("edge-edge-1");
    let edge = client(
        &folder.path().join("device-ca.pem"),
        Some((edge.join("link.pem"), edge.join("link.key"))),
    );
    let (accepted, _connected) = meet(&devices, &Arc::new(edge), now()).await;
    assert!(matches!(accepted, Err(AcceptError::OtherPort(_))), "{accepted:?}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (deployment, other) = (Deployment::new(), Deployment::new());
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = deployment.tls.clone();
        change(&mut files);
        Acceptor::for_devices(&files).unwrap_err().to_string()
    };
    let gone = deployment.dev("gone.pem");
    for (message, expected) in [
        (with(&|files| files.cert = gone.clone()), "gone.pem"),
        (with(&|files| files.key = files.cert.clone()), "edge.pem"),
        (with(&|files| files.key = other.tls.key.clone()), "name a pair that belongs together"),
        (with(&|files| files.cert = files.key.clone()), "no certificate in it"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}
