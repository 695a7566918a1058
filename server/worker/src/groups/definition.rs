//! What a group is: the request of `$group create`, checked, and the event that says it. admin §6
//!
//! The text of a definition travels and is kept as it was made here; reading it again gives the same definition.

use serde::{Deserialize, Serialize};
use spile_protocol::{code::Code, id};

use crate::limits::{ATTEMPTS, BACKOFF_MS, SETTLE_WITHIN_MS};

/// The topic of a definition's event, under the key of the registry.
pub const TOPIC: &str = "$registry/group";

/// Where a group begins, or is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "where a group begins is start, end, WORKER:N or milliseconds since 1970"
)]
pub enum Begin {
    /// With the first event the edge accepted at or after this, milliseconds since 1970.
    Time(u64),
    /// `start`, `end`, or positions: `WORKER:N`, one or more with commas between.
    Named(String),
}

impl Default for Begin {
    fn default() -> Self {
        Self::Named("start".to_owned())
    }
}

/// A beginning that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the first event that is kept.
    Start,
    /// With what is stored from now on.
    End,
    /// At a time.
    Time(u64),
    /// At this position of the worker that was asked for.
    At(u64),
    /// At positions of other workers: nothing is said of this one.
    Elsewhere,
}

impl Begin {
    /// What it means on one worker; `None` where it means nothing.
    pub(crate) fn on(&self, worker: &str) -> Option<Place> {
        let text = match self {
            Self::Time(time_ms) => return Some(Place::Time(*time_ms)),
            Self::Named(text) => text,
        };
        match text.as_str() {
            "start" => return Some(Place::Start),
            "end" => return Some(Place::End),
            _ => {}
        }
        let mut place = Place::Elsewhere;
        for one in text.split(',') {
            let (name, number) = one.split_once(':')?;
            id::name(name).ok()?;
            let number = number.parse().ok().filter(|&number: &u64| number > 0)?;
            if name == worker {
                place = Place::At(number);
            }
        }
        Some(place)
    }
}

/// What becomes of a key whose event is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDead {
    /// It goes on with the next event.
    #[default]
    Skip,
    /// It waits until the dead letter was replayed or dropped.
    Hold,
}

/// What becomes of events a group that is behind has not seen, at the disk's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behind {
    /// New events are refused rather than its own dropped.
    #[default]
    Refuse,
    /// They may be dropped.
    Drop,
}

/// A group's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Which topics.
    pub filter: String,
    /// Where it begins.
    #[serde(default)]
    pub from: Begin,
    /// After so many attempts an event is dead.
    #[serde(default = "attempts")]
    pub max_attempts: u32,
    /// The wait before the second attempt, at the most; each further one is twice as long …
    #[serde(default = "backoff_min")]
    pub backoff_min_ms: u64,
    /// … and never longer than this.
    #[serde(default = "backoff_max")]
    pub backoff_max_ms: u64,
    /// A delivery that is not settled within this time goes out again.
    #[serde(default = "settle_within")]
    pub settle_within_ms: u64,
    /// What becomes of a key whose event is dead.
    #[serde(default)]
    pub on_dead: OnDead,
    /// What becomes of what it has not seen, at the disk's limit.
    #[serde(default)]
    pub behind: Behind,
}

fn attempts() -> u32 {
    5
}

fn backoff_min() -> u64 {
    1000
}

fn backoff_max() -> u64 {
    300_000
}

fn settle_within() -> u64 {
    30_000
}

impl Definition {
    /// Is it one a group can have? Else which field is wrong.
    pub(crate) fn check(&self) -> Result<(), (Code, String)> {
        let invalid = |what: String| Err((Code::INVALID, what));
        if let Err(why) = id::name(&self.name) {
            return invalid(format!("name: {why}"));
        }
        if let Err(why) = id::filter(&self.filter) {
            return invalid(format!("filter: {why}"));
        }
        if self.from.on("").is_none() {
            return invalid("from is start, end, WORKER:N or milliseconds since 1970".to_owned());
        }
        if self.max_attempts == 0 || self.max_attempts > ATTEMPTS {
            return invalid(format!("max_attempts is 1 to {ATTEMPTS}"));
        }
        if self.backoff_min_ms > self.backoff_max_ms || self.backoff_max_ms > BACKOFF_MS {
            return invalid(format!(
                "backoff_min_ms is at most backoff_max_ms, and that at most {BACKOFF_MS}"
            ));
        }
        if self.settle_within_ms == 0 || self.settle_within_ms > SETTLE_WITHIN_MS {
            return invalid(format!("settle_within_ms is 1 to {SETTLE_WITHIN_MS}"));
        }
        Ok(())
    }
}

/// A definition as it stands in the registry: which group, which of its epochs. The payload of its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// In which tenant.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The position of the record that created it.
    pub id: u64,
    /// Counted up by each seek.
    pub epoch: u32,
    /// It is gone.
    pub removed: bool,
    /// What it is.
    pub definition: Definition,
}

impl Defined {
    /// Which of two is the newer one.
    pub(crate) fn order(&self) -> (u64, u32, bool) {
        (self.id, self.epoch, self.removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Definition {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_definition_has_defaults_and_is_read_as_it_was_written() {
        let small = read(r#"{"name":"g","filter":"t/#"}"#);
        assert_eq!(
            (small.max_attempts, small.backoff_max_ms, small.on_dead),
            (5, 300_000, OnDead::Skip)
        );
        assert_eq!(small.from, Begin::Named("start".into()));
        small.check().unwrap();
        let text = serde_json::to_string(&small).unwrap();
        assert_eq!(read(&text), small);
        assert!(
            serde_json::from_str::<Definition>(r#"{"name":"g","filter":"t","max":1}"#).is_err()
        );
    }

    #[test]
    fn what_is_no_group_is_refused_by_its_field() {
        for (change, field) in [
            (r#""name":"a b","filter":"t""#, "name"),
            (r#""name":"g","filter":"a/#/b""#, "filter"),
            (r#""name":"g","filter":"t","from":"w:0""#, "from"),
            (r#""name":"g","filter":"t","max_attempts":0"#, "max_attempts"),
            (r#""name":"g","filter":"t","backoff_min_ms":9,"backoff_max_ms":8"#, "backoff"),
            (r#""name":"g","filter":"t","settle_within_ms":0"#, "settle_within_ms"),
        ] {
            let (code, detail) = read(&format!("{{{change}}}")).check().unwrap_err();
            assert_eq!(code, Code::INVALID);
            assert!(detail.starts_with(field), "{detail}");
        }
    }

    #[test]
    fn a_beginning_means_something_on_each_worker() {
        let named = |text: &str| Begin::Named(text.to_owned()).on("b");
        assert_eq!(named("start"), Some(Place::Start));
        assert_eq!(named("end"), Some(Place::End));
        assert_eq!(named("a:5,b:9"), Some(Place::At(9)));
        assert_eq!(named("a:5"), Some(Place::Elsewhere));
        assert_eq!(Begin::Time(7).on("b"), Some(Place::Time(7)));
        for bad in ["", "a", "a:", "a:x", "a:5,", "a:0"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
