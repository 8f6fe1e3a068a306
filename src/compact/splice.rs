//! Copy and stitch: the rows of a group's files as they are encoded, in few large row groups instead of many small ones. Values are
//! neither decoded nor compressed again, where their pages are large enough.
//!
//! For files that no delete reaches, in the table's columns, partition, codec and order (none). Whatever else turns up, and
//! whatever is broken, gives the group to decode and merge: that knows more forms, and says what is wrong.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt, future};
use iceberg::spec::{DataFile, FormatVersion};
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::schema::types::ColumnDescriptor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::compact::bounds::{Extent, Order};
use crate::compact::files::DataEntry;
use crate::compact::input::ParquetFile;
use crate::compact::merge::Rewriter;
use crate::compact::pages::{Codec, Unfit};
use crate::compact::pass::Pass;
use crate::compact::stitch::{Column, Piece, Stitched, stitch};
use crate::compact::stitched::StitchedFiles;
use crate::compact::trail::Trail;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::write::layout::TableLayout;
use crate::write::shape::FileShape;

/// Units that wait to be stitched.
const AHEAD: usize = 64;

/// Why a group is not copied, or not at all.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is decoded instead.
    Unfit(String),
    Failed(Error),
}

impl From<Unfit> for Stop {
    fn from(Unfit(what): Unfit) -> Self {
        Self::Unfit(what)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) fn no<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Unfit(what.into()))
}

/// Whether files of such a table can be copied at all: its columns are flat, its rows have no order and no ids, and what its files
/// have beside columns can be had without their values.
pub fn copies(layout: &TableLayout) -> bool {
    FileShape::new(layout.clone()).is_ok_and(|shape| columns(&shape).is_some())
}

/// The columns of new files, in the order of their leaves; `None` where they cannot be copied.
fn columns(shape: &FileShape) -> Option<Vec<Column>> {
    let layout = &shape.layout;
    let properties = &layout.properties;
    let plain = layout.sort_order.is_unsorted()
        && layout.format_version < FormatVersion::V3
        && properties.bloom_filters.is_empty()
        && Codec::new(properties.compression).is_some();
    let column = |column: &ColumnDescriptor| {
        let flat = column.path().parts().len() == 1 && column.max_rep_level() == 0 && column.max_def_level() <= 1;
        Some(Column {
            physical: column.physical_type(),
            width: width(column).filter(|_| flat)?,
            order: Order::of(column)?,
            optional: column.max_def_level() == 1,
            compression: properties.compression,
            page_rows: properties.page_rows,
            page_bytes: properties.page_bytes,
            dictionary_bytes: properties.dictionary_bytes,
        })
    };
    let columns =
        shape.parquet.columns().iter().filter(|_| plain).map(|leaf| column(leaf)).collect::<Option<Vec<_>>>()?;
    (!columns.is_empty()).then_some(columns)
}

/// Bytes of a value, if all have as many; `None` for a type that has none of its own.
#[allow(clippy::option_option)] // the outer one: whether the type is known
fn width(column: &ColumnDescriptor) -> Option<Option<usize>> {
    match column.physical_type() {
        Physical::BOOLEAN | Physical::BYTE_ARRAY => Some(None),
        Physical::INT32 | Physical::FLOAT => Some(Some(4)),
        Physical::INT64 | Physical::DOUBLE => Some(Some(8)),
        Physical::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).ok().filter(|n| *n > 0).map(Some),
        Physical::INT96 => None,
    }
}

/// A row group of an input, with its chunks in the order of the new files' columns.
pub(crate) struct Unit {
    pub(crate) rows: usize,
    pub(crate) bytes: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// A row group that was read ahead, and its part of what may be.
type Ahead = (Unit, OwnedSemaphorePermit);

impl Rewriter<'_> {
    /// The files with the rows of a pass that deletes nothing, copied; `None` when they cannot be: nothing stays behind then, as far
    /// as the store lets.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn spliced(&self, pass: Pass<'_>, trail: &mut Trail) -> Result<Option<Vec<DataFile>>> {
        let shape = Arc::new(FileShape::new(pass.scope.target.layout.clone())?);
        let Some(columns) = columns(&shape).map(Arc::new) else { return Ok(None) };
        let Some(partition) = pass.scope.inputs.first().and_then(|first| pass.scope.partitions.get(first.partition))
        else {
            return Ok(None);
        };
        let group_bytes = pass.memory / 8;
        let mut files = StitchedFiles::new(self, trail, &shape, partition.values.clone(), pass.scope.inputs);
        let (ready, mut units) = mpsc::channel(AHEAD);
        let reading = Source { pass, shape: &shape, columns: &columns, bytes_max: group_bytes };
        let written = &mut files;
        let (env, cores, all) = (self.env, self.cores, Arc::clone(&columns));
        let writing = async move {
            let mut waiting = None;
            loop {
                let mut group = Vec::new();
                while let Some(unit) = next(&mut waiting, &mut units).await {
                    if !written.fits(&group, &unit, group_bytes).await? {
                        waiting = Some(unit);
                        break;
                    }
                    group.push(unit);
                }
                if group.is_empty() {
                    return Ok(());
                }
                let rows = group.iter().map(|unit| unit.rows).sum();
                let bytes = group.iter().map(|unit| unit.bytes).sum();
                let chunks = side_by_side(env, cores, &all, group).await?;
                written.row_group(rows, bytes, chunks).await?;
            }
        };
        let (read, wrote) = future::join(reading.send(ready), writing).await;
        let done = match read.and(wrote) {
            Ok(()) => files.finish().await,
            Err(stop) => Err(stop),
        };
        match done {
            Ok(()) => {
                for input in pass.scope.inputs {
                    trail.pass(input, None, roaring::RoaringTreemap::new());
                }
                Ok(Some(files.into_done()))
            }
            Err(stop) => {
                files.discard().await;
                match stop {
                    Stop::Failed(error) => Err(error),
                    Stop::Unfit(why) => {
                        tracing::debug!(table = %self.layout.name, why, "a group is decoded, its pages cannot be copied");
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// The row group that waits, or the next. It is not ahead any more then.
async fn next(waiting: &mut Option<Unit>, units: &mut mpsc::Receiver<Ahead>) -> Option<Unit> {
    match waiting.take() {
        Some(unit) => Some(unit),
        None => units.recv().await.map(|(unit, _)| unit),
    }
}

/// Where row groups come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    pass: Pass<'a>,
    shape: &'a FileShape,
    columns: &'a [Column],
    bytes_max: u64,
}

impl<'a> Source<'a> {
    /// Sends the row groups of all inputs in their order.
    async fn send(self, ready: mpsc::Sender<Ahead>) -> Result<(), Stop> {
        let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 3).max(1);
        let room = kib(self.bytes_max);
        let ahead = Arc::new(Semaphore::new(room as usize));
        let (mut left, mut under_way) = (self.pass.scope.inputs.iter(), FuturesOrdered::new());
        loop {
            while under_way.len() < self.pass.ahead()
                && let Some(input) = left.next()
            {
                under_way.push_back(self.open(input).boxed());
            }
            let Some(opened) = under_way.next().await else { return Ok(()) };
            let (file, footer, leaves) = opened?;
            for at in 0..footer.num_row_groups() {
                let bytes = self.check(&footer, at, &leaves)?;
                let permit = Arc::clone(&ahead).acquire_many_owned(kib(bytes).min(room)).await;
                let Ok(permit) = permit else { return Ok(()) };
                let chunks = file.chunks(at, self.bytes_max, &leaves).await;
                let pieces = self.pieces(&footer, at, &leaves, unfit_unless_away(chunks)?)?;
                let rows = usize::try_from(footer.row_group(at).num_rows()).unwrap_or(0);
                if ready.send((Unit { rows, bytes, pieces }, permit)).await.is_err() {
                    return Ok(()); // stitching failed
                }
            }
        }
    }

    /// An input, what its footer says, and where its leaves are.
    async fn open(self, input: &'a DataEntry) -> Result<(ParquetFile<'a>, ParquetMetaData, Vec<usize>), Stop> {
        let file = ParquetFile::open(self.pass.reading.storage, &input.location, input.bytes).await;
        let file = unfit_unless_away(file)?;
        if file.rows() != input.rows {
            return no(format!("{} has other rows than its manifest says", input.location));
        }
        let leaves = self.leaves(file.footer());
        let leaves = leaves.ok_or_else(|| Stop::Unfit(format!("{} has other columns", input.location)))?;
        let footer = unfit_unless_away(file.indexed().await)?;
        Ok((file, footer, leaves))
    }

    /// Where in a file the columns of new files are, all of the same type; `None` when it has them otherwise.
    fn leaves(&self, footer: &ParquetMetaData) -> Option<Vec<usize>> {
        let held = footer.file_metadata().schema_descr();
        let id = |column: &ColumnDescriptor| {
            let basic = column.self_type();
            basic.get_basic_info().has_id().then(|| basic.get_basic_info().id())
        };
        let place = |wanted: &ColumnDescriptor| {
            let own = id(wanted)?;
            let mut places = (0..held.num_columns()).filter(|at| id(&held.column(*at)) == Some(own));
            let at = places.next().filter(|at| same(&held.column(*at), wanted))?;
            places.next().is_none().then_some(at)
        };
        self.shape.parquet.columns().iter().map(|column| place(column)).collect()
    }

    /// That a row group can be copied, as far as its footer says; answers its bytes.
    fn check(&self, footer: &ParquetMetaData, at: usize, leaves: &[usize]) -> Result<u64, Stop> {
        let group = footer.row_group(at);
        let mut bytes = 0_u64;
        for (column, leaf) in self.columns.iter().zip(leaves) {
            let chunk = group.column(*leaf);
            let codec = std::mem::discriminant(&chunk.compression()) == std::mem::discriminant(&column.compression);
            let start = chunk.dictionary_page_offset().unwrap_or(0).min(chunk.data_page_offset());
            let sane = start >= 0 && chunk.compressed_size() >= 0 && chunk.file_path().is_none();
            if !codec || !sane || chunk.num_values() != group.num_rows() || group.num_rows() < 0 {
                return no(format!("column {} has another codec, or is no flat column", chunk.column_path()));
            }
            bytes = bytes.saturating_add(u64::try_from(chunk.compressed_size()).unwrap_or(0));
        }
        let most = (self.shape.layout.properties.row_group_bytes as u64).saturating_mul(3) / 2;
        if bytes > most.min(self.bytes_max) {
            return no(format!("a row group of {bytes} bytes is larger than those of new files"));
        }
        Ok(bytes)
    }

    fn pieces(
        &self,
        footer: &ParquetMetaData,
        at: usize,
        leaves: &[usize],
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Piece>, Stop> {
        let group = footer.row_group(at);
        let index = |leaf: usize| -> Option<ColumnIndexMetaData> { footer.column_index()?.get(at)?.get(leaf).cloned() };
        let piece = |((column, leaf), bytes): ((&Column, &usize), Bytes)| {
            let chunk: &ColumnChunkMetaData = group.column(*leaf);
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            let (extent, nulls) = Extent::of_chunk(column.order, chunk.statistics(), rows);
            if nulls.is_some_and(|nulls| nulls > rows) {
                return no(format!("column {} has more nulls than rows", chunk.column_path()));
            }
            Ok(Piece { bytes, extent, nulls, index: index(*leaf) })
        };
        self.columns.iter().zip(leaves).zip(chunks).map(piece).collect()
    }
}

/// What cannot be read is for decoding to say; a store that is away stays so.
fn unfit_unless_away<T>(read: Result<T>) -> Result<T, Stop> {
    use crate::error::ErrorKind::{Corrupt, Unsupported};
    read.map_err(|error| match error.kind() {
        Corrupt | Unsupported => Stop::Unfit(error.to_string()),
        _ => Stop::Failed(error),
    })
}

/// Whether two columns have the same values in the same form.
fn same(held: &ColumnDescriptor, wanted: &ColumnDescriptor) -> bool {
    let length = |column: &ColumnDescriptor| {
        (column.physical_type() == Physical::FIXED_LEN_BYTE_ARRAY).then(|| column.type_length())
    };
    held.physical_type() == wanted.physical_type()
        && length(held) == length(wanted)
        && held.max_def_level() == wanted.max_def_level()
        && held.max_rep_level() == 0
        && held.path().parts().len() == 1
        && meaning(held) == meaning(wanted)
}

/// What the values of a column are; as the format says it now, or as it said it once.
#[derive(Debug, PartialEq)]
enum Meaning {
    Plain,
    Logical(LogicalType),
    Converted(ConvertedType, i32, i32),
}

fn meaning(column: &ColumnDescriptor) -> Meaning {
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Integer { bit_width: 32 | 64, is_signed: true }), _)
        | (None, ConvertedType::NONE | ConvertedType::INT_32 | ConvertedType::INT_64) => Meaning::Plain,
        (Some(logical), _) => Meaning::Logical(logical.clone()),
        (None, ConvertedType::UTF8) => Meaning::Logical(LogicalType::String),
        (None, ConvertedType::DATE) => Meaning::Logical(LogicalType::Date),
        (None, ConvertedType::DECIMAL) => {
            Meaning::Logical(LogicalType::Decimal { scale: column.type_scale(), precision: column.type_precision() })
        }
        (None, other) => Meaning::Converted(other, column.type_precision(), column.type_scale()),
    }
}

/// Stitches the chunks of each column, on so many threads, the largest first, so that none is alone with it at the end.
async fn side_by_side(
    env: &Env,
    concurrency: usize,
    columns: &Arc<Vec<Column>>,
    group: Vec<Unit>,
) -> Result<Vec<Stitched>, Stop> {
    let mut jobs: Vec<(usize, Vec<Piece>)> = (0..columns.len()).map(|at| (at, Vec::new())).collect();
    for unit in group {
        jobs.iter_mut().zip(unit.pieces).for_each(|((_, pieces), piece)| pieces.push(piece));
    }
    jobs.sort_by_key(|(_, pieces)| pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>());
    let threads = concurrency.clamp(1, jobs.len().max(1));
    let jobs = Arc::new(Mutex::new(jobs));
    let threads = (0..threads).map(|_| {
        let (jobs, columns) = (Arc::clone(&jobs), Arc::clone(columns));
        env.offload(move || {
            let mut done = Vec::new();
            loop {
                let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((at, pieces)) = next else { return Ok(done) };
                done.push((at, stitch(&columns[at], pieces)?));
            }
        })
    });
    let mut done = Vec::new();
    for own in future::join_all(threads).await {
        let own: Result<Vec<(usize, Stitched)>, Unfit> = own?;
        done.extend(own?);
    }
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, stitched)| stitched).collect())
}

#[cfg(test)]
mod tests;
