//! Pages of one listing from several workers, merged into one (spec §9.3.2, §9.3.3).
//!
//! Pure. Invariant: what is behind the end of a page that goes on is not shown, since its worker may have entries before
//! it; so no entry is skipped, and a page is in order.

use spile_protocol::message::{Message, Value, request::Listing};

use super::{park_frame, unpark};

/// Where an entry stands in its listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct At([Box<str>; 3]);

/// What joins the fields of a cursor: no key and no topic has it.
const JOIN: &str = "\u{1f}";

impl At {
    fn of(listing: Listing, value: &Value<'_>) -> Self {
        let position = || value.position.map_or_else(String::new, |at| format!("{:016x}", at.0));
        Self(match listing {
            Listing::State => [value.key.into(), value.name.into(), "".into()],
            Listing::Blobs | Listing::Uploads => {
                [value.name.into(), value.key.into(), position().into()]
            }
            Listing::Services => [value.name.into(), "".into(), "".into()],
        })
    }

    fn cursor(&self, listing: Listing) -> String {
        let fields = match listing {
            Listing::State => 2,
            Listing::Blobs | Listing::Uploads => 3,
            Listing::Services => 1,
        };
        let Self(all) = self;
        all.iter().take(fields).map(AsRef::as_ref).collect::<Vec<_>>().join(JOIN)
    }
}

/// One worker's page.
#[derive(Debug, Default)]
struct Page {
    entries: Vec<(At, Box<[u8]>)>,
    /// Behind it is more.
    goes_on: bool,
    /// Something of it did not fit: nothing behind that is taken.
    closed: bool,
}

/// The pages that came.
#[derive(Debug)]
pub(super) struct Pages {
    listing: Listing,
    limit: usize,
    pages: Vec<Page>,
}

impl Pages {
    /// None yet, of so many workers.
    pub(super) fn new(listing: Listing, limit: u32, workers: usize) -> Self {
        let limit = usize::try_from(limit.clamp(1, 1_000)).unwrap_or(1);
        Self { listing, limit, pages: (0..workers).map(|_| Page::default()).collect() }
    }

    /// Takes an entry, as long as there are `room` bytes: how many it takes. What does not fit comes with the next page.
    pub(super) fn take(
        &mut self,
        part: usize,
        message: &Message<'_>,
        payload_crc: u32,
        room: usize,
    ) -> usize {
        let (Message::Value(value), Some(page)) = (message, self.pages.get_mut(part)) else {
            return 0;
        };
        if !value.fields.more && !value.fields.cursor.is_empty() {
            page.goes_on = true;
        }
        if value.fields.absent || page.closed {
            return 0;
        }
        let fits = |frame: &[u8]| frame.len() <= room && page.entries.len() < self.limit;
        let frame = park_frame(message, payload_crc);
        // The first is taken whatever its size: a page that goes on must say from where.
        let Some(frame) = frame.filter(|frame| page.entries.is_empty() || fits(frame)) else {
            (page.goes_on, page.closed) = (true, true);
            return 0;
        };
        let taken = frame.len();
        page.entries.push((At::of(self.listing, &value.fields), frame));
        taken
    }

    /// The merged page as frames, one an entry, the last without `more`.
    pub(super) fn merge(self, absent: &Value<'_>, partial: bool) -> Vec<Box<[u8]>> {
        let Self { listing, limit, pages } = self;
        let ends = pages.iter().filter(|page| page.goes_on).map(|page| page.entries.last());
        let bound = ends.map(|last| last.map(|(at, _)| at.clone())).min();
        let mut all: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let shown = |at: &At| bound.as_ref().is_none_or(|bound| Some(at) <= bound.as_ref());
        let count = all.iter().take(limit).take_while(|(at, _)| shown(at)).count();
        let more = count < all.len() || bound.is_some();
        all.truncate(count);
        let cursor = all.last().filter(|_| more).map(|(at, _)| at.cursor(listing));
        let mut frames = Vec::with_capacity(count.max(1));
        let mut left = count;
        for (_, frame) in &all {
            left -= 1;
            let cursor = cursor.as_deref().filter(|_| left == 0).unwrap_or_default();
            frames.extend(respelled(frame, left > 0, cursor, partial));
        }
        if frames.is_empty() {
            let fields = Value { partial, absent: true, ..*absent };
            let none = Message::Value(spile_protocol::message::Body { fields, payload: &[] });
            frames.extend(park_frame(&none, 0));
        }
        frames
    }
}

/// An entry as it stands in the merged page.
fn respelled(frame: &[u8], more: bool, cursor: &str, partial: bool) -> Option<Box<[u8]>> {
    let (message, payload_crc) = unpark(frame)?;
    let Message::Value(mut value) = message else { return None };
    (value.fields.more, value.fields.cursor) = (more, cursor);
    value.fields.partial |= partial;
    park_frame(&Message::Value(value), payload_crc)
}

/// A VALUE that says nothing, for a request.
pub(super) fn nothing<'a>(request: spile_protocol::id::RequestId) -> Value<'a> {
    Value { request, ..Value::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spile_protocol::{
        crc,
        id::{Position, RequestId},
        message::Body,
    };

    const ROOM: usize = 1 << 20;

    /// Pages of state, each the keys and whether it goes on; merged: the keys, the cursor, partial.
    fn merged(limit: u32, room: usize, of: &[(&[&str], bool)]) -> (Vec<String>, String, bool) {
        let mut pages = Pages::new(Listing::State, limit, of.len());
        for (part, (keys, goes_on)) in of.iter().enumerate() {
            let mut left = room;
            for (at, key) in keys.iter().enumerate() {
                let last = at + 1 == keys.len();
                let cursor = if last && *goes_on { "set" } else { "" };
                let more = !last;
                let fields = Value { key, name: "t", more, cursor, ..nothing(RequestId(3)) };
                let message = Message::Value(Body { fields, payload: b"21.5" });
                left -= pages.take(part, &message, crc::of(b"21.5"), left);
            }
            if keys.is_empty() {
                let fields = Value { absent: true, ..nothing(RequestId(3)) };
                pages.take(part, &Message::Value(Body { fields, payload: &[] }), 0, left);
            }
        }
        let frames = pages.merge(&nothing(RequestId(3)), false);
        let (mut keys, mut end) = (Vec::new(), (String::new(), false));
        for (at, frame) in frames.iter().enumerate() {
            let (message, crc) = unpark(frame).unwrap();
            let Message::Value(value) = message else { panic!("{message:?}") };
            assert_eq!(value.fields.more, at + 1 < frames.len());
            assert_eq!(crc, spile_protocol::crc::of(value.payload));
            if !value.fields.absent {
                keys.push(value.fields.key.to_owned());
            }
            end = (value.fields.cursor.to_owned(), value.fields.partial);
        }
        (keys, end.0, end.1)
    }

    #[test]
    fn pages_come_in_order_and_go_on_where_they_were_cut() {
        let none: &[&str] = &[];
        for (limit, of, want, cursor) in [
            (9, [(&["a", "c"][..], false), (&["b"], false)], &["a", "b", "c"][..], ""),
            (2, [(&["a", "c"], false), (&["b"], false)], &["a", "b"], "b\u{1f}t"),
            // The first may have others before d: they are not skipped.
            (9, [(&["a", "c"], true), (&["b", "d"], false)], &["a", "b", "c"], "c\u{1f}t"),
            (9, [(none, false), (none, false)], none, ""),
        ] {
            let (keys, next, partial) = merged(limit, ROOM, &of);
            assert_eq!((keys, next.as_str(), partial), (owned(want), cursor, false), "{of:?}");
        }
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|&key| key.to_owned()).collect()
    }

    #[test]
    fn what_does_not_fit_comes_with_the_next_page() {
        let (keys, cursor, _) = merged(9, 70, &[(&["a", "b", "c"], false), (&["d"], false)]);
        assert_eq!(keys.first().map(String::as_str), Some("a"));
        assert!(keys.len() < 4 && !cursor.is_empty(), "{keys:?} {cursor:?}");
    }

    #[test]
    fn a_cursor_is_the_fields_of_its_entry() {
        let value = Value {
            name: "log.bin",
            key: "pump-7",
            position: Some(Position(0x1a)),
            ..nothing(RequestId(0))
        };
        for (listing, want) in [
            (Listing::State, "pump-7\u{1f}log.bin"),
            (Listing::Blobs, "log.bin\u{1f}pump-7\u{1f}000000000000001a"),
            (Listing::Services, "log.bin"),
        ] {
            assert_eq!(At::of(listing, &value).cursor(listing), want);
        }
    }
}
