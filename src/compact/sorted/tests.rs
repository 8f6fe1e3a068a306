use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use iceberg::spec::{FormatVersion, NullOrder, SortDirection, SortField, SortOrder, Transform};
use proptest::prelude::*;

use super::*;
use crate::compact::merge::tests::Bench;
use crate::compact::merge::{MEMORY_MIN, Work};

const ORDER: i32 = 5;

/// A table that is sorted by `n`, nulls first.
fn bench() -> Bench {
    let mut bench = Bench::new(FormatVersion::V2);
    let field = SortField {
        source_id: 1,
        transform: Transform::Identity,
        direction: SortDirection::Ascending,
        null_order: NullOrder::First,
    };
    let order = SortOrder::builder().with_order_id(ORDER.into()).with_fields(vec![field]).build_unbound();
    bench.layout.sort_order = Arc::new(order.expect("valid"));
    bench
}

/// A file with these values of `n`, that says that it is sorted; `s` tells the file and the row.
async fn marked(bench: &Bench, file: usize, n: &[Option<i64>]) -> DataEntry {
    let s: Vec<String> = (0..n.len()).map(|row| format!("{file}.{row}")).collect();
    let rows: Vec<(Option<i64>, Option<&str>)> = n.iter().copied().zip(s.iter().map(|s| Some(s.as_str()))).collect();
    let entry = bench.new_file(&format!("f{file}"), &rows, 1).await;
    DataEntry { sort_order_id: Some(ORDER), ..entry }
}

/// Values of `n` and `s`, in the order of `n` and then of the files.
fn expected(files: &[Vec<Option<i64>>], gone: &[(usize, usize)]) -> Vec<String> {
    let rows = files.iter().enumerate().flat_map(|(file, n)| n.iter().enumerate().map(move |(row, n)| (*n, file, row)));
    let mut rows: Vec<_> = rows.filter(|(_, file, row)| !gone.contains(&(*file, *row))).collect();
    rows.sort_by_key(|(n, file, row)| (*n, *file, *row));
    let text = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    rows.into_iter().map(|(n, file, row)| format!("{}|{file}.{row}|", text(n))).collect()
}

async fn objects(bench: &Bench) -> usize {
    bench.storage.list("memory:///t/data/", None).count().await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn sorted_inputs_are_merged_and_others_are_sorted_whatever_they_say(
        files in prop::collection::vec(prop::collection::vec(prop::option::weighted(0.9, -5_i64..20), 1..40), 1..6),
        gone in prop::collection::vec((0..6_usize, 0..40_usize), 0..8),
        lies in prop::option::weighted(0.3, 0..6_usize),
        silent in prop::option::weighted(0.3, 0..6_usize),
    ) {
        let mut files = files;
        for (at, file) in files.iter_mut().enumerate() {
            if lies != Some(at) {
                file.sort();
            }
        }
        let gone: Vec<(usize, usize)> =
            gone.into_iter().filter(|(file, row)| files.get(*file).is_some_and(|rows| *row < rows.len())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (lines, orders, left) = runtime.block_on(async {
            let bench = bench();
            let mut inputs = Vec::new();
            for (at, file) in files.iter().enumerate() {
                let entry = marked(&bench, at, file).await;
                let marked = lies == Some(at) || silent != Some(at);
                inputs.push(DataEntry { sort_order_id: marked.then_some(ORDER), ..entry });
            }
            let places: Vec<(&str, i64)> =
                gone.iter().map(|(file, row)| (inputs[*file].location.as_str(), *row as i64)).collect();
            let deletes = if places.is_empty() { vec![] } else { vec![bench.positions("d", &places, 2).await] };
            let before = objects(&bench).await;
            let done = bench.rewrite(inputs, deletes).await.expect("rewritten").outputs;
            let orders: Vec<Option<i32>> = done.iter().map(DataFile::sort_order_id).collect();
            (bench.lines(&done).await, orders, objects(&bench).await - before - done.len())
        });
        prop_assert_eq!(lines, expected(&files, &gone));
        prop_assert!(orders.iter().all(|order| *order == Some(ORDER)));
        prop_assert_eq!(left, 0, "files that nothing names");
    }
}

/// Three files of 9,000 rows each, whose values alternate: about 27 MB in memory, and few bytes in files.
async fn woven(bench: &Bench) -> Vec<DataEntry> {
    let texts: Vec<String> = (0..10).map(|text| format!("{text}").repeat(1_000)).collect();
    let mut inputs = Vec::new();
    for file in 0..3_i64 {
        let rows: Vec<(Option<i64>, Option<&str>)> =
            (0..9_000).map(|row| (Some(row * 3 + file), Some(texts[row as usize % 10].as_str()))).collect();
        let entry = bench.new_file(&format!("f{file}"), &rows, 1).await;
        inputs.push(DataEntry { sort_order_id: Some(ORDER), ..entry });
    }
    inputs
}

#[tokio::test]
async fn a_rewrite_is_sorted_however_much_more_it_is_than_is_sorted_in_memory() {
    let bench = bench();
    let mut inputs = woven(&bench).await;
    assert!(Rewriter::sort_bytes(MEMORY_MIN) < 10 << 20);
    for marked in [true, false] {
        inputs[1].sort_order_id = marked.then_some(ORDER);
        let before = objects(&bench).await;
        let done = bench.rewrite(inputs.clone(), vec![]).await.expect("rewritten").outputs;
        let [file] = done.as_slice() else { panic!("one file: {done:?}") };
        assert_eq!(file.sort_order_id(), Some(ORDER));
        let lines = bench.lines(&done).await;
        assert!(lines.iter().enumerate().all(|(at, line)| line.starts_with(&format!("{at}|"))), "0 to 26,999");
        assert_eq!((lines.len(), objects(&bench).await), (27_000, before + 1), "no run stays behind");
    }
}

#[tokio::test]
async fn a_store_that_fails_while_runs_are_merged_leaves_none_behind() {
    let bench = bench();
    let mut inputs = woven(&bench).await;
    inputs[1].sort_order_id = None;
    let spec = Arc::clone(&bench.layout.spec);
    let before = objects(&bench).await;
    let mut failed = 0;
    for last in 0.. {
        let mut rewriter = bench.rewriter();
        let (create, begun) = (Arc::clone(&rewriter.files.create), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        rewriter.files.create = Arc::new(move |location| {
            let full = begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == last;
            let refused = async { Err(Error::new(ErrorKind::Unavailable, "the disk is full")) };
            if full { refused.boxed() } else { create(location) }
        });
        let work = Work { inputs: inputs.clone(), deletes: vec![] };
        match rewriter.rewrite(&work, &bench.partitions, &[&spec]).await {
            Ok(done) => {
                assert_eq!(objects(&bench).await, before + done.outputs.len());
                break;
            }
            Err(error) => assert!(error.to_string().contains("disk is full"), "{error}"),
        }
        assert_eq!(objects(&bench).await, before, "the file number {last} could not be made");
        failed += 1;
    }
    assert!(failed > 5, "{failed}: one that is too large, runs, merges, and the end");
}
