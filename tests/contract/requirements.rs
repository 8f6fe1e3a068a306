//! Every `assert-*` by itself: one that fails refuses the commit as a conflict, also beside one that holds.

use iceberg::TableRequirement as R;

use super::{
    Check, FormatVersion, Subject, TableState, TableUpdate, add, branch_retention, committed, conflict, pin, rich, set,
    set_ref, snapshot, table,
};

/// A table of many columns, a spec and a sort order, with one snapshot on main.
async fn begun(s: &Subject, case: &str) -> Result<TableState, String> {
    let state = s.created(&rich(s.table(case, "t"), FormatVersion::V2)).await?;
    s.appended(&state, "main").await
}

/// `fails` refuses, `holds` does not, and of two both must hold.
async fn decide(s: &Subject, state: &TableState, holds: Option<R>, fails: R) -> Check {
    let refused =
        |requirements| async { conflict(s.commit(state, requirements, vec![set("mark", "no")]).await, "fails") };
    refused(vec![fails.clone()]).await?;
    if let Some(holds) = holds {
        refused(vec![holds.clone(), fails.clone()]).await.map_err(|e| format!("beside one that holds: {e}"))?;
        refused(vec![fails, holds.clone()]).await.map_err(|e| format!("before one that holds: {e}"))?;
        let outcome = s.commit(state, vec![holds.clone()], vec![set("mark", "yes")]).await;
        committed(outcome).map_err(|e| format!("{holds:?}: {e}"))?;
        ensure!(s.load(&state.name).await?.property("mark") == Some("yes"), "the commit is not there");
    } else {
        ensure!(s.load(&state.name).await?.property("mark").is_none(), "a refused commit was applied");
    }
    Ok(())
}

pub(super) async fn assert_table_uuid_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_uuid").await?;
    let holds = R::UuidMatch { uuid: state.metadata.uuid() };
    decide(s, &state, Some(holds), R::UuidMatch { uuid: s.env.uuid() }).await
}

pub(super) async fn assert_create_refuses_a_table_that_is_there(s: &Subject) -> Check {
    let state = begun(s, "assert_create").await?;
    decide(s, &state, None, R::NotExist).await
}

pub(super) async fn assert_ref_snapshot_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_ref").await?;
    let state = s.appended(&state, "main").await?;
    let head = state.head("main").expect("a head");
    let parent = head.parent_snapshot_id().ok_or("no parent")?;
    decide(s, &state, Some(pin("main", Some(head.snapshot_id()))), pin("main", Some(parent))).await
}

pub(super) async fn a_pin_on_a_ref_that_is_not_there_refuses(s: &Subject) -> Check {
    let state = begun(s, "assert_no_ref").await?;
    let head = state.head("main").expect("a head").snapshot_id();
    decide(s, &state, Some(pin("dev", None)), pin("dev", Some(head))).await
}

pub(super) async fn assert_last_assigned_field_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_field").await?;
    let id = state.metadata.last_column_id();
    let of = |last_assigned_field_id| R::LastAssignedFieldIdMatch { last_assigned_field_id };
    decide(s, &state, Some(of(id)), of(id - 1)).await
}

pub(super) async fn assert_current_schema_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_schema").await?;
    let id = state.metadata.current_schema_id();
    let of = |current_schema_id| R::CurrentSchemaIdMatch { current_schema_id };
    decide(s, &state, Some(of(id)), of(id + 1)).await
}

pub(super) async fn assert_last_assigned_partition_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_partition").await?;
    let id = state.metadata.last_partition_id();
    let of = |last_assigned_partition_id| R::LastAssignedPartitionIdMatch { last_assigned_partition_id };
    decide(s, &state, Some(of(id)), of(id + 1)).await
}

pub(super) async fn assert_default_spec_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_spec").await?;
    let id = state.metadata.default_partition_spec_id();
    let of = |default_spec_id| R::DefaultSpecIdMatch { default_spec_id };
    decide(s, &state, Some(of(id)), of(id + 1)).await
}

pub(super) async fn assert_default_sort_order_id_decides(s: &Subject) -> Check {
    let state = begun(s, "assert_order").await?;
    let id = state.metadata.default_sort_order_id();
    let of = |default_sort_order_id| R::DefaultSortOrderIdMatch { default_sort_order_id };
    decide(s, &state, Some(of(id)), of(id + 1)).await
}

/// A null pin on `branch` of `state` lets one snapshot in, and not a second one.
async fn begins_once(s: &Subject, state: &TableState, branch: &str) -> Check {
    let (one, two) = (snapshot(state, branch, s.env.snapshot_id()), snapshot(state, branch, s.env.snapshot_id()));
    let onto = |id, update| vec![update, set_ref(branch, id, branch_retention())];
    let first = onto(one.snapshot_id(), add(&one));
    let before = state.metadata.snapshots().len();
    let state = committed(s.commit(state, vec![pin(branch, None)], first).await)?;
    let second = onto(two.snapshot_id(), add(&two));
    conflict(s.commit(&state, vec![pin(branch, None)], second).await, "the branch exists")?;
    let loaded = s.load(&state.name).await?;
    ensure!(loaded.head(branch).map(|h| h.snapshot_id()) == Some(one.snapshot_id()), "the second snapshot is head");
    ensure!(loaded.metadata.snapshots().len() == before + 1, "the second snapshot is in");
    Ok(())
}

pub(super) async fn a_null_pin_lets_one_first_snapshot_in(s: &Subject) -> Check {
    let state = s.created(&table(s.table("null_pin", "t"))).await?;
    begins_once(s, &state, "main").await
}

pub(super) async fn a_null_pin_is_about_its_own_branch(s: &Subject) -> Check {
    let state = s.created(&table(s.table("null_pin_beside", "t"))).await?;
    let state = s.appended(&s.appended(&state, "main").await?, "other").await?;
    begins_once(s, &state, "dev").await?;
    let state = s.load(&state.name).await?;
    conflict(s.commit(&state, vec![pin("main", None)], vec![set("a", "b")]).await, "main exists")
}

pub(super) async fn a_null_pin_holds_again_once_the_branch_is_gone(s: &Subject) -> Check {
    let state = s.created(&table(s.table("null_pin_again", "t"))).await?;
    let state = s.appended(&s.appended(&state, "main").await?, "dev").await?;
    let gone = vec![TableUpdate::RemoveSnapshotRef { ref_name: "dev".to_owned() }];
    let state = s.committed(&state, gone).await?;
    ensure!(state.head("dev").is_none(), "the branch stayed");
    begins_once(s, &state, "dev").await
}
