//! How people write the layout of a table: `bucket(16, customer_id)`, `order_ts desc nulls last`, `id long not null`.
//!
//! These are words only: whether a column exists and takes a transform is known where the table is.

use crate::config::ColumnConfig;

/// A partition transform (Iceberg specification, "Partition Transforms").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformText {
    /// The value itself.
    Identity,
    /// A hash into this many buckets.
    Bucket(u32),
    /// The value cut to this width.
    Truncate(u32),
    /// The year of a date or timestamp.
    Year,
    /// The month of a date or timestamp.
    Month,
    /// The day of a date or timestamp.
    Day,
    /// The hour of a timestamp.
    Hour,
    /// Always null.
    Void,
}

/// A partition field: `day(order_ts)`, or with a name of its own `day(order_ts) as d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionText {
    /// The transform.
    pub transform: TransformText,
    /// The source column; a nested one with dots.
    pub column: String,
    /// The field's name, where it is not left to convention.
    pub name: Option<String>,
}

/// Which way a sort field runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectionText {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Where nulls stand in a sort order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NullsText {
    /// Before all values.
    First,
    /// After all values.
    Last,
}

/// A sort field: `customer_id`, `bucket(4, id) desc nulls last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortText {
    /// The transform.
    pub transform: TransformText,
    /// The source column; a nested one with dots.
    pub column: String,
    /// Which way.
    pub direction: DirectionText,
    /// Where nulls stand: first when ascending and last when descending, unless said.
    pub nulls: NullsText,
}

const TRANSFORMS_HINT: &str = "write a column, or one of bucket(16, column), truncate(4, column), year(column), month(column), day(column), hour(column)";

/// Why a text is no layout: what is wrong, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutProblem {
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub hint: String,
}

fn problem<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, LayoutProblem> {
    Err(LayoutProblem { message: message.into(), hint: hint.into() })
}

/// Reads a partition field.
///
/// # Errors
/// When it is none.
pub fn partition(text: &str) -> Result<PartitionText, LayoutProblem> {
    let (head, rest) = term(text)?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let name = match words.as_slice() {
        [] => None,
        [word, name] if word.eq_ignore_ascii_case("as") && is_column(name) => Some((*name).to_owned()),
        _ => {
            return problem(
                format!("{rest:?} after the partition field is not understood"),
                "write it as `day(order_ts) as name`",
            );
        }
    };
    Ok(PartitionText { transform: head.0, column: head.1, name })
}

/// Reads a sort field.
///
/// # Errors
/// When it is none.
pub fn sort(text: &str) -> Result<SortText, LayoutProblem> {
    let (head, rest) = term(text)?;
    let words: Vec<String> = rest.split_whitespace().map(str::to_lowercase).collect();
    let mut words: &[String] = &words;
    let direction = match words.first().map(String::as_str) {
        Some("desc") => DirectionText::Descending,
        _ => DirectionText::Ascending,
    };
    if let [word, rest @ ..] = words
        && matches!(word.as_str(), "asc" | "desc")
    {
        words = rest;
    }
    let nulls = match words {
        [] if direction == DirectionText::Ascending => NullsText::First,
        [] => NullsText::Last,
        [word, end] if word == "nulls" && end == "first" => NullsText::First,
        [word, end] if word == "nulls" && end == "last" => NullsText::Last,
        _ => {
            return problem(
                format!("{rest:?} after the sort field is not understood"),
                "write it as `column desc nulls last`",
            );
        }
    };
    Ok(SortText { transform: head.0, column: head.1, direction, nulls })
}

type Term = (TransformText, String);

/// `column` or `transform(…)` at the start of a text, and what follows.
fn term(text: &str) -> Result<(Term, &str), LayoutProblem> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let Some(inside) = after.trim_start().strip_prefix('(') else {
        if !is_column(word) {
            return problem(format!("{word:?} is no column"), TRANSFORMS_HINT);
        }
        return Ok(((TransformText::Identity, word.to_owned()), after));
    };
    let Some((arguments, rest)) = inside.split_once(')') else {
        return problem("the parenthesis is not closed", TRANSFORMS_HINT);
    };
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let (transform, column) = transform(word, &arguments)?;
    if !is_column(column) {
        return problem(format!("{column:?} is no column"), TRANSFORMS_HINT);
    }
    Ok(((transform, column.to_owned()), rest))
}

fn transform<'a>(word: &str, arguments: &[&'a str]) -> Result<(TransformText, &'a str), LayoutProblem> {
    let word = word.to_lowercase();
    match (word.as_str(), arguments) {
        ("bucket" | "truncate", [first, second]) => {
            // Engines differ in the order of the two; a number is never a column.
            let (width, column) =
                if first.bytes().all(|b| b.is_ascii_digit()) { (first, second) } else { (second, first) };
            let width = match width.parse::<u32>() {
                Ok(width) if width > 0 && i32::try_from(width).is_ok() => width,
                _ => return problem(format!("{width:?} is no width"), format!("write it as `{word}(16, column)`")),
            };
            let transform =
                if word == "bucket" { TransformText::Bucket(width) } else { TransformText::Truncate(width) };
            Ok((transform, column))
        }
        ("bucket" | "truncate", _) => {
            problem(format!("{word} takes a number and a column"), format!("write it as `{word}(16, column)`"))
        }
        ("identity", [column]) => Ok((TransformText::Identity, column)),
        ("year" | "years", [column]) => Ok((TransformText::Year, column)),
        ("month" | "months", [column]) => Ok((TransformText::Month, column)),
        ("day" | "days" | "date", [column]) => Ok((TransformText::Day, column)),
        ("hour" | "hours", [column]) => Ok((TransformText::Hour, column)),
        ("void", [column]) => Ok((TransformText::Void, column)),
        _ => problem(format!("there is no transform {word:?} with {} arguments", arguments.len()), TRANSFORMS_HINT),
    }
}

fn is_column(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|part| !part.is_empty())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "(),\"".contains(c))
        && !text.bytes().all(|b| b.is_ascii_digit())
}

/// A column's type as the specification writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeText {
    /// `long`, `string`, `timestamptz`, …: one of [`PRIMITIVES`].
    Primitive(String),
    /// `decimal(precision, scale)`.
    Decimal(u32, u32),
    /// `fixed[length]`, also written `fixed(length)`.
    Fixed(u64),
    /// `list<element>`.
    List(Box<TypeText>),
    /// `map<key, value>`.
    Map(Box<TypeText>, Box<TypeText>),
    /// `struct<name: type, …>`.
    Struct(Vec<(String, TypeText)>),
}

/// Types without parameters.
pub const PRIMITIVES: &[&str] = &[
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "timestamp_ns",
    "timestamptz_ns",
    "string",
    "uuid",
    "binary",
];

/// How deep types may nest.
const DEPTH_MAX: usize = 32;

/// Reads a column to create: a name, a type, and `not null` where NULL is refused.
///
/// # Errors
/// When it is none.
pub fn column(text: &str) -> Result<ColumnConfig, LayoutProblem> {
    const HINT: &str = "write it as `id long not null` or `tags list<string>`";
    let Some((name, rest)) = text.trim().split_once(char::is_whitespace) else {
        return problem(format!("{text:?} has no type"), HINT);
    };
    let name = name.strip_suffix(':').unwrap_or(name);
    if !is_column(name) || name.contains('.') {
        return problem(format!("{name:?} is no column name"), HINT);
    }
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    let ends = |words: &[&str], end: &[&str]| {
        words.len() > end.len()
            && words[words.len() - end.len()..].iter().zip(end).all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    let required = if ends(&words, &["not", "null"]) {
        words.truncate(words.len() - 2);
        true
    } else if ends(&words, &["required"]) {
        words.truncate(words.len() - 1);
        true
    } else {
        false
    };
    let kind = words.join(" ");
    kind_of(&kind)?;
    Ok(ColumnConfig { name: name.to_owned(), kind, required })
}

/// Reads a type.
///
/// # Errors
/// When it is none.
pub fn kind_of(text: &str) -> Result<TypeText, LayoutProblem> {
    let mut rest = text.trim();
    let kind = parse_type(&mut rest, 0)?;
    if rest.trim().is_empty() {
        Ok(kind)
    } else {
        problem(format!("{rest:?} after the type is not understood"), types_hint())
    }
}

fn types_hint() -> String {
    format!("types are {}, decimal(9,2), fixed(16), list<…>, map<…, …>, struct<name: …>", PRIMITIVES.join(", "))
}

fn parse_type(rest: &mut &str, depth: usize) -> Result<TypeText, LayoutProblem> {
    if depth > DEPTH_MAX {
        return problem(format!("the type nests deeper than {DEPTH_MAX} levels"), "flatten it");
    }
    let word = take_word(rest);
    match word.to_lowercase().as_str() {
        "decimal" => {
            let numbers = take_numbers(rest)?;
            match numbers.as_slice() {
                [precision @ 1..=38, scale] if scale <= precision => {
                    Ok(TypeText::Decimal(small(*precision)?, small(*scale)?))
                }
                _ => {
                    problem("decimal takes a precision from 1 to 38 and a scale up to it", "write it as `decimal(9,2)`")
                }
            }
        }
        "fixed" => match take_numbers(rest)?.as_slice() {
            [length @ 1..=2_147_483_647] => Ok(TypeText::Fixed(*length)),
            _ => problem("fixed takes a length", "write it as `fixed(16)`"),
        },
        "list" => {
            expect(rest, '<')?;
            let element = parse_type(rest, depth + 1)?;
            expect(rest, '>')?;
            Ok(TypeText::List(Box::new(element)))
        }
        "map" => {
            expect(rest, '<')?;
            let key = parse_type(rest, depth + 1)?;
            expect(rest, ',')?;
            let value = parse_type(rest, depth + 1)?;
            expect(rest, '>')?;
            Ok(TypeText::Map(Box::new(key), Box::new(value)))
        }
        "struct" => parse_struct(rest, depth),
        word if PRIMITIVES.contains(&word) => Ok(TypeText::Primitive(word.to_owned())),
        _ => problem(
            format!("{word:?} is no type"),
            match crate::config::problem::nearest(word, PRIMITIVES.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => types_hint(),
            },
        ),
    }
}

fn parse_struct(rest: &mut &str, depth: usize) -> Result<TypeText, LayoutProblem> {
    expect(rest, '<')?;
    let mut fields: Vec<(String, TypeText)> = Vec::new();
    loop {
        let name = take_word(rest).to_owned();
        if !is_column(&name) {
            return problem(format!("{name:?} is no field name of a struct"), "write it as `struct<name: string>`");
        }
        if fields.iter().any(|(other, _)| *other == name) {
            return problem(format!("the field {name:?} of a struct is there twice"), "remove one of them");
        }
        expect(rest, ':')?;
        fields.push((name, parse_type(rest, depth + 1)?));
        match rest.trim_start().strip_prefix(',') {
            Some(after) => *rest = after,
            None => break,
        }
    }
    expect(rest, '>')?;
    Ok(TypeText::Struct(fields))
}

fn take_word<'a>(rest: &mut &'a str) -> &'a str {
    let text = rest.trim_start();
    let end = text.find(|c: char| c.is_whitespace() || "<>():,[]".contains(c)).unwrap_or(text.len());
    *rest = &text[end..];
    &text[..end]
}

fn take_numbers(rest: &mut &str) -> Result<Vec<u64>, LayoutProblem> {
    let text = rest.trim_start();
    let close = if text.starts_with('[') { ']' } else { ')' };
    let inside = text.strip_prefix(['(', '[']).and_then(|text| text.split_once(close));
    let Some((inside, after)) = inside else {
        return problem("the type's numbers are missing", types_hint());
    };
    *rest = after;
    match inside.split(',').map(|number| number.trim().parse::<u64>().ok()).collect() {
        Some(numbers) => Ok(numbers),
        None => problem(format!("{inside:?} are not numbers"), types_hint()),
    }
}

fn small(number: u64) -> Result<u32, LayoutProblem> {
    u32::try_from(number).or_else(|_| problem(format!("{number} is too large"), types_hint()))
}

fn expect(rest: &mut &str, sign: char) -> Result<(), LayoutProblem> {
    match rest.trim_start().strip_prefix(sign) {
        Some(after) => {
            *rest = after;
            Ok(())
        }
        None => problem(format!("`{sign}` is missing before {:?}", rest.trim_start()), types_hint()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transform_is_read() {
        let read = |text: &str| partition(text).map(|p| (p.transform, p.column, p.name)).expect(text);
        assert_eq!(read("region"), (TransformText::Identity, "region".into(), None));
        assert_eq!(read("day(order_ts)"), (TransformText::Day, "order_ts".into(), None));
        assert_eq!(read(" bucket( 16 , a.b ) as b16"), (TransformText::Bucket(16), "a.b".into(), Some("b16".into())));
        assert_eq!(read("truncate(name, 4)"), (TransformText::Truncate(4), "name".into(), None));
        assert_eq!(read("Hours(ts)"), (TransformText::Hour, "ts".into(), None));
    }

    #[test]
    fn nulls_stand_where_the_direction_puts_them_unless_said() {
        let read = |text: &str| sort(text).map(|s| (s.direction, s.nulls)).expect(text);
        assert_eq!(read("a"), (DirectionText::Ascending, NullsText::First));
        assert_eq!(read("a desc"), (DirectionText::Descending, NullsText::Last));
        assert_eq!(read("day(a) DESC NULLS FIRST"), (DirectionText::Descending, NullsText::First));
        assert_eq!(read("a nulls last"), (DirectionText::Ascending, NullsText::Last));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        for bad in
            ["", "bucket(x)", "bucket(0, a)", "bucket(a, b)", "day()", "day(a", "week(a)", "a b", "a,b", "a as", "5"]
        {
            assert!(partition(bad).is_err(), "{bad:?}");
        }
        for bad in ["a down", "a desc nulls", "a desc desc", "a nulls middle"] {
            assert!(sort(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn columns_have_a_name_a_type_and_perhaps_a_demand() {
        let read = column("id long not null").expect("valid");
        assert_eq!(read, ColumnConfig { name: "id".into(), kind: "long".into(), required: true });
        let read = column("p: struct<sku: string, price: decimal(9, 2), m: map<string, list<int>>>").expect("valid");
        assert_eq!((read.name.as_str(), read.required), ("p", false));
        assert!(matches!(kind_of(&read.kind), Ok(TypeText::Struct(fields)) if fields.len() == 3));
        for bad in [
            "id",
            "id strng",
            "id decimal(39,2)",
            "id list<>",
            "id list<int",
            "id struct<a: int, a: int>",
            "id int int",
        ] {
            assert!(column(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_type_that_nests_without_end_is_refused() {
        let deep = format!("{}int{}", "list<".repeat(10_000), ">".repeat(10_000));
        assert!(kind_of(&deep).is_err());
    }
}
