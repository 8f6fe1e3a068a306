//! Debezium's change events: what one means, and the columns that it fills beside those of the changed row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::spec::{ListType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};

use crate::config::DebeziumColumn;
use crate::decode::envelope_parts::{Part, Parts};
use crate::decode::fault::{Fault, excerpt};
use crate::decode::observe::{Observed, Shape};
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::scan::{self, Scanner};
use crate::error::Result;

/// Fields of an event's source that are kept, and what they are where a value does not say: those that tell where in a
/// database's log a change is. The others are the same in every event, or say the same in other units.
const SOURCE: &[(&str, PrimitiveType)] = &[
    ("ts_ms", PrimitiveType::Timestamptz),
    ("snapshot", PrimitiveType::String),
    ("db", PrimitiveType::String),
    ("schema", PrimitiveType::String),
    ("table", PrimitiveType::String),
    ("collection", PrimitiveType::String),
    ("sequence", PrimitiveType::String),
    ("txId", PrimitiveType::Long),
    ("lsn", PrimitiveType::Long),
    ("file", PrimitiveType::String),
    ("pos", PrimitiveType::Long),
    ("row", PrimitiveType::Long),
    ("gtid", PrimitiveType::String),
    ("server_id", PrimitiveType::Long),
    ("scn", PrimitiveType::String),
    ("commit_scn", PrimitiveType::String),
    ("change_lsn", PrimitiveType::String),
    ("commit_lsn", PrimitiveType::String),
    ("event_serial_no", PrimitiveType::Long),
    ("ord", PrimitiveType::Long),
];

/// Whether a field of an event's source is kept.
pub(crate) fn is_source_field(name: &str) -> bool {
    SOURCE.iter().any(|(known, _)| *known == name)
}

/// One change, as rows are made of it.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    /// The row after it, or before where it was deleted, and the field that this was in; none where no row changed.
    pub(crate) image: Option<(&'static str, &'a str)>,
    /// The row before it.
    pub(crate) before: Option<&'a str>,
    op: Option<&'a str>,
    ts_ms: Option<&'a str>,
    source: Option<&'a str>,
    transaction: Option<Cow<'a, str>>,
    message: Option<&'a str>,
}

/// The columns beside those of the changed row.
#[derive(Debug)]
pub(crate) struct Beside {
    /// Those that the table has.
    pub(crate) plan: StructPlan,
    /// What each of them holds.
    pub(crate) holds: Vec<DebeziumColumn>,
    /// Those that it lacks.
    pub(crate) lacking: Vec<(String, DebeziumColumn)>,
    /// What some column is to hold, whether the table has it or not.
    wanted: Vec<DebeziumColumn>,
}

impl Beside {
    /// The columns of a table's `fields` that `columns` names.
    ///
    /// # Errors
    /// `Unsupported` for a column that no value can fill.
    pub(crate) fn new(fields: &[NestedFieldRef], columns: &BTreeMap<String, DebeziumColumn>) -> Result<Self> {
        let own: Vec<_> = fields.iter().filter(|field| columns.contains_key(&field.name)).cloned().collect();
        let there: BTreeSet<&str> = own.iter().map(|field| field.name.as_str()).collect();
        let lacking = columns.iter().filter(|(name, _)| !there.contains(name.as_str()));
        Ok(Self {
            holds: own.iter().filter_map(|field| columns.get(&field.name).copied()).collect(),
            lacking: lacking.map(|(name, what)| (name.clone(), *what)).collect(),
            wanted: columns.values().copied().collect(),
            plan: StructPlan::of_row(&own, BTreeSet::new())?,
        })
    }

    /// The table's columns that hold that.
    pub(crate) fn of(&self, what: DebeziumColumn) -> impl Iterator<Item = &Plan> {
        self.plan.fields.iter().zip(&self.holds).filter(move |(_, held)| **held == what).map(|(plan, _)| plan)
    }

    /// What becomes of an event.
    ///
    /// # Errors
    /// A fault where it is none, or one that no column is there for.
    pub(crate) fn change<'a>(&self, parts: &Parts<'a>) -> Result<Change<'a>, Fault> {
        let Some(op) = parts.get(Part::Op) else { return self.without_op(parts) };
        let mut change = Change {
            op: Some(op),
            before: parts.get(Part::Before),
            ts_ms: parts.get(Part::TsMs),
            source: parts.get(Part::Source),
            transaction: parts.get(Part::Transaction).map(Cow::Borrowed),
            message: parts.get(Part::Message),
            image: None,
        };
        match op {
            "\"c\"" | "\"u\"" | "\"r\"" => match parts.get(Part::After) {
                Some(after) => change.image = Some(("after", after)),
                None => return Err(Fault::value(format!("no row in an event with op {op}")).in_field("after")),
            },
            "\"d\"" => match change.before {
                Some(before) => change.image = Some(("before", before)),
                None => {
                    let reason =
                        "a delete does not say which row: give the database's table a key, or REPLICA IDENTITY FULL";
                    return Err(Fault::value(reason).in_field("before"));
                }
            },
            "\"t\"" => {}
            "\"m\"" if self.wanted.contains(&DebeziumColumn::Message) => {}
            "\"m\"" => {
                let reason = "a message, and no column takes it: name one in decode.debezium.columns as \"message\"";
                return Err(Fault::value(reason).in_field("message"));
            }
            other => {
                let reason =
                    format!("{} is no kind of change: c, u, d, r, t and m are", excerpt(other.trim_matches('"')));
                return Err(Fault::value(reason).in_field("op"));
            }
        }
        Ok(change)
    }

    /// What comes on Debezium's topics without being a change.
    #[cold]
    fn without_op<'a>(&self, parts: &Parts<'a>) -> Result<Change<'a>, Fault> {
        if let (Some(status @ ("\"BEGIN\"" | "\"END\"")), Some(id)) = (parts.get(Part::Status), parts.get(Part::Id)) {
            if !self.wanted.contains(&DebeziumColumn::Transaction) {
                let reason = "the edge of a transaction, and no column takes its id: name one in decode.debezium.columns as \
                              \"transaction\", or leave the topic out";
                return Err(Fault::value(reason).in_field("status"));
            }
            let count = parts.get(Part::EventCount).unwrap_or("null");
            let transaction = Some(Cow::Owned(format!("{{\"id\":{id},\"event_count\":{count}}}")));
            return Ok(Change { op: Some(status), ts_ms: parts.get(Part::TsMs), transaction, ..Change::default() });
        }
        let reason = if parts.has(Part::Ddl) || parts.has(Part::TableChanges) {
            "a change of the database's schema, not of a row: leave its topic out"
        } else if parts.is_heartbeat() {
            "a heartbeat, not a change: leave its topic out"
        } else {
            "missing: this is none of Debezium's change events; where they are flattened on their way, decode.envelope is \
             \"none\" or \"connect\""
        };
        Err(Fault::value(reason).in_field("op"))
    }

    /// Notes what the table lacks for a change's columns beside its row; `before` is the type of its row before, where one is
    /// known.
    pub(crate) fn note(&self, change: &Change<'_>, before: Option<Shape>, observed: &mut Observed) {
        let source = change.source.and_then(|source| source_fields(source).ok());
        for (name, what) in &self.lacking {
            let shape = match what {
                DebeziumColumn::Before => before.clone(),
                what => type_of(*what, source.as_deref()).map(|kind| Shape::Typed(Arc::new(kind))),
            };
            if let Some(shape) = shape {
                observed.added.entry(None).or_default().insert(name, shape);
            }
        }
        for field in self.of(DebeziumColumn::Source) {
            let Kind::Struct(plan) = &field.kind else { continue };
            let new = source.iter().flatten().filter(|new| plan.find(&new.name).is_none());
            for new in new.filter(|new| plan.obstacle(&new.name).is_none()) {
                let shape = Shape::Typed(Arc::new(new.field_type.as_ref().clone()));
                observed.added.entry(plan.id).or_default().insert(&new.name, shape);
            }
        }
    }
}

/// The field of an event that a column beside the row holds, as faults name it.
pub(crate) fn field_of(what: DebeziumColumn) -> &'static str {
    match what {
        DebeziumColumn::Op => "op",
        DebeziumColumn::TsMs => "ts_ms",
        DebeziumColumn::Source => "source",
        DebeziumColumn::Transaction => "transaction",
        DebeziumColumn::Before => "before",
        DebeziumColumn::Unavailable => "unavailable",
        DebeziumColumn::Message => "message",
    }
}

impl<'a> Change<'a> {
    /// A row that is there, in the field of that name.
    pub(crate) fn of_row(field: &'static str, row: &'a str) -> Self {
        Self { image: Some((field, row)), ..Self::default() }
    }

    /// How many bytes its rows have.
    pub(crate) fn bytes(&self) -> usize {
        self.image.map_or(0, |(_, image)| image.len()) + self.before.map_or(0, str::len)
    }

    /// Whether the event says where it comes from.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// The text of what a column beside the row holds, `unavailable` among them; none: NULL.
    pub(crate) fn text<'b>(&'b self, what: DebeziumColumn, unavailable: Option<&'b str>) -> Option<&'b str> {
        match what {
            DebeziumColumn::Op => self.op,
            DebeziumColumn::TsMs => self.ts_ms,
            DebeziumColumn::Source => self.source,
            DebeziumColumn::Transaction => self.transaction.as_deref(),
            DebeziumColumn::Before => self.before,
            DebeziumColumn::Unavailable => unavailable,
            DebeziumColumn::Message => self.message,
        }
    }
}

/// The columns beside the row that a new table gets for a change; all optional, without ids.
pub(crate) fn new_columns(
    columns: &BTreeMap<String, DebeziumColumn>,
    change: &Change<'_>,
    before: Option<&Type>,
) -> Vec<NestedFieldRef> {
    let source = change.source.and_then(|source| source_fields(source).ok());
    let field = |(name, what): (&String, &DebeziumColumn)| {
        let kind = match what {
            DebeziumColumn::Before => before.cloned(),
            what => type_of(*what, source.as_deref()),
        };
        Some(Arc::new(NestedField::optional(0, name, kind?)))
    };
    columns.iter().filter_map(field).collect()
}

/// What a column beside the row is; none where the events have yet to say.
fn type_of(what: DebeziumColumn, source: Option<&[NestedFieldRef]>) -> Option<Type> {
    let text = Type::Primitive(PrimitiveType::String);
    let optional = |name: &str, kind: PrimitiveType| Arc::new(NestedField::optional(0, name, Type::Primitive(kind)));
    Some(match what {
        DebeziumColumn::Op => text,
        DebeziumColumn::TsMs => Type::Primitive(PrimitiveType::Timestamptz),
        DebeziumColumn::Source => {
            let fields = source.filter(|fields| !fields.is_empty())?;
            Type::Struct(StructType::new(fields.to_vec()))
        }
        DebeziumColumn::Transaction => Type::Struct(StructType::new(vec![
            optional("id", PrimitiveType::String),
            optional("total_order", PrimitiveType::Long),
            optional("data_collection_order", PrimitiveType::Long),
            optional("event_count", PrimitiveType::Long),
        ])),
        DebeziumColumn::Unavailable => Type::List(ListType::new(Arc::new(NestedField::list_element(0, text, false)))),
        DebeziumColumn::Message => Type::Struct(StructType::new(vec![
            optional("prefix", PrimitiveType::String),
            optional("content", PrimitiveType::Binary),
        ])),
        DebeziumColumn::Before => return None,
    })
}

/// Those of an event's source that are kept, in the order of [`SOURCE`].
fn source_fields(source: &str) -> Result<Vec<NestedFieldRef>, Fault> {
    let mut scanner = Scanner::new(source);
    if scanner.peek()? != scan::Kind::Object {
        return Ok(Vec::new());
    }
    scanner.open()?;
    let (mut found, mut first) = (BTreeMap::new(), true);
    while scanner.more(b'}', first)? {
        first = false;
        let name = scanner.key()?.unescape()?;
        let kind = scanner.peek()?;
        scanner.skip()?;
        let Some((at, (name, usual))) = SOURCE.iter().enumerate().find(|(_, (known, _))| *known == name) else {
            continue;
        };
        let kind = match kind {
            scan::Kind::String if *usual == PrimitiveType::Long => PrimitiveType::String,
            _ => usual.clone(),
        };
        found.insert(at, Arc::new(NestedField::optional(0, *name, Type::Primitive(kind))));
    }
    Ok(found.into_values().collect())
}
