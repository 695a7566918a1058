//! Credit: how much may be sent and unacked. spec §6.
//!
//! The limit is absolute: the last one said counts. The invariant: what is in flight never passes the limit, but for one
//! frame when nothing else is in flight, so that a frame larger than the limit does not wait for ever.

/// A limit, and what of it is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    limit: Amount,
    flight: Amount,
}

/// Events and bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many events.
    pub events: u32,
    /// Bytes of their payloads.
    pub bytes: u32,
}

impl Window {
    /// Nothing in flight.
    #[must_use]
    pub const fn new(limit: Amount) -> Self {
        Self { limit, flight: Amount { events: 0, bytes: 0 } }
    }

    /// Another limit; what is in flight stays.
    pub const fn limit(&mut self, limit: Amount) {
        self.limit = limit;
    }

    /// A limit that is never lower than before: a peer may have sent before it heard of a lower one.
    pub fn raise(&mut self, limit: Amount) {
        self.limit.events = self.limit.events.max(limit.events);
        self.limit.bytes = self.limit.bytes.max(limit.bytes);
    }

    /// What is in flight.
    #[must_use]
    pub const fn in_flight(&self) -> Amount {
        self.flight
    }

    /// Is nothing in flight?
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.flight.events == 0 && self.flight.bytes == 0
    }

    /// What may go besides what is in flight.
    #[must_use]
    pub const fn room(&self) -> Amount {
        Amount {
            events: self.limit.events.saturating_sub(self.flight.events),
            bytes: self.limit.bytes.saturating_sub(self.flight.bytes),
        }
    }

    /// May this go?
    #[must_use]
    pub const fn takes(&self, amount: Amount) -> bool {
        let room = self.room();
        self.is_idle() || (amount.events <= room.events && amount.bytes <= room.bytes)
    }

    /// Spends, where this may go.
    #[must_use]
    pub const fn spend(&mut self, amount: Amount) -> bool {
        let takes = self.takes(amount);
        if takes {
            self.flight.events = self.flight.events.saturating_add(amount.events);
            self.flight.bytes = self.flight.bytes.saturating_add(amount.bytes);
        }
        takes
    }

    /// Gives back what was spent.
    pub const fn release(&mut self, amount: Amount) {
        self.flight.events = self.flight.events.saturating_sub(amount.events);
        self.flight.bytes = self.flight.bytes.saturating_sub(amount.bytes);
    }

    /// Nothing is in flight any more.
    pub const fn clear(&mut self) {
        self.flight = Amount { events: 0, bytes: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn amount(events: u32, bytes: u32) -> Amount {
        Amount { events, bytes }
    }

    #[test]
    fn one_frame_goes_when_nothing_is_in_flight_and_no_second() {
        let mut window = Window::new(amount(2, 10));
        assert!(window.spend(amount(5, 1000)));
        assert!(!window.spend(amount(0, 1)));
        window.release(amount(5, 1000));
        assert!(window.spend(amount(1, 9)) && window.spend(amount(1, 1)));
        assert!(!window.spend(amount(1, 0)) && !window.spend(amount(0, 1)));
        assert!(window.spend(amount(0, 0)));
    }

    #[test]
    fn a_limit_of_nothing_still_lets_one_frame_go() {
        let mut window = Window::new(amount(0, 0));
        assert!(window.spend(amount(1, 1)));
        assert!(!window.spend(amount(1, 1)));
    }
}
