//! The store contract over an S3 that we did not write.

#[path = "../tests/contract_store/suite.rs"]
#[macro_use]
mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use frazil::config::{Secret, StoreConfig};
use frazil::env::Env;
use frazil::storage::disk::MemoryDisk;
use frazil::storage::ledger::{Ledger, LedgerOwner};
use frazil::storage::{Storage, StorageOptions};
use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use suite::Place;

use crate::components::value;

/// A fresh folder of the bucket.
fn s3() -> Place {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let bucket = format!("s3://{}", value("S3_BUCKET"));
    let folder = format!("{bucket}/contract-{}/{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
    let options = [
        ("endpoint", value("S3_ENDPOINT")),
        ("access_key_id", value("S3_ACCESS_KEY_ID")),
        ("secret_access_key", value("S3_SECRET_ACCESS_KEY")),
        ("region", value("S3_REGION")),
        ("allow_http", "true"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
    let stores = vec![StoreConfig { prefix: bucket, options }];
    let storage = Storage::new(StorageOptions { stores, requests_max: 8, retries: 2 }, Env::system());
    Place { storage, folder, kept: None }
}

cases_of_a_store! {
    over_s3 => super::s3
}

/// The same bucket by the client library alone.
fn client() -> AmazonS3 {
    AmazonS3Builder::new()
        .with_bucket_name(value("S3_BUCKET"))
        .with_endpoint(value("S3_ENDPOINT"))
        .with_access_key_id(value("S3_ACCESS_KEY_ID"))
        .with_secret_access_key(value("S3_SECRET_ACCESS_KEY"))
        .with_region(value("S3_REGION"))
        .with_allow_http(true)
        .build()
        .expect("a client")
}

/// The server's own word: invisible is not yet gone.
#[tokio::test]
async fn an_upload_that_was_removed_by_its_id_takes_no_more_parts() {
    let (place, client) = (s3(), client());
    let ledger = Ledger::open(Arc::new(MemoryDisk::new()), 10).await.expect("a ledger");
    let owner = LedgerOwner { table: "db.t".parse().expect("valid"), snapshot_id: 7 };
    let at = place.at("died/f");
    let mut upload = place.storage.upload(&at, Some((ledger.clone(), owner))).await.expect("begun");
    upload.write(vec![7; 20 << 20].into()).await.expect("written");
    drop(upload);
    let entries = ledger.open_entries();
    let id = entries.first().and_then(|entry| entry.upload_ids.first()).expect("an upload id");
    let path = Path::parse(at.trim_start_matches("s3://").split_once('/').expect("a key").1).expect("valid");
    let part = || client.put_part(&path, id, 5, Bytes::from_static(b"more").into());
    part().await.expect("under the id in the ledger it goes on");
    place.storage.abort_upload(&at, id).await.expect("removed");
    part().await.expect_err("it is gone at the server");
}

#[tokio::test]
async fn seaweedfs_lists_a_backslash_as_a_slash() {
    let place = s3();
    place.storage.write(&place.at("back\\slash/f"), Bytes::from_static(b"1")).await.expect("written");
    assert_eq!(place.storage.read(&place.at("back\\slash/f")).await.expect("read"), "1");
    let listed: Vec<_> = place.storage.list(&place.folder, None).try_collect().await.expect("listed");
    let names: Vec<&str> = listed.iter().map(|entry| entry.location.as_str()).collect();
    assert_eq!(names, [place.at("back/slash/f")]);
}
