use std::io::Write;

use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::source::testing::{Reading, env};

const FOLDER: &str = "mem://bucket/in";

/// A folder of files and the sources that follow it.
struct Folder {
    store: Arc<InMemory>,
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
        expansion_max: 1_000,
        late_files_max: 3,
    };
    Folder { store: Arc::new(InMemory::new()), config, options: FilesOptions::default() }
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
