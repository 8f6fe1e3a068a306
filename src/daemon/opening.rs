//! Where a pipeline begins: the checkpoint it starts from, and the tables that it opens on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::PipelineHealth;
use crate::commit::protocol::Ending;
use crate::commit::standing::Standing;
use crate::daemon::lane::Lane;
use crate::daemon::pipeline::{Pipeline, REJECTS_SUFFIX};
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, Delta};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::anchors::{Anchor, FILE};

/// How long a table may take to open before the pipeline says that it waits.
const PATIENCE: Duration = Duration::from_secs(3);

impl Pipeline {
    /// Where to read from: what the anchor's checkpoint says, once every decided epoch is finished.
    pub(crate) async fn start(&mut self) -> Result<Checkpoint> {
        self.fresh = true;
        self.followers.clear();
        let handle = self.shared.table(&self.config.catalog, &self.anchor)?;
        let remembered = self.shared.anchors.known(&self.anchor_key()).await;
        let (state, standing) = match handle.standing(self.asker(remembered.into_iter().collect())).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match remembered {
                    None => Ok(Checkpoint::default()),
                    Some(_) => Err(self.lost_anchor(ErrorKind::NotFound, "is gone")),
                };
            }
            found => found?,
        };
        let uuid = state.metadata.uuid();
        let Standing::At(taken) = standing else {
            return match remembered {
                Some(held) if held != uuid => Err(self.lost_anchor(ErrorKind::Corrupt, "is another table now")),
                _ => Ok(Checkpoint::default()),
            };
        };
        self.shared.anchors.remember(&self.anchor_key(), uuid).await?;
        self.followers = read_uuids(&taken.checkpoint);
        self.fresh = taken.checkpoint.positions.is_empty();
        if let Some(warning) = taken.warning {
            tracing::warn!(pipeline = %self.name, table = %self.anchor, "{warning}");
        }
        let identity = self.source.identity();
        if !taken.checkpoint.source.is_empty() && taken.checkpoint.source != identity {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("pipeline {}: its checkpoint is of source {:?}, this one is {identity:?}", self.name, taken.checkpoint.source),
            )
            .with_hint("point the source back, give the pipeline a new name to start from the beginning, or run `frazil checkpoint set`"));
        }
        for location in &taken.sealed {
            if let Err(error) = self.finish_sealed(location, &state).await {
                // Another instance may have finished and forgotten it meanwhile.
                return Err(match handle.standing(self.asker(BTreeSet::new())).await?.1 {
                    Standing::At(now) if !now.sealed.contains(location) => {
                        Error::new(ErrorKind::Fenced, "another instance finished the sealed epoch").with_source(error)
                    }
                    _ => error,
                });
            }
        }
        self.finished = taken.sealed;
        Ok(taken.checkpoint)
    }

    /// Opens the lane of a table, which is created from its first rows when it is missing.
    pub(crate) async fn open_lane(&mut self, table: &TableName, rows: &RawBatch) -> Result<()> {
        if self.lanes.contains_key(table) {
            return Ok(());
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
        self.add_lane(table).await
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
        if let Standing::At(taken) = &standing {
            self.has_anchor(table, &taken.checkpoint).await?;
        }
        if standing == Standing::New {
            let mut change = Lane::new(self.shared.clone(), options.clone(), handle.clone(), state.clone())?
                .change(self.shared.env.snapshot_id(), None);
            change.target.clone_from(&self.config.branch);
            change.delta = Some(self.delta(Delta::default(), Vec::new()));
            let (commit, ending) = self.drive(&handle, change, state, None).await?;
            let Ending::Done { state: started, .. } = ending else {
                return Err(Error::new(
                    ErrorKind::Fenced,
                    format!("table {table}: the start record met another instance"),
                ));
            };
            self.settle(&commit.owners(table)).await;
            state = *started;
        }
        if *table == self.anchor {
            self.shared.anchors.remember(&self.anchor_key(), state.metadata.uuid()).await?;
        }
        let lane = Lane::new(self.shared.clone(), options, handle, state)?;
        self.lanes.insert(table.clone(), lane);
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

    /// A pipeline that found no checkpoint in its anchor has written nowhere yet, unless the anchor was replaced or renamed.
    async fn has_anchor(&mut self, table: &TableName, held: &Checkpoint) -> Result<()> {
        if !self.fresh || *table == self.anchor || held.positions.is_empty() {
            return Ok(());
        }
        let anchor = self.shared.table(&self.config.catalog, &self.anchor)?;
        let positions = match anchor.standing(self.asker(BTreeSet::new())).await {
            Ok((_, Standing::At(taken))) => taken.checkpoint.positions,
            Ok((_, Standing::New)) => Default::default(),
            Err(error) if error.kind() == ErrorKind::NotFound => Default::default(),
            Err(error) => return Err(error),
        };
        let covered =
            held.positions.iter().all(|(partition, held)| positions.get(partition).is_some_and(|p| p.covers(held)));
        if covered {
            return Ok(()); // another instance began meanwhile
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("table {table} holds rows of pipeline {}, but its anchor {} knows of none", self.name, self.anchor),
        )
        .with_hint("the anchor was dropped, renamed or replaced: bring it back, or set the positions with `frazil checkpoint set`"))
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

/// The tables that an anchor's record names.
fn read_uuids(checkpoint: &Checkpoint) -> BTreeSet<Uuid> {
    checkpoint.followers.iter().filter_map(|text| text.parse().ok()).collect()
}

/// What opens a table waits for a catalog that does not answer: says so, and ends when a shutdown's grace has passed.
async fn patiently(
    shared: &Shared,
    watch: &Watch,
    hard: &CancellationToken,
    table: &TableName,
    opening: impl Future<Output = Result<TableState>>,
) -> Result<TableState> {
    tokio::pin!(opening);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            () = hard.cancelled() => {
                return Err(Error::new(ErrorKind::Unavailable, format!("table {table}: stopped while waiting for the catalog")));
            }
            opened = &mut opening => {
                if told {
                    watch.set(PipelineHealth::Running);
                }
                return opened;
            }
            () = shared.env.sleep(PATIENCE), if !told => {
                told = true;
                watch.set(PipelineHealth::Waiting(format!("table {table}: the catalog does not answer")));
            }
        }
    }
}
