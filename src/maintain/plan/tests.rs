use iceberg::spec::{Literal, Struct};
use proptest::prelude::*;

use super::*;
use crate::compact::files::{DeleteEntry, Partition};
use crate::model::change::DeleteFile;

const MIB: u64 = 1 << 20;

fn partition(at: i32, spec_id: i32) -> Partition {
    Partition { spec_id, values: Struct::from_iter([Some(Literal::int(at))]), global: false }
}

fn data(name: usize, bytes: u64, seq: i64, partition: usize) -> DataEntry {
    let location = format!("f{name}");
    DataEntry {
        location,
        bytes,
        rows: bytes / 10,
        seq,
        partition,
        first_row_id: None,
        sort_order_id: None,
        added_ms: Some(seq),
        readable: true,
    }
}

fn deletes(name: usize, kind: DeleteKind, target: Option<&str>, rows: u64, seq: i64, partition: usize) -> DeleteEntry {
    let file = DeleteFile { location: format!("d{name}"), offset: None };
    let target = target.map(str::to_owned);
    DeleteEntry { file, kind, bytes: 10, rows, seq, partition, target, readable: true }
}

fn files(sizes: &[u64]) -> LiveFiles {
    let data = sizes.iter().enumerate().map(|(at, size)| data(at, *size * MIB, at as i64 + 1, 0)).collect();
    LiveFiles { snapshot: 9, seq: 900, partitions: vec![partition(0, 0)], data, deletes: vec![] }
}

fn policy() -> Policy {
    Policy::new(100 * MIB, 0)
}

fn chosen(files: &LiveFiles, policy: &Policy) -> Vec<Vec<usize>> {
    plan(files, policy, 1_000_000).groups.into_iter().map(|group| group.inputs).collect()
}

#[test]
fn small_files_are_merged_when_they_are_many_or_make_a_whole_file() {
    assert_eq!(chosen(&files(&[1, 1, 1, 1, 1]), &policy()), [[0, 1, 2, 3, 4]]);
    assert_eq!(chosen(&files(&[60, 60]), &policy()), [[0, 1]]);
    for few in [&[1, 1, 1, 1][..], &[1], &[74], &[75, 75, 100, 180]] {
        assert!(chosen(&files(few), &policy()).is_empty(), "{few:?}");
    }
    let plan = plan(&files(&[1, 1, 1, 1, 1, 90]), &policy(), 0);
    let group = &plan.groups[0];
    assert_eq!((group.bytes_in, group.files_out, group.why.as_str()), (5 * MIB, 1, "5 files well below 100.0 MiB"));
    assert_eq!((plan.left[0].files, plan.left[0].why.as_str()), (1, "of a good size"));
}

#[test]
fn files_that_are_far_too_large_deleted_from_or_of_an_older_spec_are_rewritten_with_the_small_ones_beside_them() {
    assert_eq!(chosen(&files(&[181, 1, 100]), &policy()), [[0, 1]]);
    let mut many = files(&[100, 100, 100, 1]);
    many.deletes.push(deletes(0, DeleteKind::Vector, Some("f1"), 30 * MIB / 10, 500, 0));
    many.deletes.push(deletes(1, DeleteKind::Vector, Some("f2"), 29 * MIB / 10, 500, 0));
    let found = plan(&many, &policy(), 0);
    assert_eq!((found.groups[0].inputs.as_slice(), found.groups[0].deletes.as_slice()), (&[1, 3][..], &[0][..]));
    assert_eq!(found.groups[0].bytes_out / MIB, 70);
    let mut keys = files(&[100, 100]);
    keys.data[1].seq = 50;
    keys.deletes.extend((0..10).map(|at| deletes(at, DeleteKind::Equality(vec![1]), None, 5, 50, 0)));
    assert_eq!(chosen(&keys, &policy()), [[0]], "equality deletes reach what is older, not what is as old");
    assert_eq!(chosen(&files(&[100, 100]), &Policy { spec_id: 1, ..policy() }), [[0, 1]]);
    assert_eq!(chosen(&files(&[100, 1]), &Policy { rewrite_all: true, ..policy() }), [[0, 1]]);
    let mut sorted = files(&[100, 100, 100]);
    (sorted.data[0].sort_order_id, sorted.data[1].sort_order_id) = (Some(1), Some(2));
    let ordered = Policy { sort_order_id: Some(2), ..policy() };
    assert_eq!(chosen(&sorted, &ordered), [[0]], "one that says nothing may be in the right order");
    assert_eq!(plan(&sorted, &ordered, 0).groups[0].why, "1 file in an older sort order");
    assert_eq!(chosen(&sorted, &policy()), [[0; 0]; 0], "nothing is older than no order");
}

#[test]
fn what_is_still_written_to_or_cannot_be_read_is_left_alone() {
    let quiet = Policy { quiet_ms: 10, ..policy() };
    let found = plan(&files(&[1, 1, 1, 1, 1]), &quiet, 14);
    assert_eq!((found.groups.len(), found.left[0].why.as_str()), (0, "the partition is still written to"));
    assert_eq!(plan(&files(&[1, 1, 1, 1, 1]), &quiet, 15).groups.len(), 1);
    let mut other = files(&[1, 1, 1, 1, 1]);
    other.data[2].readable = false;
    let found = plan(&other, &policy(), 0);
    assert_eq!((found.groups.len(), found.left[0].why.as_str()), (0, "no Parquet files, or encrypted"));
}

#[test]
fn a_group_has_every_delete_that_may_reach_one_of_its_files() {
    let mut all = files(&[1, 1, 1, 1, 1, 100]);
    all.partitions.push(partition(1, 0));
    all.partitions.push(Partition { spec_id: 7, values: Struct::empty(), global: true });
    let positions = DeleteKind::Positions;
    all.deletes = vec![
        deletes(0, positions.clone(), None, 1, 1, 0),
        deletes(1, positions.clone(), None, 1, 9, 1),
        deletes(2, positions, Some("f5"), 1, 9, 0),
        deletes(3, DeleteKind::Equality(vec![1]), None, 1, 1, 0),
        deletes(4, DeleteKind::Equality(vec![1]), None, 1, 2, 0),
        deletes(5, DeleteKind::Equality(vec![1]), None, 1, 2, 1),
        deletes(6, DeleteKind::Equality(vec![1]), None, 1, 2, 2),
    ];
    assert_eq!(plan(&all, &policy(), 0).groups[0].deletes, [0, 4, 6]);
}

#[test]
fn what_is_beyond_the_bytes_of_a_time_is_left_for_the_next_the_best_first() {
    let mut many = files(&[1, 1, 1, 1, 1]);
    many.partitions.push(partition(1, 0));
    many.data.extend((5..15).map(|at| data(at, MIB, 1, 1)));
    for (bytes_max, kept) in [(0, 1), (10 * MIB, 1), (14 * MIB, 1), (15 * MIB, 2)] {
        let found = plan(&many, &Policy { bytes_max, ..policy() }, 0);
        assert_eq!((found.groups.len(), found.groups[0].inputs.len()), (kept, 10), "{bytes_max}");
        assert_eq!(found.left.len(), 2 - kept);
    }
    let left = &plan(&many, &Policy { bytes_max: 0, ..policy() }, 0).left[0];
    assert_eq!((left.partition, left.files, left.bytes), (0, 5, 5 * MIB));
    assert_eq!(left.why, "more than is rewritten at a time; 5 files well below 100.0 MiB");
}

/// The files after `plan` was carried out: outputs roll at the target size, deletes that reach nothing are gone.
fn applied(files: &LiveFiles, plan: &Plan, policy: &Policy) -> LiveFiles {
    let mut after = files.clone();
    let gone: Vec<usize> = plan.groups.iter().flat_map(|group| group.inputs.clone()).collect();
    let mut kept = Vec::new();
    for (at, file) in files.data.iter().enumerate() {
        if !gone.contains(&at) {
            kept.push(file.clone());
        }
    }
    let mut next = 10_000;
    for group in &plan.groups {
        let mut left = group.bytes_out;
        while left > 0 {
            let size = left.min(policy.target_bytes);
            let file = data(next, size, files.seq, group.partition);
            kept.push(DataEntry { sort_order_id: policy.sort_order_id, ..file });
            left -= size;
            next += 1;
        }
    }
    after.seq += 1;
    after.deletes.retain(|entry| kept.iter().any(|file| entry.reaches(file, &files.partitions)));
    after.data = kept;
    after
}

fn table() -> impl Strategy<Value = LiveFiles> {
    let file = (1_u64..400, 1_i64..50, 0_usize..3);
    let delete = (0_usize..30, 0_u8..3, 1_u64..9_000_000, 1_i64..60, 0_usize..3);
    (prop::collection::vec(file, 0..40), prop::collection::vec(delete, 0..30)).prop_map(|(sizes, reached)| {
        let data: Vec<DataEntry> =
            sizes.iter().enumerate().map(|(at, (size, seq, own))| data(at, *size * MIB, *seq, *own)).collect();
        let entry = |(at, (target, kind, rows, seq, own)): (usize, (usize, u8, u64, i64, usize))| {
            let target = data.get(target);
            match (kind, target) {
                (0, Some(file)) => deletes(
                    at,
                    DeleteKind::Vector,
                    Some(&file.location),
                    rows.min(file.rows),
                    seq.max(file.seq),
                    file.partition,
                ),
                (1, _) => deletes(at, DeleteKind::Positions, None, rows, seq, own),
                _ => deletes(at, DeleteKind::Equality(vec![1]), None, rows, seq, own),
            }
        };
        let deletes = reached.into_iter().enumerate().map(entry).collect();
        let partitions = (0..3).map(|at| partition(at, 0)).collect();
        LiveFiles { snapshot: 9, seq: 900, partitions, data, deletes }
    })
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_plan(
        mut files in table(),
        orders in prop::collection::vec(prop::option::of(1..3), 40),
        own in prop::option::of(1..3),
    ) {
        files.data.iter_mut().zip(orders).for_each(|(file, order)| file.sort_order_id = order);
        let policy = Policy { sort_order_id: own, ..policy() };
        let first = plan(&files, &policy, 0);
        let second = plan(&applied(&files, &first, &policy), &policy, 0);
        prop_assert!(second.groups.is_empty(), "{:?}", second.groups);
    }

    #[test]
    fn every_file_is_in_one_group_or_left_and_groups_keep_to_one_partition_and_their_size(files in table()) {
        let policy = Policy { group_bytes_max: 500 * MIB, ..policy() };
        let plan = plan(&files, &policy, 0);
        let mut seen: Vec<usize> = plan.groups.iter().flat_map(|group| group.inputs.clone()).collect();
        let left: usize = plan.left.iter().map(|left| left.files).sum();
        prop_assert_eq!(seen.len() + left, files.data.len());
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len() + left, files.data.len(), "a file is in two groups");
        for group in &plan.groups {
            prop_assert!(group.bytes_in <= policy.group_bytes_max || group.inputs.len() == 1);
            prop_assert!(group.inputs.iter().all(|at| files.data[*at].partition == group.partition));
            for (at, entry) in files.deletes.iter().enumerate() {
                let reaches = group.inputs.iter().any(|input| entry.reaches(&files.data[*input], &files.partitions));
                prop_assert!(!reaches || group.deletes.contains(&at), "delete file {at} is missing");
            }
        }
    }
}
