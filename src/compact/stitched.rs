//! The files that stitched row groups make: when one is full, where its row groups lie, and what its footer says.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use iceberg::spec::{DataFile, Struct};
use parquet::basic::{Encoding, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, OffsetIndexBuilder, PageEncodingStats, ParquetMetaData, ParquetMetaDataBuilder,
    ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::ColumnDescPtr;

use crate::compact::bounds::{Extent, Order, fixed, index};
use crate::compact::files::DataEntry;
use crate::compact::merge::{Rewriter, prefix};
use crate::compact::splice::{Stop, Unit, no};
use crate::compact::stitch::Stitched;
use crate::compact::trail::Trail;
use crate::error::{Error, ErrorKind, Result};
use crate::write::metrics::{Leaf, NanCounts};
use crate::write::parquet::{Files, OpenFile, Written, entry, stored};
use crate::write::properties::MetricsMode;
use crate::write::shape::{CREATED_BY, FileShape};

const MAGIC: &[u8] = b"PAR1";
/// Hundredths of the target size: a file that has so many is not taken for a small one later, and may be closed.
const ENOUGH: u64 = 80;
/// A file that has so many is closed, and it never has more than so many.
const FULL: u64 = 90;
const MOST: u64 = 105;

/// Files made one after the other.
pub(crate) struct StitchedFiles {
    shape: Arc<FileShape>,
    files: Files,
    partition: Struct,
    prefix: String,
    /// Locations of all that were begun.
    begun: Vec<String>,
    open: Option<Open>,
    done: Vec<DataFile>,
    /// Bytes of row groups so far, as they came and as they went out.
    bytes: (u64, u64),
}

/// A file that is written.
struct Open {
    location: String,
    file: Box<dyn OpenFile>,
    at: u64,
    groups: Vec<RowGroupMetaData>,
    columns: Vec<Vec<ColumnIndexMetaData>>,
    offsets: Vec<Vec<OffsetIndexMetaData>>,
    /// For each leaf how many values are no number.
    nans: Vec<Option<u64>>,
}

fn internal(error: ParquetError) -> Stop {
    Stop::Failed(Error::new(ErrorKind::Internal, "what is known of a column chunk does not fit it").with_source(error))
}

impl StitchedFiles {
    pub(crate) fn new(
        rewriter: &Rewriter<'_>,
        trail: &Trail,
        shape: &Arc<FileShape>,
        partition: Struct,
        inputs: &[DataEntry],
    ) -> Self {
        Self {
            shape: Arc::clone(shape),
            files: trail.noting(&rewriter.files),
            partition,
            prefix: format!("{}-{}", prefix(inputs), rewriter.env.uuid()),
            begun: Vec::new(),
            open: None,
            done: Vec::new(),
            bytes: (0, 0),
        }
    }

    /// Bytes that so many are expected to become.
    fn expected(&self, bytes: u64) -> u64 {
        let (came, went) = self.bytes;
        let scaled = u128::from(bytes) * u128::from(went.max(1)) / u128::from(came.max(1));
        if came == 0 { bytes } else { u64::try_from(scaled).unwrap_or(u64::MAX) }
    }

    /// Whether a row group of the current file that holds `group` has room for `unit` too. Closes the file when it is full.
    pub(crate) async fn fits(&mut self, group: &[Unit], unit: &Unit, bytes_max: u64) -> Result<bool, Stop> {
        let properties = &self.shape.layout.properties;
        let (target, rows_bytes) = (properties.target_file_bytes, properties.row_group_bytes as u64);
        let share = |hundredths: u64| target.saturating_mul(hundredths) / 100;
        let came = group.iter().map(|unit| unit.bytes).sum::<u64>().saturating_add(unit.bytes);
        let expected = self.expected(came);
        let after = move |at: u64| at.saturating_add(expected);
        let at = self.open.as_ref().map_or(0, |open| open.at);
        if !group.is_empty() {
            return Ok(after(at) <= target && expected <= rows_bytes && came <= bytes_max);
        }
        if at == 0 || (after(at) <= share(MOST) && at < share(FULL)) {
            return if after(0) <= share(MOST) { Ok(true) } else { no("a row group is larger than a file should be") };
        }
        if at < share(ENOUGH) {
            return no("row groups are so large that files would be far from their size");
        }
        self.close().await?;
        if expected <= share(MOST) { Ok(true) } else { no("a row group is larger than a file should be") }
    }

    /// Adds a row group of `rows`, made of chunks that had so many bytes.
    pub(crate) async fn row_group(&mut self, rows: usize, came: u64, chunks: Vec<Stitched>) -> Result<(), Stop> {
        if self.open.is_none() {
            self.open = Some(self.begin().await?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let rows = i64::try_from(rows).map_err(|_| Stop::Unfit("too many rows".to_owned()))?;
        let (mut metadata, mut columns, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
        let (start, mut unpacked) = (open.at, 0);
        for (at, mut chunk) in chunks.into_iter().enumerate() {
            let (Some(leaf), descriptor) = (self.shape.leaves.get(at), self.shape.parquet.column(at)) else {
                return no("more columns than a file has");
            };
            let placed = Placing { shape: &self.shape, leaf, descriptor, at: open.at, rows };
            let (chunk_metadata, column, offset) = placed.describe(&chunk)?;
            unpacked += chunk_metadata.uncompressed_size();
            metadata.push(chunk_metadata);
            columns.push(column);
            offsets.push(offset);
            if let (Some(held), Some(nans)) = (&mut open.nans[at], chunk.nans) {
                *held += nans;
            }
            let bytes = std::mem::take(&mut chunk.bytes);
            open.send(bytes.into()).await?;
        }
        let ordinal = i16::try_from(open.groups.len()).map_err(|_| Stop::Unfit("too many row groups".to_owned()))?;
        let group = RowGroupMetaData::builder(Arc::new(self.shape.parquet.clone()))
            .set_num_rows(rows)
            .set_total_byte_size(unpacked)
            .set_column_metadata(metadata)
            .set_ordinal(ordinal)
            .set_file_offset(i64::try_from(start).unwrap_or(i64::MAX))
            .build();
        open.groups.push(group.map_err(internal)?);
        open.columns.push(columns);
        open.offsets.push(offsets);
        self.bytes = (self.bytes.0 + came, self.bytes.1 + open.at - start);
        Ok(())
    }

    async fn begin(&mut self) -> Result<Open, Stop> {
        let name = format!("{}-{:05}.parquet", self.prefix, self.begun.len() + 1);
        let location = self.shape.layout.file_location(&self.partition, &name)?;
        let created = (self.files.create)(location.clone()).await;
        let file = created.map_err(|e| e.within(format!("create {location}")))?;
        self.begun.push(location.clone());
        let nans = self.shape.parquet.columns().iter();
        let nans = nans.map(|column| Order::of(column).is_some_and(Order::is_float).then_some(0)).collect();
        let (groups, columns, offsets) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = Open { location, file, at: 0, groups, columns, offsets, nans };
        open.send(Bytes::from_static(MAGIC)).await?;
        Ok(open)
    }

    async fn close(&mut self) -> Result<(), Stop> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let footer = open.footer(&self.shape)?;
        let bytes = footer_bytes(&footer, open.at).map_err(internal)?;
        open.send(bytes.into()).await?;
        let completed = open.file.complete().await;
        completed.map_err(|e| stored(e, format!("complete {}", open.location)))?;
        let counts = self.shape.leaves.iter().zip(&open.nans).filter_map(|(leaf, nans)| Some((leaf.id, (*nans)?)));
        let nans = NanCounts::of(counts);
        let written = Written { footer: &footer, nans: &nans, bytes: open.at, sort_order: None };
        // A bound that is none of its column's type came from an input: decoding finds the right one.
        let entry = entry(&self.shape, open.location.clone(), self.partition.clone(), written);
        self.done.push(entry.map_err(|e| Stop::Unfit(e.to_string()))?);
        self.open = None;
        Ok(())
    }

    /// Completes the last file.
    pub(crate) async fn finish(&mut self) -> Result<(), Stop> {
        self.close().await
    }

    pub(crate) fn into_done(self) -> Vec<DataFile> {
        self.done
    }

    /// Gives all files up.
    pub(crate) async fn discard(mut self) {
        let mut left = Ok(());
        if let Some(open) = &mut self.open {
            left = open.file.abort().await;
        }
        if !self.begun.is_empty() {
            left = left.and((self.files.remove)(self.begun).await);
        }
        if let Err(error) = left {
            tracing::warn!(error = %error, "files of a rewrite that was given up stay behind");
        }
    }
}

/// A chunk and its place.
struct Placing<'a> {
    shape: &'a FileShape,
    leaf: &'a Leaf,
    descriptor: ColumnDescPtr,
    /// Where in the file it begins.
    at: u64,
    rows: i64,
}

impl Placing<'_> {
    fn describe(
        &self,
        chunk: &Stitched,
    ) -> Result<(ColumnChunkMetaData, ColumnIndexMetaData, OffsetIndexMetaData), Stop> {
        let place = |at: usize| i64::try_from(self.at.saturating_add(at as u64)).unwrap_or(i64::MAX);
        let name = self.shape.layout.schema.name_by_field_id(self.leaf.id).unwrap_or_default();
        let said = !self.shape.layout.properties.statistics_off.contains(name);
        let wanted = said && !matches!(self.leaf.mode, MetricsMode::None | MetricsMode::Counts);
        let Some(order) = Order::of(&self.descriptor) else { return no("a column without an order") };
        if wanted && chunk.extent.unknown {
            return no(format!("nothing says what the values of column {name} lie between"));
        }
        let pages = chunk.encodings();
        let mut encodings: Vec<Encoding> = pages.iter().map(|page: &PageEncodingStats| page.encoding).collect();
        encodings.push(Encoding::RLE);
        encodings.sort_unstable();
        encodings.dedup();
        let first = chunk.pages.first().map_or(0, |page| page.at);
        let mut builder = ColumnChunkMetaData::builder(Arc::clone(&self.descriptor))
            .set_encodings(encodings)
            .set_page_encoding_stats(pages)
            .set_num_values(self.rows)
            .set_compression(self.shape.layout.properties.compression)
            .set_total_compressed_size(chunk.bytes.len() as i64)
            .set_total_uncompressed_size(chunk.unpacked as i64)
            .set_data_page_offset(place(first))
            .set_dictionary_page_offset(chunk.dictionary.then(|| place(0)));
        let physical = self.descriptor.physical_type();
        if said {
            let statistics = chunk.extent.statistics(order);
            let fixed_length = physical == Physical::FIXED_LEN_BYTE_ARRAY;
            builder = builder.set_statistics(if fixed_length { fixed(statistics) } else { statistics });
        }
        let mut offsets = OffsetIndexBuilder::new();
        for page in &chunk.pages {
            let Ok(bytes) = i32::try_from(page.bytes) else { return no("a page of 2 GiB and more") };
            offsets.append_offset_and_size(place(page.at), bytes);
            offsets.append_row_count(page.extent.rows as i64);
        }
        let extents: Vec<&Extent> = chunk.pages.iter().map(|page| &page.extent).collect();
        let columns = index(order, physical, &extents).filter(|_| said).unwrap_or(ColumnIndexMetaData::NONE);
        Ok((builder.build().map_err(internal)?, columns, offsets.build()))
    }
}

impl Open {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Stop> {
        self.at += bytes.len() as u64;
        self.file.write(bytes).await.map_err(|e| stored(e, format!("write {}", self.location)).into())
    }

    fn footer(&mut self, shape: &FileShape) -> Result<ParquetMetaData, Stop> {
        let rows = self.groups.iter().map(RowGroupMetaData::num_rows).sum();
        let own = Some(CREATED_BY.to_owned());
        let file = FileMetaData::new(1, rows, own, Some(shape.key_values()), Arc::new(shape.parquet.clone()), None);
        Ok(ParquetMetaDataBuilder::new(file)
            .set_row_groups(std::mem::take(&mut self.groups))
            .set_column_index(Some(std::mem::take(&mut self.columns)))
            .set_offset_index(Some(std::mem::take(&mut self.offsets)))
            .build())
    }
}

/// What comes after the first `at` bytes of a file.
struct Tail {
    skip: u64,
    bytes: Vec<u8>,
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.bytes.extend_from_slice(&bytes[usize::try_from(skipped).unwrap_or(bytes.len())..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Indexes and footer of a file that has `at` bytes so far.
fn footer_bytes(footer: &ParquetMetaData, at: u64) -> Result<Vec<u8>, ParquetError> {
    static NOTHING: [u8; 1 << 16] = [0; 1 << 16];
    let mut tail = Tail { skip: at, bytes: Vec::new() };
    let mut tracked = TrackedWrite::new(&mut tail);
    // Places in the footer are counted from the beginning of what is written through the same writer.
    let mut left = at;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(NOTHING.len());
        tracked.write_all(&NOTHING[..piece])?;
        left -= piece as u64;
    }
    ParquetMetaDataWriter::new_with_tracked(tracked, footer).finish()?;
    Ok(tail.bytes)
}
