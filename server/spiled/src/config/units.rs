//! Durations and sizes as people write them: `500ms 30s 5m 2h 7d`, `512 4KiB 10MiB`.
//!
//! Whole numbers only, one unit, no spaces; what does not fit its type is refused, never rounded.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 4] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Reads `500ms`, `30s`, `5m`, `2h` or `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = split_digits(text)?;
    let factor = lookup(&DURATION_UNITS, unit)?;
    Some(Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(factor)?))
}

/// Reads `512`, `4KiB`, `10MiB`, `1GiB` or `1TiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split_digits(text)?;
    let factor = if unit.is_empty() { 1 } else { lookup(&SIZE_UNITS, unit)? };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes a duration with the largest unit that keeps it whole.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "ms")
}

/// Writes a size with the largest unit that keeps it whole.
pub fn show_size(size: u64) -> String {
    show(size, &SIZE_UNITS, "")
}

fn show(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    let whole = units.iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    match whole {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

fn split_digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 { None } else { text.split_at_checked(end) }
}

fn lookup(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_alike() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("0ms", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_are_read_and_shown_alike() {
        for (text, bytes) in [("512", 512), ("4KiB", 4096), ("10MiB", 10 << 20), ("0", 0)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn what_is_not_one_number_and_one_unit_is_refused() {
        for text in ["", "s", "5", "5 s", "-5s", "1.5h", "5sec", "1h30m", "99999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["", "KiB", "4 KiB", "4kb", "4KB", "-1", "1.5MiB", "99999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
