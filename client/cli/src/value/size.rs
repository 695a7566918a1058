//! Sizes as people type them: `512 4KiB 10MiB`.

const UNITS: [(&str, u64); 4] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Reads bytes, or a number and its unit.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("{text:?} is no size; write bytes, or a number and its unit, as 512, 4KiB or 10MiB")
    };
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, factor) =
        unit.map_or((text, 1), |&(unit, factor)| (text.strip_suffix(unit).unwrap_or(text), factor));
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

/// About how much, for people: three digits and a unit.
pub(crate) fn show(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|&&(_, factor)| bytes >= factor);
    let Some(&(unit, factor)) = unit else { return format!("{bytes} B") };
    let (whole, tenth) = (bytes / factor, bytes % factor * 10 / factor);
    if whole < 100 { format!("{whole}.{tenth} {unit}") } else { format!("{whole} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_short() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (200 << 20, "200 MiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(show(bytes), want);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, want) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("4KiB", Some(4096)),
            ("10MiB", Some(10 << 20)),
            ("1TiB", Some(1 << 40)),
            ("", None),
            ("KiB", None),
            ("4KB", None),
            ("4 KiB", None),
            ("-1", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse(text).ok(), want, "{text:?}");
        }
    }
}
