//! Which partitions are meant: conditions on the fields of the partition spec, as `--where` has them.
//!
//! Values are compared as they stand in the names of partitions' folders: `2026-11-24` of a day, `2026-11` of a month, numbers as
//! numbers, everything else as text.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};

const HINT: &str = "write conditions on partition fields joined by `and`, such as \"order_ts_day >= 2026-11-01 and region = 'EU'\"; \
                    `frazil table files` shows partitions and their fields";

/// Conditions that all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFilter {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    field: String,
    operator: Operator,
    /// `None`: NULL.
    value: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones before those that they begin with.
const OPERATORS: &[(&str, Operator)] = &[
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("!=", Operator::Unequal),
    ("<>", Operator::Unequal),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl PartitionFilter {
    /// Reads conditions such as `region = 'EU' and day >= 2026-11-01`.
    ///
    /// # Errors
    /// `Config` for what is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::new(ErrorKind::Config, format!("--where {text:?}: {what}")).with_hint(HINT);
        let mut conditions = Vec::new();
        let mut rest = text.trim();
        loop {
            let end = rest.find(|c: char| c.is_whitespace() || "<>=!".contains(c)).unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            let after = after.trim_start();
            let found = OPERATORS.iter().find_map(|(sign, operator)| Some((operator, after.strip_prefix(sign)?)));
            let Some((operator, after)) = found.filter(|_| !field.is_empty()) else {
                return Err(wrong(format!("{rest:?} is no condition")));
            };
            let (value, after) = value(after.trim_start()).ok_or_else(|| wrong(format!("{after:?} is no value")))?;
            let ordered = !matches!(operator, Operator::Equal | Operator::Unequal);
            if value.is_none() && ordered {
                return Err(wrong("null is neither less nor greater".to_owned()));
            }
            conditions.push(Condition { field: field.to_owned(), operator: *operator, value });
            let after = after.trim_start();
            if after.is_empty() {
                return Ok(Self { conditions });
            }
            let (word, more) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
            if !word.eq_ignore_ascii_case("and") {
                return Err(wrong(format!("{after:?} is not understood")));
            }
            rest = more.trim_start();
        }
    }

    /// Whether a partition with these fields is meant; one that lacks a field that is asked about is not.
    pub fn matches(&self, fields: &[(String, Option<String>)]) -> bool {
        self.conditions.iter().all(|condition| {
            let found = fields.iter().find(|(name, _)| *name == condition.field);
            found.is_some_and(|(_, value)| condition.holds(value.as_deref()))
        })
    }

    /// That every field that is asked about is one of those that partitions of the table have.
    ///
    /// # Errors
    /// `Config` for one that is none.
    pub fn check(&self, known: &BTreeSet<&str>) -> Result<()> {
        match self.conditions.iter().find(|condition| !known.contains(condition.field.as_str())) {
            None => Ok(()),
            Some(condition) => {
                let hint = if known.is_empty() {
                    "the table has no partitions: leave --where away".to_owned()
                } else {
                    format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", "))
                };
                let what = format!("--where: there is no partition field {:?}", condition.field);
                Err(Error::new(ErrorKind::Config, what).with_hint(hint))
            }
        }
    }
}

impl Condition {
    fn holds(&self, found: Option<&str>) -> bool {
        let (Some(found), Some(wanted)) = (found, self.value.as_deref()) else {
            let both = found.is_none() && self.value.is_none();
            return match self.operator {
                Operator::Equal => both,
                Operator::Unequal => !both,
                _ => false,
            };
        };
        let order = order(found, wanted);
        match self.operator {
            Operator::Equal => order == Ordering::Equal,
            Operator::Unequal => order != Ordering::Equal,
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Greater => order == Ordering::Greater,
            Operator::GreaterOrEqual => order != Ordering::Less,
        }
    }
}

fn order(a: &str, b: &str) -> Ordering {
    if let (Ok(a), Ok(b)) = (a.parse::<i128>(), b.parse::<i128>()) {
        return a.cmp(&b);
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    }
}

/// A value at the beginning of `text`, in quotes (a quote in it twice) or up to white space, and what follows.
fn value(text: &str) -> Option<(Option<String>, &str)> {
    let Some(inside) = text.strip_prefix('\'') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let word = (!word.is_empty()).then_some(word)?;
        return Some(((!word.eq_ignore_ascii_case("null")).then(|| word.to_owned()), rest));
    };
    let mut value = String::new();
    let mut rest = inside;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((Some(value), after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(filter: &str, fields: &[(&str, Option<&str>)]) -> Result<bool> {
        let fields: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned))).collect();
        let filter = PartitionFilter::parse(filter)?;
        filter.check(&fields.iter().map(|(name, _)| name.as_str()).collect())?;
        Ok(filter.matches(&fields))
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_days_as_they_are_written() {
        let fields = [("n", Some("9")), ("day", Some("2026-11-24")), ("s", Some("O'Hare")), ("void", None)];
        for (filter, wanted) in [
            ("n < 10", true),
            ("n>=9 and n != 8", true),
            ("day >= 2026-11-01 AND day < 2026-12-01", true),
            ("day = 2026-11-25", false),
            ("s = 'O''Hare'", true),
            ("s <> 'and' and n = 10", false),
            ("void = null", true),
            ("void != null", false),
            ("void = 'null'", false),
            ("void < 3", false),
        ] {
            assert_eq!(holds(filter, &fields).ok(), Some(wanted), "{filter}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for bad in ["", "n", "n ~ 3", "n =", "n = 'x", "n = 3 or n = 4", "n = 3 and", "= 3", "n < null", "other = 3"] {
            assert!(holds(bad, &[("n", Some("3"))]).is_err(), "{bad:?}");
        }
    }
}
