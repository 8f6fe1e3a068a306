//! Rows in a table's sort order, however many they are: sorted in runs of what fits into memory, which are merged. Runs are files
//! beside those that come of it, and are removed before anybody could know of them.
//!
//! Source: Knuth, The Art of Computer Programming, volume 3, 5.4.1 (external sorting by merging).

use std::collections::BTreeMap;

use futures::TryFutureExt;
use iceberg::spec::{DataFile, Literal};
use parquet::basic::{Compression, ZstdLevel};
use tokio::sync::mpsc;

use crate::compact::files::DataEntry;
use crate::compact::masks::{Masks, Scope};
use crate::compact::merge::{Rewriter, write_all};
use crate::compact::pass::Pass;
use crate::compact::trail::Trail;
use crate::error::{Error, ErrorKind, Result};
use crate::write::layout::TableLayout;

/// Runs that are merged at a time.
const FAN_IN: usize = if cfg!(test) { 2 } else { 16 };
/// How many times its bytes in a file rows may take in memory before more than one run is expected.
const UNPACKED: u64 = 4;
/// Bytes of a run's pages: as many are held as it has columns.
const RUN_PAGE_BYTES: usize = 64 << 10;

/// What a writer's files are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// To stay; rows come in any order.
    Files,
    /// To stay; rows come in the table's order.
    Sorted,
    /// To be merged: each is a run that was sorted in memory.
    Runs,
    /// To be merged: rows come in the table's order.
    Merged,
}

impl Output {
    /// Whether its files are to be merged.
    pub(crate) fn is_run(self) -> bool {
        matches!(self, Self::Runs | Self::Merged)
    }

    /// How a run is written: quickly, and so that little of it need be in memory when it is read.
    pub(crate) fn shape(self, layout: &mut TableLayout, memory: u64) {
        let part = if self.is_run() { memory / 256 } else { memory / 8 };
        let properties = &mut layout.properties;
        properties.row_group_bytes = properties.row_group_bytes.min(usize::try_from(part).unwrap_or(usize::MAX));
        if self.is_run() {
            properties.target_file_bytes = u64::MAX;
            properties.compression = Compression::ZSTD(ZstdLevel::default());
            (properties.page_bytes, properties.dictionary_bytes) = (RUN_PAGE_BYTES, RUN_PAGE_BYTES);
            properties.bloom_filters.clear();
        }
    }
}

impl Rewriter<'_> {
    /// Writes all rows of a pass in the table's sort order. Answers the files, and how many rows were deleted.
    ///
    /// # Errors
    /// Those of reading and writing. Nothing stays behind then, as far as the store lets.
    pub(crate) async fn sorted(&self, pass: Pass<'_>, trail: &mut Trail) -> Result<(Vec<DataFile>, u64)> {
        let bytes: u64 = pass.scope.inputs.iter().map(|input| input.bytes).sum();
        if bytes.saturating_mul(UNPACKED) <= Self::sort_bytes(pass.memory) {
            let (files, deleted) = self.in_turn(pass, trail, Output::Files).await?;
            if files.iter().all(|file| file.sort_order_id().is_some()) {
                return Ok((files, deleted));
            }
            self.remove(locations(&files)).await; // more than one run after all
        }
        let (runs, deleted) = self.in_turn(pass, trail, Output::Runs).await?;
        let mut by_partition: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
        for run in runs {
            by_partition.entry(key(&run)).or_default().push(run);
        }
        let (mut files, mut left) = (Vec::new(), by_partition.into_values());
        while let Some(runs) = left.next() {
            match self.merge_runs(pass, trail, runs).await {
                Ok(own) => files.extend(own),
                Err(error) => {
                    self.remove(locations(&files).into_iter().chain(left.flat_map(|runs| locations(&runs))).collect())
                        .await;
                    return Err(error);
                }
            }
        }
        Ok((files, deleted))
    }

    /// The rows of runs of one partition, in order. The runs are removed, whatever happens.
    async fn merge_runs(&self, pass: Pass<'_>, trail: &mut Trail, mut runs: Vec<DataFile>) -> Result<Vec<DataFile>> {
        loop {
            let last = runs.len() <= FAN_IN;
            let output = if last { Output::Sorted } else { Output::Merged };
            let mut merged = Vec::new();
            for some in runs.chunks(FAN_IN) {
                match self.merge_some(pass, trail, some, output).await {
                    Ok(files) => merged.extend(files),
                    Err(error) => {
                        self.remove(locations(&runs).into_iter().chain(locations(&merged)).collect()).await;
                        return Err(error);
                    }
                }
            }
            self.remove(locations(&runs)).await;
            if last {
                return Ok(merged);
            }
            runs = merged;
        }
    }

    async fn merge_some(
        &self,
        pass: Pass<'_>,
        trail: &mut Trail,
        runs: &[DataFile],
        output: Output,
    ) -> Result<Vec<DataFile>> {
        let inputs: Vec<DataEntry> = runs.iter().map(entry).collect();
        let masks = Masks::default();
        let pass = Pass { scope: Scope { inputs: &inputs, ..pass.scope }, masks: &masks, ..pass };
        let Some(ordered) = pass.merge_of(u64::MAX).await? else {
            return Err(Error::new(ErrorKind::Internal, "runs of a table without a sort order"));
        };
        let (decoded, batches) = mpsc::channel(pass.ahead());
        let writer = self.writer(pass, trail, output)?;
        let done = write_all(writer, batches, pass.in_order(ordered, decoded, trail)).await?;
        done.map(|(files, _)| files).ok_or_else(|| Error::new(ErrorKind::Internal, "a run that is not sorted"))
    }

    /// Writes the rows of one input after the other.
    pub(crate) async fn in_turn(
        &self,
        pass: Pass<'_>,
        trail: &mut Trail,
        output: Output,
    ) -> Result<(Vec<DataFile>, u64)> {
        let (decoded, batches) = mpsc::channel(pass.ahead());
        let writer = self.writer(pass, trail, output)?;
        let done = write_all(writer, batches, pass.in_turn(decoded, trail).map_ok(Some)).await?;
        done.ok_or_else(|| Error::new(ErrorKind::Internal, "a pass without an end"))
    }

    /// Removes files that nothing names. What the store keeps is for the orphan sweep.
    pub(crate) async fn remove(&self, locations: Vec<String>) {
        if let Err(left) = (self.files.remove)(locations).await {
            tracing::warn!(error = %left, "files of a rewrite stay behind");
        }
    }
}

fn locations(files: &[DataFile]) -> Vec<String> {
    files.iter().map(|file| file.file_path().to_owned()).collect()
}

/// Tells partitions apart.
fn key(file: &DataFile) -> String {
    let text = |value: Option<&Literal>| format!("{value:?}");
    file.partition().iter().map(text).collect::<Vec<_>>().join("|")
}

/// A run as an input. It has all columns, row ids included, so that it inherits nothing.
fn entry(run: &DataFile) -> DataEntry {
    DataEntry {
        location: run.file_path().to_owned(),
        bytes: run.file_size_in_bytes(),
        rows: run.record_count(),
        seq: 0,
        partition: usize::MAX,
        first_row_id: None,
        sort_order_id: run.sort_order_id(),
        added_ms: None,
        readable: true,
    }
}

#[cfg(test)]
mod tests;
