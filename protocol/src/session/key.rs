//! The proof of a device key: both sides show that they know it, and it never travels in the clear. spec §4.3.
//!
//! The server keeps `H = SHA-256(K)` only. The client sends `K XOR HMAC(H, "client" ‖ signed)`: who knows `H` recovers
//! `K` and checks it, who listens sees noise, and since `signed` holds the TLS exporter or two fresh nonces a proof is
//! good for one connection. The server's answer is `HMAC(H, "server" ‖ signed)`. Comparisons take constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A device key: 32 random bytes.
pub type Key = [u8; 32];
/// What the server keeps of a key.
pub type Hash = [u8; 32];

/// The label under which the TLS exporter is asked for 32 bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-spile-device-key";

/// What makes a proof good for one connection only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The exporter of the TLS session the proof is sent in.
    Tls([u8; 32]),
    /// No TLS: both sides' nonces.
    Nonces {
        /// From AUTH.
        client: [u8; 16],
        /// From the challenge.
        server: [u8; 16],
    },
}

/// What is signed, by both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The device.
    pub device: &'a str,
    /// The connection.
    pub binding: Binding,
}

impl Signed<'_> {
    fn sign(&self, hash: &Hash, side: &[u8]) -> [u8; 32] {
        // HMAC takes a key of any length; an error is not possible, and zero bytes would prove nothing.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(hash) else { return [0; 32] };
        for part in [
            side,
            b"spile/1 device key\0",
            self.tenant.as_bytes(),
            b"\0",
            self.device.as_bytes(),
            b"\0",
        ] {
            mac.update(part);
        }
        match &self.binding {
            Binding::Tls(exporter) => {
                mac.update(&[1]);
                mac.update(exporter);
            }
            Binding::Nonces { client, server } => {
                mac.update(&[2]);
                mac.update(client);
                mac.update(server);
            }
        }
        mac.finalize().into_bytes().into()
    }
}

/// What the server keeps of `key`.
#[must_use]
pub fn hash(key: &Key) -> Hash {
    Sha256::digest(key).into()
}

fn xor(mut left: [u8; 32], right: &[u8; 32]) -> [u8; 32] {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}

/// The client's proof that it has `key`.
#[must_use]
pub fn prove(key: &Key, signed: &Signed<'_>) -> [u8; 32] {
    xor(signed.sign(&hash(key), b"client"), key)
}

/// Checks a client's proof against the hash that is kept: the server's own proof for WELCOME, or `None`.
#[must_use]
pub fn verify(stored: &Hash, proof: &[u8; 32], signed: &Signed<'_>) -> Option<[u8; 32]> {
    let key = xor(signed.sign(stored, b"client"), proof);
    bool::from(hash(&key).ct_eq(stored)).then(|| signed.sign(stored, b"server"))
}

/// Checks the server's proof: does it know the key's hash?
#[must_use]
pub fn server_knows(key: &Key, proof: &[u8], signed: &Signed<'_>) -> bool {
    signed.sign(&hash(key), b"server").ct_eq(proof).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: Signed<'static> =
        Signed { tenant: "main", device: "d1", binding: Binding::Tls([7; 32]) };

    #[test]
    fn both_sides_prove_the_key_without_sending_it() {
        let key = [9; 32];
        let proof = prove(&key, &SIGNED);
        assert_ne!(proof, key);
        let answer = verify(&hash(&key), &proof, &SIGNED).unwrap();
        assert!(server_knows(&key, &answer, &SIGNED));
        assert!(!server_knows(&key, &[], &SIGNED));
        assert!(!server_knows(&[8; 32], &answer, &SIGNED));
    }

    #[test]
    fn a_proof_is_good_for_its_key_device_tenant_and_connection_only() {
        let key = [9; 32];
        let proof = prove(&key, &SIGNED);
        let nonces = Binding::Nonces { client: [1; 16], server: [2; 16] };
        for other in [
            Signed { tenant: "mai", device: "nd1", ..SIGNED },
            Signed { device: "d2", ..SIGNED },
            Signed { binding: Binding::Tls([8; 32]), ..SIGNED },
            Signed { binding: nonces, ..SIGNED },
        ] {
            assert_eq!(verify(&hash(&key), &proof, &other), None);
        }
        assert_eq!(verify(&hash(&[8; 32]), &proof, &SIGNED), None);
        let mut bent = proof;
        bent[31] ^= 1;
        assert_eq!(verify(&hash(&key), &bent, &SIGNED), None);
    }

    #[test]
    fn the_values_are_those_of_the_spec() {
        // Made with Python's hashlib and hmac from spec §4.3's formula, not with this code.
        let key = core::array::from_fn(|i| u8::try_from(i).unwrap());
        let signed = Signed {
            tenant: "main",
            device: "d1",
            binding: Binding::Nonces { client: [1; 16], server: [2; 16] },
        };
        let proof = prove(&key, &signed);
        assert_eq!(proof, PYTHON_CLIENT);
        assert_eq!(verify(&hash(&key), &proof, &signed), Some(PYTHON_SERVER));
    }

    const PYTHON_CLIENT: [u8; 32] = [
        0xb0, 0x40, 0x02, 0xe4, 0x81, 0xa6, 0x1d, 0xd2, 0x02, 0x42, 0xfe, 0x9f, 0x65, 0x04, 0x7c,
        0x6c, 0x44, 0xc1, 0x70, 0x28, 0x29, 0xe7, 0x46, 0xb1, 0x20, 0xb3, 0xf6, 0x3b, 0xd3, 0xc7,
        0x33, 0x70,
    ];
    const PYTHON_SERVER: [u8; 32] = [
        0x76, 0x7d, 0x9c, 0x1e, 0xdd, 0xe0, 0x77, 0x6d, 0xc6, 0x63, 0xb2, 0x41, 0xfd, 0xe6, 0x29,
        0x14, 0xb2, 0xb8, 0x99, 0xf4, 0x03, 0xa2, 0xde, 0x6f, 0x91, 0xd9, 0x98, 0x4f, 0x0a, 0x2c,
        0xdb, 0x78,
    ];
}
