//! Schema evolution: from what rows were observed to hold to the schema that takes them.
//!
//! Pure, and a fixed point: a schema that was evolved needs nothing more for the same observation. Columns are added
//! as optional, in the order of the structs' field ids and then by name, so that everybody who saw the same fields
//! gives them the same ids; types are widened by the specification's promotions alone (`int` → `long`, `float` →
//! `double`, `decimal` to more digits), which leave the values of every partition transform that takes them
//! unchanged; required columns become optional. Every old field keeps its id, name and place. (Format version 3 also
//! promotes `date` to timestamps without a zone: other engines do not read such a column right.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::spec::{
    ListType, Literal, MapType, NestedField, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, StructType, Type,
};

use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder, LeftOut};
use crate::decode::observe::Observed;
use crate::decode::type_text::type_text;
use crate::error::{Context, ErrorKind, Result};

/// What an observation makes of a schema.
#[derive(Debug)]
pub struct Evolution {
    /// The new schema, with the old one's schema id; `None` when nothing changes.
    pub schema: Option<Schema>,
    /// Paths of new columns.
    pub added: Vec<String>,
    /// Columns with a wider type: path, old and new type.
    pub widened: Vec<(String, String, String)>,
    /// Paths of columns that were required.
    pub relaxed: Vec<String>,
    /// What was asked for and is not possible; rows that need it do not fit.
    pub left_out: Vec<LeftOut>,
}

/// The schema that takes what was observed.
///
/// `last_column_id` is the table's highest id ever assigned, dropped columns included.
///
/// # Errors
/// `Internal` when the result is no valid schema.
pub fn evolve(current: &Schema, last_column_id: i32, observed: &Observed, limits: GrowthLimits) -> Result<Evolution> {
    let mut step = Step::new(current, last_column_id, observed, limits);
    let fields = step.fields(current.as_struct().fields(), None);
    step.finish(fields)
}

/// The schema with further optional columns at its end, except for those that it has by the same name.
///
/// # Errors
/// As [`evolve`].
pub fn add_columns(
    current: &Schema,
    last_column_id: i32,
    columns: &[(String, PrimitiveType)],
    limits: GrowthLimits,
) -> Result<Evolution> {
    let nothing = Observed::default();
    let mut step = Step::new(current, last_column_id, &nothing, limits);
    let mut fields = current.as_struct().fields().to_vec();
    for (name, kind) in columns {
        if current.as_struct().field_by_name(name).is_none() {
            fields.extend(step.growth.field_of(name, kind.clone()));
        }
    }
    step.finish(fields)
}

struct Step<'a> {
    current: &'a Schema,
    observed: &'a Observed,
    growth: Growth,
    /// New fields by the struct they go to.
    new: BTreeMap<Option<i32>, Vec<NestedFieldRef>>,
    /// Identifier fields and the structs around them: they must stay required.
    fixed: BTreeSet<i32>,
    widened: Vec<(String, String, String)>,
    relaxed: Vec<String>,
    left_out: Vec<LeftOut>,
}

impl<'a> Step<'a> {
    fn new(current: &'a Schema, last_column_id: i32, observed: &'a Observed, limits: GrowthLimits) -> Self {
        let mut growth = Growth::new(current, last_column_id, limits, GrowthOrder::Name);
        let mut structs = BTreeMap::from([(None, 0)]);
        find_structs(current.as_struct().fields(), 1, &mut structs);
        let mut new = BTreeMap::new();
        for (parent, shape) in &observed.added {
            let Some(depth) = structs.get(parent) else { continue };
            let path = parent.map_or("", |id| current.name_by_field_id(id).unwrap_or_default());
            let fresh = shape.without(|name| has(current, *parent, name));
            new.insert(*parent, growth.fields(path, *depth, &fresh));
        }
        let mut fixed = BTreeSet::new();
        let identifiers: BTreeSet<i32> = current.identifier_field_ids().collect();
        find_fixed(current.as_struct().fields(), &identifiers, &mut fixed);
        let (widened, relaxed, left_out) = (Vec::new(), Vec::new(), Vec::new());
        Self { current, observed, growth, new, fixed, widened, relaxed, left_out }
    }

    fn finish(mut self, fields: Vec<NestedFieldRef>) -> Result<Evolution> {
        self.left_out.append(&mut self.growth.left_out);
        let changed = !(self.growth.added.is_empty() && self.widened.is_empty() && self.relaxed.is_empty());
        let schema = if changed {
            let schema = Schema::builder()
                .with_schema_id(self.current.schema_id())
                .with_fields(fields)
                .with_identifier_field_ids(self.current.identifier_field_ids())
                .build()
                .context(ErrorKind::Internal, || "the evolved columns make no schema")?;
            Some(schema)
        } else {
            None
        };
        Ok(Evolution {
            schema,
            added: self.growth.added,
            widened: self.widened,
            relaxed: self.relaxed,
            left_out: self.left_out,
        })
    }

    fn path(&self, id: i32) -> String {
        self.current.name_by_field_id(id).unwrap_or_default().to_owned()
    }

    /// The fields of the struct `parent`, old ones first.
    fn fields(&mut self, fields: &[NestedFieldRef], parent: Option<i32>) -> Vec<NestedFieldRef> {
        let mut kept: Vec<_> = fields.iter().map(|field| self.field(field)).collect();
        kept.extend(self.new.remove(&parent).unwrap_or_default());
        kept
    }

    fn field(&mut self, field: &NestedFieldRef) -> NestedFieldRef {
        let mut evolved = NestedField::clone(field);
        evolved.required = field.required && !self.relax(field);
        match field.field_type.as_ref() {
            Type::Primitive(old) => {
                if let Some(wider) = self.observed.widened.get(&field.id) {
                    self.widen(&mut evolved, old, wider);
                }
            }
            Type::Struct(inner) => {
                let fields = self.fields(inner.fields(), Some(field.id));
                *evolved.field_type = Type::Struct(StructType::new(fields));
            }
            Type::List(list) => {
                *evolved.field_type = Type::List(ListType::new(self.field(&list.element_field)));
            }
            Type::Map(map) => {
                // A key's values are what rows are told apart by: it stays as it is, but for its type.
                let (key, value) = (self.field(&map.key_field), self.field(&map.value_field));
                *evolved.field_type = Type::Map(MapType::new(key, value));
            }
        }
        Arc::new(evolved)
    }

    /// Whether a required field becomes optional.
    fn relax(&mut self, field: &NestedField) -> bool {
        if !field.required || !self.observed.relaxed.contains(&field.id) {
            return false;
        }
        let path = self.path(field.id);
        if self.fixed.contains(&field.id) {
            let reason = "a value is missing, and an identifier field cannot become optional".to_owned();
            self.left_out.push(LeftOut { path, reason });
            return false;
        }
        self.relaxed.push(path);
        true
    }

    fn widen(&mut self, field: &mut NestedField, old: &PrimitiveType, wider: &PrimitiveType) {
        let path = self.path(field.id);
        let names = (type_text(&Type::Primitive(old.clone())), type_text(&Type::Primitive(wider.clone())));
        match promotion(old, wider) {
            Promotion::Held => {}
            Promotion::Legal => {
                *field.field_type = Type::Primitive(wider.clone());
                field.initial_default = field.initial_default.take().map(promoted);
                field.write_default = field.write_default.take().map(promoted);
                self.widened.push((path, names.0, names.1));
            }
            Promotion::Illegal => {
                let reason = format!("{} does not widen to {}", names.0, names.1);
                self.left_out.push(LeftOut { path, reason });
            }
        }
    }
}

enum Promotion {
    /// The column's type holds it already.
    Held,
    Legal,
    Illegal,
}

/// The specification's "Schema Evolution", valid type promotions that other engines read.
fn promotion(old: &PrimitiveType, wider: &PrimitiveType) -> Promotion {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (old, wider) {
        (Int, Long) | (Float, Double) => Promotion::Legal,
        (Long, Int | Long) | (Double, Float | Double) => Promotion::Held,
        (Decimal { precision: old, scale: a }, Decimal { precision: new, scale: b }) if a == b && *new <= 38 => {
            if new > old { Promotion::Legal } else { Promotion::Held }
        }
        (old, wider) if old == wider => Promotion::Held,
        _ => Promotion::Illegal,
    }
}

fn promoted(default: Literal) -> Literal {
    match default {
        Literal::Primitive(PrimitiveLiteral::Int(value)) => Literal::Primitive(PrimitiveLiteral::Long(value.into())),
        Literal::Primitive(PrimitiveLiteral::Float(value)) => {
            Literal::Primitive(PrimitiveLiteral::Double(f64::from(value.into_inner()).into()))
        }
        other => other,
    }
}

fn has(schema: &Schema, parent: Option<i32>, name: &str) -> bool {
    match parent.map(|id| schema.field_by_id(id).map(|field| field.field_type.as_ref())) {
        None => schema.as_struct().field_by_name(name).is_some(),
        Some(Some(Type::Struct(inner))) => inner.field_by_name(name).is_some(),
        Some(_) => false,
    }
}

/// Every struct and how deep its fields lie.
fn find_structs(fields: &[NestedFieldRef], depth: usize, found: &mut BTreeMap<Option<i32>, usize>) {
    for field in fields {
        match field.field_type.as_ref() {
            Type::Primitive(_) => {}
            Type::Struct(inner) => {
                found.insert(Some(field.id), depth);
                find_structs(inner.fields(), depth + 1, found);
            }
            Type::List(list) => find_structs(std::slice::from_ref(&list.element_field), depth + 1, found),
            Type::Map(map) => find_structs(std::slice::from_ref(&map.value_field), depth + 1, found),
        }
    }
}

/// Identifier fields and every struct that holds one; answers whether there is one among `fields`.
fn find_fixed(fields: &[NestedFieldRef], identifiers: &BTreeSet<i32>, fixed: &mut BTreeSet<i32>) -> bool {
    let mut any = false;
    for field in fields {
        let inside = match field.field_type.as_ref() {
            Type::Struct(inner) => find_fixed(inner.fields(), identifiers, fixed),
            _ => false,
        };
        if inside || identifiers.contains(&field.id) {
            fixed.insert(field.id);
            any = true;
        }
    }
    any
}

#[cfg(test)]
mod tests;
