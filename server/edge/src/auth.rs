//! Who is it: a client certificate or a device key, checked against the registry each time.
//!
//! Pure: certificate, channel, registry and time come in. Not here: reading a certificate (whoever accepts TLS does) and
//! what the principal may do ([`crate::policy`]). Invariants: nothing but the registry's copy makes a device key good; an
//! unknown name costs and answers the same as a wrong key; a tenant that the configuration does not name does not exist.

use spile_protocol::{
    code::Code,
    id::Role,
    message::Proof,
    session::key::{self, Binding, Signed},
    time::Millis,
};

use crate::registry::{Entry, Registry};

/// Who a certificate says it is: one name, read strictly by whoever accepted TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// In which tenant.
    pub tenant: String,
    /// As what.
    pub role: Role,
    /// Who.
    pub name: String,
    /// When the certificate ends, in milliseconds since 1970; 0 where that is not known.
    pub ends_ms: u64,
}

/// What the transport knows of a peer.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Who its certificate says it is, where it brought one.
    pub identity: Option<Identity>,
    /// What a device key's proof is bound to.
    pub channel: Channel,
}

/// What makes a device key's proof good for one connection only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// TLS, by its exporter for [`key::EXPORTER_LABEL`].
    Tls([u8; 32]),
    /// Plaintext on a loopback listener, by the nonce the server sent.
    Plain([u8; 16]),
}

/// Who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// In which tenant.
    pub tenant: String,
    /// As what.
    pub role: Role,
    /// Who.
    pub name: String,
    /// The server's proof that it knows the device key.
    pub proof: Option<[u8; 32]>,
    /// When the session must end, in milliseconds since 1970; 0 for never.
    pub ends_ms: u64,
}

/// Why somebody was not let in. What the peer is told says no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum Denied {
    /// AUTH says certificate and there is none.
    NoCertificate,
    /// AUTH says a key and the certificate says somebody else.
    TwoNames,
    /// Nothing known fits, or it has ended. Which of them is not told.
    Unknown,
    /// It was revoked.
    Revoked,
    /// The certificate says another role than the registry.
    OtherRole,
    /// The tenant is not in the configuration.
    Tenant,
    /// Tokens come with a later release.
    Token,
    /// A client that challenges.
    Challenge,
    /// There was no word from the registry's worker for too long.
    Stale,
}

impl Denied {
    /// What the peer is told, besides the code.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "no client certificate was presented; configure one, or use a device key"
            }
            Self::TwoNames => {
                "the certificate is another principal's than the device key; use one of them"
            }
            Self::Unknown => "the credential is wrong, expired or not known",
            Self::Revoked => "the principal was revoked",
            Self::OtherRole => "the certificate's role is not the registered one",
            Self::Tenant => "this server has no such tenant",
            Self::Token => {
                "this server does not take tokens yet; use a client certificate or a device key"
            }
            Self::Challenge => "only a server sends a challenge",
            Self::Stale => "the registry's worker has been away for too long to know who may come",
        }
    }

    /// The code the peer is told.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::NoCertificate
            | Self::TwoNames
            | Self::Unknown
            | Self::OtherRole
            | Self::Tenant
            | Self::Token => Code::UNAUTHENTICATED,
            Self::Revoked => Code::REVOKED,
            Self::Challenge => Code::UNEXPECTED,
            Self::Stale => Code::UNAVAILABLE,
        }
    }
}

/// Decides who the peer is.
///
/// # Errors
/// Why it is not let in.
pub fn authenticate(
    now: Millis,
    presented: &Presented,
    proof: &Proof<'_>,
    registry: &dyn Registry,
    tenants: &[String],
) -> Result<Admitted, Denied> {
    // First: one that is known must not hear that it is not, because nobody is known here at the moment.
    if !registry.is_fresh(now) {
        return Err(Denied::Stale);
    }
    let admitted = match *proof {
        Proof::Certificate => certificate(now, presented, registry),
        Proof::DeviceKey { tenant, device, nonce, proof } => {
            let binding = match presented.channel {
                Channel::Tls(exporter) => Binding::Tls(exporter),
                Channel::Plain(server) => Binding::Nonces { client: nonce, server },
            };
            device_key(now, presented, &Signed { tenant, device, binding }, &proof, registry)
        }
        Proof::Token(_) => Err(Denied::Token),
        Proof::Challenge { .. } => Err(Denied::Challenge),
    }?;
    if !tenants.contains(&admitted.tenant) {
        return Err(Denied::Tenant);
    }
    Ok(admitted)
}

/// The authority that signed the certificate vouches for it; the registry, where it knows the name, may take that back.
fn certificate(
    now: Millis,
    presented: &Presented,
    registry: &dyn Registry,
) -> Result<Admitted, Denied> {
    let identity = presented.identity.clone().ok_or(Denied::NoCertificate)?;
    if identity.ends_ms != 0 && identity.ends_ms <= now.0 {
        return Err(Denied::Unknown);
    }
    let entry = registry.lookup(&identity.tenant, &identity.name);
    if let Some(entry) = entry {
        welcome(now, &entry)?;
        if entry.role != identity.role {
            return Err(Denied::OtherRole);
        }
    }
    let ends_ms = earlier(identity.ends_ms, entry.map_or(0, |entry| entry.expires_ms));
    let Identity { tenant, role, name, .. } = identity;
    Ok(Admitted { tenant, role, name, proof: None, ends_ms })
}

fn device_key(
    now: Millis,
    presented: &Presented,
    signed: &Signed<'_>,
    proof: &[u8; 32],
    registry: &dyn Registry,
) -> Result<Admitted, Denied> {
    let other =
        |identity: &Identity| identity.tenant != signed.tenant || identity.name != signed.device;
    if presented.identity.as_ref().is_some_and(other) {
        return Err(Denied::TwoNames);
    }
    let entry = registry.lookup(signed.tenant, signed.device);
    // A hash that no key has: an unknown name takes as long as a wrong key.
    let stored = entry.and_then(|entry| entry.key_hash).unwrap_or_default();
    let server = key::verify(&stored, proof, signed);
    let (Some(entry), Some(server)) = (entry.filter(|entry| entry.key_hash.is_some()), server)
    else {
        return Err(Denied::Unknown);
    };
    welcome(now, &entry)?;
    Ok(Admitted {
        tenant: signed.tenant.to_owned(),
        role: entry.role,
        name: signed.device.to_owned(),
        proof: Some(server),
        ends_ms: entry.expires_ms,
    })
}

/// Only who has proven the name hears that it was revoked.
const fn welcome(now: Millis, entry: &Entry) -> Result<(), Denied> {
    if entry.revoked {
        return Err(Denied::Revoked);
    }
    if entry.lasts(now) { Ok(()) } else { Err(Denied::Unknown) }
}

/// The earlier of two ends, where 0 is none.
const fn earlier(one: u64, other: u64) -> u64 {
    match (one, other) {
        (0, end) | (end, 0) => end,
        (one, other) if one < other => one,
        (_, other) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Copy;
    use tokio::sync::watch;

    const NOW: Millis = Millis(1_000);
    const KEY: [u8; 32] = [9; 32];
    const EXPORTER: [u8; 32] = [7; 32];

    /// Knows `d1` by a device key; fresh until told otherwise.
    struct Known(Entry, bool);

    impl Registry for Known {
        fn lookup(&self, tenant: &str, principal: &str) -> Option<Entry> {
            (tenant == "main" && principal == "d1").then_some(self.0)
        }
        fn is_fresh(&self, _: Millis) -> bool {
            self.1
        }
        fn changes(&self) -> watch::Receiver<u64> {
            Copy::new(0).changes()
        }
    }

    fn entry() -> Entry {
        Entry { role: Role::Device, key_hash: Some(key::hash(&KEY)), revoked: false, expires_ms: 0 }
    }

    fn presented(name: Option<(&str, Role, u64)>) -> Presented {
        let identity = name.map(|(name, role, ends_ms)| Identity {
            tenant: "main".to_owned(),
            role,
            name: name.to_owned(),
            ends_ms,
        });
        Presented { identity, channel: Channel::Tls(EXPORTER) }
    }

    fn decide(presented: &Presented, proof: &Proof<'_>, known: &Known) -> Result<Admitted, Denied> {
        authenticate(NOW, presented, proof, known, &["main".to_owned()])
    }

    fn prove(tenant: &'static str, device: &'static str, key: &[u8; 32]) -> Proof<'static> {
        let signed = Signed { tenant, device, binding: Binding::Tls(EXPORTER) };
        Proof::DeviceKey { tenant, device, nonce: [3; 16], proof: key::prove(key, &signed) }
    }

    #[test]
    fn a_device_key_lets_in_and_the_server_proves_itself() {
        let proof = prove("main", "d1", &KEY);
        let admitted = decide(&presented(None), &proof, &Known(entry(), true)).unwrap();
        assert_eq!((admitted.role, admitted.name.as_str()), (Role::Device, "d1"));
        let signed = Signed { tenant: "main", device: "d1", binding: Binding::Tls(EXPORTER) };
        assert!(key::server_knows(&KEY, &admitted.proof.unwrap(), &signed));
    }

    #[test]
    fn on_plaintext_both_nonces_are_in_the_proof() {
        let binding = Binding::Nonces { client: [3; 16], server: [4; 16] };
        let signed = Signed { tenant: "main", device: "d1", binding };
        let proof = Proof::DeviceKey {
            tenant: "main",
            device: "d1",
            nonce: [3; 16],
            proof: key::prove(&KEY, &signed),
        };
        for (server, want) in [([4; 16], true), ([5; 16], false)] {
            let plain = Presented { identity: None, channel: Channel::Plain(server) };
            assert_eq!(decide(&plain, &proof, &Known(entry(), true)).is_ok(), want);
        }
    }

    #[test]
    fn what_does_not_prove_it_is_denied() {
        let good = prove("main", "d1", &KEY);
        let known = |change: fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            Known(entry, true)
        };
        for (who, proof, known, want) in [
            (None, prove("main", "d1", &[8; 32]), known(|_| ()), Denied::Unknown),
            (None, prove("main", "d2", &KEY), known(|_| ()), Denied::Unknown),
            (None, prove("other", "d1", &KEY), known(|_| ()), Denied::Unknown),
            (None, good, known(|entry| entry.revoked = true), Denied::Revoked),
            (
                None,
                prove("main", "d1", &[8; 32]),
                known(|entry| entry.revoked = true),
                Denied::Unknown,
            ),
            (None, good, known(|entry| entry.expires_ms = 1_000), Denied::Unknown),
            (None, good, known(|entry| entry.key_hash = None), Denied::Unknown),
            (None, good, Known(entry(), false), Denied::Stale),
            (Some(("d2", Role::Device, 0)), good, known(|_| ()), Denied::TwoNames),
            (None, Proof::Token("a.b.c"), known(|_| ()), Denied::Token),
            (None, Proof::Challenge { nonce: [0; 16] }, known(|_| ()), Denied::Challenge),
            (None, Proof::Certificate, known(|_| ()), Denied::NoCertificate),
            (Some(("d1", Role::Operator, 0)), Proof::Certificate, known(|_| ()), Denied::OtherRole),
            (
                Some(("d1", Role::Device, 0)),
                Proof::Certificate,
                known(|entry| entry.revoked = true),
                Denied::Revoked,
            ),
            (Some(("d1", Role::Device, 1_000)), Proof::Certificate, known(|_| ()), Denied::Unknown),
        ] {
            assert_eq!(decide(&presented(who), &proof, &known), Err(want), "{proof:?}");
        }
    }

    #[test]
    fn a_certificate_lets_in_until_the_earlier_end() {
        for (certificate, registered, want) in
            [(0, 0, 0), (5_000, 0, 5_000), (0, 4_000, 4_000), (5_000, 4_000, 4_000)]
        {
            let known = Known(Entry { expires_ms: registered, ..entry() }, true);
            let who = presented(Some(("d1", Role::Device, certificate)));
            assert_eq!(decide(&who, &Proof::Certificate, &known).unwrap().ends_ms, want);
        }
        let stranger = presented(Some(("ada", Role::Operator, 0)));
        assert!(decide(&stranger, &Proof::Certificate, &Known(entry(), true)).is_ok());
    }

    #[test]
    fn a_tenant_that_is_not_configured_does_not_exist() {
        let mut other = presented(Some(("ada", Role::Operator, 0)));
        if let Some(identity) = &mut other.identity {
            identity.tenant = "north".to_owned();
        }
        assert_eq!(decide(&other, &Proof::Certificate, &Known(entry(), true)), Err(Denied::Tenant));
    }
}
