//! Points in time as people type and read them: RFC 3339, or `-2h` before now. Always told in UTC.

use spile_protocol::time::Millis;

use super::duration;

/// A time that was typed: fixed, or so long before the command began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// This very time.
    At(Millis),
    /// So many milliseconds before now.
    Before(u64),
}

impl Moment {
    /// The time meant, when it is `now`.
    pub(crate) fn resolve(self, now: Millis) -> Millis {
        match self {
            Self::At(time) => time,
            Self::Before(millis) => Millis(now.0.saturating_sub(millis)),
        }
    }
}

/// Reads either form.
pub(crate) fn parse(text: &str) -> Result<Moment, String> {
    if let Some(ago) = text.strip_prefix('-') {
        let millis = u64::try_from(duration::parse(ago)?.as_millis()).unwrap_or(u64::MAX);
        return Ok(Moment::Before(millis));
    }
    rfc3339(text).map(Moment::At).ok_or_else(|| {
        format!("{text:?} is no time; write RFC 3339, as 2026-05-01T12:00:00Z, or a duration ago, as -2h")
    })
}

fn rfc3339(text: &str) -> Option<Millis> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) =
        (digits(date.next()?, 4)?, digits(date.next()?, 2)?, digits(date.next()?, 2)?);
    let offset_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = rest.split_at_checked(offset_at)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.split(':');
    let (hour, minute, second) =
        (digits(clock.next()?, 2)?, digits(clock.next()?, 2)?, digits(clock.next()?, 2)?);
    let rest = date.next().is_some() || clock.next().is_some();
    let right = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && !rest;
    if !right {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let millis = (seconds - offset_seconds(offset)?) * 1_000 + milli(fraction)?;
    u64::try_from(millis).ok().map(Millis)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let right = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if right { text.parse().ok() } else { None }
}

/// Thousandths of a second; what is finer is cut.
fn milli(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let three: String = fraction.chars().chain("00".chars()).take(3).collect();
    three.parse().ok()
}

fn offset_seconds(text: &str) -> Option<i64> {
    let sign = match text.chars().next()? {
        'Z' | 'z' if text.len() == 1 => return Some(0),
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (years counted from March).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date that many days after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// As RFC 3339 in UTC with milliseconds.
pub(crate) fn show(Millis(millis): Millis) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    let (seconds, milli) = (millis / 1_000, millis % 1_000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-20T11:05:24Z", Some(1_795_172_724_000)),
            ("2026-11-20T11:05:24.5Z", Some(1_795_172_724_500)),
            ("2026-11-20T11:05:24.123456Z", Some(1_795_172_724_123)),
            ("2026-11-20T13:05:24+02:00", Some(1_795_172_724_000)),
            ("2026-11-20t11:05:24z", Some(1_795_172_724_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-20", None),
            ("2026-11-20T11:05:24", None),
            ("2026-11-20T25:05:24Z", None),
            ("2026-11-20T11:05:24+2:00", None),
            ("1969-12-31T23:59:59Z", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok(), want.map(|millis| Moment::At(Millis(millis))), "{text:?}");
        }
    }

    #[test]
    fn a_duration_ago_counts_from_now() {
        assert_eq!(parse("-2h").unwrap().resolve(Millis(7_200_500)), Millis(500));
        assert_eq!(parse("-2h").unwrap().resolve(Millis(5)), Millis(0));
        assert!(parse("-2").is_err());
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for day in (0..80_000_u64).step_by(17) {
            let time = Millis(day * 86_400_000 + 45_296_789);
            assert_eq!(parse(&show(time)), Ok(Moment::At(time)));
        }
        assert_eq!(show(Millis(1_709_164_800_007)), "2024-02-29T00:00:00.007Z");
    }
}
