use std::io::Write;

use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::model::batch::Reject;
use crate::source::testing::{Reading, Trouble, env};

const FOLDER: &str = "mem://bucket/in";

/// A folder of files and the sources that follow it.
struct Folder {
    store: Arc<Trouble>,
    config: FilesConfig,
    options: FilesOptions,
}

fn folder() -> Folder {
    let config = FilesConfig {
        path: FOLDER.into(),
        glob: "**".into(),
        poll: Duration::from_secs(1),
        until_end: false,
        row_bytes_max: 1 << 20,
        skip_lines: 0,
        expansion_max: 1_000,
        late_files_max: 3,
    };
    Folder { store: Arc::new(Trouble::default()), config, options: FilesOptions::default() }
}

impl Folder {
    fn until_end(mut self) -> Self {
        self.config.until_end = true;
        self
    }

    async fn put(&self, name: &str, content: impl Into<Vec<u8>>) {
        let path = Path::from(format!("in/{name}"));
        self.store.put(&path, PutPayload::from(content.into())).await.expect("to memory");
    }

    async fn remove(&self, name: &str) {
        self.store.delete(&Path::from(format!("in/{name}"))).await.expect("from memory");
    }

    fn source(&self) -> FilesSource {
        FilesSource::new(self.config.clone(), self.store.clone(), Path::from("in"), env())
            .expect("a source")
            .with_options(self.options)
    }

    async fn reopen(&self, reading: &Reading) -> FilesSource {
        let mut source = self.source();
        source.open(&reading.checkpoint(&source, FOLDER)).await.expect("opens");
        source
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(text).expect("to memory");
    encoder.finish().expect("to memory")
}

fn position(reading: &Reading) -> FilesPosition {
    match &reading.at {
        Some(Position::Files(position)) => position.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_are_read_in_the_order_of_their_names_up_to_the_end() {
    let folder = folder().until_end();
    folder.put("b/2.json", "3\n4\n").await;
    folder.put("a.json.gz", gzip(b"1\n2\n")).await;
    folder.put("c.json.zst", zstd::encode_all(&b"5\n6"[..], 1).expect("to memory")).await;
    let mut reading = Reading::default();
    assert!(reading.drain(&mut folder.source(), 1).await);
    assert_eq!(reading.texts(), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(reading.rows[2], (format!("{FOLDER}/b/2.json"), 1, "3".into()));
    assert_eq!(position(&reading), FilesPosition { watermark: "c.json.zst".into(), ..FilesPosition::default() });
}

#[tokio::test]
async fn the_newest_file_is_followed_while_it_grows_and_closed_when_a_later_name_exists() {
    let folder = folder();
    folder.put("a", "1\n2\n3").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    assert!(!reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts(), ["1", "2"]);
    folder.put("a", "1\n2\n34\n5\n").await;
    assert!(!reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts(), ["1", "2", "34", "5"]);
    let open = position(&reading).open.expect("open");
    assert_eq!((position(&reading).watermark.as_str(), open.name.as_str(), open.rows), ("", "a", 4));
    folder.put("a", "1\n2\n34\n5\n6").await;
    folder.put("b", "7\n").await;
    assert!(!reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts(), ["1", "2", "34", "5", "6", "7"]);
    assert_eq!((position(&reading).watermark.as_str(), reading.rejects.len()), ("a", 0));
}

#[tokio::test]
async fn a_last_line_without_newline_is_given_once_the_file_rests() {
    let folder = folder();
    folder.put("a", "1\n2").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    assert!(!reading.drain(&mut source, 2).await);
    assert_eq!(reading.texts(), ["1"]);
    assert!(!reading.drain(&mut source, 4).await);
    assert_eq!(reading.texts(), ["1", "2"]);
    folder.put("a", "1\n2\n3\n").await;
    assert!(!reading.drain(&mut source, 1).await);
    assert_eq!((reading.texts(), reading.rejects.len()), (vec!["1", "2", "3"], 0));
    let mut again = folder.reopen(&reading).await;
    folder.put("a", "1\n2\n3\n4\n").await;
    assert!(!reading.drain(&mut again, 1).await);
    assert_eq!(reading.texts(), ["1", "2", "3", "4"]);
}

/// Which line names the values of each row.
async fn named(source: &mut FilesSource, reading: &mut Reading, idle: usize) -> Vec<(String, Option<String>)> {
    let (mut found, mut looks) = (Vec::new(), 0);
    while looks < idle {
        match source.next().await.expect("an event") {
            SourceEvent::Batch(batch) => {
                let header = batch.header.as_ref().map(|line| String::from_utf8_lossy(line).into_owned());
                let text = |row: &crate::model::batch::RawRow| String::from_utf8_lossy(batch.bytes(*row)).into_owned();
                found.extend(batch.rows.iter().map(|row| (text(row), header.clone())));
                reading.take(batch);
            }
            SourceEvent::Idle => looks += 1,
            other => panic!("{other:?}"),
        }
    }
    found
}

#[tokio::test]
async fn the_line_that_names_the_values_of_a_file_is_known_wherever_reading_goes_on_in_it() {
    let mut folder = folder();
    (folder.options.header, folder.options.batch_rows, folder.config.skip_lines) = (true, 1, 1);
    folder.put("a", "made today\nid,name\n1,a\n2,b\n").await;
    let mut reading = Reading::default();
    let of = |text: &str, header: &str| (text.to_owned(), Some(header.to_owned()));
    let found = named(&mut folder.source(), &mut reading, 1).await;
    assert_eq!(found, [of("1,a", "id,name"), of("2,b", "id,name")]);
    folder.put("a", "made today\nid,name\n1,a\n2,b\n3,c\n").await;
    folder.put("b.gz", gzip(b"made later\nname,id\nd,4\n")).await;
    let mut again = folder.reopen(&reading).await;
    let found = named(&mut again, &mut reading, 4).await;
    assert_eq!(found, [of("3,c", "id,name"), of("d,4", "name,id")]);
    assert_eq!(reading.rows.iter().map(|(_, number, _)| *number).collect::<Vec<_>>(), [3, 4, 5, 3]);
    assert!(reading.rejects.is_empty(), "{:?}", reading.reasons());
}

#[tokio::test]
async fn a_late_file_is_read_once_while_running_and_not_again_after_a_restart() {
    let folder = folder();
    folder.put("b", "b1\n").await;
    folder.put("c", "c1\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    folder.put("a", "a1\n").await;
    reading.drain(&mut source, 3).await;
    assert_eq!(reading.texts(), ["b1", "c1", "a1"]);
    assert_eq!(position(&reading).late, BTreeSet::from(["a".to_owned()]));
    assert_eq!(source.counters().late, 1);
    let mut source = folder.reopen(&reading).await;
    folder.put("c", "c1\nc2\n").await;
    reading.drain(&mut source, 3).await;
    assert_eq!(reading.texts(), ["b1", "c1", "a1", "c2"]);
}

#[tokio::test]
async fn a_name_between_the_watermark_and_the_open_file_is_no_exception() {
    let folder = folder();
    folder.put("a", "a1\n").await;
    folder.put("d", "d1\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    folder.put("c", "c1\n").await;
    folder.put("b", "b1\n").await;
    folder.put("d", "d1\nd2\n").await;
    reading.drain(&mut source, 1).await;
    assert_eq!(reading.texts(), ["a1", "d1", "b1", "c1", "d2"]);
    let at = position(&reading);
    assert_eq!((at.watermark.as_str(), at.late.len(), at.open.expect("open").rows), ("c", 0, 2));
}

#[tokio::test]
async fn more_late_files_than_allowed_halt_with_the_way_out() {
    let folder = folder();
    for name in ["m", "n"] {
        folder.put(name, "x\n").await;
    }
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    for name in ["a", "b", "c", "d"] {
        folder.put(name, "x\n").await;
    }
    reading.some(&mut source, 3).await;
    let error = source.next().await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.hint().is_some_and(|hint| hint.contains("sort after m")), "{error:?}");
    assert_eq!(reading.rows.len(), 5);
}

#[tokio::test]
async fn files_below_the_watermark_after_a_restart_are_reported_and_not_read() {
    let folder = folder();
    folder.put("b", "b1\n").await;
    folder.put("c", "c1\n").await;
    let mut reading = Reading::default();
    reading.drain(&mut folder.source(), 1).await;
    // The store's clock must move on for the file to be a later one.
    let before = folder.store.head(&Path::from("in/b")).await.expect("there").last_modified.timestamp_millis();
    loop {
        folder.put("a", "a1\n").await;
        let now = folder.store.head(&Path::from("in/a")).await.expect("there").last_modified.timestamp_millis();
        if now > before {
            break;
        }
    }
    let mut source = folder.reopen(&reading).await;
    reading.drain(&mut source, 3).await;
    assert_eq!(reading.texts(), ["b1", "c1"]);
    assert_eq!(source.counters().late_unknown, 1);
    folder.put("a0", "a2\n").await;
    reading.drain(&mut source, 1).await;
    assert_eq!(reading.texts(), ["b1", "c1", "a2"]);
}

/// Reads two rows of file `a`, changes the folder, reads on in the same process or after a restart.
async fn after(restart: bool, change: impl AsyncFn(&Folder)) -> Reading {
    let folder = folder();
    folder.put("a", "first\nsecond\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    assert_eq!(reading.texts(), ["first", "second"]);
    change(&folder).await;
    if restart {
        source = folder.reopen(&reading).await;
    }
    reading.drain(&mut source, 2).await;
    folder.put("b", "next\n").await;
    reading.drain(&mut source, 1).await;
    assert_eq!((reading.texts().last(), position(&reading).watermark.as_str()), (Some(&"next"), "a"));
    reading
}

#[tokio::test]
async fn an_open_file_that_is_no_longer_the_same_is_refused_once_and_reading_goes_on() {
    for restart in [false, true] {
        let shrunk = after(restart, async |folder: &Folder| folder.put("a", "first\n").await).await;
        assert!(shrunk.reasons()[0].contains("shrank to 6 bytes"), "{:?}", shrunk.reasons());
        let replaced = after(restart, async |folder: &Folder| folder.put("a", "fresh\nsecond\nthird\n").await).await;
        assert!(replaced.reasons()[0].contains("replaced"), "{:?}", replaced.reasons());
        let gone = after(restart, async |folder: &Folder| folder.remove("a").await).await;
        assert!(gone.reasons()[0].contains("gone"), "{:?}", gone.reasons());
        let emptied = after(restart, async |folder: &Folder| folder.put("a", "").await).await;
        assert!(emptied.reasons()[0].contains("shrank"), "{:?}", emptied.reasons());
        for reading in [shrunk, replaced, gone, emptied] {
            assert_eq!((reading.rejects.len(), reading.rows.len()), (1, 3));
            assert_eq!(&*reading.rejects[0].origin, "mem://bucket/in/a");
            assert_eq!(reading.rejects[0].stage, crate::model::batch::Stage::Source);
        }
    }
}

#[tokio::test]
async fn an_open_file_that_was_only_touched_is_read_on() {
    for restart in [false, true] {
        let touched = after(restart, async |folder: &Folder| folder.put("a", "first\nsecond\n").await).await;
        assert_eq!((touched.reasons(), touched.rows.len()), (vec![], 3));
    }
}

#[tokio::test]
async fn a_closed_file_that_changes_is_reported_and_not_read_again() {
    let folder = folder();
    folder.put("a", "a1\n").await;
    folder.put("b", "b1\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 2).await;
    assert_eq!(source.counters().changed_after_close, 0);
    folder.put("a", "a1\na2\n").await;
    reading.drain(&mut source, 3).await;
    assert_eq!((reading.texts(), source.counters().changed_after_close), (vec!["a1", "b1"], 1));
}

#[tokio::test]
async fn a_name_that_vanishes_from_a_listing_and_comes_back_is_not_read_twice() {
    let folder = folder();
    folder.put("a", "a1\n").await;
    folder.put("b", "b1\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 2).await;
    folder.remove("a").await;
    reading.drain(&mut source, 2).await;
    folder.put("a", "a1\n").await;
    reading.drain(&mut source, 3).await;
    assert_eq!(reading.texts(), ["a1", "b1"]);
}

#[tokio::test]
async fn a_row_of_100_megabytes_is_refused_and_its_neighbours_are_rows() {
    let mut folder = folder().until_end();
    folder.config.expansion_max = 10_000;
    folder.options.bomb_floor = 1 << 30;
    let mut text = b"before\n".to_vec();
    text.resize(text.len() + 100_000_000, b'x');
    text.extend_from_slice(b"\nafter\n");
    folder.put("a", text.clone()).await;
    folder.put("b.gz", gzip(&text)).await;
    let mut reading = Reading::default();
    reading.drain(&mut folder.source(), 1).await;
    assert_eq!(reading.texts(), ["before", "after", "before", "after"]);
    assert_eq!((reading.rejects.len(), reading.rejects[1].number), (2, 2));
    assert_eq!(reading.rejects[0].reason, "the row has 100000000 bytes, more than row_bytes_max = 1048576");
    assert_eq!(reading.rejects[0].raw.len(), Reject::RAW_MAX);
}

#[tokio::test]
async fn a_bomb_is_cut_off_and_the_next_file_read() {
    let mut folder = folder().until_end();
    folder.config.expansion_max = 50;
    folder.options.bomb_floor = 1 << 20;
    let row = format!("{}\n", "x".repeat(999)).repeat(5_000);
    folder.put("a.gz", gzip(row.as_bytes())).await;
    folder.put("b.zst", zstd::encode_all(row.as_bytes(), 1).expect("to memory")).await;
    folder.put("c", "after\n").await;
    let mut reading = Reading::default();
    reading.drain(&mut folder.source(), 1).await;
    assert!(reading.reasons().iter().all(|reason| reason.contains("expansion_max = 50")), "{:?}", reading.reasons());
    assert_eq!((reading.rejects.len(), reading.texts().last()), (2, Some(&"after")));
    assert!((1_000..5_000).contains(&reading.rows.len()));
}

#[tokio::test]
async fn rows_before_damage_are_given_and_the_rest_is_one_reject() {
    let folder = folder().until_end();
    let text: String = (0_u32..20_000).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
    let packed = gzip(text.as_bytes());
    folder.put("a.gz", &packed[..packed.len() / 2]).await;
    folder.put("b.gz", "{\"plain\": true}\n").await;
    let mut trailing = gzip(b"whole\n");
    trailing.extend_from_slice(b"garbage after it");
    folder.put("c.gz", trailing).await;
    folder.put("d", "after\n").await;
    let mut reading = Reading::default();
    reading.drain(&mut folder.source(), 1).await;
    let reasons = reading.reasons();
    assert!(reasons[0].contains("cut off") && reasons[1].contains("named as gzip") && reasons[2].contains("damaged"));
    let count = reading.rows.iter().filter(|(origin, _, _)| origin.ends_with("a.gz")).count();
    assert!(count > 5_000 && text.lines().take(count).eq(reading.texts()[..count].iter().copied()));
    assert_eq!(reading.rejects[0].number, count as u64 + 1);
    assert_eq!(reading.texts()[count..], ["whole", "after"]);
}

#[tokio::test]
async fn a_compressed_file_that_is_still_being_written_is_waited_for() {
    let folder = folder();
    let packed = gzip(b"1\n2\n");
    folder.put("a.gz", &packed[..12]).await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 2).await;
    folder.put("a.gz", packed.clone()).await;
    reading.drain(&mut source, 1).await;
    assert_eq!((reading.texts(), reading.rejects.len()), (vec!["1", "2"], 0));
    reading.drain(&mut source, 4).await;
    folder.put("b", "3\n").await;
    reading.drain(&mut source, 1).await;
    assert_eq!((reading.texts(), position(&reading).watermark.as_str()), (vec!["1", "2", "3"], "a.gz"));
}

#[tokio::test]
async fn unfinished_and_hidden_names_and_those_outside_the_glob_are_not_there() {
    let mut folder = folder().until_end();
    folder.config.glob = "**/*.json*".into();
    for name in
        ["a.json.tmp", "b.json.part", "c.json.inprogress", ".d.json", "_e.json", "_t/f.json", "g.csv", "x/h.json"]
    {
        folder.put(name, format!("{name}\n")).await;
    }
    let mut reading = Reading::default();
    assert!(reading.drain(&mut folder.source(), 1).await);
    assert_eq!(reading.texts(), ["x/h.json"]);
}

#[tokio::test]
async fn empty_files_are_closed_without_rows_and_their_end_is_remembered() {
    let folder = folder().until_end();
    folder.put("a", "").await;
    folder.put("b.gz", "").await;
    folder.put("c", "\n \r\n").await;
    folder.put("d", "").await;
    let mut reading = Reading::default();
    assert!(reading.drain(&mut folder.source(), 1).await);
    assert_eq!((reading.rows.len(), reading.rejects.len(), position(&reading).watermark.as_str()), (0, 0, "d"));
    let mut again = folder.reopen(&reading).await;
    assert!(reading.drain(&mut again, 1).await);
}

#[tokio::test]
async fn an_empty_folder_is_idle_or_at_its_end_and_gives_no_batch() {
    let mut reading = Reading::default();
    assert!(!reading.drain(&mut folder().source(), 3).await);
    assert!(reading.drain(&mut folder().until_end().source(), 1).await);
    assert_eq!(reading.batches, 0);
}

#[tokio::test]
async fn more_new_files_than_one_listing_keeps_are_read_in_order() {
    let mut folder = folder().until_end();
    folder.options.pending_max = 7;
    for number in (0..100).rev() {
        folder.put(&format!("{number:03}"), format!("{number}\n")).await;
    }
    let mut reading = Reading::default();
    assert!(reading.drain(&mut folder.source(), 1).await);
    assert!(reading.rows.iter().map(|(_, _, text)| text.parse::<u32>().expect("a number")).eq(0..100));
}

#[tokio::test]
async fn a_large_folder_is_listed_in_full_now_and_then_and_from_the_watermark_in_between() {
    let mut folder = folder();
    folder.options.names_per_poll = 10;
    for number in 100..130 {
        folder.put(&number.to_string(), "x\n").await;
    }
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    folder.put("050", "late\n").await;
    let count = |folder: &Folder| {
        let load = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
        (load(&folder.store.full_listings), load(&folder.store.listings_from))
    };
    let (full, from) = count(&folder);
    reading.drain(&mut source, 6).await;
    let (full, from) = (count(&folder).0 - full, count(&folder).1 - from);
    assert_eq!(reading.texts().last(), Some(&"late"));
    // 30 files are done: every third poll lists in full.
    assert_eq!((full, from), (3, 5));
}

#[tokio::test]
async fn more_files_than_can_be_remembered_halt_with_the_way_out() {
    let mut folder = folder();
    folder.options.names_max = 5;
    for number in 0..10 {
        folder.put(&number.to_string(), "x\n").await;
    }
    let (mut source, mut reading) = (folder.source(), Reading::default());
    reading.drain(&mut source, 1).await;
    let error = source.next().await.expect_err("too many");
    assert_eq!((error.kind(), reading.rows.len()), (ErrorKind::Unsupported, 10));
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_checkpoint_of_another_folder_or_kind_is_refused() {
    let mut source = folder().source();
    let foreign = Checkpoint { source: "mem://other".into(), ..Checkpoint::default() };
    assert_eq!(source.open(&foreign).await.expect_err("another folder").kind(), ErrorKind::Corrupt);
    let mut log = Checkpoint::default();
    log.positions.insert(PartitionId::new(FOLDER), Position::Offset(3));
    assert_eq!(source.open(&log).await.expect_err("a log").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_local_folder_is_followed_from_before_it_exists() {
    let root = tempfile::tempdir().expect("a folder");
    let store = object_store::local::LocalFileSystem::new_with_prefix(root.path()).expect("a store");
    let mut source = FilesSource::new(folder().config, Arc::new(store), Path::from("in"), env()).expect("a source");
    let mut reading = Reading::default();
    assert!(!reading.drain(&mut source, 1).await);
    let path = root.path().join("in");
    std::fs::create_dir_all(path.join("x y")).expect("a folder");
    std::fs::write(path.join("x y/1 ä.json"), "1\n").expect("written");
    assert!(!reading.drain(&mut source, 1).await);
    let append = |text: &str| {
        let file = std::fs::OpenOptions::new().append(true).open(path.join("x y/1 ä.json"));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("appended");
    };
    append("2\n3");
    assert!(!reading.drain(&mut source, 1).await);
    append("\n");
    std::fs::write(path.join("x y/2.json"), "4\n").expect("written");
    assert!(!reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts(), ["1", "2", "3", "4"]);
    assert_eq!(reading.rejects, []);
}

#[tokio::test]
async fn dropped_calls_lose_nothing() {
    let mut folder = folder().until_end();
    folder.options = FilesOptions { chunk_bytes: 4_096, batch_bytes: 1_000, ..folder.options };
    let text: String = (0..3_000).map(|n| format!("{n}\n")).collect();
    folder.put("a", text.clone()).await;
    folder.put("b.gz", gzip(text.as_bytes())).await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    loop {
        // Polled once, then dropped unless it was ready.
        match futures::future::poll_immediate(source.next()).await {
            Some(event) => match event.expect("an event") {
                SourceEvent::Batch(batch) => reading.take(batch),
                SourceEvent::End => break,
                other => panic!("{other:?}"),
            },
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(reading.texts().join("\n"), format!("{text}{text}").trim_end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_threads_keep_the_order_of_rows() {
    let root = tempfile::tempdir().expect("a folder");
    let text: String = (0..60_000).map(|n| format!("row {n}\n")).collect();
    std::fs::write(root.path().join("a.gz"), gzip(text.as_bytes())).expect("written");
    std::fs::write(root.path().join("b"), &text).expect("written");
    let store = object_store::local::LocalFileSystem::new_with_prefix(root.path()).expect("a store");
    let config = folder().until_end().config;
    let source = FilesSource::new(config, Arc::new(store), Path::default(), Env::system()).expect("a source");
    let mut source = source.with_options(FilesOptions { chunk_bytes: 50_000, ..FilesOptions::default() });
    let mut reading = Reading::default();
    assert!(reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts().join("\n") + "\n", format!("{text}{text}"));
}

mod interleavings {
    use proptest::prelude::*;

    use super::*;

    /// One file of the folder: lines, and how it is packed.
    fn file() -> impl Strategy<Value = (usize, u8, bool)> {
        (0_usize..1_500, 0_u8..4, any::<bool>())
    }

    fn pack(lines: &str, packing: u8) -> Vec<u8> {
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).expect("to memory");
        let (first, second) = lines.as_bytes().split_at(lines.len() / 3);
        match packing {
            0 => gzip(lines.as_bytes()),
            1 => [gzip(first), gzip(second)].concat(),
            2 => [zstd(first), zstd(second)].concat(),
            _ => lines.into(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn reopening_anywhere_gives_every_row_once_in_order(
            files in prop::collection::vec(file(), 1..6),
            steps in prop::collection::vec(0_usize..6, 0..12),
            chunk_bytes in 1_000_u64..20_000,
            batch_bytes in 500_usize..9_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let mut folder = folder().until_end();
                folder.options = FilesOptions { chunk_bytes, batch_bytes, ..folder.options };
                let mut expected = vec![];
                for (file, (count, packing, ended)) in files.iter().enumerate() {
                    let lines: Vec<String> = (0..*count).map(|n| format!("{file}-{}", n * n * 7)).collect();
                    let text = lines.join("\n") + if *ended { "\n" } else { "" };
                    folder.put(&format!("{file}"), pack(&text, *packing)).await;
                    expected.extend(lines);
                }
                let mut reading = Reading::default();
                for batches in steps {
                    let mut source = folder.reopen(&reading).await;
                    reading.some(&mut source, batches).await;
                }
                let mut source = folder.reopen(&reading).await;
                assert!(reading.drain(&mut source, 1).await);
                assert_eq!(reading.texts(), expected);
                assert_eq!(reading.rejects, []);
            });
        }

        #[test]
        fn any_order_of_arrival_and_crashes_reads_each_file_once(
            names in prop::collection::vec((0_u8..40, 0_usize..8, any::<bool>()), 1..12),
            lines in 1_usize..400,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let mut folder = folder();
                folder.config.late_files_max = 100;
                folder.options = FilesOptions { chunk_bytes: 700, batch_bytes: 300, ..folder.options };
                let (mut source, mut reading) = (folder.source(), Reading::default());
                let mut expected = BTreeSet::new();
                for (name, batches, crash) in names {
                    let text: Vec<String> = (0..lines).map(|n| format!("{name:02}-{n}")).collect();
                    let name = format!("{name:02}");
                    folder.put(&name, text.join("\n") + "\n").await;
                    expected.extend(text);
                    reading.some(&mut source, batches).await;
                    // A crash loses a late file only before anything of it was read: that is reported, not tested here.
                    let seen = reading.rows.iter().any(|(origin, _, _)| origin.ends_with(&name));
                    let above = reading.at.is_none() || name > position(&reading).watermark;
                    if crash && (seen || above) {
                        source = folder.reopen(&reading).await;
                        // Its first look is before the next file comes.
                        reading.some(&mut source, 1).await;
                    } else {
                        reading.drain(&mut source, 2).await;
                    }
                }
                reading.drain(&mut source, 3).await;
                let rows: BTreeSet<String> = reading.texts().into_iter().map(str::to_owned).collect();
                assert_eq!(rows.len(), reading.rows.len(), "no row twice");
                assert_eq!(rows, expected);
                assert_eq!(reading.rejects, []);
            });
        }

        #[test]
        fn a_store_that_fails_now_and_then_loses_and_doubles_nothing(every in 2_usize..9, chunk_bytes in 100_u64..3_000) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let mut folder = folder();
                folder.options = FilesOptions { chunk_bytes, batch_bytes: 500, ..folder.options };
                let text = |file: usize| (0..2_000).map(|n| format!("{file}-{n}")).collect::<Vec<_>>().join("\n") + "\n";
                for file in 0..3 {
                    folder.put(&file.to_string(), pack(&text(file), u8::try_from(file).expect("small"))).await;
                }
                folder.put("3", text(3)).await;
                folder.store.every.store(every, std::sync::atomic::Ordering::Relaxed);
                let (mut source, mut reading, mut failures) = (folder.source(), Reading::default(), 0);
                while reading.rows.len() < 8_000 {
                    match source.next().await {
                        Ok(SourceEvent::Batch(batch)) => reading.take(batch),
                        Ok(_) => {}
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Unavailable);
                            failures += 1;
                        }
                    }
                }
                assert!(failures > 0);
                assert_eq!(reading.texts().join("\n") + "\n", (0..4).map(text).collect::<String>());
                assert_eq!(reading.rejects, []);
            });
        }
    }
}

#[tokio::test]
async fn a_path_that_names_one_file_reads_that_file_and_goes_on_in_it() {
    let folder = folder();
    folder.put("a.log", "1\n2\n").await;
    folder.put("b.log", "no\n").await;
    let source = || {
        let mut config = folder.config.clone();
        config.path = format!("{FOLDER}/a.log");
        config.glob = "**/*.json".into();
        FilesSource::new(config, folder.store.clone(), Path::from("in/a.log"), env()).expect("a source")
    };
    let (mut first, mut reading) = (source(), Reading::default());
    first.open(&Checkpoint::default()).await.expect("opens");
    assert!(!reading.drain(&mut first, 1).await);
    assert_eq!(reading.rows[0], (format!("{FOLDER}/a.log"), 1, "1".into()));
    folder.put("a.log", "1\n2\n3\n").await;
    let mut again = source();
    again.open(&reading.checkpoint(&again, &format!("{FOLDER}/a.log"))).await.expect("opens");
    assert!(!reading.drain(&mut again, 1).await);
    assert_eq!(reading.texts(), ["1", "2", "3"]);
    assert_eq!(again.notes().behind, Some(Behind { files: 1, bytes: 0 }));
}

#[tokio::test]
async fn what_waits_is_counted_in_files_and_bytes() {
    let folder = folder();
    folder.put("a", "1\n").await;
    folder.put("b", "22\n").await;
    folder.put("c", "333\n").await;
    let (mut source, mut reading) = (folder.source(), Reading::default());
    let SourceEvent::Batch(batch) = source.next().await.expect("a batch") else { panic!("no batch") };
    reading.take(batch);
    assert_eq!((reading.texts(), source.notes().behind.map(|behind| behind.bytes)), (vec!["1"], Some(7)));
    assert!(!reading.drain(&mut source, 1).await);
    // The newest file stays open: more may come.
    assert_eq!(source.notes().behind, Some(Behind { files: 1, bytes: 0 }));
    assert_eq!(source.notes().files.map(|counters| counters.files), Some(2));
}
