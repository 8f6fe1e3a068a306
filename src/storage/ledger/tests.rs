use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::env::Env;
use crate::storage::disk::MemoryDisk;
use crate::storage::{Storage, StorageOptions};

fn owner(id: i64) -> LedgerOwner {
    LedgerOwner { table: "lake.raw.shop".parse().expect("valid"), snapshot_id: id }
}

async fn reopened(disk: &Arc<MemoryDisk>) -> Ledger {
    Ledger::open(Arc::clone(disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("a readable ledger")
}

/// `(snapshot, location, upload ids)` of all that is open.
fn open(ledger: &Ledger) -> Vec<(i64, String, Vec<String>)> {
    ledger.open_entries().into_iter().map(|e| (e.owner.snapshot_id, e.location, e.upload_ids)).collect()
}

#[tokio::test]
async fn what_was_staged_is_there_after_a_crash_until_it_is_settled() {
    let disk = Arc::new(MemoryDisk::new());
    let ledger = reopened(&disk).await;
    ledger.stage(&owner(1), "s3://b/a=x%2Fy/1").await.expect("stage");
    ledger.multipart(&owner(1), "s3://b/a=x%2Fy/1", "upload-7").await.expect("note");
    ledger.stage_all(&owner(2), &["s3://b/2", "s3://b/3"]).await.expect("stage");
    ledger.settle(&owner(1)).await.expect("settle");
    ledger.stage(&owner(3), "s3://b/4").await.expect("stage");
    disk.crash();
    let ledger = reopened(&disk).await;
    let expected = [(2, "s3://b/2"), (2, "s3://b/3"), (3, "s3://b/4")].map(|(id, l)| (id, l.to_owned(), vec![]));
    assert_eq!(open(&ledger), expected);
    assert_eq!(ledger.open_entries()[0].owner, owner(2));
    for id in [2, 3, 3, 99] {
        ledger.settle(&owner(id)).await.expect("settle");
    }
    assert!(open(&ledger).is_empty());
}

#[tokio::test]
async fn what_was_settled_before_an_orderly_end_is_not_looked_at_again() {
    for synced in [false, true] {
        let disk = Arc::new(MemoryDisk::new());
        let ledger = reopened(&disk).await;
        ledger.stage(&owner(1), "s3://b/1").await.expect("stage");
        ledger.settle(&owner(1)).await.expect("settle");
        if synced {
            ledger.sync().await.expect("synced");
        }
        disk.crash();
        assert_eq!(open(&reopened(&disk).await).is_empty(), synced);
    }
}

#[tokio::test]
async fn an_upload_id_is_there_after_a_crash() {
    let disk = Arc::new(MemoryDisk::new());
    let ledger = reopened(&disk).await;
    ledger.stage(&owner(1), "s3://b/1").await.expect("stage");
    ledger.multipart(&owner(1), "s3://b/1", "upload-7").await.expect("note");
    disk.crash();
    assert_eq!(open(&reopened(&disk).await), [(1, "s3://b/1".to_owned(), vec!["upload-7".to_owned()])]);
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_is_not_read() {
    for (text, sentence) in [
        ("{\"ledger\":\"frazil\",\"version\":2}\n", "staged.ledger has version 2, this program reads 1"),
        ("{\"ledger\":\"frazil\",\"version\":0}\n", "staged.ledger has version 0, this program reads 1"),
        ("{\"ledger\":\"other\",\"version\":1}\n", "staged.ledger has version 1, this program reads 1"),
    ] {
        let disk = Arc::new(MemoryDisk::new());
        disk.write(FILE, text.as_bytes()).await.expect("write");
        let error = Ledger::open(disk, ENTRIES_MAX).await.expect_err("newer");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Corrupt, sentence));
        assert!(error.hint().is_some_and(|hint| hint.contains("newer program")));
    }
    let disk = Arc::new(MemoryDisk::new());
    disk.write(FILE, b"no ledger at all").await.expect("write");
    let error = Ledger::open(disk, ENTRIES_MAX).await.expect_err("no ledger");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_full_ledger_says_so() {
    let ledger = Ledger::open(Arc::new(MemoryDisk::new()), 2).await.expect("open");
    ledger.stage_all(&owner(1), &["a", "b"]).await.expect("stage");
    let error = ledger.stage(&owner(2), "c").await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.to_string(), "the ledger holds 2 unsettled files, of at most 2");
    ledger.settle(&owner(1)).await.expect("settle");
    ledger.stage(&owner(2), "c").await.expect("room again");
}

#[tokio::test]
async fn a_file_of_settled_lines_is_made_small() {
    let disk = Arc::new(MemoryDisk::new());
    let ledger = reopened(&disk).await;
    for id in 1..6000 {
        ledger.stage(&owner(id), "s3://b/f").await.expect("stage");
        ledger.settle(&owner(id)).await.expect("settle");
    }
    let size = disk.read(FILE).await.expect("read").iter().filter(|b| **b == b'\n').count();
    assert!(size < 2 * LINES_MIN, "{size} lines");
    ledger.stage(&owner(7000), "s3://b/last").await.expect("stage");
    disk.crash();
    assert_eq!(open(&reopened(&disk).await), [(7000, "s3://b/last".to_owned(), vec![])]);
}

/// Counts syncs, yields within them, fails on demand, and counts the files of a folder before each line.
#[derive(Debug, Default)]
struct CountingDisk {
    inner: MemoryDisk,
    syncs: AtomicUsize,
    broken: AtomicBool,
    watched: Option<std::path::PathBuf>,
    seen: Mutex<Vec<usize>>,
}

impl CountingDisk {
    fn files(&self) -> Option<usize> {
        self.watched.as_ref().map(|folder| std::fs::read_dir(folder).expect("a folder").count())
    }
}

#[async_trait::async_trait]
impl Disk for CountingDisk {
    async fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.seen.lock().expect("unpoisoned").extend(self.files());
        if self.broken.load(Ordering::Relaxed) {
            self.inner.append(name, &bytes[..bytes.len() / 2]).await?;
            return Err(Error::new(ErrorKind::Unavailable, "no storage space"));
        }
        self.inner.append(name, bytes).await
    }
    async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "no storage space"));
        }
        self.inner.write(name, bytes).await
    }
    async fn sync(&self, name: &str) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.inner.sync(name).await
    }
    async fn read(&self, name: &str) -> Result<Bytes> {
        self.inner.read(name).await
    }
    async fn list(&self) -> Result<Vec<String>> {
        self.inner.list().await
    }
    async fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name).await
    }
}

#[tokio::test]
async fn callers_that_come_together_share_an_fsync() {
    let disk = Arc::new(CountingDisk::default());
    let ledger = Ledger::open(Arc::clone(&disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("open");
    let before = disk.syncs.load(Ordering::Relaxed);
    let calls = (0..100).map(|id| {
        let ledger = ledger.clone();
        async move { ledger.stage(&owner(id), "s3://b/f").await }
    });
    for answer in futures::future::join_all(calls).await {
        answer.expect("stage");
    }
    let syncs = disk.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs <= 2, "{syncs} fsyncs for 100 files");
    disk.inner.crash();
    let again = Ledger::open(disk, ENTRIES_MAX).await.expect("open");
    assert_eq!(again.open_entries().len(), 100);
}

#[tokio::test]
async fn a_settlement_that_carries_anothers_line_does_not_pass_for_its_fsync() {
    let disk = Arc::new(CountingDisk::default());
    let ledger = Ledger::open(Arc::clone(&disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("open");
    ledger.stage(&owner(1), "s3://b/1").await.expect("stage");
    // The first holds the file; the second writes for the third, without a sync of its own.
    let (one, two, three) = (owner(1), owner(2), owner(3));
    let answers =
        tokio::join!(biased; ledger.stage(&two, "s3://b/2"), ledger.settle(&one), ledger.stage(&three, "s3://b/3"));
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    disk.inner.crash();
    let again = Ledger::open(disk, ENTRIES_MAX).await.expect("open");
    assert!(again.open_entries().iter().any(|e| e.owner == owner(3)));
}

#[tokio::test]
async fn after_a_failed_write_the_file_is_written_anew() {
    let disk = Arc::new(CountingDisk::default());
    let ledger = Ledger::open(Arc::clone(&disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("open");
    ledger.stage(&owner(1), "s3://b/1").await.expect("stage");
    disk.broken.store(true, Ordering::Relaxed);
    assert_eq!(ledger.stage(&owner(2), "s3://b/2").await.expect_err("full disk").kind(), ErrorKind::Unavailable);
    assert!(ledger.stage(&owner(3), "s3://b/3").await.is_err());
    disk.broken.store(false, Ordering::Relaxed);
    ledger.stage(&owner(4), "s3://b/4").await.expect("stage");
    disk.inner.crash();
    let again = Ledger::open(disk, ENTRIES_MAX).await.expect("open");
    assert_eq!(again.torn_lines(), 0);
    let ids: Vec<i64> = again.open_entries().iter().map(|e| e.owner.snapshot_id).collect();
    assert!(ids.contains(&1) && ids.contains(&4), "{ids:?}");
}

#[tokio::test]
async fn a_dropped_call_does_not_harm_the_ones_after_it() {
    let disk = Arc::new(CountingDisk::default());
    let ledger = Ledger::open(Arc::clone(&disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("open");
    let dropped = owner(1);
    {
        let call = ledger.stage(&dropped, "s3://b/1");
        assert!(futures::poll!(std::pin::pin!(call)).is_pending(), "it waits within the fsync");
    }
    ledger.stage(&owner(2), "s3://b/2").await.expect("stage");
    disk.inner.crash();
    let ids: BTreeSet<i64> = Ledger::open(disk, ENTRIES_MAX)
        .await
        .expect("open")
        .open_entries()
        .iter()
        .map(|e| e.owner.snapshot_id)
        .collect();
    assert!(ids.contains(&2), "{ids:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Stage(i64, u8),
    Multipart(i64, u8, u8),
    Settle(i64),
    /// A crash that keeps so many bytes of what was not synced.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_i64, any::<u8>()).prop_map(|(id, n)| Step::Stage(id, n)),
        2 => (0..4_i64, any::<u8>(), any::<u8>()).prop_map(|(id, n, u)| Step::Multipart(id, n, u)),
        2 => (0..4_i64).prop_map(Step::Settle),
        1 => (0..200_usize).prop_map(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn a_crash_at_any_byte_leaves_every_acknowledged_entry(steps in proptest::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let disk = Arc::new(MemoryDisk::new());
            let mut ledger = reopened(&disk).await;
            let mut acknowledged: BTreeSet<(i64, String)> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Stage(id, n) => {
                        ledger.stage(&owner(id), &format!("s3://b/{n}")).await.expect("stage");
                        acknowledged.insert((id, format!("s3://b/{n}")));
                    }
                    Step::Multipart(id, n, upload) => {
                        let at = format!("s3://b/{n}");
                        ledger.multipart(&owner(id), &at, &upload.to_string()).await.expect("note");
                        acknowledged.insert((id, at));
                    }
                    Step::Settle(id) => {
                        ledger.settle(&owner(id)).await.expect("settle");
                        acknowledged.retain(|(other, _)| *other != id);
                    }
                    Step::Crash(kept) => {
                        disk.crash_keeping(|_, _| kept);
                        ledger = reopened(&disk).await;
                        let listed: BTreeSet<_> = open(&ledger).into_iter().map(|(id, l, _)| (id, l)).collect();
                        assert!(listed.is_superset(&acknowledged), "{listed:?} lacks some of {acknowledged:?}");
                        // A settlement that was lost brings its entries back: they are looked at once more.
                        acknowledged = listed;
                    }
                }
            }
        });
    }

    #[test]
    fn a_ledger_cut_at_any_byte_after_its_header_can_be_read(cut in 0..1000_usize, noise in any::<Vec<u8>>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let disk = Arc::new(MemoryDisk::new());
            let ledger = reopened(&disk).await;
            let header = disk.read(FILE).await.expect("read").len();
            for id in 0..8 {
                ledger.stage(&owner(id), "s3://b/some/file.parquet").await.expect("stage");
            }
            let whole = disk.read(FILE).await.expect("read");
            let cut = (header + cut).min(whole.len());
            let lines = whole[header..cut].iter().filter(|b| **b == b'\n').count();
            let torn: Vec<u8> = whole[..cut].iter().copied().chain(noise).collect();
            disk.write(FILE, &torn).await.expect("write");
            assert!(reopened(&disk).await.open_entries().len() >= lines);
            let again = reopened(&disk).await;
            assert_eq!(again.torn_lines(), 0, "opening repairs the file");
        });
    }
}

#[tokio::test]
async fn a_local_file_under_way_is_in_the_ledger_by_its_id_before_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let disk = Arc::new(CountingDisk { watched: Some(path.clone()), ..CountingDisk::default() });
    let ledger = Ledger::open(Arc::clone(&disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("open");
    let storage = Storage::new(StorageOptions::default(), Env::system());
    let location = format!("file://{}/f.parquet", path.display());
    let upload = storage.upload(&location, Some((ledger.clone(), owner(1)))).await.expect("begun");
    assert_eq!((disk.files(), ledger.open_entries()[0].upload_ids.len()), (Some(1), 1));
    let seen = disk.seen.lock().expect("unpoisoned").clone();
    assert!(seen.len() >= 2 && seen.iter().all(|files| *files == 0), "{seen:?}");
    drop(upload); // as a process that is killed does
    let id = ledger.open_entries()[0].upload_ids[0].clone();
    storage.abort_upload(&location, &id).await.expect("removed");
    assert_eq!(disk.files(), Some(0));
}

#[tokio::test]
async fn what_is_staged_for_a_name_that_two_tables_have_is_meant_for_neither() {
    let ledger = reopened(&Arc::new(MemoryDisk::new())).await;
    let (table, uuids) = (owner(1).table, [Uuid::from_u128(1), Uuid::from_u128(2)]);
    for (id, uuid) in [(1, uuids[0]), (2, uuids[0]), (3, uuids[1]), (4, uuids[0])] {
        ledger.means(&table, uuid);
        ledger.stage(&owner(id), "s3://b/x").await.expect("stage");
    }
    let meant: Vec<_> = ledger.open_entries().into_iter().map(|entry| entry.table_uuid).collect();
    assert_eq!(meant, [uuids[0], uuids[0], Uuid::nil(), Uuid::nil()].map(Some));
}
