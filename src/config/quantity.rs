//! Bytes, durations and shares as people write them: `256MiB`, `30s`, `1%`.

use std::time::Duration;

const BYTE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIME_UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// How to write bytes.
pub const BYTES_HINT: &str = "write a number and a unit, such as \"64KiB\", \"256MiB\" or \"2GiB\"";
/// How to write a duration.
pub const DURATION_HINT: &str = "write a number and a unit, such as \"500ms\", \"30s\", \"5m\", \"2h\" or \"7d\"";

/// Bytes from text; units are those of [`BYTES_HINT`], in any case, and `MB` (decimal) beside `MiB` (binary).
pub fn bytes(text: &str) -> Option<u64> {
    scaled(text, |unit| BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, by)| *by))
}

/// Milliseconds from text such as `30s` or `1h30m`.
pub fn millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let part =
            scaled(&rest[..unit_end], |unit| TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, by)| *by))?;
        total = total.checked_add(part)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

/// A share between 0 and 1 from `1%` or `0.01`.
pub fn share(text: &str) -> Option<f64> {
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
        None => text.parse::<f64>().ok()?,
    };
    (0.0..=1.0).contains(&value).then_some(value)
}

/// A share over a window, such as `1% in 5m`; the window in milliseconds, none where none is written.
pub fn share_in(text: &str) -> Option<(f64, Option<u64>)> {
    match text.split_once(" in ") {
        None => Some((share(text)?, None)),
        Some((of, window)) => Some((share(of)?, Some(millis(window)?))),
    }
}

/// Bytes in the largest unit that loses nothing.
pub fn show_bytes(value: u64) -> String {
    show(value, BYTE_UNITS.iter().filter(|(name, _)| name.ends_with("iB") || *name == "B"))
}

/// A duration in the largest unit that loses nothing.
pub fn show_millis(value: u64) -> String {
    show(value, TIME_UNITS.iter())
}

/// A duration for people, to a sensible precision.
pub fn show_duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{}d{:02}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

/// Bytes for people: three figures and a unit.
pub fn show_size(value: u64) -> String {
    const UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut rest = value;
    let mut below = 0;
    while rest >= 1024 && unit + 1 < UNITS.len() {
        below = rest % 1024;
        rest /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 || rest >= 100 { format!("{rest} {name}") } else { format!("{rest}.{} {name}", below * 10 / 1024) }
}

/// A share and its window.
pub fn show_share_in(value: f64, window: Option<u64>) -> String {
    let share = show_share(value);
    window.map_or_else(|| share.clone(), |window| format!("{share} in {}", show_millis(window)))
}

/// A share as a percentage.
pub fn show_share(value: f64) -> String {
    let percent = (value * 100.0 * 1e6).round() / 1e6;
    format!("{percent}%")
}

fn show<'a>(value: u64, units: impl Iterator<Item = &'a (&'static str, u64)>) -> String {
    let mut smallest = String::new();
    for (name, by) in units {
        if value >= *by && value.is_multiple_of(*by) {
            return format!("{}{name}", value / by);
        }
        smallest = format!("{value}{name}");
    }
    smallest
}

/// A decimal number and a unit; fractions are allowed as long as the result is a whole number.
fn scaled(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let by = unit(text[digits..].trim())?;
    let (whole, fraction) = text[..digits].split_once('.').unwrap_or((&text[..digits], ""));
    let value = whole.parse::<u64>().ok()?.checked_mul(by)?;
    if fraction.is_empty() {
        return (!text[..digits].ends_with('.')).then_some(value);
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(by)?;
    (part % scale == 0).then_some(())?;
    value.checked_add(part / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_what_they_print() {
        for value in [0, 1, 1023, 1024, 1 << 20, 3 << 30, 1_000_000, u64::MAX] {
            assert_eq!(bytes(&show_bytes(value)), Some(value), "{}", show_bytes(value));
        }
        assert_eq!((bytes("1.5GiB"), bytes("10 mb")), (Some(3 << 29), Some(10_000_000)));
    }

    #[test]
    fn durations_read_back_what_they_print() {
        for value in [0, 1, 999, 1_000, 90_000, 86_400_000, u64::MAX] {
            assert_eq!(millis(&show_millis(value)), Some(value), "{}", show_millis(value));
        }
        assert_eq!((millis("1h30m"), millis("0.5s"), millis("1m 5s")), (Some(5_400_000), Some(500), Some(65_000)));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "5", "MiB", "-1MiB", "1.", "1..5MiB", "99999999999TiB", "1 parsec", "0.3B"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
        for bad in ["", "5", "s", "-1s", "5M", "1h-2m", "99999999999999999d"] {
            assert_eq!(millis(bad), None, "{bad:?}");
        }
        for bad in ["", "101%", "-1%", "2", "NaN", "1% in 5m"] {
            assert_eq!(share(bad), None, "{bad:?}");
        }
        for bad in ["", "1% in", "1% in ", "in 5m", " in 5m", "1% in 5", "101% in 5m", "1%in5m", "1% in 5m in 5m"] {
            assert_eq!(share_in(bad), None, "{bad:?}");
        }
        assert_eq!(share_in("1% in 5m"), Some((0.01, Some(300_000))));
        assert_eq!((share_in("0.5 in 1h30m"), share_in(" 2% ")), (Some((0.5, Some(5_400_000))), Some((0.02, None))));
    }
}
