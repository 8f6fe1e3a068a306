//! Lines become rows as their columns want, and what is no line of the names is put aside.

use arrow::array::{Array, AsArray};

use super::*;
use crate::decode::avro::tests::{given, held};
use crate::decode::type_text::type_text;
use crate::model::batch::tests::raw;

fn config(names: &[&str]) -> Arc<CsvConfig> {
    let columns = names.iter().map(|name| (*name).to_owned()).collect();
    Arc::new(CsvConfig { columns, ..CsvConfig::default() })
}

fn lines(rows: &[&str]) -> RawBatch {
    raw(&rows.iter().map(|row| row.as_bytes().to_vec()).collect::<Vec<_>>())
}

fn decoder(schema: &SchemaRef, config: &Arc<CsvConfig>) -> CsvDecoder {
    CsvDecoder::new(schema, Arc::clone(config), JsonOptions::default()).expect("valid")
}

fn shown(batch: &Batch) -> Vec<String> {
    let row = |at: usize| {
        let mut out = String::new();
        for column in batch.rows.columns() {
            held(column, at, &mut out);
            out.push(' ');
        }
        out.trim_end().to_owned()
    };
    (0..batch.rows.num_rows()).map(row).collect()
}

fn reasons(batch: &Batch) -> Vec<String> {
    batch.rejects.iter().map(|reject| format!("{}: {}", reject.field, reject.reason)).collect()
}

#[test]
fn values_are_cut_at_the_mark_and_quotes_hold_it() {
    let names = config(&["a", "b", "c"]);
    let schema = given(&[("a", "string"), ("b", "string"), ("c", "string")]);
    let batch = lines(&[
        "x,y,z\r\n",
        ",\"\",é",
        "\"a,b\",\"say \"\"hi\"\"\",\"\"\"\"",
        "1,2",
        "1,2,3,4",
        "\"open,2,3",
        "\"a\"x,2,3",
        "\r\n",
        "a\"b,c d, e",
    ]);
    let decoded = decoder(&schema, &names).decode_observed(&batch).0;
    assert_eq!(
        shown(&decoded),
        [r#""x" "y" "z""#, r#"null "" "é""#, r#""a,b" "say \"hi\"" "\"""#, r#""a\"b" "c d" " e""#]
    );
    assert_eq!(
        reasons(&decoded),
        [
            ": the row has 2 values, not the 3 of decode.csv.columns",
            ": the row has 4 values, not the 3 of decode.csv.columns",
            ": a value in quotes has no end; it begins at byte 0",
            ": a value goes on after its quotes, at byte 3",
            ": the row is empty",
        ]
    );
    let mut own = CsvConfig::clone(&names);
    (own.delimiter, own.quote, own.null) = (';', '\'', "\\N".to_owned());
    let decoded =
        decoder(&schema, &Arc::new(own.clone())).decode_observed(&lines(&["\\N;'\\N';", "'it''s';\"x\";,"])).0;
    assert_eq!(shown(&decoded), [r#"null "\\N" """#, r#""it's" "\"x\"" ",""#]);
    // Between tabs may be nothing at all, and a blank may be a value.
    (own.delimiter, own.null) = ('\t', String::new());
    let decoded = decoder(&schema, &Arc::new(own)).decode_observed(&lines(&["\t\t\n", " \t\t"])).0;
    assert_eq!(shown(&decoded), ["null null null", r#"" " null null"#]);
    let decoded = decoder(&given(&[("a", "string")]), &config(&["a"])).decode_observed(&lines(&[" "])).0;
    assert_eq!(shown(&decoded), [r#"" ""#]);
}

#[test]
fn a_value_is_what_its_column_says() {
    for (column, text, expected) in [
        ("long", "12", "12"),
        ("long", "1e3", "1000"),
        ("long", "007", "v: \"007\" is no long"),
        ("int", "1.5", "v: 1.5 is no int"),
        ("double", "NaN", "NaN"),
        ("decimal(5, 2)", "1.25", "125"),
        ("boolean", "true", "true"),
        ("boolean", "yes", "v: \"yes\" is no boolean"),
        ("date", "2026-01-01", "20454"),
        ("date", "3", "3"),
        ("time", "01:00", "3600000000"),
        ("timestamptz", "2026-01-01T00:00:00Z", "1767225600000000"),
        ("timestamptz", "1500", "1500000"),
        ("string", "true", "\"true\""),
        ("binary", "AQI=", "[1, 2]"),
        ("list<long>", "1", "v: the column holds more than one value, and CSV has none for that"),
        ("list<long>", "", "null"),
        ("long not null", "", "v: null, and the column is required"),
    ] {
        let decoder = decoder(&given(&[("v", column), ("w", "long")]), &config(&["v", "w"]));
        let decoded = decoder.decode_as(&lines(&[&format!("{text},7")]), OnChange::Quarantine).0;
        let found = match decoded.rejects.is_empty() {
            true => shown(&decoded)[0].trim_end_matches(" 7").to_owned(),
            false => reasons(&decoded).join(" "),
        };
        assert_eq!(found, expected, "{text} into {column}");
    }
}

#[test]
fn the_first_rows_suggest_the_columns_and_later_ones_change_them() {
    let names = config(&["id", "price", "on", "day", "at", "code", "mixed", "nothing"]);
    let rows =
        ["1,2,true,2026-01-01,2026-01-01T00:00:00Z,007,1,", "2,2.5,false,2026-01-02,2026-01-01T00:00:00Z,1,x,", "bad"];
    let sample = rows.iter().map(|row| row.as_bytes());
    let schema = table_schema(&names, None, sample, &BTreeMap::new(), GrowthLimits::default()).expect("valid");
    let columns: Vec<String> =
        schema.as_struct().fields().iter().map(|f| format!("{}: {}", f.name, type_text(&f.field_type))).collect();
    assert_eq!(
        columns,
        ["id: long", "price: double", "on: boolean", "day: date", "at: timestamptz", "code: string", "mixed: string"]
    );
    let schema = given(&[("id", "int"), ("need", "long not null"), ("money", "decimal(3, 1)")]);
    let names = config(&["id", "need", "money", "new"]);
    let decoder = decoder(&schema, &names);
    let batch = lines(&["1,1,1.5,", "3000000000,,1234.5,true", "x,,,"]);
    let (decoded, observed) = decoder.decode_observed(&batch);
    assert_eq!(decoded.source_rows, [0]);
    let id = |name: &str| schema.field_id_by_name(name).expect(name);
    assert_eq!(observed.widened.keys().copied().collect::<Vec<_>>(), [id("id"), id("money")]);
    assert_eq!(observed.relaxed.iter().copied().collect::<Vec<_>>(), [id("need")]);
    assert_eq!(
        observed.added[&None].fields().map(|(name, shape)| (name, shape.clone())).collect::<Vec<_>>(),
        [("new", Shape::Boolean)]
    );
    let (frozen, seen) = decoder.decode_as(&lines(&["1,1,1,true"]), OnChange::Freeze);
    assert_eq!((frozen.rows.num_rows(), seen.ignored), (1, 1));
    let refused = decoder.decode_as(&lines(&["1,1,1,true"]), OnChange::Quarantine).0;
    assert_eq!(reasons(&refused), ["new: the table has no such column"]);
    // A column that no value is for is NULL.
    let more = given(&[("id", "long"), ("other", "string")]);
    let decoded = CsvDecoder::new(&more, config(&["id"]), JsonOptions::default())
        .expect("valid")
        .decode_observed(&lines(&["4"]))
        .0;
    assert!(decoded.rows.column(1).as_string::<i32>().is_null(0));
}

#[test]
fn a_row_of_more_values_than_names_is_counted_without_being_held() {
    let names = config(&["a", "b"]);
    let marks = ",".repeat(100_000);
    let (values, count) = Values::of(&names, marks.as_bytes()).and_then(|mut values| values.kept(2)).expect("values");
    assert_eq!((values.capacity(), count), (2, 100_001));
}

/// Lines of a file that begins with `header`.
fn below(header: Option<&str>, rows: &[&str]) -> RawBatch {
    RawBatch { header: header.map(|line| line.to_owned().into()), ..lines(rows) }
}

#[test]
fn values_go_to_the_columns_that_the_files_first_line_names_in_whatever_order() {
    let config = Arc::new(CsvConfig { header: true, ..CsvConfig::default() });
    let schema = given(&[("id", "long"), ("name", "string"), ("price", "double")]);
    let decoder = decoder(&schema, &config);
    let decoded = |batch: &RawBatch, on_change| decoder.decode_as(batch, on_change);
    let evolve = OnChange::Evolve;
    assert_eq!(shown(&decoded(&below(Some("id,name,price\r"), &["1,a,1.5"]), evolve).0), [r#"1 "a" 1.5"#]);
    // The next batch of the same file, and one of another.
    for (header, rows) in
        [("id,name,price\r", "1,a,1.5"), ("name,id,price\r", "a,1,1.5"), ("name,id,price\r", "a,1,1.5")]
    {
        assert_eq!(shown(&decoded(&below(Some(header), &[rows]), evolve).0), [r#"1 "a" 1.5"#], "{header}");
    }
    // What the file has no value for is NULL; a name in quotes may hold the mark.
    assert_eq!(
        shown(&decoded(&below(Some("price,\"id\""), &["1.5,1", "2,"]), evolve).0),
        ["1 null 1.5", "null null 2.0"]
    );
    // A name that is no column does as a field of JSON does.
    let more = below(Some("\"a,b\",id"), &["x,1", ",2"]);
    let (grown, observed) = decoded(&more, evolve);
    assert_eq!(observed.added[&None].fields().map(|(name, _)| name).collect::<Vec<_>>(), ["a,b"]);
    assert_eq!(grown.rows.num_rows(), 2);
    let (frozen, observed) = decoded(&more, OnChange::Freeze);
    assert_eq!((frozen.rows.num_rows(), observed.ignored), (2, 1));
    assert_eq!(reasons(&decoded(&more, OnChange::Quarantine).0), ["a,b: the table has no such column"]);
    // As many values as names.
    let short = decoded(&below(Some("id,name"), &["1", "1,a,2"]), evolve).0;
    assert_eq!(
        reasons(&short),
        [
            ": the row has 1 values, not the 2 of the line that names them",
            ": the row has 3 values, not the 2 of the line that names them"
        ]
    );
}

#[test]
fn a_first_line_that_does_not_name_all_values_rejects_the_rows_of_its_file() {
    let config = Arc::new(CsvConfig { header: true, ..CsvConfig::default() });
    let decoder = decoder(&given(&[("id", "long")]), &config);
    let long = (0..10_001).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
    assert_eq!(
        header_names(&config, Some(&long[..long.len() - 7].to_owned().into())).map(|n| n.len()).ok(),
        Some(10_000)
    );
    for (header, reason) in [
        (Some("id,ID"), "it has the name \"ID\" twice"),
        (Some("id,,name"), "name 2 is empty"),
        (Some("id,\"\""), "name 2 is empty"),
        (Some("id, "), "name 2 is empty"),
        (Some(""), "it is empty, or no UTF-8"),
        (Some("\"id"), "a value in quotes has no end; it begins at byte 0"),
        (Some(&long), "it has more than 10000 names"),
        (None, "it is not there, or longer than row_bytes_max"),
    ] {
        let batch = below(header, &["1", "2"]);
        let decoded = decoder.decode_observed(&batch).0;
        let expected = format!(": the line that names the file's values: {reason}");
        assert_eq!(reasons(&decoded), [expected.clone(), expected]);
        assert_eq!(decoded.rows.num_rows(), 0);
        let header = batch.header.as_ref();
        let schema = table_schema(&config, header, [&b"1"[..]].into_iter(), &BTreeMap::new(), GrowthLimits::default());
        assert!(schema.expect("valid").as_struct().fields().is_empty());
    }
    let header = Some(&Bytes::from_static(b"id,name"));
    let rows = [&b"1,a"[..], b"2,b"];
    let schema = table_schema(&config, header, rows.into_iter(), &BTreeMap::new(), GrowthLimits::default());
    let schema = schema.expect("valid");
    let columns: Vec<String> =
        schema.as_struct().fields().iter().map(|f| format!("{}: {}", f.name, type_text(&f.field_type))).collect();
    assert_eq!(columns, ["id: long", "name: string"]);
}
