//! Why a command failed: one line for people, one object for scripts, one number for the shell.
//!
//! Invariant: every failure names what failed, why, a code that `spile errors` explains, and what to do.

use std::fmt;

use serde_json::{Value, json};
use spile_client::{Error, Refusal};
use spile_protocol::code::{Class, Code};

use crate::local_code::{self, LocalCode};

/// What the shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Done,
    /// 1
    Failed,
    /// 2
    Usage,
    /// 3: who you are, or may not.
    Refused,
    /// 4
    NotFound,
    /// 5: or timed out.
    Unreachable,
    /// 6: data found corrupt.
    Corrupt,
}

impl Exit {
    /// The number.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::Corrupt => 6,
        }
    }

    fn of(code: Code) -> Self {
        match code {
            Code::INVALID => Self::Usage,
            Code::NOT_FOUND => Self::NotFound,
            Code::CORRUPT => Self::Corrupt,
            Code::UNAVAILABLE
            | Code::TIMED_OUT
            | Code::SHUTDOWN
            | Code::DEADLINE
            | Code::BREAKER_OPEN => Self::Unreachable,
            _ if code.class() == Class::YourRight => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// A command's end that is not its success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Something to tell.
    Told(Box<Told>),
    /// Who reads our output went away, or all was told already: nothing more to say.
    Quiet(Exit),
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    what: String,
    why: String,
    code: &'static str,
    class: &'static str,
    remedy: String,
    retry_after_ms: Option<u64>,
    exit: Exit,
}

impl Failure {
    /// A failure that this side found, without the server's word.
    pub(crate) fn local(
        code: &'static LocalCode,
        what: impl Into<String>,
        why: impl fmt::Display,
    ) -> Self {
        Self::Told(Box::new(Told {
            what: what.into(),
            why: one_line(&why.to_string()),
            code: code.name,
            class: code.class,
            remedy: code.remedy.to_owned(),
            retry_after_ms: None,
            exit: code.exit,
        }))
    }

    /// The same, with a remedy that fits better.
    #[must_use]
    pub(crate) fn remedy(self, remedy: impl Into<String>) -> Self {
        match self {
            Self::Told(told) => Self::Told(Box::new(Told { remedy: remedy.into(), ..*told })),
            quiet @ Self::Quiet(_) => quiet,
        }
    }

    /// What was asked for can't be meant.
    pub(crate) fn usage(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::local(&local_code::USAGE, what, why)
    }

    /// What the client library says of it.
    pub(crate) fn client(what: impl Into<String>, error: &Error) -> Self {
        let what = what.into();
        match error {
            Error::Refused(refusal) => Self::refusal(what, refusal),
            Error::Setup { what: which, why, remedy } => {
                Self::usage(what, format!("{which}: {why}")).remedy(*remedy)
            }
            Error::Unreachable { address, why } => {
                Self::local(&local_code::UNREACHABLE, what, format!("{address}: {why}"))
            }
            Error::Untrusted { address, why } => {
                Self::local(&local_code::UNTRUSTED, what, format!("{address}: {why}"))
            }
            Error::OtherTenant { asked, given } => Self::local(
                &local_code::TENANT,
                what,
                format!("the credential is of tenant {given}, not of {asked}; nothing was sent"),
            )
            .remedy(format!("use a credential of {asked}, or say --tenant {given}")),
            Error::File { path, why } => {
                Self::local(&local_code::FILE, what, format!("{path}: {why}"))
            }
            Error::Closed => Self::local(&local_code::CLOSED, what, "the client was closed"),
        }
    }

    fn refusal(what: String, refusal: &Refusal) -> Self {
        let entry = refusal.code.entry();
        let cause = entry.map_or("the server refused", |entry| entry.cause);
        let said = if refusal.detail.is_empty() { cause } else { &refusal.detail };
        let mut why = lower_first(said.trim_end_matches('.'));
        if let Some(version) = refusal.version {
            why = format!("{why} (the stream is at version {version})");
        }
        let remedy = entry.map_or("update the client", |entry| entry.remedy);
        let millis =
            refusal.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        Self::Told(Box::new(Told {
            what,
            why: one_line(&why),
            code: entry.map_or("unknown", |entry| entry.name),
            class: refusal.code.class().name(),
            remedy: remedy.to_owned(),
            retry_after_ms: millis,
            exit: Exit::of(refusal.code),
        }))
    }

    /// A code of the wire without the server's words.
    pub(crate) fn code(what: impl Into<String>, code: Code, why: impl fmt::Display) -> Self {
        Self::refusal(what.into(), &Refusal { detail: why.to_string(), ..refused(code) })
    }

    /// What the shell is told.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Told(told) => told.exit,
            Self::Quiet(exit) => *exit,
        }
    }

    /// The code `spile errors` explains; `None` where nothing is told.
    #[cfg(test)]
    pub(crate) const fn name(&self) -> Option<&'static str> {
        match self {
            Self::Told(told) => Some(told.code),
            Self::Quiet(_) => None,
        }
    }

    /// The object scripts read.
    pub(crate) fn json(&self) -> Option<Value> {
        match self {
            Self::Told(told) => Some(json!({ "error": {
                "code": told.code,
                "class": told.class,
                "message": format!("{}: {}", told.what, told.why),
                "retry_after_ms": told.retry_after_ms,
            }})),
            Self::Quiet(_) => None,
        }
    }

    /// The line people read.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Told(told) => Some(format!(
                "spile: {}: {} ({}); {}",
                told.what,
                told.why.trim_end_matches('.'),
                told.code,
                lower_first(told.remedy.trim_end_matches('.'))
            )),
            Self::Quiet(_) => None,
        }
    }
}

fn refused(code: Code) -> Refusal {
    let retry_after = code.retry().then_some(std::time::Duration::ZERO);
    Refusal { code, retry_after, version: None, detail: String::new() }
}

/// What others wrote may hold line ends and control characters; a terminal must not be steered by a peer.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A sentence in the middle of a line; a word in capitals (`HELLO`) stays.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let (Some(first), rest) = (chars.next(), chars.as_str()) else { return String::new() };
    if rest.chars().next().is_some_and(char::is_uppercase) {
        return text.to_owned();
    }
    first.to_lowercase().chain(rest.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_one_object() {
        let failure = Failure::code("publish a/b", Code::FORBIDDEN, "may not\npublish\u{1b}[2J");
        let line = failure.line().unwrap();
        assert!(line.starts_with("spile: publish a/b: may not publish"), "{line}");
        assert!(line.contains("(forbidden); ask an operator"), "{line}");
        assert!(!line.contains(['\n', '\u{1b}']), "{line}");
        let json = failure.json().unwrap();
        assert_eq!(json["error"]["code"], "forbidden");
        assert_eq!(json["error"]["class"], "your right");
        assert_eq!(json["error"]["retry_after_ms"], Value::Null);
    }

    #[test]
    fn every_code_has_its_exit() {
        for (code, want) in [
            (Code::INVALID, 2),
            (Code::UNAUTHENTICATED, 3),
            (Code::REVOKED, 3),
            (Code::FORBIDDEN, 3),
            (Code::NOT_FOUND, 4),
            (Code::UNAVAILABLE, 5),
            (Code::TIMED_OUT, 5),
            (Code::CORRUPT, 6),
            (Code::STALE_VERSION, 1),
            (Code::TOO_LARGE, 1),
        ] {
            assert_eq!(Failure::code("x", code, "").exit().number(), want, "{code}");
        }
    }
}
