//! JSON rows that name their schemas in a registry: a byte 0, the four bytes of an id, a JSON object.
//!
//! The schema says what the columns of a new table are, and how they grow; the values go the way of all JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef};

use crate::config::{MetadataColumn, OnChange};
use crate::decode::fault::Fault;
use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder};
use crate::decode::infer;
use crate::decode::json::{JsonDecoder, JsonOptions};
use crate::decode::json_schema::JsonSchema;
use crate::decode::observe::{Observed, StructShape};
use crate::decode::plan::StructPlan;
use crate::decode::rows::{Laid, Target};
use crate::decode::writers::{Framed, Writers};
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch};

/// Decodes framed JSON objects to the columns of one table schema.
#[derive(Debug)]
pub struct FramedJsonDecoder {
    schema: SchemaRef,
    json: JsonDecoder,
    writers: Writers<JsonSchema>,
    /// Schemas laid onto this table's, by id.
    laid: Laid<Option<u32>, Fitted>,
}

/// A schema laid onto a table.
#[derive(Debug)]
struct Fitted {
    /// How rows of it are read, where that is not as other rows of the table are.
    plan: Option<StructPlan>,
    /// What the table lacks for it.
    needs: Observed,
}

/// A schema laid onto the table, or why its rows cannot be read.
type Lookup = Result<Arc<Fitted>, Fault>;

/// What a row is read by.
enum Reading<'a> {
    Common(&'a StructPlan),
    Own(Arc<Fitted>, &'a StructPlan),
}

impl Deref for Reading<'_> {
    type Target = StructPlan;

    fn deref(&self) -> &StructPlan {
        match self {
            Self::Common(plan) => plan,
            Self::Own(fitted, common) => fitted.plan.as_ref().unwrap_or(common),
        }
    }
}

impl FramedJsonDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that JSON cannot fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, writers: Writers<JsonSchema>, options: JsonOptions) -> Result<Self> {
        let json = JsonDecoder::new(schema, options)?;
        Ok(Self { schema: Arc::clone(schema), json, writers, laid: Laid::new(usize::MAX) })
    }

    /// As [`JsonDecoder::decode_observed`] does, and says what the rows' schemas hold that the table's does not. Before rows are
    /// decoded, their schemas must be known ([`Writers::learn`]).
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.json.options.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        // The last row's schema: mostly that of the next one.
        let mut last: Option<(Option<u32>, Lookup)> = None;
        let mut needed = BTreeSet::new();
        let unframe = |row| {
            let Framed { id, datum } = self.writers.framed(row)?;
            let fitted = match &last {
                Some((held, fitted)) if *held == id => fitted.clone(),
                _ => last.insert((id, self.fitted(id))).1.clone(),
            }?;
            let plan = &self.json.target.plan;
            Ok((datum, if fitted.plan.is_some() { Reading::Own(fitted, plan) } else { Reading::Common(plan) }))
        };
        let seen = |row: &[u8]| {
            if let Ok(framed) = self.writers.framed(row) {
                needed.insert(framed.id);
            }
        };
        let (batch, observed) = self.json.decode_with(raw, on_change, unframe, seen);
        if on_change != OnChange::Evolve {
            return (batch, observed);
        }
        (batch, self.with_needs(needed, observed))
    }

    /// What was observed, with what the schemas of the rows ask for. A schema's word on a field is the last one.
    fn with_needs(&self, ids: BTreeSet<Option<u32>>, seen: Observed) -> Observed {
        let mut observed = Observed::default();
        for fitted in ids.into_iter().filter_map(|id| self.fitted(id).ok()) {
            observed.merge(fitted.needs.clone());
        }
        for (parent, shape) in seen.added {
            let said = observed.added.remove(&parent).unwrap_or_default();
            observed.added.insert(parent, said.with_seen(shape));
        }
        observed.merge(Observed { added: BTreeMap::new(), ..seen });
        observed
    }

    fn fitted(&self, id: Option<u32>) -> Lookup {
        self.laid.get(id, || {
            let writer = self.writers.known(id)?;
            let target = Target::new(&self.schema, &self.json.options.metadata);
            let mut plan = target.map_err(|error| Fault::row(error.to_string()))?.plan;
            let own = writer.tell(&mut plan);
            Ok(Fitted { needs: writer.needs(&self.json.target.plan), plan: own.then_some(plan) })
        })
    }
}

/// The schema of a table that is to hold rows like these, with field ids from 1: what the schema of the first of them says, and
/// what the rows have beside it. Fields with the name of a `metadata` column, in whatever case, are left out.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn table_schema<'a>(
    writers: &Writers<JsonSchema>,
    raw: &RawBatch,
    rows: impl Iterator<Item = &'a [u8]>,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
) -> Result<Schema> {
    let invalid = || "the columns of the writer's schema make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    let mut said = writers.first(raw).map(|writer| writer.fields()).unwrap_or_default();
    said.retain(|field| !reserved.contains(&field.name.to_lowercase()));
    let mut seen = StructShape::default();
    for row in rows {
        // Rows without a schema will be rejects.
        let Ok(framed) = writers.framed(row) else { continue };
        if writers.known(framed.id).is_ok()
            && let Some(shape) = infer::read_row(framed.datum)
        {
            seen.merge(shape);
        }
    }
    let seen = seen.without(|name| reserved.contains(&name.to_lowercase()) || said.iter().any(|f| f.name == name));
    let mut fields = growth.typed_fields("", 0, &said);
    fields.extend(growth.fields("", 0, &seen));
    Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)
}

#[cfg(test)]
mod tests;
