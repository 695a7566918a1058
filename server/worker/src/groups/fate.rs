//! What became of one event in a group, as far as that is durable: for who asks by trace.
//!
//! Out of the view alone: what a member has in hand and has not settled is not known here.

use spile_protocol::id;

use crate::groups::view::Group;

/// An event's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) topic: &'a str,
    pub(crate) stream: u64,
    pub(crate) version: u64,
    pub(crate) position: u64,
}

/// In words; `None` where the event is none of the group's.
pub(crate) fn fate(group: &Group, event: Event<'_>) -> Option<String> {
    let Event { topic, stream, version, position } = event;
    let its = !group.removed && id::matches(&group.definition.filter, topic);
    if let Some(letter) = group.letters.get(&position).filter(|_| its) {
        let again = if letter.replay.is_some() { ", and goes out again" } else { "" };
        return Some(format!("dead after {} attempts: {}{again}", letter.attempts, letter.reason));
    }
    if !its || position < group.start {
        return None;
    }
    let Some(mark) = group.marks.get(&stream) else {
        return Some(if position < group.floor { "done" } else { "not settled" }.to_owned());
    };
    if version < mark.version || position < mark.at {
        return Some("done".to_owned());
    }
    let retry = mark.retry.filter(|_| version == mark.version);
    Some(retry.map_or_else(
        || "not settled".to_owned(),
        |retry| format!("waits for attempt {}", retry.attempt),
    ))
}
