use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use iceberg::spec::{ListType, Literal, MapType, NestedField, PrimitiveType, Schema, StructType, Type};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::model::batch::{self, Stage};

/// A batch of these rows, whatever the length of each.
fn raw(rows: &[&[u8]]) -> RawBatch {
    batch::tests::raw(rows)
}

fn primitive(kind: PrimitiveType) -> Type {
    Type::Primitive(kind)
}

fn schema(fields: Vec<NestedField>) -> SchemaRef {
    Arc::new(Schema::builder().with_fields(fields.into_iter().map(Arc::new)).build().expect("valid"))
}

fn decoder(fields: Vec<NestedField>, on_change: OnChange) -> JsonDecoder {
    JsonDecoder::new(&schema(fields), JsonOptions { on_change, ..JsonOptions::default() }).expect("valid")
}

/// What one row makes of one optional column `v`: the value as Arrow shows it, or path and reason.
fn one(kind: Type, json: &str) -> Result<String, (String, String)> {
    let decoder = decoder(vec![NestedField::optional(1, "v", kind)], OnChange::Freeze);
    let row = format!("{{\"v\":{json}}}");
    let mut batch = decoder.decode(&raw(&[row.as_bytes()]));
    match batch.rejects.pop() {
        Some(reject) => Err((reject.field, reject.reason)),
        None => Ok(array_value_to_string(batch.rows.column(0), 0).expect("shows")),
    }
}

fn takes(kind: PrimitiveType, cases: &[(&str, &str)]) {
    for (json, expected) in cases {
        assert_eq!(one(primitive(kind.clone()), json).as_deref(), Ok(*expected), "{json} into {kind}");
    }
}

fn refuses(kind: PrimitiveType, cases: &[&str]) {
    for json in cases {
        let (field, reason) = one(primitive(kind.clone()), json).expect_err(json);
        assert_eq!(field, "v", "{json} into {kind}: {reason}");
    }
}

#[test]
fn booleans_are_the_two_words() {
    takes(PrimitiveType::Boolean, &[("true", "true"), ("false", "false"), ("null", "")]);
    refuses(PrimitiveType::Boolean, &["0", "\"true\"", "[]", "{}"]);
}

#[test]
fn integers_have_no_fraction_and_fit() {
    takes(
        PrimitiveType::Int,
        &[("-2147483648", "-2147483648"), ("1.0", "1"), ("2e3", "2000"), ("\"7\"", "7"), ("-0", "0")],
    );
    refuses(PrimitiveType::Int, &["3e9", "3000000000", "1.5", "\"x\"", "\"\"", "\" 7\"", "true", "[1]"]);
    takes(
        PrimitiveType::Long,
        &[("9223372036854775807", "9223372036854775807"), ("-9223372036854775808", "-9223372036854775808")],
    );
    refuses(PrimitiveType::Long, &["9223372036854775808", "1e19", "0.1", "1e-1"]);
}

#[test]
fn floats_take_any_number_in_their_range() {
    takes(
        PrimitiveType::Double,
        &[("1", "1.0"), ("0.1", "0.1"), ("-1.5e300", "-1.5e300"), ("\"NaN\"", "NaN"), ("\"2.5\"", "2.5")],
    );
    refuses(PrimitiveType::Double, &["1e400", "\"nan\"", "true"]);
    takes(PrimitiveType::Float, &[("0.1", "0.1"), ("\"-Infinity\"", "-inf")]);
    refuses(PrimitiveType::Float, &["1e39", "1e400"]);
}

#[test]
fn decimals_are_exact_or_refused() {
    let money = PrimitiveType::Decimal { precision: 9, scale: 2 };
    takes(
        money.clone(),
        &[("0.1", "0.10"), ("-1234567.89", "-1234567.89"), ("\"5\"", "5.00"), ("1.5e1", "15.00"), ("1.230", "1.23")],
    );
    refuses(money, &["12345678.90", "0.001", "\"abc\"", "true", "1e40"]);
    let wide = PrimitiveType::Decimal { precision: 38, scale: 2 };
    takes(
        wide,
        &[
            ("12345678901234567.89", "12345678901234567.89"),
            ("123456789012345678901234567890123456.78", "123456789012345678901234567890123456.78"),
        ],
    );
}

#[test]
fn dates_and_times_are_texts_or_days() {
    takes(PrimitiveType::Date, &[("\"2026-01-31\"", "2026-01-31"), ("0", "1970-01-01"), ("-1", "1969-12-31")]);
    refuses(PrimitiveType::Date, &["\"2026-02-30\"", "\"2026-01-31T00:00:00Z\"", "1.5", "99999999999", "true"]);
    takes(PrimitiveType::Time, &[("\"23:59:59.123456\"", "23:59:59.123456"), ("\"08:30\"", "08:30:00")]);
    refuses(PrimitiveType::Time, &["\"24:00\"", "1", "\"noon\""]);
}

#[test]
fn timestamps_are_texts_or_numbers_since_the_epoch() {
    takes(
        PrimitiveType::Timestamptz,
        &[
            ("\"2026-01-01T12:00:00.123456789+02:00\"", "2026-01-01T10:00:00.123456Z"),
            ("\"2026-01-01 12:00:00\"", "2026-01-01T12:00:00Z"),
            ("1767225600123", "2026-01-01T00:00:00.123Z"),
            ("-1", "1969-12-31T23:59:59.999Z"),
            ("1767225600123.4567", "2026-01-01T00:00:00.123456Z"),
        ],
    );
    takes(
        PrimitiveType::Timestamp,
        &[("\"2026-01-01T12:00:00+02:00\"", "2026-01-01T10:00:00"), ("\"2026-01-01\"", "2026-01-01T00:00:00")],
    );
    takes(PrimitiveType::TimestamptzNs, &[("\"2026-01-01T12:00:00.123456789Z\"", "2026-01-01T12:00:00.123456789Z")]);
    takes(PrimitiveType::TimestampNs, &[("1767225600123", "2026-01-01T00:00:00.123")]);
    refuses(PrimitiveType::Timestamptz, &["\"yesterday\"", "1e30", "true", "\"1767225600\"", "{}"]);
    refuses(PrimitiveType::TimestampNs, &["\"2300-01-01T00:00:00\""]);
    let seconds = JsonOptions { epoch: Epoch::Seconds, ..JsonOptions::default() };
    let field = NestedField::optional(1, "v", primitive(PrimitiveType::Timestamptz));
    let decoder = JsonDecoder::new(&schema(vec![field]), seconds).expect("valid");
    let batch = decoder.decode(&raw(&[b"{\"v\":1767225600.5}"]));
    assert_eq!(array_value_to_string(batch.rows.column(0), 0).expect("shows"), "2026-01-01T00:00:00.500Z");
}

#[test]
fn a_string_takes_everything_as_its_json_text() {
    takes(
        PrimitiveType::String,
        &[
            (r#""a\"b\u00e9""#, "a\"bé"),
            ("1.50", "1.50"),
            ("true", "true"),
            (r#"{"a": [1, null]}"#, r#"{"a": [1, null]}"#),
            ("\"\"", ""),
        ],
    );
    let (field, reason) = one(primitive(PrimitiveType::String), r#""\ud800""#).expect_err("lone surrogate");
    assert_eq!((field.as_str(), reason.as_str()), ("", r#"malformed JSON: "\\ud800" is no escape"#));
}

#[test]
fn bytes_come_as_base64_and_uuids_as_text() {
    takes(PrimitiveType::Binary, &[("\"aGk=\"", "6869"), ("\"aGk\"", "6869"), ("\"\"", "")]);
    refuses(PrimitiveType::Binary, &["\"a\"", "\"!!!!\"", "1"]);
    takes(PrimitiveType::Fixed(2), &[("\"aGk=\"", "6869")]);
    refuses(PrimitiveType::Fixed(2), &["\"aGkh\"", "\"\"", "1"]);
    takes(PrimitiveType::Uuid, &[("\"67e55044-10b1-426f-9247-bb680e5fe0c8\"", "67e5504410b1426f9247bb680e5fe0c8")]);
    refuses(PrimitiveType::Uuid, &["\"67e55044\"", "1"]);
}

fn nested() -> Vec<NestedField> {
    let price = StructType::new(vec![
        NestedField::required(5, "amount", primitive(PrimitiveType::Int)).into(),
        NestedField::optional(6, "currency", primitive(PrimitiveType::String)).into(),
    ]);
    let item = StructType::new(vec![
        NestedField::optional(3, "sku", primitive(PrimitiveType::String)).into(),
        NestedField::optional(4, "price", Type::Struct(price)).into(),
    ]);
    let element = NestedField::list_element(2, Type::Struct(item), false);
    let stock = MapType::new(
        NestedField::map_key_element(8, primitive(PrimitiveType::Int)).into(),
        NestedField::map_value_element(9, primitive(PrimitiveType::Double), true).into(),
    );
    vec![
        NestedField::optional(1, "items", Type::List(ListType::new(element.into()))),
        NestedField::optional(7, "stock", Type::Map(stock)),
    ]
}

#[test]
fn nested_values_keep_their_structure() {
    let decoder = decoder(nested(), OnChange::Freeze);
    let batch = decoder.decode(&raw(&[
        br#"{"items":[{"sku":"a","price":{"amount":1}},null,{}],"stock":{"1":2,"-3":0.5}}"#,
        br#"{"stock":{},"items":[]}"#,
        b"{}",
    ]));
    assert_eq!(batch.rejects, []);
    let shown = |column: usize, row| array_value_to_string(batch.rows.column(column), row).expect("shows");
    assert_eq!(shown(0, 0), "[{sku: a, price: {amount: 1, currency: }}, , {sku: , price: }]");
    assert_eq!(shown(1, 0), "{1: 2.0, -3: 0.5}");
    assert_eq!((shown(0, 1).as_str(), shown(1, 1).as_str()), ("[]", "{}"));
    assert!(batch.rows.column(0).is_null(2) && batch.rows.column(1).is_null(2));
}

#[test]
fn a_reject_names_the_path_of_the_value() {
    let decoder = decoder(nested(), OnChange::Freeze);
    let cases: [(&[u8], &str, &str); 12] = [
        (br#"{"items":[{},{"price":{"amount":"x"}}]}"#, "items[1].price.amount", "\"x\" is no int"),
        (br#"{"items":[{"price":{}}]}"#, "items[0].price.amount", "missing, and the column is required"),
        (br#"{"items":[{"price":{"amount":null}}]}"#, "items[0].price.amount", "null, and the column is required"),
        (br#"{"items":{}}"#, "items", "an object where an array is expected"),
        (br#"{"items":[[]]}"#, "items[0]", "an array where an object is expected"),
        (br#"{"stock":{"a":1}}"#, "stock.a", "\"a\" is no int"),
        (br#"{"stock":{"1":null}}"#, "stock.1", "null, and the column is required"),
        (br#"{"stock":{"1":1,"1.0":2}}"#, "stock", "duplicate key"),
        (br#"{"items":[],"items":[]}"#, "items", "duplicate key"),
        (br#"{"x":1,"\u0078":1}"#, "x", "duplicate key"),
        (br#"{"items":[{"sku":"a","sku":"b"}]}"#, "items[0].sku", "duplicate key"),
        (br#"{"items":[{"sku":"a}]}"#, "", "malformed JSON: the row ends at byte 22 in the middle of a value"),
    ];
    for (row, field, reason) in cases {
        let batch = decoder.decode(&raw(&[row]));
        let reject = batch.rejects.first().expect("rejected");
        assert_eq!((reject.field.as_str(), reject.reason.as_str()), (field, reason), "{:?}", reject.raw);
    }
}

#[test]
fn rows_that_are_no_json_objects_are_rejected_whole() {
    let decoder = decoder(nested(), OnChange::Freeze);
    let deep = format!("{{\"x\":{}", "[".repeat(50_000));
    let rows: [&[u8]; 12] = [
        b"",
        b"  ",
        b"[]",
        b"null",
        b"1",
        b"{",
        b"{}x",
        b"{} {}",
        b"{\"a\":\"\xff\"}",
        b"{'a':1}",
        b"{\"a\":01}",
        deep.as_bytes(),
    ];
    let batch = decoder.decode(&raw(&rows));
    assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (0, rows.len()));
    for (number, reject) in (1..).zip(&batch.rejects) {
        assert_eq!(
            (reject.number, reject.field.as_str(), reject.stage),
            (number, "", Stage::Decode),
            "{}",
            reject.reason
        );
    }
    assert_eq!([0, 1].map(|row| batch.rejects[row].reason.as_str()), ["the row is empty"; 2]);
    assert_eq!(batch.rejects[8].reason, "invalid UTF-8 after byte 6");
    assert_eq!(batch.rejects[11].reason, "nested deeper than 64 levels");
}

#[test]
fn a_rejected_row_leaves_nothing_in_any_column() {
    let mut fields = nested();
    fields.push(NestedField::required(10, "id", primitive(PrimitiveType::Long)));
    fields.push(NestedField::optional(11, "name", primitive(PrimitiveType::String)));
    let decoder = decoder(fields, OnChange::Freeze);
    let bad: &[u8] = br#"{"name":"gone","items":[{"sku":"gone"}],"stock":{"9":9},"id":"bad"}"#;
    let batch = decoder.decode(&raw(&[
        bad,
        br#"{"id":1,"name":"a","items":[{"sku":"x"}]}"#,
        bad,
        br#"{"id":2,"stock":{"1":1}}"#,
        bad,
    ]));
    assert_eq!(batch.source_rows, [1, 3]);
    assert_eq!(batch.rejects.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 3, 5]);
    let ids: Vec<_> = batch.rows.column(2).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [Some(1), Some(2)]);
    let shown: Vec<_> =
        (0..4).map(|c| [0, 1].map(|r| array_value_to_string(batch.rows.column(c), r).expect("shows"))).collect();
    assert_eq!(shown, [["[{sku: x, price: }]", ""], ["", "{1: 1.0}"], ["1", "2"], ["a", ""]]);
}

#[test]
fn texts_get_the_room_that_the_last_batch_needed() {
    let decoder = decoder(vec![NestedField::optional(1, "v", primitive(PrimitiveType::String))], OnChange::Freeze);
    let row = format!("{{\"v\":\"{}\"}}", "x".repeat(5000));
    let rows = vec![row.as_bytes(); 1100];
    let room = || {
        let batch = decoder.decode(&raw(&rows)).rows;
        batch.column(0).to_data().buffers()[1].capacity()
    };
    assert!(room() > 10_000_000, "a text that grows by itself doubles");
    assert!(room() < 5_900_000, "one with room made does not");
}

#[test]
fn the_columns_carry_their_field_ids() {
    let decoder = decoder(nested(), OnChange::Freeze);
    let schema = decoder.decode(&raw(&[])).rows.schema();
    let ids: Vec<_> = schema.fields().iter().map(|f| f.metadata().get("PARQUET:field_id").cloned()).collect();
    assert_eq!(ids, [Some("1".to_owned()), Some("7".to_owned())]);
}

#[test]
fn unknown_fields_follow_the_policy() {
    let fields = || vec![NestedField::optional(1, "a", primitive(PrimitiveType::Int))];
    let rows = raw(&[br#"{"a":1,"b":2}"#, br#"{"c":null,"a":2}"#, br#"{"a":3}"#]);
    let (batch, observed) = decoder(fields(), OnChange::Freeze).decode_observed(&rows);
    assert_eq!((batch.source_rows.len(), observed.ignored, observed.is_settled()), (3, 1, true));
    let (batch, observed) = decoder(fields(), OnChange::Quarantine).decode_observed(&rows);
    assert_eq!((batch.source_rows, observed.is_settled()), (vec![1, 2], true));
    assert_eq!(
        (batch.rejects[0].field.as_str(), batch.rejects[0].reason.as_str()),
        ("b", "the table has no such column")
    );
    let (batch, observed) = decoder(fields(), OnChange::Evolve).decode_observed(&rows);
    assert_eq!((batch.source_rows.len(), observed.ignored), (3, 1));
    let added: Vec<_> =
        observed.added[&None].fields().map(|(name, shape)| (name.to_owned(), shape.primitive())).collect();
    assert_eq!(added, [("b".to_owned(), Some(PrimitiveType::Long))]);
}

#[test]
fn evolution_is_offered_only_for_rows_that_it_would_help() {
    let fields = vec![
        NestedField::required(1, "a", primitive(PrimitiveType::Int)),
        NestedField::optional(2, "d", primitive(PrimitiveType::Decimal { precision: 4, scale: 2 })),
        NestedField::optional(3, "f", primitive(PrimitiveType::Float)),
    ];
    let decoder = decoder(fields, OnChange::Evolve);
    let (batch, observed) = decoder.decode_observed(&raw(&[
        br#"{"a":3000000000,"new":1,"f":1e39}"#,
        br#"{"d":123456.78}"#,
        br#"{"d":0.001,"other":1,"f":1e39}"#,
        br#"{"a":"no","third":1}"#,
    ]));
    assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (0, 4));
    assert_eq!(observed.widened.get(&1), Some(&PrimitiveType::Long));
    assert_eq!(observed.widened.get(&2), Some(&PrimitiveType::Decimal { precision: 8, scale: 2 }));
    assert_eq!(observed.widened.get(&3), Some(&PrimitiveType::Double));
    assert_eq!(observed.relaxed.into_iter().collect::<Vec<_>>(), [1]);
    assert_eq!(observed.added[&None].fields().map(|(name, _)| name).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn a_key_that_differs_in_case_only_is_rejected_where_it_would_become_a_column() {
    let fields = || vec![NestedField::optional(1, "a", primitive(PrimitiveType::Int))];
    let rows = raw(&[br#"{"A":1}"#]);
    let batch = decoder(fields(), OnChange::Evolve).decode(&rows);
    assert_eq!(batch.rejects[0].reason, "the name differs from column \"a\" in case only");
    assert_eq!(decoder(fields(), OnChange::Freeze).decode(&rows).rejects, []);
}

#[test]
fn a_missing_field_takes_its_write_default_and_a_null_does_not() {
    let field =
        |id, kind, default| NestedField::optional(id, format!("c{id}"), primitive(kind)).with_write_default(default);
    let fields = vec![
        field(1, PrimitiveType::Int, Literal::int(7)),
        field(2, PrimitiveType::String, Literal::string("x")),
        field(3, PrimitiveType::Uuid, Literal::uuid_from_str("67e55044-10b1-426f-9247-bb680e5fe0c8").expect("valid")),
        field(4, PrimitiveType::Decimal { precision: 9, scale: 2 }, Literal::decimal(150)),
        field(5, PrimitiveType::Boolean, Literal::bool(true)),
        field(6, PrimitiveType::Binary, Literal::binary(vec![1, 2])),
        field(7, PrimitiveType::Timestamptz, Literal::timestamptz(0)),
    ];
    let batch = decoder(fields, OnChange::Freeze)
        .decode(&raw(&[b"{}", br#"{"c1":null,"c2":"y","c3":null,"c4":null,"c5":null,"c6":null,"c7":null}"#]));
    let shown: Vec<_> =
        batch.rows.columns().iter().map(|c| [0, 1].map(|row| array_value_to_string(c, row).expect("shows"))).collect();
    let uuid = "67e5504410b1426f9247bb680e5fe0c8";
    assert_eq!(
        shown,
        [["7", ""], ["x", "y"], [uuid, ""], ["1.50", ""], ["true", ""], ["0102", ""], ["1970-01-01T00:00:00Z", ""]]
    );
}

#[test]
fn metadata_columns_are_not_read_from_rows() {
    let fields = vec![
        NestedField::optional(1, "_origin", primitive(PrimitiveType::String)),
        NestedField::optional(2, "a", primitive(PrimitiveType::Int)),
    ];
    let metadata = BTreeMap::from([("_origin".to_owned(), MetadataColumn::Origin)]);
    let decoder = JsonDecoder::new(&schema(fields), JsonOptions { metadata, ..JsonOptions::default() }).expect("valid");
    let batch = decoder.decode(&raw(&[br#"{"a":1}"#, br#"{"a":1,"_origin":"forged"}"#, br#"{"_ORIGIN":1}"#]));
    assert_eq!((batch.rows.num_columns(), batch.source_rows.len(), batch.rejects.len()), (1, 1, 2));
    assert_eq!(batch.rejects[0].reason, "the name belongs to a metadata column");
}

#[test]
fn a_map_with_keys_that_json_cannot_write_is_refused_with_its_name() {
    let key = Type::Struct(StructType::new(vec![NestedField::required(3, "k", primitive(PrimitiveType::Int)).into()]));
    let map = MapType::new(
        NestedField::map_key_element(2, key).into(),
        NestedField::map_value_element(4, primitive(PrimitiveType::Int), false).into(),
    );
    let error = JsonDecoder::new(&schema(vec![NestedField::optional(1, "m", Type::Map(map))]), JsonOptions::default())
        .expect_err("unsupported");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Unsupported, "column \"m\": a map whose keys are no primitives")
    );
}

fn everything() -> Vec<NestedField> {
    let mut fields = nested();
    let kinds = [
        PrimitiveType::Boolean,
        PrimitiveType::Int,
        PrimitiveType::Long,
        PrimitiveType::Float,
        PrimitiveType::Double,
        PrimitiveType::Decimal { precision: 20, scale: 3 },
        PrimitiveType::Date,
        PrimitiveType::Time,
        PrimitiveType::Timestamptz,
        PrimitiveType::String,
        PrimitiveType::Binary,
        PrimitiveType::Uuid,
    ];
    for (id, kind) in (20..).zip(kinds) {
        fields.push(NestedField::new(id, format!("c{id}"), primitive(kind), id % 4 == 0));
    }
    fields
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Into::into)),
        "[ -~é😀\"\\\\\n]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z]{0,3}|items|sku|price|amount|c2[0-9]", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_scanner_accepts_what_another_parser_accepts(value in json_value(), at in any::<prop::sample::Index>(), byte in any::<u8>(), edit in 0..4) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        match edit {
            0 => {}
            1 => text[at] = byte,
            2 => { text.remove(at); }
            _ => text.insert(at, byte),
        }
        let ours = std::str::from_utf8(&text).is_ok_and(|text| {
            let mut scanner = crate::decode::scan::Scanner::new(text);
            scanner.skip().and_then(|_| scanner.end()).is_ok()
        });
        // `RawValue` checks the grammar alone: numbers out of a double's range are ours to judge by column.
        let theirs = serde_json::from_slice::<serde_json::Value>(&text).map_err(|e| e.to_string());
        let range = theirs.as_ref().is_err_and(|e| e.starts_with("number out of range"));
        prop_assert!(range || ours == theirs.is_ok(), "{:?}: {:?}", String::from_utf8_lossy(&text), theirs);
    }

    #[test]
    fn any_bytes_become_rows_or_rejects(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8), evolve in any::<bool>()) {
        let policy = if evolve { OnChange::Evolve } else { OnChange::Freeze };
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let batch = decoder(everything(), policy).decode(&raw(&rows));
        prop_assert_eq!(batch.rows.num_rows() + batch.rejects.len(), rows.len());
        prop_assert_eq!(batch.rows.num_rows(), batch.source_rows.len());
    }

    #[test]
    fn mutated_rows_become_rows_or_rejects_and_good_neighbours_stay(value in json_value(), key in "items|stock|c2[0-9]|zz", at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = br#"{"c20":true,"c24":1.5,"c28":"2026-01-01T00:00:00Z","c29":"neighbour"}"#;
        let mut text = serde_json::json!({key: value, "c20": true, "c24": 0, "c28": 0}).to_string().into_bytes();
        let whole = text.clone();
        let at = at.index(text.len());
        text[at] = byte;
        let batch = decoder(everything(), OnChange::Evolve).decode(&raw(&[good, &whole, good, &text, good]));
        prop_assert_eq!(batch.rows.num_rows() + batch.rejects.len(), 5);
        let names = batch.rows.column_by_name("c29").expect("a column").as_string::<i32>();
        for (row, source) in batch.source_rows.iter().enumerate() {
            prop_assert!(source % 2 == 1 || names.value(row) == "neighbour");
        }
        prop_assert_eq!(batch.source_rows.iter().filter(|source| *source % 2 == 0).count(), 3);
    }

    #[test]
    fn typed_values_read_back_as_written(
        long in any::<Option<i64>>(), int in any::<i32>(), double in any::<f64>().prop_filter("finite", |f| f.is_finite()),
        text in any::<String>(), cents in -999_999_999_i128..=999_999_999, days in -700_000_i32..2_900_000, list in prop::collection::vec(any::<Option<i32>>(), 0..5),
        order in Just(vec![0_usize, 1, 2, 3, 4, 5, 6]).prop_shuffle(), space in "[ \t]{0,2}",
    ) {
        let element = NestedField::list_element(8, primitive(PrimitiveType::Int), false);
        let fields = vec![
            NestedField::optional(1, "long", primitive(PrimitiveType::Long)),
            NestedField::optional(2, "int", primitive(PrimitiveType::Int)),
            NestedField::optional(3, "double", primitive(PrimitiveType::Double)),
            NestedField::optional(4, "text", primitive(PrimitiveType::String)),
            NestedField::optional(5, "money", primitive(PrimitiveType::Decimal { precision: 9, scale: 2 })),
            NestedField::optional(6, "date", primitive(PrimitiveType::Date)),
            NestedField::optional(7, "list", Type::List(ListType::new(element.into()))),
        ];
        let date = chrono::NaiveDate::from_num_days_from_ce_opt(days + 719_163).expect("in range").format("%Y-%m-%d").to_string();
        let sign = if cents < 0 { "-" } else { "" };
        let money = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
        let members = [
            format!("\"long\":{space}{}", serde_json::json!(long)),
            format!("\"int\":{space}{int}"),
            format!("\"double\":{space}{}", serde_json::json!(double)),
            format!("\"text\":{space}{}", serde_json::json!(text)),
            format!("\"money\":{space}{money}"),
            format!("\"date\":{space}\"{date}\""),
            format!("\"list\":{space}{}", serde_json::json!(list)),
        ];
        let row = format!("{space}{{{space}{}{space}}}{space}", order.iter().map(|i| members[*i].clone()).collect::<Vec<_>>().join(&format!("{space},{space}")));
        let batch = decoder(fields, OnChange::Quarantine).decode(&raw(&[row.as_bytes(), row.as_bytes()]));
        prop_assert_eq!(&batch.rejects, &[]);
        for at in 0..2 {
            let column = |index: usize| batch.rows.column(index).slice(at, 1);
            let longs: Vec<_> = column(0).as_primitive::<Int64Type>().iter().collect();
            prop_assert_eq!(longs, [long]);
            prop_assert_eq!(column(1).as_primitive::<Int32Type>().value(0), int);
            prop_assert_eq!(column(2).as_primitive::<arrow::datatypes::Float64Type>().value(0).to_bits(), double.to_bits());
            let texts = column(3);
            prop_assert_eq!(texts.as_string::<i32>().value(0), text.as_str());
            prop_assert_eq!(column(4).as_primitive::<arrow::datatypes::Decimal128Type>().value(0), cents);
            let dates = cast(&column(5), &DataType::Int32).expect("casts");
            prop_assert_eq!(dates.as_primitive::<Int32Type>().value(0), days);
            let element = column(6).as_list::<i32>().value(0);
            prop_assert_eq!(element.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), list.clone());
        }
    }
}
