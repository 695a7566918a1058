//! `$dlq`: dead letters of a group, on this worker: ls, show, replay, drop. admin §7

use serde::Deserialize;
use serde_json::{Value, json as object};
use spile_log::Record;
use spile_protocol::code::Code;

use crate::{
    block::place,
    groups::{
        calls::{Asked, Not, Outcome, json, not, parse, tenant, unknown},
        live::{Live, Stored, record_at},
        member::Turn,
        record::Letter,
        shared::Shared,
        view::Name,
    },
    limits::PAGE_LETTERS,
    record::{self, Names, Tail},
    spelling,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Which {
    tenant: Option<String>,
    group: String,
    position: String,
    positions: Option<Vec<String>>,
    all: bool,
    rate: Option<u64>,
    /// Of those who keep the rate together: which this is, and how many they are.
    share: Option<(u64, u64)>,
    dry_run: bool,
    after: String,
    limit: Option<usize>,
}

impl Which {
    /// After how many milliseconds the letter `n` of this worker goes: its rate is kept over all workers.
    fn wait_ms(&self, n: u64) -> u64 {
        let Some(rate) = self.rate.filter(|&rate| rate > 0) else { return 0 };
        let (own, all) = self.share.unwrap_or((0, 1));
        let before = n.saturating_mul(all.max(1)).saturating_add(own);
        before.saturating_mul(1_000) / rate
    }
}

/// A letter and where it lies.
type Lying = (u64, Letter);

impl Asked {
    pub(crate) fn letters(
        &self,
        turn: Turn<'_>,
        method: &str,
        payload: &[u8],
    ) -> Result<Outcome, Not> {
        let which: Which = parse(payload)?;
        let name = (tenant(turn, which.tenant.clone())?, which.group.clone());
        let (stored, value) = match method {
            "ls" => (None, list(turn, &name, &which)?),
            "show" => (None, show(turn, &name, &which)?),
            "replay" => replay(turn, &name, &which)?,
            "drop" => remove(turn, &name, &which)?,
            _ => return Err(not(Code::NOT_FOUND, "$dlq does ls, show, replay and drop")),
        };
        Ok(Outcome::Now(json(&value).map(|bytes| (stored, bytes))))
    }
}

/// A position of this worker; `None` of another's.
fn position(turn: Turn<'_>, text: &str) -> Result<Option<u64>, Not> {
    let bad = || not(Code::INVALID, format!("{text:?} is not a position: WORKER:N"));
    let (worker, number) = text.split_once(':').ok_or_else(bad)?;
    let number = number.parse().map_err(|_| bad())?;
    Ok(Some(number).filter(|_| worker == turn.worker.name()))
}

fn letters(turn: Turn<'_>, name: &Name, from: u64, most: usize) -> Result<Vec<Lying>, Not> {
    let mut core = turn.worker.core();
    core.look();
    let (_, group) = core.groups.find(&name.0, &name.1).ok_or_else(|| unknown(&name.1))?;
    Ok(group.letters.range(from..).take(most).map(|(&at, letter)| (at, letter.clone())).collect())
}

fn list(turn: Turn<'_>, name: &Name, which: &Which) -> Result<Value, Not> {
    // A letter that is listed takes less than this, and the page must fit the client's frame.
    let fits = (turn.who.frame_max / 1024).max(1);
    let limit = which.limit.unwrap_or(100).clamp(1, PAGE_LETTERS).min(fits);
    let from = match which.after.as_str() {
        "" => 0,
        after => position(turn, after)?.map_or(0, |after| after.saturating_add(1)),
    };
    let mut found = letters(turn, name, from, limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(at, _)| spelled(turn, *at));
    let shown: Vec<_> = found.iter().map(|lying| shown(turn, name, lying, false)).collect();
    let mut page = object!({ "letters": shown });
    if let (Some(next), Some(page)) = (next, page.as_object_mut()) {
        page.insert("next".to_owned(), Value::from(next));
    }
    Ok(page)
}

fn show(turn: Turn<'_>, name: &Name, which: &Which) -> Result<Value, Not> {
    let none = || not(Code::NOT_FOUND, format!("there is no dead letter at {}", which.position));
    let at = position(turn, &which.position)?.ok_or_else(none)?;
    let found = letters(turn, name, at, 1)?.into_iter().find(|(found, _)| *found == at);
    Ok(shown(turn, name, &found.ok_or_else(none)?, true))
}

fn spelled(turn: Turn<'_>, position: u64) -> String {
    format!("{}:{position}", turn.worker.name())
}

/// A letter as it is shown; what stands in the event's own record is read there.
fn shown(turn: Turn<'_>, name: &Name, (at, letter): &Lying, whole: bool) -> Value {
    let mut value = object!({
        "group": name.1,
        "position": spelled(turn, *at),
        "version": letter.version,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "time_ms": letter.time_ms,
        "replay": letter.replay.is_some(),
    });
    if let (Some(retry), Some(value)) = (letter.replay, value.as_object_mut()) {
        value.insert("due_ms".to_owned(), Value::from(retry.due_ms));
    }
    let record = record_at(&*turn.worker.log, *at).ok().flatten();
    let details = record.as_ref().and_then(|record| details(record, *at, whole));
    if let (Some(Value::Object(details)), Some(value)) = (details, value.as_object_mut()) {
        value.extend(details);
    }
    value
}

fn details(record: &Record, at: u64, whole: bool) -> Option<Value> {
    let (prefix, tail) = record::split(&record.head).ok()?;
    let names = Names::parse(prefix).ok()?;
    let tail = Tail::parse(record.kind, tail, &record.payload).ok()?;
    let skip = u32::try_from(at.checked_sub(record.position.get())?).ok()?;
    let trace = spelling::trace_of(&names, tail.number, tail.extras.trace).nth(skip);
    let mut value = object!({
        "key": names.key,
        "topic": names.topic,
        "trace": trace.to_string(),
    });
    let value = value.as_object_mut()?;
    if whole {
        let headers: serde_json::Map<String, Value> = tail
            .extras
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), Value::from(String::from_utf8_lossy(value))))
            .collect();
        value.insert("content_type".to_owned(), Value::from(names.kind.content_type));
        value.insert("schema".to_owned(), Value::from(names.kind.schema));
        value.insert("headers".to_owned(), Value::from(headers));
        let payload = tail.lengths?.split(&record.payload).nth(place(skip))?;
        match std::str::from_utf8(payload) {
            Ok(text) => value.insert("payload".to_owned(), Value::from(text)),
            Err(_) => value.insert("payload_base64".to_owned(), Value::from(base64(payload))),
        };
    }
    Some(Value::Object(std::mem::take(value)))
}

/// Base64 with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = usize::try_from(word >> (18 - 6 * n) & 63).unwrap_or(0);
            let digit = DIGITS.get(digit).filter(|_| n <= chunk.len()).copied();
            text.push(char::from(digit.unwrap_or(b'=')));
        }
    }
    text
}

/// The letters that are meant: those named that lie here, or all.
fn chosen(turn: Turn<'_>, name: &Name, which: &Which) -> Result<Vec<Lying>, Not> {
    if which.all && which.positions.is_some() {
        return Err(not(Code::INVALID, "which: positions or all, not both"));
    }
    let all = letters(turn, name, 0, usize::MAX)?;
    let Some(named) = &which.positions else {
        return if which.all {
            Ok(all)
        } else {
            Err(not(Code::INVALID, "which: positions or all"))
        };
    };
    let named: Result<Vec<_>, _> = named.iter().map(|text| position(turn, text)).collect();
    let named: std::collections::HashSet<_> = named?.into_iter().flatten().collect();
    let found: Vec<_> = all.into_iter().filter(|(at, _)| named.contains(at)).collect();
    match found.len() == named.len() {
        true => Ok(found),
        false => Err(not(Code::NOT_FOUND, "at some of these positions is no dead letter")),
    }
}

/// Does something with the reading state, and writes what came of it.
fn with(turn: Turn<'_>, name: &Name, act: impl FnOnce(&mut Live)) -> Result<Option<Stored>, Not> {
    let shared = {
        let core = turn.worker.core();
        let (_, group) = core.groups.find(&name.0, &name.1).ok_or_else(|| unknown(&name.1))?;
        group.shared.clone()
    };
    let stored = written(turn, name, &shared, act);
    shared.ring_others(0);
    stored
}

fn written(
    turn: Turn<'_>,
    name: &Name,
    shared: &Shared,
    act: impl FnOnce(&mut Live),
) -> Result<Option<Stored>, Not> {
    let mut live = shared.live();
    if shared.is_changing() || !live.follow(turn.worker, name, shared) {
        return Err(not(Code::BUSY, "the group is being changed"));
    }
    act(&mut live);
    let stored = live.record(turn.worker, shared, turn.now_ms);
    live.keys.wake(turn.now_ms);
    live.hint(shared);
    stored.map_err(|code| not(code, "the log does not take it"))
}

fn replay(turn: Turn<'_>, name: &Name, which: &Which) -> Result<(Option<Stored>, Value), Not> {
    let mut found = chosen(turn, name, which)?;
    // One that is on its way is.
    found.retain(|(_, letter)| letter.replay.is_none());
    let replayed = found.len();
    let mut waiting = 0;
    let mut stored = None;
    if !which.dry_run && replayed > 0 {
        stored = with(turn, name, |live| {
            for (n, (at, letter)) in (0..).zip(&found) {
                waiting += usize::from(live.is_busy(letter.stream));
                live.replay(*at, letter, turn.now_ms.saturating_add(which.wait_ms(n)));
            }
        })?;
        turn.worker.counters.replayed.add(wide(replayed));
    }
    let value = object!({ "group": name.1, "replayed": replayed, "waiting": waiting });
    Ok((stored, value))
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn remove(turn: Turn<'_>, name: &Name, which: &Which) -> Result<(Option<Stored>, Value), Not> {
    let found = chosen(turn, name, which)?;
    let dropped = found.len();
    let mut stored = None;
    if !which.dry_run && dropped > 0 {
        stored = with(turn, name, |live| {
            found.iter().for_each(|(at, letter)| live.drop_letter(*at, letter.stream));
        })?;
        turn.worker.counters.dropped.add(wide(dropped));
    }
    Ok((stored, object!({ "group": name.1, "dropped": dropped })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_from_the_first_letter_to_the_last_by_all_workers_together() {
        for (rate, share, want) in [
            (None, None, [0, 0, 0, 0]),
            (Some(0), None, [0, 0, 0, 0]),
            (Some(2), None, [0, 500, 1_000, 1_500]),
            (Some(3), None, [0, 333, 666, 1_000]),
            (Some(600), None, [0, 1, 3, 5]),
            (Some(4_000), None, [0, 0, 0, 0]),
            (Some(1), Some((0, 2)), [0, 2_000, 4_000, 6_000]),
            (Some(1), Some((1, 2)), [1_000, 3_000, 5_000, 7_000]),
            (Some(1), Some((0, 0)), [0, 1_000, 2_000, 3_000]),
        ] {
            let which = Which { rate, share, ..Which::default() };
            assert_eq!([0, 1, 2, 3].map(|n| which.wait_ms(n)), want, "{rate:?} {share:?}");
        }
        let most = Which { rate: Some(1), share: Some((u64::MAX, u64::MAX)), ..Which::default() };
        assert!(most.wait_ms(u64::MAX) > 0);
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (&[0xfb, 0xff], "+/8="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
