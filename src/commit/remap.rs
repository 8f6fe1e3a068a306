//! Deletes by position that arrived on the inputs of a replace, put onto its outputs.
//!
//! What arrived is worked out on each head anew: all that deletes name of the inputs there, less what the rewrite has left out
//! already. It becomes one vector or file of deletes for each output concerned, in the replace's own commit.
//!
//! Source: docs/protocol.md, "Replace".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataFile, ManifestContentType, ManifestFile, PartitionSpec, SchemaRef};
use roaring::RoaringTreemap;

use crate::commit::deletes;
use crate::commit::manifests::{LiveEntry, ManifestScribe};
use crate::commit::replace::void;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::{DeleteFile, Replace};
use crate::model::remap::{Places, Remap};
use crate::storage::Storage;

/// Delete files written at a time.
const PARALLEL: usize = 8;
/// Bytes of delete files that are read for one replace; where more arrived, planning anew costs less.
const READ_MAX: u64 = 128 << 20;

/// What was read and written for one replace, kept over its attempts.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What delete files name of the inputs, and the bytes that were read for it.
    read: BTreeMap<DeleteFile, Arc<Places>>,
    read_bytes: u64,
    /// The deletes of an output, as they were written last.
    written: BTreeMap<String, (RoaringTreemap, DataFile)>,
    /// Each manifest of such deletes, newest last.
    manifests: Vec<Carried>,
    /// How many rows of each output were deleted, as of the last head.
    counts: BTreeMap<String, u64>,
}

/// Deletes that were put onto outputs, and the manifest that names them.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    pub(crate) manifest: ManifestFile,
    pub(crate) files: Vec<DataFile>,
}

/// What a head has of deletes by position, against what the rewrite knew.
#[derive(Debug, Default)]
pub(crate) struct Arrivals<'a> {
    /// Those that the rewrite did not apply.
    pub(crate) arrived: Vec<&'a LiveEntry>,
    /// Those that it did, and that are still there.
    pub(crate) applied: Vec<&'a LiveEntry>,
    /// Deletes of any kind that it applied and that are there no more.
    pub(crate) gone: BTreeSet<DeleteFile>,
}

/// What arrivals are read with.
pub(crate) struct Reading<'a> {
    pub(crate) env: &'a Env,
    pub(crate) storage: &'a Storage,
    pub(crate) replace: &'a Replace,
    /// Whether a delete file may delete rows of an input.
    pub(crate) reaches: &'a (dyn Fn(&LiveEntry, &str) -> bool + Sync),
}

impl Memory {
    /// Where on the outputs the rows are that were deleted since planning.
    ///
    /// # Errors
    /// `Conflict` when it is not known where they went, or when rows that the rewrite left out are deleted no more; those of
    /// the store.
    pub(crate) async fn arrivals(&mut self, reading: &Reading<'_>, arrivals: &Arrivals<'_>) -> Result<Places> {
        let mut arrived = Places::new();
        for entry in &arrivals.arrived {
            for (input, places) in self.places(reading, entry).await?.iter() {
                if (reading.reaches)(entry, input) {
                    *arrived.entry(input.clone()).or_default() |= places;
                }
            }
        }
        self.check_owed(reading, arrivals, &arrived).await?;
        let mut found = Places::new();
        for (input, places) in &arrived {
            let why = match reading.replace.remap.get(input) {
                Some(Remap::Affine(map)) => {
                    map.carry(places, &mut found)?;
                    continue;
                }
                Some(Remap::Unknown(why)) => why,
                None => "where its rows went is not known",
            };
            return Err(void(format_args!("deletes arrived meanwhile on {input}, and {why}")));
        }
        Ok(found)
    }

    /// Deletes that were applied and are gone took their rows out all the same: others must do so now, as a vector does that
    /// took an older one's place.
    async fn check_owed(&mut self, reading: &Reading<'_>, arrivals: &Arrivals<'_>, arrived: &Places) -> Result<()> {
        let Some(first) = arrivals.gone.first() else { return Ok(()) };
        let removed = |gone: &DeleteFile| void(format_args!("the deletes of {} were removed meanwhile", gone.location));
        let remap = &reading.replace.remap;
        let maps: Vec<_> = remap
            .iter()
            .filter_map(|(input, remap)| match remap {
                Remap::Affine(map) => Some((input, map)),
                Remap::Unknown(_) => None,
            })
            .collect();
        // Files may have reached inputs of which nothing is known; a vector reaches the one that it names.
        let unknown = maps.len() < reading.replace.inputs.len();
        for gone in &arrivals.gone {
            let known = maps.iter().any(|(_, map)| map.positions.contains(gone) || map.keys.contains(gone));
            if !known || (unknown && gone.offset.is_none()) {
                return Err(removed(gone));
            }
        }
        for (input, map) in maps {
            let Some(owed) = map.owed(&arrivals.gone) else { continue };
            let mut held = arrived.get(input).cloned().unwrap_or_default();
            for entry in arrivals.applied.iter().filter(|entry| (reading.reaches)(entry, input)) {
                if let Some(places) = self.places(reading, entry).await?.get(input) {
                    held |= places;
                }
            }
            if !owed.is_subset(&held) {
                return Err(removed(first));
            }
        }
        Ok(())
    }

    /// What a delete file names of the inputs, read once.
    async fn places(&mut self, reading: &Reading<'_>, entry: &LiveEntry) -> Result<Arc<Places>> {
        let key = DeleteFile::of(&entry.file);
        if let Some(held) = self.read.get(&key) {
            return Ok(Arc::clone(held));
        }
        let location = entry.file.file_path();
        self.read_bytes = self.read_bytes.saturating_add(deletes::cost(&entry.file));
        if self.read_bytes > READ_MAX {
            return Err(void(format_args!(
                "more deletes arrived meanwhile than are looked into, the last in {location}"
            )));
        }
        let read = deletes::places(reading.env, reading.storage, &entry.file, &reading.replace.inputs).await;
        let places = Arc::new(read.map_err(|e| match e.kind() {
            // What cannot be read may name an input.
            ErrorKind::Unsupported | ErrorKind::Corrupt => {
                void(format_args!("deletes arrived meanwhile, in {location}, and cannot be read: {e}"))
            }
            _ => e,
        })?);
        self.read.insert(key, Arc::clone(&places));
        Ok(places)
    }

    /// Writes the deletes of outputs, and a manifest of them; nothing where there are none. What was written for another head
    /// is taken again where it is the same.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn write(
        &mut self,
        scribe: &ManifestScribe<'_>,
        replace: &Replace,
        places: Places,
        (schema, spec): (&SchemaRef, &PartitionSpec),
        objects: &mut Vec<String>,
    ) -> Result<Option<Carried>> {
        self.counts = places.iter().map(|(output, places)| (output.clone(), places.len())).collect();
        if places.is_empty() {
            return Ok(None);
        }
        let mut files = Vec::new();
        let mut missing = Vec::new();
        for (output, places) in places {
            match self.written.get(&output) {
                Some((held, entry)) if *held == places => files.push(entry.clone()),
                _ => missing.push(put(scribe, replace, output, places)),
            }
        }
        let mut writes = stream::iter(missing).buffered(PARALLEL);
        while let Some((output, places, entry)) = writes.try_next().await? {
            objects.push(entry.file_path().to_owned());
            files.push(entry.clone());
            self.written.insert(output, (places, entry));
        }
        files.sort_by(|a, b| a.file_path().cmp(b.file_path()));
        if let Some(held) = self.manifests.iter().find(|held| held.files == files) {
            return Ok(Some(held.clone()));
        }
        let fill = |writer: &mut iceberg::spec::ManifestWriter| {
            // Without a sequence number of their own they have the snapshot's: younger than the outputs, as they must be.
            files.iter().try_for_each(|file| writer.add_file(file.clone(), -1))
        };
        let manifest = scribe.write(ManifestContentType::Deletes, schema, spec, fill).await?;
        objects.push(manifest.manifest_path.clone());
        let carried = Carried { manifest, files };
        self.manifests.push(carried.clone());
        Ok(Some(carried))
    }

    /// How many rows of an output were deleted since planning, as of the last head.
    pub(crate) fn count(&self, output: &str) -> u64 {
        self.counts.get(output).copied().unwrap_or(0)
    }

    /// The delete files that manifests of ours among these name.
    pub(crate) fn named(&self, manifests: &BTreeSet<&str>) -> Vec<&str> {
        let named = |carried: &&Carried| manifests.contains(carried.manifest.manifest_path.as_str());
        self.manifests.iter().filter(named).flat_map(|carried| carried.files.iter().map(DataFile::file_path)).collect()
    }
}

/// Writes the deletes of one output beside it.
async fn put(
    scribe: &ManifestScribe<'_>,
    replace: &Replace,
    output: String,
    places: RoaringTreemap,
) -> Result<(String, RoaringTreemap, DataFile)> {
    let unknown = || Error::new(ErrorKind::Internal, format!("{output} is no file of this rewrite"));
    let data = replace.outputs.iter().find(|file| file.file_path() == output).cloned().ok_or_else(unknown)?;
    let stem = output.strip_suffix(".parquet").unwrap_or(&output);
    let (format, stem) = (scribe.format, format!("{stem}-deletes-{}", scribe.env.uuid()));
    let spec_id = replace.spec_id;
    let work = move || (deletes::write(format, (&data, spec_id), &places, &stem), places);
    let (written, places) = scribe.env.offload(work).await?;
    let written = written?;
    scribe.put(written.entry.file_path(), written.bytes).await?;
    Ok((output, places, written.entry))
}
