//! Who reads: for each key the payloads must be 1, 2, 3 … at versions 1, 2, 3 …, whatever happened to the server.
//!
//! Invariant: what is doubled, lost or out of order stops the reader where it comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use spile_protocol::id::SubscriptionId;
use spile_protocol::message::{Deliver, From, Message, Source, Subscribe};

use crate::e2e::{Raw, catch_up, seen};

/// How far each key goes.
pub type Found = HashMap<String, u64>;

/// A session with a subscription, and how far each key came.
pub struct Reader {
    raw: Raw,
    key: String,
    found: Found,
    deliveries: u64,
}

impl Reader {
    /// Everything that is kept, and no more.
    pub fn read_back(address: SocketAddr, tls: &Arc<ClientConfig>) -> Found {
        let mut reader = Self::begun(address, tls, [0xfe; 8], &catch_up("ledger/#"));
        while reader.hear() {}
        reader.found
    }

    /// Everything that is kept, and what comes.
    pub fn live(address: SocketAddr, tls: &Arc<ClientConfig>) -> Self {
        let source = Source::Filter { filter: "ledger/#", key: None, from: From::Start };
        let (subscription, events, bytes) = (SubscriptionId(0), 1 << 16, 1 << 24);
        let subscribe = Subscribe { subscription, source, events, bytes, live: true };
        Self::begun(address, tls, [0xff; 8], &Message::Subscribe(subscribe))
    }

    fn begun(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        run: [u8; 8],
        subscribe: &Message<'_>,
    ) -> Self {
        let mut raw = Raw::hello(address, tls, run).unwrap();
        raw.send(std::slice::from_ref(subscribe)).unwrap();
        // spec §8.1.1: that is the answer.
        assert!(raw.next(|message| matches!(message, Message::Credit(_))).unwrap());
        Self { raw, key: String::new(), found: HashMap::new(), deliveries: 0 }
    }

    /// Until all of these keys came: the last of their workers, so that whatever came before them is known.
    pub fn through(mut self, keys: &[String]) -> Found {
        while !keys.iter().all(|key| self.found.contains_key(key)) {
            assert!(self.hear(), "the subscription ended");
        }
        self.found
    }

    /// The next message; `false` at the end of all.
    fn hear(&mut self) -> bool {
        let Self { raw, key, found, deliveries } = self;
        let more = raw.next(|message| match message {
            Message::Deliver(deliver) => {
                if let Some(named) = deliver.key {
                    named.clone_into(key);
                }
                take(deliver, key, found.entry(key.clone()).or_default());
                *deliveries += 1;
                true
            }
            Message::Credit(_) => true,
            Message::End(_) => false,
            other => panic!("{other:?}"),
        });
        if self.deliveries > 0 && self.deliveries.is_multiple_of(256) {
            self.raw.send(&[seen(self.deliveries)]).unwrap();
        }
        more.unwrap()
    }
}

fn take(deliver: &Deliver<'_>, key: &str, last: &mut u64) {
    for (at, payload) in (0..).zip(deliver.lengths.split(deliver.payload)) {
        let (payload, next) = (std::str::from_utf8(payload).unwrap(), *last + 1);
        assert_eq!(payload, next.to_string(), "{key}: doubled, lost or out of order");
        assert_eq!(deliver.version.0 + at, next, "{key}: the version of {payload}");
        *last = next;
    }
}
