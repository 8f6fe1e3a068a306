//! Equality deletes: rows whose values in some columns equal those of a delete of a later sequence number. NULL equals NULL.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema as ArrowSchema;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::partition::{column_at, column_path};

/// What a key costs beside its bytes.
const KEY_OVERHEAD: u64 = 64;

/// The deletes over one set of columns.
#[derive(Debug)]
pub(crate) struct KeySet {
    ids: Vec<i32>,
    paths: Vec<Vec<usize>>,
    converter: RowConverter,
    /// The highest sequence number at which a key was deleted.
    keys: HashMap<Box<[u8]>, i64>,
    /// The highest of these.
    newest: i64,
    bytes: u64,
}

impl KeySet {
    /// No deletes yet over the columns `ids` of `schema`.
    ///
    /// # Errors
    /// `Unsupported` with the column when there is none of an id, or it cannot be compared.
    pub(crate) fn new(ids: &[i32], schema: &ArrowSchema) -> Result<Self> {
        let unknown = |id: &i32| {
            Error::new(
                ErrorKind::Unsupported,
                format!("equality deletes by field {id}, which is no column of the table"),
            )
            .with_hint("the column was dropped, or lies in a list or map: such deletes are not applied")
        };
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "equality deletes that name no column"));
        }
        let mut paths = Vec::new();
        let mut fields = Vec::new();
        for id in ids {
            let path = column_path(schema, *id).ok_or_else(|| unknown(id))?;
            let empty = RecordBatch::new_empty(std::sync::Arc::new(schema.clone()));
            fields.push(SortField::new(column_at(&empty, &path)?.data_type().clone()));
            paths.push(path);
        }
        let converter = RowConverter::new(fields)
            .context(ErrorKind::Unsupported, || format!("equality deletes by fields {ids:?}"))?;
        Ok(Self { ids: ids.to_vec(), paths, converter, keys: HashMap::new(), newest: i64::MIN, bytes: 0 })
    }

    /// The columns.
    pub(crate) fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The highest sequence number of its deletes: files from then on have none of their rows deleted.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Forgets the deletes.
    pub(crate) fn clear(&mut self) {
        (self.keys, self.newest, self.bytes) = (HashMap::new(), i64::MIN, 0);
    }

    /// Takes the deletes of `batch`, all of sequence number `seq`, in the table's columns.
    pub(crate) fn add(&mut self, batch: &RecordBatch, seq: i64) -> Result<()> {
        let rows = self.rows(batch)?;
        self.newest = self.newest.max(seq);
        for row in &rows {
            let key: Box<[u8]> = row.as_ref().into();
            let size = key.len() as u64 + KEY_OVERHEAD;
            let held = self.keys.entry(key).or_insert_with(|| {
                self.bytes += size;
                seq
            });
            *held = seq.max(*held);
        }
        Ok(())
    }

    /// Marks the rows of `batch`, from a file of sequence number `seq`, that are deleted.
    pub(crate) fn mark(&self, batch: &RecordBatch, seq: i64, deleted: &mut [bool]) -> Result<()> {
        if self.newest <= seq {
            return Ok(());
        }
        let rows = self.rows(batch)?;
        for (row, mark) in rows.iter().zip(deleted) {
            *mark |= self.keys.get(row.as_ref()).is_some_and(|at| *at > seq);
        }
        Ok(())
    }

    fn rows(&self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        let columns = self.paths.iter().map(|path| column_at(batch, path)).collect::<Result<Vec<ArrayRef>>>()?;
        self.converter.convert_columns(&columns).context(ErrorKind::Internal, || "keys of equality deletes")
    }
}
