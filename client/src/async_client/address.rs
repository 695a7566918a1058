//! Where the server is: `spile://HOST[:PORT]`, or `spile+insecure://` for a loopback without TLS.

use std::fmt;
use std::net::IpAddr;

use super::Error;

/// The edge's port where none is said.
const PORT: u16 = 7450;

/// A checked URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    secure: bool,
}

impl Address {
    /// Reads `spile://HOST[:PORT]`. An IPv6 address stands in brackets.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let wrong =
            |why: &str| Error::setup("url", format!("{url:?} {why}"), "write spile://HOST:PORT");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let secure = match scheme {
            "spile" => true,
            "spile+insecure" => false,
            _ => return Err(wrong("has a scheme that is not spile")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = divide(rest).ok_or_else(|| wrong("has no host and port"))?;
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| wrong("has no port")))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if host.is_empty() || port == 0 || !host.chars().all(plain) {
            return Err(wrong("has no host and port"));
        }
        let address = Self { host: host.to_owned(), port, secure };
        if !secure && !address.is_loopback() {
            return Err(wrong("goes without TLS to a host that is not this one"));
        }
        Ok(address)
    }

    /// The host: what its certificate must name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Is TLS spoken?
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn divide(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            rest => rest.strip_prefix(':').map(|port| (host, Some(port))),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, want) in [
            ("spile://edge.example:7000", Some(("edge.example:7000", true))),
            ("spile://edge.example", Some(("edge.example:7450", true))),
            ("spile://10.0.0.1/", Some(("10.0.0.1:7450", true))),
            ("spile://[::1]:7450", Some(("[::1]:7450", true))),
            ("spile+insecure://127.0.0.1:7", Some(("127.0.0.1:7", false))),
            ("spile+insecure://localhost", Some(("localhost:7450", false))),
            ("spile+insecure://edge.example", None),
            ("spile+insecure://10.0.0.1", None),
            ("http://edge.example", None),
            ("edge.example:7450", None),
            ("spile://", None),
            ("spile://:7450", None),
            ("spile://host:", None),
            ("spile://host:0", None),
            ("spile://host:70000", None),
            ("spile://::1:7450", None),
            ("spile://user@host", None),
            ("spile://host/path", None),
        ] {
            let got = Address::parse(url).ok().map(|a| (a.to_string(), a.secure));
            assert_eq!(got, want.map(|(text, secure)| (text.to_owned(), secure)), "{url}");
        }
    }
}
