//! What one worker has to do with a merged subscription, and what it is asked where it begins or goes on.

use spile_protocol::{
    id::{Position, SubscriptionId, Version},
    message::{At, Credit, Deliver, From, List, Source, Subscribe, deliver::Kind},
    time::{Instant, Millis},
};

/// How a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It delivers.
    In,
    /// It is away, or is asked again at that time; then it joins.
    Out {
        /// Not before.
        again: Option<Instant>,
    },
    /// It has delivered all that was asked for.
    Ended,
}

/// Where a filter begins at one worker.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Start,
    End,
    Time(u64),
    At(u64),
}

/// One worker's part.
#[derive(Debug)]
pub(super) struct Part {
    name: Box<str>,
    pub(super) state: State,
    begin: Begin,
    /// The position behind its last delivery.
    pub(super) next: Option<u64>,
    /// What it keeps of the credit.
    pub(super) kept: Option<(u32, u32)>,
    /// What it was told last to keep.
    pub(super) share: (u32, u32),
    delivered: u64,
    key: Box<str>,
    topic: Box<str>,
    content_type: Box<str>,
    schema: u32,
    encoding: Box<str>,
}

/// What was asked for, to be asked again.
#[derive(Debug)]
pub(super) struct Asked {
    what: What,
    live: bool,
    /// When, by this edge's clock.
    since: Millis,
}

#[derive(Debug)]
enum What {
    Filter { filter: Box<str>, key: Option<Box<str>> },
    Group { name: Box<str>, max_events: u32, max_bytes: u32 },
    Stream { key: Box<str>, from: Version },
    Inbox,
}

impl Asked {
    pub(super) fn of(subscribe: &Subscribe<'_>, since: Millis) -> Self {
        let what = match subscribe.source {
            Source::Filter { filter, key, .. } => {
                What::Filter { filter: filter.into(), key: key.map(Box::from) }
            }
            Source::Group { name, max_events, max_bytes } => {
                What::Group { name: name.into(), max_events, max_bytes }
            }
            Source::Stream { key, from } => What::Stream { key: key.into(), from },
            Source::Inbox => What::Inbox,
        };
        Self { what, live: subscribe.live, since }
    }

    pub(super) const fn is_group(&self) -> bool {
        matches!(self.what, What::Group { .. })
    }

    /// The SUBSCRIBE for one worker: where it begins, or where it goes on.
    pub(super) fn at<'a>(
        &'a self,
        subscription: SubscriptionId,
        part: &'a mut Part,
        share: (u32, u32),
        room: &'a mut [u8],
    ) -> Subscribe<'a> {
        let begin = part.asked(self.since, share);
        let source = match &self.what {
            What::Filter { filter, key } => {
                let from = part.from(begin, room);
                Source::Filter { filter, key: key.as_deref(), from }
            }
            What::Group { name, max_events, max_bytes } => {
                Source::Group { name, max_events: *max_events, max_bytes: *max_bytes }
            }
            What::Stream { key, from } => Source::Stream { key, from: *from },
            What::Inbox => Source::Inbox,
        };
        let (events, bytes) = share;
        Subscribe { subscription, source, events, bytes, live: self.live }
    }
}

impl Part {
    pub(super) fn new(name: &str, source: &Source<'_>) -> Self {
        let begin = match source {
            Source::Filter { from: From::Time(time), .. } => Begin::Time(*time),
            Source::Filter { from: From::End, .. } => Begin::End,
            Source::Filter { from: From::Positions(named), .. } => named
                .iter()
                .find(|at| at.worker == name)
                .map_or(Begin::Start, |at| Begin::At(at.position.0)),
            Source::Filter { .. }
            | Source::Stream { .. }
            | Source::Group { .. }
            | Source::Inbox => Begin::Start,
        };
        Self {
            name: name.into(),
            state: State::Out { again: None },
            begin,
            next: None,
            kept: None,
            share: (0, 0),
            delivered: 0,
            key: "".into(),
            topic: "".into(),
            content_type: "".into(),
            schema: 0,
            encoding: "".into(),
        }
    }

    /// It is asked, again perhaps: what it spelled and counted before is forgotten. Where it begins now; the end it begins
    /// at is, from then on, the end at the time when it was asked first.
    fn asked(&mut self, since: Millis, share: (u32, u32)) -> Begin {
        let begin = self.next.map_or(self.begin, Begin::At);
        let later = if let Begin::End = self.begin { Begin::Time(since.0) } else { self.begin };
        let (name, next, state) = (std::mem::take(&mut self.name), self.next, self.state);
        *self = Self { name, next, state, share, begin: later, ..Self::new("", &Source::Inbox) };
        begin
    }

    /// spec §8.1.4: it goes on where it was.
    fn from<'a>(&'a self, begin: Begin, room: &'a mut [u8]) -> From<'a> {
        match begin {
            Begin::Start => From::Start,
            Begin::End => From::End,
            Begin::Time(time) => From::Time(time),
            Begin::At(at) => {
                let at = At { worker: &self.name, position: Position(at) };
                // One name and one number fit; a worker that gets none refuses the subscription.
                From::Positions(List::encode([at], room).unwrap_or_default())
            }
        }
    }

    pub(super) const fn is_in(&self) -> bool {
        matches!(self.state, State::In)
    }

    /// What it keeps of its share, as far as it has said.
    pub(super) fn window(&self) -> Option<(u32, u32)> {
        let (events, bytes) = self.kept.filter(|_| self.is_in())?;
        Some((events.min(self.share.0), bytes.min(self.share.1)))
    }

    /// When it is asked again.
    pub(super) const fn again(&self) -> Option<Instant> {
        match self.state {
            State::Out { again } => again,
            State::In | State::Ended => None,
        }
    }

    /// It says what it keeps: of what it was told last, where it was told more than once before it spoke.
    pub(super) const fn keeps(&mut self, credit: &Credit) {
        self.kept = Some((credit.events, credit.bytes));
    }

    /// Has it said what it keeps, or will it not?
    pub(super) const fn has_answered(&self) -> bool {
        match self.state {
            State::In => self.kept.is_some(),
            State::Out { .. } | State::Ended => true,
        }
    }

    /// It delivered to the client: the delivery's number at the worker.
    pub(super) const fn deliver(&mut self) -> u64 {
        self.delivered += 1;
        self.delivered
    }

    /// The delivery with all that the worker has spelled before: the client's last one may be another worker's.
    pub(super) fn spell<'a>(&'a mut self, deliver: &Deliver<'a>) -> Deliver<'a> {
        let keep = |old: &mut Box<str>, new: Option<&str>| {
            if let Some(new) = new.filter(|&new| new != &**old) {
                *old = Box::from(new);
            }
        };
        keep(&mut self.key, deliver.key);
        keep(&mut self.topic, deliver.topic);
        keep(&mut self.content_type, deliver.kind.map(|kind| kind.content_type));
        keep(&mut self.encoding, deliver.kind.map(|kind| kind.encoding));
        self.schema = deliver.kind.map_or(self.schema, |kind| kind.schema);
        let kind = Kind {
            content_type: &self.content_type,
            schema: self.schema,
            encoding: &self.encoding,
        };
        Deliver {
            key: Some(&self.key),
            topic: Some(&self.topic),
            kind: Some(kind),
            worker: Some(&self.name),
            ..*deliver
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(from: From<'_>, next: Option<u64>, again: bool) -> String {
        let source = Source::Filter { filter: "#", key: None, from };
        let subscription = SubscriptionId(1);
        let subscribe = Subscribe { subscription, source, events: 8, bytes: 8, live: true };
        let asked = Asked::of(&subscribe, Millis(77));
        let mut part = Part::new("a", &source);
        if again {
            asked.at(subscription, &mut part, (1, 1), &mut [0; 64]);
        }
        part.next = next;
        let mut room = [0; 64];
        let Source::Filter { from, .. } =
            asked.at(subscription, &mut part, (1, 1), &mut room).source
        else {
            panic!("another source");
        };
        match from {
            From::Positions(list) => {
                list.iter().map(|at| format!("{}:{}", at.worker, at.position.0)).collect()
            }
            other @ (From::Start | From::End | From::Time(_)) => format!("{other:?}"),
        }
    }

    #[test]
    fn a_worker_goes_on_where_it_was() {
        let mut room = [0; 64];
        let at = |worker, position| At { worker, position: Position(position) };
        let named = From::Positions(List::encode([at("b", 4), at("a", 3)], &mut room).unwrap());
        for (from, next, again, want) in [
            (From::Start, None, false, "Start"),
            (From::End, None, false, "End"),
            (From::End, None, true, "Time(77)"),
            (From::End, Some(9), true, "a:9"),
            (From::Time(5), None, true, "Time(5)"),
            (named, None, false, "a:3"),
            (named, Some(12), true, "a:12"),
        ] {
            assert_eq!(begins(from, next, again), want);
        }
    }
}
