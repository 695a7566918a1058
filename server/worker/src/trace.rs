//! `$trace get`: what one trace id touched, found by reading the log backwards, window by window. admin §12
//!
//! No index is kept: a trace is asked for rarely, and soon. The invariant: a search looks at no more than
//! [`TRACE_POSITIONS`], gives way to others after each turn, ends with the caller's time, and says where it did not see all.

use std::{collections::VecDeque, pin::Pin, task::Context, time::Duration};

use serde::{Deserialize, Serialize};
use spile_log::Record;
use spile_protocol::{
    code::Code,
    crc,
    id::{self, RequestId, Role},
    message::{Call, Trace},
    time::Millis,
};
use tokio::time::{Sleep, sleep};

use crate::{
    answers::Sink,
    calls::{Not, json, not, reply},
    groups::fate,
    inbox,
    intake::Intake,
    limits::{READ_BYTES, TRACE_POSITIONS, TRACE_STEPS, TRACE_TURN, TRACE_WINDOW},
    log::Read,
    lookups::Lookup,
    record::{self, Names, Tail, kind},
    tables::{principal, scoped},
    values::named,
    worker::Worker,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    id: String,
    tenant: Option<String>,
}

/// One thing that happened.
#[derive(Debug, Serialize)]
struct Step {
    time_ms: u64,
    #[serde(rename = "where")]
    place: String,
    what: String,
}

#[derive(Serialize)]
struct Found<'a> {
    steps: &'a [Step],
    partial: bool,
}

/// A search that is under way.
pub(crate) struct Search {
    request: RequestId,
    tenant: String,
    id: [u8; 16],
    now: Millis,
    /// Nothing before this is looked at, and whether that is the log's start.
    floor: u64,
    whole: bool,
    /// The window at hand: it ends where the one before began.
    begin: u64,
    end: u64,
    reader: Box<dyn Read>,
    records: VecDeque<Record>,
    steps: Vec<Step>,
    deadline: Pin<Box<Sleep>>,
    late: bool,
}

/// 16 bytes of 32 hexadecimal digits.
fn parse_id(text: &str) -> Option<[u8; 16]> {
    let value = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32 && !text.starts_with('+')).then(|| value.to_be_bytes())
}

impl Intake<'_> {
    /// `None`: it is answered later.
    pub(crate) fn trace(
        &mut self,
        now: Millis,
        call: &Call<'_>,
        payload: &[u8],
    ) -> Result<(), Not> {
        let asked: Asked =
            serde_json::from_slice(payload).map_err(|why| not(Code::INVALID, why.to_string()))?;
        let id =
            parse_id(&asked.id).ok_or_else(|| not(Code::INVALID, "id is 32 hexadecimal digits"))?;
        let tenant = self.tenant_of(asked.tenant.as_deref())?;
        if self.desk.lookups.len() >= spile_protocol::limits::REQUESTS {
            return Err(not(Code::BUSY, "too many requests wait"));
        }
        let end = self.core.look().end.get();
        let start = self.worker.log.start();
        let floor = start.max(end.saturating_sub(TRACE_POSITIONS));
        // The answer takes its way too: nine tenths of the time are for the search.
        let time = Duration::from_millis(u64::from(call.remaining_ms)).saturating_mul(9) / 10;
        let begin = floor.max(end.saturating_sub(TRACE_WINDOW));
        let steps = self.calls_of(now, &tenant, id);
        self.desk.lookups.push(Lookup::Trace(Box::new(Search {
            request: call.request,
            tenant,
            id,
            now,
            floor,
            whole: floor == start,
            begin,
            end,
            reader: self.worker.log.read(begin),
            records: VecDeque::new(),
            steps,
            deadline: Box::pin(sleep(time)),
            late: false,
        })));
        Ok(())
    }
}

impl Intake<'_> {
    /// Calls are not records: what is known of them is in memory. admin §12.3
    fn calls_of(&self, now: Millis, tenant: &str, id: [u8; 16]) -> Vec<Step> {
        let clock = self.worker.clock.now();
        let steps = self.worker.services().traced(tenant, id);
        let step = |(at, what)| {
            let ago = u64::try_from(clock.since(at).as_millis()).unwrap_or(u64::MAX);
            Step { time_ms: now.0.saturating_sub(ago), place: self.worker.name().to_owned(), what }
        };
        steps.into_iter().map(step).collect()
    }
}

impl Search {
    /// Is its time over? Wakes the task when it is.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let now_late = !self.late && self.deadline.as_mut().poll(cx).is_ready();
        self.late |= now_late;
        now_late
    }

    /// Looks on for a while; true when it is answered.
    pub(crate) fn turn(&mut self, worker: &Worker, said: &mut usize, sink: &mut Sink<'_>) -> bool {
        let mut looked = 0;
        while looked < TRACE_TURN && !self.is_over() {
            let Some(record) = self.next(worker) else { continue };
            looked += 1;
            self.look(worker, &record);
        }
        if !self.is_over() {
            return false;
        }
        // What is of one moment stays in the order it was told: accepted, stored, and what became of it.
        self.steps.sort_by_key(|step| step.time_ms);
        let answer = reply(self.request, self.answer());
        *said += answer.size();
        answer.say(sink);
        true
    }

    fn is_over(&self) -> bool {
        self.late || self.end <= self.floor || self.steps.len() >= TRACE_STEPS
    }

    /// The next record of the window; at its end the window before it is next.
    fn next(&mut self, worker: &Worker) -> Option<Record> {
        if self.records.is_empty() {
            let more = self.reader.next(READ_BYTES, &mut self.records);
            if let Err(error) = &more {
                tracing::warn!(%error, "a trace goes round what can't be read");
                self.whole = false;
            }
            if !more.unwrap_or(false) {
                self.step_back(worker);
                return None;
            }
        }
        let record = self.records.pop_front()?;
        if record.position.get() >= self.end {
            self.step_back(worker);
            return None;
        }
        // A block that began in the window before is of that.
        Some(record).filter(|record| record.position.get() >= self.begin)
    }

    fn step_back(&mut self, worker: &Worker) {
        self.end = self.begin;
        self.begin = self.floor.max(self.end.saturating_sub(TRACE_WINDOW));
        self.records.clear();
        self.reader = worker.log.read(self.begin);
    }

    fn look(&mut self, worker: &Worker, record: &Record) {
        let Ok((prefix, tail)) = record::split(&record.head) else { return };
        if !matches!(record.kind, kind::EVENT | kind::BATCH | kind::BLOB | kind::VOID) {
            return;
        }
        let (Ok(names), Ok(tail)) =
            (Names::parse(prefix), Tail::parse(record.kind, tail, &record.payload))
        else {
            return;
        };
        if names.tenant != self.tenant {
            return;
        }
        let count = tail.void.map_or(record.positions, |void| void.count);
        let made = || Trace::made(names.trace_base, crc::of(names.key.as_bytes()), tail.number);
        let trace = tail.extras.trace.unwrap_or_else(made);
        if let Some((within, events)) = touches(trace, count, self.id) {
            self.tell(worker, record, (&names, &tail), (within, events));
        }
    }

    /// What is known of the events from `within` on.
    fn tell(
        &mut self,
        worker: &Worker,
        record: &Record,
        (names, tail): (&Names<'_>, &Tail<'_>),
        (within, events): (u32, u32),
    ) {
        let Names { key, topic, principal: who, role, .. } = *names;
        let which = if events == 1 { String::new() } else { format!("{events} events, ") };
        let of = if topic.is_empty() { key.to_owned() } else { format!("{topic} of {key}") };
        self.say(tail.time_ms, "edge", format!("{which}{of} accepted from {}/{who}", role.name()));
        let place = worker.name();
        if let Some(void) = tail.void {
            let number = void.number.0.saturating_add(u64::from(within));
            let what = format!("number {number} of {key} refused for good: {}", void.code);
            return self.say(record.time_ms, place, what);
        }
        let position = record.position.get().saturating_add(u64::from(within));
        let version = record.version.saturating_add(u64::from(within));
        let what = format!("stored at {place}:{position} as version {version} of {key}");
        self.say(record.time_ms, place, what);
        // What is known as it is now is of now.
        let now_ms = self.now.0.max(record.time_ms);
        for what in self.since(worker, names, (position, version, events)) {
            self.say(now_ms, place, what);
        }
    }

    /// What views know of an event: is it still the value, was it read.
    fn since(
        &self,
        worker: &Worker,
        names: &Names<'_>,
        (position, version, events): (u64, u64, u32),
    ) -> Vec<String> {
        let Names { tenant, key, topic, .. } = *names;
        let mut core = worker.core();
        core.look();
        let mut known = Vec::new();
        let value = core.values.get(&named(tenant, key, topic), self.now.0);
        let last = position.saturating_add(u64::from(events)).saturating_sub(1);
        if value.is_some_and(|value| (position..=last).contains(&value.position)) {
            known.push(format!("is the latest value of {topic} of {key}"));
        }
        if id::matches(inbox::FILTER, topic) {
            let cursor = |role| core.cursors.get(&principal(tenant, role, key));
            let cursor = Role::ALL.iter().map(|&role| cursor(role)).max().unwrap_or_default();
            let done = if cursor >= version { "done" } else { "unread" };
            known.push(format!("{done} in the inbox of {key}"));
        }
        let stream = core.tables.names.get(scoped(tenant, key).as_str()).copied();
        let stream = stream.and_then(|ix| core.see(ix)).map_or(0, |seen| seen.id);
        let event = fate::Event { topic, stream, version, position };
        for (name, group) in core.groups.iter().filter(|(name, _)| name.0 == tenant) {
            let fate = fate::fate(group, event);
            known.extend(fate.map(|fate| format!("{fate} in group {}", name.1)));
        }
        known
    }

    fn say(&mut self, time_ms: u64, place: &str, what: String) {
        self.steps.push(Step { time_ms, place: place.to_owned(), what });
    }

    fn answer(&self) -> Result<bytes::Bytes, Not> {
        let partial = !self.whole || self.end > self.floor;
        if self.steps.is_empty() {
            let reached = if partial { "in the newest part of the log" } else { "in the log" };
            return Err(not(Code::NOT_FOUND, format!("nothing of this trace is {reached}")));
        }
        json(&Found { steps: &self.steps, partial })
    }
}

/// Which of so many events the trace with that id is of: the first of them, and how many. spec §5.5.5
fn touches(first: Trace, count: u32, id: [u8; 16]) -> Option<(u32, u32)> {
    if first.id == id && first.span != [0; 8] {
        return Some((0, count));
    }
    let [head @ .., a, b, c, d] = first.id;
    let [wanted @ .., e, f, g, h] = id;
    let within = u32::from_be_bytes([e, f, g, h]).wrapping_sub(u32::from_be_bytes([a, b, c, d]));
    (head == wanted && first.span == [0; 8] && within < count).then_some((within, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_protocol::id::Number;

    #[test]
    fn a_made_trace_is_of_one_event_of_a_block_and_a_given_one_of_all() {
        let first = Trace::made([7; 8], 9, Number(u64::from(u32::MAX)));
        for within in 0..3 {
            assert_eq!(touches(first, 3, first.nth(within).id), Some((within, 1)));
        }
        assert_eq!(touches(first, 3, first.nth(3).id), None);
        assert_eq!(touches(Trace::made([8; 8], 9, Number(1)), 3, first.id), None);
        let given = Trace { id: [1; 16], span: [2; 8], flags: 0 };
        assert_eq!(touches(given, 3, [1; 16]), Some((0, 3)));
        assert_eq!(touches(given, 3, given.nth(1).id), Some((0, 3)));
        assert_eq!(touches(given, 3, [2; 16]), None);
    }

    #[test]
    fn an_id_is_32_digits() {
        assert_eq!(parse_id(&"0a".repeat(16)), Some([10; 16]));
        for wrong in ["", "0a", &"zz".repeat(16), &format!("+{}", "0".repeat(31))] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }
}
