//! What the program prints: the only place that writes to standard output and error.

use std::io::{BufRead as _, ErrorKind as Io, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};

/// An answer in both forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// For programs.
    pub json: Value,
    /// For people; ends with a line break unless empty.
    pub text: String,
}

impl Answer {
    /// The JSON form as it is printed.
    pub fn json_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.json).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Prints an answer in one of its forms.
///
/// # Errors
/// `Unavailable` when standard output fails.
pub fn answer(answer: &Answer, json: bool) -> Result<()> {
    if json { print(&answer.json_text()) } else { print(&answer.text) }
}

/// Prints text to standard output. A reader that has gone away is no error.
///
/// # Errors
/// `Unavailable` when standard output fails otherwise.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != Io::BrokenPipe => {
            Err(Error::new(ErrorKind::Unavailable, "standard output").with_source(error))
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error, beside the answer.
pub fn note(line: &str) {
    // Nobody is left to tell when standard error fails.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Shows a plan and asks on the terminal whether to go on.
///
/// # Errors
/// `Config` when nobody can be asked.
pub fn confirmed(plan: &str, question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::Config, "nobody can be asked: standard input is no terminal")
            .with_hint("look with --dry-run, then add --yes"));
    }
    note(plan.trim_end());
    note(question);
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context(ErrorKind::Unavailable, || "standard input")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Prints an error with its way out and its entry in the runbook.
pub fn error(error: &Error) {
    note(&error_text(error));
}

/// An error as it is printed, without the last line break.
pub fn error_text(error: &Error) -> String {
    let mut text = format!("error: {error}");
    if let Some(hint) = error.hint() {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    text.push_str("\nsee docs/runbook.md#");
    text.push_str(error.kind().runbook());
    text
}

/// On which side a column's values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// What went wrong, and the way out where one is known: as a part of a line.
pub(crate) fn told(error: &Error) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error} (hint: {hint})"))
}

/// Rows in columns as wide as their widest value, with a head.
pub fn columns(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let values = rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count());
        values.chain(head.get(at).map(|(name, _)| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let names: Vec<String> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for ((value, (_, align)), width) in row.iter().zip(head).zip(&widths) {
            let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            match align {
                Align::Left => line.push_str(&format!("{value:<width$}  ")),
                Align::Right => line.push_str(&format!("{value:>width$}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one a line; those without a value are left out.
pub fn record(entries: &[(&str, Option<String>)]) -> String {
    let width = entries.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line =
        |(name, value): &(&str, Option<String>)| value.as_ref().map(|value| format!("{name:<width$}  {value}\n"));
    entries.iter().filter_map(line).collect()
}

pub use crate::config::quantity::show_size as bytes;

/// A count for people: groups of three.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 file`, `2 files`.
pub fn counted(value: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(value), if value == 1 { "" } else { "s" })
}

/// A moment in UTC, to the millisecond.
pub fn moment(ms: i64) -> String {
    match chrono::DateTime::from_timestamp_millis(ms) {
        Some(moment) => moment.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(200 << 20)], ["0 B", "1023 B", "1.5 KiB", "200 MiB"]);
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(i64::MAX), format!("{} ms", i64::MAX));
    }

    #[test]
    fn an_error_names_the_way_out_and_the_runbook() {
        let error = Error::new(ErrorKind::NotFound, "table a.b").with_hint("list the tables");
        assert_eq!(error_text(&error), "error: table a.b\nhint: list the tables\nsee docs/runbook.md#not-found");
    }
}
