//! Everything that can be said before connecting, checked once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use spile_protocol::id::{self, Run};
use spile_protocol::limits;

use super::{Address, Client, Error, tls};

/// How long reaching the server and being let in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between two attempts to come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// One read of the socket: several TLS records.
const SOCKET_BUFFER: usize = 128 * 1024;
/// Silent seconds after which either side pings.
const KEEP_ALIVE_S: u32 = 30;

/// Who we are, and how it is proven.
#[derive(Clone)]
pub(super) enum Credential {
    /// The certificate of the TLS handshake.
    Certificate,
    /// 32 random bytes, proven and never sent.
    DeviceKey { device: Arc<str>, key: [u8; 32] },
    /// A signed token.
    Token(Arc<str>),
}

/// What is said before connecting. Made by [`Client::builder`].
#[derive(Clone)]
pub struct Builder {
    url: Option<String>,
    files: tls::Files,
    credential: Credential,
    tenant: Option<String>,
    run: Option<Run>,
    software: String,
    keep_alive_s: u32,
    receipts: bool,
    reconnect: bool,
    connect_timeout: Duration,
    socket_buffer: usize,
}

/// What was said, checked; connects as often as wanted.
#[derive(Clone)]
pub struct Prepared {
    pub(super) address: Address,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) credential: Credential,
    /// Where it was said: the server must say the same.
    pub(super) tenant: Option<Arc<str>>,
    pub(super) run: Option<Run>,
    pub(super) software: Arc<str>,
    pub(super) keep_alive_s: u32,
    pub(super) receipts: bool,
    pub(super) reconnect: bool,
    pub(super) connect_timeout: Duration,
    pub(super) socket_buffer: usize,
    pub(super) longest_pause: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            url: None,
            files: tls::Files::default(),
            credential: Credential::Certificate,
            tenant: None,
            run: None,
            software: concat!("spile-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            keep_alive_s: KEEP_ALIVE_S,
            receipts: true,
            reconnect: true,
            connect_timeout: CONNECT_TIMEOUT,
            socket_buffer: SOCKET_BUFFER,
        }
    }
}

impl Builder {
    /// Where the server is: `spile://HOST[:PORT]`. Without TLS, on this machine only: `spile+insecure://`.
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.to_owned());
        self
    }

    /// The PEM file of the authority that signs the server.
    #[must_use]
    pub fn ca(mut self, file: impl AsRef<Path>) -> Self {
        self.files.ca = Some(file.as_ref().to_owned());
        self
    }

    /// The PEM file of our certificate: it says who we are.
    #[must_use]
    pub fn cert(mut self, file: impl AsRef<Path>) -> Self {
        self.files.cert = Some(file.as_ref().to_owned());
        self
    }

    /// The PEM file of our certificate's key.
    #[must_use]
    pub fn client_key(mut self, file: impl AsRef<Path>) -> Self {
        self.files.key = Some(PathBuf::from(file.as_ref()));
        self
    }

    /// A device and its key, proven and never sent.
    #[must_use]
    pub fn device_key(mut self, device: &str, key: [u8; 32]) -> Self {
        self.credential = Credential::DeviceKey { device: device.into(), key };
        self
    }

    /// A signed token (JWT). Never sent without TLS.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.credential = Credential::Token(token.into());
        self
    }

    /// The tenant we mean to be in: a server that has our credential in another is left before anything is sent. Where
    /// nothing is said it is the credential's own, with a device key `main`.
    #[must_use]
    pub fn tenant(mut self, tenant: &str) -> Self {
        self.tenant = Some(tenant.to_owned());
        self
    }

    /// The run to number in, kept beside an outbox that survives this process. Else each client takes a new one.
    #[must_use]
    pub const fn run(mut self, run: [u8; 8]) -> Self {
        self.run = Some(Run(run));
        self
    }

    /// What this program is, for the server's logs.
    #[must_use]
    pub fn software(mut self, software: &str) -> Self {
        software.clone_into(&mut self.software);
        self
    }

    /// After how many silent seconds either side pings; 0 for never.
    #[must_use]
    pub const fn keep_alive_s(mut self, seconds: u32) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    /// Are version and position of each event wanted? They are, where nothing is said; without, acks are shorter.
    #[must_use]
    pub const fn receipts(mut self, receipts: bool) -> Self {
        self.receipts = receipts;
        self
    }

    /// Does a client whose connection broke come back by itself? It does, where nothing is said.
    #[must_use]
    pub const fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// How long reaching the server and being let in may take, each time.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How much is read from the socket at once; small for thousands of idle clients in one process.
    #[must_use]
    pub const fn socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// Checks all of it and reads the files.
    ///
    /// # Errors
    /// Something is missing or wrong.
    pub fn prepare(self) -> Result<Prepared, Error> {
        let url = self.url.as_deref().unwrap_or_default();
        let address = Address::parse(url)?;
        if let Some(tenant) = &self.tenant {
            id::tenant(tenant).map_err(|why| {
                Error::setup("tenant", format!("{tenant:?}: {why}"), "correct the tenant's name")
            })?;
        }
        Error::unless_it_fits("software", &self.software, limits::SOFTWARE_BYTES)?;
        self.check_credential(&address)?;
        let tls = address.is_secure().then(|| tls::config(&self.files)).transpose()?;
        Ok(Prepared {
            address,
            tls,
            credential: self.credential,
            tenant: self.tenant.map(Arc::from),
            run: self.run,
            software: self.software.into(),
            keep_alive_s: self.keep_alive_s,
            receipts: self.receipts,
            reconnect: self.reconnect,
            connect_timeout: self.connect_timeout,
            socket_buffer: self.socket_buffer.max(1024),
            longest_pause: LONGEST_PAUSE,
        })
    }

    fn check_credential(&self, address: &Address) -> Result<(), Error> {
        match &self.credential {
            Credential::Certificate if self.files.cert.is_none() => Err(Error::setup(
                "credential",
                "nothing says who we are",
                "name a certificate and its key, a device key or a token",
            )),
            // spec §4.3.2: never without TLS.
            Credential::Token(_) if !address.is_secure() => {
                Err(Error::setup("token", "would travel in the clear", "use spile:// with TLS"))
            }
            Credential::Token(token) => Error::unless_it_fits("token", token, limits::TOKEN_BYTES),
            Credential::DeviceKey { device, .. } => {
                let checked = id::name(device).map(|_| ());
                checked.map_err(|why| {
                    Error::setup(
                        "device",
                        format!("{device:?}: {why}"),
                        "correct the device's name",
                    )
                })
            }
            Credential::Certificate => Ok(()),
        }
    }

    /// Connects and waits until the server has let us in.
    ///
    /// # Errors
    /// Something said is wrong, the server is not reached or not trusted, or it refuses.
    pub async fn connect(self) -> Result<Client, Error> {
        self.prepare()?.connect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(builder: Builder) -> String {
        builder.prepare().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_missing_or_does_not_go_together_is_told_before_connecting() {
        let insecure = || Builder::default().url("spile+insecure://127.0.0.1:1");
        assert!(why(Builder::default()).contains("url"));
        assert!(why(insecure()).contains("nothing says who we are"));
        assert!(why(insecure().token("t")).contains("in the clear"));
        assert!(why(insecure().device_key("a b", [0; 32])).contains("device"));
        assert!(why(insecure().device_key("d", [0; 32]).tenant("M")).contains("tenant"));
        assert_eq!(why(insecure().device_key("d", [0; 32])), "");
        let secure = Builder::default().url("spile://127.0.0.1:1").device_key("d", [0; 32]);
        assert!(why(secure.clone()).contains("no authority"));
        assert!(why(secure.ca("/nowhere/ca.pem")).contains("/nowhere/ca.pem"));
    }
}
