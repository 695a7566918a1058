//! Names: what a tenant, a principal and a node may be called here.
//!
//! The wire's rules, narrowed where a name must stand in a URI, a file name or a position without escaping.

use spile_protocol::id;
use spile_protocol::limits::{NAME_BYTES, TENANT_BYTES};

/// The longest node name; `WORKER:N` must stay a name's length.
const NODE_BYTES: usize = NAME_BYTES - 1;

/// What a tenant may be called, for error texts.
pub fn tenant_rule() -> String {
    format!("1 to {TENANT_BYTES} of a-z 0-9 -")
}

/// What a node may be called, for error texts.
pub fn node_rule() -> String {
    format!("1 to {NODE_BYTES} of a-z A-Z 0-9 . _ -, beginning with a letter or digit")
}

/// Whether a text is a tenant's name.
pub fn is_tenant(text: &str) -> bool {
    id::tenant(text).is_ok()
}

/// Whether a text is a principal's name; `$…` are built-in services, which no certificate makes.
pub fn is_principal(text: &str) -> bool {
    id::name(text).is_ok() && !text.starts_with(['$', '.'])
}

/// Whether a text is an edge's or a worker's name: a principal's, that can also be a folder's and a host's, and has no
/// colon, since a position is written `WORKER:N`.
pub fn is_node(text: &str) -> bool {
    text.len() <= NODE_BYTES
        && is_principal(text)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !text.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_bounded() {
        let long = "x".repeat(NODE_BYTES);
        for good in ["a", "sensor-7", "eui64.00_11", "10.0.0.5", &long] {
            assert!(is_node(good) && is_principal(good), "{good}");
        }
        let longer = format!("{long}x");
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\0", "$audit", "-a", &longer] {
            assert!(!is_node(bad), "{bad:?}");
        }
        assert!(is_principal("00:11:22") && !is_node("00:11:22"));
        for bad in ["", "$audit", "..", "a/b", "a%20"] {
            assert!(!is_principal(bad), "{bad:?}");
        }
        assert!(is_tenant("north-2") && !is_tenant("North") && !is_tenant("a.b"));
    }
}
