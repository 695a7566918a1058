//! Calls that read the log: how many events match between two places. A step a poll, so that others have their turn.

use std::collections::{HashMap, VecDeque};

use spile_protocol::{code::Code, id::RequestId};

use crate::{
    groups::{
        calls::{Answered, Not, Outcome, answered, dry, json, not, seek, shown, unknown},
        cursor::Matcher,
        definition::{Definition, Place},
        live::Stored,
        member::Turn,
        record::Mark,
        view::{Group, Name},
    },
    limits::READ_BYTES,
    log::Read,
    said::Said,
    worker::Worker,
};

/// What is settled, as a view says.
#[derive(Default)]
pub(crate) struct Settled {
    floor: u64,
    marks: HashMap<u64, Mark>,
}

impl Settled {
    fn of(group: &Group) -> Self {
        Self { floor: group.floor, marks: group.marks.clone() }
    }

    /// Everything before this position is settled.
    fn from(&self) -> u64 {
        self.marks.values().map(|mark| mark.at).min().unwrap_or(u64::MAX).min(self.floor)
    }

    /// The first position of a key that may be unsettled.
    fn upto(&self, stream: u64) -> u64 {
        self.marks.get(&stream).map_or(self.floor, |mark| mark.at)
    }
}

/// Which events are counted.
enum Which {
    All,
    /// Those that would come again or be skipped, if the group went on at this position.
    Sought {
        to: u64,
        settled: Settled,
    },
}

impl Which {
    fn count(&self, stream: u64, (from, end): (u64, u64)) -> u64 {
        match self {
            Self::All => end - from,
            Self::Sought { to, settled } => {
                let upto = settled.upto(stream);
                let again = end.min(upto).saturating_sub(from.max(*to));
                let skipped = end.min(*to).saturating_sub(from.max(upto));
                again + skipped
            }
        }
    }
}

/// Counts what matches from one position to another.
pub(crate) struct Count {
    /// Where it is the group's own count that goes on: as of which turn of its view, and how many there were before.
    known: (u64, u64),
    matcher: Matcher,
    reader: Box<dyn Read>,
    pub(super) from: u64,
    to: u64,
    which: Which,
    pub(crate) events: u64,
}

impl Count {
    /// Of all events of a filter that lie there.
    pub(super) fn of(worker: &Worker, name: &Name, filter: &str, range: (u64, u64)) -> Self {
        Self::new(worker, name, filter, range, Which::All)
    }

    fn new(
        worker: &Worker,
        name: &Name,
        filter: &str,
        (from, to): (u64, u64),
        which: Which,
    ) -> Self {
        let matcher = Matcher::new(&name.0, filter);
        let reader = worker.log.read(from);
        Self { known: (0, 0), matcher, reader, from, to, which, events: 0 }
    }

    /// Where a definition would begin here; `None` where it says nothing of this worker.
    pub(crate) fn target(worker: &Worker, definition: &Definition) -> Result<Option<u64>, Not> {
        let at = match definition.from.on(worker.name()) {
            Some(Place::Start) => worker.log.start(),
            Some(Place::End) => worker.core().next,
            Some(Place::Time(time_ms)) => {
                let at = worker.position_at(time_ms);
                at.map_err(|_| not(Code::CORRUPT, "the log can't be read"))?
            }
            Some(Place::At(position)) if position < worker.log.start() => {
                return Err(not(Code::GONE, "the position is not kept any more"));
            }
            Some(Place::At(position)) => position,
            Some(Place::Elsewhere) | None => return Ok(None),
        };
        Ok(Some(at))
    }

    /// Reads on; true when it is done.
    pub(super) fn step(&mut self) -> Result<bool, Not> {
        let mut records = VecDeque::new();
        let more = self.from < self.to && {
            let more = self.reader.next(READ_BYTES, &mut records);
            more.map_err(|_| not(Code::CORRUPT, "the log can't be read"))?
        };
        for record in records {
            let (at, end) = (record.position.get().max(self.from), record.end().get().min(self.to));
            if at < end && self.matcher.matches(&record) {
                self.events += self.which.count(record.stream, (at, end));
            }
            self.from = self.from.max(record.end().get());
        }
        Ok(!more)
    }
}

/// What is done when it is counted.
enum Then {
    Show { created: Option<Stored> },
    Seek { definition: Box<Definition>, to: Option<u64>, dry_run: bool },
}

/// A call that takes more than one look.
pub(crate) struct Job {
    request: RequestId,
    name: Name,
    then: Then,
    count: Option<Count>,
}

impl Job {
    /// Shows a group, once all of it was counted; one that was just made, once it is durable.
    pub(crate) fn show(request: RequestId, name: Name, created: Option<Stored>) -> Outcome {
        let then = Then::Show { created };
        Outcome::Later(Box::new(Self { request, name, then, count: None }))
    }

    pub(crate) fn seek(
        request: RequestId,
        name: Name,
        definition: Definition,
        to: Option<u64>,
        dry_run: bool,
    ) -> Self {
        let then = Then::Seek { definition: Box::new(definition), to, dry_run };
        Self { request, name, then, count: None }
    }

    /// Goes on; the answer, where it is done.
    pub(crate) fn step(&mut self, turn: Turn<'_>) -> Option<(Option<Stored>, Said)> {
        let answer = match self.go_on(turn) {
            Ok(false) => return None,
            Ok(true) => self.answer(turn),
            Err(why) => Err(why),
        };
        Some(answered(self.request, answer))
    }

    fn go_on(&mut self, turn: Turn<'_>) -> Result<bool, Not> {
        if let Then::Show { created: Some(stored) } = &self.then
            && (turn.end < stored.gate)
        {
            return Ok(false);
        }
        if self.count.is_none() {
            self.count = self.begin(turn)?;
        }
        let Some(count) = &mut self.count else { return Ok(true) };
        let done = count.step()?;
        if done && let Then::Show { .. } = self.then {
            let ((stamp, known), to) = (count.known, count.to);
            let events = known.saturating_add(count.events);
            self.counted(turn, stamp, events, to);
        }
        Ok(done)
    }

    fn begin(&self, turn: Turn<'_>) -> Result<Option<Count>, Not> {
        let mut core = turn.worker.core();
        core.look();
        let (_, group) =
            core.groups.find(&self.name.0, &self.name.1).ok_or_else(|| unknown(&self.name.1))?;
        let (filter, shared) = (group.definition.filter.clone(), group.shared.clone());
        let settled = match &self.then {
            Then::Show { .. } => Settled::default(),
            Then::Seek { .. } => Settled::of(group),
        };
        drop(core);
        let (range, which, known) = match &self.then {
            Then::Show { .. } => {
                let mut live = shared.live();
                live.follow(turn.worker, &self.name, &shared);
                let known = (live.stamp(), live.produced());
                ((live.counted_to(), turn.end), Which::All, known)
            }
            Then::Seek { to: Some(to), .. } => {
                let range = (settled.from().min(*to), turn.end);
                (range, Which::Sought { to: *to, settled }, (0, 0))
            }
            Then::Seek { to: None, .. } => return Ok(None),
        };
        let count = Count::new(turn.worker, &self.name, &filter, range, which);
        Ok(Some(Count { known, ..count }))
    }

    fn counted(&self, turn: Turn<'_>, stamp: u64, events: u64, to: u64) {
        let shared = {
            let core = turn.worker.core();
            core.groups.find(&self.name.0, &self.name.1).map(|(_, group)| group.shared.clone())
        };
        if let Some(shared) = shared {
            let mut live = shared.live();
            live.note_counted(stamp, events, to);
            live.hint(&shared);
        }
    }

    fn answer(&mut self, turn: Turn<'_>) -> Answered {
        let events = self.count.as_ref().map_or(0, |count| count.events);
        match &mut self.then {
            Then::Show { .. } => {
                let shown = shown(turn.worker, &self.name);
                Ok((None, json(&shown.ok_or_else(|| unknown(&self.name.1))?)?))
            }
            Then::Seek { dry_run: true, .. } => dry(turn, &self.name, events),
            Then::Seek { definition, .. } => {
                seek(turn, &self.name, Definition::clone(definition), events)
            }
        }
    }
}
