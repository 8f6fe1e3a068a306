//! Which table a row goes to: `lake.raw_shop.{event}` names one table per value of the field `event`.
//!
//! A value becomes part of a name after every character but ASCII letters, digits, `_` and `-` was replaced by `_`;
//! case is kept. So `a b` and `a.b` go to one table. Only as much of a row is read as it takes to find the fields; of rows of a
//! topic nothing, where the topic's name says it all.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::str::FromStr;

use regex::Regex;

use crate::config::kafka::TOPIC;
use crate::decode::fault::Fault;
use crate::decode::scan::{Kind, Scanner};
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::{RawBatch, Reject, Stage};
use crate::model::ids::TableName;

/// The longest namespace level or table name that a value may lead to, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Fields that one template may name.
const FIELDS_MAX: usize = 64;

/// A table name with places for values.
#[derive(Debug, Clone)]
pub struct Route {
    /// Namespace levels and name; one element each, of pieces.
    parts: Vec<Vec<Piece>>,
    /// The fields whose values are needed.
    fields: Vec<String>,
    /// The name, where there is nothing to fill in.
    constant: Option<TableName>,
    /// Set where rows come from topics.
    topics: Option<Topics>,
}

/// Fields that a topic's name fills: `topic`, and those that a pattern captures.
#[derive(Debug, Clone)]
struct Topics {
    pattern: Option<Regex>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Index in `Route::fields`.
    Field(usize),
}

impl Route {
    /// Reads a template.
    ///
    /// # Errors
    /// `Config` when a brace has no partner, a field has no name, or the name lacks a namespace.
    pub fn parse(template: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(ErrorKind::Config, format!("table {template:?}: {what}"))
                .with_hint("write it as namespace.table; {field} stands for a field's value")
        };
        let (mut parts, mut fields) = (vec![Vec::new()], Vec::<String>::new());
        let mut rest = template;
        while let Some(at) = rest.find(['.', '{', '}']) {
            let (text, tail) = rest.split_at(at);
            push(&mut parts, text);
            let (mark, tail) = tail.split_at(1);
            rest = tail;
            match mark {
                "." => parts.push(Vec::new()),
                "{" => {
                    let (name, tail) = rest.split_once('}').ok_or_else(|| wrong("a '{' is not closed"))?;
                    if name.is_empty() || name.contains('{') {
                        return Err(wrong("a field's name is missing between '{' and '}'"));
                    }
                    let index = fields.iter().position(|field| field == name).unwrap_or_else(|| {
                        fields.push(name.to_owned());
                        fields.len() - 1
                    });
                    if let Some(part) = parts.last_mut() {
                        part.push(Piece::Field(index));
                    }
                    rest = tail;
                }
                _ => return Err(wrong("a '}' has no '{' before it")),
            }
        }
        push(&mut parts, rest);
        if parts.len() < 2 || parts.iter().any(Vec::is_empty) {
            return Err(wrong("a namespace and a name are needed, every part non-empty"));
        }
        if fields.len() > FIELDS_MAX {
            return Err(wrong("too many fields"));
        }
        let constant = if fields.is_empty() { Some(TableName::from_str(template)?) } else { None };
        Ok(Self { parts, fields, constant, topics: None })
    }

    /// The same for rows that come from topics, whose names must match `pattern` where there is one: what it captures under a
    /// name fills the field of that name, and `{topic}` is the topic's whole name. Other fields are the rows' own.
    #[must_use]
    pub fn of_topics(self, pattern: Option<Regex>) -> Self {
        Self { topics: Some(Topics { pattern }), ..self }
    }

    /// The table, where all rows go to one.
    pub fn constant(&self) -> Option<&TableName> {
        self.constant.as_ref()
    }

    /// The names of the tables that it may lead to, as a glob: at least one character for each field.
    pub fn glob(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => globset::escape(text),
            Piece::Field(_) => "?*".to_owned(),
        };
        let levels: Vec<String> = self.parts.iter().map(|pieces| pieces.iter().map(piece).collect()).collect();
        levels.join(".")
    }

    /// Whether a row's values may lead to this table.
    pub fn may_lead(&self, table: &TableName) -> bool {
        let glob = globset::GlobBuilder::new(&self.glob()).build();
        glob.is_ok_and(|glob| glob.compile_matcher().is_match(table.to_string()))
    }

    /// The batch's rows by table, and the rows that have none, after the rejects that the source made.
    ///
    /// Each part keeps the order of its rows and covers the whole batch's positions. Where all rows go to one table
    /// the source's rejects stay with it.
    pub fn split(&self, raw: RawBatch) -> (BTreeMap<TableName, RawBatch>, Vec<Reject>) {
        if let Some(table) = &self.constant {
            return (BTreeMap::from([(table.clone(), raw)]), Vec::new());
        }
        let mut rejects = raw.rejects.clone();
        let mut parts: Vec<(TableName, RawBatch)> = Vec::new();
        // By the values as they are, so that a name is made once per value and not per row.
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut values = vec![String::new(); self.fields.len()];
        let missing = self.given(&raw.origin, &mut values);
        let mut key = String::new();
        for row in &raw.rows {
            let part = self.read(raw.bytes(*row), missing, &mut values).and_then(|()| {
                key.clear();
                for value in &values {
                    // With its length, so that no two lists of values look alike.
                    let _ = write!(key, "{}:{value}", value.len());
                }
                if let Some(part) = known.get(&key) {
                    return Ok(*part);
                }
                let table = self.name(&values)?;
                let part = parts.iter().position(|(held, _)| *held == table).unwrap_or_else(|| {
                    parts.push((table, RawBatch { rows: Vec::new(), rejects: Vec::new(), ..raw.clone() }));
                    parts.len() - 1
                });
                known.insert(key.clone(), part);
                Ok(part)
            });
            match part {
                Ok(part) => {
                    if let Some((_, part)) = parts.get_mut(part) {
                        part.rows.push(*row);
                    }
                }
                Err(fault) => {
                    rejects.push(raw.reject(*row, Stage::Route, fault.path.clone(), fault.reason.clone()));
                }
            }
        }
        (parts.into_iter().collect(), rejects)
    }

    /// The values that a topic's name has; answers which fields are still missing, a bit each.
    fn given(&self, topic: &str, values: &mut [String]) -> u64 {
        let mut missing = u64::MAX >> (FIELDS_MAX - self.fields.len());
        let Some(topics) = &self.topics else { return missing };
        let captured = topics.pattern.as_ref().and_then(|pattern| pattern.captures(topic));
        for (index, (field, value)) in self.fields.iter().zip(values).enumerate() {
            let named = captured.as_ref().and_then(|captured| captured.name(field)).map(|found| found.as_str());
            if let Some(found) = named.or((field == TOPIC).then_some(topic)) {
                found.clone_into(value);
                missing &= !(1 << index);
            }
        }
        missing
    }

    /// Reads the values of the `missing` fields off a row.
    fn read(&self, row: &[u8], mut missing: u64, values: &mut [String]) -> Result<(), Fault> {
        if missing == 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(row)
            .map_err(|e| Fault::row(format!("invalid UTF-8 after byte {}", e.valid_up_to())))?;
        let mut scanner = Scanner::new(text);
        match scanner.peek()? {
            Kind::Object => scanner.open()?,
            other => return Err(Fault::row(format!("the row is {}, not an object", other.as_str()))),
        }
        let mut first = true;
        while missing != 0 && scanner.more(b'}', first)? {
            first = false;
            let key = scanner.key()?.unescape()?;
            let place = self.fields.iter().position(|field| *field == key).filter(|index| missing & (1 << index) != 0);
            let Some((index, value)) = place.and_then(|index| Some((index, values.get_mut(index)?))) else {
                scanner.skip()?;
                continue;
            };
            value.clear();
            match scanner.peek()? {
                Kind::String => value.push_str(&scanner.string()?.unescape()?),
                Kind::Number | Kind::Boolean => value.push_str(scanner.skip()?),
                other => {
                    let reason = format!("{} where the table's name needs a value", other.as_str());
                    return Err(Fault::value(reason).in_field(&key));
                }
            }
            missing &= !(1 << index);
        }
        match self.fields.get(missing.trailing_zeros() as usize) {
            Some(field) => Err(Fault::value("missing, and the table's name needs it").in_field(field)),
            None => Ok(()),
        }
    }

    fn name(&self, values: &[String]) -> Result<TableName, Fault> {
        let mut names = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut name = String::new();
            for piece in part {
                match piece {
                    Piece::Text(text) => name.push_str(text),
                    Piece::Field(index) => {
                        let value = values.get(*index).map_or("", String::as_str);
                        if value.is_empty() {
                            let field = self.fields.get(*index).map_or("", String::as_str);
                            return Err(Fault::value("empty, and the table's name needs it").in_field(field));
                        }
                        name.extend(value.chars().map(plain));
                    }
                }
            }
            if name.len() > NAME_BYTES_MAX {
                return Err(Fault::row(format!("the table's name would be longer than {NAME_BYTES_MAX} bytes")));
            }
            names.push(name);
        }
        let name = names.pop().unwrap_or_default();
        TableName::new(names, name).map_err(|error| Fault::row(error.to_string()))
    }
}

fn push(parts: &mut [Vec<Piece>], text: &str) {
    if let (Some(part), false) = (parts.last_mut(), text.is_empty()) {
        part.push(Piece::Text(text.to_owned()));
    }
}

fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::batch::tests::raw;

    fn tables(template: &str, rows: &[&str]) -> Vec<(String, Vec<u64>)> {
        let (parts, _) = Route::parse(template).expect("valid").split(raw(rows));
        parts
            .into_iter()
            .map(|(table, part)| (table.to_string(), part.rows.iter().map(|r| r.number).collect()))
            .collect()
    }

    #[test]
    fn a_route_without_fields_takes_every_row() {
        assert_eq!(tables("lake.shop", &["{}", "broken"]), [("lake.shop".to_owned(), vec![1, 2])]);
    }

    #[test]
    fn rows_go_to_the_table_of_their_values() {
        let rows = [
            r#"{"e":"view","r":1}"#,
            r#"{"x":[{"e":"no"}],"r":2,"e":"Buy Now!"}"#,
            r#"{"r":1,"e":"v\u0069ew"}"#,
            r#"{"e":true,"r":"é.x"}"#,
        ];
        let found = tables("lake.{r}.shop_{e}", &rows);
        let expected =
            [("lake.1.shop_view", vec![1, 3]), ("lake.2.shop_Buy_Now_", vec![2]), ("lake.__x.shop_true", vec![4])];
        assert_eq!(found, expected.map(|(table, rows)| (table.to_owned(), rows)));
    }

    #[test]
    fn a_topics_name_fills_the_fields_that_it_has_and_the_row_the_others() {
        let pattern = Regex::new(r"^(?:shop\.(?<t>.+))$").expect("valid");
        let tables = |template: &str, topic: &str, rows: &[&str]| {
            let route = Route::parse(template).expect("valid").of_topics(Some(pattern.clone()));
            let (parts, rejects) = route.split(RawBatch { origin: topic.into(), ..raw(rows) });
            let parts = parts.into_iter().map(|(table, part)| (table.to_string(), part.rows.len()));
            (parts.collect::<Vec<_>>(), rejects.len())
        };
        let whole = |table: &str, rows, rejects| (vec![(table.to_owned(), rows)], rejects);
        assert_eq!(tables("raw.{t}", "shop.order-lines", &[r#"{"t":"x"}"#, "broken"]), whole("raw.order-lines", 2, 0));
        assert_eq!(tables("raw.{topic}_x", "shop.a", &["{}"]), whole("raw.shop_a_x", 1, 0));
        assert_eq!(tables("raw.{t}_{e}", "shop.a", &[r#"{"t":"b","e":"v"}"#, "{}"]), whole("raw.a_v", 1, 1));
        assert_eq!(tables("raw.{e}", "shop.a", &[r#"{"e":"v"}"#]), whole("raw.v", 1, 0));
    }

    #[test]
    fn values_that_make_one_name_share_the_table() {
        assert_eq!(tables("a.{t}", &[r#"{"t":"x y"}"#, r#"{"t":"x.y"}"#]), [("a.x_y".to_owned(), vec![1, 2])]);
    }

    #[test]
    fn a_route_tells_which_tables_it_may_lead_to() {
        let route = Route::parse("lake.{r}.shop[1]_{e}").expect("valid");
        let glob = globset::Glob::new(&route.glob()).expect("valid").compile_matcher();
        let names =
            ["lake.1.shop[1]_view", "lake.1.shop1_view", "lake.1.shop[1]_", "lake.shop[1]_view", "x.1.shop[1]_a"];
        assert_eq!(names.map(|name| glob.is_match(name)), [true, false, false, false, false]);
    }

    #[test]
    fn rows_without_a_usable_value_are_rejected_with_the_reason() {
        let long = format!(r#"{{"t":"{}"}}"#, "x".repeat(NAME_BYTES_MAX + 1));
        let rows = ["{}", r#"{"t":null}"#, r#"{"t":{}}"#, r#"{"t":[]}"#, r#"{"t":""}"#, &long, "[]", r#"{"t"#, ""];
        let (parts, rejects) = Route::parse("a.{t}").expect("valid").split(raw(&rows));
        assert!(parts.is_empty());
        let shown: Vec<_> = rejects.iter().map(|r| (r.number, r.field.as_str(), r.stage)).collect();
        let fields = ["t", "t", "t", "t", "t", "", "", "", ""];
        assert_eq!(shown, (1..).zip(fields).map(|(number, field)| (number, field, Stage::Route)).collect::<Vec<_>>());
        assert_eq!(rejects[1].reason, "null where the table's name needs a value");
    }

    #[test]
    fn what_the_source_rejected_comes_first_among_the_rejects_or_stays_with_the_one_table() {
        let mut batch = raw(&["{}"]);
        batch.rejects = vec![batch.reject(batch.rows[0], Stage::Source, "", "cut off")];
        let (_, rejects) = Route::parse("a.{t}").expect("valid").split(batch.clone());
        assert_eq!(rejects.iter().map(|reject| reject.stage).collect::<Vec<_>>(), [Stage::Source, Stage::Route]);
        let (parts, rejects) = Route::parse("a.b").expect("valid").split(batch);
        assert_eq!((parts.values().map(|part| part.rejects.len()).sum::<usize>(), rejects.len()), (1, 0));
    }

    #[test]
    fn templates_that_name_no_table_are_refused() {
        for bad in ["", "shop", "{t}", "a.", ".b", "a..b", "a.{}", "a.{t", "a.t}", "a.{{t}}"] {
            assert_eq!(Route::parse(bad).expect_err(bad).kind(), ErrorKind::Config, "{bad}");
        }
        assert_eq!(Route::parse("a.b").expect("valid").constant().map(ToString::to_string).as_deref(), Some("a.b"));
        assert!(Route::parse("a.{t}").expect("valid").constant().is_none());
    }

    proptest! {
        #[test]
        fn no_row_is_lost_or_doubled(rows in prop::collection::vec(r#"\{"t":("[a-c ./]{0,3}"|[0-3]|null)\}|.{0,6}"#, 0..12)) {
            let (parts, rejects) = Route::parse("a.{t}").expect("valid").split(raw(&rows));
            let mut numbers: Vec<u64> = parts.values().flat_map(|part| part.rows.iter().map(|row| row.number)).collect();
            prop_assert!(parts.values().all(|part| part.rows.is_sorted_by_key(|row| row.number)));
            numbers.extend(rejects.iter().map(|reject| reject.number));
            numbers.sort_unstable();
            prop_assert!(numbers.iter().copied().eq(1..=rows.len() as u64));
        }
    }
}
