//! Dates, times and timestamps from their text: ISO 8601 as RFC 3339 profiles it, with what systems write beside it.
//!
//! Accepted: `2026-01-31`, years of more digits with a sign; `T`, `t` or a space before the time; seconds and up to
//! nine digits of fraction optional; a zone as `Z`, `z`, `UTC`, `+02:00`, `+0200`, `+02`, optionally after a space.
//! Digits beyond a column's unit are cut off. Leap seconds (`:60`) and `24:00` are refused.

pub use crate::config::Epoch;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

impl Epoch {
    /// Its decimal digits below the second.
    pub fn digits(self) -> i32 {
        match self {
            Self::Seconds => 0,
            Self::Millis => 3,
            Self::Micros => 6,
            Self::Nanos => 9,
        }
    }
}

/// A point in time as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970-01-01T00:00:00, in UTC where a zone was given.
    seconds: i64,
    /// Nanoseconds within the second.
    nanos: i64,
    /// Whether there was a zone.
    pub zone: bool,
}

impl Stamp {
    /// Microseconds since the epoch, `None` where they do not fit.
    pub fn micros(self) -> Option<i64> {
        self.seconds.checked_mul(1_000_000)?.checked_add(self.nanos / 1000)
    }

    /// Nanoseconds since the epoch, `None` where they do not fit.
    pub fn nanos(self) -> Option<i64> {
        i64::try_from(i128::from(self.seconds) * i128::from(NANOS_PER_SECOND) + i128::from(self.nanos)).ok()
    }
}

/// Days since 1970-01-01 of a date, `None` when it is none.
pub fn date(text: &str) -> Option<i32> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    cursor.0.is_empty().then(|| i32::try_from(days).ok())?
}

/// Microseconds since midnight of a time of day, in UTC where it has a zone; `None` when it is none.
pub fn time(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let (seconds, nanos) = cursor.time()?;
    let seconds = (seconds - cursor.zone()?.unwrap_or(0)).rem_euclid(SECONDS_PER_DAY);
    Some(seconds * 1_000_000 + nanos / 1000)
}

/// A timestamp, `None` when it is none. A date alone is its midnight.
pub fn timestamp(text: &str) -> Option<Stamp> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    let midnight = days.checked_mul(SECONDS_PER_DAY)?;
    if cursor.0.is_empty() {
        return Some(Stamp { seconds: midnight, nanos: 0, zone: false });
    }
    if !(cursor.take(b'T') || cursor.take(b't') || cursor.take(b' ')) {
        return None;
    }
    let (seconds, nanos) = cursor.time()?;
    let offset = cursor.zone()?;
    let seconds = midnight.checked_add(seconds)?.checked_sub(offset.unwrap_or(0))?;
    Some(Stamp { seconds, nanos, zone: offset.is_some() })
}

/// The text that is left.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// A number of exactly `count` digits.
    fn number(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let mut value: i64 = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
        }
        self.0 = rest;
        Some(value)
    }

    fn run(&self) -> usize {
        self.0.iter().position(|b| !b.is_ascii_digit()).unwrap_or(self.0.len())
    }

    fn date(&mut self) -> Option<i64> {
        let negative = self.take(b'-');
        let signed = negative || self.take(b'+');
        let digits = self.run();
        let wide = signed && (4..=7).contains(&digits);
        if !(wide || digits == 4) {
            return None;
        }
        let year = self.number(digits)?;
        let year = if negative { -year } else { year };
        let month = self.take(b'-').then(|| self.number(2))??;
        let day = self.take(b'-').then(|| self.number(2))??;
        ((1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day)).then(|| days(year, month, day))
    }

    /// Seconds since midnight and nanoseconds.
    fn time(&mut self) -> Option<(i64, i64)> {
        let hour = self.number(2)?;
        let minute = self.take(b':').then(|| self.number(2))??;
        let (mut second, mut nanos) = (0, 0);
        if self.take(b':') {
            second = self.number(2)?;
            if self.take(b'.') || self.take(b',') {
                let digits = self.run();
                if !(1..=9).contains(&digits) {
                    return None;
                }
                nanos = self.number(digits)? * 10_i64.pow(9 - u32::try_from(digits).ok()?);
            }
        }
        (hour < 24 && minute < 60 && second < 60).then_some((hour * 3600 + minute * 60 + second, nanos))
    }

    /// The zone's offset in seconds, `Some(None)` when there is none; nothing may follow.
    #[allow(clippy::option_option)] // no zone and no valid zone are different answers
    fn zone(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        self.take(b' ');
        if matches!(self.0, b"Z" | b"z" | b"UTC" | b"GMT") {
            return Some(Some(0));
        }
        let west = self.take(b'-');
        if !west && !self.take(b'+') {
            return None;
        }
        let hours = self.number(2)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            self.take(b':');
            self.number(2)?
        };
        let offset = hours * 3600 + minutes * 60;
        let valid = self.0.is_empty() && hours <= 18 && minutes < 60;
        valid.then_some(Some(if west { -offset } else { offset }))
    }
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that a leap day ends one, and
/// 400 of them are an era of 146,097 days.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike, NaiveDate};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_agree_with_another_calendar() {
        for days in (-1_000_000..1_000_000).step_by(37) {
            let date = NaiveDate::from_num_days_from_ce_opt(days + 719_163).expect("in range");
            let text = if (0..=9999).contains(&date.year()) {
                date.format("%Y-%m-%d").to_string()
            } else {
                format!("{:+05}-{:02}-{:02}", date.year(), date.month(), date.day())
            };
            assert_eq!(super::date(&text), Some(days), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "",
            "2026",
            "2026-1-01",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "1900-02-29",
            "2026-04-31",
            "2026-01-01x",
            "20260101",
            "2026/01/01",
            "99999-01-01",
            "-1-01-01",
            "+99999999-01-01",
            "２０２６-01-01",
        ] {
            assert_eq!(date(bad), None, "{bad}");
        }
        assert_eq!((date("2000-02-29"), date("-0001-01-01")), (Some(11_016), Some(-719_893)));
    }

    #[test]
    fn times_have_optional_seconds_and_up_to_nine_digits() {
        assert_eq!(time("00:00"), Some(0));
        assert_eq!(time("23:59:59.123456789"), Some(86_399_123_456));
        assert_eq!(time("01:02:03,5"), Some(3_723_500_000));
        // With a zone, as RFC 3339 has them: in UTC, of whichever day.
        assert_eq!((time("10:00Z"), time("01:00:00+02:00")), (time("10:00"), time("23:00")));
        for bad in ["24:00", "23:60", "23:59:60", "1:00", "10", "10:00:", "10:00:00.", "10:00:00.1234567890", "10:00X"]
        {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_come_in_the_shapes_that_systems_write() {
        let micros = |text| timestamp(text).and_then(Stamp::micros);
        let expected = Some(1_767_268_800_000_000);
        for text in [
            "2026-01-01T12:00:00Z",
            "2026-01-01 12:00:00",
            "2026-01-01t12:00z",
            "2026-01-01T14:00:00+02:00",
            "2026-01-01T14:00:00.000+0200",
            "2026-01-01 14:00:00 +02",
            "2026-01-01 12:00:00 UTC",
            "2025-12-31T21:30:00-14:30",
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
        assert_eq!(micros("1969-12-31T23:59:59.999999999Z"), Some(-1));
        assert_eq!(timestamp("1969-12-31T23:59:59.999999999Z").and_then(Stamp::nanos), Some(-1));
        assert_eq!(timestamp("2300-01-01T00:00:00Z").and_then(Stamp::nanos), None);
        assert_eq!(micros("+9999999-01-01T00:00:00Z"), None);
        for bad in [
            "2026-01-01T",
            "2026-01-01X12:00",
            "2026-01-01T12",
            "2026-01-01T12:00:00+",
            "2026-01-01T12:00:00+2",
            "2026-01-01T12:00:00+25:00",
            "2026-01-01T12:00:00Zx",
            "2026-01-01T12:00:00 ",
            "now",
            "1700000000",
        ] {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_timestamp_of_another_implementation_reads_back(micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000,
                                                              offset in -1080_i32..=1080) {
            let zone = chrono::FixedOffset::east_opt(offset * 60).expect("within a day");
            let text = DateTime::from_timestamp_micros(micros).expect("in range").with_timezone(&zone).to_rfc3339();
            let stamp = timestamp(&text).expect("valid");
            prop_assert_eq!((stamp.micros(), stamp.zone), (Some(micros), true), "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9TZ:., ]{0,40}") {
            let _ = (date(&text), time(&text), timestamp(&text).map(|s| (s.micros(), s.nanos())));
        }
    }
}
