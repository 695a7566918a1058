//! Connections that have not proven who they are: how many there may be, and which one goes for a new one.
//!
//! Invariant: never more than the caps, in all and for one address; a newcomer always has its place, and the oldest pays
//! for it, its own address's first. So a flood from one address costs that address, not the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spile_protocol::code::Code;

use crate::metrics::{Counter, Gauge, Held};
use crate::signal::Signal;

/// How many.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub all: usize,
    /// For one address.
    pub address: usize,
}

/// All connections of a listener that are half open.
#[derive(Debug)]
pub struct HalfOpen {
    caps: Caps,
    gauge: Arc<Gauge>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    by_age: BTreeMap<u64, (IpAddr, Arc<Signal>, Held)>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A connection's place among them; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    age: u64,
    table: Arc<HalfOpen>,
}

impl HalfOpen {
    /// None yet; `gauge` shows how many.
    #[must_use]
    pub fn new(caps: Caps, gauge: Arc<Gauge>) -> Arc<Self> {
        Arc::new(Self { caps, gauge, table: Mutex::default() })
    }

    /// Takes a connection in. Where that is one too many, the oldest is told to go, which `cut` counts.
    pub fn enter(self: &Arc<Self>, address: IpAddr, signal: Arc<Signal>, cut: &Counter) -> Place {
        let mut table = self.table();
        while let Some(age) = table.one_too_many(address, self.caps) {
            if let Some(signal) = table.remove(age) {
                signal.end(Code::TOO_MANY);
                cut.add(1);
            }
        }
        // Counted with its place in the table: one that was told to go is not half open any more, even while it goes.
        let age = table.insert(address, signal, self.gauge.hold());
        drop(table);
        Place { age, table: Arc::clone(self) }
    }

    /// Tells all of them to go.
    pub fn end_all(&self, code: Code) {
        self.table().by_age.values().for_each(|(_, signal, _)| signal.end(code));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn one_too_many(&self, address: IpAddr, caps: Caps) -> Option<u64> {
        let same = self.by_address.get(&address);
        match same {
            Some(same) if same.len() >= caps.address => same.first().copied(),
            Some(_) | None if self.by_age.len() >= caps.all => self.by_age.keys().next().copied(),
            Some(_) | None => None,
        }
    }

    fn insert(&mut self, address: IpAddr, signal: Arc<Signal>, held: Held) -> u64 {
        let age = self.next;
        self.next += 1;
        self.by_age.insert(age, (address, signal, held));
        self.by_address.entry(address).or_default().insert(age);
        age
    }

    fn remove(&mut self, age: u64) -> Option<Arc<Signal>> {
        let (address, signal, _held) = self.by_age.remove(&age)?;
        if let Some(same) = self.by_address.get_mut(&address) {
            same.remove(&age);
            if same.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(signal)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.table().remove(self.age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        half_open: Arc<HalfOpen>,
        cut: Counter,
    }

    impl Room {
        fn new(all: usize, address: usize) -> Self {
            Self {
                half_open: HalfOpen::new(Caps { all, address }, Arc::default()),
                cut: Counter::default(),
            }
        }

        fn enter(&self, last: u8) -> (Arc<Signal>, Place) {
            let signal = Arc::new(Signal::default());
            let address = IpAddr::from([127, 0, 0, last]);
            let place = self.half_open.enter(address, Arc::clone(&signal), &self.cut);
            (signal, place)
        }
    }

    #[test]
    fn an_address_above_its_cap_pays_with_its_own_oldest() {
        let room = Room::new(8, 2);
        let other = room.enter(1);
        let mine: Vec<_> = (0..3).map(|_| room.enter(2)).collect();
        let ended: Vec<_> = mine.iter().map(|(signal, _)| signal.ended()).collect();
        assert_eq!(ended, [Some(Code::TOO_MANY), None, None]);
        assert_eq!(other.0.ended(), None);
        assert_eq!(room.cut.get(), 1);
    }

    #[test]
    fn above_the_cap_of_all_the_oldest_goes() {
        let room = Room::new(3, 3);
        let all: Vec<_> = (0..4).map(|address| room.enter(address)).collect();
        let ended: Vec<_> = all.iter().map(|(signal, _)| signal.ended().is_some()).collect();
        assert_eq!(ended, [true, false, false, false]);
        assert_eq!(room.half_open.gauge.get(), 3, "who was told to go is not counted");
    }

    #[test]
    fn a_place_is_given_back_and_nothing_stays_behind() {
        let room = Room::new(2, 2);
        for _ in 0..10 {
            let (signal, place) = room.enter(1);
            drop(place);
            assert_eq!(signal.ended(), None);
        }
        let table = room.half_open.table();
        assert!(table.by_age.is_empty() && table.by_address.is_empty());
        assert_eq!(room.half_open.gauge.get(), 0);
    }
}
