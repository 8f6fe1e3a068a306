//! Where a pipeline stands in a loaded table: reads what the decision table needs, and investigates where it asks to.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::MultiGzDecoder;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use iceberg::spec::{SnapshotRef, TableMetadata};

use crate::commit::checkpoint::{Chain, ChainLink, Decision, Findings, Taken, circular, record_key};
use crate::commit::snapshot::parent;
use crate::commit::{manifests, records};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::OnRollback;
use crate::model::checkpoint::Record;
use crate::model::ids::PipelineName;
use crate::model::table::TableState;
use crate::storage::Storage;

/// Metadata files read to close a broken chain.
const LOG_FILES_MAX: usize = 200;
/// The largest metadata document read for that.
const DOCUMENT_MAX: u64 = 1 << 30;

/// How many of them are read at once: a start must not wait for each in turn.
const LOG_FILES_AT_ONCE: usize = 8;

/// Snapshots remembered of old documents.
const LINKS_MAX: usize = 100_000;

/// The snapshots of one metadata document.
type Links = BTreeMap<i64, Old>;

/// A snapshot of an older metadata document.
#[derive(Debug)]
struct Old {
    link: ChainLink,
    parent: Option<i64>,
    /// The keys of the records that it carries.
    records: Box<[String]>,
}

/// What old metadata documents of one table said. They never change, so each is read once by a process.
#[derive(Debug, Default)]
pub struct Ancestry {
    documents: Mutex<BTreeMap<String, Arc<Links>>>,
}

impl Ancestry {
    /// `None` when the document was cleaned up.
    async fn read(&self, storage: &Storage, location: &str) -> Result<Option<Arc<Links>>> {
        let known = self.documents.lock().unwrap_or_else(PoisonError::into_inner).get(location).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let Some(links) = old_snapshots(storage, location).await?.map(Arc::new) else { return Ok(None) };
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if documents.values().map(|links| links.len()).sum::<usize>() >= LINKS_MAX {
            documents.clear();
        }
        documents.insert(location.to_owned(), Arc::clone(&links));
        Ok(Some(links))
    }

    /// The documents of the table's log that are still there, the newest first, each with its location.
    fn newest_first<'a>(
        &'a self,
        storage: &'a Storage,
        state: &'a TableState,
    ) -> impl Stream<Item = Result<(&'a str, Arc<Links>)>> + Unpin + 'a {
        let newest = state.metadata.metadata_log().iter().rev().take(LOG_FILES_MAX);
        let reads: Vec<_> = newest
            .map(|entry| async {
                let known = self.read(storage, &entry.metadata_file).await?;
                Ok(known.map(|known| (entry.metadata_file.as_str(), known)))
            })
            .collect();
        Box::pin(stream::iter(reads).buffered(LOG_FILES_AT_ONCE).try_filter_map(async |known| Ok(known)))
    }
}

/// Who asks, and about what.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The pipeline.
    pub pipeline: &'a PipelineName,
    /// The branch it writes to.
    pub target: &'a str,
    /// What to do when the branch was rolled back.
    pub on_rollback: OnRollback,
    /// What beside a record says that the pipeline wrote here.
    pub witness: Witness,
}

/// What says that a pipeline wrote to a table that has no record of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Something that whoever asks knows of.
    Known,
    /// Files of the pipeline that are live in the branch, which are looked for when there is no record.
    Files,
    /// Nothing: whoever asks has looked before.
    Absent,
}

/// Where a pipeline stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has never written here.
    New,
    /// It goes on from here.
    At(Taken),
}

/// The record that `pipeline` has in the branch `target`: that of the snapshots where the property is gone.
///
/// # Errors
/// `Corrupt` when it cannot be read.
pub async fn newest(
    storage: &Storage,
    state: &TableState,
    pipeline: &PipelineName,
    target: &str,
) -> Result<Option<Record>> {
    let key = record_key(pipeline, target);
    let property = records::in_property(state, &key)?;
    if property.is_some() {
        return Ok(property);
    }
    match carried(storage, state, pipeline, target).await {
        // Expired since.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read,
    }
}

/// The record of `pipeline` that the nearest snapshot of the branch `target` carries.
///
/// # Errors
/// Those of the store, and `Corrupt` for a record that cannot be read.
pub async fn carried(
    storage: &Storage,
    state: &TableState,
    pipeline: &PipelineName,
    target: &str,
) -> Result<Option<Record>> {
    let key = record_key(pipeline, target);
    let chain = Chain::of(state, target)?;
    let mut carried = records::nearest(&storage.vended(&state.config)?, &chain, target, None).await?;
    carried.remove(&key).map(|carried| carried.read(&key)).transpose()
}

/// Decides where a pipeline stands in `state`, by the checkpoint table.
///
/// # Errors
/// `Corrupt` with the way out where the table says halt, and for records that cannot be read.
pub async fn standing(
    storage: &Storage,
    ancestry: &Ancestry,
    state: &TableState,
    question: Question<'_>,
) -> Result<Standing> {
    let key = record_key(question.pipeline, question.target);
    let chain = Chain::of(state, question.target)?;
    let property = records::in_property(state, &key)?;
    let ancestor = records::nearest(storage, &chain, question.target, None).await?.remove(&key);
    let ancestor = ancestor.map(|carried| carried.read(&key)).transpose()?;
    let mut findings = Findings {
        property,
        ancestor,
        witness: question.witness == Witness::Known,
        chain: chain.snapshots.iter().map(ChainLink::from).collect(),
        missing: chain.missing,
        closed: false,
        live_entry: false,
        on_rollback: question.on_rollback,
    };
    loop {
        match findings.decide() {
            Decision::New if question.witness == Witness::Files && !findings.witness => {
                if !has_written(storage, state, question).await? {
                    return Ok(Standing::New);
                }
                findings.witness = true;
            }
            Decision::New => return Ok(Standing::New),
            Decision::Take(taken) => return Ok(Standing::At(taken)),
            Decision::Halt(error) => {
                return Err(error.within(format!("table {}, pipeline {}", state.name, question.pipeline)));
            }
            Decision::Investigate => {
                let expired = findings.missing;
                investigate(storage, ancestry, state, question.target, &mut findings).await?;
                let newest = findings.property.as_ref().map(|p| p.origin.snapshot);
                let is_in = findings.chain.iter().any(|link| Some(link.id) == newest);
                if findings.ancestor.is_none() && !is_in {
                    match older(storage, ancestry, state, (&chain, expired), &key).await? {
                        Older::Found(record) => findings.ancestor = Some(*record),
                        Older::Absent => {}
                        // As if the way to it were not known.
                        Older::Unknown => findings.missing = expired,
                    }
                }
            }
        }
    }
}

/// Row 2: whether a file of the pipeline is live in the snapshot that its first commit would have as parent. One manifest is
/// in memory at a time; asked once in a pipeline's life, of a table that may be large.
async fn has_written(storage: &Storage, state: &TableState, question: Question<'_>) -> Result<bool> {
    let Some(head) = parent(state, question.target) else {
        return Ok(false);
    };
    for manifest in manifests::list(storage, head.manifest_list(), state.metadata.format_version()).await? {
        if manifests::any_live(storage, &manifest, |path| question.pipeline.has_written(path)).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rows 9 and 10: closes the chain from the metadata log, and asks head's manifests for the record's snapshot.
async fn investigate(
    storage: &Storage,
    ancestry: &Ancestry,
    state: &TableState,
    target: &str,
    findings: &mut Findings,
) -> Result<()> {
    findings.closed = true;
    let Some(wanted) = findings.property.as_ref().map(|p| p.origin.clone()) else {
        return Ok(());
    };
    let mut documents = ancestry.newest_first(storage, state);
    while let Some((_, known)) = documents.try_next().await? {
        while let Some(old) = findings.missing.and_then(|id| known.get(&id)) {
            if findings.chain.iter().any(|own| own.id == old.link.id) {
                return Err(circular(state, old.link.id));
            }
            findings.chain.push(old.link);
            findings.missing = old.parent;
        }
        let reached = findings.chain.last().is_none_or(|link| link.seq <= wanted.seq);
        if findings.missing.is_none() || reached {
            break;
        }
    }
    if let Some(head) = state.head(target) {
        let format = state.metadata.format_version();
        for manifest in manifests::list(storage, head.manifest_list(), format).await? {
            let may_hold = manifest.min_sequence_number <= wanted.seq && manifest.sequence_number >= wanted.seq;
            if may_hold
                && manifests::live_entries(storage, &manifest).await?.iter().any(|e| e.snapshot_id == wanted.snapshot)
            {
                findings.live_entry = true;
                break;
            }
        }
    }
    Ok(())
}

/// The record of a pipeline that the branch carries somewhere.
enum Older {
    Found(Box<Record>),
    /// None of what is known of the branch has it.
    Absent,
    /// It stood in a manifest list, or in metadata, that is gone: what comes before it is older than the rows that are there.
    Unknown,
}

/// The record `key` of the nearest snapshot of the branch that has it, also behind one of ours that did not know of it. Of those
/// that have expired, from the id given on, older metadata says.
async fn older(
    storage: &Storage,
    ancestry: &Ancestry,
    state: &TableState,
    (chain, expired): (&Chain, Option<i64>),
    key: &str,
) -> Result<Older> {
    for snapshot in &chain.snapshots {
        if let Some(record) = records::carried(storage, snapshot, key).await? {
            return Ok(Older::Found(Box::new(record)));
        }
    }
    let Some(mut at) = expired else { return Ok(Older::Absent) };
    let mut documents = ancestry.newest_first(storage, state);
    while let Some((location, known)) = documents.try_next().await? {
        // No more steps than there are snapshots, whatever their parents say.
        for _ in 0..known.len() {
            let Some(old) = known.get(&at) else { break };
            if old.records.iter().any(|held| held == key) {
                return expired_record(storage, location, at, key).await;
            }
            let Some(parent) = old.parent else { return Ok(Older::Absent) };
            at = parent;
        }
    }
    Ok(Older::Unknown)
}

/// The record `key` of the snapshot `id`, which has expired, as the document at `location` has it.
async fn expired_record(storage: &Storage, location: &str, id: i64, key: &str) -> Result<Older> {
    let document = old_document(storage, location).await?;
    let Some(snapshot) = document.as_ref().and_then(|document| document.snapshot_by_id(id)) else {
        return Ok(Older::Unknown);
    };
    match records::carried(storage, snapshot, key).await {
        Ok(Some(record)) => Ok(Older::Found(Box::new(record))),
        Ok(None) => Ok(Older::Unknown),
        // A store that may not list says that it denies what is gone.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => Ok(Older::Unknown),
        Err(error) => Err(error),
    }
}

/// The snapshots of an older metadata document; `None` when it was cleaned up.
async fn old_snapshots(storage: &Storage, location: &str) -> Result<Option<Links>> {
    let old = |snapshot: &SnapshotRef| {
        let (link, parent) = (ChainLink::from(snapshot), snapshot.parent_snapshot_id());
        (link.id, Old { link, parent, records: records::keys(snapshot) })
    };
    Ok(old_document(storage, location).await?.map(|metadata| metadata.snapshots().map(old).collect()))
}

/// An older metadata document; `None` when it was cleaned up.
async fn old_document(storage: &Storage, location: &str) -> Result<Option<TableMetadata>> {
    let bytes = match storage.read(location).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let unreadable = || format!("metadata document {location}");
    let mut text = bytes.to_vec();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        text.clear();
        let read = MultiGzDecoder::new(&bytes[..]).take(DOCUMENT_MAX).read_to_end(&mut text);
        read.context(ErrorKind::Corrupt, unreadable)?;
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::new(ErrorKind::Corrupt, unreadable()).with_source(e))
}
