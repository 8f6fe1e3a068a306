//! A schema from the first rows of a stream.
//!
//! Every column is optional. Integers become `long` (`decimal(38, 0)` beyond 64 bits), numbers with a fraction or an
//! exponent `double`, texts that are all timestamps or dates `timestamptz`, `timestamp` (without zones) or `date`,
//! objects structs, arrays lists. Integers beside fractions are `double`; any other mixture is a `string` that holds
//! the JSON text. What was only null or empty is left out until it is seen with a value. Columns keep the order of
//! their first appearance. The limits of [`Growth`] hold.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::Schema;

use crate::config::MetadataColumn;
use crate::decode::fault::shortened;
use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder, LeftOut};
use crate::decode::observe::StructShape;
use crate::decode::scan::{Kind, Scanner};
use crate::error::{Context, ErrorKind, Result};

/// What some rows suggest.
#[derive(Debug)]
pub struct Inferred {
    /// The schema, with field ids from 1; without columns when no row had any.
    pub schema: Schema,
    /// Rows that it is made from.
    pub rows: usize,
    /// Rows that are no JSON objects.
    pub malformed: usize,
    /// Fields that do not become columns.
    pub left_out: Vec<LeftOut>,
}

/// Infers a schema from `rows`; the caller decides how many. Fields with the name of a `metadata` column, in whatever
/// case, are left out.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn infer<'a>(
    rows: impl IntoIterator<Item = &'a [u8]>,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
) -> Result<Inferred> {
    let (mut shape, mut read, mut malformed) = (StructShape::default(), 0, 0);
    for row in rows {
        match read_row(row) {
            Some(row) => {
                shape.merge(row);
                read += 1;
            }
            None => malformed += 1,
        }
    }
    let invalid = || "the inferred columns make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    for (name, _) in shape.fields().filter(|(name, _)| reserved.contains(&name.to_lowercase())) {
        let reason = "the name belongs to a metadata column".to_owned();
        growth.left_out.push(LeftOut { path: shortened(name).into_owned(), reason });
    }
    let fields = growth.fields("", 0, &shape.without(|name| reserved.contains(&name.to_lowercase())));
    let schema = Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)?;
    Ok(Inferred { schema, rows: read, malformed, left_out: growth.left_out })
}

/// What one row holds; `None` where it is no object.
pub(crate) fn read_row(row: &[u8]) -> Option<StructShape> {
    let mut scanner = Scanner::new(std::str::from_utf8(row).ok()?);
    if scanner.peek().ok()? != Kind::Object {
        return None;
    }
    let shape = StructShape::read(&mut scanner).ok()?;
    scanner.end().ok()?;
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::type_text::type_text;

    fn inferred(rows: &[&str]) -> Inferred {
        infer(rows.iter().map(|row| row.as_bytes()), &BTreeMap::new(), GrowthLimits::default()).expect("a schema")
    }

    fn columns(rows: &[&str]) -> Vec<String> {
        let schema = inferred(rows).schema;
        schema.as_struct().fields().iter().map(|f| format!("{}: {}", f.name, type_text(&f.field_type))).collect()
    }

    #[test]
    fn each_kind_of_value_suggests_a_type() {
        let row = r#"{"z":1,"b":true,"d":1.0,"s":"x","at":"2026-01-01T00:00:00Z","local":"2026-01-01 10:00:00","day":"2026-01-01",
            "id":"67e55044-10b1-426f-9247-bb680e5fe0c8","huge":12345678901234567890,"tags":["a"],"o":{"y":1,"x":{}},"n":null,"e":[],"eo":{},"el":[null,{}]}"#;
        assert_eq!(
            columns(&[row]),
            [
                "z: long",
                "b: boolean",
                "d: double",
                "s: string",
                "at: timestamptz",
                "local: timestamp",
                "day: date",
                "id: string",
                "huge: decimal(38, 0)",
                "tags: list<string>",
                "o: struct<y: long>"
            ]
        );
    }

    #[test]
    fn mixtures_become_what_takes_all_of_them() {
        for (values, expected) in [
            ([r"1", "1.5"], Some("double")),
            (["12345678901234567890", "-1"], Some("decimal(38, 0)")),
            (["12345678901234567890", "1e3"], Some("double")),
            (["1e400", "1"], Some("string")),
            (["true", "1"], Some("string")),
            (["null", "1"], Some("long")),
            (["{}", "1"], Some("string")),
            (["[]", "{\"a\":1}"], Some("string")),
            (["{}", "{\"a\":1}"], Some("struct<a: long>")),
            (["[1]", "{\"a\":1}"], Some("string")),
            (["[1]", "[null,1.5]"], Some("list<double>")),
            (["{\"a\":1}", "{\"b\":\"x\"}"], Some("struct<a: long, b: string>")),
            (["\"2026-01-01\"", "\"2026-01-01T00:00:00\""], Some("timestamp")),
            (["\"2026-01-01\"", "\"2026-01-01T00:00:00Z\""], Some("string")),
            (["\"2026-01-01\"", "\"soon\""], Some("string")),
            (["\"2026-01-01\"", "\"\""], Some("string")),
            (["null", "[{}]"], None),
        ] {
            let rows = values.map(|value| format!("{{\"v\":{value}}}"));
            let expected: Vec<_> = expected.map(|kind| format!("v: {kind}")).into_iter().collect();
            assert_eq!(columns(&[&rows[0], &rows[1]]), expected, "{values:?}");
            assert_eq!(columns(&[&rows[1], &rows[0]]).len(), expected.len(), "{values:?}");
        }
    }

    #[test]
    fn rows_that_are_no_objects_are_counted_and_do_not_count() {
        let inferred = inferred(&["{\"a\":1}", "[]", "{\"a\":", "", "{\"a\":true,\"a\":true}"]);
        assert_eq!((inferred.rows, inferred.malformed), (1, 4));
        assert_eq!(inferred.schema.as_struct().fields().len(), 1);
    }

    #[test]
    fn names_that_engines_cannot_tell_apart_are_left_out_and_named() {
        let long = format!("{{\"{}\":1}}", "x".repeat(NAME_TOO_LONG));
        let inferred = inferred(&[r#"{"a":1,"A":2,"":3,"s":{"t":1},"s.t":2}"#, &long]);
        assert_eq!(
            inferred.schema.as_struct().fields().iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            ["a", "s"]
        );
        assert_eq!(inferred.left_out.iter().map(|l| l.path.chars().count()).collect::<Vec<_>>(), [1, 0, 3, 129]);
    }

    const NAME_TOO_LONG: usize = crate::decode::observe::NAME_BYTES_MAX + 1;

    #[test]
    fn a_row_cannot_take_the_name_of_a_metadata_column() {
        let metadata = BTreeMap::from([("_origin".to_owned(), MetadataColumn::Origin)]);
        let row: &[u8] = br#"{"_Origin":1,"a":1}"#;
        let inferred = infer([row], &metadata, GrowthLimits::default()).expect("a schema");
        assert_eq!((inferred.schema.as_struct().fields().len(), inferred.left_out[0].path.as_str()), (1, "_Origin"));
    }

    #[test]
    fn limits_hold_on_columns_and_depth() {
        let limits = GrowthLimits { columns_max: 4, depth_max: 2 };
        let row: &[u8] = br#"{"a":1,"wide":{"b":1,"c":1,"d":1},"deep":{"l":[1]},"late":1}"#;
        let inferred = infer([row], &BTreeMap::new(), limits).expect("a schema");
        let shown: Vec<_> = inferred
            .schema
            .as_struct()
            .fields()
            .iter()
            .map(|f| format!("{}: {}", f.name, type_text(&f.field_type)))
            .collect();
        assert_eq!(shown, ["a: long", "deep: struct<l: list<long>>"]);
        assert_eq!(inferred.left_out.iter().map(|l| l.path.as_str()).collect::<Vec<_>>(), ["wide", "late"]);
        let deeper: &[u8] = br#"{"deep":{"l":[{"a":1}]}}"#;
        let inferred = infer([deeper], &BTreeMap::new(), limits).expect("a schema");
        assert_eq!(type_text(&inferred.schema.as_struct().fields()[0].field_type), "struct<l: list<string>>");
    }
}
