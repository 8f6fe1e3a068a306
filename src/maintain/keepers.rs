//! Who else keeps a table in shape: services that own it, and engines that rewrote it.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::Operation;

use crate::model::table::TableState;

/// Snapshots whose summaries are looked at for who wrote them.
const SNAPSHOTS_MAX: usize = 1_000;

/// Keys of summaries that only one engine writes.
const SIGNS: &[(&str, &str)] = &[
    ("spark.app.id", "spark"),
    ("flink.job-id", "flink"),
    ("flink.operator-id", "flink"),
    ("trino_query_id", "trino"),
    ("presto_query_id", "presto"),
    ("kafka.connect.commit-id", "kafka-connect"),
];

/// A service that manages a table by itself: we report such a table and leave it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper {
    /// Which.
    pub name: &'static str,
    /// How that shows.
    pub sign: String,
}

impl Keeper {
    /// The service that manages this table, if one does.
    pub fn of(state: &TableState) -> Option<Self> {
        let properties = state.metadata.properties();
        let says = |key: &str, value: &str| {
            let found = properties.get(key).filter(|found| found.trim().eq_ignore_ascii_case(value));
            found.map(|found| format!("{key}={found}"))
        };
        let has = |key: &str| properties.get(key).map(|value| format!("{key}={value}"));
        let bucket = state.metadata.location().split_once("://").map_or("", |(_, rest)| rest);
        let bucket = bucket.split('/').next().unwrap_or_default();
        let found = [
            ("S3 Tables", bucket.ends_with("--table-s3").then(|| format!("its bucket is {bucket}"))),
            ("Amoro", says("self-optimizing.enabled", "true")),
            ("Databricks (UniForm)", has("delta-version").or_else(|| has("delta-timestamp"))),
            (
                "Snowflake",
                engine_of_head(state).filter(|engine| engine == "snowflake").map(|e| format!("engine-name={e}")),
            ),
        ];
        found.into_iter().find_map(|(name, sign)| Some(Self { name, sign: sign? }))
    }
}

fn engine_of_head(state: &TableState) -> Option<String> {
    let head = state.metadata.current_snapshot()?;
    writer(&head.summary().additional_properties).map(|name| name.to_lowercase())
}

/// Who wrote a snapshot, as its summary says.
pub fn writer(summary: &HashMap<String, String>) -> Option<String> {
    let sign = || SIGNS.iter().find(|(key, _)| summary.contains_key(*key)).map(|(_, name)| (*name).to_owned());
    summary.get("engine-name").cloned().or_else(sign)
}

/// Engines that rewrote files of the table in the snapshots it has, and how many snapshots each.
pub fn rewriters(state: &TableState) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let rewrites = state.metadata.snapshots().filter(|snapshot| snapshot.summary().operation == Operation::Replace);
    for snapshot in rewrites.take(SNAPSHOTS_MAX) {
        let name = writer(&snapshot.summary().additional_properties).unwrap_or_else(|| "unknown".to_owned());
        *found.entry(name).or_insert(0) += 1;
    }
    found
}
