//! Names: what a tenant, a node and a principal may be called.
//!
//! One rule for all of them, so that a name can stand in a URI, a file name and a log line without escaping.

/// The longest name, in bytes. A longer one is refused where it is said: in the configuration, on the command line, in
/// a certificate.
pub const NAME_MAX: usize = 64;

/// What a name may be, for error texts.
pub const NAME_RULE: &str = "1 to 64 of a-z A-Z 0-9 . _ -, not beginning with a dot";

/// Whether a text is a name.
pub fn is_name(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(letters) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_bounded() {
        for good in ["a", "sensor-7", "eui64.00_11", &"x".repeat(NAME_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(NAME_MAX + 1)]
        {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
