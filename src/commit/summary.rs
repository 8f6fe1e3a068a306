//! What a snapshot says of itself: counts of what came and went, and totals.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{DataFile, Operation, SchemaRef, SnapshotRef, SnapshotSummaryCollector, Summary};

use crate::commit::records::VERSION_KEY;
use crate::model::table::TableState;

/// The summary without records: what was added and removed, and totals where the parent has them (spec, "Snapshot Summary").
///
/// Files come and go each with the id of its spec.
pub(super) fn summary<'a>(
    operation: Operation,
    schema: &SchemaRef,
    (come, gone): (impl Iterator<Item = (&'a DataFile, i32)>, impl Iterator<Item = (&'a DataFile, i32)>),
    parent: Option<&SnapshotRef>,
    base: &TableState,
) -> Summary {
    let mut collector = SnapshotSummaryCollector::default();
    let spec = |id: i32| base.metadata.partition_spec_by_id(id).cloned();
    for (file, spec) in come.filter_map(|(file, id)| Some((file, spec(id)?))) {
        collector.add_file(file, Arc::clone(schema), spec);
    }
    for (file, spec) in gone.filter_map(|(file, id)| Some((file, spec(id)?))) {
        collector.remove_file(file, Arc::clone(schema), spec);
    }
    let mut properties: HashMap<String, String> = collector.build();
    for (total, added, gone) in [
        ("total-records", "added-records", "deleted-records"),
        ("total-files-size", "added-files-size", "removed-files-size"),
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
    ] {
        let number = |text: &String| text.parse::<u64>().ok();
        let before = match parent {
            Some(parent) => parent.summary().additional_properties.get(total).and_then(number),
            None => Some(0),
        };
        let now = properties.get(added).and_then(number).unwrap_or(0);
        let less = properties.get(gone).and_then(number).unwrap_or(0);
        if let Some(sum) = before.and_then(|before| before.checked_add(now)?.checked_sub(less)) {
            properties.insert(total.to_owned(), sum.to_string());
        }
    }
    properties.insert("engine-name".to_owned(), "frazil".to_owned());
    properties.insert("engine-version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    properties.insert(VERSION_KEY.to_owned(), "1".to_owned());
    Summary { operation, additional_properties: properties }
}
