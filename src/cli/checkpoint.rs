//! `table checkpoint`: how far each pipeline's rows are in a table.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::output::{Align, Answer, columns, record};
use crate::error::Result;
use crate::model::checkpoint::{Position, Record};
use crate::model::table::TableState;

/// Properties of this name, followed by `pipeline@ref`, hold records (docs/protocol.md, "Checkpoint").
pub(crate) const PREFIX: &str = "frazil.checkpoint.";

/// `table checkpoint`.
///
/// # Errors
/// `Corrupt` when a record cannot be read.
pub fn checkpoint(state: &TableState) -> Result<Answer> {
    let properties: BTreeMap<&String, &String> = state.metadata.properties().iter().collect();
    let mut text = String::new();
    let mut entries = Vec::new();
    for (key, value) in properties {
        let Some(owner) = key.strip_prefix(PREFIX) else { continue };
        let (pipeline, at) = owner.rsplit_once('@').unwrap_or((owner, ""));
        let own =
            Record::parse(value).map_err(|error| error.within(format!("table {}, property {key}", state.name)))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&record_text(pipeline, at, &own));
        entries.push(json!({ "pipeline": pipeline, "ref": at, "record": own }));
    }
    if entries.is_empty() {
        text.push_str("no checkpoints\n");
    }
    Ok(Answer { json: json!({ "table": state.name.to_string(), "checkpoints": entries }), text })
}

fn record_text(pipeline: &str, at: &str, own: &Record) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut text = record(&[
        ("pipeline", Some(pipeline.to_owned())),
        ("ref", some(at)),
        ("source", some(&own.checkpoint.source)),
        ("snapshot", Some(format!("{} (sequence {})", own.origin.snapshot, own.origin.seq))),
        ("commit", some(&own.origin.commit)),
    ]);
    let head = [("partition", Align::Left), ("position", Align::Left), ("last row", Align::Left)];
    let rows: Vec<Vec<String>> = own
        .checkpoint
        .positions
        .iter()
        .map(|(partition, position)| {
            let tail = own.checkpoint.tails.get(partition).cloned().unwrap_or_default();
            vec![partition.to_string(), position_text(position), tail]
        })
        .collect();
    text.push_str(&columns(&head, &rows));
    for location in &own.sealed {
        text.push_str(&format!("sealed, perhaps not in every table  {location}\n"));
    }
    text
}

pub(crate) fn position_text(position: &Position) -> String {
    match position {
        Position::Offset(offset) => format!("offset {offset}"),
        Position::Files(files) => {
            let mut text = if files.watermark.is_empty() {
                "no whole file".to_owned()
            } else {
                format!("files up to {}", files.watermark)
            };
            if let Some(open) = &files.open {
                text.push_str(&format!(", {} rows of {}", open.rows, open.name));
            }
            match files.late.len() {
                0 => {}
                1 => text.push_str(", 1 late file"),
                late => text.push_str(&format!(", {late} late files")),
            }
            text
        }
    }
}
