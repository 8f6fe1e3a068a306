//! What manifests say of a file's place in a log, and whether that is enough.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, DataFile, ManifestContentType, Operation, Schema};

use crate::commit::manifests::{self, LiveEntry};
use crate::compact::files::{DataEntry, DeleteEntry, DeleteKind, LiveFiles};
use crate::error::Result;
use crate::model::ids::mark_in;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::verify::columns::{Columns, log_name, number_of, text_of};
use crate::verify::window::Window;

/// Manifests read at a time.
const PARALLEL: usize = 4;

/// What is known of a file's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The log, where all rows are of one.
    pub(super) log: Option<String>,
    /// The first and the last offset.
    pub(super) offsets: Option<(u64, u64)>,
    /// Whether each row has a log and an offset.
    pub(super) whole: bool,
    /// Whether its rows came into the table with it: a rewrite puts rows together that may be there twice, beside as many that are
    /// missing.
    pub(super) appended: bool,
}

/// Where the rows of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    /// Not in the window.
    Outside,
    /// One at each of these offsets of a log, within the window.
    Dense(String, u64, u64),
    /// Not known without reading it, and why.
    Open(&'static str),
}

impl Bounds {
    pub(super) fn of(file: &DataFile, schema: &Schema, columns: &Columns, appended: bool) -> Self {
        let (lower, upper, nulls) = (file.lower_bounds(), file.upper_bounds(), file.null_value_counts());
        let required = |id: i32| schema.as_struct().field_by_id(id).is_some_and(|field| field.required);
        let whole = columns.each().all(|column| nulls.get(&column.id) == Some(&0) || required(column.id));
        let label = |id: i32| {
            let (low, high) = (text_of(lower.get(&id)?)?, text_of(upper.get(&id)?)?);
            (low == high).then_some(low)
        };
        let topic = columns.topic.as_ref().map(|column| label(column.id));
        let partition = columns.partition.as_ref().map(|column| label(column.id));
        let one = topic != Some(None) && partition != Some(None);
        let log = one.then(|| log_name(topic.flatten().as_deref(), partition.flatten().as_deref()));
        let id = columns.offset.id;
        let end = |bounds: &HashMap<i32, iceberg::spec::Datum>| u64::try_from(number_of(bounds.get(&id)?)?).ok();
        Self { log, offsets: end(lower).zip(end(upper)), whole, appended }
    }

    /// Whether they settle where the rows of a file are.
    pub(super) fn sight(&self, rows: u64, deletes: bool, window: &Window) -> Sight {
        let log = self.log.as_deref().filter(|_| self.whole);
        let range = match log {
            Some(log) => match window.of(log) {
                Some(range) => range,
                None => return Sight::Outside,
            },
            None => window.hull(),
        };
        let Some((first, last)) = self.offsets else { return Sight::Open("no bounds of offsets") };
        if self.whole && (last < *range.start() || first > *range.end()) {
            return Sight::Outside;
        }
        match log {
            None if !self.whole => Sight::Open("nothing says that each row has an offset"),
            None => Sight::Open("rows of several logs, or bounds that were cut"),
            Some(_) if deletes => Sight::Open("deletes reach it"),
            Some(_) if last.checked_sub(first).and_then(|span| span.checked_add(1)) != Some(rows) => {
                Sight::Open("not as many rows as offsets")
            }
            Some(_) if !self.appended => Sight::Open("a rewrite put its rows together, or nothing says that none did"),
            Some(log) => Sight::Dense(log.to_owned(), first.max(*range.start()), last.min(*range.end())),
        }
    }
}

/// The bounds of every live data file of the head of a branch.
///
/// # Errors
/// Those of the store; `Corrupt` for manifests that cannot be read.
pub(super) async fn bounds(
    storage: &Storage,
    state: &TableState,
    branch: &str,
    columns: &Columns,
) -> Result<HashMap<String, Bounds>> {
    let Some(head) = state.head(branch) else { return Ok(HashMap::new()) };
    let list = manifests::list(storage, head.manifest_list(), state.metadata.format_version()).await?;
    let schema = state.metadata.current_schema();
    let data = list.iter().filter(|manifest| manifest.content == ManifestContentType::Data);
    let reads: Vec<_> = data.map(|manifest| manifests::live_entries(storage, manifest)).collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL);
    let mut found = HashMap::new();
    while let Some(entries) = reads.try_next().await? {
        let files = entries.iter().filter(|entry| entry.file.content_type() == DataContentType::Data);
        found.extend(files.map(|entry| {
            let bounds = Bounds::of(&entry.file, schema, columns, is_appended(state, entry));
            (entry.file.file_path().to_owned(), bounds)
        }));
    }
    Ok(found)
}

/// Whether a file was appended. Of a snapshot that has expired its operation is not known; a pipeline's own files say so by their
/// names, which are not those of rewrites.
fn is_appended(state: &TableState, entry: &LiveEntry) -> bool {
    match state.metadata.snapshot_by_id(entry.snapshot_id) {
        Some(snapshot) => snapshot.summary().operation == Operation::Append,
        None => is_own(entry.file.file_path()),
    }
}

/// Whether a pipeline wrote the file of this name, and no rewrite did.
fn is_own(location: &str) -> bool {
    let rest = |mark: &str| location.rsplit('/').next().and_then(|name| name.strip_prefix(mark)).map(str::to_owned);
    mark_in(location).and_then(rest).is_some_and(|rest| !rest.starts_with("-compact-"))
}

/// Deletes by what they may reach.
pub(super) struct Deletes<'a> {
    by_target: HashMap<&'a str, Vec<&'a DeleteEntry>>,
    by_partition: HashMap<usize, Vec<&'a DeleteEntry>>,
    everywhere: Vec<&'a DeleteEntry>,
}

impl<'a> Deletes<'a> {
    pub(super) fn of(files: &'a LiveFiles) -> Self {
        let mut own = Self { by_target: HashMap::new(), by_partition: HashMap::new(), everywhere: Vec::new() };
        for entry in &files.deletes {
            let global = files.partitions.get(entry.partition).is_some_and(|partition| partition.global);
            match (&entry.target, &entry.kind) {
                (Some(target), _) => own.by_target.entry(target).or_default().push(entry),
                (None, DeleteKind::Equality(_)) if global => own.everywhere.push(entry),
                (None, _) => own.by_partition.entry(entry.partition).or_default().push(entry),
            }
        }
        own
    }

    /// Those that may delete rows of a file.
    pub(super) fn reaching(&self, file: &DataEntry, files: &LiveFiles) -> Vec<&'a DeleteEntry> {
        let own = [self.by_target.get(file.location.as_str()), self.by_partition.get(&file.partition)];
        let own = own.into_iter().flatten().chain([&self.everywhere]).flatten();
        own.copied().filter(|entry| entry.reaches(file, &files.partitions)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::PipelineName;
    use crate::verify::window::Ends;

    #[test]
    fn bounds_settle_a_file_of_one_log_with_a_row_at_each_offset_and_no_other() {
        let whole = |log: Option<&str>, first, last| Bounds {
            log: log.map(str::to_owned),
            offsets: Some((first, last)),
            whole: true,
            appended: true,
        };
        let all = Window::default();
        let dense = whole(Some("t/0"), 5, 9);
        assert_eq!(dense.sight(5, false, &all), Sight::Dense("t/0".to_owned(), 5, 9));
        assert!(matches!(dense.sight(4, false, &all), Sight::Open(_)));
        assert!(matches!(dense.sight(6, false, &all), Sight::Open(_)));
        assert!(matches!(dense.sight(5, true, &all), Sight::Open(_)));
        assert!(matches!(whole(None, 5, 9).sight(5, false, &all), Sight::Open(_)));
        assert!(matches!(Bounds { whole: false, ..dense.clone() }.sight(5, false, &all), Sight::Open(_)));
        assert!(matches!(Bounds { offsets: None, ..dense.clone() }.sight(5, false, &all), Sight::Open(_)));
        assert!(matches!(Bounds { appended: false, ..dense.clone() }.sight(5, false, &all), Sight::Open(_)));

        let window = Window { from: Ends { all: Some(7), ..Ends::default() }, ..Window::default() };
        assert_eq!(dense.sight(5, false, &window), Sight::Dense("t/0".to_owned(), 7, 9));
        assert_eq!(whole(None, 0, 6).sight(3, false, &window), Sight::Outside);
        assert!(matches!(Bounds { whole: false, ..whole(None, 0, 6) }.sight(3, false, &window), Sight::Open(_)));
        let other = Window { only: vec!["t/1".to_owned()], ..Window::default() };
        assert_eq!(dense.sight(4, true, &other), Sight::Outside);
    }

    #[test]
    fn files_of_pipelines_are_told_from_those_of_rewrites_by_their_names() {
        let mark = PipelineName::new("orders").file_mark();
        let uuid = "0193b5e0-1111-7000-8000-000000000000";
        assert!(is_own(&format!("s3://b/t/data/log=0/{mark}-{uuid}-00001.parquet")));
        for other in
            [format!("{mark}-compact-{uuid}-00001"), format!("compact-{uuid}-00001"), format!("00000-1-{uuid}")]
        {
            assert!(!is_own(&format!("s3://b/t/data/{other}.parquet")), "{other}");
        }
    }
}
