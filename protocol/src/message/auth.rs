//! AUTH: who the session is, and the challenge where there is no TLS to bind to. spec §4.3.

use serde::{Deserialize, Serialize};

use super::field::fields;

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
        nonce: [u8; 16],
        /// `key XOR HMAC-SHA-256(SHA-256(key), what is signed)`.
        proof: [u8; 32],
    },
    /// A signed token (JWT).
    Token(&'a str),
    /// From the server, on a plaintext listener: the nonce that a device key's proof is bound to.
    Challenge {
        /// 16 random bytes of the server's.
        nonce: [u8; 16],
    },
}

fields! {
    /// The second frame of a session.
    Auth<'a> {
        /// Who, and how it is proven.
        proof: Proof<'a>,
        ;
    }
}
