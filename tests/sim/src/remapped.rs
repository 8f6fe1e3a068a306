//! Deletes that a replace carried over to its new files, read as an engine that knows nothing of ours would. Source: Iceberg
//! spec, "Position Delete Files"; Puffin spec; Roaring format spec.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::replaced::Effect;
use crate::upserter::crc32;
use crate::world::key;

/// What a file of deletes by position deletes; nothing for one of data.
pub(crate) fn effect(bytes: &Bytes) -> Result<Option<Effect>, String> {
    if bytes.starts_with(b"PFA1") {
        return puffin(bytes).map(|places| Some(Effect::Positions(places)));
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|e| e.to_string())?;
    if builder.schema().field_with_name("file_path").is_err() {
        return Ok(None);
    }
    let mut places: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for batch in builder.build().map_err(|e| e.to_string())? {
        let batch = batch.map_err(|e| e.to_string())?;
        let (paths, at) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        for (path, at) in paths.iter().zip(at.values()) {
            let path = key(path.ok_or("a delete without a path")?).to_string();
            let at = u64::try_from(*at).map_err(|e| e.to_string())?;
            if !places.entry(path).or_default().insert(at) {
                return Err(format!("place {at} is deleted twice"));
            }
        }
    }
    Ok(Some(Effect::Positions(places)))
}

/// A Puffin file of one deletion vector.
fn puffin(bytes: &[u8]) -> Result<BTreeMap<String, BTreeSet<u64>>, String> {
    let cut = || "a Puffin file ends early".to_owned();
    let (rest, magic) = bytes.split_last_chunk::<4>().ok_or_else(cut)?;
    let (rest, flags) = rest.split_last_chunk::<4>().ok_or_else(cut)?;
    let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(cut)?;
    let start = rest.len().checked_sub(usize::try_from(i32::from_le_bytes(*length)).map_err(|e| e.to_string())?);
    let start = start.ok_or_else(cut)?;
    if magic != b"PFA1" || *flags != [0; 4] || !rest[..start].ends_with(b"PFA1") {
        return Err("no footer of a Puffin file".to_owned());
    }
    let footer: serde_json::Value = serde_json::from_slice(&rest[start..]).map_err(|e| e.to_string())?;
    let blob = footer["blobs"][0].clone();
    let number = |name: &str| blob[name].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| name.to_owned());
    let (offset, size) = (number("offset")?, number("length")?);
    let target = blob["properties"]["referenced-data-file"].as_str().ok_or("a vector of no file")?;
    let places = vector(bytes.get(offset..offset + size).ok_or_else(cut)?)?;
    let said = blob["properties"]["cardinality"].as_str().and_then(|text| text.parse::<usize>().ok());
    if blob["type"] != "deletion-vector-v1" || said != Some(places.len()) {
        return Err(format!("{blob} of {} places", places.len()));
    }
    Ok(BTreeMap::from([(key(target).to_string(), places)]))
}

/// The places of a vector of small files: array containers alone.
fn vector(blob: &[u8]) -> Result<BTreeSet<u64>, String> {
    let body = blob.get(4..blob.len() - 4).ok_or("a vector ends early")?;
    let (length, checksum) = (u32::try_from(body.len()).unwrap_or(0), crc32(body));
    if blob[..4] != length.to_be_bytes() || blob[blob.len() - 4..] != checksum.to_be_bytes() {
        return Err("a vector of another length or checksum".to_owned());
    }
    let mut at = 0;
    let mut next = |count: usize| -> Result<u64, String> {
        let bytes = body.get(at..at + count).ok_or("a vector ends early")?;
        at += count;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    if next(4)? != 0x6439_d3d1 || next(8)? != 1 || next(4)? != 0 || next(4)? != 12_346 || next(4)? != 1 {
        return Err("a vector of another form than small files have".to_owned());
    }
    let (high, count) = (next(2)?, next(2)? + 1);
    let _offset = next(4)?;
    (0..count).map(|_| Ok(high << 16 | next(2)?)).collect()
}
