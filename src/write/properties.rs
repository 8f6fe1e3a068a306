//! Table properties that say how data files are written, under the names and with the defaults of Iceberg's
//! "Configuration" page. A value that cannot be read is an error, never a silent default.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};

use crate::error::{Error, ErrorKind, Result};

const MIB: usize = 1024 * 1024;
const BLOOM_ENABLED: &str = "write.parquet.bloom-filter-enabled.column.";
const BLOOM_FPP: &str = "write.parquet.bloom-filter-fpp.column.";
const STATISTICS_ENABLED: &str = "write.parquet.stats-enabled.column.";
const METRICS_COLUMN: &str = "write.metadata.metrics.column.";
const METRICS_DEFAULT: &str = "write.metadata.metrics.default";
const BLOOM_FPP_DEFAULT: f64 = 0.01;

/// How a table wants its data files. `Default` is what counts where neither the table nor the configuration says more.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteProperties {
    /// `write.parquet.row-group-size-bytes`.
    pub row_group_bytes: usize,
    /// `write.parquet.page-size-bytes`.
    pub page_bytes: usize,
    /// `write.parquet.page-row-limit`.
    pub page_rows: usize,
    /// `write.parquet.dict-size-bytes`.
    pub dictionary_bytes: usize,
    /// `write.parquet.compression-codec` with `write.parquet.compression-level`.
    pub compression: Compression,
    /// Columns with a bloom filter, by name, and the share of false positives wanted.
    pub bloom_filters: BTreeMap<String, f64>,
    /// `write.parquet.bloom-filter-max-bytes`.
    pub bloom_filter_bytes_max: usize,
    /// Columns, by name, whose Parquet statistics are switched off.
    pub statistics_off: BTreeSet<String>,
    /// `write.target-file-size-bytes`.
    pub target_file_bytes: u64,
    /// Which metrics go into manifests.
    pub metrics: MetricsProperties,
    /// `write.data.path`, or the older `write.object-storage.path` and `write.folder-storage.path`; no slash at the end.
    pub data_path: Option<String>,
    /// `write.object-storage.enabled`.
    pub object_storage: bool,
    /// `write.object-storage.partitioned-paths`.
    pub partitioned_paths: bool,
}

/// Which metrics of a column go into manifests (`MetricsModes` of Iceberg).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsMode {
    /// Its size only.
    None,
    /// Size and counts.
    Counts,
    /// Size, counts and bounds cut to this many code points or bytes.
    Truncate(usize),
    /// Size, counts and whole bounds.
    Full,
}

/// The `write.metadata.metrics.*` properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsProperties {
    /// `write.metadata.metrics.default`, where it is set.
    pub default: Option<MetricsMode>,
    /// `write.metadata.metrics.max-inferred-column-defaults`.
    pub inferred_columns_max: usize,
    /// `write.metadata.metrics.column.*` by column name.
    pub columns: BTreeMap<String, MetricsMode>,
}

impl MetricsMode {
    /// What counts where nothing is set.
    pub const DEFAULT: Self = Self::Truncate(16);
}

impl Default for WriteProperties {
    fn default() -> Self {
        Self {
            row_group_bytes: 128 * MIB,
            page_bytes: MIB,
            page_rows: 20_000,
            dictionary_bytes: 2 * MIB,
            compression: Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()),
            bloom_filters: BTreeMap::new(),
            bloom_filter_bytes_max: MIB,
            statistics_off: BTreeSet::new(),
            target_file_bytes: 512 * MIB as u64,
            metrics: MetricsProperties { default: None, inferred_columns_max: 100, columns: BTreeMap::new() },
            data_path: None,
            object_storage: false,
            partitioned_paths: true,
        }
    }
}

impl WriteProperties {
    /// What a table's `properties` say, over `defaults`. Properties of other writers and of metadata are left alone.
    ///
    /// # Errors
    /// `Config` when a value cannot be read: names property, value and what is allowed. `Unsupported` for data file
    /// formats other than Parquet.
    pub fn from_table(properties: &HashMap<String, String>, defaults: &Self) -> Result<Self> {
        let read = Reader { properties };
        read.check_format()?;
        let parquet_bytes = 1..=(1_usize << 40);
        Ok(Self {
            row_group_bytes: read.number(
                "write.parquet.row-group-size-bytes",
                parquet_bytes,
                defaults.row_group_bytes,
            )?,
            page_bytes: read.number("write.parquet.page-size-bytes", 1..=(1 << 30), defaults.page_bytes)?,
            page_rows: read.number("write.parquet.page-row-limit", 1..=(1 << 30), defaults.page_rows)?,
            dictionary_bytes: read.number("write.parquet.dict-size-bytes", 1..=(1 << 30), defaults.dictionary_bytes)?,
            compression: read.compression(defaults.compression)?,
            bloom_filters: read.bloom_filters(&defaults.bloom_filters)?,
            bloom_filter_bytes_max: read.number(
                "write.parquet.bloom-filter-max-bytes",
                32..=128 * MIB,
                defaults.bloom_filter_bytes_max,
            )?,
            statistics_off: read.statistics_off(&defaults.statistics_off)?,
            target_file_bytes: read.number(
                "write.target-file-size-bytes",
                1..=(1 << 50),
                defaults.target_file_bytes,
            )?,
            metrics: read.metrics(&defaults.metrics)?,
            data_path: read.data_path().or_else(|| defaults.data_path.clone()),
            object_storage: read.switch("write.object-storage.enabled", defaults.object_storage)?,
            partitioned_paths: read.switch("write.object-storage.partitioned-paths", defaults.partitioned_paths)?,
        })
    }
}

/// Reads single properties.
struct Reader<'a> {
    properties: &'a HashMap<String, String>,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(|value| value.trim())
    }

    /// Properties whose name starts with `prefix`, by the rest of the name, in order.
    fn under(&self, prefix: &str) -> BTreeMap<&str, &str> {
        let entries = self.properties.iter();
        entries.filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value.trim()))).collect()
    }

    fn number<T: FromStr + PartialOrd + Display>(&self, key: &str, range: RangeInclusive<T>, default: T) -> Result<T> {
        let Some(text) = self.get(key) else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| refused(key, text, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn switch(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |text| switch(key, text))
    }

    fn check_format(&self) -> Result<()> {
        let key = "write.format.default";
        match self.get(key) {
            None => Ok(()),
            Some(format) if format.eq_ignore_ascii_case("parquet") => Ok(()),
            Some(format) if ["avro", "orc"].iter().any(|other| format.eq_ignore_ascii_case(other)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("table property {key} = {format:?}: only Parquet is written"),
            )
            .with_hint(format!("set {key} to parquet; files of other formats in the table may stay"))),
            Some(format) => Err(refused(key, format, "parquet")),
        }
    }

    fn compression(&self, default: Compression) -> Result<Compression> {
        let (codec_key, level_key) = ("write.parquet.compression-codec", "write.parquet.compression-level");
        let level = match self.get(level_key) {
            None => None,
            Some(text) => {
                Some(text.parse::<i32>().map_err(|_| refused(level_key, text, "a whole number that the codec knows"))?)
            }
        };
        let codec = match self.get(codec_key) {
            Some(codec) => codec.to_ascii_lowercase(),
            None if level.is_none() => return Ok(default),
            None => codec_name(default).to_owned(),
        };
        let bad_level = |allowed: &str| {
            let text = level.map(|l| l.to_string()).unwrap_or_default();
            refused(level_key, &text, &format!("{allowed} for {codec}"))
        };
        let unsigned = |l: i32| u32::try_from(l).ok();
        Ok(match codec.as_str() {
            "zstd" => match level {
                None => Compression::ZSTD(ZstdLevel::try_new(3).map_err(|_| bad_level("3"))?),
                Some(l) => Compression::ZSTD(ZstdLevel::try_new(l).map_err(|_| bad_level("1 to 22"))?),
            },
            "gzip" => match level {
                None => Compression::GZIP(GzipLevel::default()),
                Some(l) => unsigned(l)
                    .and_then(|l| GzipLevel::try_new(l).ok())
                    .map(Compression::GZIP)
                    .ok_or_else(|| bad_level("0 to 9"))?,
            },
            "brotli" => match level {
                None => Compression::BROTLI(BrotliLevel::default()),
                Some(l) => unsigned(l)
                    .and_then(|l| BrotliLevel::try_new(l).ok())
                    .map(Compression::BROTLI)
                    .ok_or_else(|| bad_level("0 to 11"))?,
            },
            "snappy" => Compression::SNAPPY,
            "lz4" => Compression::LZ4,
            "lz4_raw" => Compression::LZ4_RAW,
            "uncompressed" => Compression::UNCOMPRESSED,
            other => {
                return Err(refused(codec_key, other, "one of zstd, gzip, snappy, lz4, lz4_raw, brotli, uncompressed"));
            }
        })
    }

    fn bloom_filters(&self, defaults: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
        let mut filters = defaults.clone();
        for (column, text) in self.under(BLOOM_ENABLED) {
            if switch(&format!("{BLOOM_ENABLED}{column}"), text)? {
                filters.entry(column.to_owned()).or_insert(BLOOM_FPP_DEFAULT);
            } else {
                filters.remove(column);
            }
        }
        for (column, text) in self.under(BLOOM_FPP) {
            let fpp = text.parse::<f64>().ok().filter(|fpp| *fpp > 0.0 && *fpp < 1.0).ok_or_else(|| {
                refused(&format!("{BLOOM_FPP}{column}"), text, "a number between 0 and 1, both excluded")
            })?;
            if let Some(held) = filters.get_mut(column) {
                *held = fpp;
            }
        }
        Ok(filters)
    }

    fn statistics_off(&self, defaults: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let mut off = defaults.clone();
        for (column, text) in self.under(STATISTICS_ENABLED) {
            if switch(&format!("{STATISTICS_ENABLED}{column}"), text)? {
                off.remove(column);
            } else {
                off.insert(column.to_owned());
            }
        }
        Ok(off)
    }

    fn metrics(&self, defaults: &MetricsProperties) -> Result<MetricsProperties> {
        let mut columns = defaults.columns.clone();
        for (column, text) in self.under(METRICS_COLUMN) {
            columns.insert(column.to_owned(), metrics_mode(&format!("{METRICS_COLUMN}{column}"), text)?);
        }
        Ok(MetricsProperties {
            default: match self.get(METRICS_DEFAULT) {
                None => defaults.default,
                Some(text) => Some(metrics_mode(METRICS_DEFAULT, text)?),
            },
            inferred_columns_max: self.number(
                "write.metadata.metrics.max-inferred-column-defaults",
                0..=1_000_000,
                defaults.inferred_columns_max,
            )?,
            columns,
        })
    }

    fn data_path(&self) -> Option<String> {
        ["write.data.path", "write.object-storage.path", "write.folder-storage.path"]
            .iter()
            .find_map(|key| self.get(key))
            .map(|path| path.trim_end_matches('/').to_owned())
            .filter(|path| !path.is_empty())
    }
}

fn switch(key: &str, text: &str) -> Result<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Ok(true),
        _ if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(refused(key, text, "true or false")),
    }
}

fn metrics_mode(key: &str, text: &str) -> Result<MetricsMode> {
    let lower = text.to_ascii_lowercase();
    let length = lower.strip_prefix("truncate(").and_then(|rest| rest.strip_suffix(')'));
    match (lower.as_str(), length.map(str::parse::<usize>)) {
        ("none", _) => Ok(MetricsMode::None),
        ("counts", _) => Ok(MetricsMode::Counts),
        ("full", _) => Ok(MetricsMode::Full),
        (_, Some(Ok(length))) if (1..=1 << 20).contains(&length) => Ok(MetricsMode::Truncate(length)),
        _ => Err(refused(key, text, "none, counts, full or truncate(n) with n from 1 to 1048576")),
    }
}

fn codec_name(compression: Compression) -> &'static str {
    match compression {
        Compression::GZIP(_) => "gzip",
        Compression::BROTLI(_) => "brotli",
        Compression::SNAPPY => "snappy",
        Compression::LZ4 => "lz4",
        Compression::LZ4_RAW => "lz4_raw",
        Compression::UNCOMPRESSED => "uncompressed",
        _ => "zstd",
    }
}

fn refused(key: &str, value: &str, allowed: &str) -> Error {
    Error::new(ErrorKind::Config, format!("table property {key} = {value:?} cannot be read: it takes {allowed}"))
        .with_hint(format!("set {key} on the table to {allowed}, or remove it"))
}

#[cfg(test)]
mod tests;
