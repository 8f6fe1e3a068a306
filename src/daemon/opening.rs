//! Where a pipeline begins: the checkpoint it starts from, and the tables that it opens on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::PipelineHealth;
use crate::commit::checkpoint::{Chain, Taken, record_key, set_back};
use crate::commit::protocol::Ending;
use crate::commit::records;
use crate::commit::standing::{Standing, newest};
use crate::daemon::lane::{self, Lane};
use crate::daemon::pipeline::{Pipeline, REJECTS_SUFFIX};
use crate::daemon::table::TableHandle;
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::change::{Change, Data, OnRollback, OperatorEdit, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Positions, Record, cover};
use crate::model::ids::{PartitionId, TableName};
use crate::model::table::TableState;
use crate::storage::anchors::{Anchor, FILE};

/// How long a table may take to open before the pipeline says that it waits.
const PATIENCE: Duration = Duration::from_secs(3);

impl Pipeline {
    /// Where to read from: what the anchor's checkpoint says, once every decided epoch is finished.
    pub(crate) async fn start(&mut self) -> Result<Checkpoint> {
        self.fresh = true;
        self.followers.clear();
        self.known.clear();
        self.begun.clear();
        self.begun_seq = 0;
        let handle = self.shared.table(&self.config.catalog, &self.anchor)?;
        let remembered = self.shared.anchors.known(&self.anchor_key()).await;
        let (state, standing) = match handle.standing(self.asker(remembered.into_iter().collect())).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match remembered {
                    None => self.beginning().await,
                    Some(_) => Err(self.lost_anchor(ErrorKind::NotFound, "is gone")),
                };
            }
            found => found?,
        };
        let uuid = state.metadata.uuid();
        let Standing::At(taken) = standing else {
            return match remembered {
                Some(held) if held != uuid => Err(self.lost_anchor(ErrorKind::Corrupt, "is another table now")),
                _ => self.beginning().await,
            };
        };
        self.shared.anchors.remember(&self.anchor_key(), uuid).await?;
        self.followers = read_uuids(&taken.checkpoint);
        self.known.clone_from(&taken.checkpoint.known);
        self.fresh = is_fresh(&taken);
        self.begun.clone_from(&taken.checkpoint.positions);
        self.begun_seq = taken.seq;
        if let Some(warning) = taken.warning {
            tracing::warn!(pipeline = %self.name, table = %self.anchor, "{warning}");
        }
        let identity = self.source.identity();
        if !taken.checkpoint.source.is_empty() && taken.checkpoint.source != identity {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("pipeline {}: its checkpoint is of source {:?}, this one is {identity:?}", self.name, taken.checkpoint.source),
            )
            .with_hint("point the source back, give the pipeline a new name to start from the beginning, or say with `frazil checkpoint set --source` where to go on in this one"));
        }
        for location in &taken.sealed {
            if let Err(error) = self.finish_sealed(location, &state).await {
                return Err(self.unless_forgotten(location, error).await);
            }
        }
        self.finished = taken.sealed;
        Ok(taken.checkpoint)
    }

    /// Where it begins when it was never here.
    async fn beginning(&mut self) -> Result<Checkpoint> {
        // Asked once: in a later life `latest` would be behind rows that this one has read.
        if self.begins.is_none() {
            self.begins = self.source.begins().await?;
        }
        self.begun = self.begins.clone().unwrap_or_default();
        Ok(Checkpoint { positions: self.begun.clone(), ..Checkpoint::default() })
    }

    /// Where a pipeline begins that does not begin at its source's beginning stands in the anchor before a row is read into
    /// another table: a process that comes after this one would begin elsewhere. An anchor that rows may yet come for, and say the
    /// columns of, is not made without them.
    pub(crate) async fn stand(&mut self, by_table: &BTreeMap<TableName, RawBatch>) -> Result<()> {
        if !self.fresh || self.begins.is_none() || by_table.is_empty() || self.lanes.contains_key(&self.anchor) {
            return Ok(());
        }
        match by_table.get(&self.anchor) {
            Some(rows) => self.open_lane(&self.anchor.clone(), rows).await,
            None if self.config.create.columns.is_empty() && self.route.may_lead(&self.anchor) => Ok(()),
            None => self.open_anchor().await,
        }
    }

    /// Opens the lane of a table, which is created from its first rows when it is missing.
    pub(crate) async fn open_lane(&mut self, table: &TableName, rows: &RawBatch) -> Result<()> {
        if let Some(lane) = self.lanes.get_mut(table) {
            return patiently(&self.shared, &self.watch, &self.hard, table, lane.learn(rows)).await;
        }
        if self.lanes.len() >= self.lanes_max {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("pipeline {} would feed more than {} tables, the next is {table}", self.name, self.lanes_max),
            )
            .with_hint("raise limits.tables, or route by a field with fewer values"));
        }
        let catalog = self.shared.catalog(&self.config.catalog)?;
        let opening = self.creation.open(&self.shared.env, catalog.as_ref(), table, rows);
        patiently(&self.shared, &self.watch, &self.hard, table, opening).await?;
        self.add_lane(table).await?;
        let Some(lane) = self.lanes.get_mut(table) else { return Ok(()) };
        patiently(&self.shared, &self.watch, &self.hard, table, lane.learn(rows)).await
    }

    /// Opens the lane of the rejects table.
    pub(crate) async fn open_rejects(&mut self, table: &TableName) -> Result<()> {
        if self.lanes.contains_key(table) {
            return Ok(());
        }
        let catalog = self.shared.catalog(&self.config.catalog)?;
        let opening = self.creation.open_rejects(&self.shared.env, catalog.as_ref(), table);
        patiently(&self.shared, &self.watch, &self.hard, table, opening).await?;
        self.add_lane(table).await
    }

    /// A lane, once the table knows the pipeline: rows never travel in a snapshot without a parent.
    async fn add_lane(&mut self, table: &TableName) -> Result<()> {
        let handle = self.shared.table(&self.config.catalog, table)?;
        let rejects = *table == self.anchor.with_suffix(REJECTS_SUFFIX);
        let options = if rejects { self.options.of_rejects() } else { self.options.clone() };
        let witnesses = if *table == self.anchor {
            self.shared.anchors.known(&self.anchor_key()).await.into_iter().collect()
        } else {
            self.followers.clone()
        };
        let (mut state, standing) = handle.standing(self.asker(witnesses)).await?;
        self.is_no_other(table, &state)?;
        let mut held = Positions::new();
        match standing {
            Standing::New => {
                let mut delta = self.delta(Delta::default(), Vec::new());
                if *table == self.anchor && self.fresh {
                    delta.witness.positions.clone_from(&self.begun);
                }
                state = self.commit_record(&handle, state, delta).await?;
            }
            Standing::At(taken) if *table != self.anchor => {
                if taken.rewound || self.was_set_back(&state, &taken)? {
                    state = self.rewind(&handle, state, &taken).await?;
                }
                held = self.ahead_of_anchor(table, &taken.checkpoint).await?;
            }
            Standing::At(_) => {}
        }
        if *table == self.anchor {
            self.shared.anchors.remember(&self.anchor_key(), state.metadata.uuid()).await?;
        } else {
            self.knows(&state).await?;
        }
        let mut lane = Lane::new(self.shared.clone(), options, handle, state)?;
        lane.held = held;
        self.lanes.insert(table.clone(), lane);
        Ok(())
    }

    /// Of two names that the catalog takes for one table the second would count as finished with the first.
    fn is_no_other(&self, table: &TableName, state: &TableState) -> Result<()> {
        let uuid = state.metadata.uuid();
        let same = |(name, lane): &(&TableName, &Lane)| *name != table && lane.state.metadata.uuid() == uuid;
        match self.lanes.iter().find(same) {
            None => Ok(()),
            Some((other, _)) => Err(Error::new(
                ErrorKind::Config,
                format!("pipeline {}: {other} and {table} are one table to the catalog", self.name),
            )
            .with_hint(
                "spell the names that rows are routed by alike, as in `lower` or `UPPER`, before they come here",
            )),
        }
    }

    /// Whether a table beside the anchor was rolled back and has lost its property, so that its own record does not tell: the
    /// anchor's does.
    fn was_set_back(&self, state: &TableState, taken: &Taken) -> Result<bool> {
        let known = self.known.get(&state.metadata.uuid().to_string()).copied().unwrap_or(0);
        match taken.is_set_back(known, Some(self.begun_seq), state) {
            Some(true) if self.config.on_rollback == OnRollback::Halt => Err(set_back(state)),
            Some(true) if self.config.on_rollback == OnRollback::Keep => {
                tracing::warn!(pipeline = %self.name, table = %state.name, "the table was set back: its rows stay away");
                Ok(false)
            }
            Some(set_back) => Ok(set_back),
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!("table {}: the catalog answers from the past", state.name),
            )),
        }
    }

    /// From here on the anchor knows the record that a table beside it has: that of the snapshots where the property is gone.
    pub(crate) async fn knows(&mut self, state: &TableState) -> Result<()> {
        let record = newest(&self.shared.storage, state, &self.name, &self.config.branch).await?;
        if let Some(record) = record {
            let known = self.known.entry(state.metadata.uuid().to_string()).or_default();
            *known = (*known).max(record.origin.seq);
        }
        Ok(())
    }

    fn anchor_key(&self) -> Anchor {
        Anchor {
            pipeline: self.name.clone(),
            catalog: self.config.catalog.clone(),
            table: self.anchor.clone(),
            target: self.config.branch.clone(),
        }
    }

    /// Never from zero by itself where it has been before.
    fn lost_anchor(&self, kind: ErrorKind, what: &str) -> Error {
        let text = format!(
            "pipeline {}: table {}, its anchor, which it has written to before, {what}",
            self.name, self.anchor
        );
        Error::new(kind, text).with_hint(format!(
            "bring the table back, or set the positions in the new one with `frazil checkpoint set`; to begin at the beginning \
             give the pipeline a new name, or remove {FILE} from state_dir"
        ))
    }

    /// Commits a record without rows.
    async fn commit_record(
        &mut self,
        handle: &TableHandle,
        state: TableState,
        delta: PipelineDelta,
    ) -> Result<TableState> {
        let mut change = Change::new(self.shared.env.snapshot_id());
        change.target.clone_from(&self.config.branch);
        change.data = Some(Data::Append(lane::append(&state, None)));
        change.delta = Some(delta);
        let (commit, ending) = self.drive(handle, change, state, None).await?;
        let ours = matches!(ending, Ending::Done { ours: true, .. });
        if ours {
            self.settle(&commit.owners(handle.name())).await;
        } else {
            handle.leave(commit.into_leftover(handle.name())).await;
        }
        let Ending::Done { state, .. } = ending else {
            let text = format!("table {}: a record without rows met another instance", handle.name());
            return Err(Error::new(ErrorKind::Fenced, text));
        };
        Ok(*state)
    }

    /// A table beside the anchor was rolled back as well. Its rows are read again where the source is: only if none of those
    /// that it lost lies below is nothing lost. Then its record says so from now on.
    async fn rewind(&mut self, handle: &TableHandle, state: TableState, own: &Taken) -> Result<TableState> {
        if !self.is_read_again(&state, own).await? {
            let text = format!(
                "table {}: the branch was rolled back below the checkpoint of anchor {}, where pipeline {} reads, or so far \
                 back that it cannot be told",
                handle.name(),
                self.anchor,
                self.name
            );
            return Err(Error::new(ErrorKind::Corrupt, text).with_hint(
                "roll the anchor back as far, or say with `frazil checkpoint set` for this table that its rows stay away",
            ));
        }
        let key = record_key(&self.name, &self.config.branch);
        let mut delta = self.delta(Delta::default(), Vec::new());
        delta.witness.clone_from(&own.checkpoint);
        let edit = OperatorEdit::of(&state, &key, &self.config.branch);
        delta.operator = Some(OperatorEdit { under: Some(self.begun_seq), ..edit });
        self.commit_record(handle, state, delta).await
    }

    /// Whether all that a rollback took from a table beside the anchor lies above where the source is read. After a rewind of the
    /// anchor epochs were cut anew, so an epoch that does not end below may still begin there: its record says.
    async fn is_read_again(&mut self, state: &TableState, own: &Taken) -> Result<bool> {
        if cover(&own.checkpoint.positions, &self.begun) {
            return Ok(true);
        }
        if !own.rewound {
            return Ok(false); // Nothing says any more what it had.
        }
        let (target, storage) = (&self.config.branch, self.shared.storage.vended(&state.config)?);
        let (key, chain) = (record_key(&self.name, target), Chain::of(state, target)?);
        let Some(newest) = records::in_property(state, &key)? else {
            return Ok(false);
        };
        let lost = records::rolled_back(&storage, state, &chain, &newest, &key).await?;
        let above = |own: &Record| match own.lies_above(&self.begun) {
            Some(above) => above,
            None => !cover(&self.begun, &own.checkpoint.positions),
        };
        Ok(lost.is_some_and(|lost| lost.iter().all(above)))
    }

    /// Where a table beside the anchor has rows that the anchor has yet to reach: after the anchor was set back. It gets the
    /// rows above, and none twice.
    async fn ahead_of_anchor(&mut self, table: &TableName, own: &Checkpoint) -> Result<Positions> {
        let ahead = |positions: &Positions| {
            let beyond = |(partition, held): &(&PartitionId, &Position)| {
                !positions.get(*partition).is_some_and(|at| at.covers(held))
            };
            let held = own.positions.iter().filter(beyond);
            held.map(|(partition, held)| (partition.clone(), held.clone())).collect::<Positions>()
        };
        let held = ahead(&self.begun);
        let by_number = held.values().all(|position| matches!(position, Position::Offset(_)));
        if held.is_empty() || (by_number && !self.fresh) {
            return Ok(held);
        }
        let anchor = self.shared.table(&self.config.catalog, &self.anchor)?;
        let now = match anchor.standing(self.asker(BTreeSet::new())).await {
            Ok((_, Standing::At(taken))) => Some(taken),
            Ok((_, Standing::New)) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let knows = now.as_ref().is_some_and(|taken| !is_fresh(taken));
        if (self.fresh && knows) || ahead(&now.map(|taken| taken.checkpoint.positions).unwrap_or_default()).is_empty() {
            // Another instance went on meanwhile: what is read here is fenced.
            return Ok(held);
        }
        let (text, hint) = if self.fresh {
            (
                format!(
                    "table {table} holds rows of pipeline {}, but its anchor {} knows of none",
                    self.name, self.anchor
                ),
                "the anchor was dropped, renamed or replaced: bring it back, or set the positions with `frazil checkpoint set`",
            )
        } else {
            // A file that appeared late may lie below the watermark without being in.
            (
                format!(
                    "table {table} is ahead of its anchor {}, and which files it has cannot be told from their names",
                    self.anchor
                ),
                "roll this table back as far as its anchor, or set the anchor's positions with `frazil checkpoint set`",
            )
        };
        Err(Error::new(ErrorKind::Corrupt, text).with_hint(hint))
    }

    /// The anchor may have had no rows yet.
    pub(crate) async fn open_anchor(&mut self) -> Result<()> {
        let anchor = self.anchor.clone();
        if self.lanes.contains_key(&anchor) {
            return Ok(());
        }
        let catalog = self.shared.catalog(&self.config.catalog)?;
        let opening = self.creation.open_empty(&self.shared.env, catalog.as_ref(), &anchor);
        patiently(&self.shared, &self.watch, &self.hard, &anchor, opening).await?;
        self.add_lane(&anchor).await
    }
}

/// A start record that no table followed and that nobody went back to says as little as none.
fn is_fresh(taken: &Taken) -> bool {
    taken.checkpoint.positions.is_empty() && taken.checkpoint.followers.is_empty() && !taken.rewound
}

/// The tables that an anchor's record names.
fn read_uuids(checkpoint: &Checkpoint) -> BTreeSet<Uuid> {
    checkpoint.followers.iter().filter_map(|text| text.parse().ok()).collect()
}

/// What opens a table waits for a catalog or registry that does not answer: says so, and ends when a shutdown's grace has
/// passed.
async fn patiently<T>(
    shared: &Shared,
    watch: &Watch,
    hard: &CancellationToken,
    table: &TableName,
    opening: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(opening);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            () = hard.cancelled() => {
                return Err(Error::new(ErrorKind::Unavailable, format!("table {table}: stopped while waiting for the catalog or registry")));
            }
            opened = &mut opening => {
                if told {
                    watch.set(PipelineHealth::Running);
                }
                return opened;
            }
            () = shared.env.sleep(PATIENCE), if !told => {
                told = true;
                watch.set(PipelineHealth::Waiting(format!("table {table}: the catalog or registry does not answer")));
            }
        }
    }
}
