//! `frazil health`: how tables are, whoever wrote them, and what maintenance would cost and gain.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::flags::{Flags, HealthOf, HealthSort};
use crate::cli::output::{self, Align, Answer, bytes, columns, count};
use crate::cli::{Exit, answer, maintain, table, with_config};
use crate::config::Config;
use crate::env::Env;
use crate::error::Result;
use crate::maintain::debt::Debt;
use crate::model::ids::TableName;
use crate::storage::disk::MemoryDisk;

type Found = (TableName, Result<Debt>);

pub(crate) fn health(flags: &Flags, own: &HealthOf) -> Result<Exit> {
    with_config(flags, &own.of.from, async |config| work(flags, config, own).await)
}

async fn work(flags: &Flags, config: &Config, own: &HealthOf) -> Result<Exit> {
    let env = Env::system();
    let name = table::chosen(config, &own.of.from, Some(&own.of.tables))?;
    let disk = Arc::new(MemoryDisk::new());
    let round = maintain::round(config, name, &env, disk.clone(), disk).await?;
    let tables = table::matching(&round.catalog, &round.name, &own.of.tables).await?;
    let mut found = round.debts(&tables).await;
    sort(&mut found, own.sort);
    answer(flags, &said(&found))?;
    Ok(if found.iter().any(|(_, debt)| debt.is_err()) { Exit::Partial } else { Exit::Done })
}

/// The largest first; tables that cannot be looked at before all.
fn sort(found: &mut [Found], by: HealthSort) {
    found.sort_by_key(|(table, debt)| {
        let value = debt.as_ref().map_or(u64::MAX, |debt| match by {
            HealthSort::Debt => debt.score(),
            HealthSort::Files => debt.files,
            HealthSort::Size => debt.bytes,
            HealthSort::Deletes => debt.delete_files,
            HealthSort::Snapshots => debt.snapshots,
            HealthSort::Metadata => debt.metadata_bytes.unwrap_or_default(),
            HealthSort::Name => 0,
        });
        (Reverse(value), table.clone())
    });
}

fn said(found: &[Found]) -> Answer {
    let right = |name: &'static str| (name, Align::Right);
    let head = [
        ("table", Align::Left),
        right("debt"),
        right("files"),
        right("size"),
        right("p50"),
        right("deletes"),
        right("snapshots"),
        right("metadata"),
        right("cost"),
        ("what maintenance would do, and who else does", Align::Left),
    ];
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    Answer { json: json!({ "tables": found.iter().map(entry).collect::<Vec<Value>>() }), text: columns(&head, &rows) }
}

fn row((table, debt): &Found) -> Vec<String> {
    let debt = match debt {
        Ok(debt) => debt,
        Err(error) => {
            let mut cells = vec![table.to_string()];
            cells.extend(std::iter::repeat_n("-".to_owned(), 8));
            cells.push(format!("failed: {}", output::told(error)));
            return cells;
        }
    };
    let unknown = || "-".to_owned();
    let metadata = debt.metadata_bytes.map(|own| own.saturating_add(debt.manifest_bytes.unwrap_or_default()));
    vec![
        table.to_string(),
        count(debt.score()),
        count(debt.files),
        bytes(debt.bytes),
        debt.p50_bytes.map_or_else(unknown, bytes),
        count(debt.delete_files),
        count(debt.snapshots),
        metadata.map_or_else(unknown, bytes),
        format!("{}.{} s", debt.core_ms / 1_000, debt.core_ms % 1_000 / 100),
        words(debt),
    ]
}

fn words(debt: &Debt) -> String {
    let mut parts = Vec::new();
    if debt.rewrite.0 > 0 {
        parts.push(format!("{} to {}", output::counted(debt.rewrite.0, "file"), count(debt.rewrite.1)));
    }
    if debt.expirable > 0 {
        parts.push(format!("{} to go", output::counted(debt.expirable, "snapshot")));
    }
    if parts.is_empty() {
        parts.push("nothing".to_owned());
    }
    parts.extend(debt.keeper.iter().map(|keeper| format!("managed by {keeper}")));
    let rewrites = |(name, snapshots): (&String, &usize)| format!("{name} rewrote it {snapshots} times");
    parts.extend(debt.rewriters.iter().map(rewrites));
    parts.extend(debt.notes.iter().cloned());
    parts.join("; ")
}

fn entry((table, debt): &Found) -> Value {
    let name = table.to_string();
    match debt {
        Err(error) => json!({"table": name, "error": error.to_string(), "hint": error.hint()}),
        Ok(debt) => json!({
            "table": name, "debt": debt.score(), "files": debt.files, "bytes": debt.bytes, "p50-bytes": debt.p50_bytes,
            "delete-files": debt.delete_files, "snapshots": debt.snapshots, "expirable-snapshots": debt.expirable,
            "metadata-bytes": debt.metadata_bytes, "manifests": debt.manifests, "manifest-bytes": debt.manifest_bytes,
            "rewrite": {
                "files": debt.rewrite.0, "new-files": debt.rewrite.1, "bytes": debt.rewrite_bytes, "core-ms": debt.core_ms,
            },
            "managed-by": debt.keeper, "named-by-policy": debt.named, "last-writer": debt.writer,
            "rewritten-by": debt.rewriters, "notes": debt.notes,
        }),
    }
}
