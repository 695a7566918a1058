//! Durable groups: sets of consumers that share what a filter matches, each event settled once. design "Groups, exactly"
//!
//! Two halves. The *view* (`view`) is a fold of durable records alone (GROUP, SETTLED): how far each group is, what waits
//! for a retry, what is dead. It lives in the core. The *reading state* (`live`) is volatile: who has what, what is ready;
//! it begins as the view says, and is thrown away and begun again whenever the view takes another turn (seek, a log that was
//! cut back). It stands behind its own lock, which is always taken before the core's.
//!
//! The invariant: an outcome is told when its record is durable, and a key's next delivery goes out no earlier.

pub(crate) mod backoff;
pub(crate) mod calls;
pub(crate) mod change;
mod cursor;
pub mod definition;
pub(crate) mod fate;
mod handing;
mod jobs;
mod keys;
pub(crate) mod latest;
pub(crate) mod letters;
pub(crate) mod live;
pub(crate) mod measure;
pub(crate) mod member;
pub(crate) mod outcome;
pub(crate) mod polling;
pub(crate) mod record;
mod rows;
pub(crate) mod shared;
pub(crate) mod unsettled;
pub(crate) mod view;

pub use self::change::heard;
pub use self::measure::{GroupMeasured, GroupsMeasured};
pub(crate) use self::rows::{Rows, defined, defined_key, defined_row, row};
