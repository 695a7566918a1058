//! The keys of a group that have something outstanding: who has what, what can go, what waits and until when.
//!
//! Volatile, and without I/O. A key's later events are not queued here: it is one entry, which says from which version on it
//! is unsettled and up to which version it was seen. The invariant: a key is in `ready` once if it could go, and in `firsts`
//! if something of it is unsettled that the floor must not pass.

use std::collections::{BTreeSet, HashMap, VecDeque};

use spile_protocol::message::Trace;

use crate::groups::record::{Mark, Retry};

/// A delivery that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    /// Who has it.
    pub(crate) member: u64,
    /// Under which number.
    pub(crate) delivery: u64,
    /// Its first event that is not settled.
    pub(crate) version: u64,
    pub(crate) position: u64,
    /// How many are not settled.
    pub(crate) left: u32,
    /// Which attempt at the first of them this is.
    pub(crate) attempt: u32,
    pub(crate) deadline_ms: u64,
    /// It is a dead letter that goes out again.
    pub(crate) replay: bool,
    /// Of its first event that is not settled.
    pub(crate) trace: Option<Trace>,
}

impl Out {
    /// Events that are out, and are nothing else: a dead letter that is out again is counted as one.
    fn counted(&self) -> u64 {
        if self.replay { 0 } else { u64::from(self.left) }
    }
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing of it is out.
    Free,
    /// One delivery is.
    Out(Out),
    /// What was settled is on its way to the disk. spec §8.3.3
    Settling,
}

/// A dead letter that goes out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) position: u64,
    pub(crate) version: u64,
    /// How often it was tried before.
    pub(crate) attempts: u32,
    pub(crate) retry: Retry,
    /// Its time has come.
    pub(crate) due: bool,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// The first version that may be unsettled.
    pub(crate) next: u64,
    /// No unsettled event of it lies before this position.
    pub(crate) from: u64,
    /// The newest event that was seen: its version, and the position of its record.
    pub(crate) last: u64,
    pub(crate) last_position: u64,
    /// The floor may pass it: how far it is stands in a mark.
    pub(crate) open: bool,
    /// Which attempt at `next` comes next.
    pub(crate) attempt: u32,
    /// `next` waits until then.
    pub(crate) retry_ms: Option<u64>,
    /// Dead letters that hold it back.
    pub(crate) held: u32,
    pub(crate) replays: Vec<Replay>,
    pub(crate) at: At,
    queued: bool,
}

impl Key {
    fn new(next: u64, from: u64) -> Self {
        Self {
            next,
            from,
            last: 0,
            last_position: 0,
            open: false,
            attempt: 1,
            retry_ms: None,
            held: 0,
            replays: Vec::new(),
            at: At::Free,
            queued: false,
        }
    }

    /// Was something of it seen that is not settled?
    pub(crate) fn outstanding(&self) -> bool {
        self.next <= self.last
    }

    /// The replay that would go.
    pub(crate) fn replay(&self) -> Option<Replay> {
        self.replays.iter().find(|replay| replay.due).copied()
    }

    fn goes(&self) -> bool {
        let waits = self.retry_ms.is_some() || self.held > 0;
        self.at == At::Free && (self.replay().is_some() || (self.outstanding() && !waits))
    }

    fn idle(&self) -> bool {
        self.at == At::Free
            && !self.outstanding()
            && !self.open
            && self.held == 0
            && self.replays.is_empty()
    }

    /// How far it is, where the log was looked at up to `seen`.
    pub(crate) fn mark(&self, seen: u64) -> Mark {
        let at = if self.outstanding() { self.from } else { self.from.max(seen) };
        let again = self.outstanding() && self.attempt > 1;
        let due_ms = self.retry_ms.unwrap_or(0);
        let retry = again.then_some(Retry { attempt: self.attempt, due_ms });
        Mark { version: self.next, at, open: self.open, retry }
    }
}

/// What a look at an event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Its key can go with it.
    Ready,
    /// Its key has something before it.
    Behind,
    /// It was known.
    Known,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    of: HashMap<u64, Key>,
    firsts: BTreeSet<(u64, u64)>,
    ready: VecDeque<u64>,
    /// Keys whose settlement is on its way, by the end that must be durable.
    settling: VecDeque<(u64, u64)>,
    /// Retries and replays, by their time.
    dues: BTreeSet<(u64, u64)>,
    /// Deliveries, by when they end.
    deadlines: BTreeSet<(u64, u64)>,
    in_flight: u64,
}

impl Keys {
    pub(crate) fn len(&self) -> usize {
        self.of.len()
    }

    pub(crate) fn get(&self, stream: u64) -> Option<&Key> {
        self.of.get(&stream)
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The first position that holds something unsettled of a key without a mark.
    pub(crate) fn first(&self) -> Option<u64> {
        self.firsts.first().map(|&(position, _)| position)
    }

    /// Keys that hold the floor back, the farthest behind first.
    pub(crate) fn laggards(&self, most: usize) -> Vec<u64> {
        self.firsts.iter().take(most).map(|&(_, stream)| stream).collect()
    }

    /// Up to where the log must be durable for the next key to become free.
    pub(crate) fn gate(&self) -> u64 {
        self.settling.front().map_or(u64::MAX, |&(gate, _)| gate)
    }

    /// When the next thing is due.
    pub(crate) fn due(&self) -> u64 {
        let first = |set: &BTreeSet<(u64, u64)>| set.first().map_or(u64::MAX, |&(due, _)| due);
        first(&self.dues).min(first(&self.deadlines))
    }

    /// Changes a key, which is made where there is none, and puts it where it belongs then.
    pub(crate) fn change<T>(&mut self, stream: u64, change: impl FnOnce(&mut Key) -> T) -> T {
        let key = self.of.entry(stream).or_insert_with(|| Key::new(1, 0));
        self.firsts.remove(&(key.from, stream));
        if let Some(due_ms) = key.retry_ms {
            self.dues.remove(&(due_ms, stream));
        }
        for replay in &key.replays {
            self.dues.remove(&(replay.retry.due_ms, stream));
        }
        if let At::Out(out) = key.at {
            self.deadlines.remove(&(out.deadline_ms, stream));
            self.in_flight -= out.counted();
        }
        let changed = change(key);
        if key.outstanding() && !key.open {
            self.firsts.insert((key.from, stream));
        }
        if let Some(due_ms) = key.retry_ms {
            self.dues.insert((due_ms, stream));
        }
        for replay in key.replays.iter().filter(|replay| !replay.due) {
            self.dues.insert((replay.retry.due_ms, stream));
        }
        if let At::Out(out) = key.at {
            self.deadlines.insert((out.deadline_ms, stream));
            self.in_flight += out.counted();
        }
        if key.goes() && !key.queued {
            key.queued = true;
            self.ready.push_back(stream);
        }
        if key.idle() && !key.queued {
            self.of.remove(&stream);
        }
        changed
    }

    /// An event was read: versions up to `last`, from `first` on unsettled, in the record at `position`.
    pub(crate) fn seen(
        &mut self,
        stream: u64,
        (first, last): (u64, u64),
        position: u64,
        from: u64,
    ) -> Seen {
        self.change(stream, |key| {
            if last <= key.last {
                return Seen::Known;
            }
            if !key.outstanding() {
                (key.next, key.from) = (first.max(key.next), from.max(key.from));
            }
            (key.last, key.last_position) = (last, position);
            if key.goes() { Seen::Ready } else { Seen::Behind }
        })
    }

    /// The next key that can go; it is out of the queue then.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        while let Some(stream) = self.ready.pop_front() {
            let Some(key) = self.of.get_mut(&stream) else { continue };
            key.queued = false;
            if key.goes() {
                return Some(stream);
            }
            if key.idle() {
                self.of.remove(&stream);
            }
        }
        None
    }

    /// It could not go after all: it is the next again.
    pub(crate) fn unpop(&mut self, stream: u64) {
        if let Some(key) = self.of.get_mut(&stream)
            && !std::mem::replace(&mut key.queued, true)
        {
            self.ready.push_front(stream);
        }
    }

    /// Its settlement is on its way: it is free when the log is durable up to `gate`.
    pub(crate) fn settling(&mut self, stream: u64, gate: u64) {
        self.settling.push_back((gate, stream));
    }

    /// The log is durable up to `end`: keys whose settlement is there are free.
    pub(crate) fn free(&mut self, end: u64) {
        while let Some((_, stream)) = self.settling.pop_front_if(|waits| waits.0 <= end) {
            self.change(stream, |key| {
                if key.at == At::Settling {
                    key.at = At::Free;
                }
            });
        }
    }

    /// What waited until now can go.
    pub(crate) fn wake(&mut self, now_ms: u64) {
        while let Some(&(due_ms, stream)) = self.dues.first().filter(|(due, _)| *due <= now_ms) {
            self.dues.remove(&(due_ms, stream));
            self.change(stream, |key| {
                if key.retry_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                    key.retry_ms = None;
                }
                for replay in &mut key.replays {
                    replay.due |= replay.retry.due_ms <= now_ms;
                }
            });
        }
    }

    /// A key whose delivery's time is over.
    pub(crate) fn late(&self, now_ms: u64) -> Option<u64> {
        self.deadlines.first().filter(|(due, _)| *due <= now_ms).map(|&(_, stream)| stream)
    }

    /// Keys a member has.
    pub(crate) fn held_by(&self, member: u64) -> Vec<u64> {
        let has = |key: &Key| matches!(key.at, At::Out(out) if out.member == member);
        let mut streams: Vec<_> =
            self.of.iter().filter(|(_, key)| has(key)).map(|(&stream, _)| stream).collect();
        streams.sort_unstable();
        streams
    }

    /// Bytes it takes, about: what is counted against the cap.
    pub(crate) fn bytes(&self) -> usize {
        let key = size_of::<(u64, Key)>() + 8;
        let pair = size_of::<(u64, u64)>() * 3 / 2;
        self.of.capacity() * key
            + (self.firsts.len() + self.dues.len() + self.deadlines.len()) * pair
            + (self.ready.capacity() + 2 * self.settling.capacity()) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(version: u64, left: u32) -> At {
        At::Out(Out {
            member: 1,
            delivery: 1,
            version,
            position: version,
            left,
            attempt: 1,
            deadline_ms: 50,
            replay: false,
            trace: None,
        })
    }

    #[test]
    fn a_busy_key_is_one_entry_however_much_waits_behind_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.seen(7, (1, 1), 10, 10), Seen::Ready);
        assert_eq!(keys.pop(), Some(7));
        keys.change(7, |key| key.at = out(1, 1));
        for version in 2..1000 {
            assert_eq!(keys.seen(7, (version, version), 10 + version, 10 + version), Seen::Behind);
        }
        assert_eq!((keys.len(), keys.ready(), keys.in_flight(), keys.first()), (1, 0, 1, Some(10)));
        assert_eq!(keys.seen(7, (999, 999), 1009, 1009), Seen::Known);
        keys.change(7, |key| (key.next, key.from, key.at) = (2, 11, At::Settling));
        keys.settling(7, 2000);
        keys.free(1999);
        assert_eq!(keys.pop(), None);
        keys.free(2000);
        assert_eq!((keys.pop(), keys.first()), (Some(7), Some(11)));
    }

    #[test]
    fn a_key_with_nothing_left_is_forgotten() {
        let mut keys = Keys::default();
        keys.seen(7, (1, 3), 10, 10);
        assert_eq!(keys.pop(), Some(7));
        keys.change(7, |key| (key.next, key.from) = (4, 13));
        assert_eq!((keys.len(), keys.first(), keys.due()), (0, None, u64::MAX));
    }

    #[test]
    fn a_retry_waits_until_it_is_due_and_an_open_key_does_not_hold_the_floor() {
        let mut keys = Keys::default();
        keys.seen(7, (1, 3), 10, 10);
        keys.pop();
        keys.change(7, |key| (key.open, key.attempt, key.retry_ms) = (true, 2, Some(100)));
        assert_eq!((keys.pop(), keys.first(), keys.due()), (None, None, 100));
        keys.wake(99);
        assert_eq!(keys.pop(), None);
        keys.wake(100);
        assert_eq!(keys.pop(), Some(7));
        assert_eq!(keys.due(), u64::MAX);
    }

    #[test]
    fn what_is_out_ends_in_time() {
        let mut keys = Keys::default();
        keys.seen(7, (1, 3), 10, 10);
        keys.pop();
        keys.change(7, |key| key.at = out(1, 3));
        assert_eq!((keys.late(49), keys.late(50), keys.held_by(1)), (None, Some(7), vec![7]));
        assert_eq!((keys.in_flight(), keys.held_by(2)), (3, vec![]));
    }
}
