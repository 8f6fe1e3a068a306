//! What storage/mod.rs says that we assume of a store, tried, as cases over a [`Place`]. Reads nothing from the environment: the
//! integration tests point it at a real server.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use bytes::Bytes;
use frazil::error::ErrorKind;
use frazil::storage::counters::Operation;
use frazil::storage::disk::MemoryDisk;
use frazil::storage::ledger::{Ledger, LedgerOwner};
use frazil::storage::{Storage, Version};
use futures::TryStreamExt;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Every case, as a test of its own over what `$place` makes.
macro_rules! cases_of_a_store {
    ($($over:ident => $place:path)*) => {
        $(cases_of_a_store! { @ $over $place,
            what_is_written_is_read
            an_error_names_the_location
            a_reader_stays_with_the_content_that_it_began_with
            of_many_that_create_one_wins
            odd_names_come_back_as_they_were
            a_listing_holds_the_folder_and_nothing_beside_it
            many_are_deleted_each_with_its_answer
            an_upload_is_whole_or_not_there
            an_aborted_upload_leaves_nothing
            a_parquet_file_is_written_through_an_upload
            requests_are_counted
            an_upload_that_died_is_removed_by_the_id_in_the_ledger
        })*
    };
    (@ $over:ident $place:path, $($test:ident)*) => {
        mod $over { $(#[tokio::test] async fn $test() { super::suite::$test($place()).await; })* }
    };
}

/// A store and a fresh folder in it.
pub(crate) struct Place {
    pub(crate) storage: Storage,
    pub(crate) folder: String,
    /// A folder of this machine that holds it and goes with it.
    pub(crate) kept: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn names(&self, below: &str, after: Option<&str>) -> BTreeSet<String> {
        let listed: Vec<_> = self.storage.list(&self.at(below), after).try_collect().await.unwrap();
        listed.into_iter().map(|entry| entry.location).collect()
    }
}

pub(crate) async fn what_is_written_is_read(place: Place) {
    let (storage, at) = (&place.storage, place.at("t/data/f.parquet"));
    assert_eq!(storage.read(&at).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.size(&at).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!storage.exists(&at).await.unwrap());
    storage.write(&at, Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(storage.read(&at).await.unwrap(), "0123456789");
    assert_eq!(storage.size(&at).await.unwrap(), 10);
    assert_eq!(storage.read_range(&at, 2..5).await.unwrap(), "234");
    assert_eq!(storage.read_range(&at, 0..10).await.unwrap(), "0123456789");
    assert_eq!(storage.read_range(&at, 3..3).await.unwrap(), "");
    for beyond in [5..11, 10..12, 20..21] {
        let error = storage.read_range(&at, beyond.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{beyond:?}: {error}");
    }
    storage.write(&at, Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(storage.read(&at).await.unwrap(), "new");
    let empty = place.at("t/empty");
    storage.write(&empty, Bytes::new()).await.unwrap();
    assert_eq!((storage.read(&empty).await.unwrap(), storage.size(&empty).await.unwrap()), (Bytes::new(), 0));
    storage.delete(&at).await.unwrap();
    storage.delete(&at).await.unwrap();
    assert_eq!(storage.read(&at).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub(crate) async fn a_reader_stays_with_the_content_that_it_began_with(place: Place) {
    let (storage, at) = (&place.storage, place.at("t/data/replaced.parquet"));
    storage.write(&at, Bytes::from_static(b"0123456789")).await.unwrap();
    let mut version = Version::default();
    assert_eq!(storage.read_version(&at, Some(6..10), &mut version).await.unwrap(), "6789");
    assert_eq!(storage.read_version(&at, Some(0..2), &mut version).await.unwrap(), "01");
    assert_eq!(storage.read_version(&at, None, &mut version).await.unwrap(), "0123456789");
    let error = storage.read_version(&at, Some(5..11), &mut version).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    storage.write(&at, Bytes::from_static(b"abcdefghij")).await.unwrap();
    for range in [Some(0..2), None] {
        let error = storage.read_version(&at, range, &mut version).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.to_string(), format!("{at} was replaced while it was read"));
    }
    assert_eq!(storage.read_version(&at, Some(0..2), &mut Version::default()).await.unwrap(), "ab");
}

pub(crate) async fn an_error_names_the_location(place: Place) {
    let at = place.at("missing");
    assert_eq!(place.storage.read(&at).await.unwrap_err().to_string(), format!("read {at}: not found"));
    place.storage.write_new(&at, Bytes::new()).await.unwrap();
    let error = place.storage.write_new(&at, Bytes::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Conflict, format!("write {at}: exists already")));
}

pub(crate) async fn of_many_that_create_one_wins(place: Place) {
    let at = place.at("race/once");
    let racers: Vec<_> = (0..16_u8)
        .map(|racer| {
            let (storage, at) = (place.storage.clone(), at.clone());
            tokio::spawn(async move { (racer, storage.write_new(&at, Bytes::from(vec![racer; 64])).await) })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in racers {
        match racer.await.unwrap() {
            (racer, Ok(())) => winners.push(racer),
            (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(place.storage.read(&at).await.unwrap(), vec![winners[0]; 64]);
    assert_eq!(place.names("race", None).await.len(), 1, "losers leave nothing");
}

pub(crate) async fn odd_names_come_back_as_they_were(place: Place) {
    let names = [
        "a=x%2Fy/b= z/f.parquet",
        "a=%25/b=+&?/f",
        "day=2024-01-01 00%3A00/ü/日本/f",
        "q=\"'`<>|/{}[]^~;,$!*()/f",
        "hash#/x#y/f",
        "dots.../.hidden/f..",
        "%00/%2e%2e/f",
    ];
    come_back(&place, &names).await;
}

pub(crate) async fn come_back(place: &Place, names: &[&'static str]) {
    for name in names.iter().copied() {
        let at = place.at(name);
        place.storage.write(&at, Bytes::from(name)).await.unwrap();
        assert_eq!(place.storage.read(&at).await.unwrap(), name);
        assert_eq!(place.storage.read_range(&at, 0..1).await.unwrap(), name[..1]);
    }
    let expected: BTreeSet<String> = names.iter().map(|name| place.at(name)).collect();
    assert_eq!(place.names("", None).await, expected);
    let answers = place.storage.delete_all(expected.into_iter().collect()).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
    assert!(place.names("", None).await.is_empty());
}

pub(crate) async fn a_listing_holds_the_folder_and_nothing_beside_it(place: Place) {
    for name in ["l/a", "l/b/c", "l/d", "lx", "m"] {
        place.storage.write(&place.at(name), Bytes::from_static(b"12")).await.unwrap();
    }
    let at = |names: &[&str]| names.iter().map(|name| place.at(name)).collect::<BTreeSet<_>>();
    assert_eq!(place.names("l", None).await, at(&["l/a", "l/b/c", "l/d"]));
    assert_eq!(place.names("l/", None).await, at(&["l/a", "l/b/c", "l/d"]));
    assert_eq!(place.names("l", Some(&place.at("l/a"))).await, at(&["l/b/c", "l/d"]));
    assert_eq!(place.names("nothing", None).await, at(&[]));
    let entry = place.storage.entry(&place.at("l/a")).await.unwrap();
    let listed: Vec<_> = place.storage.list(&place.at("l"), None).try_collect().await.unwrap();
    assert_eq!(listed.iter().find(|e| e.location == entry.location), Some(&entry));
    assert_eq!(entry.size, 2);
}

pub(crate) async fn many_are_deleted_each_with_its_answer(place: Place) {
    let mut names: Vec<String> = (0..25).map(|n| place.at(&format!("d/{n}"))).collect();
    for name in &names {
        place.storage.write(name, Bytes::new()).await.unwrap();
    }
    names.insert(3, place.at("d/never-there"));
    names.insert(7, "nonsense".to_owned());
    let answers = place.storage.delete_all(names.clone()).await;
    assert_eq!(answers.iter().map(|(name, _)| name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    let failed: Vec<&str> = answers.iter().filter(|(_, a)| a.is_err()).map(|(n, _)| n.as_str()).collect();
    assert_eq!(failed, ["nonsense"]);
    assert!(place.names("d", None).await.is_empty());
}

pub(crate) async fn an_upload_is_whole_or_not_there(place: Place) {
    for bytes in [0_usize, 1, 1 << 20, (8 << 20) - 1, 8 << 20, (24 << 20) + 5] {
        let at = place.at(&format!("u/{bytes}"));
        let content: Bytes = (0..bytes).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>().into();
        let mut upload = place.storage.upload(&at, None).await.unwrap();
        for piece in content.chunks(700_001) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert!(!place.storage.exists(&at).await.unwrap(), "invisible until finished");
        assert!(place.names("u", None).await.iter().all(|name| !name.starts_with(&at)));
        assert_eq!(upload.finish().await.unwrap(), u64::try_from(bytes).unwrap());
        assert!(place.storage.read(&at).await.unwrap() == content, "{bytes} bytes");
        assert!(upload.write(Bytes::new()).await.is_err(), "finished is finished");
    }
}

pub(crate) async fn an_aborted_upload_leaves_nothing(place: Place) {
    let at = place.at("abort/f");
    let mut upload = place.storage.upload(&at, None).await.unwrap();
    upload.write(vec![7; 20 << 20].into()).await.unwrap();
    upload.abort().await.unwrap();
    upload.abort().await.unwrap();
    assert!(!place.storage.exists(&at).await.unwrap());
    if let Some(kept) = &place.kept {
        let left: Vec<_> = std::fs::read_dir(kept.path().join("lake/abort")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) async fn a_parquet_file_is_written_through_an_upload(place: Place) {
    let at = place.at("p/f.parquet");
    let column = Arc::new(Int64Array::from_iter_values(0..10_000)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("id", column)]).unwrap();
    let upload = place.storage.upload(&at, None).await.unwrap();
    let mut writer = AsyncArrowWriter::try_new(upload, batch.schema(), None).unwrap();
    writer.write(&batch).await.unwrap();
    writer.finish().await.unwrap();
    let written = u64::try_from(writer.bytes_written()).unwrap();
    assert_eq!((place.storage.size(&at).await.unwrap(), writer.into_inner().bytes_written()), (written, written));
    let bytes = place.storage.read(&at).await.unwrap();
    let read: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().collect();
    let read: Vec<RecordBatch> = read.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(arrow::compute::concat_batches(&batch.schema(), &read).unwrap(), batch);
}

pub(crate) async fn requests_are_counted(place: Place) {
    let at = place.at("count/f");
    place.storage.write(&at, vec![0; 1000].into()).await.unwrap();
    place.storage.read(&at).await.unwrap();
    place.storage.read_range(&at, 0..10).await.unwrap();
    place.storage.read(&place.at("count/missing")).await.unwrap_err();
    let counts = place.storage.counters().snapshot();
    assert_eq!((counts[&Operation::Put].ok, counts[&Operation::Put].bytes), (1, 1000));
    assert_eq!((counts[&Operation::Get].ok, counts[&Operation::Get].bytes), (2, 1010));
    assert_eq!(counts[&Operation::Get].missing, 1);
}

pub(crate) async fn an_upload_that_died_is_removed_by_the_id_in_the_ledger(place: Place) {
    let disk = Arc::new(MemoryDisk::new());
    let ledger = async || Ledger::open(disk.clone(), 10).await.unwrap();
    let owner = LedgerOwner { table: "db.t".parse().unwrap(), snapshot_id: 7 };
    let (at, begun) = (place.at("died/f"), ledger().await);
    let mut upload = place.storage.upload(&at, Some((begun.clone(), owner))).await.unwrap();
    upload.write(vec![7; 20 << 20].into()).await.unwrap();
    // Parts still under way end with it, as they do with a process.
    drop((upload, begun));
    disk.crash();
    let entries = ledger().await.open_entries();
    assert_eq!(entries.iter().map(|entry| &entry.location).collect::<Vec<_>>(), [&at]);
    let [id] = &entries[0].upload_ids[..] else { panic!("one upload was begun: {entries:?}") };
    for _ in 0..2 {
        place.storage.abort_upload(&at, id).await.unwrap();
    }
    assert!(!place.storage.exists(&at).await.unwrap());
    if let Some(kept) = &place.kept {
        let left: Vec<_> = std::fs::read_dir(kept.path().join("lake/died")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
