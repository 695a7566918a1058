//! A device's credentials as files: a key or a certificate, the authority, and a context that names them.
//!
//! Invariant: a secret's file is its owner's only, and nothing that is there is overwritten.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spile_client::wall;

use crate::args::DeviceAdd;
use crate::context::Context;
use crate::failure::Failure;
use crate::local_code;
use crate::value::bytes::hex;

/// Two years: long enough for a device on a shelf.
const CERTIFICATE: Duration = Duration::from_secs(730 * 86_400);
/// Peers' clocks may be behind by this.
const SKEW_S: u64 = 86_400;
/// Readable by the owner only.
const SECRET: u32 = 0o600;
/// Readable by all.
const PLAIN: u32 = 0o644;

/// What was made, not written yet.
pub(super) struct Credentials {
    id: String,
    tenant: String,
    expires_ms: Option<u64>,
    kind: Kind,
}

enum Kind {
    DeviceKey([u8; 32]),
    Certificate { pem: String, key: String },
}

impl Credentials {
    pub(super) fn make(args: &DeviceAdd, context: &Context) -> Result<Self, Failure> {
        let tenant = context.tenant.clone().unwrap_or_else(|| "main".to_owned());
        let now = wall().0;
        let after =
            |ttl: Duration| now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let (kind, expires_ms) = if args.device_key {
            (Kind::device_key()?, args.ttl.map(after))
        } else {
            let expires = after(args.ttl.unwrap_or(CERTIFICATE));
            (Kind::certificate(args, &tenant, context, now, expires)?, Some(expires))
        };
        Ok(Self { id: args.id.clone(), tenant, expires_ms, kind })
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// What the server is told: never a secret.
    pub(super) fn registration(&self, args: &DeviceAdd) -> Value {
        let hash = match &self.kind {
            Kind::DeviceKey(key) => Some(hex(&Sha256::digest(key))),
            Kind::Certificate { .. } => None,
        };
        // admin §3.1: 0 is for ever.
        let expires_ms = self.expires_ms.unwrap_or(0);
        json!({
            "id": self.id, "role": args.role, "key_hash": hash, "expires_ms": expires_ms,
            "replace": args.replace,
        })
    }

    /// Writes all files into the folder.
    pub(super) fn write(&self, folder: &Path, context: &Context) -> Result<Written, Failure> {
        fs::create_dir_all(folder).map_err(|why| failed(folder, why))?;
        let folder = fs::canonicalize(folder).map_err(|why| failed(folder, why))?;
        let mut written = Written { files: Vec::new() };
        match self.write_all(&folder, context, &mut written) {
            Ok(()) => Ok(written),
            Err(failure) => {
                written.remove();
                Err(failure)
            }
        }
    }

    fn write_all(
        &self,
        folder: &Path,
        context: &Context,
        written: &mut Written,
    ) -> Result<(), Failure> {
        let file = |ending: &str| folder.join(format!("{}.{ending}", self.id));
        let mut own = Context { url: context.url.clone(), ..Context::default() };
        match &self.kind {
            Kind::DeviceKey(key) => {
                own.device_key = Some(written.add(file("device-key"), &hex(key), SECRET)?);
            }
            Kind::Certificate { pem, key } => {
                own.client_key = Some(written.add(file("key"), key, SECRET)?);
                own.cert = Some(written.add(file("pem"), pem, PLAIN)?);
            }
        }
        if let Some(ca) = &context.ca {
            let pem = fs::read_to_string(ca).map_err(|why| failed(ca, why))?;
            own.ca = Some(written.add(file("ca.pem"), &pem, PLAIN)?);
        }
        own.tenant = Some(self.tenant.clone());
        own.principal = Some(self.id.clone());
        let text = toml::to_string(&own).map_err(|why| failed(folder, why))?;
        written.add(file("toml"), &text, PLAIN).map(|_| ())
    }
}

impl Kind {
    fn device_key() -> Result<Self, Failure> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|why| Failure::local(&local_code::FILE, "make a device key", why))?;
        Ok(Self::DeviceKey(key))
    }

    fn certificate(
        args: &DeviceAdd,
        tenant: &str,
        context: &Context,
        now_ms: u64,
        expires_ms: u64,
    ) -> Result<Self, Failure> {
        let issuer = issuer(context)?;
        let broken =
            |why: rcgen::Error| Failure::usage(format!("issue a certificate to {}", args.id), why);
        let uri = format!("spile://{tenant}/{}/{}", args.role, args.id);
        let epoch = date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        params.not_before = epoch + Duration::from_secs((now_ms / 1_000).saturating_sub(SKEW_S));
        params.not_after = epoch + Duration::from_secs(expires_ms / 1_000);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, args.id.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(broken)?)];
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(broken)?;
        let pem = params.signed_by(&key, &issuer).map_err(broken)?.pem();
        Ok(Self::Certificate { pem, key: key.serialize_pem() })
    }
}

/// The authority that signs devices; its certificate is the context's `ca` where nothing else is said.
fn issuer(context: &Context) -> Result<Issuer<'static, KeyPair>, Failure> {
    let no_key = || {
        Failure::usage("issue a certificate", "the context names no authority's key")
            .remedy("say device_ca_key in the context, or use --device-key")
    };
    let key_file = context.device_ca_key.as_deref().ok_or_else(no_key)?;
    let ca_file = context.device_ca.as_deref().or(context.ca.as_deref()).ok_or_else(no_key)?;
    let pem = fs::read_to_string(key_file).map_err(|why| failed(key_file, why))?;
    let key = KeyPair::from_pem(&pem).map_err(|why| failed(key_file, why))?;
    let ca = CertificateDer::from_pem_file(ca_file).map_err(|why| failed(ca_file, why))?;
    Issuer::from_ca_cert_der(&ca, key).map_err(|why| failed(ca_file, why))
}

fn failed(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::local(&local_code::FILE, format!("use {}", path.display()), why)
}

/// Files that were written, and can be taken back.
pub(super) struct Written {
    files: Vec<PathBuf>,
}

impl Written {
    fn add(&mut self, path: PathBuf, text: &str, mode: u32) -> Result<PathBuf, Failure> {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(mode).open(&path).map_err(|why| {
                failed(&path, why).remedy("name another folder with --out, or remove the file")
            })?;
        self.files.push(path.clone());
        let line_end = if text.ends_with('\n') { "" } else { "\n" };
        file.write_all(format!("{text}{line_end}").as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|why| failed(&path, why))?;
        Ok(path)
    }

    /// The context's file: the last that was written.
    pub(super) fn context(&self) -> Option<&Path> {
        self.files.last().map(PathBuf::as_path)
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Takes them back: they are worth nothing.
    pub(super) fn remove(self) {
        for file in self.files {
            if fs::remove_file(&file).is_err() {
                crate::output::say(&format!(
                    "spile: {} could not be removed; it is worth nothing",
                    file.display()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::args::{Command, Device, Typed};
    use crate::{connect, context};

    fn add(line: &str) -> DeviceAdd {
        let Command::Device(Device::Add(add)) = Typed::parse_from(line.split(' ')).command else {
            panic!("{line} adds no device");
        };
        add
    }

    #[test]
    fn a_device_key_is_kept_here_and_its_hash_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let add = add("spile device add d1 --device-key");
        let context = Context { url: Some("spile://h".to_owned()), ..Context::default() };
        let made = Credentials::make(&add, &context).unwrap();
        let written = made.write(folder.path(), &context).unwrap();
        let own = context::read(written.context().unwrap()).unwrap();
        assert_eq!(own.principal.as_deref(), Some("d1"));
        let file = own.device_key.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let key = connect::device_key(&file).unwrap();
        let told = made.registration(&add);
        assert_eq!(told["key_hash"], hex(&Sha256::digest(key)));
        assert!(!told.to_string().contains(&hex(&key)));
        // The same again would lose the first.
        let again = Credentials::make(&add, &context).unwrap().write(folder.path(), &context);
        assert_eq!(again.err().and_then(|failure| failure.name()), Some("file"));
        assert_eq!(connect::device_key(&file).unwrap(), key);
    }

    #[test]
    fn a_certificate_says_its_one_name_and_is_the_authoritys() {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let folder = tempfile::tempdir().unwrap();
        let (ca, ca_key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&ca_key, key.serialize_pem()).unwrap();
        let context =
            Context { ca: Some(ca.clone()), device_ca_key: Some(ca_key), ..Context::default() };
        let made =
            Credentials::make(&add("spile device add d1 --cert --ttl 2d"), &context).unwrap();
        let written = made.write(&folder.path().join("out"), &context).unwrap();
        let own = context::read(written.context().unwrap()).unwrap();
        let der = CertificateDer::from_pem_file(own.cert.unwrap()).unwrap();
        let authority = CertificateDer::from_pem_file(ca).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["URI(spile://main/device/d1)"]);
        assert_eq!(parsed.issuer(), authority.subject());
        let days = (parsed.validity().not_after.timestamp()
            - parsed.validity().not_before.timestamp())
            / 86_400;
        assert_eq!(days, 3);
    }

    #[test]
    fn without_the_authoritys_key_no_certificate_is_made() {
        let failure = Credentials::make(&add("spile device add d1 --cert"), &Context::default())
            .err()
            .unwrap();
        assert_eq!(failure.exit().number(), 2);
        assert!(failure.line().unwrap().contains("device_ca_key"));
    }
}
