//! Who a certificate says it is: one URI, `spile://TENANT/ROLE/NAME`, and nothing beside it.
//!
//! The certificate's chain and signature are TLS's business; that it is valid *now* is asked again here, because a
//! resumed session presents an old certificate. Invariant: an [`Identity`] has three names and came from one place.

use std::fmt;

use rustls_pki_types::CertificateDer;
use spile_protocol::id::Role;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::names::{is_principal, is_tenant};

/// Who a certificate says it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The tenant.
    pub tenant: String,
    /// The role.
    pub role: Role,
    /// The name within tenant and role.
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spile://{}/{}/{}", self.tenant, self.role.name(), self.name)
    }
}

/// Why a certificate says nobody; the peer's fault, and its connection closes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate, or bytes behind it.
    #[error("certificate: not X.509; issue it anew")]
    Malformed,
    /// Before or after its time.
    #[error("certificate: not valid at this time; check the clock or renew it")]
    Expired,
    /// An authority's certificate where a principal's belongs.
    #[error("certificate: an authority's, not a principal's; use the one issued to this name")]
    Authority,
    /// None, or more than one alternative name.
    #[error(
        "certificate: {0} alternative names; it must have exactly one, spile://TENANT/ROLE/NAME"
    )]
    NotOneName(usize),
    /// Its one name is no identity.
    #[error("certificate: its name {0:?} is not spile://TENANT/ROLE/NAME; issue it anew")]
    NoIdentity(String),
    /// Its subject says another name.
    #[error("certificate: its subject {0:?} is not its name; issue it anew")]
    OtherSubject(String),
}

/// Reads the identity of a presented certificate, valid at `now` in seconds since 1970.
///
/// # Errors
/// Anything but exactly one well-formed name.
pub fn read(certificate: &CertificateDer<'_>, now: u64) -> Result<Identity, IdentityError> {
    let parsed = X509Certificate::from_der(certificate);
    let (rest, parsed) = parsed.map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    if !valid_at(&parsed, now) {
        return Err(IdentityError::Expired);
    }
    if parsed.is_ca() {
        return Err(IdentityError::Authority);
    }
    let identity = parse(one_name(&parsed)?)?;
    one_subject(&parsed, &identity)?;
    Ok(identity)
}

fn valid_at(certificate: &X509Certificate<'_>, now: u64) -> bool {
    let validity = certificate.validity();
    i64::try_from(now).is_ok_and(|now| {
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
    })
}

fn one_name<'c>(certificate: &'c X509Certificate<'_>) -> Result<&'c str, IdentityError> {
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(found) = extension.parsed_extension() {
            names.extend(found.general_names.iter());
        }
    }
    match names.as_slice() {
        [GeneralName::URI(uri)] => Ok(uri),
        [other] => Err(IdentityError::NoIdentity(other.to_string())),
        names => Err(IdentityError::NotOneName(names.len())),
    }
}

fn parse(uri: &str) -> Result<Identity, IdentityError> {
    let no_identity = || IdentityError::NoIdentity(uri.chars().take(256).collect());
    let parts = uri.strip_prefix("spile://").ok_or_else(no_identity)?.split('/');
    let [tenant, role, name] =
        <[&str; 3]>::try_from(parts.collect::<Vec<_>>()).map_err(|_| no_identity())?;
    let role = Role::find(role).ok_or_else(no_identity)?;
    if !is_tenant(tenant) || !is_principal(name) {
        return Err(no_identity());
    }
    Ok(Identity { tenant: tenant.to_owned(), role, name: name.to_owned() })
}

/// A subject may repeat the name for people's eyes; one that says another name is refused.
fn one_subject(
    certificate: &X509Certificate<'_>,
    identity: &Identity,
) -> Result<(), IdentityError> {
    for common_name in certificate.subject().iter_common_name() {
        let said = common_name.as_str().unwrap_or("?");
        if said != identity.name {
            return Err(IdentityError::OtherSubject(said.chars().take(256).collect()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, IsCa, KeyPair, SanType, date_time_ymd};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn issued(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn one_uri_is_who_it_says() {
        for (text, role) in [
            ("spile://main/device/sensor-7", Role::Device),
            ("spile://north/operator/ada", Role::Operator),
            ("spile://main/edge/edge-1", Role::Edge),
            ("spile://main/user/u.1", Role::User),
            ("spile://main/service/thumbs", Role::Service),
        ] {
            let identity = read(&issued(|p| p.subject_alt_names = vec![uri(text)]), NOW).unwrap();
            assert_eq!((identity.to_string().as_str(), identity.role), (text, role));
        }
    }

    #[test]
    fn a_name_that_is_no_identity_is_refused() {
        for text in [
            "spile://main/device",
            "spile://main/device/",
            "spile://main/device/a/b",
            "spile:///device/a",
            "spile://main/root/a",
            "spile://main/Device/a",
            "SPILE://main/device/a",
            "spile://main/device/a%20b",
            "spile://main/device/..",
            "https://main/device/a",
            "spile://main/device/a?x",
            "spile://Main/device/a",
            "spile://main/service/$audit",
            "",
        ] {
            let read = read(&issued(|p| p.subject_alt_names = vec![uri(text)]), NOW);
            assert_eq!(read, Err(IdentityError::NoIdentity(text.to_owned())));
        }
    }

    #[test]
    fn none_two_or_another_kind_of_name_is_refused() {
        let device = || uri("spile://main/device/a");
        let dns = || SanType::DnsName("a".try_into().unwrap());
        for (names, expected) in [
            (vec![], 0),
            (vec![device(), device()], 2),
            (vec![device(), uri("spile://main/operator/a")], 2),
            (vec![device(), dns()], 2),
        ] {
            let read = read(&issued(|p| p.subject_alt_names = names), NOW);
            assert_eq!(read, Err(IdentityError::NotOneName(expected)));
        }
        let read = read(&issued(|p| p.subject_alt_names = vec![dns()]), NOW);
        assert!(matches!(read, Err(IdentityError::NoIdentity(_))), "{read:?}");
    }

    #[test]
    fn a_subject_may_only_repeat_the_name() {
        let named = |subject: &str| {
            let certificate = issued(|p| {
                p.subject_alt_names = vec![uri("spile://main/device/a")];
                p.distinguished_name.push(DnType::CommonName, subject);
            });
            read(&certificate, NOW)
        };
        assert!(named("a").is_ok());
        assert_eq!(named("b"), Err(IdentityError::OtherSubject("b".to_owned())));
    }

    #[test]
    fn expired_early_authorities_and_garbage_are_refused() {
        let device = || vec![uri("spile://main/device/a")];
        let old = issued(|p| {
            p.subject_alt_names = device();
            p.not_after = date_time_ymd(2020, 1, 1);
        });
        let early = issued(|p| {
            p.subject_alt_names = device();
            p.not_before = date_time_ymd(2090, 1, 1);
        });
        let authority = issued(|p| {
            p.subject_alt_names = device();
            p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        });
        assert_eq!(read(&old, NOW), Err(IdentityError::Expired));
        assert_eq!(read(&early, NOW), Err(IdentityError::Expired));
        assert_eq!(read(&authority, NOW), Err(IdentityError::Authority));
        let good = issued(|p| p.subject_alt_names = device());
        for length in 0..good.len() {
            let cut = CertificateDer::from(good[..length].to_vec());
            assert_eq!(read(&cut, NOW), Err(IdentityError::Malformed), "{length}");
        }
        let longer = CertificateDer::from([good.as_ref(), &[0]].concat());
        assert_eq!(read(&longer, NOW), Err(IdentityError::Malformed));
    }
}
