//! How a change stands against a loaded table, apart from its delta: whether its effect shows, whether its last submission
//! may go again as it is, whether its staged files fit. Pure.

use iceberg::spec::{Schema, SnapshotRef};

use crate::commit::checkpoint::{Chain, record_key};
use crate::commit::conflict::{self, Ours, Rule, Theirs};
use crate::commit::look::{Effect, Rebase};
use crate::commit::snapshot::Prepared;
use crate::error::Result;
use crate::model::change::{Change, Data, OperatorEdit, PipelineDelta, Removal};
use crate::model::checkpoint::{self, Record};
use crate::model::table::TableState;

/// An operator's edit: in when the record is ours, to be made while the one that it replaces stands there, on a branch that
/// was not rolled back since.
pub(super) fn operator_effect(
    change: &Change,
    delta: &PipelineDelta,
    edit: &OperatorEdit,
    state: &TableState,
) -> Result<Effect> {
    let held = state.property(&record_key(&delta.pipeline, &change.target));
    let ours = held.and_then(|text| Record::parse(text).ok()).is_some_and(|r| r.origin.snapshot == change.snapshot_id);
    let chain = Chain::of(state, &change.target)?;
    let descends = edit.head.is_none_or(|seen| chain.reaches(seen));
    Ok(if ours {
        Effect::Done
    } else if held == edit.replaces.as_deref() && descends {
        Effect::Absent
    } else {
        Effect::Delta(checkpoint::Standing::Fenced)
    })
}

/// What a table shows of the snapshot that a change makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// Nothing.
    No,
    /// It is in the target's history, if only as the parent of the oldest snapshot that is left.
    In,
    /// It was in: it is there, or is a parent, and the target does not descend from it. Under its id it must not come again: it
    /// would be its own ancestor.
    Undone,
}

/// Whether a change has landed, by its snapshot's id.
///
/// # Errors
/// `Corrupt` for a circle of parents.
pub(super) fn landed(change: &Change, state: &TableState) -> Result<Landed> {
    let id = change.snapshot_id;
    let named = |s: &SnapshotRef| s.snapshot_id() == id || s.parent_snapshot_id() == Some(id);
    Ok(if change.data.is_none() || !state.metadata.snapshots().any(named) {
        Landed::No
    } else if Chain::of(state, &change.target)?.reaches(id) {
        Landed::In
    } else {
        Landed::Undone
    })
}

/// A change without a delta: whether its effect shows. New files leave none but their snapshot; a replace is asked of manifests.
pub(super) fn metadata_effect(change: &Change, state: &TableState) -> Effect {
    if change.data.is_some() {
        return Effect::Absent;
    }
    let refs = change.refs.iter().all(|(name, wanted)| state.refs.get(name) == wanted.as_ref());
    let statistics = change.statistics.iter().all(|wanted| {
        let held = state.metadata.statistics_for_snapshot(wanted.snapshot_id);
        held.is_some_and(|held| held.statistics_path == wanted.statistics_path)
    });
    let partition_statistics = change.partition_statistics.iter().all(|wanted| {
        let held = state.metadata.partition_statistics_for_snapshot(wanted.snapshot_id);
        held.is_some_and(|held| held.statistics_path == wanted.statistics_path)
    });
    let columns =
        change.evolve.as_ref().is_none_or(|evolve| has_columns(state.metadata.current_schema(), &evolve.schema));
    let removed = change
        .removal
        .as_ref()
        .is_none_or(|removal| removal.snapshots.iter().all(|id| state.metadata.snapshot_by_id(*id).is_none()));
    if refs && removed && statistics && partition_statistics && columns { Effect::Done } else { Effect::Absent }
}

/// Whether every column of `wanted` is in `held` by name and type.
fn has_columns(held: &Schema, wanted: &Schema) -> bool {
    wanted.field_id_to_name_map().iter().all(|(id, name)| {
        let ours = wanted.field_by_id(*id);
        held.field_by_name(name)
            .zip(ours)
            .is_some_and(|(theirs, ours)| theirs.field_type == ours.field_type || !ours.field_type.is_primitive())
    })
}

pub(super) fn as_assumed(prepared: &Prepared, head: &TableState) -> bool {
    let (base, head) = (&prepared.base.metadata, &head.metadata);
    prepared.commit.requirements.iter().all(|requirement| requirement.check(Some(head)).is_ok())
        && base.last_sequence_number() == head.last_sequence_number()
        && base.next_row_id() == head.next_row_id()
        && base.format_version() == head.format_version()
}

/// Whether the staged files fit `state`, which may not be the one that they were staged for. A schema change that somebody
/// else has made, under the same ids, is dropped from `change`.
pub(super) fn fit(change: &mut Change, state: &TableState) -> bool {
    let metadata = &state.metadata;
    if let Some(removal) = &change.removal {
        return chosen_on(removal, state);
    }
    let Some(Data::Append(append)) = &change.data else {
        return true;
    };
    let schema = metadata.current_schema();
    let as_made = change.evolve.as_ref().map(|evolve| {
        evolve.base_schema_id == metadata.current_schema_id() && evolve.base_last_column_id == metadata.last_column_id()
    });
    let fits = match as_made {
        Some(true) => true,
        None if append.files.is_empty() => true,
        None => conflict::field_ids_hold(&append.schema, schema),
        Some(false) => conflict::field_ids_hold(&append.schema, schema) && conflict::has_all(schema, &append.schema),
    };
    if as_made == Some(false) && fits {
        change.evolve = None;
    }
    fits && metadata.partition_spec_by_id(append.spec_id).is_some()
}

/// Whether snapshots were chosen to go by the very refs of `state`.
fn chosen_on(removal: &Removal, state: &TableState) -> bool {
    state.refs.iter().map(|(name, at)| (name, &at.snapshot_id)).eq(&removal.refs)
}

/// Whether maintenance may go onto `head`, as far as metadata says: the planning snapshot is still below it, and its files fit.
/// What is live, and which deletes reach it, is for manifests to say. True for every other change.
///
/// # Errors
/// As `Chain::of`.
pub(super) fn maintenance_fits(change: &Change, head: &TableState) -> Result<bool> {
    let (ours, planned) = match &change.data {
        Some(Data::Replace(replace)) => (Ours::Replace, replace.planned),
        Some(Data::RewriteManifests(rewrite)) => (Ours::RewriteManifests, rewrite.planned),
        Some(Data::Append(_)) | None => return Ok(true),
    };
    let mut theirs = vec![Theirs::Append, Theirs::Layout];
    if !conflict::descends(head, &change.target, Some(planned))? {
        theirs.push(Theirs::Rollback);
    }
    let fields_hold = || match &change.data {
        Some(Data::Replace(replace)) => {
            conflict::field_ids_hold(&replace.schema, head.metadata.current_schema())
                && head.metadata.partition_spec_by_id(replace.spec_id).is_some()
        }
        _ => true,
    };
    Ok(theirs.into_iter().all(|theirs| match conflict::rule(ours, theirs) {
        Rule::Clean | Rule::Carry => true,
        Rule::FieldIds => fields_hold(),
        _ => false,
    }))
}

/// The conflict table for the changes that are built, over what happened between `base` and `head`.
///
/// # Errors
/// As `Chain::of`.
pub(super) fn rebase(change: &Change, base: &TableState, head: &TableState) -> Result<Rebase> {
    let layout = conflict::layout_changed(&base.metadata, &head.metadata)
        || (change.evolve.is_some() && base.metadata.last_column_id() != head.metadata.last_column_id());
    if let Some(removal) = &change.removal {
        // `Recompute` in the table: an append moves a ref as all others do.
        return Ok(if chosen_on(removal, head) { Rebase::Clean } else { Rebase::Rebuild });
    }
    if change.data.as_ref().is_some_and(Data::is_maintenance) {
        return Ok(if maintenance_fits(change, head)? { Rebase::Clean } else { Rebase::Lost });
    }
    let Some(Data::Append(append)) = &change.data else {
        return Ok(if layout && change.evolve.is_some() { Rebase::Rebuild } else { Rebase::Clean });
    };
    let base_head = base.head(&change.target).map(|s| s.snapshot_id());
    let mut theirs = vec![Theirs::Append];
    if !conflict::descends(head, &change.target, base_head)? {
        theirs.push(Theirs::Rollback);
    }
    if layout {
        theirs.push(Theirs::Layout);
    }
    let fits = || {
        if append.files.is_empty() && change.evolve.is_none() {
            return true;
        }
        let spec = head.metadata.partition_spec_by_id(append.spec_id);
        spec == base.metadata.partition_spec_by_id(append.spec_id)
            && spec.is_some()
            && conflict::field_ids_hold(&append.schema, head.metadata.current_schema())
            && (change.evolve.is_none() || conflict::has_all(head.metadata.current_schema(), &append.schema))
    };
    // A rollback is judged by the checkpoint table, which was asked before this; without a delta the rows go to the new head.
    let clean = theirs.into_iter().all(|theirs| match conflict::rule(Ours::Append, theirs) {
        Rule::Clean | Rule::Checkpoint => true,
        Rule::FieldIds => fits(),
        _ => false,
    });
    Ok(if clean { Rebase::Clean } else { Rebase::Rebuild })
}
