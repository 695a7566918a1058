//! The same over TLS: who is trusted, and what a device key's proof is bound to.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use spile_client::{Client, Error, Event};
use spile_protocol::code::Code;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::server::{DEVICE, KEY, Server};
use super::{patient, refused};

/// An authority in a folder, and a server it signed.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn acceptor(&self, alpn: &[u8]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn client(&self, server: &Server) -> spile_client::Builder {
        Client::builder().url(&server.url).ca(self.ca()).device_key(DEVICE, KEY)
    }
}

#[tokio::test]
async fn a_device_key_is_proven_over_the_exporter_of_its_connection() {
    let authority = Authority::new();
    let server = Server::start_tls(authority.acceptor(b"spile/1")).await;
    let client = patient(authority.client(&server).connect()).await.unwrap();
    let seen = client.seen();
    assert_eq!(seen.chain.len(), 1);
    assert!(seen.suite.starts_with("TLS13"), "{seen:?}");
    patient(client.publish(Event::new("t/a", "1"))).await.unwrap();
    // The proof of the first connection is no good on the second: a new one is made.
    server.world.cut();
    patient(client.publish(Event::new("t/a", "2"))).await.unwrap();
    assert_eq!(server.world.log().len(), 2);
    let error =
        patient(authority.client(&server).device_key(DEVICE, [8; 32]).connect()).await.unwrap_err();
    assert_eq!(refused(&error), Code::UNAUTHENTICATED);
}

#[tokio::test]
async fn a_server_of_another_authority_or_protocol_hears_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start_tls(theirs.acceptor(b"spile/1")).await;
    let error = patient(ours.client(&server).connect()).await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    assert_eq!(error.retry_after(), None);
    let server = Server::start_tls(ours.acceptor(b"other/1")).await;
    // The server ends the handshake: it speaks no protocol of ours.
    assert!(patient(ours.client(&server).connect()).await.is_err());
    // A name its certificate does not have.
    let server = Server::start_tls(ours.acceptor(b"spile/1")).await;
    let url = server.url.replace("127.0.0.1", "localhost");
    let error = patient(ours.client(&server).url(&url).connect()).await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
}
