//! Metadata documents: how one is named, packed, unpacked and written so that equal metadata gives equal bytes.

use std::collections::HashMap;
use std::io::{Read, Write};

use bytes::Bytes;
use iceberg::spec::TableMetadata;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// The most bytes a metadata document may have, unpacked: a gzip bomb ends here.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 30;

/// The table property that packs metadata documents: `none` (default) or `gzip`.
pub const COMPRESSION: &str = "write.metadata.compression-codec";

/// How a document is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Plain JSON.
    Plain,
    /// One gzip member.
    Gzip,
}

impl Packing {
    /// What the table's properties ask for.
    ///
    /// # Errors
    /// `Input` when the property names another codec.
    pub fn of(properties: &HashMap<String, String>) -> Result<Self> {
        let codec = properties.get(COMPRESSION).map_or("", String::as_str);
        match codec.to_ascii_lowercase().as_str() {
            "" | "none" => Ok(Self::Plain),
            "gzip" => Ok(Self::Gzip),
            _ => Err(Error::new(ErrorKind::Input, format!("table property {COMPRESSION}={codec:?} is not known"))
                .with_hint("set it to none or gzip")),
        }
    }

    /// What stands before `.metadata.json` in a file name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ".gz",
        }
    }
}

/// `<table>/metadata/<version>-<id>[.gz].metadata.json`, below `write.metadata.path` where that is set.
pub fn location_of(metadata: &TableMetadata, version: u64, id: Uuid, packing: Packing) -> String {
    let folder = metadata.properties().get("write.metadata.path").map_or_else(
        || format!("{}/metadata", metadata.location().trim_end_matches('/')),
        |path| path.trim_end_matches('/').to_owned(),
    );
    format!("{folder}/{version:05}-{id}{}.metadata.json", packing.suffix())
}

/// The version in a document's file name, or 0 for names of another fashion.
pub fn version_in(location: &str) -> u64 {
    let file = location.rsplit('/').next().unwrap_or(location);
    file.split('-').next().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Where a new table lies when nobody says: `<warehouse>/<namespace>/…/<table>`.
///
/// A name with characters that stores or file systems treat in their own ways, or a folder that another table has
/// (`taken`), gets a part of `uuid` instead: no two tables ever share a folder, or sweeping one would empty the other.
pub fn default_location(warehouse: &str, table: &TableName, uuid: Uuid, taken: impl FnOnce(&str) -> bool) -> String {
    let mut location = warehouse.trim_end_matches('/').to_owned();
    let mut plain = true;
    for part in table.namespace().iter().map(String::as_str).chain([table.name()]) {
        location.push('/');
        for (at, c) in part.chars().enumerate() {
            let safe = c.is_ascii_alphanumeric() || c == '_' || (at > 0 && matches!(c, '-' | '.'));
            plain &= safe;
            location.push(if safe { c } else { '_' });
        }
    }
    if !plain || taken(&location) {
        location.push_str(&format!("-{}", &uuid.simple().to_string()[..12]));
    }
    location
}

/// Packs a document.
///
/// # Errors
/// `Internal` when the compressor fails.
pub fn pack(json: Vec<u8>, packing: Packing) -> Result<Bytes> {
    match packing {
        Packing::Plain => Ok(json.into()),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            let packed = encoder.write_all(&json).and_then(|()| encoder.finish());
            Ok(packed.context(ErrorKind::Internal, || "pack a metadata document")?.into())
        }
    }
}

/// Unpacks a document, told by its first bytes, not by its name: writers have named gzip files both ways.
///
/// # Errors
/// `Corrupt` when it is cut off or larger than [`DOCUMENT_BYTES_MAX`].
pub fn unpack(location: &str, bytes: Bytes) -> Result<Bytes> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut json = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_ref())
        .take(DOCUMENT_BYTES_MAX + 1)
        .read_to_end(&mut json)
        .context(ErrorKind::Corrupt, || format!("unpack metadata document {location}"))?;
    if json.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("metadata document {location} unpacks to more than {DOCUMENT_BYTES_MAX} bytes"),
        ));
    }
    Ok(json.into())
}

/// The metadata as JSON, every list and map in a fixed order: the crate keeps them in hash maps.
///
/// # Errors
/// `Internal` when the metadata cannot be written as JSON.
pub fn to_value(metadata: &TableMetadata) -> Result<Value> {
    let mut value = serde_json::to_value(metadata).context(ErrorKind::Internal, || "write table metadata as JSON")?;
    let Some(document) = value.as_object_mut() else {
        return Err(Error::new(ErrorKind::Internal, "table metadata is no JSON object"));
    };
    for (list, keys) in [
        ("schemas", &["schema-id"][..]),
        ("partition-specs", &["spec-id"]),
        ("sort-orders", &["order-id"]),
        ("snapshots", &["sequence-number", "timestamp-ms", "snapshot-id"]),
        ("statistics", &["snapshot-id"]),
        ("partition-statistics", &["snapshot-id"]),
    ] {
        if let Some(Value::Array(items)) = document.get_mut(list) {
            items.sort_by_key(|item| keys.iter().map(|key| item[*key].as_i64()).collect::<Vec<_>>());
        }
    }
    for map in ["properties", "refs"] {
        if let Some(Value::Object(entries)) = document.get_mut(map) {
            sort_keys(entries);
        }
    }
    for snapshot in document.get_mut("snapshots").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(summary)) = snapshot.get_mut("summary") {
            sort_keys(summary);
        }
    }
    Ok(value)
}

fn sort_keys(map: &mut Map<String, Value>) {
    let mut entries: Vec<_> = std::mem::take(map).into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    map.extend(entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_document_unpacks_to_itself_and_a_cut_one_is_corrupt() {
        let json = br#"{"format-version":2}"#.repeat(50);
        let packed = pack(json.clone(), Packing::Gzip).expect("packs");
        assert!(packed.len() < json.len());
        assert_eq!(unpack("x", packed.clone()).expect("unpacks"), json);
        let error = unpack("s3://b/x.gz.metadata.json", packed.slice(..packed.len() - 9)).expect_err("cut off");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("s3://b/x.gz.metadata.json"), "{error}");
    }

    #[test]
    fn a_codec_that_we_do_not_know_is_refused() {
        let with = |codec: &str| Packing::of(&HashMap::from([(COMPRESSION.to_owned(), codec.to_owned())]));
        assert_eq!(with("GZIP").expect("known"), Packing::Gzip);
        assert_eq!(with("none").expect("known"), Packing::Plain);
        assert_eq!(with("zstd").expect_err("unknown").kind(), ErrorKind::Input);
    }

    #[test]
    fn odd_names_and_taken_folders_never_share_a_location() {
        let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let at = |namespace: &str, name: &str, taken: bool| {
            let table = TableName::new(vec![namespace.to_owned()], name).expect("valid");
            default_location("s3://b/wh/", &table, uuid, |_| taken)
        };
        assert_eq!(at("db", "t-1.x", false), "s3://b/wh/db/t-1.x");
        assert_eq!(at("db", "t", true), "s3://b/wh/db/t-0123456789ab");
        assert_eq!(at("..", "a/../b%", false), "s3://b/wh/_./a_.._b_-0123456789ab");
    }

    #[test]
    fn the_version_is_read_from_the_file_name() {
        for (location, version) in
            [("s3://b/t/metadata/00012-2cd22b57.metadata.json", 12), ("/t/metadata/v7.metadata.json", 0), ("odd", 0)]
        {
            assert_eq!(version_in(location), version, "{location}");
        }
    }
}
