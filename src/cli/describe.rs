//! Tables in words: what `table list`, `show` and `history` answer, as functions of a table's state.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::checkpoint::PREFIX;
use crate::cli::output::{Align, Answer, bytes, columns, count, moment, record};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// `table list`.
pub fn list(tables: &[TableName]) -> Answer {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let text = if names.is_empty() {
        "no tables\n".to_owned()
    } else {
        names.iter().map(|name| format!("{name}\n")).collect()
    };
    Answer { json: json!({ "tables": names }), text }
}

/// `table show`.
pub fn show(state: &TableState) -> Answer {
    let metadata = &state.metadata;
    let schema = to_json(metadata.current_schema().as_ref());
    let spec = to_json(metadata.default_partition_spec().as_ref());
    let order = to_json(metadata.default_sort_order().as_ref());
    let properties: BTreeMap<&String, &String> = metadata.properties().iter().collect();
    let current = metadata.current_snapshot().map(|snapshot| {
        let summary: BTreeMap<&String, &String> = snapshot.summary().additional_properties.iter().collect();
        json!({
            "snapshot-id": snapshot.snapshot_id(),
            "sequence-number": snapshot.sequence_number(),
            "timestamp": moment(snapshot.timestamp_ms()),
            "operation": snapshot.summary().operation.as_str(),
            "summary": summary,
        })
    });
    let json = json!({
        "name": state.name.to_string(),
        "uuid": metadata.uuid().to_string(),
        "format-version": metadata.format_version() as u8,
        "location": metadata.location(),
        "metadata-location": state.metadata_location,
        "last-updated": moment(metadata.last_updated_ms()),
        "last-sequence-number": metadata.last_sequence_number(),
        "schema": schema,
        "partition-spec": spec,
        "sort-order": order,
        "properties": properties,
        "refs": state.refs.iter().map(|(name, at)| (name.clone(), to_json(at))).collect::<serde_json::Map<_, _>>(),
        "current-snapshot": current,
        "snapshots": metadata.snapshots().len(),
    });
    Answer { text: show_text(state, &schema, &spec, &order), json }
}

fn show_text(state: &TableState, schema: &Value, spec: &Value, order: &Value) -> String {
    let metadata = &state.metadata;
    let current = metadata.current_snapshot();
    let total = |key: &str| {
        let summary = current.map(|snapshot| &snapshot.summary().additional_properties);
        summary.and_then(|summary| summary.get(key)).and_then(|text| text.parse::<u64>().ok())
    };
    let mut text = record(&[
        ("table", Some(state.name.to_string())),
        ("uuid", Some(metadata.uuid().to_string())),
        ("format", Some(format!("v{}", metadata.format_version() as u8))),
        ("location", Some(metadata.location().to_owned())),
        ("metadata", state.metadata_location.clone()),
        ("updated", Some(moment(metadata.last_updated_ms()))),
        ("snapshots", Some(count(metadata.snapshots().len() as u64))),
        ("current", Some(current.map_or_else(|| "none".to_owned(), |snapshot| snapshot.snapshot_id().to_string()))),
        ("rows", total("total-records").map(count)),
        ("data files", total("total-data-files").map(count)),
        ("delete files", total("total-delete-files").filter(|files| *files > 0).map(count)),
        ("size", total("total-files-size").map(bytes)),
    ]);

    let mut rows = Vec::new();
    for field in schema["fields"].as_array().into_iter().flatten() {
        field_rows(field, "", &mut rows);
    }
    for row in &mut rows {
        let opaque = row.get(1).and_then(|name| state.opaque.get(name)).cloned();
        if let (Some(kind), Some(cell)) = (opaque, row.get_mut(2)) {
            *cell = format!("{kind} (unknown here)");
        }
    }
    text.push('\n');
    let head = [
        ("id", Align::Right),
        ("column", Align::Left),
        ("type", Align::Left),
        ("null", Align::Left),
        ("doc", Align::Left),
    ];
    text.push_str(&columns(&head, &rows));

    let partition = layout(state, &spec["fields"], |_| String::new());
    text.push_str(&format!("\npartition  {}\n", or_none(partition)));
    let sort = layout(state, &order["fields"], |field| {
        let nulls = field["null-order"].as_str().unwrap_or_default().replace('-', " ");
        format!(" {} {nulls}", field["direction"].as_str().unwrap_or_default())
    });
    text.push_str(&format!("sort       {}\n", or_none(sort)));

    text.push_str(&refs_text(state));
    text.push_str(&properties_text(state));
    text
}

fn refs_text(state: &TableState) -> String {
    let rows: Vec<Vec<String>> = state
        .refs
        .iter()
        .map(|(name, at)| {
            let kind = if at.is_branch() { "branch" } else { "tag" };
            vec![name.clone(), kind.to_owned(), at.snapshot_id.to_string()]
        })
        .collect();
    if rows.is_empty() {
        return "\nrefs       none\n".to_owned();
    }
    let head = [("ref", Align::Left), ("kind", Align::Left), ("snapshot", Align::Left)];
    format!("\n{}", columns(&head, &rows))
}

fn properties_text(state: &TableState) -> String {
    let properties: BTreeMap<&String, &String> = state.metadata.properties().iter().collect();
    let (records, others): (Vec<_>, Vec<_>) = properties.into_iter().partition(|(name, _)| name.starts_with(PREFIX));
    let mut text = String::new();
    if !others.is_empty() {
        let entries: Vec<(&str, Option<String>)> =
            others.iter().map(|(name, value)| (name.as_str(), Some((*value).clone()))).collect();
        text.push_str("\nproperties\n");
        text.push_str(&record(&entries));
    }
    if !records.is_empty() {
        text.push_str(&format!("\ncheckpoints: {}, shown by frazil table checkpoint\n", records.len()));
    }
    text
}

/// One field and the fields in it, a line each.
fn field_rows(field: &Value, above: &str, rows: &mut Vec<Vec<String>>) {
    let name = format!("{above}{}", field["name"].as_str().unwrap_or_default());
    let null = if field["required"] == json!(true) { "no" } else { "yes" };
    let doc = field["doc"].as_str().unwrap_or_default().to_owned();
    nested_rows(&field["id"], name, &field["type"], null, doc, rows);
}

fn nested_rows(id: &Value, name: String, kind: &Value, null: &str, doc: String, rows: &mut Vec<Vec<String>>) {
    let word = kind.as_str().or_else(|| kind["type"].as_str()).unwrap_or_default().to_owned();
    rows.push(vec![id.to_string(), name.clone(), word, null.to_owned(), doc]);
    for field in kind["fields"].as_array().into_iter().flatten() {
        field_rows(field, &format!("{name}."), rows);
    }
    for part in ["element", "key", "value"] {
        if let Some(own) = kind.get(part) {
            let null = if part == "key" || kind[format!("{part}-required")] == json!(true) { "no" } else { "yes" };
            nested_rows(&kind[format!("{part}-id")], format!("{name}.{part}"), own, null, String::new(), rows);
        }
    }
}

/// Partition or sort fields as the configuration writes them.
fn layout(state: &TableState, fields: &Value, suffix: impl Fn(&Value) -> String) -> String {
    let schema = state.metadata.current_schema();
    let term = |field: &Value| {
        let id = field["source-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        let column = id.and_then(|id| schema.name_by_field_id(id)).unwrap_or("(dropped column)");
        let transform = field["transform"].as_str().unwrap_or_default();
        let term = match transform.trim_end_matches(']').split_once('[') {
            Some((name, width)) => format!("{name}({width}, {column})"),
            None if transform == "identity" => column.to_owned(),
            None => format!("{transform}({column})"),
        };
        format!("{term}{}", suffix(field))
    };
    fields.as_array().into_iter().flatten().map(term).collect::<Vec<_>>().join(", ")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

fn to_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// `table history`.
pub fn history(state: &TableState) -> Answer {
    let mut snapshots: Vec<_> = state.metadata.snapshots().collect();
    snapshots.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms(), snapshot.snapshot_id()));
    let mut rows = Vec::new();
    let mut entries = Vec::new();
    for snapshot in snapshots {
        let id = snapshot.snapshot_id();
        let refs: Vec<&str> =
            state.refs.iter().filter(|(_, at)| at.snapshot_id == id).map(|(name, _)| name.as_str()).collect();
        let summary: BTreeMap<&String, &String> = snapshot.summary().additional_properties.iter().collect();
        let number = |key: &str| summary.get(&key.to_owned()).and_then(|text| text.parse::<u64>().ok());
        let signed = |added: &str, removed: &str, show: fn(u64) -> String| match (number(added), number(removed)) {
            (Some(added), Some(removed)) if removed > 0 => format!("+{} -{}", show(added), show(removed)),
            (None, Some(removed)) if removed > 0 => format!("-{}", show(removed)),
            (Some(added), _) if added > 0 => format!("+{}", show(added)),
            _ => String::new(),
        };
        let operation = snapshot.summary().operation.as_str();
        rows.push(vec![
            moment(snapshot.timestamp_ms()),
            id.to_string(),
            snapshot.parent_snapshot_id().map(|id| id.to_string()).unwrap_or_default(),
            operation.to_owned(),
            signed("added-records", "deleted-records", count),
            signed("added-data-files", "deleted-data-files", count),
            signed("added-files-size", "removed-files-size", bytes),
            number("total-records").map(count).unwrap_or_default(),
            refs.join(", "),
        ]);
        entries.push(json!({
            "snapshot-id": id,
            "parent-snapshot-id": snapshot.parent_snapshot_id(),
            "sequence-number": snapshot.sequence_number(),
            "timestamp": moment(snapshot.timestamp_ms()),
            "operation": operation,
            "schema-id": snapshot.schema_id(),
            "summary": summary,
            "refs": refs,
        }));
    }
    let head = [
        ("time", Align::Left),
        ("snapshot", Align::Left),
        ("parent", Align::Left),
        ("operation", Align::Left),
        ("rows", Align::Right),
        ("files", Align::Right),
        ("size", Align::Right),
        ("total rows", Align::Right),
        ("refs", Align::Left),
    ];
    let text = if rows.is_empty() { "no snapshots\n".to_owned() } else { columns(&head, &rows) };
    Answer { json: json!({ "table": state.name.to_string(), "snapshots": entries }), text }
}
