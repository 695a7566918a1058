//! Where reading begins: `start`, `end`, positions (`a:5` or `a:5,b:9`), or a time.

use std::fmt;

use spile_client::{From, Position};
use spile_protocol::{id, limits, time::Millis};

use super::moment::{self, Moment};

/// A beginning that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the first event that is kept.
    Start,
    /// With what is stored from now on.
    End,
    /// At a position of each worker.
    Positions(Vec<Position>),
    /// At a time.
    Time(Moment),
}

impl Place {
    /// What the client is asked for, when it is `now`.
    pub(crate) fn resolve(self, now: Millis) -> From {
        match self {
            Self::Start => From::Start,
            Self::End => From::End,
            Self::Positions(positions) => From::Positions(positions),
            Self::Time(moment) => From::Time(moment.resolve(now)),
        }
    }
}

/// One record's place: `WORKER:N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot(Position);

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads one.
pub(crate) fn spot(text: &str) -> Result<Spot, String> {
    match positions(text)? {
        Some(Place::Positions(found)) if found.len() == 1 => {
            found.into_iter().next().map(Spot).ok_or_else(String::new)
        }
        Some(Place::Positions(_) | Place::Start | Place::End | Place::Time(_)) | None => {
            Err(format!("{text:?} is no position; write one as a:5"))
        }
    }
}

/// Reads any of the forms.
pub(crate) fn parse(text: &str) -> Result<Place, String> {
    match text {
        "start" => return Ok(Place::Start),
        "end" => return Ok(Place::End),
        _ => {}
    }
    // A time first: one with an offset looks like a position.
    if let Ok(moment) = moment::parse(text) {
        return Ok(Place::Time(moment));
    }
    positions(text)?.ok_or_else(|| {
        format!("{text:?} is no place to begin; write start, end, a position as a:5 (one for each worker: a:5,b:9), or a time")
    })
}

/// `None` where the text does not look like positions.
fn positions(text: &str) -> Result<Option<Place>, String> {
    let mut found: Vec<Position> = Vec::new();
    for part in text.split(',') {
        let Some((worker, number)) = part.rsplit_once(':') else { return Ok(None) };
        let (Ok(worker), Ok(number)) = (id::name(worker), number.parse::<u64>()) else {
            return Ok(None);
        };
        if number == 0 {
            return Err(format!("{part:?}: positions count from 1"));
        }
        if found.iter().any(|known| &*known.worker == worker) {
            return Err(format!("{text:?} names worker {worker} twice"));
        }
        found.push(Position { worker: worker.into(), number: id::Position(number) });
    }
    if found.len() > limits::WORKERS {
        return Err(format!("there are at most {} workers", limits::WORKERS));
    }
    Ok(Some(Place::Positions(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(worker: &str, number: u64) -> Position {
        Position { worker: worker.into(), number: id::Position(number) }
    }

    #[test]
    fn places_are_read() {
        for (text, want) in [
            ("start", Some(Place::Start)),
            ("end", Some(Place::End)),
            ("a:5", Some(Place::Positions(vec![at("a", 5)]))),
            ("a:5,b:9", Some(Place::Positions(vec![at("a", 5), at("b", 9)]))),
            ("1970-01-01T00:00:01Z", Some(Place::Time(Moment::At(Millis(1_000))))),
            ("1970-01-01T00:00:00-00:30", Some(Place::Time(Moment::At(Millis(1_800_000))))),
            ("-2h", Some(Place::Time(Moment::Before(7_200_000)))),
            ("a:0", None),
            ("a:5,a:6", None),
            ("a:5,", None),
            ("a:-1", None),
            ("middle", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok(), want, "{text:?}");
        }
    }
}
