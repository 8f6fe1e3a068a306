//! What a replace does to the manifests of one head: which entries go, and whether it may at all.
//!
//! Every input must be live, and what the rewrite left out must still be deleted: else the work is void, which is a
//! [`ErrorKind::Conflict`] here. Deletes by position that arrived on an input are put onto the outputs (see `remap`). Deletes
//! that reach nothing once the inputs are gone go with them; which ones is computed on each head anew.
//!
//! Source: docs/protocol.md, "Replace"; Iceberg spec, "Scan Planning".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, DataFile, ManifestContentType, ManifestFile, PartitionSpec, SchemaRef, Struct};

use crate::commit::look::Effect;
use crate::commit::manifests::{self, ENTRIES_MAX, LiveEntry, ManifestScribe, Merge};
use crate::commit::remap::{self, Arrivals, Reading};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::{DeleteFile, Replace};
use crate::model::remap::Places;
use crate::storage::Storage;

/// Manifests read at a time.
const PARALLEL: usize = 8;

/// What was learned and written for one replace, kept over its attempts.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Data manifests without an input: they never change.
    without: BTreeSet<String>,
    /// Filtered manifests by what goes of their sources.
    filtered: Vec<(BTreeSet<DeleteFile>, Merge)>,
    /// Deletes that were put onto outputs.
    pub(crate) remap: remap::Memory,
}

/// A head's manifests without the entries that go, and with those of deletes that were put onto outputs.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) manifests: Vec<ManifestFile>,
    /// Deletes of rows of the outputs.
    pub(crate) deletes: Vec<DataFile>,
    /// The entries that go, each with the id of its spec.
    pub(crate) removed: Vec<(DataFile, i32)>,
}

/// A manifest with entries that go.
struct Source {
    manifest: ManifestFile,
    schema_id: i32,
    live: usize,
    goes: BTreeSet<DeleteFile>,
}

/// A partition under a spec: deletes reach no further, but for equality deletes of a spec without fields.
pub type Scope = (i32, Struct);

/// Which deletes concern a set of data files.
#[derive(Debug, Default)]
pub struct Reach {
    /// Where the files lie, and the lowest data sequence number that one has there.
    scopes: HashMap<Scope, i64>,
}

impl Reach {
    /// Adds a data file.
    pub fn add(&mut self, scope: Scope, seq: i64) {
        let lowest = self.scopes.entry(scope).or_insert(seq);
        *lowest = seq.min(*lowest);
    }

    /// Whether a live delete file may delete rows of one of the files, whose locations `holds` knows. `global`: its spec has no
    /// fields.
    pub fn meets(
        &self,
        deletes: &DataFile,
        seq: i64,
        scope: &Scope,
        global: bool,
        holds: impl Fn(&str) -> bool,
    ) -> bool {
        match (deletes.content_type(), deletes.referenced_data_file()) {
            (DataContentType::PositionDeletes, Some(target)) => holds(&target),
            (DataContentType::PositionDeletes, None) => self.scopes.get(scope).is_some_and(|low| *low <= seq),
            (DataContentType::EqualityDeletes, _) if global => self.scopes.values().any(|low| *low < seq),
            (DataContentType::EqualityDeletes, _) => self.scopes.get(scope).is_some_and(|low| *low < seq),
            (DataContentType::Data, _) => false,
        }
    }
}

/// A live delete file.
struct Deletes {
    entry: LiveEntry,
    scope: Scope,
    global: bool,
    /// Which manifest names it.
    manifest: usize,
}

/// One replace looked at on one head.
struct Examination<'a> {
    storage: &'a Storage,
    replace: &'a Replace,
    head: &'a [ManifestFile],
    sources: Vec<Source>,
    removed: Vec<(DataFile, i32)>,
    reach: Reach,
    /// Where each input lies, and its data sequence number.
    inputs: BTreeMap<String, (Scope, i64)>,
    /// What became of the deletes that arrived on inputs.
    arrived: Places,
}

/// Why a replace can no longer be.
pub(super) fn void(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Conflict, format!("the rewrite is void: {what}"))
}

/// The manifests of `head` once `replace` is in. Its files have these columns and this spec.
///
/// # Errors
/// `Conflict` with the reason when the replace is void on this head; whatever the store says.
pub(crate) async fn exchange(
    scribe: &ManifestScribe<'_>,
    replace: &Replace,
    head: Vec<ManifestFile>,
    layout: (&SchemaRef, &PartitionSpec),
    memory: &mut Memory,
    objects: &mut Vec<String>,
) -> Result<Exchange> {
    let mut examination = Examination {
        storage: scribe.storage,
        replace,
        head: &head,
        sources: Vec::new(),
        removed: Vec::new(),
        reach: Reach::default(),
        inputs: BTreeMap::new(),
        arrived: Places::new(),
    };
    examination.find_inputs(memory).await?;
    examination.find_deletes(scribe.env, &mut memory.remap).await?;
    let Examination { sources, removed, arrived, .. } = examination;
    let gone: BTreeSet<&str> = sources.iter().map(|source| source.manifest.manifest_path.as_str()).collect();
    let mut kept: Vec<ManifestFile> =
        head.iter().filter(|manifest| !gone.contains(manifest.manifest_path.as_str())).cloned().collect();
    let (mut manifests, mut deletes) = (Vec::new(), Vec::new());
    if let Some(carried) = memory.remap.write(scribe, replace, arrived, layout, objects).await? {
        manifests.push(carried.manifest);
        deletes = carried.files;
    }
    for group in grouped(&sources) {
        manifests.extend(filter(scribe, &group, memory, objects).await?);
    }
    manifests.append(&mut kept);
    Ok(Exchange { manifests, deletes, removed })
}

/// Sources that one manifest may take the place of: same content, spec and schema, and either all of their entries have row
/// ids or none: an id that is yet to be given must not be taken for one that was.
fn grouped(sources: &[Source]) -> Vec<Vec<&Source>> {
    let mut groups: BTreeMap<_, Vec<Vec<&Source>>> = BTreeMap::new();
    for source in sources {
        let manifest = &source.manifest;
        let content = manifest.content == ManifestContentType::Deletes;
        let key = (content, manifest.partition_spec_id, source.schema_id, manifest.first_row_id.is_none());
        let chunks = groups.entry(key).or_default();
        match chunks.last_mut().filter(|chunk| chunk.iter().map(|s| s.live).sum::<usize>() + source.live <= ENTRIES_MAX)
        {
            Some(chunk) => chunk.push(source),
            None => chunks.push(vec![source]),
        }
    }
    groups.into_values().flatten().collect()
}

async fn filter(
    scribe: &ManifestScribe<'_>,
    group: &[&Source],
    memory: &mut Memory,
    objects: &mut Vec<String>,
) -> Result<Vec<ManifestFile>> {
    let sources: BTreeSet<String> = group.iter().map(|source| source.manifest.manifest_path.clone()).collect();
    let goes: BTreeSet<DeleteFile> = group.iter().flat_map(|source| &source.goes).cloned().collect();
    let known = memory.filtered.iter().find(|(held, merge)| *held == goes && merge.sources == sources);
    if let Some((_, merge)) = known {
        return Ok(merge.results.clone());
    }
    let manifests: Vec<ManifestFile> = group.iter().map(|source| source.manifest.clone()).collect();
    let result = scribe.filtered(&manifests, |file| goes.contains(&DeleteFile::of(file))).await?;
    objects.push(result.manifest_path.clone());
    let results = vec![result];
    memory.filtered.push((goes, Merge { sources, results: results.clone() }));
    Ok(results)
}

impl Examination<'_> {
    /// Finds the entries of the inputs; every one must be live.
    async fn find_inputs(&mut self, memory: &mut Memory) -> Result<()> {
        let unknown: Vec<&ManifestFile> = self
            .head
            .iter()
            .filter(|m| m.content == ManifestContentType::Data && !memory.without.contains(&m.manifest_path))
            .collect();
        let reads: Vec<_> = unknown.iter().map(|manifest| manifests::live_parts(self.storage, manifest)).collect();
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        for manifest in unknown {
            let Some((entries, metadata)) = reads.try_next().await? else { break };
            let spec_id = metadata.partition_spec().spec_id();
            let live = entries.len();
            let mut goes = BTreeSet::new();
            for entry in entries {
                if self.replace.inputs.contains(entry.file.file_path()) {
                    goes.insert(DeleteFile::of(&entry.file));
                    let scope = (spec_id, entry.file.partition().clone());
                    self.reach.add(scope.clone(), entry.seq);
                    self.inputs.insert(entry.file.file_path().to_owned(), (scope, entry.seq));
                    self.removed.push((entry.file, spec_id));
                }
            }
            if goes.is_empty() {
                memory.without.insert(manifest.manifest_path.clone());
            } else {
                self.sources.push(Source { manifest: manifest.clone(), schema_id: metadata.schema_id(), live, goes });
            }
        }
        let found: BTreeSet<&str> = self.removed.iter().map(|(file, _)| file.file_path()).collect();
        match self.replace.inputs.iter().find(|input| !found.contains(input.as_str())) {
            Some(gone) => Err(void(format_args!("{gone} was removed meanwhile"))),
            None if found.len() < self.removed.len() => {
                Err(Error::new(ErrorKind::Corrupt, "a data file is live twice in one snapshot"))
            }
            None => Ok(()),
        }
    }

    /// Looks at every delete that reaches an input, and finds those that reach nothing afterwards.
    async fn find_deletes(&mut self, env: &Env, memory: &mut remap::Memory) -> Result<()> {
        let mut schemas = BTreeMap::new();
        let mut lives = BTreeMap::new();
        let (mut near, mut idle) = (Vec::new(), Vec::new());
        for (at, manifest) in self.head.iter().enumerate() {
            if manifest.content != ManifestContentType::Deletes {
                continue;
            }
            let (entries, metadata) = manifests::live_parts(self.storage, manifest).await?;
            schemas.insert(at, metadata.schema_id());
            lives.insert(at, entries.len());
            let spec_id = metadata.partition_spec().spec_id();
            let global = metadata.partition_spec().is_unpartitioned();
            for entry in entries {
                let scope = (spec_id, entry.file.partition().clone());
                let meets =
                    self.reach.meets(&entry.file, entry.seq, &scope, global, |at| self.replace.inputs.contains(at));
                // Rows that came from another spec lie where this reaches them, and did not before.
                if self.is_later(&entry) && !global && self.reaches_outputs(&scope) && self.has_moved_rows() {
                    return Err(void(format_args!("deletes arrived meanwhile, in {}", entry.file.file_path())));
                }
                let shared = entry.file.referenced_data_file().is_none();
                if meets {
                    near.push(Deletes { entry, scope, global, manifest: at });
                } else if shared && (global || self.reach.scopes.contains_key(&scope)) {
                    idle.push(Deletes { entry, scope, global, manifest: at });
                }
            }
        }
        self.arrived = self.arrivals(env, &near, memory).await?;
        // Those that reach no input may reach nothing at all: the keys that a first upsert deletes before there are rows.
        near.append(&mut idle);
        let dangling = self.dangling(near).await?;
        for deletes in dangling {
            let at = deletes.manifest;
            let key = DeleteFile::of(&deletes.entry.file);
            self.removed.push((deletes.entry.file, deletes.scope.0));
            let manifest = &self.head[at];
            match self.sources.iter_mut().find(|source| source.manifest.manifest_path == manifest.manifest_path) {
                Some(source) => drop(source.goes.insert(key)),
                None => self.sources.push(Source {
                    manifest: manifest.clone(),
                    schema_id: schemas.get(&at).copied().unwrap_or_default(),
                    live: lives.get(&at).copied().unwrap_or_default(),
                    goes: [key].into(),
                }),
            }
        }
        Ok(())
    }

    /// Where on the outputs the rows are that deletes by position have deleted since planning. Equality deletes that came must
    /// reach the outputs as they would have reached the inputs.
    async fn arrivals(&self, env: &Env, near: &[Deletes], memory: &mut remap::Memory) -> Result<Places> {
        let mut arrivals = Arrivals { gone: self.replace.applied.clone(), ..Arrivals::default() };
        let mut scopes: BTreeMap<DeleteFile, &Scope> = BTreeMap::new();
        for deletes in near {
            let file = &deletes.entry.file;
            let key = DeleteFile::of(file);
            let applied = arrivals.gone.remove(&key);
            let by_position = file.content_type() == DataContentType::PositionDeletes;
            match (by_position, applied) {
                (true, true) => arrivals.applied.push(&deletes.entry),
                (true, false) => arrivals.arrived.push(&deletes.entry),
                (false, true) => {}
                // Rows of an input of the outputs' spec stay in their partition; others may have gone to where these deletes do not reach.
                (false, false)
                    if self.is_later(&deletes.entry) && (deletes.global || deletes.scope.0 == self.replace.spec_id) => {
                }
                (false, false) => {
                    return Err(void(format_args!("deletes arrived meanwhile, in {}", key.location)));
                }
            }
            scopes.insert(key, &deletes.scope);
        }
        let reaches = |entry: &LiveEntry, input: &str| {
            let (scope, held) = (scopes.get(&DeleteFile::of(&entry.file)), self.inputs.get(input));
            scope.zip(held).is_some_and(|(scope, (own, seq))| {
                let within = entry.file.referenced_data_file().map_or(*scope == own, |target| target == input);
                within && entry.seq >= *seq
            })
        };
        let reading = Reading { env, storage: self.storage, replace: self.replace, reaches: &reaches };
        memory.arrivals(&reading, &arrivals).await
    }

    /// Those of `near` that reach nothing once the inputs are gone. A file of position deletes that does not say which one file
    /// it is about goes with the last file of its partition that is as old.
    async fn dangling(&self, near: Vec<Deletes>) -> Result<Vec<Deletes>> {
        let (own, shared): (Vec<Deletes>, Vec<Deletes>) =
            near.into_iter().partition(|deletes| deletes.entry.file.referenced_data_file().is_some());
        let mut dangling = own;
        if shared.is_empty() {
            return Ok(dangling);
        }
        let newest = shared.iter().map(|deletes| deletes.entry.seq).max().unwrap_or(0);
        let specs: HashSet<i32> = shared.iter().map(|deletes| deletes.scope.0).collect();
        let global = shared.iter().any(|deletes| deletes.global);
        let mut lowest: HashMap<Scope, i64> = HashMap::new();
        let mut lowest_of_all = i64::MAX;
        for manifest in self.head.iter().filter(|m| m.content == ManifestContentType::Data) {
            let spec_id = manifest.partition_spec_id;
            if manifest.min_sequence_number > newest || !(global || specs.contains(&spec_id)) {
                continue;
            }
            for entry in manifests::live_entries(self.storage, manifest).await? {
                if self.replace.inputs.contains(entry.file.file_path()) {
                    continue;
                }
                lowest_of_all = lowest_of_all.min(entry.seq);
                let held = lowest.entry((spec_id, entry.file.partition().clone())).or_insert(entry.seq);
                *held = entry.seq.min(*held);
            }
        }
        let outputs = if self.replace.outputs.is_empty() { i64::MAX } else { self.replace.planned_seq };
        dangling.extend(shared.into_iter().filter(|deletes| {
            let seq = deletes.entry.seq;
            let oldest = lowest.get(&deletes.scope).copied().unwrap_or(i64::MAX);
            match deletes.entry.file.content_type() {
                // Position deletes name files that were there before the outputs.
                DataContentType::PositionDeletes => oldest > seq,
                _ if deletes.global => lowest_of_all.min(outputs) >= seq,
                _ if self.reaches_outputs(&deletes.scope) => oldest.min(outputs) >= seq,
                _ => oldest >= seq,
            }
        }));
        Ok(dangling)
    }

    /// Whether equality deletes are younger than the planning snapshot: they reach the outputs of their partition.
    fn is_later(&self, deletes: &LiveEntry) -> bool {
        deletes.file.content_type() == DataContentType::EqualityDeletes && deletes.seq > self.replace.planned_seq
    }

    /// Whether an input has another spec than the outputs.
    fn has_moved_rows(&self) -> bool {
        self.reach.scopes.keys().any(|(spec_id, _)| *spec_id != self.replace.spec_id)
    }

    fn reaches_outputs(&self, scope: &Scope) -> bool {
        scope.0 == self.replace.spec_id && self.replace.outputs.iter().any(|file| *file.partition() == scope.1)
    }
}

/// Whether the effect of `replace` shows in these manifests: its outputs are live and its inputs are not. Void when inputs are
/// gone otherwise.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn effect(storage: &Storage, replace: &Replace, head: &[ManifestFile]) -> Result<Effect> {
    let outputs: HashSet<&str> = replace.outputs.iter().map(DataFile::file_path).collect();
    let (mut inputs_live, mut outputs_live) = (0, 0);
    let data = head.iter().filter(|manifest| manifest.content == ManifestContentType::Data);
    let reads: Vec<_> = data.map(|manifest| manifests::live_entries(storage, manifest)).collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL);
    while let Some(entries) = reads.try_next().await? {
        for entry in entries {
            let path = entry.file.file_path();
            inputs_live += usize::from(replace.inputs.contains(path));
            outputs_live += usize::from(outputs.contains(path));
        }
    }
    Ok(match (inputs_live, outputs_live) {
        (0, live) if live == outputs.len() => Effect::Done,
        (live, _) if live < replace.inputs.len() => Effect::Void,
        _ => Effect::Absent,
    })
}

/// An output that is not in the store any more: its commit was in, was rolled back, and expired with its files.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn lost_output(storage: &Storage, replace: &Replace) -> Result<Option<String>> {
    for file in &replace.outputs {
        if !storage.exists(file.file_path()).await? {
            return Ok(Some(file.file_path().to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests;
