//! The trail of a rewrite: which rows it left out of which input, and which files it began one after the other. At its end this
//! says where every row went.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use iceberg::spec::DataFile;
use roaring::RoaringTreemap;

use crate::compact::files::{DataEntry, DeleteKind, Partition};
use crate::compact::merge::Work;
use crate::model::remap::{Affine, Remap, outputs};
use crate::write::layout::TableLayout;
use crate::write::parquet::Files;

const SORTED: &str = "the rewrite sorted its rows";
const SPREAD: &str = "the rewrite spread its rows over partitions";
const MANY: &str = "the places of the rows that were left out take too much memory";

/// What a rewrite has passed so far.
#[derive(Debug)]
pub(crate) struct Trail {
    /// Why nothing can be said of where rows went.
    unknown: Option<&'static str>,
    /// Of each input the rows left out, and those of them that keys alone deleted.
    passed: HashMap<String, (RoaringTreemap, RoaringTreemap)>,
    bytes: u64,
    bytes_max: u64,
    /// Files in the order in which they were begun.
    begun: Arc<Mutex<Vec<String>>>,
}

impl Trail {
    /// A rewrite into files of this layout, whose trail may take so many bytes.
    pub(crate) fn new(layout: &TableLayout, bytes_max: u64) -> Self {
        let sorts = !layout.sort_order.fields.is_empty();
        let unknown = sorts.then_some(SORTED);
        Self { unknown, passed: HashMap::new(), bytes: 0, bytes_max, begun: Arc::default() }
    }

    /// The same way to make files, noting each.
    pub(crate) fn noting(&self, files: &Files) -> Files {
        let (begun, create) = (Arc::clone(&self.begun), Arc::clone(&files.create));
        let noting = move |location: String| {
            begun.lock().unwrap_or_else(PoisonError::into_inner).push(location.clone());
            create(location)
        };
        Files { create: Arc::new(noting), remove: Arc::clone(&files.remove) }
    }

    /// All rows of `input` are written, but for those at `positions`, and those that keys alone deleted.
    pub(crate) fn pass(&mut self, input: &DataEntry, positions: Option<&RoaringTreemap>, by_key: RoaringTreemap) {
        if self.unknown.is_some() {
            return;
        }
        let mut applied = positions.cloned().unwrap_or_default();
        // Deletes of rows that never were left nothing out.
        applied.remove_range(input.rows..);
        applied |= &by_key;
        self.bytes = self.bytes.saturating_add((applied.serialized_size() + by_key.serialized_size()) as u64);
        if self.bytes > self.bytes_max {
            (self.unknown, self.passed) = (Some(MANY), HashMap::new());
            return;
        }
        self.passed.insert(input.location.clone(), (applied, by_key));
    }

    /// Where the rows of each input of `work` are in `files`, all that were written.
    pub(crate) fn remap(
        mut self,
        work: &Work,
        partitions: &[Partition],
        files: &[DataFile],
    ) -> BTreeMap<String, Remap> {
        // Rows of one partition follow each other as they came; those of several went side by side.
        let one = files.windows(2).all(|pair| pair[0].partition() == pair[1].partition());
        let unknown = self.unknown.or((!one).then_some(SPREAD));
        let rows: HashMap<&str, u64> = files.iter().map(|file| (file.file_path(), file.record_count())).collect();
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = begun.into_iter().filter_map(|file| rows.get(file.as_str()).copied().map(|rows| (file, rows)));
        let files = outputs(begun);
        let mut base = 0;
        let mut remap = BTreeMap::new();
        for input in &work.inputs {
            let (applied, by_key) = self.passed.remove(&input.location).unwrap_or_default();
            let kept = input.rows.saturating_sub(applied.len());
            let (mut positions, mut keys) = (BTreeSet::new(), BTreeSet::new());
            for deletes in work.deletes.iter().filter(|deletes| deletes.reaches(input, partitions)) {
                let by_key = matches!(deletes.kind, DeleteKind::Equality(_));
                (if by_key { &mut keys } else { &mut positions }).insert(deletes.file.clone());
            }
            let outputs = Arc::clone(&files);
            let map = Affine { base, rows: input.rows, applied, by_key, positions, keys, outputs };
            let went = unknown.map_or(Remap::Affine(map), Remap::Unknown);
            remap.insert(input.location.clone(), went);
            base += kept;
        }
        remap
    }
}
