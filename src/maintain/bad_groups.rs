//! A group that cannot be rewritten, for each cause that we know, beside one that can.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::Compression;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use iceberg::TableUpdate;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, Literal, Struct, Transform,
    UnboundPartitionField, UnboundPartitionSpec,
};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use crate::compact::input::tests::{checked, flip};
use crate::env::virtual_time::on_virtual_time;
use crate::maintain::compaction::Fate;
use crate::maintain::compaction::tests::Foreign;
use crate::maintain::leftovers::Swept;
use crate::storage::memory::MemoryStore;

/// What is wrong with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    PageTorn,
    BitFlipped,
    FileGone,
    OtherSize,
    OtherContent,
    ReplacedMeanwhile,
    UnknownCodec,
    KeysOfNoColumn,
    KeysInAvro,
    DiskFull,
    /// Writes get no answer, and nothing can be deleted.
    StoreGone,
}

const CAUSES: [Cause; 11] = [
    Cause::PageTorn,
    Cause::BitFlipped,
    Cause::FileGone,
    Cause::OtherSize,
    Cause::OtherContent,
    Cause::ReplacedMeanwhile,
    Cause::UnknownCodec,
    Cause::KeysOfNoColumn,
    Cause::KeysInAvro,
    Cause::DiskFull,
    Cause::StoreGone,
];

/// What a store does to whoever comes.
#[derive(Debug)]
enum Mood {
    Fine,
    Full,
    /// Writes are done, but not answered; nothing is deleted.
    Gone,
    /// After the next read, the object is another.
    Swaps(Bytes),
}

/// A store of its own for some objects.
#[derive(Debug)]
struct Odd {
    inner: MemoryStore,
    mood: Mutex<Mood>,
}

/// A table of `n`, partitioned by hundreds of it: the first hundred is the bad group.
struct Pair {
    foreign: Foreign,
    /// The store that is odd, where one is.
    odd: Mutex<Option<Arc<Odd>>>,
}

impl Pair {
    async fn new() -> Self {
        let foreign = Foreign::new(3, 0, FormatVersion::V2).await;
        let hundreds = UnboundPartitionField {
            source_id: 1,
            field_id: None,
            name: "hundred".to_owned(),
            transform: Transform::Truncate(100),
        };
        let spec = UnboundPartitionSpec::builder().add_partition_fields([hundreds]).expect("valid").build();
        let updates = vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
        assert!(foreign.world.update(vec![], updates).await);
        Self { foreign, odd: Mutex::default() }
    }

    fn odd(&self, prefix: &str, mood: Mood) {
        let odd = Arc::new(Odd { inner: MemoryStore::new(self.foreign.world.env.clone()), mood: Mutex::new(mood) });
        self.foreign.world.storage.mount(prefix, Arc::clone(&odd));
        *self.odd.lock().expect("unpoisoned") = Some(odd);
    }

    /// Notes a file of these bytes in the table; the object is the caller's.
    async fn note(&self, hundred: i64, content: DataContentType, (size, rows): (usize, usize), cause: Cause) -> String {
        let location = format!("memory:///data/{}.parquet", self.foreign.world.env.uuid());
        let keys = content == DataContentType::EqualityDeletes;
        let format = if cause == Cause::KeysInAvro && keys { DataFileFormat::Avro } else { DataFileFormat::Parquet };
        let mut builder = DataFileBuilder::default();
        builder
            .content(content)
            .file_path(location.clone())
            .file_format(format)
            .partition(Struct::from_iter([Some(Literal::long(hundred))]))
            .partition_spec_id(1)
            .record_count(rows as u64)
            .file_size_in_bytes(size as u64);
        if keys {
            builder.equality_ids(Some(vec![if cause == Cause::KeysOfNoColumn { 99 } else { 1 }]));
        }
        let file: DataFile = builder.build().expect("complete");
        assert!(self.foreign.world.foreign(vec![file], &BTreeSet::new()).await);
        location
    }

    async fn put(&self, numbers: &[i64], bytes: Vec<u8>, cause: Cause) -> String {
        let counts = (bytes.len(), numbers.len());
        let location = self.note(numbers[0] / 100 * 100, DataContentType::Data, counts, cause).await;
        self.foreign.world.storage.write(&location, bytes.into()).await.expect("writable");
        location
    }

    /// A file of the bad group with what is wrong, and the words with which it must be told.
    async fn spoil(&self, cause: Cause) -> Vec<String> {
        let storage = &self.foreign.world.storage;
        let numbers = [2, 3, 4];
        let good = checked(&[(1, "n")], &numbers, Compression::UNCOMPRESSED);
        let other = || Bytes::from(vec![7; good.len()]);
        let say = |file: &str, words: &[&str]| [&[file], words].concat().into_iter().map(str::to_owned).collect();
        match cause {
            Cause::PageTorn => {
                let mut bytes = good;
                bytes[4..20].fill(0xee);
                say(&self.put(&numbers, bytes, cause).await, &["column \"n\"", "cannot be read"])
            }
            Cause::BitFlipped => {
                let mut bytes = good;
                flip(&mut bytes, 0);
                say(&self.put(&numbers, bytes, cause).await, &["column \"n\"", "CRC"])
            }
            Cause::FileGone => {
                let file = self.put(&numbers, good, cause).await;
                storage.delete(&file).await.expect("deleted");
                say(&file, &["not found"])
            }
            Cause::OtherSize => {
                let file = self.put(&numbers, good, cause).await;
                let longer = checked(&[(1, "n")], &[2, 3, 4, 5], Compression::UNCOMPRESSED);
                storage.write(&file, longer.into()).await.expect("written");
                say(&file, &["its manifest says"])
            }
            Cause::OtherContent => {
                let file = self.put(&numbers, good.clone(), cause).await;
                storage.write(&file, other()).await.expect("written");
                say(&file, &["no Parquet file"])
            }
            Cause::ReplacedMeanwhile => {
                // So large that its rows are read apart from its footer.
                let numbers = vec![5; 600_000];
                let columns = [(1, "n"), (7, "old")];
                let bytes = checked(&columns, &numbers, Compression::UNCOMPRESSED);
                let next = |value| checked(&columns, &vec![value; numbers.len()], Compression::UNCOMPRESSED);
                let next = (6..).map(next).find(|next| next.len() == bytes.len()).expect("of the same size");
                let file =
                    self.note(0, DataContentType::Data, (bytes.len(), numbers.len()), Cause::ReplacedMeanwhile).await;
                self.odd(&file, Mood::Swaps(next.into()));
                storage.write(&file, bytes.into()).await.expect("writable");
                say(&file, &["was replaced while it was read"])
            }
            Cause::UnknownCodec => {
                let bytes = checked(&[(1, "n")], &numbers, Compression::LZO);
                say(&self.put(&numbers, bytes, cause).await, &["column \"n\"", "LZO"])
            }
            Cause::KeysOfNoColumn | Cause::KeysInAvro => {
                let file = self.note(0, DataContentType::EqualityDeletes, (good.len(), 3), cause).await;
                storage.write(&file, good.into()).await.expect("writable");
                let why = if cause == Cause::KeysInAvro { "neither Parquet" } else { "field 99, which is no column" };
                say(&file, &["deletes of", why])
            }
            Cause::DiskFull | Cause::StoreGone => {
                let folder = self.outputs().await;
                self.put(&numbers, good, cause).await;
                let full = cause == Cause::DiskFull;
                self.odd(&folder, if full { Mood::Full } else { Mood::Gone });
                say(&folder, &[if full { "no storage space" } else { "connection reset" }])
            }
        }
    }

    /// Where new files of the bad group are made.
    async fn outputs(&self) -> String {
        format!("{}/data/hundred=0", self.foreign.world.state().await.metadata.location())
    }

    /// The live files of a group, and the numbers in those that hold some.
    async fn group(&self, hundred: i64) -> BTreeSet<String> {
        let values = Struct::from_iter([Some(Literal::long(hundred))]);
        let entries = self.foreign.entries(&self.foreign.world.state().await).await;
        let of_it = entries.into_iter().filter(|entry| *entry.file.partition() == values);
        of_it.map(|entry| entry.file.file_path().to_owned()).collect()
    }

    async fn numbers(&self, files: &BTreeSet<String>) -> Vec<i64> {
        let mut numbers = Vec::new();
        for file in files {
            let bytes = self.foreign.world.storage.read(file).await.expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
            for batch in reader {
                numbers.extend_from_slice(batch.expect("rows").column(0).as_primitive::<Int64Type>().values());
            }
        }
        numbers
    }

    async fn objects(&self) -> BTreeSet<String> {
        let mut objects = BTreeSet::new();
        let table = self.foreign.world.state().await.metadata.location().to_owned();
        for folder in ["memory:///data".to_owned(), format!("{table}/data"), self.outputs().await] {
            let mut listed = self.foreign.world.storage.list(&folder, None);
            while let Some(object) = listed.next().await {
                objects.insert(object.expect("listed").location);
            }
        }
        objects
    }

    async fn swept(&self) -> Swept {
        let state = self.foreign.world.state().await;
        let committer = self.foreign.committer();
        self.foreign.leftovers.sweep(&self.foreign.world.env, &committer, &state).await.expect("swept")
    }
}

#[test]
fn whatever_is_wrong_with_a_group_it_is_told_and_the_table_stays_right_and_the_others_go_on() {
    for cause in CAUSES {
        on_virtual_time(async move {
            let pair = Pair::new().await;
            for numbers in [[100, 101], [102, 103], [0, 1]] {
                pair.put(&numbers, checked(&[(1, "n")], &numbers, Compression::UNCOMPRESSED), cause).await;
            }
            let words = pair.spoil(cause).await;
            let (bad, good) = (pair.group(0).await, pair.group(100).await);
            let before = pair.objects().await;
            let (report, ()) = Box::pin(pair.foreign.compact(512 << 20, async {})).await;

            let mut fates: Vec<_> = report.groups.iter().map(|(group, fate)| (&group.partition, fate)).collect();
            fates.sort_by_key(|(partition, _)| *partition);
            let [(_, Some(told)), (_, Some(Fate::Done { files: 1, .. }))] = fates[..] else {
                panic!("{cause:?}: {fates:?}")
            };
            let error = match (told, cause) {
                (Fate::Open(error), Cause::DiskFull | Cause::StoreGone) => error,
                (Fate::Refused(error), _) => error,
                _ => panic!("{cause:?}: {fates:?}"),
            };
            let said = error.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{cause:?}, {words:?}: {said}");

            let now = pair.group(100).await;
            assert!(now.is_disjoint(&good), "{cause:?}: rewritten");
            assert_eq!(pair.numbers(&now).await, [100, 101, 102, 103], "{cause:?}");
            assert_eq!(pair.group(0).await, bad, "{cause:?}: as it was");
            let left: BTreeSet<String> =
                pair.objects().await.into_iter().filter(|name| !before.contains(name) && !now.contains(name)).collect();
            if cause == Cause::StoreGone {
                assert_eq!(left.len(), 1, "{left:?}");
                pair.comes_back(left).await;
            } else {
                assert!(left.is_empty(), "{cause:?}: {left:?} was left");
            }
            assert_eq!(pair.foreign.leftovers.ledger().open_entries(), [], "{cause:?}");
        });
    }
}

impl Pair {
    /// What could not be deleted is deleted when it is proved, though the commit of its batch is in.
    async fn comes_back(&self, left: BTreeSet<String>) {
        let noted = self.foreign.leftovers.ledger().open_entries();
        assert_eq!(noted.into_iter().map(|entry| entry.location).collect::<BTreeSet<String>>(), left);
        if let Some(odd) = self.odd.lock().expect("unpoisoned").as_ref() {
            *odd.mood.lock().expect("unpoisoned") = Mood::Fine;
        }
        assert_eq!(self.swept().await, Swept { deleted: 0, waiting: 1 }, "its commit may be under way");
        self.put(&[104], checked(&[(1, "n")], &[104], Compression::UNCOMPRESSED), Cause::StoreGone).await;
        assert_eq!(self.swept().await, Swept { deleted: 0, waiting: 1 }, "proved once");
        self.foreign.world.env.sleep(Duration::from_secs(601)).await;
        assert_eq!(self.swept().await, Swept { deleted: 1, waiting: 0 });
        assert!(self.objects().await.is_disjoint(&left));
    }
}

impl Odd {
    fn fails(&self) -> Option<object_store::Error> {
        let kind = match &*self.mood.lock().expect("unpoisoned") {
            Mood::Full => std::io::ErrorKind::StorageFull,
            Mood::Gone => std::io::ErrorKind::ConnectionReset,
            Mood::Fine | Mood::Swaps(_) => return None,
        };
        Some(object_store::Error::Generic { store: "odd", source: std::io::Error::from(kind).into() })
    }

    fn full(&self) -> bool {
        matches!(*self.mood.lock().expect("unpoisoned"), Mood::Full)
    }

    fn gone(&self) -> bool {
        matches!(*self.mood.lock().expect("unpoisoned"), Mood::Gone)
    }

    /// What a write comes to: nothing on a full disk; all but the answer when the store is gone.
    async fn write<T>(&self, done: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        if let Some(error) = self.fails().filter(|_| self.full()) {
            return Err(error);
        }
        let answer = done.await;
        self.fails().map_or(answer, Err)
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("odd")
    }
}

#[async_trait]
impl ObjectStore for Odd {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.write(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, at: &Path, o: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        self.write(self.inner.put_multipart_opts(at, o)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let got = self.inner.get_opts(path, options).await;
        let mood = std::mem::replace(&mut *self.mood.lock().expect("unpoisoned"), Mood::Fine);
        match mood {
            Mood::Swaps(other) => drop(self.inner.put_opts(path, other.into(), PutOptions::default()).await?),
            mood => *self.mood.lock().expect("unpoisoned") = mood,
        }
        got
    }

    fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        match self.fails().filter(|_| self.gone()) {
            Some(error) => stream::iter([Err(error)]).boxed(),
            None => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.write(self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Odd {
    async fn create_multipart(&self, path: &Path) -> StoreResult<MultipartId> {
        self.write(self.inner.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, at: usize, part: PutPayload) -> StoreResult<PartId> {
        self.write(self.inner.put_part(path, id, at, part)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> StoreResult<PutResult> {
        self.write(self.inner.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> StoreResult<()> {
        self.write(self.inner.abort_multipart(path, id)).await
    }
}
