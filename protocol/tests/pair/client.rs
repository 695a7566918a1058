//! One process with a device's machine, what it published, and what it was promised.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use spile_protocol::{
    code::Code,
    id::{LaneId, Number, RouteId, Run},
    message::{Extras, Happened, Lengths, Scope},
    session::device::{Config, Credential, Device, Event, Growable, Refusal},
    time::Instant,
};

use crate::{
    seed::Seed,
    worker::{Body, Lane},
};

pub type Machine = Device<Growable, &'static str>;

/// An event or a batch that is kept until its last number is acknowledged: what a flash holds.
#[derive(Clone, Debug)]
struct Kept {
    first: u64,
    ids: Vec<u64>,
    route: usize,
}

/// What a client is and was told.
pub struct Client {
    pub machine: Machine,
    pub run: Run,
    own: &'static str,
    keys: Vec<Option<&'static str>>,
    routes: Vec<(RouteId, usize)>,
    window: (usize, usize),
    kept: Vec<VecDeque<Kept>>,
    refused: BTreeMap<(Lane, u64), Code>,
    /// What each number was given for.
    pub given: BTreeMap<(Lane, u64), u64>,
    pub acked: BTreeSet<u64>,
    /// Published in a run that was given up: these may come twice.
    pub twice: BTreeSet<u64>,
    /// Only in a RAM that lost its power.
    pub lost: BTreeSet<u64>,
    pub published: BTreeSet<u64>,
    /// What an ack was about, for the world to look up.
    pub claims: Vec<(Lane, u64, u64)>,
    pub needs_run: bool,
}

const TOPICS: [&str; 3] = ["telemetry/temp", "denied/topic", "telemetry/hum"];

fn machine(run: Run, window: (usize, usize)) -> Machine {
    let mut config = Config::new(run, Credential::Certificate, "test/1");
    config.keep_alive_s = 30;
    Device::new(config, Growable::new(window.0, window.1))
}

impl Client {
    pub fn new(seed: &mut Seed, own: &'static str, run: Run) -> Self {
        let window = (2 + seed.below(200), 400 + seed.below(20_000));
        let keys = [None, Some("line/7"), Some("oven")];
        let keys = keys[..1 + seed.below(3)].to_vec();
        let mut client = Self {
            machine: machine(run, window),
            run,
            own,
            keys,
            routes: Vec::new(),
            window,
            kept: Vec::new(),
            refused: BTreeMap::new(),
            given: BTreeMap::new(),
            acked: BTreeSet::new(),
            twice: BTreeSet::new(),
            lost: BTreeSet::new(),
            published: BTreeSet::new(),
            claims: Vec::new(),
            needs_run: false,
        };
        client.kept = vec![VecDeque::new(); client.keys.len()];
        client.set_up();
        client
    }

    /// Opens lanes and routes in a machine that has none, at what is kept or at 1.
    fn set_up(&mut self) {
        self.routes.clear();
        for (at, &key) in self.keys.iter().enumerate() {
            let first = self.kept[at].front().map_or_else(|| self.next(at), |kept| kept.first);
            let urgent = at == 1;
            let lane = self.machine.open_lane(key, Number(first), urgent).unwrap();
            for topic in TOPICS {
                self.routes
                    .push((self.machine.bind(lane, topic, "text/plain", 0, "").unwrap(), at));
            }
        }
    }

    pub fn lane(&self, at: usize) -> Lane {
        let key = self.keys[at].unwrap_or(self.own);
        (self.run, key.to_owned())
    }

    /// The next number of a lane, as a flash would know it.
    fn next(&self, at: usize) -> u64 {
        let lane = self.lane(at);
        let range = (lane.clone(), 0)..=(lane, u64::MAX);
        self.given.range(range).next_back().map_or(1, |((_, number), _)| number + 1)
    }

    pub fn publish(&mut self, now: Instant, seed: &mut Seed, next_id: &mut u64) {
        let at = seed.below(self.routes.len());
        let count = if seed.once_in(4) { 1 + seed.below(6) } else { 1 };
        let ids: Vec<u64> = (*next_id..).take(count).collect();
        let kept = Kept { first: self.next(self.routes[at].1), ids, route: at };
        if self.put(now, &kept) {
            *next_id += u64::try_from(count).unwrap();
            let lane = self.lane(self.routes[at].1);
            for (number, &id) in (kept.first..).zip(&kept.ids) {
                self.given.insert((lane.clone(), number), id);
                self.published.insert(id);
            }
            self.kept[self.routes[at].1].push_back(kept);
        }
    }

    fn put(&mut self, now: Instant, kept: &Kept) -> bool {
        let (route, _) = self.routes[kept.route];
        let payloads: Vec<Vec<u8>> = kept
            .ids
            .iter()
            .map(|id| {
                let mut payload = id.to_le_bytes().to_vec();
                payload.resize(8 + usize::try_from(id * 7 % 40).unwrap(), 7);
                payload
            })
            .collect();
        let happened = kept.first.is_multiple_of(5).then_some(Happened::Ago(3));
        let extras = Extras { happened, ..Extras::default() };
        let result = if let [payload] = &payloads[..] {
            self.machine.publish(now, route, extras, payload)
        } else {
            let mut room = [0; 64];
            let lengths = Lengths::encode(payloads.iter().map(Vec::len), &mut room).unwrap();
            self.machine.publish_batch(now, route, lengths, extras, &payloads.concat())
        };
        match result {
            Ok(number) => {
                assert_eq!(number.0, kept.first, "a number is given once, in order");
                true
            }
            Err(Refusal::Busy | Refusal::TooLarge) => false,
            Err(other) => panic!("{other}"),
        }
    }

    pub fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Acked { lane, through, .. } => self.settled(lane, through.0),
            Event::LaneOpen(answer) => {
                for refused in answer.refused.iter() {
                    for number in (refused.number.0..).take(usize::try_from(refused.count).unwrap())
                    {
                        self.refuse(answer.lane, number, refused.code);
                    }
                }
                if let Some(last) = answer.last {
                    self.settled(answer.lane, last.0);
                }
            }
            Event::Refused { lane, number, count, code, .. } => {
                for number in (number.0..).take(usize::try_from(count).unwrap()) {
                    self.refuse(lane, number, code);
                }
            }
            Event::UnknownRun(_) => self.needs_run = true,
            Event::LaneClosed { retry_after_ms, code, .. } => {
                assert!(retry_after_ms.is_some(), "closed for good: {code}");
            }
            Event::Closed { code, .. } => {
                let fair = [Code::REPLACED, Code::DEADLINE, Code::SHUTDOWN];
                assert!(fair.contains(&code), "the session ended: {code} {event:?}");
            }
            Event::Failed(fault) => {
                let denied =
                    matches!(fault.scope, Scope::Route(_)) && fault.code == Code::FORBIDDEN;
                assert!(denied, "{fault:?}");
            }
            Event::Welcomed(_) | Event::GoAway(_) => {}
            other => panic!("not in this test: {other:?}"),
        }
    }

    fn refuse(&mut self, lane: LaneId, number: u64, code: Code) {
        let lane = self.lane(usize::try_from(lane.0).unwrap());
        self.refused.insert((lane, number), code);
    }

    /// The machine said that everything of a lane through `last` has ended.
    fn settled(&mut self, lane: LaneId, last: u64) {
        let at = usize::try_from(lane.0).unwrap();
        let lane = self.lane(at);
        while let Some(kept) = self.kept[at].front() {
            let (first, count) = (kept.first, u64::try_from(kept.ids.len()).unwrap());
            for (number, &id) in (first..=last).zip(&kept.ids) {
                self.claims.push((lane.clone(), number, id));
                self.acked.insert(id);
            }
            if first + count - 1 > last {
                break;
            }
            self.kept[at].pop_front();
        }
    }

    pub fn was_refused(&self, lane: &Lane, number: u64) -> Option<Code> {
        self.refused.get(&(lane.clone(), number)).copied()
    }

    /// Is what the log or the spool has for a number what the client was told?
    pub fn check(&self, lane: &Lane, number: u64, id: u64, found: Option<Body>) {
        let told = match (self.was_refused(lane, number), found) {
            (None, Some(Body::Event(stored))) => stored == id,
            (Some(told), Some(Body::Void(code))) => told == code,
            (_, None) | (None, Some(Body::Void(_))) | (Some(_), Some(Body::Event(_))) => false,
        };
        let refused = self.was_refused(lane, number);
        assert!(told, "acked: {lane:?} {number} = {id}, told {refused:?}; there: {found:?}");
    }

    /// The power goes and comes back. With a flash everything kept is published again, under the same numbers.
    pub fn reboot(&mut self, now: Instant, flash: bool, run: Run) {
        if !flash {
            let kept = self.kept.iter_mut().flat_map(std::mem::take);
            self.lost.extend(kept.flat_map(|kept| kept.ids).filter(|id| !self.acked.contains(id)));
            self.run = run;
        }
        self.machine = machine(self.run, self.window);
        self.needs_run = false;
        self.set_up();
        for kept in self.kept.clone().into_iter().flatten() {
            assert!(self.put(now, &kept), "what fit once fits again");
        }
    }

    /// Takes a new run: what is kept is numbered anew and may come twice.
    pub fn renew(&mut self, run: Run) {
        let mut renumbered = Vec::new();
        self.run = run;
        self.machine
            .renew(run, |lane, old, new, count| renumbered.push((lane, old, new, count)))
            .unwrap();
        for (lane, old, new, count) in renumbered {
            let at = usize::try_from(lane.0).unwrap();
            let kept = self.kept[at].iter_mut().find(|kept| kept.first == old.0).unwrap();
            assert_eq!(kept.ids.len(), usize::try_from(count).unwrap());
            kept.first = new.0;
        }
        for at in 0..self.keys.len() {
            let lane = self.lane(at);
            for kept in &self.kept[at] {
                for (number, &id) in (kept.first..).zip(&kept.ids) {
                    self.twice.insert(id);
                    self.given.insert((lane.clone(), number), id);
                }
            }
        }
        self.needs_run = false;
    }
}
