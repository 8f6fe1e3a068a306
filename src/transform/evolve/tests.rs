use iceberg::spec::SchemaRef;
use proptest::prelude::*;

use super::*;
use crate::config::{ColumnConfig, OnChange};
use crate::decode::infer::infer;
use crate::decode::json::{JsonDecoder, JsonOptions};
use crate::decode::type_text::schema_of;
use crate::model::batch::tests::raw;

fn table(columns: &[(&str, &str)]) -> Schema {
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, kind)| ColumnConfig {
            name: (*name).to_owned(),
            kind: kind.trim_end_matches('!').to_owned(),
            required: kind.ends_with('!'),
        })
        .collect();
    schema_of(&columns).expect("valid")
}

fn decoder(schema: &Schema) -> JsonDecoder {
    JsonDecoder::new(&SchemaRef::new(schema.clone()), JsonOptions::default()).expect("valid")
}

fn observed<S: AsRef<[u8]>>(schema: &Schema, rows: &[S]) -> Observed {
    decoder(schema).decode_observed(&raw(rows)).1
}

fn evolved<S: AsRef<[u8]>>(schema: &Schema, rows: &[S]) -> Evolution {
    evolve(schema, schema.highest_field_id(), &observed(schema, rows), GrowthLimits::default()).expect("a schema")
}

fn shown(schema: &Schema) -> Vec<String> {
    schema
        .as_struct()
        .fields()
        .iter()
        .map(|f| format!("{} {}: {}{}", f.id, f.name, type_text(&f.field_type), if f.required { "!" } else { "" }))
        .collect()
}

#[test]
fn new_fields_are_added_by_name_with_ids_above_the_last_one() {
    let schema = table(&[
        ("id", "long!"),
        ("o", "struct<a: int>"),
        ("l", "list<struct<k: int>>"),
        ("m", "map<string, struct<v: int>>"),
    ]);
    let rows = [r#"{"id":1,"zeta":1,"o":{"b":"x","a":1},"alpha":[{"q":true}],"l":[{"n":1}],"m":{"key":{"w":2.5}}}"#];
    let step = evolve(&schema, 20, &observed(&schema, &rows), GrowthLimits::default()).expect("a schema");
    assert_eq!(step.added, ["alpha", "zeta", "o.b", "l.element.n", "m.value.w"]);
    let new = step.schema.expect("changed");
    assert_eq!(
        shown(&new),
        [
            "1 id: long!",
            "2 o: struct<a: int, b: string>",
            "4 l: list<struct<k: int, n: long>>",
            "7 m: map<string, struct<v: int, w: double>>",
            "21 alpha: list<struct<q: boolean>>",
            "24 zeta: long",
        ]
    );
    let ids: Vec<_> = ["o.b", "l.element.n", "m.value.w"].map(|name| new.field_id_by_name(name).expect("added")).into();
    assert_eq!(ids, [25, 26, 27]);
}

#[test]
fn numbers_widen_by_the_promotions_of_the_specification_alone() {
    let schema = table(&[
        ("i", "int!"),
        ("f", "float"),
        ("d", "decimal(4, 2)"),
        ("l", "long"),
        ("o", "struct<i: int>"),
        ("a", "list<int>"),
        ("m", "map<int, float>"),
    ]);
    let step = evolved(
        &schema,
        &[
            r#"{"i":3000000000,"f":1e39,"d":-123456.78,"o":{"i":3000000000},"a":[1,3000000000],"m":{"3000000000":1e39}}"#,
        ],
    );
    assert_eq!(
        shown(&step.schema.expect("changed")),
        [
            "1 i: long!",
            "2 f: double",
            "3 d: decimal(8, 2)",
            "4 l: long",
            "5 o: struct<i: long>",
            "7 a: list<long>",
            "9 m: map<long, double>",
        ]
    );
    assert_eq!(step.widened.first().map(|w| (w.0.as_str(), w.1.as_str(), w.2.as_str())), Some(("i", "int", "long")));
    for hopeless in
        [r#"{"i":1,"l":9223372036854775808}"#, r#"{"i":1.5}"#, r#"{"i":1,"d":0.001}"#, r#"{"i":1,"d":1e38}"#]
    {
        assert!(evolved(&schema, &[hopeless]).schema.is_none(), "{hopeless}");
    }
}

/// Format version 3 allows it; other engines do not read it (docs/decoders.md).
#[test]
fn a_date_does_not_become_a_timestamp() {
    let schema = table(&[("i", "int!"), ("d", "date")]);
    for wider in [PrimitiveType::Timestamp, PrimitiveType::TimestampNs, PrimitiveType::Timestamptz] {
        let mut asked = Observed::default();
        asked.widened.insert(2, wider);
        let step = evolve(&schema, 2, &asked, GrowthLimits::default()).expect("evolves");
        assert!(step.schema.is_none() && step.widened.is_empty(), "{:?}", step.widened);
        assert!(step.left_out[0].reason.starts_with("date does not widen to timestamp"), "{:?}", step.left_out);
    }
}

#[test]
fn required_columns_relax_except_identifiers() {
    let schema = table(&[("id", "long!"), ("n", "int!"), ("o", "struct<a: int not null>!")]);
    let schema = schema.into_builder().with_identifier_field_ids([1]).build().expect("valid");
    let step = evolved(&schema, &[r#"{"o":{}}"#]);
    assert_eq!((step.relaxed, step.left_out.len()), (vec!["n".to_owned(), "o.a".to_owned()], 1));
    let new = step.schema.expect("changed");
    assert_eq!(shown(&new), ["1 id: long!", "2 n: int", "3 o: struct<a: int>!"]);
    assert_eq!(new.identifier_field_ids().collect::<Vec<_>>(), [1]);
}

#[test]
fn defaults_widen_with_their_column() {
    let field =
        NestedField::optional(1, "i", Type::Primitive(PrimitiveType::Int)).with_initial_default(Literal::int(7));
    let schema = Schema::builder().with_fields([Arc::new(field)]).build().expect("valid");
    let new = evolved(&schema, &[r#"{"i":3000000000}"#]).schema.expect("changed");
    assert_eq!(new.as_struct().fields()[0].initial_default, Some(Literal::long(7)));
}

#[test]
fn limits_leave_fields_out_and_say_so() {
    let schema = table(&[("id", "long")]);
    let seen = observed(&schema, &[r#"{"a":1,"b":{"x":1,"y":1},"c":1}"#]);
    let step = evolve(&schema, 1, &seen, GrowthLimits { columns_max: 3, depth_max: 8 }).expect("a schema");
    assert_eq!(step.added, ["a", "c"]);
    assert_eq!(
        step.left_out,
        [LeftOut { path: "b".to_owned(), reason: "the schema would have more than 3 columns".to_owned() }]
    );
}

#[test]
fn two_new_names_that_differ_in_case_only_become_one_column() {
    let schema = table(&[("id", "long")]);
    let step = evolved(&schema, &[r#"{"a":1}"#, r#"{"A":1}"#]);
    assert_eq!((step.added, step.left_out.len()), (vec!["A".to_owned()], 1));
    let (batch, seen) = decoder(&step.schema.expect("changed")).decode_observed(&raw(&[r#"{"a":1}"#, r#"{"A":1}"#]));
    assert_eq!((batch.source_rows, batch.rejects.len(), seen.is_settled()), (vec![1], 1, true));
}

#[test]
fn nothing_observed_changes_nothing() {
    let schema = table(&[("id", "long")]);
    let step = evolved(&schema, &[r#"{"id":1}"#, "broken", r#"{"id":"x","new":1}"#, r#"{"id":1,"void":{"a":[null]}}"#]);
    assert!(step.schema.is_none() && step.left_out.is_empty() && step.added.is_empty());
}

#[test]
fn columns_can_be_added_by_name_once() {
    let schema = table(&[("id", "long")]);
    let columns = [("id".to_owned(), PrimitiveType::String), ("_at".to_owned(), PrimitiveType::Timestamptz)];
    let step = add_columns(&schema, 9, &columns, GrowthLimits::default()).expect("a schema");
    let new = step.schema.expect("changed");
    assert_eq!(shown(&new), ["1 id: long", "10 _at: timestamptz"]);
    assert!(add_columns(&new, 10, &columns, GrowthLimits::default()).expect("a schema").schema.is_none());
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-5_i8..5).prop_map(Into::into),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Into::into)),
        "[ -~é\"]{0,6}".prop_map(Into::into),
        prop::sample::select(vec!["2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01 10:00", "9999999-01-01T00:00:00Z"])
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<String>> {
    let row = prop::collection::btree_map("[a-f]", value(), 0..5)
        .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()).to_string());
    prop::collection::vec(row, 1..6)
}

/// Id, path, and what may not change but by a promotion.
fn places(schema: &Schema) -> BTreeMap<i32, String> {
    schema.field_id_to_name_map().iter().map(|(id, name)| (*id, name.clone())).collect()
}

proptest! {
    #[test]
    fn an_evolved_schema_keeps_every_field_and_takes_every_row_that_asked_for_it(rows in rows()) {
        let old = table(&[("a", "int!"), ("b", "struct<a: float, b: decimal(3, 1) not null>"), ("c", "list<struct<d: int>>"), ("d", "map<string, int>")]);
        let seen = observed(&old, &rows);
        let step = evolve(&old, 40, &seen, GrowthLimits::default()).expect("a schema");
        prop_assert_eq!(&step.left_out, &[]);
        prop_assert_eq!(step.schema.is_none(), seen.is_settled());
        let new = step.schema.unwrap_or(old.clone());
        let (before, after) = (places(&old), places(&new));
        prop_assert!(before.iter().all(|(id, path)| after.get(id) == Some(path)));
        prop_assert!(after.keys().all(|id| before.contains_key(id) || *id > 40));
        let (_, settled) = decoder(&new).decode_observed(&raw(&rows));
        prop_assert!(settled.is_settled(), "{:?} asks for {:?}", shown(&new), settled);
        let again = evolve(&new, 40.max(new.highest_field_id()), &seen, GrowthLimits::default()).expect("a schema");
        prop_assert!(again.schema.is_none() && again.left_out.is_empty(), "{:?}", again);
    }

    #[test]
    fn an_inferred_schema_takes_every_row_that_it_was_inferred_from(rows in rows()) {
        let inferred = infer(rows.iter().map(|row| row.as_bytes()), &BTreeMap::new(), GrowthLimits::default()).expect("a schema");
        prop_assert_eq!(inferred.rows, rows.len());
        let (batch, _) = decoder(&inferred.schema).decode_as(&raw(&rows), OnChange::Quarantine);
        prop_assert_eq!(batch.rejects, [], "{:?}", shown(&inferred.schema));
        prop_assert_eq!(batch.rows.num_rows(), rows.len());
    }

    #[test]
    fn evolving_from_nothing_ends_where_every_row_fits(rows in rows()) {
        let empty = table(&[("id", "long")]);
        let step = evolved(&empty, &rows);
        let (batch, settled) = decoder(&step.schema.unwrap_or(empty)).decode_observed(&raw(&rows));
        prop_assert!(settled.is_settled());
        prop_assert_eq!(batch.rejects, []);
    }
}
