use iceberg::spec::{Literal, NestedField, PrimitiveType, SortOrder, StructType};

use serde_json::json;

use super::*;
use crate::model::table::tests::with_column;
use crate::write::tests::{layout, optional};

fn table() -> TableLayout {
    layout(vec![optional(1, "id", PrimitiveType::Long), optional(2, "kind", PrimitiveType::String)]).partitioned(&[(
        2,
        "kind",
        Transform::Identity,
    )])
}

fn location(layout: &TableLayout) -> String {
    let partition = Struct::from_iter([Some(Literal::string("a/b"))]);
    layout.file_location(&partition, "00000-x-00001.parquet").expect("location")
}

#[test]
fn files_lie_below_the_table_by_default() {
    assert_eq!(location(&table()), "memory://lake/db/t/data/kind=a%2Fb/00000-x-00001.parquet");
    let elsewhere = table().with_properties(&[("write.data.path", "memory://other/files/")]);
    assert_eq!(location(&elsewhere), "memory://other/files/kind=a%2Fb/00000-x-00001.parquet");
}

#[test]
fn the_object_store_layout_spreads_files_by_their_hash() {
    let name = "kind=a%2Fb/00000-x-00001.parquet";
    let spread = table().with_properties(&[("write.object-storage.enabled", "true")]);
    let directories = object_directories(name);
    assert_eq!(location(&spread), format!("memory://lake/db/t/data/{directories}/{name}"));

    let elsewhere = table()
        .with_properties(&[("write.object-storage.enabled", "true"), ("write.data.path", "memory://other/files")]);
    assert_eq!(location(&elsewhere), format!("memory://other/files/{directories}/db/t/{name}"));

    let unnamed = table().with_properties(&[
        ("write.object-storage.enabled", "true"),
        ("write.object-storage.partitioned-paths", "false"),
    ]);
    let name = "00000-x-00001.parquet";
    assert_eq!(location(&unnamed), format!("memory://lake/db/t/data/{}-{name}", object_directories(name)));
}

#[test]
fn row_groups_and_files_of_new_rows_are_as_long_as_the_table_says_or_else_as_is_said_here() {
    let mut state = with_column(&json!("long"));
    let layout = |state: &TableState, file| {
        let schema = Arc::clone(state.metadata.current_schema());
        let properties = TableLayout::of_new_rows(state, &schema, file).expect("a layout").properties;
        (properties.row_group_bytes, properties.target_file_bytes)
    };
    assert_eq!(layout(&state, None), (32 << 20, 512 << 20));
    assert_eq!(layout(&state, Some(5 << 20)), (32 << 20, 5 << 20));
    let said = [("write.parquet.row-group-size-bytes", "1000"), ("write.target-file-size-bytes", "7000")];
    let said = said.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let metadata = (*state.metadata).clone().into_builder(None).set_properties(said).expect("valid").build();
    state.metadata = Arc::new(metadata.expect("valid").metadata);
    assert_eq!(layout(&state, Some(5 << 20)), (1000, 7000));
}

#[test]
fn metrics_modes_follow_column_default_and_sort_order() {
    let nested = StructType::new(vec![Arc::new(optional(4, "x", PrimitiveType::Double))]);
    let fields = vec![
        optional(1, "a", PrimitiveType::Long),
        optional(2, "b", PrimitiveType::String),
        NestedField::optional(3, "s", Type::Struct(nested)),
        optional(5, "c", PrimitiveType::Long),
    ];
    let table = layout(fields);
    assert!(table.metrics_modes().values().all(|mode| *mode == MetricsMode::Truncate(16)));
    assert_eq!(table.metrics_modes().keys().copied().collect::<Vec<_>>(), [1, 2, 4, 5]);

    let limited = table.clone().with_properties(&[
        ("write.metadata.metrics.max-inferred-column-defaults", "2"),
        ("write.metadata.metrics.column.s.x", "full"),
    ]);
    let modes = limited.metrics_modes();
    assert_eq!(
        modes.values().copied().collect::<Vec<_>>(),
        [MetricsMode::Truncate(16), MetricsMode::Truncate(16), MetricsMode::Full, MetricsMode::None]
    );

    let mut sorted = table.with_properties(&[("write.metadata.metrics.default", "none")]);
    let field = iceberg::spec::SortField::builder()
        .source_id(5)
        .transform(Transform::Identity)
        .direction(iceberg::spec::SortDirection::Ascending)
        .null_order(iceberg::spec::NullOrder::First)
        .build();
    let order = SortOrder::builder().with_order_id(1).with_sort_field(field).build_unbound().expect("order");
    sorted.sort_order = Arc::new(order);
    let modes = sorted.metrics_modes();
    assert_eq!((modes[&1], modes[&5]), (MetricsMode::None, MetricsMode::Truncate(16)));
}
