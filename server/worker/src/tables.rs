//! What is looked up by name: streams, and the last numbers of producers. All of it is a view of the log.
//!
//! Nothing here knows what is durable; [`crate::core`] does. The invariant: an entry that rests on no record (a stream
//! without an id, a producer without a number) belongs to the sessions that hold it and leaves with the last of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use spile_protocol::{
    code::Code,
    id::{self, Role, Run},
    limits::{RUNS, VOIDS},
};

use crate::{
    bell::Bell,
    limits::{KEYS_OF_RUN, RUN_IDLE_MS, STREAMS},
    record::VoidTail,
    slab::{Ix, Slab},
};

/// A name within a tenant: the tenant, a zero byte (which no name holds), the name.
pub(crate) fn scoped(tenant: &str, name: &str) -> String {
    let mut scoped = String::with_capacity(tenant.len() + 1 + name.len());
    scoped.push_str(tenant);
    scoped.push('\0');
    scoped.push_str(name);
    scoped
}

/// A principal within a tenant: roles do not share names.
pub(crate) fn principal(tenant: &str, role: Role, name: &str) -> String {
    let mut scoped = scoped(tenant, role.name());
    scoped.push('/');
    scoped.push_str(name);
    scoped
}

/// All events of one key.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Tenant and key.
    pub(crate) name: Arc<str>,
    /// The position of its first record; 0 while it has none.
    pub(crate) id: u64,
    /// Its last version.
    pub(crate) version: u64,
    /// The position of its last record.
    pub(crate) position: u64,
    /// Sessions' lanes and subscriptions that use it, and producers with numbers in it.
    pub(crate) holders: u32,
    /// Who wants to hear of its next record.
    pub(crate) watchers: Vec<Arc<Bell>>,
    /// It changed since the last checkpoint.
    pub(crate) dirty: bool,
}

/// One run of a principal.
#[derive(Debug)]
pub(crate) struct RunEntry {
    /// Tenant, role and name.
    pub(crate) principal: Arc<str>,
    pub(crate) run: Run,
    /// The time of its last record; 0 while it has none.
    pub(crate) idle_ms: u64,
    /// It was forgotten for a newer run, by a record that is not durable yet.
    pub(crate) doomed: bool,
    pub(crate) keys: HashMap<Ix<Stream>, Ix<Producer>>,
    pub(crate) dirty: bool,
}

/// The numbers of one key in a run.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) stream: Ix<Stream>,
    /// The last number stored or refused.
    pub(crate) last: u64,
    /// What was refused, the newest last; one window.
    pub(crate) voids: VecDeque<VoidTail>,
    /// Sessions' lanes that use it.
    pub(crate) holders: u32,
    pub(crate) dirty: bool,
}

impl Producer {
    /// Remembers what was refused. At the cap the oldest is forgotten: it is further back than a window.
    pub(crate) fn refuse(&mut self, void: VoidTail) {
        if self.voids.len() >= VOIDS {
            self.voids.pop_front();
        }
        self.voids.push_back(void);
    }
}

/// Where a session's lane leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) stream: Ix<Stream>,
    pub(crate) run: Ix<RunEntry>,
    pub(crate) producer: Ix<Producer>,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) streams: Slab<Stream>,
    pub(crate) names: HashMap<Arc<str>, Ix<Stream>>,
    pub(crate) runs: Slab<RunEntry>,
    pub(crate) principals: HashMap<Arc<str>, Vec<Ix<RunEntry>>>,
    pub(crate) producers: Slab<Producer>,
    /// The time of the last record.
    pub(crate) time_ms: u64,
    /// What changed since the last checkpoint, and is durable.
    pub(crate) changed: Changed,
}

/// What a checkpoint has to write, each once.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) streams: Vec<Ix<Stream>>,
    pub(crate) runs: Vec<Ix<RunEntry>>,
    pub(crate) producers: Vec<(Ix<RunEntry>, Ix<Producer>)>,
    /// Runs that were forgotten, with their keys.
    pub(crate) forgotten: Vec<Forgotten>,
}

/// A run that is no more: what a checkpoint has to remove.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) principal: Arc<str>,
    pub(crate) run: Run,
}

impl Tables {
    /// The stream of that name; one without records where there is none yet.
    pub(crate) fn stream(&mut self, tenant: &str, key: &str) -> Result<Ix<Stream>, Code> {
        let name = scoped(tenant, key);
        if let Some(&ix) = self.names.get(name.as_str()) {
            return Ok(ix);
        }
        if self.streams.len() >= STREAMS {
            return Err(Code::TOO_MANY);
        }
        let name: Arc<str> = name.into();
        let stream = Stream {
            name: name.clone(),
            id: 0,
            version: 0,
            position: 0,
            holders: 0,
            watchers: Vec::new(),
            dirty: false,
        };
        let ix = self.streams.insert(stream).ok_or(Code::TOO_MANY)?;
        self.names.insert(name, ix);
        Ok(ix)
    }

    /// The run of that principal; one without records where there is none yet.
    pub(crate) fn run(&mut self, name: &str, run: Run) -> Result<Ix<RunEntry>, Code> {
        let Self { principals, runs, .. } = self;
        let known = principals.get(name).and_then(|of| {
            of.iter().copied().find(|&ix| runs.get(ix).is_some_and(|entry| entry.run == run))
        });
        if let Some(ix) = known {
            return Ok(ix);
        }
        let principal: Arc<str> = match principals.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => name.into(),
        };
        let entry = RunEntry {
            principal: principal.clone(),
            run,
            idle_ms: 0,
            doomed: false,
            keys: HashMap::new(),
            dirty: false,
        };
        let ix = runs.insert(entry).ok_or(Code::TOO_MANY)?;
        principals.entry(principal).or_default().push(ix);
        Ok(ix)
    }

    /// Where a lane of that key in that run leads. What is new rests on nothing until a record is stored.
    pub(crate) fn find(
        &mut self,
        principal: &str,
        run: Run,
        tenant: &str,
        key: &str,
    ) -> Result<At, Code> {
        let run_ix = self.run(principal, run)?;
        let stream = self.stream(tenant, key)?;
        let entry = self.runs.get_mut(run_ix).ok_or(Code::INTERNAL)?;
        if let Some(&producer) = entry.keys.get(&stream) {
            return Ok(At { stream, run: run_ix, producer });
        }
        if entry.keys.len() >= KEYS_OF_RUN {
            return Err(Code::TOO_MANY);
        }
        let producer =
            Producer { stream, last: 0, voids: VecDeque::new(), holders: 0, dirty: false };
        let producer = self.producers.insert(producer).ok_or(Code::TOO_MANY)?;
        entry.keys.insert(stream, producer);
        // Numbers may rest on VOIDs alone: their stream stays as long as they do, with or without an event.
        self.hold_stream(stream);
        Ok(At { stream, run: run_ix, producer })
    }

    /// A session's lane uses it.
    pub(crate) fn hold(&mut self, at: At) {
        self.hold_stream(at.stream);
        if let Some(producer) = self.producers.get_mut(at.producer) {
            producer.holders = producer.holders.saturating_add(1);
        }
    }

    pub(crate) fn hold_stream(&mut self, ix: Ix<Stream>) {
        if let Some(stream) = self.streams.get_mut(ix) {
            stream.holders = stream.holders.saturating_add(1);
        }
    }

    /// A session's lane uses it no more: what rests on no record leaves.
    pub(crate) fn release(&mut self, at: At) {
        if let Some(producer) = self.producers.get_mut(at.producer) {
            producer.holders = producer.holders.saturating_sub(1);
            if producer.holders == 0 && producer.last == 0 {
                self.producers.remove(at.producer);
                self.release_stream(at.stream);
                if let Some(run) = self.runs.get_mut(at.run) {
                    run.keys.remove(&at.stream);
                    self.drop_unborn(at.run);
                }
            }
        }
        self.release_stream(at.stream);
    }

    pub(crate) fn release_stream(&mut self, ix: Ix<Stream>) {
        let Some(stream) = self.streams.get_mut(ix) else { return };
        stream.holders = stream.holders.saturating_sub(1);
        if stream.holders == 0 && stream.id == 0 {
            self.names.remove(&stream.name);
            self.streams.remove(ix);
        }
    }

    fn drop_unborn(&mut self, ix: Ix<RunEntry>) {
        let unborn = |run: &&RunEntry| run.idle_ms == 0 && run.keys.is_empty();
        if self.runs.get(ix).filter(unborn).is_some() {
            self.unlink(ix);
        }
    }

    /// Takes a run out of the tables, with its numbers.
    fn unlink(&mut self, ix: Ix<RunEntry>) -> Option<RunEntry> {
        let entry = self.runs.remove(ix)?;
        for (&stream, &producer) in &entry.keys {
            self.producers.remove(producer);
            self.release_stream(stream);
        }
        if let Some(of) = self.principals.get_mut(&entry.principal) {
            of.retain(|&other| other != ix);
            if of.is_empty() {
                self.principals.remove(&entry.principal);
            }
        }
        Some(entry)
    }

    /// Forgets a run; the next checkpoint removes it.
    pub(crate) fn forget(&mut self, ix: Ix<RunEntry>) {
        if let Some(RunEntry { principal, run, .. }) = self.unlink(ix) {
            self.changed.forgotten.push(Forgotten { principal, run });
        }
    }

    /// Was the run idle for too long, as the time of records goes?
    pub(crate) fn expired(&self, entry: &RunEntry, time_ms: u64) -> bool {
        entry.idle_ms != 0 && time_ms.saturating_sub(entry.idle_ms) > RUN_IDLE_MS
    }

    /// A run stores its first record at `time_ms`: which of its principal's runs are forgotten for it, those that expired,
    /// and the one idle longest where there are too many. The same records give the same choice, whenever they are read.
    pub(crate) fn bear(&self, ix: Ix<RunEntry>, time_ms: u64) -> Vec<Ix<RunEntry>> {
        let principal = self.runs.get(ix).map(|entry| &entry.principal);
        let of = principal.and_then(|principal| self.principals.get(principal));
        let (mut forgotten, mut born) = (Vec::new(), Vec::new());
        for &other in of.into_iter().flatten().filter(|&&other| other != ix) {
            let Some(entry) = self.runs.get(other) else { continue };
            if self.expired(entry, time_ms) {
                forgotten.push(other);
            } else if entry.idle_ms != 0 && !entry.doomed {
                born.push((entry.idle_ms, entry.run, other));
            }
        }
        if born.len() >= RUNS {
            let oldest = born.into_iter().min_by_key(|&(idle_ms, run, _)| (idle_ms, run));
            forgotten.extend(oldest.map(|(_, _, ix)| ix));
        }
        forgotten
    }

    /// Forgets that run of the principal, if it is idle for too long at `time_ms`.
    pub(crate) fn forget_expired(&mut self, principal: &str, run: Run, time_ms: u64) {
        let of = self.principals.get(principal).into_iter().flatten().copied();
        let mut same = of.filter_map(|ix| Some((ix, self.runs.get(ix)?)));
        let expired = same.find(|(_, entry)| entry.run == run && self.expired(entry, time_ms));
        if let Some((ix, _)) = expired {
            self.forget(ix);
        }
    }

    /// The next checkpoint writes the stream.
    pub(crate) fn mark_stream(&mut self, ix: Ix<Stream>) {
        if let Some(stream) = self.streams.get_mut(ix)
            && !std::mem::replace(&mut stream.dirty, true)
        {
            self.changed.streams.push(ix);
        }
    }

    /// The next checkpoint writes the run, and the producer's numbers.
    pub(crate) fn mark_numbers(&mut self, run: Ix<RunEntry>, producer: Ix<Producer>) {
        if let Some(entry) = self.runs.get_mut(run)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.changed.runs.push(run);
        }
        if let Some(entry) = self.producers.get_mut(producer)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.changed.producers.push((run, producer));
        }
    }

    /// Forgets every run that expired: it changes nothing that could be told.
    pub(crate) fn sweep(&mut self) {
        let time_ms = self.time_ms;
        let expired: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, entry)| self.expired(entry, time_ms))
            .map(|(ix, _)| ix)
            .collect();
        expired.into_iter().for_each(|ix| self.forget(ix));
    }

    /// The two halves of a scoped name.
    pub(crate) fn halves(name: &str) -> (&str, &str) {
        name.split_once('\0').unwrap_or(("", name))
    }
}

/// Is `key` one a session may name? Keys of the worker itself begin with `$`.
pub(crate) fn checked_key(key: &str) -> Result<&str, Code> {
    id::key(key).map_err(|_| Code::INVALID)
}
