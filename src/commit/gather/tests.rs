use iceberg::TableUpdate;
use iceberg::spec::{DataContentType, Literal, Operation};

use super::*;
use crate::catalog::faulty::Fault;
use crate::commit::protocol::{Commit, Ending, Paused};
use crate::commit::replace::tests::{Content, World, main_at, schema};
use crate::env::virtual_time::on_virtual_time;
use crate::model::change::{Change, Data};
use crate::model::ids::MAIN;
use crate::model::table::TableState;

impl World {
    /// A rewrite of all manifests of `state` that can be gathered.
    pub(crate) async fn gathering(&self, state: &TableState, target_bytes: u64) -> Option<Change> {
        let head = state.head(MAIN)?;
        let format = state.metadata.format_version();
        let sources = self.manifests(state).await.into_iter().filter(|manifest| can_gather(manifest, format));
        let sources: BTreeSet<String> = sources.map(|manifest| manifest.manifest_path).collect();
        if sources.is_empty() {
            return None;
        }
        let mut change = Change::new(self.env.snapshot_id());
        let planned = head.snapshot_id();
        change.data = Some(Data::RewriteManifests(RewriteManifests { sources, target_bytes, planned }));
        Some(change)
    }

    /// Every live entry; which of its fields stay is `World::live`'s to check.
    async fn entries(&self) -> usize {
        let mut count = 0;
        for manifest in self.manifests(&self.state().await).await {
            count += manifests::live_entries(&self.storage, &manifest).await.expect("a manifest").len();
        }
        count
    }
}

#[derive(Debug, Clone, Copy)]
enum Theirs {
    Nothing,
    Append,
    Deletes,
    FileRemoved,
    AllRemoved,
    ColumnAdded,
    ColumnRenamed,
    Gathered,
    RolledBack,
}

/// A table of six data manifests and two of deletes, a rewrite of them, and what others do before it is committed.
async fn meets(theirs: Theirs, format: FormatVersion) -> (World, Ending) {
    let world = World::new(2, 0, format).await;
    let mut paths = Vec::new();
    for _ in 0..6 {
        paths.push(world.append(4).await);
    }
    for path in &paths[..2] {
        let positions = Content::Positions([(path.clone(), 1)].into());
        assert!(world.delete(world.file(positions, Some(path)).await).await);
    }
    let base = world.state().await;
    let change = world.gathering(&base, 1 << 20).await.expect("sources");
    let forget = |path: &str| {
        let Content::Rows(rows) = world.content(path) else { panic!("rows") };
        world.wanted.lock().expect("unpoisoned").retain(|row| !rows.contains(row));
    };
    match theirs {
        Theirs::Nothing => {}
        Theirs::Append => drop(world.append(5).await),
        Theirs::Deletes => {
            let positions = Content::Positions([(paths[4].clone(), 2)].into());
            assert!(world.delete(world.file(positions, None).await).await);
        }
        Theirs::FileRemoved => {
            assert!(world.foreign(vec![], &[paths[3].clone()].into()).await);
            forget(&paths[3]);
        }
        Theirs::AllRemoved => {
            assert!(world.foreign(vec![], &paths.iter().cloned().collect()).await);
            paths.iter().for_each(|path| forget(path));
        }
        Theirs::ColumnAdded | Theirs::ColumnRenamed => {
            let fields: &[(i32, &str)] =
                if matches!(theirs, Theirs::ColumnAdded) { &[(1, "n"), (2, "m")] } else { &[(1, "m")] };
            let updates = vec![
                TableUpdate::AddSchema { schema: schema(fields) },
                TableUpdate::SetCurrentSchema { schema_id: -1 },
            ];
            assert!(world.update(vec![], updates).await);
        }
        Theirs::Gathered => {
            let other = world.gathering(&base, 1 << 20).await.expect("sources");
            assert!(matches!(world.run(other, &base).await.1, Ending::Done { .. }));
        }
        Theirs::RolledBack => {
            let parent = base.head(MAIN).and_then(|head| head.parent_snapshot_id()).expect("a parent");
            assert!(world.update(vec![], vec![main_at(parent)]).await);
            *world.wanted.lock().expect("unpoisoned") = world.rows().await;
        }
    }
    let entries = world.entries().await;
    let (_, ending) = world.run(change, &base).await;
    assert_eq!(world.rows().await, *world.wanted.lock().expect("unpoisoned"), "{theirs:?}: rows");
    assert_eq!(world.entries().await, entries, "{theirs:?}: no entry comes or goes");
    (world, ending)
}

/// How many manifests there are afterwards: of data, and of deletes.
async fn counts(world: &World) -> [usize; 2] {
    let manifests = world.manifests(&world.state().await).await;
    let of = |content| manifests.iter().filter(|manifest| manifest.content == content).count();
    [of(ManifestContentType::Data), of(ManifestContentType::Deletes)]
}

#[test]
fn a_rewrite_of_manifests_meets_every_kind_of_change_as_the_conflict_table_says() {
    on_virtual_time(async {
        let cells = [
            (Theirs::Nothing, Some([1, 1])),
            // Theirs are carried.
            (Theirs::Append, Some([2, 1])),
            (Theirs::Deletes, Some([1, 2])),
            // What others have rewritten stays as it is, the rest is gathered.
            (Theirs::FileRemoved, Some([1, 1])),
            (Theirs::AllRemoved, Some([0, 1])),
            (Theirs::ColumnAdded, Some([1, 1])),
            (Theirs::ColumnRenamed, Some([1, 1])),
            (Theirs::Gathered, None),
            (Theirs::RolledBack, None),
        ];
        for format in [FormatVersion::V2, FormatVersion::V3] {
            for (theirs, expected) in cells {
                let (world, ending) = meets(theirs, format).await;
                match (ending, expected) {
                    (Ending::Done { ours: true, .. }, Some(expected)) => {
                        assert_eq!(counts(&world).await, expected, "{theirs:?} {format}");
                    }
                    (Ending::Lost(_), None) => {}
                    (other, _) => panic!("{theirs:?} {format}: {other:?}"),
                }
            }
        }
    });
}

#[test]
fn the_summary_of_a_rewrite_of_manifests_counts_them_and_carries_the_totals() {
    on_virtual_time(async {
        let (world, _) = meets(Theirs::Append, FormatVersion::V2).await;
        let state = world.state().await;
        let head = state.head(MAIN).expect("a head");
        assert_eq!(head.summary().operation, Operation::Replace);
        let said = &head.summary().additional_properties;
        let count = |name: &str| said[name].parse::<usize>().expect("a number");
        let names = ["manifests-created", "manifests-kept", "manifests-replaced", "entries-processed"];
        assert_eq!(names.map(count), [2, 1, 8, 8]);
        let added = ["added-data-files", "deleted-data-files", "added-records"];
        assert!(added.iter().all(|name| !said.contains_key(*name)), "{said:?}");
    });
}

async fn of_four_manifests() -> (World, TableState) {
    let world = World::new(3, 0, FormatVersion::V2).await;
    for _ in 0..4 {
        world.append(3).await;
    }
    let base = world.state().await;
    (world, base)
}

/// What was gathered for one head is used for the next while its sources are there: nothing is written twice.
#[test]
fn an_attempt_that_lost_against_an_append_writes_a_list_and_no_manifest() {
    on_virtual_time(async {
        let (world, base) = of_four_manifests().await;
        let change = world.gathering(&base, 1 << 20).await.expect("sources");
        world.append(3).await;
        world.catalog.script([Fault::LostNo]);
        let (commit, ending) = world.run(change, &base).await;
        assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
        assert!(commit.attempts() > 1);
        let written = &commit.into_leftover(&base.name).files;
        assert_eq!(written.iter().filter(|file| manifests::is_manifest(file)).count(), 1, "{written:?}");
    });
}

#[test]
fn a_rewrite_of_manifests_that_landed_was_rolled_back_and_expired_is_not_done_again() {
    on_virtual_time(async {
        let (world, base) = of_four_manifests().await;
        let mut commit = Commit::new(world.gathering(&base, 1 << 20).await.expect("sources"));
        world.catalog.script([Fault::LostYes]);
        let mut committer = world.committer();
        let mut drive = committer.begin(&commit, &base).expect("begins");
        let turn = committer.turn(&mut drive, &mut commit).await.expect("no halt");
        assert!(matches!(turn, Paused::Waits(_)), "{turn:?}");
        // It is in. Others roll it back, expire it, and delete what only it named.
        let landed = world.state().await;
        let gone: Vec<String> = {
            let before: BTreeSet<_> = world.manifests(&base).await.into_iter().map(|m| m.manifest_path).collect();
            let now = world.manifests(&landed).await.into_iter().map(|m| m.manifest_path);
            now.filter(|path| !before.contains(path)).collect()
        };
        assert_eq!(gone.len(), 1);
        assert!(world.update(vec![], vec![main_at(base.head(MAIN).expect("a head").snapshot_id())]).await);
        let snapshot_ids = vec![landed.head(MAIN).expect("a head").snapshot_id()];
        assert!(world.update(vec![], vec![TableUpdate::RemoveSnapshots { snapshot_ids }]).await);
        world.storage.delete(&gone[0]).await.expect("deleted");
        let turn = loop {
            match committer.turn(&mut drive, &mut commit).await.expect("no halt") {
                Paused::Waits(_) => {}
                ended => break ended,
            }
        };
        assert!(matches!(turn, Paused::Ended(Ending::Lost(_))), "{turn:?}");
        assert_eq!(world.rows().await, *world.wanted.lock().expect("unpoisoned"));
    });
}

#[test]
fn partitions_are_ordered_by_their_values_and_nulls_are_first() {
    let partition = |values: [Option<i32>; 2]| Struct::from_iter(values.map(|value| value.map(Literal::int)));
    let ordered = [[None, Some(1)], [Some(2), None], [Some(2), Some(-5)], [Some(2), Some(10)], [Some(10), None]];
    for (n, a) in ordered.iter().enumerate() {
        for (m, b) in ordered.iter().enumerate() {
            assert_eq!(by_partition(&partition(*a), &partition(*b)), n.cmp(&m), "{a:?} {b:?}");
        }
    }
}

#[test]
fn manifests_have_the_target_size_and_no_more_entries_than_one_may() {
    let cases = [
        ((0, 0, 100), 1),
        ((50, 5, 100), 1),
        ((250, 5, 100), 3),
        ((250, 2, 100), 2),
        ((10, ENTRIES_MAX + 1, 100), 2),
        ((10, 3, 0), 3),
    ];
    for ((bytes, entries, target), expected) in cases {
        assert_eq!(parts(bytes, entries, target), expected, "{entries} entries of {bytes} bytes to {target}");
    }
}

/// Deletes are told from data by content: nothing else may share a manifest.
#[test]
fn data_and_deletes_never_share_a_manifest() {
    on_virtual_time(async {
        let (world, _) = meets(Theirs::Deletes, FormatVersion::V3).await;
        for manifest in world.manifests(&world.state().await).await {
            let is_data = manifest.content == ManifestContentType::Data;
            let entries = manifests::live_entries(&world.storage, &manifest).await.expect("a manifest");
            assert!(entries.iter().all(|e| (e.file.content_type() == DataContentType::Data) == is_data));
        }
    });
}
