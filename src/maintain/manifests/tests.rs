use iceberg::spec::ManifestContentType;
use proptest::prelude::*;

use super::*;

const TARGET: u64 = 8 << 20;

/// A manifest as a list names it.
fn manifest(path: impl Into<String>, spec: i32, bytes: u64, entries: u32) -> ManifestFile {
    ManifestFile {
        manifest_path: path.into(),
        manifest_length: i64::try_from(bytes).expect("small"),
        partition_spec_id: spec,
        content: ManifestContentType::Data,
        sequence_number: 1,
        min_sequence_number: 1,
        added_snapshot_id: 1,
        added_files_count: Some(0),
        existing_files_count: Some(entries),
        deleted_files_count: Some(0),
        added_rows_count: None,
        existing_rows_count: None,
        deleted_rows_count: None,
        partitions: None,
        key_metadata: None,
        first_row_id: Some(0),
    }
}

/// So many small ones of a spec.
fn small(count: usize, spec: i32) -> Vec<ManifestFile> {
    (0..count).map(|n| manifest(format!("{spec}-{n}"), spec, 10_000, 3)).collect()
}

/// What a list has once a plan is carried out.
fn applied(manifests: &[ManifestFile], plan: &Plan, round: usize) -> Vec<ManifestFile> {
    let (gone, mut left): (Vec<ManifestFile>, Vec<ManifestFile>) =
        manifests.iter().cloned().partition(|manifest| plan.sources.contains(&manifest.manifest_path));
    let mut kinds: BTreeMap<_, Vec<ManifestFile>> = BTreeMap::new();
    gone.into_iter().for_each(|manifest| kinds.entry(kind(&manifest)).or_default().push(manifest));
    for ((_, spec), sources) in kinds {
        let bytes: u64 = sources.iter().map(|m| u64::try_from(m.manifest_length).expect("positive")).sum();
        let entries: usize = sources.iter().map(entries).sum();
        let out = parts(bytes, entries, TARGET);
        for n in 0..out {
            let share = u32::try_from(entries.div_ceil(out).min(entries - (n * entries.div_ceil(out)).min(entries)));
            let path = format!("{spec}-round-{round}-{n}");
            left.push(manifest(path, spec, bytes / out as u64, share.expect("small")));
        }
    }
    left
}

#[test]
fn many_small_manifests_of_one_kind_are_chosen_and_others_stay() {
    let plan = |manifests: &[ManifestFile], count_min| plan(manifests, FormatVersion::V3, TARGET, count_min);
    let chosen = plan(&small(5, 0), 5).expect("five");
    assert_eq!((chosen.manifests_in, chosen.manifests_out, chosen.entries, chosen.bytes), (5, 1, 15, 50_000));
    assert_eq!(plan(&small(4, 0), 5), None, "too few");
    assert_eq!(plan(&small(1, 0), 0), None, "one is no fewer");
    assert_eq!(plan(&[small(3, 0), small(3, 1)].concat(), 5), None, "specs do not mix");
    let mut deletes = small(3, 0);
    deletes.iter_mut().for_each(|manifest| {
        manifest.content = ManifestContentType::Deletes;
        manifest.manifest_path.push('d');
    });
    assert_eq!(plan(&[small(3, 0), deletes].concat(), 5), None, "data and deletes do not mix");
    let whole: Vec<_> = (0..9).map(|n| manifest(format!("{n}"), 0, TARGET * 4 / 5, 100)).collect();
    assert_eq!(plan(&whole, 2), None, "large enough");
    let halves: Vec<_> = (0..2).map(|n| manifest(format!("{n}"), 0, TARGET * 3 / 5, 100)).collect();
    assert_eq!(plan(&halves, 2), None, "two would become two");
}

#[test]
fn a_manifest_that_is_encrypted_or_has_rows_without_ids_stays() {
    let chosen = |change: fn(&mut ManifestFile), format| {
        let mut manifests = small(5, 0);
        change(&mut manifests[0]);
        plan(&manifests, format, TARGET, 2).map(|plan| plan.manifests_in)
    };
    assert_eq!(chosen(|m| m.key_metadata = Some(vec![1]), FormatVersion::V2), Some(4));
    assert_eq!(chosen(|m| m.first_row_id = None, FormatVersion::V3), Some(4));
    assert_eq!(chosen(|m| m.first_row_id = None, FormatVersion::V2), Some(5));
}

#[test]
fn one_commit_gathers_no_more_entries_than_fit_into_memory() {
    let many: Vec<_> = (0..20).map(|n| manifest(format!("{n}"), 0, 10_000, 10_000)).collect();
    let chosen = plan(&many, FormatVersion::V2, TARGET, 2).expect("some");
    assert_eq!((chosen.manifests_in, chosen.entries), (10, GATHERED_MAX));
    // A list that counts nothing may name as many as there can be.
    let silent: Vec<_> = many.into_iter().map(|m| ManifestFile { added_files_count: None, ..m }).collect();
    assert_eq!(plan(&silent, FormatVersion::V2, TARGET, 2), None);
}

proptest! {
    /// Each plan makes the manifests fewer, and in the end there is none.
    #[test]
    fn plans_come_to_an_end(sizes in prop::collection::vec((0..3_i32, 1..12_000_000_u64, 0..30_000_u32), 0..60)) {
        let manifest = |(n, (spec, bytes, entries)): (usize, &(i32, u64, u32))| manifest(format!("{n}"), *spec, *bytes, *entries);
        let mut manifests: Vec<ManifestFile> = sizes.iter().enumerate().map(manifest).collect();
        let all: usize = manifests.iter().map(entries).sum();
        for round in 0..61 {
            let Some(plan) = plan(&manifests, FormatVersion::V2, TARGET, 2) else { return Ok(()) };
            let after = applied(&manifests, &plan, round);
            prop_assert!(after.len() < manifests.len());
            prop_assert_eq!(after.iter().map(entries).sum::<usize>(), all);
            manifests = after;
        }
        prop_assert!(false, "it goes on for ever");
    }
}
