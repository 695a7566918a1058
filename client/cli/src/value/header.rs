//! `NAME=VALUE`, as headers and metadata are typed.

/// A name and its value.
pub(crate) type Pair = (String, String);

/// Reads one; the value may hold further `=` and may be empty.
pub(crate) fn parse(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is no NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_divides() {
        assert_eq!(parse("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse("=b").is_err());
        assert!(parse("ab").is_err());
    }
}
