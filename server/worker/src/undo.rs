//! What was appended and is not durable yet, and how it is taken back. A part of [`Core`].
//!
//! The invariant: what was appended beyond the durable end stands in `before`, oldest first, so that undoing it newest first
//! gives the tables as they were at the durable end.

use std::sync::atomic::Ordering;

use spile_log::Durable;

use crate::{
    core::Core,
    limits::CUTS,
    slab::Ix,
    tables::{At, Producer, RunEntry, Stream},
};

/// A lane's tables as they were before a call changed them.
#[derive(Debug)]
pub(crate) struct Before {
    /// The first position of the call that changed them.
    pub(crate) from: u64,
    pub(crate) time_ms: u64,
    pub(crate) stream: Ix<Stream>,
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) position: u64,
    pub(crate) lane: Option<BeforeLane>,
    /// Runs that a newly born one will replace.
    doomed: Vec<Ix<RunEntry>>,
}

#[derive(Debug)]
pub(crate) struct BeforeLane {
    pub(crate) producer: Ix<Producer>,
    pub(crate) last: u64,
    pub(crate) run: Ix<RunEntry>,
    pub(crate) idle_ms: u64,
}

/// The log was cut back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The generation that began with it.
    generation: u64,
    end: u64,
}

impl Core {
    /// Takes note of what became durable, or was cut off, since the last look.
    pub(crate) fn look(&mut self) -> Durable {
        let durable = *self.durable.borrow();
        if durable.generation != self.generation {
            self.cut(durable.generation, durable.end.get());
        }
        self.settle(durable.end.get());
        durable
    }

    /// What lies before `end` is durable: it can't be undone any more.
    fn settle(&mut self, end: u64) {
        while let Some(before) = self.before.pop_front_if(|before| before.from < end) {
            self.mark(&before);
            before.doomed.iter().for_each(|&run| self.tables.forget(run));
        }
        while let Some((_, bytes)) = self.calls.pop_front_if(|call| call.0 <= end) {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.registered.settle(end);
        self.values.settle(end);
        self.cursors.settle(end);
        self.uploads.settle(end);
        self.groups.settle(end);
        self.settled = end;
    }

    fn mark(&mut self, before: &Before) {
        self.tables.mark_stream(before.stream);
        if let Some(lane) = &before.lane {
            self.tables.mark_numbers(lane.run, lane.producer);
        }
    }

    /// The log was cut back to `end`: what was appended beyond it never was.
    fn cut(&mut self, generation: u64, end: u64) {
        self.settle(end);
        self.undo(end);
        self.registered.cut(end);
        self.values.cut(end);
        self.cursors.cut(end);
        self.cut_uploads(end);
        self.groups.cut(end);
        self.generation = generation;
        if self.cuts.len() >= CUTS
            && let Some(oldest) = self.cuts.pop_front()
        {
            self.cuts_forgotten = oldest.generation;
        }
        self.cuts.push_back(Cut { generation, end });
    }

    /// Where the log was cut after `generation`, so that what lay before is durable and what lay beyond is gone. 0 where
    /// that is too long ago to know.
    pub(crate) fn cut_after(&self, generation: u64) -> u64 {
        if generation < self.cuts_forgotten {
            return 0;
        }
        self.cuts.iter().find(|cut| cut.generation > generation).map_or(0, |cut| cut.end)
    }

    /// Values that expired by the time of the last durable record are swept.
    pub(crate) fn sweep_values(&mut self) {
        let durable_ms = self.before.front().map_or(self.tables.time_ms, |before| before.time_ms);
        self.values.sweep(durable_ms);
    }

    /// Takes back what the records from `end` on changed of uploads and blobs.
    pub(crate) fn cut_uploads(&mut self, end: u64) {
        if let Some(time_ms) = self.uploads.cut(end) {
            self.tables.time_ms = self.tables.time_ms.min(time_ms);
        }
    }

    /// Undoes all calls from position `from` on, newest first.
    pub(crate) fn undo(&mut self, from: u64) {
        while let Some(before) = self.before.pop_back_if(|before| before.from >= from) {
            self.restore(before);
        }
        while self.calls.back().is_some_and(|call| call.0 > from) {
            if let Some((_, bytes)) = self.calls.pop_back() {
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        self.next = from;
    }

    fn restore(&mut self, before: Before) {
        let Before { time_ms, stream, id, version, position, lane, doomed, .. } = before;
        let tables = &mut self.tables;
        tables.time_ms = time_ms;
        if let Some(stream) = tables.streams.get_mut(stream) {
            (stream.id, stream.version, stream.position) = (id, version, position);
        }
        for run in doomed {
            if let Some(run) = tables.runs.get_mut(run) {
                run.doomed = false;
            }
        }
        if let Some(BeforeLane { producer, last, run, idle_ms }) = lane {
            if let Some(run) = tables.runs.get_mut(run) {
                run.idle_ms = idle_ms;
            }
            if let Some(entry) = tables.producers.get_mut(producer) {
                entry.last = last;
                while entry.voids.pop_back_if(|void| void.number.0 > last).is_some() {}
            }
            // Sessions that left meanwhile hold it no more: holding and releasing it drops what rests on nothing.
            let at = At { stream, run, producer };
            tables.hold(at);
            tables.release(at);
        } else {
            tables.hold_stream(stream);
            tables.release_stream(stream);
        }
    }

    /// Is the lane's run still there, and not idle for too long? Where it is, what the call changes of the lane will be
    /// undone with the call.
    pub(crate) fn touch(&mut self, at: At, time_ms: u64, touched: &mut u64) -> bool {
        if *touched == self.call {
            return true;
        }
        let time_ms = time_ms.max(self.tables.time_ms);
        let tables = &mut self.tables;
        let Some(run) = tables.runs.get(at.run) else { return false };
        if run.doomed || tables.expired(run, time_ms) {
            return false;
        }
        let idle_ms = run.idle_ms;
        let Some(producer) = tables.producers.get(at.producer) else { return false };
        let lane =
            Some(BeforeLane { producer: at.producer, last: producer.last, run: at.run, idle_ms });
        let Some(before) = self.before(at.stream, lane) else { return false };
        let mut before = before;
        if idle_ms == 0 {
            before.doomed = self.tables.bear(at.run, time_ms);
            for &run in &before.doomed {
                if let Some(run) = self.tables.runs.get_mut(run) {
                    run.doomed = true;
                }
            }
        }
        self.before.push_back(before);
        *touched = self.call;
        true
    }

    pub(crate) fn before(&self, ix: Ix<Stream>, lane: Option<BeforeLane>) -> Option<Before> {
        let stream = self.tables.streams.get(ix)?;
        Some(Before {
            from: self.call_from,
            time_ms: self.tables.time_ms,
            stream: ix,
            id: stream.id,
            version: stream.version,
            position: stream.position,
            lane,
            doomed: Vec::new(),
        })
    }
}
