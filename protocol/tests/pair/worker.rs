//! A model of what stands behind an edge: a worker's log that dedupes by number, and an edge's spool. No outline of the
//! real ones: only what a session may be told rests on it.

use std::collections::{BTreeMap, VecDeque};

use spile_protocol::{
    code::Code,
    id::{Number, Run},
    session::producer::{self, Decision},
};

/// Whose numbers: principal and key are one text here.
pub type Lane = (Run, String);

/// What a number ended as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Event(u64),
    Void(Code),
}

#[derive(Clone, Debug)]
pub struct Record {
    pub lane: Lane,
    pub number: u64,
    pub body: Body,
}

/// A log, of which a crash keeps what was synced.
#[derive(Default)]
pub struct Worker {
    pub log: Vec<Record>,
    pub durable: usize,
    last: BTreeMap<Lane, u64>,
    durable_last: BTreeMap<Lane, u64>,
    /// Every lane's numbers, 1 first.
    lanes: BTreeMap<Lane, Vec<Body>>,
}

impl Worker {
    pub fn knows(&self, run: Run) -> bool {
        self.last.keys().any(|lane| lane.0 == run)
    }

    pub fn durable_last(&self, lane: &Lane) -> u64 {
        self.durable_last.get(lane).copied().unwrap_or(0)
    }

    /// A frame's numbers, taken as far as they are new.
    pub fn take(&mut self, lane: &Lane, first: u64, bodies: &[Body]) -> Decision {
        let last = self.last.get(lane).map(|&last| Number(last));
        let count = u32::try_from(bodies.len()).unwrap();
        let decision = producer::decide(last, Number(first), count, self.knows(lane.0));
        if let Decision::Take { skip } = decision {
            for (number, &body) in (first..).zip(bodies).skip(usize::try_from(skip).unwrap()) {
                self.log.push(Record { lane: lane.clone(), number, body });
                self.lanes.entry(lane.clone()).or_default().push(body);
            }
            self.last.insert(lane.clone(), first + u64::from(count) - 1);
        }
        decision
    }

    pub fn sync(&mut self) {
        self.durable = self.log.len();
        self.durable_last.clone_from(&self.last);
    }

    pub fn crash(&mut self) {
        self.log.truncate(self.durable);
        self.last.clone_from(&self.durable_last);
        for (lane, bodies) in &mut self.lanes {
            bodies.truncate(
                usize::try_from(self.durable_last.get(lane).copied().unwrap_or(0)).unwrap(),
            );
        }
    }

    /// What durable numbers of a lane ended as, from `first` on.
    pub fn ended(&self, lane: &Lane, first: u64) -> Vec<(u64, Body)> {
        let bodies = self.lanes.get(lane).map_or(&[][..], Vec::as_slice);
        let durable = &bodies[..usize::try_from(self.durable_last(lane)).unwrap()];
        (1..)
            .zip(durable)
            .skip(usize::try_from(first - 1).unwrap())
            .map(|(number, &body)| (number, body))
            .collect()
    }
}

/// A frame in a spool.
#[derive(Clone, Debug)]
pub struct Spooled {
    pub lane: Lane,
    pub first: u64,
    pub bodies: Vec<Body>,
}

/// An edge's own log: synced when it is written.
#[derive(Default)]
pub struct Spool {
    frames: VecDeque<Spooled>,
}

impl Spool {
    pub fn holds(&self, lane: &Lane) -> bool {
        self.frames.iter().any(|frame| frame.lane == *lane)
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn push(&mut self, frame: Spooled) {
        self.frames.push_back(frame);
    }

    pub fn body(&self, lane: &Lane, number: u64) -> Option<Body> {
        let at = |frame: &Spooled| {
            number.checked_sub(frame.first).and_then(|at| usize::try_from(at).ok())
        };
        let mut mine = self.frames.iter().filter(|frame| frame.lane == *lane);
        mine.find_map(|frame| frame.bodies.get(at(frame)?).copied())
    }

    /// Hands everything to the worker that it takes, in order; what waits for a gap waits. What is durable there goes.
    pub fn forward(&mut self, worker: &mut Worker) {
        for frame in &self.frames {
            if worker.durable_last(&frame.lane) + 1 >= frame.first {
                let _decision: Decision = worker.take(&frame.lane, frame.first, &frame.bodies);
            }
        }
        self.frames.retain(|frame| {
            let last = frame.first + u64::try_from(frame.bodies.len()).unwrap() - 1;
            worker.durable_last(&frame.lane) < last
        });
    }
}
