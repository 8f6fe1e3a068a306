//! The rejects table: `<table>__rejects`, one row per reject, written in the same epoch as its neighbours.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, LargeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use iceberg::arrow::{UTC_TIME_ZONE, schema_to_arrow_schema};
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};

use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Reject, Stage};
use crate::model::ids::PartitionId;

/// What is appended to a table's name to name the table of its rejects.
pub const SUFFIX: &str = "__rejects";

/// The columns of a rejects table, with field ids from 1:
/// `origin`, `number`, `partition`, `stage`, `field`, `reason`, `raw`, `rejected_at`.
///
/// # Errors
/// `Internal`; never in practice.
pub fn rejects_schema() -> Result<Schema> {
    let field = |id, name: &str, kind, doc: &str| {
        Arc::new(NestedField::required(id, name, Type::Primitive(kind)).with_doc(doc))
    };
    Schema::builder()
        .with_fields([
            field(1, "origin", PrimitiveType::String, "where the row was read: a file, a topic"),
            field(2, "number", PrimitiveType::Long, "its number there: a line, an offset"),
            field(3, "partition", PrimitiveType::String, "the source partition"),
            field(4, "stage", PrimitiveType::String, "what refused it"),
            field(5, "field", PrimitiveType::String, "the column or JSON path concerned, empty for the whole row"),
            field(6, "reason", PrimitiveType::String, "why"),
            field(7, "raw", PrimitiveType::Binary, "the row's bytes, at most 64 KiB of them"),
            field(8, "rejected_at", PrimitiveType::Timestamptz, "when"),
        ])
        .build()
        .context(ErrorKind::Internal, || "the rejects table's schema")
}

/// Rejects of one partition as rows of the rejects table.
///
/// # Errors
/// `Internal` when Arrow refuses the columns.
pub fn to_batch(rejects: &[Reject], partition: &PartitionId, now_ms: i64) -> Result<RecordBatch> {
    let arrow = schema_to_arrow_schema(&rejects_schema()?)
        .context(ErrorKind::Internal, || "the rejects table's schema has no Arrow form")?;
    let cut = |reject: &Reject| reject.raw.len() > Reject::RAW_MAX;
    let reasons = rejects.iter().map(|reject| {
        if cut(reject) {
            format!("{} (the first {} bytes are kept)", reject.reason, Reject::RAW_MAX)
        } else {
            reject.reason.clone()
        }
    });
    let raws = rejects.iter().map(|reject| reject.raw.get(..Reject::RAW_MAX).unwrap_or(&reject.raw));
    let micros = now_ms.saturating_mul(1000);
    RecordBatch::try_new(
        Arc::new(arrow),
        vec![
            Arc::new(StringArray::from_iter_values(rejects.iter().map(|reject| &*reject.origin))),
            Arc::new(Int64Array::from_iter_values(rejects.iter().map(|r| i64::try_from(r.number).unwrap_or(i64::MAX)))),
            Arc::new(StringArray::new_repeated(partition.as_str(), rejects.len())),
            Arc::new(StringArray::from_iter_values(rejects.iter().map(|reject| reject.stage.as_str()))),
            Arc::new(StringArray::from_iter_values(rejects.iter().map(|reject| reject.field.as_str()))),
            Arc::new(StringArray::from_iter_values(reasons)),
            Arc::new(LargeBinaryArray::from_iter_values(raws)),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(micros, rejects.len()))
                    .with_timezone(UTC_TIME_ZONE),
            ),
        ],
    )
    .context(ErrorKind::Internal, || "rejects as columns")
}

/// How many rejects each stage made.
pub fn by_stage(rejects: &[Reject]) -> BTreeMap<Stage, u64> {
    let mut counts = BTreeMap::new();
    for reject in rejects {
        *counts.entry(reject.stage).or_default() += 1;
    }
    counts
}

/// Parts of a window that are told from one another: it slides by so much of its length.
const WINDOW_PARTS: i64 = 64;

/// Rows and rejects of the time that has just passed.
#[derive(Debug, Clone)]
pub struct RejectWindow {
    length_ms: i64,
    /// When a part began, its rows, its rejects; oldest first.
    parts: VecDeque<(i64, u64, u64)>,
}

impl RejectWindow {
    /// A window of this length, in which nothing has happened.
    pub fn new(length: Duration) -> Self {
        Self { length_ms: i64::try_from(length.as_millis()).unwrap_or(i64::MAX), parts: VecDeque::new() }
    }

    /// Counts `rows`, of which so many were rejected.
    pub fn add(&mut self, now_ms: i64, rows: u64, rejects: u64) {
        self.slide(now_ms);
        match self.parts.back_mut() {
            // Also where the clock went back.
            Some((began, of, bad)) if now_ms.saturating_sub(*began) < self.length_ms / WINDOW_PARTS => {
                (*of, *bad) = (of.saturating_add(rows), bad.saturating_add(rejects));
            }
            _ => self.parts.push_back((now_ms, rows, rejects)),
        }
    }

    /// Rows and rejects within the window that ends now.
    pub fn totals(&mut self, now_ms: i64) -> (u64, u64) {
        self.slide(now_ms);
        self.parts
            .iter()
            .fold((0, 0), |(rows, rejects), (_, of, bad)| (rows.saturating_add(*of), rejects.saturating_add(*bad)))
    }

    fn slide(&mut self, now_ms: i64) {
        while self.parts.front().is_some_and(|(began, ..)| now_ms.saturating_sub(*began) >= self.length_ms) {
            self.parts.pop_front();
        }
    }
}

/// Whether more than the share `halt_above` of `rows`, rejects included, was rejected. 1.0 never halts.
#[allow(clippy::cast_precision_loss)] // a share does not need more than 53 bits
pub fn halts(rejects: u64, rows: u64, halt_above: f64) -> bool {
    rows > 0 && rejects as f64 / rows as f64 > halt_above
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use bytes::Bytes;

    use super::*;

    fn reject(number: u64, stage: Stage, raw: &[u8]) -> Reject {
        Reject {
            origin: "a.json".into(),
            number,
            stage,
            field: "price".to_owned(),
            reason: "\"x\" is no int".to_owned(),
            raw: Bytes::copy_from_slice(raw),
        }
    }

    #[test]
    fn a_reject_is_a_row_with_all_that_is_known_about_it() {
        let rejects = [reject(3, Stage::Decode, b"{\xff"), reject(4, Stage::Route, b"")];
        let batch = to_batch(&rejects, &PartitionId::new("p"), 1500).expect("fits");
        let shown: Vec<_> = batch.columns().iter().map(|c| array_value_to_string(c, 0).expect("shows")).collect();
        assert_eq!(
            shown,
            ["a.json", "3", "p", "decode", "price", "\"x\" is no int", "7bff", "1970-01-01T00:00:01.500Z"]
        );
        assert_eq!(batch.num_rows(), 2);
        let ids: Vec<_> =
            batch.schema().fields().iter().filter_map(|f| f.metadata().get("PARQUET:field_id").cloned()).collect();
        assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(to_batch(&[], &PartitionId::new("p"), 0).expect("fits").num_rows(), 0);
    }

    #[test]
    fn a_long_row_is_cut_and_the_reason_says_so() {
        let long = reject(1, Stage::Source, &vec![b'x'; Reject::RAW_MAX + 1]);
        let batch = to_batch(&[long], &PartitionId::new("p"), 0).expect("fits");
        let raw = batch.column(6).as_any().downcast_ref::<LargeBinaryArray>().expect("binary").value(0).len();
        let reason = array_value_to_string(batch.column(5), 0).expect("shows");
        assert_eq!((raw, reason.as_str()), (65536, "\"x\" is no int (the first 65536 bytes are kept)"));
    }

    #[test]
    fn rejects_are_counted_by_stage() {
        let rejects = [Stage::Decode, Stage::Source, Stage::Decode].map(|stage| reject(1, stage, b""));
        assert_eq!(by_stage(&rejects), BTreeMap::from([(Stage::Source, 1), (Stage::Decode, 2)]));
    }

    #[test]
    fn a_pipeline_halts_above_its_share_and_not_at_it() {
        for (rejects, rows, share, expected) in [
            (0, 0, 0.0, false),
            (29, 100, 0.29, false),
            (1, 100, 0.01, false),
            (2, 100, 0.01, true),
            (1, 1, 0.0, true),
            (9, 9, 1.0, false),
        ] {
            assert_eq!(halts(rejects, rows, share), expected, "{rejects} of {rows} above {share}");
        }
    }

    #[test]
    fn a_window_forgets_what_is_older_than_itself_and_stays_small() {
        let mut window = RejectWindow::new(Duration::from_secs(300));
        assert_eq!(window.totals(0), (0, 0));
        window.add(0, 1_000, 1);
        window.add(1_000, 10, 5);
        assert_eq!(window.totals(299_999), (1_010, 6));
        window.add(200_000, 90, 0);
        assert_eq!(window.totals(300_000), (90, 0), "a part of the window goes as a whole");
        assert_eq!(window.totals(500_000), (0, 0));
        for second in 0..10_000 {
            window.add(second * 100, 1, 0);
        }
        assert!(window.parts.len() <= 65, "{}", window.parts.len());
        let (rows, _) = window.totals(999_900);
        assert!((2_900..=3_050).contains(&rows), "{rows}");
        window.add(5, 7, 7);
        assert_eq!(window.totals(999_900).1, 7, "a clock that goes back loses nothing");
    }
}
