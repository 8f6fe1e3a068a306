use std::sync::Arc;

use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Struct};

use super::*;
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::{Append, Change, OnRollback, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta};
use crate::model::ids::PipelineName;
use crate::model::table::tests::with_snapshots;
use crate::storage::StorageOptions;
use crate::storage::counters::Operation;

/// An append of these files.
fn append(head: &TableState, files: &[&str]) -> Change {
    let file = |path: &&str| {
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path((*path).to_owned())
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::empty())
            .partition_spec_id(0)
            .record_count(1)
            .file_size_in_bytes(1)
            .build()
            .expect("complete")
    };
    let mut change = Change::new(99);
    let (files, schema) = (files.iter().map(file).collect(), Arc::clone(head.metadata.current_schema()));
    change.data = Some(Data::Append(Append { files, schema, spec_id: 0 }));
    change
}

/// It landed as sequence number 2 or 3, was rolled back and expired, and somebody's sweep took its file: committing it again
/// would name a file that is not there. Every other story leaves the file, or no gap.
#[test]
fn a_commit_is_swept_when_a_number_of_its_own_is_gone_and_so_is_a_file() {
    on_virtual_time(async {
        let storage = Storage::new(StorageOptions::default(), simulated(1));
        storage.write("memory:///t/there", "x".into()).await.expect("writable");
        let gap = with_snapshots(&[(1, 1, None), (4, 4, Some(1))], 4);
        let whole = with_snapshots(&[(1, 1, None), (2, 2, Some(1)), (3, 3, Some(2))], 3);
        let (here, gone) = ("memory:///t/there", "memory:///t/gone");
        type Case<'a> = (&'a str, &'a TableState, &'a [&'a str], Option<(i64, i64)>, bool);
        let cases: [Case<'_>; 8] = [
            ("number and file are gone", &gap, &[gone], Some((2, 3)), true),
            ("one of its files is gone", &gap, &[here, gone], Some((2, 2)), true),
            ("the file is there", &gap, &[here], Some((2, 3)), false),
            ("every number is another's", &whole, &[gone], Some((2, 3)), false),
            ("its numbers are yet to come", &whole, &[gone], Some((4, 5)), false),
            ("its numbers begin with one that is held", &gap, &[gone], Some((4, 6)), false),
            ("nothing was submitted", &gap, &[gone], None, false),
            ("no files at all", &gap, &[], Some((2, 3)), false),
        ];
        for (case, head, files, seqs, expected) in cases {
            let mut commit = Commit { submitted_seqs: seqs, ..Commit::new(append(head, files)) };
            let missing = swept(&storage, head, &mut commit).await.expect("asked");
            assert_eq!(missing, expected.then(|| gone.to_owned()), "{case}");
        }
        let mut without_data = Commit { submitted_seqs: Some((2, 3)), ..Commit::new(Change::new(99)) };
        assert_eq!(swept(&storage, &gap, &mut without_data).await.expect("asked"), None);
    });
}

/// Whoever finishes a decided epoch deletes its object: without it the decision is not made again, whatever else is there.
#[test]
fn a_decision_is_swept_when_the_object_that_it_names_is_gone() {
    on_virtual_time(async {
        let storage = Storage::new(StorageOptions::default(), simulated(1));
        let (there, gone) = ("memory:///t/there", "memory:///t/sealed");
        storage.write(there, "x".into()).await.expect("writable");
        let gap = with_snapshots(&[(1, 1, None), (4, 4, Some(1))], 4);
        for (sealed, expected) in [(there, None), (gone, Some(gone.to_owned()))] {
            let mut change = append(&gap, &[there]);
            change.delta = Some(PipelineDelta {
                pipeline: PipelineName::new("p"),
                delta: Delta::default(),
                witness: Checkpoint::default(),
                on_rollback: OnRollback::Halt,
                follows: None,
                known_seq: 0,
                sealed: vec![sealed.to_owned()],
                finished: vec![],
                operator: None,
            });
            let mut commit = Commit { submitted_seqs: Some((2, 3)), ..Commit::new(change) };
            assert_eq!(swept(&storage, &gap, &mut commit).await.expect("asked"), expected);
        }
    });
}

/// What another instance may have committed since its files were made is asked about too, and only when more has expired.
#[test]
fn files_of_a_part_are_looked_for_once_for_each_expiry_that_may_have_been_it() {
    on_virtual_time(async {
        let storage = Storage::new(StorageOptions::default(), simulated(1));
        storage.write("memory:///t/there", "x".into()).await.expect("writable");
        let looks =
            || storage.counters().snapshot().get(&Operation::Head).map_or(0, |counts| counts.ok + counts.missing);
        let whole = with_snapshots(&[(1, 1, None), (2, 2, Some(1)), (3, 3, Some(2))], 3);
        let gap = with_snapshots(&[(1, 1, None), (3, 3, Some(1))], 3);
        let wider = with_snapshots(&[(1, 1, None), (4, 4, Some(1))], 4);
        let mut part = Commit::new(append(&gap, &["memory:///t/there"])).made_at(0);
        for (head, so_far) in [(&whole, 0), (&gap, 1), (&gap, 1), (&wider, 2), (&wider, 2)] {
            assert_eq!(swept(&storage, head, &mut part).await.expect("asked"), None);
            assert_eq!(looks(), so_far);
        }
        let gone = "memory:///t/gone";
        for (made, expected) in [(0, Some(gone.to_owned())), (1, Some(gone.to_owned())), (3, None)] {
            let mut part = Commit::new(append(&wider, &[gone])).made_at(made);
            let case = if made == 3 { &gap } else { &wider };
            assert_eq!(swept(&storage, case, &mut part).await.expect("asked"), expected, "made at {made}");
        }
    });
}

/// A list stands in the table's metadata: what is wanted no deeper reads nothing. Without a parent there is no proof, and what
/// is in is no leftover.
#[test]
fn a_leftover_is_proved_by_what_must_be_read_and_no_more() {
    on_virtual_time(async {
        let storage = Storage::new(StorageOptions::default(), simulated(1));
        let state = with_snapshots(&[(1, 1, None), (2, 2, Some(1)), (3, 3, Some(2))], 3);
        let reads =
            || storage.counters().snapshot().get(&Operation::Get).map_or(0, |counts| counts.ok + counts.missing);
        let owner = LedgerOwner { table: state.name.clone(), snapshot_id: 9 };
        let list = |id: i64| format!("memory:///t/metadata/snap-{id}.avro");
        let sent = |files: &[String]| Leftover {
            submitted_seqs: Some((2, 3)),
            ..Leftover::unsent(files.to_vec(), owner.clone())
        };
        let gone = Leftover { snapshot_ids: vec![3], ..sent(&[list(9)]) };
        let (late, start) =
            (Leftover { submitted_seqs: Some((2, 4)), ..sent(&[]) }, Leftover { without_parent: true, ..sent(&[]) });
        let unsent = Leftover::unsent(vec!["memory:///t/data/1.parquet".to_owned()], owner.clone());
        for (case, leftover, expected) in [
            ("another attempt's list", sent(&[list(9)]), Proof::Never),
            ("a list that a snapshot has", sent(&[list(9), list(2)]), Proof::In),
            ("its snapshot is there", gone, Proof::In),
            ("its number is yet to come", late, Proof::Open),
            ("a body without a parent", start, Proof::Open),
            ("never sent", unsent, Proof::Never),
        ] {
            assert_eq!(
                prove(&History::default(), &storage, &state, &[&leftover]).await.expect("asked"),
                [expected],
                "{case}"
            );
        }
        assert_eq!(reads(), 0, "nothing but the metadata was needed");
        // A manifest stands in a list, a data file in a manifest: here there is none to be read, so there is no proof.
        for file in ["memory:///t/metadata/9-x.avro", "memory:///t/data/1.parquet"] {
            assert!(
                prove(&History::default(), &storage, &state, &[&sent(&[file.to_owned()])]).await.is_err(),
                "{file}"
            );
        }
    });
}
