//! Names and numbers that cannot be wrong: parsed once, at the boundary.

use crate::limits;

/// Why a name is not one. The text is for people; the wire says INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// Too many bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// A character that is not allowed in it.
    #[error("it holds {0:?}, which is not allowed here")]
    Character(char),
    /// A topic or filter with nothing between two slashes.
    #[error("it has an empty level")]
    EmptyLevel,
    /// More levels than allowed.
    #[error("it has more than {0} levels")]
    TooDeep(usize),
    /// `#` that is not the whole last level, or `+` that is not a whole level.
    #[error("a wildcard must be a whole level, and '#' the last")]
    Wildcard,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($type:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $type);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// What numbers one key's events in a run; a session's own small number. Lane 0 is the device's own key.
    LaneId(u32)
}
number! {
    /// A session's own small number for (lane, topic, content type, schema).
    RouteId(u32)
}
number! {
    /// A session's own small number for a subscription.
    SubscriptionId(u32)
}
number! {
    /// A session's own small number for a request that is answered.
    RequestId(u32)
}
number! {
    /// A session on a link: the edge's number for it.
    LinkSessionId(u32)
}
number! {
    /// An event's place in its lane: 1, 2, 3 …
    Number(u64)
}
number! {
    /// An event's place in its stream: 1, 2, 3 …
    Version(u64)
}
number! {
    /// A record's place in one worker's log: 1, 2, 3 …
    Position(u64)
}

/// What a producer numbers in: new whenever the outbox was lost.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Run(#[serde(serialize_with = "crate::message::hex")] pub [u8; 8]);

/// One of 256 parts of the key space; each lives on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl Slot {
    /// Where `key` of `tenant` lives: CRC-32 over tenant, a zero byte and key, its lowest 8 bits.
    #[must_use]
    pub fn of(tenant: &str, key: &str) -> Self {
        let crc = crate::crc::extend(crate::crc::of(tenant.as_bytes()), &[0]);
        let crc = crate::crc::extend(crc, key.as_bytes());
        Self(crc.to_le_bytes()[0])
    }
}

/// One of 65,536 parts of what is kept: by it a worker tells an edge that a value it asked for has changed. spec §10.8
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Mark(pub u16);

impl Mark {
    /// The mark of the value of `topic` under `key` of `tenant`: CRC-32 over the three with a zero byte between, its lowest
    /// 16 bits.
    #[must_use]
    pub fn of(tenant: &str, key: &str, topic: &str) -> Self {
        let with =
            |crc, name: &str| crate::crc::extend(crate::crc::extend(crc, &[0]), name.as_bytes());
        let crc = with(with(crate::crc::of(tenant.as_bytes()), key), topic);
        let [low, high, ..] = crc.to_le_bytes();
        Self(u16::from_le_bytes([low, high]))
    }
}

/// Who a session may be.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Role {
    /// A constrained device: publishes under its own key, hears its inbox.
    Device,
    /// A person's or a program's account.
    User,
    /// A consumer behind the bus.
    Service,
    /// Who runs it.
    Operator,
    /// An edge, on links only.
    Edge,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Device, Self::User, Self::Service, Self::Operator, Self::Edge];

    /// As it stands in certificates and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::User => "user",
            Self::Service => "service",
            Self::Operator => "operator",
            Self::Edge => "edge",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

fn checked(text: &str, longest: usize, allowed: fn(char) -> bool) -> Result<&str, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > longest {
        return Err(NameError::TooLong(longest));
    }
    text.chars().find(|&c| !allowed(c)).map_or(Ok(text), |c| Err(NameError::Character(c)))
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')
}

/// A tenant's name: lower-case letters, digits and `-`.
pub fn tenant(text: &str) -> Result<&str, NameError> {
    checked(text, limits::TENANT_BYTES, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    })
}

/// A principal's, worker's, group's or service's name: letters, digits and `- _ . :`; `$` first for what is built in.
pub fn name(text: &str) -> Result<&str, NameError> {
    checked(text.strip_prefix('$').unwrap_or(text), limits::NAME_BYTES - 1, word)?;
    Ok(text)
}

/// A key: any text without control characters.
pub fn key(text: &str) -> Result<&str, NameError> {
    checked(text, limits::KEY_BYTES, |c| !c.is_control())
}

fn levels(text: &str) -> Result<(), NameError> {
    if text.split('/').any(str::is_empty) {
        return Err(NameError::EmptyLevel);
    }
    if text.split('/').count() > limits::TOPIC_LEVELS {
        return Err(NameError::TooDeep(limits::TOPIC_LEVELS));
    }
    Ok(())
}

/// A topic: levels between slashes, without wildcards and control characters.
pub fn topic(text: &str) -> Result<&str, NameError> {
    checked(text, limits::TOPIC_BYTES, |c| !c.is_control() && !matches!(c, '+' | '#'))?;
    levels(text).map(|()| text)
}

/// A filter: a topic in which a level may be `+`, and the last one `#`.
pub fn filter(text: &str) -> Result<&str, NameError> {
    checked(text, limits::TOPIC_BYTES, |c| !c.is_control())?;
    levels(text)?;
    let mut rest = text.split('/').peekable();
    while let Some(level) = rest.next() {
        let wild = level.contains(['+', '#']);
        if wild && (level.len() > 1 || (level == "#" && rest.peek().is_some())) {
            return Err(NameError::Wildcard);
        }
    }
    Ok(text)
}

/// Does `topic` fall under `filter`? Topics that begin with `$` only match a filter that begins with the same level.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            (_, Some(_) | None) => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = [b'a'; 200];
        let long = core::str::from_utf8(&long).unwrap();
        for (got, want) in [
            (topic("telemetry/temp"), Ok("telemetry/temp")),
            (topic(""), Err(NameError::Empty)),
            (topic("a//b"), Err(NameError::EmptyLevel)),
            (topic("a/"), Err(NameError::EmptyLevel)),
            (topic("a/+"), Err(NameError::Character('+'))),
            (topic("a\n"), Err(NameError::Character('\n'))),
            (topic(long), Err(NameError::TooLong(128))),
            (topic("a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"), Err(NameError::TooDeep(16))),
            (filter("a/+/b/#"), Ok("a/+/b/#")),
            (filter("#"), Ok("#")),
            (filter("a/#/b"), Err(NameError::Wildcard)),
            (filter("a+/b"), Err(NameError::Wildcard)),
            (tenant("main"), Ok("main")),
            (tenant("Main"), Err(NameError::Character('M'))),
            (name("$audit"), Ok("$audit")),
            (name("$"), Err(NameError::Empty)),
            (name("a b"), Err(NameError::Character(' '))),
            (key("line 7 / oven"), Ok("line 7 / oven")),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn filters_match_levels() {
        for (filter, topic, want) in [
            ("#", "a", true),
            ("#", "a/b/c", true),
            ("#", "$audit/x", false),
            ("$audit/#", "$audit/x", true),
            ("a/#", "a", true),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("+/b", "a/b", true),
            ("a/b", "a/b", true),
            ("a/b", "a/bc", false),
        ] {
            assert_eq!(matches(filter, topic), want, "{filter} {topic}");
        }
    }

    #[test]
    fn a_mark_depends_on_tenant_key_and_topic() {
        // The lowest 16 bits of the CRC-32 of "main\0pump-7\0state/mode".
        let crc = crate::crc::of(b"main\0pump-7\0state/mode");
        assert_eq!(Mark::of("main", "pump-7", "state/mode").0, (crc & 0xffff) as u16);
        assert_ne!(Mark::of("main", "a", "bc"), Mark::of("main", "ab", "c"));
    }

    #[test]
    fn a_slot_depends_on_tenant_and_key() {
        assert_eq!(Slot::of("main", "sensor-1"), Slot::of("main", "sensor-1"));
        assert_ne!(Slot::of("main", "a"), Slot::of("mai", "na"));
    }
}
