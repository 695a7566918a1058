//! Why something failed, who is at fault, and whether to try again: one enum for the whole client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use spile_protocol::code::{Class, Code};
use spile_protocol::id::Version;

use super::Address;

/// What failed. Cheap to clone: one cut connection can fail many calls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What the caller gave can't be used; nothing was sent.
    #[error("{what}: {why}; {remedy}")]
    Setup {
        /// Which setting or argument.
        what: &'static str,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server was not reached, or the connection broke.
    #[error("{address}: {why}; check the address and that the server runs")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        why: String,
    },
    /// The server's certificate is not one we trust, or it speaks another protocol.
    #[error("{address}: {why}; check the authority (ca) and the host's name")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server has our credential in another tenant than the one that was asked for. On a first connection nothing
    /// was sent there.
    #[error(
        "the credential is of tenant {given}, not of {asked}; use one of {asked}, or ask for {given}"
    )]
    OtherTenant {
        /// Which tenant was asked for.
        asked: Arc<str>,
        /// In which one the server has us.
        given: Arc<str>,
    },
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What is to be sent could not be read.
    #[error("{path}: {why}; check that it is there and may be read")]
    File {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// This client was closed.
    #[error("the client is closed; connect again")]
    Closed,
}

/// What the server said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// After how long the same may be tried again; `None`: not at all.
    pub retry_after: Option<Duration>,
    /// The stream's version, where the refusal is about it.
    pub version: Option<Version>,
    /// The server's own words; may be empty.
    pub detail: String,
}

impl Refusal {
    /// What the table of codes says of it.
    pub(super) fn of(code: Code) -> Self {
        let retry_after = code.retry().then_some(Duration::ZERO);
        Self { code, retry_after, version: None, detail: String::new() }
    }

    pub(super) fn detail(self, detail: &str) -> Self {
        Self { detail: detail.to_owned(), ..self }
    }

    pub(super) fn after_ms(self, retry: bool, millis: u32) -> Self {
        let after = Duration::from_millis(u64::from(millis));
        Self { retry_after: (retry || millis > 0).then_some(after), ..self }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = self.code.entry().map_or("the server refused", |entry| entry.cause);
        let text = if self.detail.is_empty() { cause.trim_end_matches('.') } else { &self.detail };
        f.write_str(text)?;
        if let Some(Version(version)) = self.version {
            write!(f, " (the stream is at version {version})")?;
        }
        write!(f, " ({})", self.code)
    }
}

impl Error {
    pub(super) fn setup(what: &'static str, why: impl Into<String>, remedy: &'static str) -> Self {
        Self::Setup { what, why: why.into(), remedy }
    }

    /// What is said has no room in the message that would say it: told before it is sent, since the server would end
    /// the session for it. spec §12.3
    pub(super) fn unless_it_fits(what: &'static str, said: &str, most: usize) -> Result<(), Self> {
        if said.len() <= most {
            return Ok(());
        }
        Err(Self::setup(
            what,
            format!("it has {} bytes; {most} is the most", said.len()),
            "shorten it",
        ))
    }

    pub(super) fn unreachable(address: &Address, why: impl fmt::Display) -> Self {
        Self::Unreachable { address: address.to_string(), why: why.to_string() }
    }

    pub(super) fn untrusted(address: &Address, why: impl fmt::Display) -> Self {
        Self::Untrusted { address: address.to_string(), why: why.to_string() }
    }

    /// The stable code; `None` where the wire has none, since nothing was heard.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Setup { .. } => Some(Code::INVALID),
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::OtherTenant { .. }
            | Self::File { .. }
            | Self::Closed => None,
        }
    }

    /// Who is at fault.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(refusal) => refusal.code.class(),
            Self::Setup { .. } | Self::File { .. } | Self::Closed => Class::YourRequest,
            Self::Unreachable { .. } => Class::OurSide,
            Self::Untrusted { .. } | Self::OtherTenant { .. } => Class::YourRight,
        }
    }

    /// After how long the same may be tried again; `None`: not as it is.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable { .. } => Some(Duration::ZERO),
            Self::Setup { .. }
            | Self::Untrusted { .. }
            | Self::OtherTenant { .. }
            | Self::File { .. }
            | Self::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_code_and_whether_to_come_back() {
        let error = Error::from(Refusal::of(Code::BUSY).after_ms(true, 250));
        assert_eq!(error.code(), Some(Code::BUSY));
        assert_eq!(error.class(), Class::YourPace);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        let error = Error::from(Refusal::of(Code::FORBIDDEN).detail("publish on a/b"));
        assert_eq!(error.retry_after(), None);
        assert_eq!(error.to_string(), "publish on a/b (202 forbidden)");
    }

    #[test]
    fn a_stale_version_names_the_streams() {
        let refusal = Refusal { version: Some(Version(7)), ..Refusal::of(Code::STALE_VERSION) };
        let text = refusal.to_string();
        assert!(text.contains("at version 7") && text.contains("400 stale-version"), "{text}");
    }
}
