//! Codes: why something was refused, who is at fault, whether to come back. Never reused once released.
//!
//! One table; `spile errors CODE`, FAULT, GOAWAY, VOID and the exit codes of the command line all read it.

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// What was sent breaks the protocol.
    YourFrame,
    /// Who you are, or what you may.
    YourRight,
    /// Too fast, too much, too many.
    YourPace,
    /// What was asked for is not there, or not as expected.
    YourRequest,
    /// The server's side.
    OurSide,
}

impl Class {
    /// The word of the design for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::YourFrame => "your frame",
            Self::YourRight => "your right",
            Self::YourPace => "your pace",
            Self::YourRequest => "your request",
            Self::OurSide => "our side",
        }
    }
}

/// A stable code. Codes this build does not know are carried unchanged.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Code(pub u16);

/// What the table says of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// Its name, as printed.
    pub name: &'static str,
    /// Who is at fault.
    pub class: Class,
    /// May the same thing be tried again as it is.
    pub retry: bool,
    /// Why it happens.
    pub cause: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($number:literal $constant:ident $name:literal $class:ident $retry:literal $cause:literal $remedy:literal)*) => {
        impl Code {
            $(#[doc = $cause] pub const $constant: Self = Self($number);)*
        }
        /// Every code, in order.
        pub const TABLE: &[Entry] = &[$(Entry {
            code: Code::$constant, name: $name, class: Class::$class, retry: $retry, cause: $cause, remedy: $remedy,
        }),*];
    };
}

codes! {
    100 MALFORMED "malformed" YourFrame false "A frame or message does not have the form the protocol gives it." "Update the client; if it is yours, compare with spec/protocol.md and its vectors."
    101 DAMAGED "damaged" YourFrame false "A frame's checksum does not match its bytes." "Connect again; if it repeats, look at the link or a middlebox."
    102 TOO_LARGE "too-large" YourFrame false "A frame, payload, name or list is longer than agreed." "Send less at once; the limits stand in WELCOME and in spec/protocol.md."
    103 UNKNOWN_KIND "unknown-kind" YourFrame false "A frame of a kind this peer does not know and may not skip." "Use a protocol version both sides speak."
    104 UNEXPECTED "unexpected" YourFrame false "A message that is not allowed in this state or from this peer." "Update the client; see the session tables in spec/protocol.md."
    105 VERSION "version" YourFrame false "No protocol version is spoken by both sides." "Update the older side."
    106 UNKNOWN_LANE "unknown-lane" YourFrame false "A lane, route or subscription was used before it was opened or bound." "Send LANE and BIND first."
    107 OUT_OF_ORDER "out-of-order" YourFrame true "An event's number is higher than the next one expected." "Open the lane again and resend from the number the FAULT names."
    108 UNKNOWN_RUN "unknown-run" YourFrame false "The run is not known here and does not open at 1." "Take a new run; what was in flight may come twice."
    109 DEADLINE "deadline" YourFrame true "The peer said nothing, or too little, for too long." "Connect again; raise the keep-alive or use a slow listener."
    200 UNAUTHENTICATED "unauthenticated" YourRight false "The credential is missing, wrong, expired or not known." "Check certificate, key or token; ask an operator whether the device is registered."
    201 REVOKED "revoked" YourRight false "The principal was revoked." "Ask an operator for a new credential."
    202 FORBIDDEN "forbidden" YourRight false "The policy does not allow this action on this resource." "Ask an operator for a credential whose role may; `spile context show` tells which one you use."
    203 REPLACED "replaced" YourRight false "Another session of the same principal and run took over." "Run one process for each run; a second process takes a run of its own."
    204 NOT_AN_EDGE "not-an-edge" YourRight false "Only an edge's certificate may open a link to a worker." "Connect to an edge; its port is 7450 by default."
    300 TOO_FAST "too-fast" YourPace true "More was sent than the credit or quota allows." "Wait as long as the FAULT says; keep to the credit."
    301 TOO_MANY "too-many" YourPace true "Too many lanes, routes, subscriptions, sessions or cheap frames." "Use fewer; close what is not used."
    302 BUSY "busy" YourPace true "The server's bounded queues are full at the moment." "Wait as long as the FAULT says and resend."
    400 STALE_VERSION "stale-version" YourRequest false "The stream's version is not the expected one." "Read the stream, decide again, publish with the new version."
    401 NOT_FOUND "not-found" YourRequest false "No such key, stream, group, blob, service or device." "Check the name and the tenant."
    402 GONE "gone" YourRequest false "Retention has removed what was asked for." "Start from the first position that is kept."
    403 INVALID "invalid" YourRequest false "A name, filter, number or option is not valid." "Correct it; the message says which."
    404 EXISTS "exists" YourRequest false "Something of that name exists already." "Choose another name or remove the old one."
    405 EXPIRED "expired" YourRequest false "The time to live or the deadline passed first." "Send it again with more time."
    406 CONFLICT "conflict" YourRequest false "The same upload or run is in use elsewhere with other contents." "Finish or abort the other one first."
    407 MISMATCH "mismatch" YourRequest false "The whole does not have the hash or size that was announced." "Send it again from the beginning."
    500 UNAVAILABLE "unavailable" OurSide true "The worker that holds this key is away." "Wait as long as the FAULT says; other keys go on."
    501 DISK_FULL "disk-full" OurSide true "The disk is full; nothing was lost." "Free space or add a disk; what waited is taken when there is room."
    502 UNKNOWN_OUTCOME "unknown-outcome" OurSide true "It is not known whether this was stored." "Send it again: its number makes that safe."
    503 CORRUPT "corrupt" OurSide false "Stored data is damaged; the hole is named and nothing was cut." "See `spiled log verify`; restore from a backup."
    504 INTERNAL "internal" OurSide true "The server failed in a way it did not expect." "Try again; report it with the trace id."
    505 SHUTDOWN "shutdown" OurSide true "The server is going away." "Connect again; another server or a restart will take you."
    506 FROZEN "frozen" OurSide true "An operator froze writes on this worker." "Wait, or ask the operator."
    507 TIMED_OUT "timed-out" OurSide true "Nobody answered in time." "Try again, if the call is idempotent."
    508 BREAKER_OPEN "breaker-open" OurSide true "The service failed too often of late; calls to it are held back for a while." "Wait as long as the FAULT says; see `spile service ls` and what the service's members say."
}

impl Code {
    /// What the table says of this code; `None` for one of a newer peer.
    #[must_use]
    pub fn entry(self) -> Option<&'static Entry> {
        TABLE.iter().find(|entry| entry.code == self)
    }

    /// The code of that name or number, as a person types it.
    #[must_use]
    pub fn find(text: &str) -> Option<&'static Entry> {
        TABLE.iter().find(|entry| entry.name == text || text.parse() == Ok(entry.code.0))
    }

    /// Its name, or `unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().map_or("unknown", |entry| entry.name)
    }

    /// Who is at fault; a code of a newer peer falls in the class of its hundred.
    #[must_use]
    pub fn class(self) -> Class {
        match self.0 / 100 {
            1 => Class::YourFrame,
            2 => Class::YourRight,
            3 => Class::YourPace,
            4 => Class::YourRequest,
            _ => Class::OurSide,
        }
    }

    /// May the same thing be tried again as it is; not so for a code that is not known.
    #[must_use]
    pub fn retry(self) -> bool {
        self.entry().is_some_and(|entry| entry.retry)
    }

    /// Does it leave open whether a call was done?
    #[must_use]
    pub fn leaves_in_doubt(self) -> bool {
        self == Self::TIMED_OUT || self == Self::UNKNOWN_OUTCOME
    }

    /// May the same call be made again as it is? Not where it may have been done, and must not be done twice. spec §9.4.2
    #[must_use]
    pub fn retry_of_call(self, idempotent: bool) -> bool {
        self.retry() && (idempotent || !self.leaves_in_doubt())
    }
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {}", self.0, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_in_its_classes() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].code < pair[1].code, "{:?}", pair[1].code);
        }
        for entry in TABLE {
            assert_eq!(entry.class, entry.code.class(), "{}", entry.name);
            assert_eq!(Code::find(entry.name), Some(entry));
        }
    }

    #[test]
    fn a_call_that_may_have_been_done_is_made_again_only_where_it_may_be_done_twice() {
        for Entry { code, retry, .. } in TABLE {
            assert_eq!(code.retry_of_call(true), *retry, "{code}");
            let in_doubt = [Code::TIMED_OUT, Code::UNKNOWN_OUTCOME].contains(code);
            assert_eq!(code.retry_of_call(false), *retry && !in_doubt, "{code}");
        }
    }
}
