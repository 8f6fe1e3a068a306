//! One table within a pipeline: its schema as the rows need it, its decoder, and the files of the open epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use iceberg::spec::{FormatVersion, Schema, SchemaRef, Transform};

use crate::config::{Epoch, Limits, MetadataColumn, OnChange, PipelineConfig};
use crate::daemon::table::TableHandle;
use crate::daemon::tables::Shared;
use crate::decode::growth::GrowthLimits;
use crate::decode::json::JsonOptions;
use crate::decode::observe::Observed;
use crate::decode::{Decoder, DecoderOptions, Format};
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, Reject, Stage};
use crate::model::change::{Append, Change, Data, Evolve};
use crate::model::checkpoint::{Position, Positions};
use crate::model::ids::{PartitionId, PipelineName};
use crate::model::table::TableState;
use crate::quality::quarantine;
use crate::storage::ledger::LedgerOwner;
use crate::transform::evolve::{self, Evolution};
use crate::transform::metadata_columns::{self, MetadataColumns};
use crate::write::layout::TableLayout;
use crate::write::open_files::OpenFiles;
use crate::write::staged::Staged;
use crate::write::{EpochWriter, Fill, WriterOptions};

/// Age at which credentials that came with a table are asked for again; catalogs give them for a quarter of an hour or more.
const VENDED_MAX_MS: i64 = 5 * 60 * 1000;

/// Rows that take as much in a file as in memory.
const DENSE: u64 = 1000;
/// Epochs of fewer bytes do not say what rows come to in files: these have footers too.
const WEIGHED_MIN: u64 = 1024 * 1024;

/// What a pipeline's lanes have in common.
#[derive(Debug, Clone)]
pub(crate) struct LaneOptions {
    pub(crate) format: Format,
    pub(crate) on_change: OnChange,
    pub(crate) epoch: Epoch,
    pub(crate) growth: GrowthLimits,
    pub(crate) metadata: BTreeMap<String, MetadataColumn>,
    /// Places for open files, over all lanes.
    pub(crate) open_files: OpenFiles,
    /// Bytes of rows that a partition gathers before they are encoded.
    pub(crate) encode_bytes: u64,
    /// Columns of a file encoded at a time.
    pub(crate) column_concurrency: usize,
    pub(crate) target_file_size: Option<u64>,
    /// How names of files begin.
    pub(crate) file_prefix: String,
}

impl LaneOptions {
    pub(crate) fn new(
        name: &PipelineName,
        pipeline: &PipelineConfig,
        format: Format,
        limits: &Limits,
        open_files: OpenFiles,
    ) -> Self {
        Self {
            format,
            on_change: pipeline.schema.on_change,
            epoch: pipeline.decode.epoch,
            growth: GrowthLimits { columns_max: pipeline.schema.columns_max, ..GrowthLimits::default() },
            metadata: pipeline.metadata.clone(),
            open_files,
            encode_bytes: WriterOptions::default().encode_bytes,
            column_concurrency: limits.workers,
            target_file_size: pipeline.commit.target_file_size,
            file_prefix: name.file_mark(),
        }
    }

    /// How staged files are written that are encoded again.
    pub(crate) fn of_rebuilt(&self) -> WriterOptions {
        let (file_prefix, open_files) = (self.file_prefix.clone(), self.open_files.clone());
        WriterOptions { file_prefix, open_files, ..WriterOptions::default() }
    }

    /// Those of the rejects table: its columns are its own, and follow no rows.
    pub(crate) fn of_rejects(&self) -> Self {
        Self { format: Format::Json, on_change: OnChange::Freeze, metadata: BTreeMap::new(), ..self.clone() }
    }
}

/// A table that a pipeline writes to.
#[derive(Debug)]
pub(crate) struct Lane {
    shared: Shared,
    options: LaneOptions,
    pub(crate) handle: TableHandle,
    pub(crate) state: TableState,
    /// The table's columns, with those that the open epoch needs beyond the table's current schema.
    schema: SchemaRef,
    evolve: Option<Evolve>,
    decoder: Arc<Decoder>,
    metadata: MetadataColumns,
    /// Counts decoders: what an older one decoded ahead may have to be decoded again.
    version: u64,
    writer: Option<EpochWriter>,
    /// Bytes that a thousand bytes of rows came to in the files of epochs before.
    density: u64,
    /// When the catalog was last asked for the table.
    loaded_ms: i64,
    /// Where the table was ahead of the anchor when the lane was opened: it has the rows up to there.
    pub(crate) held: Positions,
}

impl Lane {
    pub(crate) fn new(shared: Shared, options: LaneOptions, handle: TableHandle, state: TableState) -> Result<Self> {
        let schema = Arc::clone(state.metadata.current_schema());
        let decoder = Arc::new(decoder(&schema, &state, &options)?);
        let metadata = MetadataColumns::new(&schema, &BTreeMap::new())?;
        let mut lane = Self {
            loaded_ms: shared.env.now_ms(),
            shared,
            options,
            handle,
            state,
            schema,
            evolve: None,
            decoder,
            metadata,
            version: 0,
            writer: None,
            density: DENSE,
            held: Positions::new(),
        };
        lane.add_metadata_columns()?;
        Ok(lane)
    }

    /// A table that was adopted may lack the metadata columns: they are added where the schema may evolve.
    fn add_metadata_columns(&mut self) -> Result<()> {
        if self.options.on_change == OnChange::Evolve {
            let columns = metadata_columns::fields(&self.options.metadata);
            let last = self.state.metadata.last_column_id();
            let evolution = evolve::add_columns(&self.schema, last, &columns, self.options.growth)?;
            if let Some(schema) = evolution.schema {
                return self.need(Arc::new(schema));
            }
        }
        self.set_schema(Arc::clone(&self.schema))
    }

    /// `raw` without the rows that the table has already.
    pub(crate) fn lacks(&self, mut raw: RawBatch) -> RawBatch {
        if let Some(last) = self.last_held(&raw.partition) {
            raw.rows.retain(|row| row.number > last);
        }
        raw
    }

    /// The rejects of a partition that the table, which is that of rejects, does not have.
    pub(crate) fn lacks_rejects(&self, mut rejects: Vec<Reject>, partition: &PartitionId) -> Vec<Reject> {
        if let Some(last) = self.last_held(partition) {
            rejects.retain(|reject| reject.number > last);
        }
        rejects
    }

    /// The number of the last row of a partition that the table has ahead of the anchor.
    fn last_held(&self, partition: &PartitionId) -> Option<u64> {
        match self.held.get(partition) {
            Some(Position::Offset(last)) => u64::try_from(*last).ok(),
            Some(Position::Files(_)) | None => None,
        }
    }

    /// The decoder for rows that come now, and its number.
    pub(crate) fn decoder(&self) -> (Arc<Decoder>, u64) {
        (Arc::clone(&self.decoder), self.version)
    }

    /// Gets to know what rows must be decoded with, before any decoder sees them.
    pub(crate) async fn learn(&mut self, raw: &RawBatch) -> Result<()> {
        if let Some(format) = self.options.format.renewed() {
            // Batches that are decoded ahead hold on to what the old decoder knows.
            self.options.format = format;
            self.decoder = Arc::new(decoder(&self.schema, &self.state, &self.options)?);
        }
        self.options.format.learn(raw).await
    }

    /// Rows in the open epoch.
    pub(crate) fn rows(&self) -> u64 {
        self.writer.as_ref().map_or(0, EpochWriter::rows)
    }

    /// Bytes of files in the open epoch.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, EpochWriter::bytes)
    }

    /// How far the files of the open epoch are.
    pub(crate) fn fill(&self) -> Fill {
        self.writer.as_ref().map(EpochWriter::fill).unwrap_or_default()
    }

    /// Whether a batch changes the schema in a way that the open epoch's files do not survive: seal before any row of it is
    /// written, for a batch is in one epoch whole.
    pub(crate) async fn seals_first(&mut self, raw: &Arc<RawBatch>, observed: &Observed, version: u64) -> Result<bool> {
        if self.options.on_change != OnChange::Evolve || self.rows() == 0 || !self.has_typed_partitions() {
            return Ok(false);
        }
        let again;
        let observed = if version == self.version {
            observed
        } else {
            again = self.decode(raw, self.options.on_change).await?.1;
            &again
        };
        if observed.is_settled() {
            return Ok(false);
        }
        Ok(self.evolution(observed)?.schema.is_some_and(|schema| self.moves_partitions(&schema)))
    }

    /// Takes a batch that was decoded by decoder number `version`, evolving the schema where the rows need it; answers the
    /// rows that the table does not take.
    pub(crate) async fn take(
        &mut self,
        raw: &Arc<RawBatch>,
        decoded: (Batch, Observed),
        version: u64,
        owner: &LedgerOwner,
    ) -> Result<Vec<Reject>> {
        self.refresh().await?;
        let (mut batch, mut observed) = decoded;
        if version != self.version {
            (batch, observed) = self.decode(raw, self.options.on_change).await?;
        }
        if self.options.on_change == OnChange::Evolve && !observed.is_settled() {
            let mut evolution = self.evolution(&observed)?;
            if let Some(schema) = evolution.schema.take().map(Arc::new) {
                self.evolve_to(schema, &evolution).await?;
                (batch, observed) = self.decode(raw, self.options.on_change).await?;
            }
            if !observed.is_settled() {
                // The schema may not follow these rows: those that need it are rejects, the others go in.
                (batch, _) = self.decode(raw, OnChange::Quarantine).await?;
            }
        }
        self.write(raw, batch, owner).await
    }

    async fn write(&mut self, raw: &RawBatch, batch: Batch, owner: &LedgerOwner) -> Result<Vec<Reject>> {
        let Batch { rows, source_rows, mut rejects } = self.metadata.add(batch, raw, self.shared.env.now_ms())?;
        if rows.num_rows() == 0 {
            return Ok(rejects);
        }
        for refused in self.writer(owner)?.write(rows).await? {
            let source = source_rows.get(refused.row).and_then(|index| raw.rows.get(*index as usize));
            if let Some(row) = source {
                rejects.push(raw.reject(*row, Stage::Write, refused.field, refused.reason));
            }
        }
        Ok(rejects)
    }

    async fn decode(&mut self, raw: &Arc<RawBatch>, on_change: OnChange) -> Result<(Batch, Observed)> {
        self.learn(raw).await?;
        let (decoder, raw) = (Arc::clone(&self.decoder), Arc::clone(raw));
        self.shared.env.offload(move || decoder.decode_as(&raw, on_change)).await
    }

    /// Credentials that came with the table run out: before an epoch begins, they are asked for again.
    async fn refresh(&mut self) -> Result<()> {
        let now = self.shared.env.now_ms();
        let old = now.saturating_sub(self.loaded_ms) > VENDED_MAX_MS && !self.state.config.is_empty();
        if old && self.writer.is_none() {
            let state = self.handle.load().await?;
            self.loaded_ms = now;
            self.committed(state)?;
        }
        Ok(())
    }

    fn evolution(&self, observed: &Observed) -> Result<Evolution> {
        let last = self.state.metadata.last_column_id().max(self.schema.highest_field_id());
        evolve::evolve(&self.schema, last, observed, self.options.growth)
    }

    fn has_typed_partitions(&self) -> bool {
        self.state.metadata.default_partition_spec().fields().iter().any(|field| is_typed(&field.transform))
    }

    /// Partition values of files that are there already keep their type only while their source columns do.
    fn moves_partitions(&self, schema: &Schema) -> bool {
        let fields = self.state.metadata.default_partition_spec().fields();
        let kind = |schema: &Schema, id: i32| schema.field_by_id(id).map(|f| f.field_type.clone());
        fields
            .iter()
            .filter(|field| is_typed(&field.transform))
            .any(|field| kind(&self.schema, field.source_id) != kind(schema, field.source_id))
    }

    async fn evolve_to(&mut self, schema: SchemaRef, how: &Evolution) -> Result<()> {
        let table = self.handle.name();
        tracing::info!(%table, added = ?how.added, widened = ?how.widened, relaxed = ?how.relaxed, "the schema evolves");
        for left in &how.left_out {
            tracing::warn!(%table, "the schema does not follow: {left:?}");
        }
        self.need(schema)?;
        if let Some(mut writer) = self.writer.take() {
            writer.evolve(self.layout()?).await?;
            self.writer = Some(writer);
        }
        Ok(())
    }

    /// The table is to have this schema by the epoch's commit.
    fn need(&mut self, schema: SchemaRef) -> Result<()> {
        let base = &self.state.metadata;
        self.evolve = Some(Evolve {
            base_last_column_id: base.last_column_id(),
            base_schema_id: base.current_schema_id(),
            schema: Arc::clone(&schema),
        });
        self.set_schema(schema)
    }

    fn set_schema(&mut self, schema: SchemaRef) -> Result<()> {
        self.decoder = Arc::new(decoder(&schema, &self.state, &self.options)?);
        self.metadata = MetadataColumns::new(&schema, &self.options.metadata)?;
        self.schema = schema;
        self.version += 1;
        Ok(())
    }

    fn layout(&self) -> Result<TableLayout> {
        TableLayout::of_new_rows(&self.state, &self.schema, self.options.target_file_size)
    }

    fn writer_options(&self) -> WriterOptions {
        WriterOptions {
            file_prefix: self.options.file_prefix.clone(),
            open_files: self.options.open_files.clone(),
            encode_bytes: self.options.encode_bytes,
            column_concurrency: self.options.column_concurrency,
            gather_bytes_max: self.shared.budget.limit() / 4,
            // Never reached while the budget seals first.
            held_bytes_max: self.shared.budget.limit(),
            sort_bytes_max: (self.shared.budget.limit() / 4).min(128 * 1024 * 1024),
            density: self.density,
            ..WriterOptions::default()
        }
    }

    /// Writes rejects, in the rejects table's lane.
    pub(crate) async fn take_rejects(
        &mut self,
        rejects: &[Reject],
        partition: &PartitionId,
        owner: &LedgerOwner,
    ) -> Result<()> {
        let rows = quarantine::to_batch(rejects, partition, self.shared.env.now_ms())?;
        self.refresh().await?;
        let refused = self.writer(owner)?.write(rows).await?;
        match refused.first() {
            None => Ok(()),
            Some(row) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the rejects table {} does not take a reject: {} {}",
                    self.handle.name(),
                    row.field,
                    row.reason
                ),
            )
            .with_hint("undo the change of its columns, or name another table by another pipeline name")),
        }
    }

    fn writer(&mut self, owner: &LedgerOwner) -> Result<&mut EpochWriter> {
        if self.writer.is_none() {
            let owner = LedgerOwner { table: self.handle.name().clone(), snapshot_id: owner.snapshot_id };
            let files = self.shared.files(&self.state, owner)?;
            let options = self.writer_options();
            let writer =
                EpochWriter::new(self.layout()?, files, &self.shared.budget, self.shared.env.clone(), options)?;
            self.writer = Some(writer);
        }
        self.writer.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "a lane has no writer"))
    }

    /// The pending schema evolution.
    pub(crate) fn evolve(&self) -> Option<&Evolve> {
        self.evolve.as_ref()
    }

    /// Completes the epoch's files.
    pub(crate) async fn seal(&mut self) -> Result<Option<Staged>> {
        match self.writer.take() {
            Some(writer) => {
                let weight = writer.weight();
                let staged = writer.finish().await?;
                if weight >= WEIGHED_MIN {
                    self.density = (staged.bytes.saturating_mul(DENSE) / weight).clamp(1, DENSE);
                }
                Ok(Some(staged))
            }
            None => Ok(None),
        }
    }

    /// Drops the open epoch and removes its files: none of them was part of a commit yet. Says whether they are gone.
    pub(crate) async fn discard(&mut self) {
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.discard().await
        {
            tracing::warn!(table = %self.handle.name(), "files of a dropped epoch stay for the next start or the orphan sweep: {error}");
        }
    }

    /// The change that commits `staged`, without a delta.
    pub(crate) fn change(&self, snapshot_id: i64, staged: Option<Staged>) -> Change {
        let mut change = Change::new(snapshot_id);
        change.evolve = self.evolve.clone().filter(|_| staged.is_some());
        change.data = Some(Data::Append(append(&self.state, staged)));
        change
    }

    /// Takes over the table as a commit left it.
    pub(crate) fn committed(&mut self, state: TableState) -> Result<()> {
        let current = Arc::clone(state.metadata.current_schema());
        self.state = state;
        self.evolve = None;
        if current.as_struct() == self.schema.as_struct() {
            self.schema = current;
            return Ok(());
        }
        // Another writer changed it, or dropped what we had added and wrote nothing for.
        self.schema = current;
        self.add_metadata_columns()
    }
}

/// Whether partition values have the type of their source column.
fn is_typed(transform: &Transform) -> bool {
    matches!(transform, Transform::Identity | Transform::Truncate(_))
}

/// The append of `staged`; of nothing where there is none.
pub(crate) fn append(state: &TableState, staged: Option<Staged>) -> Append {
    match staged {
        Some(staged) => Append { files: staged.files, spec_id: staged.spec.spec_id(), schema: staged.schema },
        None => Append {
            files: Vec::new(),
            schema: Arc::clone(state.metadata.current_schema()),
            spec_id: state.metadata.default_partition_spec_id(),
        },
    }
}

fn decoder(schema: &SchemaRef, state: &TableState, options: &LaneOptions) -> Result<Decoder> {
    let json = JsonOptions { on_change: options.on_change, epoch: options.epoch, metadata: options.metadata.clone() };
    let nanos = state.metadata.format_version() >= FormatVersion::V3;
    Decoder::new(schema, &options.format, DecoderOptions { json, nanos })
}
