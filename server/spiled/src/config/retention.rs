//! `[retention]`: which events a worker keeps for how long. Nothing said: all of them, for ever.
//!
//! Here is what it may say; what it means is the worker's.

use std::time::Duration;

use spile_protocol::id;

use super::check::wrong;
use super::mistake::Source;
use super::reader::{Reader, Row};
use super::show::Toml;
use super::units::{parse_duration, parse_size, show_duration, show_size};

/// Rules there may be; more is a mistake.
const RULES_MAX: usize = spile_worker::limits::RETENTION_RULES;
const EVERY: Duration = Duration::from_millis(spile_worker::limits::RETENTION_EVERY_MS);

/// What a worker keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// How often it is looked what may go.
    pub every: Duration,
    /// The first whose filter matches a topic decides; where none does, the event is kept.
    pub rules: Vec<RetentionRule>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { every: EVERY, rules: Vec::new() }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// Which topics.
    pub filter: String,
    /// Events are kept so long; `None`: for ever.
    pub max_age: Option<Duration>,
    /// At least so many bytes of the newest are kept; `None`: all.
    pub max_bytes: Option<u64>,
}

impl RetentionRule {
    /// The same as the worker takes it.
    pub fn for_worker(&self) -> spile_worker::Rule {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        spile_worker::Rule {
            filter: self.filter.clone(),
            max_age_ms: self.max_age.map(millis),
            max_bytes: self.max_bytes,
        }
    }
}

pub(super) fn check(reader: &mut Reader) -> Retention {
    let every = reader.scalar("retention.every", |text| match parse_duration(text) {
        Some(every) if every >= Duration::from_secs(1) => Ok(every),
        Some(_) => Err(wrong(format!("{text} is below 1s"), "write at least 1s")),
        None => Err(wrong(format!("{text:?} is no duration"), "write such as 30s or 5m")),
    });
    let every = every.map_or(EVERY, |read| read.value);
    let Some(rows) = reader.tables("retention.rules") else {
        return Retention { every, ..Retention::default() };
    };
    if rows.value.len() > RULES_MAX {
        let what = format!("{} rules", rows.value.len());
        let remedy = format!("write at most {RULES_MAX}");
        reader.wrong(rows.source, "retention.rules", wrong(what, remedy));
    }
    let rules = rows.value.iter().filter_map(|row| rule(reader, row)).collect();
    Retention { every, rules }
}

fn rule(reader: &mut Reader, row: &Row) -> Option<RetentionRule> {
    let filter = row.text(reader, "filter")?;
    if id::filter(&filter.value).is_err() || filter.value.starts_with('$') {
        let what = format!("{:?} is no filter of topics", filter.value);
        let remedy = "write one such as telemetry/#, not of the bus's own ($…)";
        reader.wrong(filter.source, "retention.rules.filter", wrong(what, remedy));
        return None;
    }
    let max_age = said(reader, row, "max_age", parse_duration, "no duration; write such as 30d");
    let max_bytes = said(reader, row, "max_bytes", parse_size, "no size; write such as 10GiB");
    Some(RetentionRule { filter: filter.value, max_age, max_bytes })
}

/// The value under a key that may be left out.
fn said<T>(
    reader: &mut Reader,
    row: &Row,
    key: &'static str,
    parse: fn(&str) -> Option<T>,
    is_not: &'static str,
) -> Option<T> {
    row.item(key)?;
    let read = row.text(reader, key)?;
    let value = parse(&read.value);
    if value.is_none() {
        let (what, remedy) = is_not.split_once("; ").unwrap_or((is_not, ""));
        let what = format!("{:?} is {what}", read.value);
        reader.wrong(
            Source::Line(row.line),
            &format!("retention.rules.{key}"),
            wrong(what, remedy),
        );
    }
    value
}

pub(super) fn show(out: &mut Toml, retention: &Retention) {
    out.section("retention");
    out.text("every", &show_duration(retention.every));
    for rule in &retention.rules {
        out.row("retention.rules");
        out.text("filter", &rule.filter);
        if let Some(age) = rule.max_age {
            out.text("max_age", &show_duration(age));
        }
        if let Some(bytes) = rule.max_bytes {
            out.text("max_bytes", &show_size(bytes));
        }
    }
}
