//! Random histories of a table: what is found is what counting all rows finds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use bytes::Bytes;
use iceberg::spec::{FormatVersion, NestedField, PartitionSpec, PrimitiveType, Schema, SortOrder, Struct, Type};
use proptest::prelude::*;

use super::columns::Columns;
use super::columns::Names;
use super::gather::{Plan, copies_of};
use super::judge::{Verdict, files_of, judge, twice, verdict};
use super::sight::Bounds;
use super::standing::{Scope, Standing};
use super::window::{Ends, Window};
use super::*;
use crate::compact::files::{DataEntry, DeleteEntry, DeleteKind, LiveFiles, Partition};
use crate::compact::merge::files_in;
use crate::env::Env;
use crate::model::change::DeleteFile;
use crate::storage::{Storage, StorageOptions};
use crate::write::budget::Budget;
use crate::write::layout::TableLayout;
use crate::write::properties::WriteProperties;
use crate::write::{EpochWriter, WriterOptions};

/// A row: its topic's number, its partition, its offset; nothing where these are null.
type Row = Option<(u8, i32, i64)>;

/// A file as the model has it: rows, and the places of those that are deleted.
#[derive(Debug, Clone, Default)]
struct File {
    rows: Vec<Row>,
    deleted: BTreeSet<usize>,
    /// Whether a rewrite made it, or its rows came of such a file.
    merged: bool,
}

#[derive(Debug, Clone)]
enum Deed {
    /// So many next offsets of a log, in so many files, perhaps with those of another log between.
    Append { log: (u8, i32), count: usize, files: usize, mixed: bool },
    /// Rows of a file again, in a file of their own.
    Again { file: usize, from: usize, count: usize },
    /// A file without what its log had.
    Drop(usize),
    /// Two files become one, without what was deleted.
    Merge(usize, usize),
    /// A row of a file goes.
    Delete { file: usize, row: usize, alone: bool },
    /// A row that says nothing of its place.
    Stray,
}

fn deed() -> impl Strategy<Value = Deed> {
    let log = || (0..2_u8, 0..2_i32);
    prop_oneof![
        6 => (log(), 1..30_usize, 1..4_usize, prop::bool::ANY)
            .prop_map(|(log, count, files, mixed)| Deed::Append { log, count, files, mixed }),
        1 => (0..20_usize, 0..30_usize, 1..9_usize).prop_map(|(file, from, count)| Deed::Again { file, from, count }),
        1 => (0..20_usize).prop_map(Deed::Drop),
        2 => (0..20_usize, 0..20_usize).prop_map(|(a, b)| Deed::Merge(a, b)),
        2 => (0..20_usize, 0..30_usize, prop::bool::ANY)
            .prop_map(|(file, row, alone)| Deed::Delete { file, row, alone }),
        1 => Just(Deed::Stray),
    ]
}

/// The files that deeds leave, and what was deleted by files of deletes that are about a file alone.
fn history(deeds: &[Deed]) -> (Vec<File>, BTreeSet<(usize, usize)>) {
    let mut files: Vec<File> = Vec::new();
    let mut next: BTreeMap<(u8, i32), i64> = BTreeMap::new();
    let mut alone = Vec::new();
    for deed in deeds {
        let at = |place: usize| (!files.is_empty()).then(|| place % files.len());
        match deed {
            Deed::Append { log, count, files: parts, mixed } => {
                let mut rows = Vec::new();
                for _ in 0..*count {
                    for log in [*log, (log.0, log.1 + 10)].into_iter().take(1 + usize::from(*mixed)) {
                        let offset = next.entry(log).or_insert(3);
                        rows.push(Some((log.0, log.1, *offset)));
                        *offset += 1;
                    }
                }
                let size = rows.len().div_ceil(*parts);
                files.extend(rows.chunks(size).map(|rows| File { rows: rows.to_vec(), ..File::default() }));
            }
            Deed::Again { file, from, count } => {
                let Some(at) = at(*file) else { continue };
                let rows: Vec<Row> = files[at].rows.iter().skip(*from).take(*count).copied().collect();
                files.push(File { rows, merged: files[at].merged, ..File::default() });
            }
            Deed::Drop(file) => {
                let Some(at) = at(*file) else { continue };
                files[at] = File::default();
            }
            Deed::Merge(a, b) => {
                let (Some(a), Some(b)) = (at(*a), at(*b)) else { continue };
                let both = if a == b { vec![a] } else { vec![a, b] };
                let kept = both.iter().flat_map(|at| {
                    let file = &files[*at];
                    file.rows.iter().enumerate().filter(|(row, _)| !file.deleted.contains(row)).map(|(_, row)| *row)
                });
                let rows = kept.collect();
                both.iter().for_each(|at| files[*at] = File::default());
                files.push(File { rows, merged: true, ..File::default() });
            }
            Deed::Delete { file, row, alone: own } => {
                let Some(at) = at(*file).filter(|at| !files[*at].rows.is_empty()) else { continue };
                let row = row % files[at].rows.len();
                files[at].deleted.insert(row);
                if *own {
                    alone.push((at, row));
                }
            }
            Deed::Stray => files.push(File { rows: vec![None, Some((0, 0, 1)), None], ..File::default() }),
        }
    }
    let still = |(at, row): &(usize, usize)| files[*at].deleted.contains(row);
    let alone = alone.into_iter().filter(still).collect();
    (files, alone)
}

/// What counting finds of a log: rows, offsets missing between its first and last, offsets there twice, deleted offsets.
#[derive(Debug, Default, PartialEq)]
struct Count {
    rows: u64,
    missing: BTreeSet<u64>,
    twice: BTreeSet<u64>,
    deleted: BTreeSet<u64>,
}

fn name(topic: u8, partition: i32) -> String {
    format!("topic-of-a-long-name-{topic}/{partition}")
}

fn counted(files: &[File], window: &Window) -> BTreeMap<String, Count> {
    let mut live: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut deleted: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for file in files {
        for (at, row) in file.rows.iter().enumerate() {
            let Some((topic, partition, offset)) = row else { continue };
            let (log, offset) = (name(*topic, *partition), u64::try_from(*offset).expect("positive"));
            let within = window.from.of(&log).is_none_or(|from| offset >= from)
                && window.to.of(&log).is_none_or(|to| offset <= to)
                && window.has(&log);
            if within && file.deleted.contains(&at) {
                deleted.entry(log).or_default().insert(offset);
            } else if within {
                *live.entry(log).or_default().entry(offset).or_default() += 1;
            }
        }
    }
    let names: BTreeSet<String> = live.keys().chain(deleted.keys()).cloned().collect();
    let count = |log: String| {
        let (live, deleted) = (live.remove(&log).unwrap_or_default(), deleted.remove(&log).unwrap_or_default());
        let all: BTreeSet<u64> = live.keys().chain(&deleted).copied().collect();
        let begin = window.from.of(&log).or(all.first().copied()).expect("one");
        let end = window.to.of(&log).or(all.last().copied()).expect("one");
        let own = Count {
            rows: live.values().sum(),
            missing: (begin..=end).filter(|offset| !all.contains(offset)).collect(),
            twice: live.iter().filter(|(_, count)| **count > 1).map(|(offset, _)| *offset).collect(),
            deleted: deleted.into_iter().filter(|offset| !live.contains_key(offset)).collect(),
        };
        (log, own)
    };
    names.into_iter().map(count).collect()
}

/// Files as they are in a table, in memory.
struct Bench {
    env: Env,
    storage: Storage,
    layout: TableLayout,
    columns: Arc<Columns>,
}

impl Bench {
    fn new() -> Self {
        let env = Env::system();
        let optional = |id, name: &str, kind| Arc::new(NestedField::optional(id, name, Type::Primitive(kind)));
        let fields = [
            optional(1, "body", PrimitiveType::String),
            optional(2, "topic", PrimitiveType::String),
            optional(3, "part", PrimitiveType::Int),
            optional(4, "off", PrimitiveType::Long),
        ];
        let schema = Schema::builder().with_fields(fields).build().expect("valid");
        let names =
            Names { topic: Some("topic".to_owned()), partition: Some("part".to_owned()), offset: "off".to_owned() };
        let columns = Arc::new(Columns::of(&schema, &names).expect("there"));
        let mut properties = WriteProperties::default();
        // As a pipeline's hint says: names of topics are longer than bounds are by default.
        properties.metrics.columns.insert("topic".to_owned(), crate::write::properties::MetricsMode::Full);
        let layout = TableLayout {
            name: "db.t".parse().expect("valid"),
            location: "memory:///t".to_owned(),
            schema: Arc::new(schema),
            spec: Arc::new(PartitionSpec::unpartition_spec()),
            sort_order: Arc::new(SortOrder::unsorted_order()),
            properties,
            format_version: FormatVersion::V2,
        };
        Self { storage: Storage::new(StorageOptions::default(), env.clone()), env, layout, columns }
    }

    async fn put(&self, File { rows, merged, .. }: &File) -> (DataEntry, Bounds) {
        let topic = |row: &Row| row.map(|row| format!("topic-of-a-long-name-{}", row.0));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|_| Some("x")).collect::<StringArray>()),
            Arc::new(rows.iter().map(topic).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.map(|row| row.1)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| row.map(|row| row.2)).collect::<Int64Array>()),
        ];
        let batch = RecordBatch::try_new(self.layout.arrow_schema().expect("valid"), columns).expect("fits");
        let (files, budget) = (files_in(&self.storage, None), Budget::new(1 << 30));
        let options = WriterOptions::default();
        let writer = EpochWriter::new(self.layout.clone(), files, &budget, self.env.clone(), options);
        let mut writer = writer.expect("opens");
        assert!(writer.write(batch).await.expect("written").is_empty());
        let staged = writer.finish().await.expect("written");
        let [file] = staged.files.as_slice() else { panic!("one file") };
        let entry = DataEntry {
            location: file.file_path().to_owned(),
            bytes: file.file_size_in_bytes(),
            rows: file.record_count(),
            seq: 1,
            partition: 0,
            first_row_id: None,
            sort_order_id: None,
            added_ms: None,
            readable: true,
        };
        let bounds = Bounds::of(file, &self.layout.schema, &self.columns, !merged);
        (entry, bounds)
    }

    async fn positions(&self, rows: &[(String, i64)], target: Option<&str>) -> DeleteEntry {
        let field = |id: i32, name: &str, kind| {
            Field::new(name, kind, true).with_metadata([("PARQUET:field_id".to_owned(), id.to_string())].into())
        };
        let fields =
            [field(i32::MAX - 101, "file_path", DataType::Utf8), field(i32::MAX - 102, "pos", DataType::Int64)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0.as_str())).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()),
        ];
        let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(fields.to_vec())), columns).expect("fits");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("opens");
        writer.write(&batch).expect("in memory");
        writer.close().expect("in memory");
        let (location, size) = (format!("memory:///t/data/{}-deletes.parquet", self.env.uuid()), bytes.len() as u64);
        self.storage.write(&location, Bytes::from(bytes)).await.expect("writable");
        DeleteEntry {
            file: DeleteFile { location, offset: None },
            kind: DeleteKind::Positions,
            bytes: size,
            rows: rows.len() as u64,
            seq: 2,
            partition: 0,
            target: target.map(str::to_owned),
            readable: true,
        }
    }

    /// The table with these files; empty ones left out.
    async fn plan(&self, files: &[File], alone: &BTreeSet<(usize, usize)>) -> (Plan<'_>, BTreeMap<usize, String>) {
        let partitions = vec![Partition { spec_id: 0, values: Struct::empty(), global: true }];
        let mut live = LiveFiles { partitions, ..LiveFiles::default() };
        let (mut bounds, mut names) = (std::collections::HashMap::new(), BTreeMap::new());
        for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.rows.is_empty()) {
            let (entry, own) = self.put(file).await;
            names.insert(at, entry.location.clone());
            bounds.insert(entry.location.clone(), own);
            live.data.push(entry);
        }
        let mut together = Vec::new();
        for (at, location) in &names {
            for row in &files[*at].deleted {
                let place = (location.clone(), i64::try_from(*row).expect("small"));
                if alone.contains(&(*at, *row)) {
                    live.deletes.push(self.positions(&[place], Some(location)).await);
                } else {
                    together.push(place);
                }
            }
        }
        together.sort();
        if !together.is_empty() {
            live.deletes.push(self.positions(&together, None).await);
        }
        let specs = vec![Arc::new(PartitionSpec::unpartition_spec())];
        let (layout, columns) = (self.layout.clone(), Arc::clone(&self.columns));
        (Plan { env: &self.env, storage: &self.storage, layout, specs, live, columns, bounds }, names)
    }
}

fn request(look: Look, window: &Window) -> Request {
    Request { window: Arc::new(window.clone()), look, memory: 64 << 20 }
}

async fn looked(plan: &Plan<'_>, look: Look, window: &Window) -> (Evidence, Vec<judge::LogProof>) {
    let mut evidence = Evidence::default();
    evidence.add(plan, &request(look, window)).await.expect("readable");
    let proofs = judge(&evidence, &Evidence::default(), &request(look, window), &Standing::default()).expect("fits");
    (evidence, proofs)
}

fn as_count(proof: &judge::LogProof) -> Count {
    let all = |ranges: Vec<(u64, u64)>| ranges.into_iter().flat_map(|(first, last)| first..=last).collect();
    let own = Count {
        rows: proof.rows,
        missing: all(proof.gaps().collect()),
        twice: all(proof.duplicates().collect()),
        deleted: BTreeSet::new(),
    };
    assert_eq!(own.missing.len() as u64, proof.missing());
    own
}

async fn agree(files: &[File], alone: &BTreeSet<(usize, usize)>, window: &Window) {
    let bench = Bench::new();
    let (plan, names) = bench.plan(files, alone).await;
    let expected = counted(files, window);
    let is_broken = expected.values().any(|own| !own.missing.is_empty() || !own.twice.is_empty());
    for look in [Look::Always, Look::Auto] {
        let (evidence, proofs) = looked(&plan, look, window).await;
        let proofs: Vec<_> = proofs.into_iter().filter(|proof| proof.open.is_none()).collect();
        let found: BTreeMap<String, Count> = proofs.iter().map(|proof| (proof.log.clone(), as_count(proof))).collect();
        let without: BTreeMap<String, Count> = counted(files, window)
            .into_iter()
            .map(|(log, own)| (log, Count { deleted: BTreeSet::new(), ..own }))
            .collect();
        assert_eq!(found, without, "{look:?}");
        for proof in &proofs {
            assert_eq!(proof.deleted, expected[&proof.log].deleted.len() as u64, "{look:?} {}", proof.log);
            let offsets = proof.rows - proof.surplus;
            let twice = expected[&proof.log].twice.len() as u64;
            assert!(proof.surplus >= twice && offsets + proof.surplus == proof.rows, "{look:?} {}", proof.log);
        }
        let said = verdict(&proofs, &evidence, &Evidence::default(), true);
        let sound = if proofs.is_empty() { Verdict::Open } else { Verdict::Proven };
        assert_eq!(said, if is_broken { Verdict::Broken } else { sound }, "{look:?}");
        let copies = copies_of(&plan, &request(look, window), &twice(&proofs)).await.expect("readable");
        for (log, own) in &expected {
            for offset in &own.twice {
                let holds = |file: &File| {
                    let rows = file.rows.iter().enumerate().filter(|(at, _)| !file.deleted.contains(at));
                    rows.flat_map(|(_, row)| row).any(|row| name(row.0, row.1) == *log && row.2 == *offset as i64)
                };
                let holders = names.iter().filter(|(at, _)| holds(&files[**at]));
                let holders: BTreeSet<&str> = holders.map(|(_, file)| file.as_str()).collect();
                let named: BTreeSet<&str> = files_of(&copies, log, *offset, *offset).into_iter().collect();
                assert_eq!(named, holders, "{look:?} {log} {offset}");
            }
        }
        let all = *window == Window::default();
        let strays = files.iter().flat_map(|file| file.rows.iter().enumerate().map(move |(at, row)| (file, at, row)));
        let strays = strays.filter(|(file, at, row)| row.is_none() && !file.deleted.contains(at)).count() as u64;
        assert!(evidence.without == strays || !all, "{look:?}: {} of {strays}", evidence.without);
    }
    let (evidence, proofs) = looked(&plan, Look::Never, window).await;
    assert_eq!(evidence.figures.read, 0);
    match verdict(&proofs, &evidence, &Evidence::default(), true) {
        Verdict::Open => assert!(!evidence.unsettled.is_empty() || expected.is_empty()),
        said => {
            let right = if is_broken { Verdict::Broken } else { Verdict::Proven };
            assert_eq!(said, right, "never");
        }
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_of_a_random_history_is_what_counting_all_rows_finds(
        deeds in prop::collection::vec(deed(), 1..25),
        from in prop::option::of(3..20_u64),
        to in prop::option::of(20..40_u64),
    ) {
        let (files, alone) = history(&deeds);
        let end = |all| Ends { all, ..Ends::default() };
        run(async {
            agree(&files, &alone, &Window::default()).await;
            agree(&files, &alone, &Window { from: end(from), to: end(to), only: Vec::new() }).await;
            agree(&files, &alone, &Window { only: vec!["1".to_owned()], ..Window::default() }).await;
        });
    }
}

fn file(log: (u8, i32), offsets: impl IntoIterator<Item = i64>) -> File {
    File { rows: offsets.into_iter().map(|offset| Some((log.0, log.1, offset))).collect(), ..File::default() }
}

#[test]
fn files_that_follow_one_another_are_proven_by_their_bounds_alone() {
    run(async {
        let bench = Bench::new();
        let files = [file((0, 1), 10..500), file((0, 1), 500..501), file((1, 1), 0..7), file((0, 1), 501..600)];
        let (plan, _) = bench.plan(&files, &BTreeSet::new()).await;
        for location in plan.live.data.iter().map(|file| file.location.clone()) {
            bench.storage.delete(&location).await.expect("gone");
        }
        let (evidence, proofs) = looked(&plan, Look::Auto, &Window::default()).await;
        assert_eq!((evidence.figures.by_bounds, evidence.figures.read), (4, 0));
        assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Proven);
        let shown: Vec<_> = proofs.iter().map(|proof| (proof.log.as_str(), proof.rows, proof.ends)).collect();
        assert_eq!(
            shown,
            [("topic-of-a-long-name-0/1", 590, Some((10, 599))), ("topic-of-a-long-name-1/1", 7, Some((0, 6))),]
        );
    });
}

#[test]
fn a_file_that_a_rewrite_put_together_is_read_however_dense_it_looks() {
    run(async {
        let bench = Bench::new();
        let window = Window::default();
        let merged = File { merged: true, ..file((0, 0), [0, 1, 1, 3]) };
        let (plan, _) = bench.plan(std::slice::from_ref(&merged), &BTreeSet::new()).await;
        for look in [Look::Auto, Look::Always] {
            let (evidence, proofs) = looked(&plan, look, &window).await;
            assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Broken, "{look:?}");
            assert_eq!(proofs[0].gaps().collect::<Vec<_>>(), [(2, 2)]);
            assert_eq!(proofs[0].duplicates().collect::<Vec<_>>(), [(1, 1)]);
        }
        let (evidence, proofs) = looked(&plan, Look::Never, &window).await;
        assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Open);
        // What nothing but an append can have made rests on that no append does so.
        let (plan, _) = bench.plan(&[File { merged: false, ..merged }], &BTreeSet::new()).await;
        let (evidence, proofs) = looked(&plan, Look::Auto, &window).await;
        assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Proven);
    });
}

#[test]
fn rows_of_an_epoch_that_is_decided_and_not_in_yet_are_no_gap() {
    run(async {
        let bench = Bench::new();
        let (plan, _) = bench.plan(&[file((0, 0), [0, 1, 2, 5])], &BTreeSet::new()).await;
        let (mut evidence, proofs) = looked(&plan, Look::Auto, &Window::default()).await;
        assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Broken);
        evidence.not_in("d.beside", 2);
        assert_eq!(verdict(&proofs, &evidence, &Evidence::default(), false), Verdict::Open);
    });
}

#[test]
fn the_checkpoint_says_what_must_be_there_and_what_must_not() {
    run(async {
        let bench = Bench::new();
        let (plan, _) = bench.plan(&[file((0, 0), 5..10), file((0, 1), 0..4)], &BTreeSet::new()).await;
        let mut evidence = Evidence::default();
        let window = Window::default();
        evidence.add(&plan, &request(Look::Auto, &window)).await.expect("readable");
        let at = |all: &[(i32, i64)]| all.iter().map(|(log, offset)| (name(0, *log), *offset)).collect();
        let proofs = |now: &[(i32, i64)], oldest: &[(i32, i64)]| {
            let standing = Standing { now: at(now), latest: at(now), oldest: at(oldest), ..Standing::default() };
            let proofs =
                judge(&evidence, &Evidence::default(), &request(Look::Auto, &window), &standing).expect("fits");
            let said = verdict(&proofs, &evidence, &Evidence::default(), false);
            let shown = proofs.iter().map(|proof| (proof.gaps().collect::<Vec<_>>(), proof.above)).collect::<Vec<_>>();
            (said, shown)
        };
        let clean = (vec![], 0);
        assert_eq!(proofs(&[(0, 9), (1, 3)], &[(0, 6)]), (Verdict::Proven, vec![clean.clone(), clean.clone()]));
        // Rows up to 11 should be in, those of 3 and 4 as well, and a whole log is gone.
        let (said, shown) = proofs(&[(0, 11), (1, 3), (2, 7)], &[(0, 2), (2, 4)]);
        let gaps = vec![(vec![(3, 4), (10, 11)], 0), clean.clone(), (vec![(5, 7)], 0)];
        assert_eq!((said, shown), (Verdict::Broken, gaps));
        // Two rows are above it.
        assert_eq!(proofs(&[(0, 7), (1, 3)], &[]), (Verdict::Broken, vec![(vec![], 2), clean.clone()]));
        // A log that has had no row since it was first looked at.
        let (said, _) = proofs(&[(0, 9), (1, 3), (2, 7)], &[(2, 7)]);
        assert_eq!(said, Verdict::Proven);
        // One that has a checkpoint and no row, and may have lost them all.
        let (said, _) = proofs(&[(0, 9), (1, 3), (2, 7)], &[]);
        assert_eq!(said, Verdict::Open);
        assert_eq!(proofs(&[(0, 9), (1, 3), (2, -1)], &[]).0, Verdict::Proven);
        // A log that the checkpoint does not name, and one that calls them all otherwise.
        assert_eq!(proofs(&[(0, 9)], &[]).0, Verdict::Open);
        assert_eq!(proofs(&[(5, 9)], &[(5, 3)]).0, Verdict::Open);
    });
}

#[test]
fn logs_that_are_named_and_not_there_are_asked_for() {
    let none = Evidence::default();
    let proofs =
        |window: &Window| judge(&none, &none, &request(Look::Auto, window), &Standing::default()).expect("fits");
    let said = |window: &Window| verdict(&proofs(window), &Evidence::default(), &Evidence::default(), false);
    assert_eq!(said(&Window::default()), Verdict::Open);
    let mut window = Window { only: vec!["orders/3".to_owned()], ..Window::default() };
    assert_eq!((said(&window), proofs(&window).len()), (Verdict::Open, 1));
    window.from.all = Some(0);
    window.to.all = Some(999);
    assert_eq!((said(&window), proofs(&window)[0].missing()), (Verdict::Broken, 1000));
    let to = Ends { all: None, own: BTreeMap::from([("orders/3".to_owned(), 9)]) };
    assert_eq!(said(&Window { to, ..Window::default() }), Verdict::Open);
}

#[test]
fn what_comes_while_tables_are_looked_at_is_no_gap() {
    run(async {
        let bench = Bench::new();
        let (plan, _) = bench.plan(&[file((0, 0), [0, 1, 2, 3, 7])], &BTreeSet::new()).await;
        let (refused, _) = bench.plan(&[file((0, 0), [4, 20])], &BTreeSet::new()).await;
        let (mut rows, mut rejects) = (Evidence::default(), Evidence::default());
        let asked = request(Look::Always, &Window::default());
        rows.add(&plan, &asked).await.expect("readable");
        rejects.add(&refused, &asked).await.expect("readable");
        let said = |now: Option<i64>, latest: Option<i64>, scope: Scope| {
            let at = |offset: Option<i64>| offset.map(|offset| (name(0, 0), offset)).into_iter().collect();
            let standing = Standing { now: at(now), latest: at(latest), scope, ..Standing::default() };
            let proofs = judge(&rows, &rejects, &asked, &standing).expect("fits");
            (verdict(&proofs, &rows, &rejects, false), proofs[0].missing(), proofs[0].rejected)
        };
        // The tables were looked at when the anchor was at 4, and it is at 8 now.
        assert_eq!(said(Some(4), Some(8), Scope::All), (Verdict::Proven, 0, 1));
        assert_eq!(said(Some(5), Some(8), Scope::All), (Verdict::Broken, 1, 1));
        assert_eq!(said(Some(4), Some(6), Scope::All).0, Verdict::Broken, "a row above");
        // One table: its rows and its checkpoint are of one moment.
        assert_eq!(said(Some(7), Some(7), Scope::One), (Verdict::Broken, 2, 1));
        // One of several.
        assert_eq!(said(Some(7), Some(7), Scope::Part), (Verdict::Open, 0, 1));
        // Without a checkpoint nothing says whether the last reject is newer than the rows.
        assert_eq!(said(None, None, Scope::One).0, Verdict::Broken);
        let (plan, _) = bench.plan(&[file((0, 0), 0..4)], &BTreeSet::new()).await;
        let mut rows = Evidence::default();
        rows.add(&plan, &asked).await.expect("readable");
        let proofs = judge(&rows, &rejects, &asked, &Standing::default()).expect("fits");
        assert_eq!((verdict(&proofs, &rows, &rejects, false), proofs[0].missing()), (Verdict::Open, 0));
    });
}

#[test]
fn a_manifest_that_says_any_number_of_rows_takes_no_memory() {
    run(async {
        let bench = Bench::new();
        let (mut plan, _) = bench.plan(&[file((0, 0), 0..4)], &BTreeSet::new()).await;
        for bounds in plan.bounds.values_mut() {
            bounds.offsets = Some((0, (1 << 34) - 1));
        }
        plan.live.data[0].rows = 1 << 34;
        let added = Evidence::default().add(&plan, &request(Look::Auto, &Window::default())).await;
        let error = added.expect_err("too large").to_string();
        assert!(error.contains(&plan.live.data[0].location) && error.contains("memory"), "{error}");
    });
}

#[test]
fn rejected_rows_and_holes_of_the_log_are_no_gaps() {
    run(async {
        let bench = Bench::new();
        let (plan, _) = bench.plan(&[file((0, 0), [0, 1, 4, 8])], &BTreeSet::new()).await;
        let (refused, _) = bench.plan(&[file((0, 0), [2, 2, 4])], &BTreeSet::new()).await;
        let (mut rows, mut rejects) = (Evidence::default(), Evidence::default());
        let window = Window::default();
        rows.add(&plan, &request(Look::Auto, &window)).await.expect("readable");
        rejects.add(&refused, &request(Look::Always, &window)).await.expect("readable");
        let mut proofs = judge(&rows, &rejects, &request(Look::Auto, &window), &Standing::default()).expect("fits");
        assert_eq!((proofs[0].rejected, proofs[0].missing()), (1, 4));
        let set = |offsets: &[u64]| offsets.iter().copied().collect();
        let asked = judge::Asked { records: set(&[6]), removed: set(&[3]), ..judge::Asked::default() };
        proofs[0].take(&asked);
        assert_eq!((proofs[0].holes, proofs[0].removed), (2, 1));
        assert_eq!(proofs[0].gaps().collect::<Vec<_>>(), [(3, 3), (6, 6)]);
        assert_eq!(verdict(&proofs, &rows, &rejects, false), Verdict::Broken);
        proofs[0].take(&judge::Asked::default());
        assert_eq!(verdict(&proofs, &rows, &rejects, false), Verdict::Proven);

        // What a transaction that is open has there may be rows.
        let mut proofs = judge(&rows, &rejects, &request(Look::Auto, &window), &Standing::default()).expect("fits");
        proofs[0].take(&judge::Asked { untold: set(&[5, 6, 7]), ..judge::Asked::default() });
        assert_eq!((proofs[0].holes, proofs[0].missing()), (1, 0));
        assert_eq!(verdict(&proofs, &rows, &rejects, false), Verdict::Open);
    });
}
