//! What a commit of ours does about what others committed since its base: a table, and how to read history for it.
//!
//! Source: docs/protocol.md, "Conflict rules".

use std::collections::BTreeMap;

use iceberg::spec::{NestedFieldRef, Schema, TableMetadata, Type};

use crate::commit::checkpoint::Chain;
use crate::error::Result;
use crate::model::table::TableState;

/// What a change of ours does, as far as conflicts are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ours {
    /// New data files.
    Append,
    /// New rows and deletes by key or position.
    RowDelta,
    /// Files rewritten, rows unchanged.
    Replace,
    /// Manifests rewritten, files unchanged.
    RewriteManifests,
    /// Snapshots removed.
    RemoveSnapshots,
}

/// What others did since our base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theirs {
    /// New data files.
    Append,
    /// Deletes on files that we touch.
    RowDelta,
    /// Files that we touch went away.
    Removal,
    /// Another current schema or default spec.
    Layout,
    /// The ref went to a snapshot that does not descend from our base.
    Rollback,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Prepare on the new head.
    Clean,
    /// Clean when every staged field id still means the same column; otherwise encode again.
    FieldIds,
    /// The checkpoint's decision table says.
    Checkpoint,
    /// Clean once the files that came were probed for our keys.
    Probe,
    /// Merge disjoint deletes, otherwise encode again.
    MergeDeletes,
    /// Carry positions through their replacement, otherwise encode again.
    RemapPositions,
    /// Put their deletes onto our outputs, otherwise lost.
    RemapDeletes,
    /// Take their manifests along.
    Carry,
    /// Plan again on the new head.
    Recompute,
    /// The work is void. Only maintenance can lose.
    Lost,
}

/// The conflict table.
pub fn rule(ours: Ours, theirs: Theirs) -> Rule {
    match (ours, theirs) {
        (Ours::Append, Theirs::Append | Theirs::RowDelta | Theirs::Removal)
        | (Ours::Replace, Theirs::Append)
        | (Ours::RewriteManifests | Ours::RemoveSnapshots, Theirs::Layout) => Rule::Clean,
        (Ours::Append | Ours::RowDelta | Ours::Replace, Theirs::Layout) => Rule::FieldIds,
        (Ours::Append | Ours::RowDelta, Theirs::Rollback) => Rule::Checkpoint,
        (Ours::RowDelta, Theirs::Append) => Rule::Probe,
        (Ours::RowDelta, Theirs::RowDelta) => Rule::MergeDeletes,
        (Ours::RowDelta, Theirs::Removal) => Rule::RemapPositions,
        (Ours::Replace, Theirs::RowDelta) => Rule::RemapDeletes,
        (Ours::RewriteManifests, Theirs::Append | Theirs::RowDelta) => Rule::Carry,
        (Ours::RewriteManifests, Theirs::Removal) | (Ours::RemoveSnapshots, _) => Rule::Recompute,
        (Ours::Replace, Theirs::Removal | Theirs::Rollback) | (Ours::RewriteManifests, Theirs::Rollback) => Rule::Lost,
    }
}

/// Whether another writer changed the layout that files are written for.
pub(crate) fn layout_changed(base: &TableMetadata, head: &TableMetadata) -> bool {
    base.current_schema_id() != head.current_schema_id()
        || base.default_partition_spec_id() != head.default_partition_spec_id()
}

/// Whether `head` is `base` or descends from it, as far as the snapshots that are still there tell.
///
/// # Errors
/// As `Chain::of`.
pub(crate) fn descends(head: &TableState, target: &str, base: Option<i64>) -> Result<bool> {
    let Some(base) = base else {
        return Ok(true);
    };
    let chain = Chain::of(head, target)?;
    Ok(chain.contains(base) || chain.missing == Some(base))
}

/// Whether every column of `staged`, the schema that files were written with, means the same at `head`: same id, same path,
/// and a type that the staged one may be read as. Two writers may both have added a column as id 7.
pub fn field_ids_hold(staged: &Schema, head: &Schema) -> bool {
    let ours = columns(staged);
    let theirs = columns(head);
    ours.iter().all(|(id, (path, field))| {
        theirs.get(id).is_some_and(|(at, held)| {
                at == path && reads_as(&field.field_type, &held.field_type) && (field.required || !held.required)
            })
            // A column that somebody dropped: its values are kept under an id that is never used again.
            || (!theirs.contains_key(id) && !field.required)
    }) && theirs.iter().all(|(id, (_, held))| ours.contains_key(id) || !held.required)
}

/// Whether `head` has every column of `staged`, by id: one that it lacks was dropped, or is yet to be added.
pub(crate) fn has_all(head: &Schema, staged: &Schema) -> bool {
    staged.field_id_to_name_map().keys().all(|id| head.field_by_id(*id).is_some())
}

fn columns(schema: &Schema) -> BTreeMap<i32, (String, NestedFieldRef)> {
    schema
        .field_id_to_name_map()
        .iter()
        .filter_map(|(id, path)| schema.field_by_id(*id).map(|field| (*id, (path.clone(), field.clone()))))
        .collect()
}

/// Whether values written as `from` are read right under `to` (spec, "Schema Evolution").
fn reads_as(from: &Type, to: &Type) -> bool {
    use iceberg::spec::PrimitiveType as P;
    match (from, to) {
        (Type::Primitive(a), Type::Primitive(b)) => match (a, b) {
            (P::Int, P::Long) | (P::Float, P::Double) => true,
            (P::Decimal { precision: p, scale: s }, P::Decimal { precision: q, scale: t }) => s == t && p <= q,
            _ => a == b,
        },
        (Type::Struct(_), Type::Struct(_)) | (Type::List(_), Type::List(_)) | (Type::Map(_), Type::Map(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iceberg::spec::{NestedField, PrimitiveType};

    use super::*;

    /// The table of docs/protocol.md, written out: a change of a cell is a change of the protocol.
    #[test]
    fn every_cell_of_the_conflict_table_is_as_written() {
        use {Ours as O, Rule as R, Theirs as T};
        let theirs = [T::Append, T::RowDelta, T::Removal, T::Layout, T::Rollback];
        let table = [
            (O::Append, [R::Clean, R::Clean, R::Clean, R::FieldIds, R::Checkpoint]),
            (O::RowDelta, [R::Probe, R::MergeDeletes, R::RemapPositions, R::FieldIds, R::Checkpoint]),
            (O::Replace, [R::Clean, R::RemapDeletes, R::Lost, R::FieldIds, R::Lost]),
            (O::RewriteManifests, [R::Carry, R::Carry, R::Recompute, R::Clean, R::Lost]),
            (O::RemoveSnapshots, [R::Recompute, R::Recompute, R::Recompute, R::Clean, R::Recompute]),
        ];
        for (ours, row) in table {
            for (their, expected) in theirs.into_iter().zip(row) {
                assert_eq!(rule(ours, their), expected, "{ours:?} x {their:?}");
            }
        }
    }

    fn schema(fields: &[(i32, &str, PrimitiveType, bool)]) -> Schema {
        let fields = fields.iter().map(|(id, name, kind, required)| {
            Arc::new(NestedField::new(*id, *name, Type::Primitive(kind.clone()), *required))
        });
        Schema::builder().with_fields(fields).build().expect("valid")
    }

    #[test]
    fn field_ids_hold_only_while_they_mean_the_same_column() {
        use PrimitiveType::{Int, Long, String};
        let staged = schema(&[(1, "a", Int, false), (2, "b", String, false)]);
        let cases = [
            (schema(&[(1, "a", Int, false), (2, "b", String, false)]), true, "unchanged"),
            (schema(&[(1, "a", Long, false), (2, "b", String, false)]), true, "widened"),
            (schema(&[(1, "a", Int, false), (2, "b", String, false), (3, "c", Int, false)]), true, "another added"),
            (schema(&[(1, "a", Int, false), (2, "b", String, false), (3, "c", Int, true)]), false, "required added"),
            (schema(&[(1, "a", Int, false), (2, "c", String, false)]), false, "renamed, or another column as id 2"),
            (schema(&[(1, "a", Int, false), (2, "b", Long, false)]), false, "another type"),
            (schema(&[(1, "a", Int, false)]), true, "dropped"),
            (schema(&[(1, "a", Int, true), (2, "b", String, false)]), false, "required, and there may be nulls"),
        ];
        for (head, holds, case) in cases {
            assert_eq!(field_ids_hold(&staged, &head), holds, "{case}");
        }
        let wide = schema(&[(1, "a", Long, false), (2, "b", String, false)]);
        assert!(!field_ids_hold(&wide, &staged), "a long is not read as an int");
    }
}
