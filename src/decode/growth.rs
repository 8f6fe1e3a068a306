//! New columns for what rows were observed to hold: names, types and field ids, within limits.
//!
//! Names that differ from a column in case only are left out, because most engines do not tell them apart; so are
//! names whose dotted path another column has already, empty ones and ones beyond [`NAME_BYTES_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::config::{MetadataColumn, SchemaConfig};
use crate::decode::fault::shortened;
use crate::decode::observe::{NAME_BYTES_MAX, Shape, StructShape};
use crate::error::{Context, ErrorKind, Result};

/// How far a schema may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowthLimits {
    /// Columns, nested ones, list elements and map keys and values included.
    pub columns_max: usize,
    /// Levels of structs and lists; what is nested deeper becomes a `string` of its JSON text.
    pub depth_max: usize,
}

impl From<&SchemaConfig> for GrowthLimits {
    fn from(config: &SchemaConfig) -> Self {
        Self { columns_max: config.columns_max, ..Self::default() }
    }
}

impl Default for GrowthLimits {
    fn default() -> Self {
        Self { columns_max: 1000, depth_max: 16 }
    }
}

/// The order of new columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowthOrder {
    /// By name: the same for everybody who saw the same fields.
    Name,
    /// As they first appeared.
    Appearance,
}

/// A field that does not become a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path, as Iceberg writes it.
    pub path: String,
    /// Why, as a sentence without a full stop.
    pub reason: String,
}

/// A schema that is growing.
#[derive(Debug)]
pub struct Growth {
    next_id: i32,
    columns: usize,
    limits: GrowthLimits,
    order: GrowthOrder,
    /// Paths of columns in lower case.
    taken: BTreeSet<String>,
    /// Paths of the columns that were added, outermost ones only.
    pub added: Vec<String>,
    /// What was not added.
    pub left_out: Vec<LeftOut>,
}

impl Growth {
    /// Growth of `schema`, with ids above `last_column_id`.
    pub fn new(schema: &Schema, last_column_id: i32, limits: GrowthLimits, order: GrowthOrder) -> Self {
        let names = schema.field_id_to_name_map();
        Self {
            next_id: last_column_id.max(schema.highest_field_id()).saturating_add(1),
            columns: names.len(),
            limits,
            order,
            taken: names.values().map(|name| name.to_lowercase()).collect(),
            added: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// New fields for what `shape` holds and the struct at `path` does not; `depth` is that struct's, 0 for the row.
    pub fn fields(&mut self, path: &str, depth: usize, shape: &StructShape) -> Vec<NestedFieldRef> {
        let mut fields: Vec<_> = shape.fields().collect();
        if self.order == GrowthOrder::Name {
            fields.sort_unstable_by_key(|(name, _)| *name);
        }
        let mut made = Vec::new();
        for (name, shape) in fields {
            let path = join(path, name);
            let size = size(shape, self.limits.depth_max.saturating_sub(depth));
            if let Some(reason) = self.obstacle(name, &path, size) {
                self.left_out.push(LeftOut { path: shortened(&path).into_owned(), reason });
                continue;
            }
            if let Some(field) = self.field(name, path.clone(), depth, shape) {
                self.added.push(path);
                made.push(field);
            }
        }
        if shape.left_out > 0 {
            let reason = format!("{} more fields than a batch may add", shape.left_out);
            self.left_out.push(LeftOut { path: path.to_owned(), reason });
        }
        made
    }

    /// A new optional field of a given primitive type, unless something is in its way.
    pub fn field_of(&mut self, name: &str, kind: PrimitiveType) -> Option<NestedFieldRef> {
        if let Some(reason) = self.obstacle(name, name, 1) {
            self.left_out.push(LeftOut { path: name.to_owned(), reason });
            return None;
        }
        self.added.push(name.to_owned());
        let id = self.claim(name.to_owned());
        Some(Arc::new(NestedField::optional(id, name, Type::Primitive(kind))))
    }

    fn obstacle(&self, name: &str, path: &str, size: usize) -> Option<String> {
        if name.is_empty() {
            return Some("it has no name".to_owned());
        }
        if name.len() > NAME_BYTES_MAX {
            return Some(format!("its name has more than {NAME_BYTES_MAX} bytes"));
        }
        if self.taken.contains(&path.to_lowercase()) {
            return Some("another column has this name, or one that differs in case only".to_owned());
        }
        let room = self.limits.columns_max.saturating_sub(self.columns);
        let ids = usize::try_from(i32::MAX - self.next_id).unwrap_or(0);
        (size > room.min(ids)).then(|| format!("the schema would have more than {} columns", self.limits.columns_max))
    }

    fn claim(&mut self, path: String) -> i32 {
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        self.columns += 1;
        self.taken.insert(path.to_lowercase());
        id
    }

    fn field(&mut self, name: &str, path: String, depth: usize, shape: &Shape) -> Option<NestedFieldRef> {
        let id = self.claim(path.clone());
        let kind = self.kind(&path, depth, shape)?;
        Some(Arc::new(NestedField::optional(id, name, kind)))
    }

    /// The fields of a type that a writer's schema says, with ids of their own; those that something is in the way of are left
    /// out.
    pub fn typed_fields(&mut self, path: &str, depth: usize, fields: &[NestedFieldRef]) -> Vec<NestedFieldRef> {
        let mut made = Vec::with_capacity(fields.len());
        for field in fields {
            let path = join(path, &field.name);
            if let Some(reason) = self.obstacle(&field.name, &path, type_size(&field.field_type)) {
                self.left_out.push(LeftOut { path: shortened(&path).into_owned(), reason });
                continue;
            }
            let id = self.claim(path.clone());
            if let Some(kind) = self.typed(&path, depth, &field.field_type) {
                made.push(Arc::new(NestedField::new(id, &field.name, kind, field.required)));
            }
        }
        made
    }

    /// A type that a writer's schema says; `None` where nothing of it can be a column.
    fn typed(&mut self, path: &str, depth: usize, kind: &Type) -> Option<Type> {
        if depth >= self.limits.depth_max && !kind.is_primitive() {
            let reason = format!("nested deeper than {} levels", self.limits.depth_max);
            self.left_out.push(LeftOut { path: shortened(path).into_owned(), reason });
            return None;
        }
        Some(match kind {
            Type::Primitive(_) => kind.clone(),
            Type::Struct(inner) => {
                let fields = self.typed_fields(path, depth + 1, inner.fields());
                if fields.is_empty() {
                    return None;
                }
                Type::Struct(StructType::new(fields))
            }
            Type::List(list) => {
                let path = join(path, "element");
                let id = self.claim(path.clone());
                let element = self.typed(&path, depth + 1, &list.element_field.field_type)?;
                Type::List(ListType::new(Arc::new(NestedField::list_element(id, element, list.element_field.required))))
            }
            Type::Map(map) => {
                let (key, value) = (join(path, "key"), join(path, "value"));
                let (key_id, value_id) = (self.claim(key), self.claim(value.clone()));
                let held = self.typed(&value, depth + 1, &map.value_field.field_type)?;
                let key = NestedField::map_key_element(key_id, map.key_field.field_type.as_ref().clone());
                let held = NestedField::map_value_element(value_id, held, map.value_field.required);
                Type::Map(MapType::new(Arc::new(key), Arc::new(held)))
            }
        })
    }

    fn kind(&mut self, path: &str, depth: usize, shape: &Shape) -> Option<Type> {
        if let Shape::Typed(kind) = shape {
            return self.typed(path, depth, kind);
        }
        if depth >= self.limits.depth_max && shape.primitive().is_none() {
            return Some(Type::Primitive(PrimitiveType::String));
        }
        Some(match shape {
            Shape::Struct(inner) => {
                let added = self.added.len();
                let fields = self.fields(path, depth + 1, inner);
                self.added.truncate(added);
                if fields.is_empty() {
                    return Some(Type::Primitive(PrimitiveType::String));
                }
                Type::Struct(StructType::new(fields))
            }
            Shape::List(element) => {
                let path = join(path, "element");
                let id = self.claim(path.clone());
                let element = self.kind(&path, depth + 1, element)?;
                Type::List(ListType::new(Arc::new(NestedField::list_element(id, element, false))))
            }
            other => Type::Primitive(other.primitive()?),
        })
    }
}

/// The schema of a new table with these columns, which a writer's schema says, with field ids from 1. Those with the name of a
/// column of `metadata`, in whatever case, are left out.
///
/// # Errors
/// `Internal` when they make no valid schema.
pub fn typed_schema(
    mut fields: Vec<NestedFieldRef>,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
) -> Result<Schema> {
    let invalid = || "the columns of the writer's schema make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    fields.retain(|field| !reserved.contains(&field.name.to_lowercase()));
    let fields = growth.typed_fields("", 0, &fields);
    Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)
}

/// The dotted path of a field within the one at `path`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// How many columns a shape makes at most.
fn size(shape: &Shape, depth_left: usize) -> usize {
    match shape {
        Shape::Struct(inner) if depth_left > 0 => {
            1 + inner.fields().map(|(_, s)| size(s, depth_left - 1)).sum::<usize>()
        }
        Shape::List(element) if depth_left > 0 => 1 + size(element, depth_left - 1),
        Shape::Typed(kind) => type_size(kind),
        _ => 1,
    }
}

/// How many columns a type makes.
fn type_size(kind: &Type) -> usize {
    match kind {
        Type::Primitive(_) => 1,
        Type::Struct(inner) => 1 + inner.fields().iter().map(|field| type_size(&field.field_type)).sum::<usize>(),
        Type::List(list) => 1 + type_size(&list.element_field.field_type),
        Type::Map(map) => 2 + type_size(&map.value_field.field_type),
    }
}
