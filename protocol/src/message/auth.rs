//! AUTH: who the session is, and the challenge where there is no TLS to bind to. spec §4.3.

use serde::{Deserialize, Serialize};

use super::field::{self, Fits, fields};
use crate::limits;

/// How a session proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof<'a> {
    /// The client certificate of the TLS handshake says it.
    Certificate,
    /// A device key of 32 random bytes, proven and never sent.
    DeviceKey {
        /// The tenant the device is in.
        tenant: &'a str,
        /// The device's id.
        device: &'a str,
        /// 16 random bytes of the client's.
        #[serde(serialize_with = "field::hex")]
        nonce: [u8; 16],
        /// `key XOR HMAC-SHA-256(SHA-256(key), what is signed)`.
        #[serde(serialize_with = "field::hex")]
        proof: [u8; 32],
    },
    /// A signed token (JWT).
    Token(&'a str),
    /// From the server, on a plaintext listener: the nonce that a device key's proof is bound to.
    Challenge {
        /// 16 random bytes of the server's.
        #[serde(serialize_with = "field::hex")]
        nonce: [u8; 16],
    },
}

impl Fits for Proof<'_> {
    fn fits(&self, longest: usize) -> bool {
        match self {
            Self::Certificate | Self::Challenge { .. } => true,
            Self::DeviceKey { tenant, device, .. } => {
                tenant.len() <= limits::TENANT_BYTES && device.len() <= limits::NAME_BYTES
            }
            Self::Token(token) => token.len() <= longest,
        }
    }
}

fields! {
    /// The second frame of a session.
    Auth<'a> {
        /// Who, and how it is proven.
        proof: Proof<'a> [limits::TOKEN_BYTES],
        ;
    }
}
