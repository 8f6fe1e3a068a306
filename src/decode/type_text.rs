//! Column types as text: `decimal(9, 2)`, `struct<a: int not null, b: list<string>>`, `map<string, long>`.
//!
//! The words are the specification's; white space and case do not matter. Fields of structs, list elements and map
//! values take NULL unless `not null` follows. A name that is not made of letters, digits, `_` and `-` stands in
//! backticks.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::config::ColumnConfig;
use crate::decode::scan::DEPTH_MAX;
use crate::error::{Context, Error, ErrorKind, Result};

const WORDS: &str = "boolean, int, long, float, double, decimal(p, s), date, time, timestamp, timestamptz, timestamp_ns, \
                     timestamptz_ns, string, uuid, fixed(n), binary, struct<…>, list<…>, map<…, …>";

/// The schema of configured columns, with field ids from 1.
///
/// # Errors
/// All problems, each `Config` with column and place.
pub fn schema_of(columns: &[ColumnConfig]) -> Result<Schema, Vec<Error>> {
    let (mut next_id, mut fields, mut problems) = (1, Vec::<NestedFieldRef>::new(), Vec::new());
    for (index, column) in columns.iter().enumerate() {
        let place = || format!("column {} {:?}", index + 1, column.name);
        if column.name.is_empty() {
            problems.push(Error::new(ErrorKind::Config, "the name is empty").within(place()));
        } else if fields.iter().any(|field| field.name.to_lowercase() == column.name.to_lowercase()) {
            let hint = "engines do not tell names apart that differ in case only";
            problems.push(Error::new(ErrorKind::Config, "the name occurs twice").with_hint(hint).within(place()));
        }
        let id = next_id;
        next_id += 1;
        match parse_type(&column.kind, &mut next_id) {
            Ok(kind) => fields.push(Arc::new(NestedField::new(id, &column.name, kind, column.required))),
            Err(error) => problems.push(error.within(place())),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let schema = Schema::builder().with_fields(fields).build();
    schema.context(ErrorKind::Config, || "the columns make no schema").map_err(|error| vec![error])
}

/// The type that `text` names; nested fields get ids from `next_id` on.
///
/// # Errors
/// `Config` with the place in the text.
pub fn parse_type(text: &str, next_id: &mut i32) -> Result<Type> {
    let mut parser = Parser { text, at: 0, depth: 0, next_id };
    let kind = parser.kind()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.wrong("nothing more"));
    }
    Ok(kind)
}

/// A type as [`parse_type`] reads it.
pub fn type_text(kind: &Type) -> String {
    match kind {
        Type::Primitive(primitive) => primitive_text(primitive),
        Type::Struct(inner) => {
            let fields: Vec<_> =
                inner.fields().iter().map(|f| format!("{}: {}", quoted(&f.name), nested_text(f))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        Type::List(list) => format!("list<{}>", nested_text(&list.element_field)),
        Type::Map(map) => format!("map<{}, {}>", type_text(&map.key_field.field_type), nested_text(&map.value_field)),
    }
}

fn nested_text(field: &NestedField) -> String {
    format!("{}{}", type_text(&field.field_type), if field.required { " not null" } else { "" })
}

fn primitive_text(primitive: &PrimitiveType) -> String {
    match primitive {
        PrimitiveType::Decimal { precision, scale } => format!("decimal({precision}, {scale})"),
        PrimitiveType::Fixed(length) => format!("fixed({length})"),
        PrimitiveType::TimestampNs => "timestamp_ns".to_owned(),
        PrimitiveType::TimestamptzNs => "timestamptz_ns".to_owned(),
        other => other.to_string(),
    }
}

fn quoted(name: &str) -> String {
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}

fn plain(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    next_id: &'t mut i32,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn wrong(&self, expected: &str) -> Error {
        let found = match self.rest().chars().next() {
            Some(c) => format!("{c:?}"),
            None => "the end".to_owned(),
        };
        let place = self.text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        Error::new(
            ErrorKind::Config,
            format!("type {:?}, character {place}: {expected} is expected, not {found}", self.text),
        )
    }

    fn take(&mut self, mark: char) -> bool {
        self.space();
        let found = self.rest().starts_with(mark);
        self.at += if found { mark.len_utf8() } else { 0 };
        found
    }

    fn require(&mut self, mark: char) -> Result<()> {
        if self.take(mark) { Ok(()) } else { Err(self.wrong(&format!("{mark:?}"))) }
    }

    fn word(&mut self) -> &'t str {
        self.space();
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !plain(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn claim(&mut self) -> Result<i32> {
        let id = *self.next_id;
        *self.next_id = id.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Config, "too many columns"))?;
        Ok(id)
    }

    fn kind(&mut self) -> Result<Type> {
        self.space();
        let start = self.at;
        let word = self.word().to_lowercase();
        if matches!(word.as_str(), "struct" | "list" | "map") {
            if self.depth == DEPTH_MAX / 2 {
                return Err(Error::new(ErrorKind::Config, format!("nested deeper than {} levels", DEPTH_MAX / 2)));
            }
            self.depth += 1;
            self.require('<')?;
            let kind = match word.as_str() {
                "struct" => self.fields()?,
                "list" => {
                    let id = self.claim()?;
                    let (kind, required) = self.nested()?;
                    Type::List(ListType::new(Arc::new(NestedField::list_element(id, kind, required))))
                }
                _ => self.map()?,
            };
            self.require('>')?;
            self.depth -= 1;
            return Ok(kind);
        }
        Ok(Type::Primitive(match word.as_str() {
            "boolean" => PrimitiveType::Boolean,
            "int" => PrimitiveType::Int,
            "long" => PrimitiveType::Long,
            "float" => PrimitiveType::Float,
            "double" => PrimitiveType::Double,
            "date" => PrimitiveType::Date,
            "time" => PrimitiveType::Time,
            "timestamp" => PrimitiveType::Timestamp,
            "timestamptz" => PrimitiveType::Timestamptz,
            "timestamp_ns" => PrimitiveType::TimestampNs,
            "timestamptz_ns" => PrimitiveType::TimestamptzNs,
            "string" => PrimitiveType::String,
            "uuid" => PrimitiveType::Uuid,
            "binary" => PrimitiveType::Binary,
            "decimal" => self.decimal()?,
            "fixed" => self.fixed()?,
            _ => {
                self.at = start;
                return Err(self.wrong("a type").with_hint(format!("types are {WORDS}")));
            }
        }))
    }

    /// A type and whether `not null` follows.
    fn nested(&mut self) -> Result<(Type, bool)> {
        let kind = self.kind()?;
        let start = self.at;
        match self.word().to_lowercase().as_str() {
            "" => Ok((kind, false)),
            "not" if self.word().eq_ignore_ascii_case("null") => Ok((kind, true)),
            _ => {
                self.at = start;
                self.space();
                Err(self.wrong("\"not null\", ',' or '>'"))
            }
        }
    }

    fn fields(&mut self) -> Result<Type> {
        let mut fields: Vec<NestedFieldRef> = Vec::new();
        loop {
            self.space();
            let start = self.at;
            let name = self.name()?;
            if fields.iter().any(|field| field.name.to_lowercase() == name.to_lowercase()) {
                self.at = start;
                return Err(self.wrong("a name that did not occur yet"));
            }
            self.require(':')?;
            let id = self.claim()?;
            let (kind, required) = self.nested()?;
            fields.push(Arc::new(NestedField::new(id, name, kind, required)));
            if !self.take(',') {
                return Ok(Type::Struct(StructType::new(fields)));
            }
        }
    }

    fn name(&mut self) -> Result<String> {
        if !self.take('`') {
            let name = self.word();
            return if name.is_empty() { Err(self.wrong("a name")) } else { Ok(name.to_owned()) };
        }
        let mut name = String::new();
        loop {
            let Some(end) = self.rest().find('`') else { return Err(self.wrong("a name that ends with '`'")) };
            name.push_str(&self.rest()[..end]);
            self.at += end + 1;
            if !self.rest().starts_with('`') {
                break;
            }
            name.push('`');
            self.at += 1;
        }
        if name.is_empty() { Err(self.wrong("a name")) } else { Ok(name) }
    }

    fn map(&mut self) -> Result<Type> {
        let (key_id, value_id) = (self.claim()?, self.claim()?);
        self.space();
        let start = self.at;
        let key = self.kind()?;
        if !key.is_primitive() {
            self.at = start;
            return Err(self.wrong("a primitive type as the map's key"));
        }
        self.require(',')?;
        let (value, required) = self.nested()?;
        Ok(Type::Map(MapType::new(
            Arc::new(NestedField::map_key_element(key_id, key)),
            Arc::new(NestedField::map_value_element(value_id, value, required)),
        )))
    }

    fn number(&mut self, max: u32) -> Result<u32> {
        self.space();
        let start = self.at;
        match self.word().parse::<u32>() {
            Ok(number) if number <= max => Ok(number),
            _ => {
                self.at = start;
                Err(self.wrong(&format!("a number up to {max}")))
            }
        }
    }

    fn decimal(&mut self) -> Result<PrimitiveType> {
        self.require('(')?;
        self.space();
        let start = self.at;
        let precision = self.number(38)?;
        if precision == 0 {
            self.at = start;
            return Err(self.wrong("a precision from 1"));
        }
        let scale = if self.take(',') { self.number(precision)? } else { 0 };
        self.require(')')?;
        Ok(PrimitiveType::Decimal { precision, scale })
    }

    fn fixed(&mut self) -> Result<PrimitiveType> {
        let close = if self.take('[') {
            ']'
        } else {
            self.require('(')?;
            ')'
        };
        let length = self.number(i32::MAX.cast_unsigned())?;
        self.require(close)?;
        Ok(PrimitiveType::Fixed(u64::from(length)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String> {
        parse_type(text, &mut 1).map(|kind| type_text(&kind))
    }

    #[test]
    fn types_are_read_as_the_specification_writes_them() {
        for (text, expected) in [
            ("decimal(9,2)", "decimal(9, 2)"),
            (" DECIMAL ( 38 ) ", "decimal(38, 0)"),
            ("fixed[16]", "fixed(16)"),
            ("fixed(16)", "fixed(16)"),
            ("timestamptz_ns", "timestamptz_ns"),
            ("map<string,long>", "map<string, long>"),
            ("list<int not null>", "list<int not null>"),
            ("struct<a: int, b: list<string>>", "struct<a: int, b: list<string>>"),
            (
                "struct<`odd ``name`:int NOT NULL,b:map<uuid,struct<c:date>not null>>",
                "struct<`odd ``name`: int not null, b: map<uuid, struct<c: date> not null>>",
            ),
        ] {
            assert_eq!(parse(text).expect(text), expected);
        }
    }

    #[test]
    fn a_mistake_is_shown_with_its_place() {
        for (text, expected) in [
            ("", "type \"\", character 1: a type is expected, not the end"),
            ("strin", "type \"strin\", character 1: a type is expected, not 's'"),
            ("string x", "type \"string x\", character 8: nothing more is expected, not 'x'"),
            ("decimal(39,2)", "type \"decimal(39,2)\", character 9: a number up to 38 is expected, not '3'"),
            ("decimal(9,10)", "type \"decimal(9,10)\", character 11: a number up to 9 is expected, not '1'"),
            ("decimal(0)", "type \"decimal(0)\", character 9: a precision from 1 is expected, not '0'"),
            ("list<int", "type \"list<int\", character 9: '>' is expected, not the end"),
            (
                "list<int maybe>",
                "type \"list<int maybe>\", character 10: \"not null\", ',' or '>' is expected, not 'm'",
            ),
            (
                "map<list<int>, int>",
                "type \"map<list<int>, int>\", character 5: a primitive type as the map's key is expected, not 'l'",
            ),
            ("struct<a int>", "type \"struct<a int>\", character 10: ':' is expected, not 'i'"),
            (
                "struct<a: int, A: int>",
                "type \"struct<a: int, A: int>\", character 16: a name that did not occur yet is expected, not 'A'",
            ),
            ("struct<>", "type \"struct<>\", character 8: a name is expected, not '>'"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
        assert!(parse(&"list<".repeat(100_000)).is_err());
    }

    fn column(name: &str, kind: &str, required: bool) -> ColumnConfig {
        ColumnConfig { name: name.to_owned(), kind: kind.to_owned(), required }
    }

    #[test]
    fn columns_make_a_schema_with_ids_of_their_own() {
        let schema =
            schema_of(&[column("id", "long", true), column("o", "struct<a: int>", false), column("z", "date", false)])
                .expect("valid");
        let ids: Vec<_> = schema.as_struct().fields().iter().map(|f| (f.id, f.required)).collect();
        assert_eq!(ids, [(1, true), (2, false), (4, false)]);
    }

    #[test]
    fn all_bad_columns_are_named_at_once() {
        let problems = schema_of(&[
            column("a", "lnog", false),
            column("", "int", false),
            column("b", "int", false),
            column("B", "date", false),
        ])
        .expect_err("three problems");
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "column 1 \"a\": type \"lnog\", character 1: a type is expected, not 'l'",
                "column 2 \"\": the name is empty",
                "column 4 \"B\": the name occurs twice",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_type_that_reads_back_or_an_error(text in "((list|map|struct|int|decimal|not null|fixed|`a`|a:)|[<>(),0-9: é`])*") {
            if let Ok(shown) = parse(&text) {
                prop_assert_eq!(parse(&shown).expect("reads back"), shown);
            }
        }
    }
}
