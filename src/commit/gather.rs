//! What a rewrite of manifests does to those of one head: the entries of many are gathered into few, ordered by partition. No
//! file comes or goes, and an entry keeps all that it inherited.
//!
//! Sources that a head lacks are passed over, manifests that came meanwhile are carried; nothing left to gather is a
//! [`ErrorKind::Conflict`] here. Source: docs/protocol.md, "RewriteManifests".

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{FormatVersion, ManifestContentType, ManifestFile, ManifestMetadata, Struct, StructType};

use crate::commit::manifests::{self, ENTRIES_MAX, LiveEntry, ManifestScribe, Merge};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::RewriteManifests;
use crate::storage::Storage;

/// Manifests read at a time.
const PARALLEL: usize = 8;

/// A head's manifests once some are gathered.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) manifests: Vec<ManifestFile>,
    /// Manifests that are new in it.
    pub(crate) created: usize,
    /// Manifests that are not in it any more.
    pub(crate) replaced: usize,
    /// Entries in the new ones.
    pub(crate) entries: usize,
}

impl Gathered {
    /// What the summary says beside the totals (spec, "Optional Snapshot Summary Fields").
    pub(crate) fn counts(&self) -> Vec<(String, String)> {
        let counts = [
            ("manifests-created", self.created),
            ("manifests-kept", self.manifests.len().saturating_sub(self.created)),
            ("manifests-replaced", self.replaced),
            ("entries-processed", self.entries),
        ];
        counts.into_iter().map(|(name, count)| (name.to_owned(), count.to_string())).collect()
    }
}

/// What one manifest can hold: files of one content and spec, whose partitions have the same types.
struct Bundle {
    layout: ManifestMetadata,
    partition: StructType,
    sources: BTreeSet<String>,
    bytes: u64,
    entries: Vec<LiveEntry>,
}

/// Whether the entries of a manifest can be gathered. One that is encrypted cannot; nor can rows from before an upgrade to
/// version 3, which the next list gives their ids.
pub(crate) fn can_gather(manifest: &ManifestFile, format: FormatVersion) -> bool {
    let numbered = format < FormatVersion::V3
        || manifest.content == ManifestContentType::Deletes
        || manifest.first_row_id.is_some();
    manifest.key_metadata.is_none() && numbered
}

/// Which manifests may share one, as far as a list tells.
pub(crate) fn kind(manifest: &ManifestFile) -> (bool, i32) {
    (manifest.content == ManifestContentType::Deletes, manifest.partition_spec_id)
}

/// The manifests of `head` once `rewrite` is in. `memory` is what was gathered for earlier heads.
///
/// # Errors
/// `Conflict` when nothing is left to gather; whatever the store says.
pub(crate) async fn gather(
    scribe: &ManifestScribe<'_>,
    rewrite: &RewriteManifests,
    head: Vec<ManifestFile>,
    memory: &mut Vec<Merge>,
    objects: &mut Vec<String>,
) -> Result<Gathered> {
    let before: BTreeSet<String> = head.iter().map(|manifest| manifest.manifest_path.clone()).collect();
    memory.retain(|merge| merge.sources.is_subset(&before));
    let mut manifests = head;
    for merge in memory.iter() {
        manifests = merge.apply(&manifests).unwrap_or(manifests);
    }
    let mut kinds: BTreeMap<_, Vec<ManifestFile>> = BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| rewrite.sources.contains(&manifest.manifest_path)) {
        if can_gather(manifest, scribe.format) {
            kinds.entry(kind(manifest)).or_default().push(manifest.clone());
        }
    }
    for sources in kinds.into_values().filter(|sources| sources.len() > 1) {
        for bundle in read(scribe.storage, &sources).await? {
            let merge = bundle.written(scribe, rewrite.target_bytes).await?;
            objects.extend(merge.results.iter().map(|manifest| manifest.manifest_path.clone()));
            manifests = merge.apply(&manifests).unwrap_or(manifests);
            memory.push(merge);
        }
    }
    let created: Vec<&ManifestFile> = manifests.iter().filter(|m| !before.contains(&m.manifest_path)).collect();
    let gathered = Gathered {
        created: created.len(),
        replaced: memory.iter().map(|merge| merge.sources.len()).sum(),
        entries: created.iter().filter_map(|m| usize::try_from(m.existing_files_count.unwrap_or(0)).ok()).sum(),
        manifests,
    };
    if gathered.created >= gathered.replaced {
        return Err(Error::new(ErrorKind::Conflict, "the rewrite of manifests is void: others have rewritten them"));
    }
    Ok(gathered)
}

/// The live entries of these manifests, by what may stand together.
async fn read(storage: &Storage, sources: &[ManifestFile]) -> Result<Vec<Bundle>> {
    let reads: Vec<_> = sources.iter().map(|manifest| manifests::live_parts(storage, manifest)).collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL);
    let mut bundles: Vec<Bundle> = Vec::new();
    for manifest in sources {
        let Some((entries, layout)) = reads.try_next().await? else { break };
        let partition = layout
            .partition_spec()
            .partition_type(layout.schema())
            .context(ErrorKind::Corrupt, || format!("partitions of manifest {}", manifest.manifest_path))?;
        let at = match bundles.iter().position(|bundle| bundle.partition == partition) {
            Some(at) => at,
            None => {
                let (sources, entries) = (BTreeSet::new(), Vec::new());
                bundles.push(Bundle { layout: layout.clone(), partition, sources, bytes: 0, entries });
                bundles.len() - 1
            }
        };
        let bundle = &mut bundles[at];
        if layout.schema_id() > bundle.layout.schema_id() {
            bundle.layout = layout;
        }
        bundle.sources.insert(manifest.manifest_path.clone());
        bundle.bytes = bundle.bytes.saturating_add(u64::try_from(manifest.manifest_length).unwrap_or(0));
        bundle.entries.extend(entries);
    }
    bundles.retain(|bundle| bundle.sources.len() > 1);
    Ok(bundles)
}

impl Bundle {
    /// Writes the entries, ordered by partition and then as they were, into manifests of about `target` bytes.
    async fn written(mut self, scribe: &ManifestScribe<'_>, target: u64) -> Result<Merge> {
        self.entries.sort_by(|a, b| by_partition(a.file.partition(), b.file.partition()));
        let parts = parts(self.bytes, self.entries.len(), target);
        let size = self.entries.len().div_ceil(parts).max(1);
        let (content, mut rest) = (self.layout.content(), self.entries);
        let mut results = Vec::new();
        while !rest.is_empty() {
            let later = rest.split_off(size.min(rest.len()));
            let part = std::mem::replace(&mut rest, later);
            let (schema, spec) = (self.layout.schema(), self.layout.partition_spec());
            results.push(scribe.existing(*content, part, schema, spec).await?);
        }
        Ok(Merge { sources: self.sources, results })
    }
}

/// How many manifests hold so many entries of so many bytes.
pub(crate) fn parts(bytes: u64, entries: usize, target: u64) -> usize {
    let by_bytes = usize::try_from(bytes.div_ceil(target.max(1))).unwrap_or(usize::MAX);
    by_bytes.max(entries.div_ceil(ENTRIES_MAX)).clamp(1, entries.max(1))
}

/// An order of partitions of one type, field by field; nulls are first.
fn by_partition(a: &Struct, b: &Struct) -> Ordering {
    let value = |value: Option<&iceberg::spec::Literal>| value.and_then(|literal| literal.as_primitive_literal());
    let pairs = a.iter().zip(b.iter());
    let orders = pairs.map(|(a, b)| value(a).partial_cmp(&value(b)).unwrap_or(Ordering::Equal));
    orders.fold(Ordering::Equal, Ordering::then)
}

/// A new manifest that is not in the store any more: its commit was in, was rolled back, and expired with its manifests.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn lost_manifest(storage: &Storage, memory: &[Merge]) -> Result<Option<String>> {
    for manifest in memory.iter().flat_map(|merge| &merge.results) {
        if !storage.exists(&manifest.manifest_path).await? {
            return Ok(Some(manifest.manifest_path.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
