//! A certificate and its key, in two files: `NAME.pem` and `NAME.key`.
//!
//! The key is written before its certificate. So a crash leaves a key alone, or a renewed key beside the old
//! certificate; both are seen and mended by issuing again. An authority's certificate without its key is not a crash's
//! work, and is refused, since what it signed would be orphaned by a new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::Identity;
use crate::durable::{self, NotDurable};

const DAY: u64 = 86_400;
/// An authority outlives what it signs.
const AUTHORITY_DAYS: u64 = 3_650;
/// Two years: long enough not to be forgotten by a device on a shelf, short enough to be renewed at all.
const CERTIFICATE_DAYS: u64 = 730;
/// A certificate of ours that ends sooner than this is made anew at the start.
const RENEW_DAYS: u64 = 30;
/// Peers' clocks may be behind by this.
const SKEW: u64 = DAY;

/// Why certificates could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file could not be made to last.
    #[error("certificates: {0}")]
    NotDurable(#[from] NotDurable),
    /// A file is there and can't be read.
    #[error("certificates: read {path}: {why}; make it readable for this user", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// An authority is only half there, or broken.
    #[error("certificates: {path} is no whole authority: {what}; restore both files, or remove both and issue every certificate anew", path = path.display())]
    Authority {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A name can't stand in a certificate.
    #[error(
        "certificates: {name:?} can't be a name in a certificate; use a host name of letters, digits, - and ."
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The library refused.
    #[error("certificates: make {what}: {why}; report this")]
    Make {
        /// What was made.
        what: String,
        /// Its reason.
        why: rcgen::Error,
    },
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A server, by these host names and addresses.
    Server(Vec<String>),
    /// A principal, by its one name.
    Client(Identity),
}

/// An authority: what signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// Where an issued certificate is, and whether it was made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// It was made or renewed by this call.
    pub fresh: bool,
}

impl Authority {
    /// Takes the authority `NAME.pem`, `NAME.key` of a folder, or makes it.
    ///
    /// # Errors
    /// It is half there or broken, or can't be written.
    pub fn open(folder: &Path, name: &str, title: &str, now: u64) -> Result<Self, CertError> {
        let files = Files::of(folder, name);
        let broken = |what| CertError::Authority { path: files.cert.clone(), what };
        let key = read(&files.key)?.map(|pem| KeyPair::from_pem(&pem));
        let key = key.transpose().map_err(|_| broken("the key is not a PEM key"))?;
        match (read(&files.cert)?, key) {
            (Some(_), None) => Err(broken("the key's file is missing")),
            (Some(pem), Some(key)) => Self::assemble(pem, key, now).map_err(broken),
            (None, key) => Self::make(&files, key, title, now),
        }
    }

    fn make(files: &Files, key: Option<KeyPair>, title: &str, now: u64) -> Result<Self, CertError> {
        let failed = |why| CertError::Make { what: title.to_owned(), why };
        let key = match key {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(failed)?;
                durable::write(&files.key, key.serialize_pem().as_bytes(), durable::SECRET)?;
                key
            }
        };
        let mut params = params(title, now, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        durable::write(&files.cert, pem.as_bytes(), durable::PLAIN)?;
        let broken = |what| CertError::Authority { path: files.cert.clone(), what };
        Self::assemble(pem, key, now).map_err(broken)
    }

    fn assemble(pem: String, key: KeyPair, now: u64) -> Result<Self, &'static str> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "the certificate is not PEM")?;
        let facts = Facts::read(&certificate).ok_or("the certificate is not X.509")?;
        if facts.public_key != key.subject_public_key_info() {
            return Err("the key is not the certificate's");
        }
        if facts.not_after <= now {
            return Err("it has expired");
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| "the certificate is no authority's")?;
        Ok(Self { issuer, certificate, pem })
    }

    /// Its certificate, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Takes the certificate `NAME.pem`, `NAME.key` of a folder if it is whole, this authority's, says the same, and
    /// lasts; else issues it.
    ///
    /// # Errors
    /// A name that no certificate can hold; a file that can't be read or written.
    pub fn issue(
        &self,
        folder: &Path,
        name: &str,
        kind: &Kind,
        now: u64,
    ) -> Result<Issued, CertError> {
        let files = Files::of(folder, name);
        let wanted = kind.names()?;
        let whole = match (read(&files.cert)?, read(&files.key)?) {
            (Some(cert), Some(key)) => self.is_whole(&cert, &key, &wanted, now),
            (Some(_), None) | (None, Some(_) | None) => false,
        };
        if !whole {
            self.make_leaf(&files, kind, wanted, now)?;
        }
        Ok(Issued { cert: files.cert, key: files.key, fresh: !whole })
    }

    fn is_whole(&self, cert: &str, key: &str, wanted: &[SanType], now: u64) -> bool {
        let Ok(certificate) = CertificateDer::from_pem_slice(cert.as_bytes()) else { return false };
        let Ok(key) = KeyPair::from_pem(key) else { return false };
        let (Some(facts), Some(own)) = (Facts::read(&certificate), Facts::read(&self.certificate))
        else {
            return false;
        };
        facts.public_key == key.subject_public_key_info()
            && facts.authority_key.is_some()
            && facts.authority_key == own.subject_key
            && facts.not_after > now.saturating_add(RENEW_DAYS * DAY)
            && facts.names == wanted.iter().filter_map(written).collect::<Vec<_>>()
    }

    fn make_leaf(
        &self,
        files: &Files,
        kind: &Kind,
        names: Vec<SanType>,
        now: u64,
    ) -> Result<(), CertError> {
        let title = kind.title();
        let failed = |why| CertError::Make { what: title.clone(), why };
        let mut params = params(&title, now, CERTIFICATE_DAYS);
        params.subject_alt_names = names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match kind {
            Kind::Server(_) => ExtendedKeyUsagePurpose::ServerAuth,
            Kind::Client(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate().map_err(failed)?;
        let pem = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        durable::write(&files.key, key.serialize_pem().as_bytes(), durable::SECRET)?;
        durable::write(&files.cert, pem.as_bytes(), durable::PLAIN)?;
        Ok(())
    }
}

impl Kind {
    fn title(&self) -> String {
        match self {
            Self::Server(names) => names.first().cloned().unwrap_or_default(),
            Self::Client(identity) => identity.name.clone(),
        }
    }

    fn names(&self) -> Result<Vec<SanType>, CertError> {
        let unfit = |name: &str| CertError::Name { name: name.to_owned() };
        match self {
            Self::Client(identity) => {
                let uri = identity.to_string();
                let written = uri.as_str().try_into().map_err(|_| unfit(&uri))?;
                Ok(vec![SanType::URI(written)])
            }
            Self::Server(names) => names.iter().map(|name| host(name).ok_or(unfit(name))).collect(),
        }
    }
}

fn host(name: &str) -> Option<SanType> {
    match rustls_pki_types::ServerName::try_from(name).ok()? {
        rustls_pki_types::ServerName::IpAddress(address) => {
            Some(SanType::IpAddress(std::net::IpAddr::from(address)))
        }
        rustls_pki_types::ServerName::DnsName(name) => {
            Some(SanType::DnsName(name.as_ref().try_into().ok()?))
        }
        _ => None,
    }
}

/// An alternative name as its bytes in a certificate; only the kinds that [`Kind`] makes.
fn written(name: &SanType) -> Option<Vec<u8>> {
    if let SanType::DnsName(text) | SanType::URI(text) = name {
        return Some(text.as_str().as_bytes().to_vec());
    }
    let SanType::IpAddress(address) = name else { return None };
    match address {
        std::net::IpAddr::V4(address) => Some(address.octets().to_vec()),
        std::net::IpAddr::V6(address) => Some(address.octets().to_vec()),
    }
}

fn params(title: &str, now: u64, days: u64) -> CertificateParams {
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(SKEW));
    params.not_after = epoch + Duration::from_secs(now.saturating_add(days * DAY));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, title);
    params
}

/// What is compared of a certificate that is there.
struct Facts {
    public_key: Vec<u8>,
    not_after: u64,
    subject_key: Option<Vec<u8>>,
    authority_key: Option<Vec<u8>>,
    names: Vec<Vec<u8>>,
}

impl Facts {
    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        use x509_parser::extensions::{GeneralName, ParsedExtension};
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let mut facts = Self {
            public_key: parsed.public_key().raw.to_vec(),
            not_after: u64::try_from(parsed.validity().not_after.timestamp()).ok()?,
            subject_key: None,
            authority_key: None,
            names: Vec::new(),
        };
        for extension in parsed.extensions() {
            let extension = extension.parsed_extension();
            if let ParsedExtension::SubjectKeyIdentifier(id) = extension {
                facts.subject_key = Some(id.0.to_vec());
            } else if let ParsedExtension::AuthorityKeyIdentifier(id) = extension {
                facts.authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            } else if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    if let GeneralName::URI(text) | GeneralName::DNSName(text) = name {
                        facts.names.push(text.as_bytes().to_vec());
                    } else if let GeneralName::IPAddress(bytes) = name {
                        facts.names.push(bytes.to_vec());
                    }
                }
            }
        }
        Some(facts)
    }
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(folder: &Path, name: &str) -> Self {
        Self { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }
}

fn read(path: &Path) -> Result<Option<String>, CertError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(CertError::Unreadable { path: path.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use spile_protocol::id::Role;

    use super::super::identity;
    use super::*;
    use tempfile::TempDir;

    const NOW: u64 = 1_800_000_000;

    fn authority(folder: &TempDir) -> Authority {
        Authority::open(folder.path(), "ca", "Spile test authority", NOW).unwrap()
    }

    fn device() -> Kind {
        Kind::Client(Identity {
            tenant: "main".to_owned(),
            role: Role::Device,
            name: "sensor".to_owned(),
        })
    }

    #[test]
    fn an_issued_certificate_says_its_one_name_and_its_key_is_its_owners() {
        let folder = TempDir::new().unwrap();
        let issued = authority(&folder).issue(folder.path(), "d", &device(), NOW).unwrap();
        let der = CertificateDer::from_pem_file(&issued.cert).unwrap();
        let identity = identity::read(&der, NOW).unwrap();
        assert_eq!(identity.to_string(), "spile://main/device/sensor");
        for key in [issued.key, folder.path().join("ca.key")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_whole_is_kept_and_what_is_not_is_issued_again() {
        let folder = TempDir::new().unwrap();
        let issue = |now| authority(&folder).issue(folder.path(), "d", &device(), now).unwrap();
        let first = issue(NOW);
        assert!(first.fresh && !issue(NOW).fresh);
        assert!(!issue(NOW + (CERTIFICATE_DAYS - RENEW_DAYS - 1) * DAY).fresh);
        assert!(issue(NOW + (CERTIFICATE_DAYS - RENEW_DAYS) * DAY).fresh, "renewed before its end");
        let other = authority(&folder).issue(folder.path(), "other", &device(), NOW).unwrap();
        for spoil in [
            &(|| fs::remove_file(&first.key).unwrap()) as &dyn Fn(),
            &|| fs::remove_file(&first.cert).unwrap(),
            &|| fs::write(&first.cert, "garbage").unwrap(),
            &|| assert!(fs::copy(&other.key, &first.key).unwrap() > 0),
        ] {
            spoil();
            assert!(issue(NOW).fresh);
            assert!(!issue(NOW).fresh);
        }
    }

    #[test]
    fn another_name_or_another_authority_issues_again() {
        let folder = TempDir::new().unwrap();
        let server =
            |names: &[&str]| Kind::Server(names.iter().map(|name| (*name).to_owned()).collect());
        let issue = |kind: &Kind| authority(&folder).issue(folder.path(), "s", kind, NOW).unwrap();
        assert!(issue(&server(&["localhost", "127.0.0.1", "::1"])).fresh);
        assert!(!issue(&server(&["localhost", "127.0.0.1", "::1"])).fresh);
        assert!(issue(&server(&["localhost", "127.0.0.1", "::1", "edge-1"])).fresh);
        fs::remove_file(folder.path().join("ca.pem")).unwrap();
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        assert!(issue(&server(&["localhost", "127.0.0.1", "::1", "edge-1"])).fresh);
    }

    #[test]
    fn an_authority_is_finished_after_a_crash_and_never_replaced() {
        let folder = TempDir::new().unwrap();
        let first = authority(&folder).certificate;
        assert_eq!(authority(&folder).certificate, first);
        // A crash between its two files: the key is there, nothing was signed.
        fs::remove_file(folder.path().join("ca.pem")).unwrap();
        drop(authority(&folder));
        // Its key lost: no new one takes its place.
        let key = fs::read(folder.path().join("ca.key")).unwrap();
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        let open = || Authority::open(folder.path(), "ca", "t", NOW).map(drop).unwrap_err();
        assert!(open().to_string().contains("the key's file is missing"));
        fs::write(folder.path().join("ca.key"), "garbage").unwrap();
        assert!(open().to_string().contains("not a PEM key"));
        let other = KeyPair::generate().unwrap().serialize_pem();
        fs::write(folder.path().join("ca.key"), other).unwrap();
        assert!(open().to_string().contains("the key is not the certificate's"));
        fs::write(folder.path().join("ca.key"), key).unwrap();
        drop(authority(&folder));
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_refused() {
        let folder = TempDir::new().unwrap();
        let kind = Kind::Server(vec!["a..b".to_owned()]);
        let error = authority(&folder).issue(folder.path(), "s", &kind, NOW).unwrap_err();
        assert!(error.to_string().contains("\"a..b\" can't be a name"), "{error}");
    }
}
