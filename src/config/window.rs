//! Hours of the day in a time zone: when heavy jobs may run.

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

/// How to write hours of the day.
pub const WINDOW_HINT: &str =
    "write two times and a time zone, such as \"20:00-06:00 Europe/Vienna\"; UTC without a zone";

/// Hours of each day, such as `20:00-06:00 Europe/Vienna`: from the first time on, up to the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    from: Time,
    to: Time,
    zone: TimeZone,
    text: String,
}

impl Window {
    /// Reads [`WINDOW_HINT`].
    ///
    /// # Errors
    /// What is wrong with the text, as a sentence without a full stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (hours, zone) = (words.next().unwrap_or_default(), words.next().unwrap_or("UTC"));
        let unknown = || format!("{text:?} names no hours of the day");
        let (from, to) = hours.split_once('-').filter(|_| words.next().is_none()).ok_or_else(unknown)?;
        let time = |text: &str| {
            let (hour, minute) = text.split_once(':').filter(|(h, m)| (1..=2).contains(&h.len()) && m.len() == 2)?;
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        let (from, to) = (time(from).ok_or_else(unknown)?, time(to).ok_or_else(unknown)?);
        if from == to {
            return Err(format!("{hours:?} begins when it ends"));
        }
        let zone = TimeZone::get(zone).map_err(|_| format!("there is no time zone {zone:?}"))?;
        Ok(Self { from, to, zone, text: text.to_owned() })
    }

    /// Whether it is open at `now_ms`, in milliseconds since the epoch.
    pub fn is_open(&self, now_ms: i64) -> bool {
        let Ok(now) = Timestamp::from_millisecond(now_ms) else { return false };
        let now = now.to_zoned_datetime(self.zone.clone()).time();
        if self.from < self.to { self.from <= now && now < self.to } else { self.from <= now || now < self.to }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    /// 2026-07-01T00:00:00Z: summer in Vienna, two hours ahead.
    const JULY: i64 = 1_782_864_000_000;

    #[test]
    fn a_window_over_midnight_follows_the_clocks_of_its_zone() {
        let window = Window::parse("20:00-06:00 Europe/Vienna").expect("valid");
        let open: Vec<i64> = (0..24).filter(|hour| window.is_open(JULY + hour * HOUR)).collect();
        assert_eq!(open, [0, 1, 2, 3, 18, 19, 20, 21, 22, 23]);
        let winter = JULY + 184 * 24 * HOUR;
        let open: Vec<i64> = (0..24).filter(|hour| window.is_open(winter + hour * HOUR)).collect();
        assert_eq!(open, [0, 1, 2, 3, 4, 19, 20, 21, 22, 23]);
    }

    #[test]
    fn a_window_without_a_zone_is_in_utc() {
        let window = Window::parse("9:30-10:00").expect("valid");
        let open = |minute: i64| window.is_open(JULY + minute * 60_000);
        assert_eq!([open(569), open(570), open(599), open(600)], [false, true, true, false]);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for bad in ["", "20:00", "20:00-25:00", "20-06", "20:00-06:00 Mars/Base", "20:00-20:00", "20:00-06:00 UTC x"] {
            assert!(Window::parse(bad).is_err(), "{bad:?}");
        }
    }
}
