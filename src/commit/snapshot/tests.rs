//! What a prepared commit says, as JSON under tests/golden/commit. `UPDATE_GOLDEN=1` writes the files anew.

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Manifest, NestedField, PrimitiveType, Schema,
    SnapshotReference, SnapshotRetention, SortOrder, StatisticsFile, Struct, Type, UnboundPartitionSpec,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{Catalog, CreateTable, Outcome};
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::OnRollback;
use crate::model::checkpoint::{Checkpoint, Delta, Position, Range};
use crate::model::ids::{PartitionId, PipelineName, TableName};
use crate::storage::StorageOptions;

struct Bench {
    env: Env,
    storage: Storage,
    catalog: MemoryCatalog,
    table: TableName,
}

impl Bench {
    async fn new(format_version: FormatVersion, properties: &[(&str, &str)]) -> Self {
        let env = simulated(1);
        let catalog = MemoryCatalog::new(env.clone(), "memory:///wh");
        let table: TableName = "ns.t".parse().expect("valid");
        let create = CreateTable {
            name: table.clone(),
            location: Some("memory:///wh/t".to_owned()),
            schema: columns(&["n"]),
            spec: UnboundPartitionSpec::default(),
            sort_order: SortOrder::unsorted_order(),
            format_version,
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let outcome = catalog.create(&create).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let storage = Storage::new(StorageOptions::default(), env.clone());
        Self { env, storage, catalog, table }
    }

    async fn state(&self) -> TableState {
        self.catalog.load(&self.table).await.expect("there")
    }

    async fn prepare(&self, change: &Change, held: Option<&Taken>) -> Prepared {
        let mut preparer = Preparer {
            env: &self.env,
            storage: &self.storage,
            ledger: None,
            instance: "i",
            held,
            cache: &mut ListCache::default(),
        };
        preparer.prepare(change, &mut Written::default(), &self.state().await).await.expect("prepares")
    }

    /// Prepares and commits.
    async fn commit(&self, change: &Change) -> Prepared {
        let prepared = self.prepare(change, None).await;
        let outcome = self.catalog.commit(&prepared.commit).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        prepared
    }

    /// An append of one file with `rows` rows to position `to`; none is the start record.
    async fn append(&self, id: i64, rows: u64, to: i64) -> Change {
        let base = self.state().await;
        let mut change = Change::new(id);
        let files = if rows == 0 { vec![] } else { vec![file(id, rows)] };
        let schema = Arc::clone(base.metadata.current_schema());
        change.data = Some(Data::Append(Append { files, schema, spec_id: 0 }));
        let mut delta = Delta::default();
        if rows > 0 {
            let range = Range { from: None, to: Position::Offset(to) };
            delta.extend(PartitionId::new("0"), range).expect("first");
        }
        change.delta = Some(PipelineDelta {
            pipeline: PipelineName::new("p"),
            delta,
            witness: Checkpoint::default(),
            on_rollback: OnRollback::Halt,
            follows: None,
            known_seq: 0,
            sealed: vec![],
            finished: vec![],
            operator: None,
        });
        change
    }

    /// The manifests of the head and their entries, as a reader that is not ours finds them.
    async fn manifests(&self) -> Value {
        let state = self.state().await;
        let head = state.head(MAIN).expect("a head");
        let format = state.metadata.format_version();
        let mut shown = Vec::new();
        for manifest in manifests::list(&self.storage, head.manifest_list(), format).await.expect("a list") {
            let bytes = self.storage.read(&manifest.manifest_path).await.expect("there");
            assert_eq!(manifest.manifest_length, i64::try_from(bytes.len()).expect("small"), "its length in the list");
            let (entries, _) = Manifest::parse_avro(&bytes).expect("a manifest").into_parts();
            let entries: Vec<Value> = entries
                .iter()
                .map(|entry| {
                    json!({
                        "status": format!("{:?}", entry.status()),
                        "snapshot": entry.snapshot_id(),
                        "seq": entry.sequence_number(),
                        "file_seq": entry.file_sequence_number,
                        "file": entry.file_path(),
                        "first_row_id": entry.data_file().first_row_id(),
                    })
                })
                .collect();
            shown.push(json!({
                "added_snapshot": manifest.added_snapshot_id,
                "seq": manifest.sequence_number,
                "min_seq": manifest.min_sequence_number,
                "first_row_id": manifest.first_row_id,
                "added": [manifest.added_files_count.map(u64::from), manifest.added_rows_count],
                "existing": [manifest.existing_files_count.map(u64::from), manifest.existing_rows_count],
                "deleted": [manifest.deleted_files_count.map(u64::from), manifest.deleted_rows_count],
                "entries": entries,
            }));
        }
        Value::Array(shown)
    }
}

fn columns(names: &[&str]) -> Schema {
    let field =
        |(id, name): (i32, &&str)| Arc::new(NestedField::optional(id, *name, Type::Primitive(PrimitiveType::Long)));
    Schema::builder().with_fields((1..).zip(names).map(field)).build().expect("valid")
}

fn file(id: i64, rows: u64) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("memory:///wh/t/data/{id}.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(rows)
        .file_size_in_bytes(100)
        .build()
        .expect("complete")
}

/// `value` without what differs from run to run: UUIDs, times, the order of keys.
fn steady(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let keep = |(key, value)| match key {
                key if key == "timestamp-ms" => (key, json!(0)),
                key if key == "engine-version" => (key, json!("VERSION")),
                key => (key, steady(value)),
            };
            Value::Object(map.into_iter().map(keep).collect::<BTreeMap<String, Value>>().into_iter().collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(steady).collect()),
        Value::String(text) => Value::String(without_uuids(&text)),
        other => other,
    }
}

fn without_uuids(text: &str) -> String {
    let found = (0..text.len()).find(|at| text.get(*at..at + 36).is_some_and(|s| Uuid::try_parse(s).is_ok()));
    match found {
        Some(at) => format!("{}UUID{}", &text[..at], without_uuids(&text[at + 36..])),
        None => text.to_owned(),
    }
}

fn assert_golden(name: &str, value: Value) {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/commit/{name}.json"));
    let actual = format!("{:#}\n", steady(value));
    #[allow(clippy::disallowed_methods)] // a switch of the test runner, not a setting of the program
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("has one")).expect("writable");
        std::fs::write(&path, &actual).expect("writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{} differs\n--- expected\n{expected}\n--- actual\n{actual}", path.display());
}

fn request(prepared: &Prepared) -> Value {
    json!({ "requirements": prepared.commit.requirements, "updates": prepared.commit.updates })
}

#[test]
fn requests_are_as_written_down() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2, &[]).await;
        let start = bench.commit(&bench.append(1, 0, 0).await).await;
        assert_golden("start", request(&start));
        let append = bench.commit(&bench.append(2, 10, 9).await).await;
        assert_golden("append", request(&append));
        let mut change = bench.append(3, 5, 14).await;
        let schema = Arc::new(columns(&["n", "added"]));
        change.evolve = Some(Evolve { base_last_column_id: 1, base_schema_id: 0, schema: Arc::clone(&schema) });
        change.data = Some(Data::Append(Append { files: vec![file(3, 5)], schema, spec_id: 0 }));
        assert_golden("append-evolve", request(&bench.commit(&change).await));
        let mut refs = Change::new(4);
        let retention = SnapshotRetention::Tag { max_ref_age_ms: Some(1000) };
        refs.refs.insert("new".to_owned(), Some(SnapshotReference::new(2, retention)));
        refs.refs.insert("gone".to_owned(), None);
        assert_golden("set-ref", request(&bench.prepare(&refs, None).await));
        let mut statistics = Change::new(5);
        statistics.statistics.push(StatisticsFile {
            snapshot_id: 2,
            statistics_path: "memory:///wh/t/metadata/2.stats".to_owned(),
            file_size_in_bytes: 10,
            file_footer_size_in_bytes: 5,
            key_metadata: None,
            blob_metadata: vec![],
        });
        assert_golden("set-statistics", request(&bench.prepare(&statistics, None).await));
    });
}

#[test]
fn manifests_are_as_written_down_also_after_a_merge() {
    on_virtual_time(async {
        for (format, name) in [(FormatVersion::V2, "manifests-v2"), (FormatVersion::V3, "manifests-v3")] {
            let bench = Bench::new(format, &[("commit.manifest.min-count-to-merge", "2")]).await;
            bench.commit(&bench.append(1, 0, 0).await).await;
            for id in 2..=4 {
                bench.commit(&bench.append(id, 10 * id.cast_unsigned(), id).await).await;
            }
            assert_golden(name, bench.manifests().await);
            let state = bench.state().await;
            let totals = &state.head(MAIN).expect("a head").summary().additional_properties;
            assert_eq!((totals["total-records"].as_str(), totals["total-data-files"].as_str()), ("90", "3"));
            if format == FormatVersion::V3 {
                assert_eq!(state.metadata.next_row_id(), 90, "each row has one id");
            }
        }
    });
}

#[test]
fn the_first_commit_after_an_upgrade_gives_the_old_rows_their_ids() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2, &[("commit.manifest.min-count-to-merge", "2")]).await;
        bench.commit(&bench.append(1, 0, 0).await).await;
        bench.commit(&bench.append(2, 20, 2).await).await;
        bench.commit(&bench.append(3, 30, 3).await).await;
        let mut upgrade = bench.prepare(&Change::new(9), None).await.commit;
        upgrade.updates = vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }];
        let outcome = bench.catalog.commit(&upgrade).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        bench.commit(&bench.append(4, 40, 4).await).await;
        assert_golden("manifests-upgraded", bench.manifests().await);
        let state = bench.state().await;
        assert_eq!(state.metadata.next_row_id(), 90);
        assert_eq!(state.head(MAIN).expect("a head").row_range(), Some((0, 90)), "old rows count as added");
    });
}

#[test]
fn a_merged_manifest_leaves_deleted_entries_behind() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2, &[]).await;
        bench.commit(&bench.append(1, 0, 0).await).await;
        let scribe = ManifestScribe {
            env: &bench.env,
            storage: &bench.storage,
            folder: "memory:///wh/t/metadata".to_owned(),
            snapshot_id: 7,
            format: FormatVersion::V2,
            ledger: None,
        };
        let state = bench.state().await;
        let (schema, spec) = (state.metadata.current_schema(), state.metadata.default_partition_spec());
        let mut source = scribe
            .write(iceberg::spec::ManifestContentType::Data, schema, spec, |writer| {
                writer.add_existing_file(file(1, 10), 1, 1, Some(1))?;
                writer.add_delete_file(file(2, 20), 1, Some(1))
            })
            .await
            .expect("written");
        (source.sequence_number, source.min_sequence_number) = (2, 1);
        let merged = scribe.merged(&[source], schema, spec).await.expect("merged");
        let live = manifests::live_entries(&bench.storage, &merged).await.expect("readable");
        let paths: Vec<_> = live.iter().map(|entry| entry.file.file_path()).collect();
        assert_eq!(paths, [file(1, 10).file_path()]);
        assert_eq!((merged.existing_files_count, merged.deleted_files_count), (Some(1), Some(0)));
    });
}

#[test]
fn a_record_of_many_partitions_stands_in_the_lists_header() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2, &[]).await;
        bench.commit(&bench.append(1, 0, 0).await).await;
        let mut change = bench.append(2, 10, 9).await;
        for partition in 1..300 {
            let range = Range { from: None, to: Position::Offset(partition) };
            let delta = &mut change.delta.as_mut().expect("has one").delta;
            delta.extend(PartitionId::new(format!("p{partition}")), range).expect("first");
        }
        bench.commit(&change).await;
        let key = "frazil.checkpoint.p@main";
        let state = bench.state().await;
        let head = state.head(MAIN).expect("a head");
        assert_eq!(head.summary().additional_properties[key], IN_LIST);
        let property = state.property(key).expect("there").to_owned();
        let carried = |state: &TableState| {
            let (storage, chain) = (bench.storage.clone(), Chain::of(state, MAIN).expect("no circle"));
            async move { records::nearest(&storage, &chain, MAIN, None).await.expect("readable")[key].text.clone() }
        };
        assert_eq!(carried(&state).await, property);
        // Another pipeline's commit carries it on, verbatim.
        let mut other = bench.append(3, 10, 9).await;
        other.delta.as_mut().expect("has one").pipeline = PipelineName::new("q");
        bench.commit(&other).await;
        let state = bench.state().await;
        assert_eq!(state.head(MAIN).expect("a head").summary().additional_properties[key], IN_LIST);
        assert_eq!(carried(&state).await, property);
    });
}
